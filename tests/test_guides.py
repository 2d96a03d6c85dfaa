"""What the pages for those who add something say is true: every command in them runs."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import METHOD, distribution, forgetting

from benchmark import check, new, origin, report, run
from benchmark.cli import DONE, invoke
from benchmark.store import Store

ROOT = Path(__file__).parents[1]
ADD, SUBMIT = (
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in ("add-your-method.md", "submit-results.md")
)
SHORT = ["--epochs", "0.2", "--set", "baseline.epochs=0.3", "--no-controls", "--jobs", "0"]


def commands(text: str) -> list[list[str]]:
    """Those that stand alone on a line, as words after `python -m`."""
    return [shlex.split(c)[2:] for c in re.findall(r"^    (python -m [^\n]+)$", text, re.MULTILINE)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", ADD, re.DOTALL)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of the page, installed, and an empty place to work in."""
    points = tomllib.loads("".join(blocks("toml")))["project"]["entry-points"]
    named = {
        f"{group.removeprefix('prunebench.')}/{name}": value
        for group, offered in points.items()
        for name, value in offered.items()
    }
    files = {"lab/__init__.py": "", "lab/shine.py": METHOD}
    for text in blocks("python"):
        first, _, rest = text.partition("\n")
        files[first.removeprefix("# ")] = rest
    assert sorted(files) == ["lab/__init__.py", "lab/data.py", "lab/nets.py", "lab/shine.py"]
    monkeypatch.syspath_prepend(distribution(tmp_path / "site", "lab", files, named))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with forgetting():
        yield tmp_path / "work"


def do(module: str, words: list[str]) -> int:
    """The command, in this process but for pytest; runs are cut short."""
    if module == "pytest":
        call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(call, env=environment, check=False).returncode
    quick = SHORT if module == "benchmark.run" and "--list" not in words else []
    return invoke(importlib.import_module(module).main, [*words, *quick])


def is_quick(words: list[str]) -> bool:
    module, *more = words
    return module in ("benchmark.new", "benchmark.check") or bool({"--dry-run", "--list"} & {*more})


def test_the_page_has_the_commands_it_should() -> None:
    found = [words[0] for words in commands(ADD) + commands(SUBMIT)]
    assert {"benchmark.new", "benchmark.check", "benchmark.matrix", "benchmark.run"} <= {*found}
    assert {"pytest", "benchmark.submit", "benchmark.verify", "benchmark.report"} <= {*found}
    inline = re.findall(r"`python -m ([^\s`]+) ([^`]+)`", ADD + SUBMIT)
    assert inline == []  # a command with words stands on a line of its own, and is run below


def test_what_runs_nothing_long_on_the_page_runs(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "bench_for", lambda entry: None)  # judged elsewhere: here it starts
    monkeypatch.setattr(check.conformance, "CHECKS", ())
    quick = [words for words in commands(ADD) if is_quick(words)]
    assert len(quick) == 7
    for module, *words in quick:
        assert do(module, words) == DONE, (module, words)


@pytest.mark.slow
def test_every_command_of_both_pages_runs(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages: what the first makes, the second submits."""
    monkeypatch.setattr(report.page, "render", lambda *_: "")  # packing its library takes seconds
    for module, *words in commands(ADD):
        assert do(module, words) == DONE, (module, words)
    said = capfd.readouterr().out
    assert "18 passed" in said
    assert "17 kept, 0 n/a, 0 broken" in said
    own = next(r.run_id for r in Store(Path("results-mine")).records() if r.spec.method.source)
    for module, *words in commands(SUBMIT):
        assert do(module, [own if w == "RUN" else w for w in words]) == DONE, (module, words)
    board = Path("results-board/leaderboard.csv").read_text()
    assert ",verified,submitted by Jo Doe" in board.replace('"', "")
    assert ",self-reported,submitted by Jo Doe" in board.replace('"', "")
    (mark,) = origin.read_marks(Path("results-board"))  # after the report each code was made again
    assert {mark.state(own.code) for own in mark.runs.values()} == {"verified"}


def test_the_page_tells_every_promise_of_a_method() -> None:
    told = re.findall(r"^\| ([a-z ]+) \| ", ADD, re.MULTILINE)
    names = [name.replace("_", " ") for name in check.promises()]
    cards = [c.__name__.replace("_", " ") for c in check.cardlint.RULES]
    assert told[1:] == names[: -len(cards)]
    assert re.search(rf"Five more look at the card: {', '.join(cards)}\.", " ".join(ADD.split()))


def test_links_of_the_pages_lead_somewhere() -> None:
    for text in (ADD, SUBMIT):
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_name_in_the_page_is_free() -> None:
    new.check_name("shine")
    assert invoke(run.main, ["--list", "datasets"]) == DONE
