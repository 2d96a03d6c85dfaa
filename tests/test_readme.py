"""README tells the truth: its links exist, its commands parse, its example runs."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tiny

from benchmark import controls, run, tune
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.context import Context
from benchmark.execute import run_one
from benchmark.options import options_from
from benchmark.store import Store
from benchmark.sweep import expand
from methods import find

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python -m benchmark\.run [^\n`]+", TEXT)))


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", TEXT)) - {"it"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if ("--list" in c or "digits" in c) and "tuned" not in c]
)
def test_commands_are_accepted(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)[3:]
    if "mine" in command:
        block = re.search(r'```python\n("""Filters.*?)```', TEXT, re.DOTALL)
        assert block is not None
        (tmp_path / "mine.py").write_text(block.group(1))
        words = [w.replace("mine,", f"{tmp_path / 'mine.py'},") for w in words]
    if "mynet" in command:
        (tmp_path / "mynet.py").write_text(own_network())
        words = [w.replace("./mynet.py", str(tmp_path / "mynet.py")) for w in words]
    if "from_file" in command:
        (tmp_path / "kept.json").write_text('{"widths": {"layer1.0.conv1": 8}}')
        words = [w.replace("=FILE", f"={tmp_path / 'kept.json'}") for w in words]
    if "--list" not in words:
        words += ["--results", str(tmp_path), "--dry-run"]
    assert invoke(run.main, words) == DONE


def test_tuned_rows_need_the_trials_of_the_command_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a directory of its own nothing was tuned yet, and the answer is that command."""
    (first,) = re.findall(r"python -m benchmark\.tune [^\n`]+", TEXT)
    (then,) = [c for c in COMMANDS if "--lane tuned" in c]
    here = ["--results", str(tmp_path)]
    assert invoke(tune.main, [*shlex.split(first)[3:], *here, "--dry-run"]) == DONE
    assert invoke(run.main, [*shlex.split(then)[3:], *here]) == BAD_INPUT
    assert "python -m benchmark.tune" in capsys.readouterr().err


NETWORKS = (ROOT / "docs/networks.md").read_text(encoding="utf-8")


def own_network() -> str:
    """The example of docs/networks.md."""
    block = re.search(r"```python\n(from torch import nn.*?)```", NETWORKS, re.DOTALL)
    assert block is not None
    return block.group(1)


def test_the_commands_about_networks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(own_network())
    commands = re.findall(r"^    (python -m benchmark\.[^\n]+)", NETWORKS, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        _, _, module, *words = shlex.split(command)
        assert invoke(importlib.import_module(module).main, words) == DONE, command


def test_the_example_method_runs_and_fits_in_25_lines(tmp_path: Path) -> None:
    block = re.search(r'```python\n("""Filters.*?)```', TEXT, re.DOTALL)
    assert block is not None
    assert len(block.group(1).splitlines()) <= 25
    path = tmp_path / "mine.py"
    path.write_text(block.group(1))
    words = {
        "methods": [str(path)], "arch": "resnet8", "dataset": "digits", "preset": "demo",
        "epochs": 1.0, "set": {"baseline.epochs": 1.0}, "controls": False,
    }  # fmt: skip
    (cell,) = expand(options_from(words), tiny.data())
    record = run_one(cell.spec, find(str(path)), Context(Store(tmp_path / "r"), tiny.data()))
    assert record.flops_reduction > 0.4


def test_the_demo_is_the_grid_the_readme_describes() -> None:
    demo = tomllib.loads((ROOT / "slurm/sweeps/demo.toml").read_text())
    assert demo["flops_reduction"] == [0.5, 0.8]
    assert len(demo["seeds"]) == 2
    cells = expand(options_from(demo), tiny.data())
    assert not any(c.blocked for c in cells)
    beside = {entry.name for entry in controls.suite()}
    assert {c.spec.method.label for c in cells} == beside | set(demo["methods"])
    assert "four methods and\nevery control" in TEXT
    assert len(demo["methods"]) == 4
    assert {c.spec.seeds.run for c in cells} == {0, 1}
    assert f"{len(cells)} runs" in TEXT


PAGE = (ROOT / "docs/when-something-goes-wrong.md").read_text(encoding="utf-8")
VERBS = ["status", "why", "logs", "retry", "reproduce", "merge", "clean", "doctor"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_in_the_readme_and_shown_on_its_page(verb: str) -> None:
    assert f"python -m benchmark.{verb}" in TEXT
    assert f"## {verb}\n\n    $ python -m benchmark.{verb} " in PAGE


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with the run ids of a grid of our own in place of those shown."""
    grid = shlex.split(
        "--methods l1norm,hrank --arch resnet8 --dataset digits --preset demo --epochs 0.5 "
        "--set baseline.epochs=1 --jobs 1 --no-controls"
    )
    monkeypatch.chdir(tmp_path)
    for place in ("results-x", "results-y"):
        assert invoke(run.main, [*grid, "--results", place]) == DONE
    ids = [r.run_id for r in Store(tmp_path / "results-x").records()]
    for command in re.findall(r"\$ (python -m benchmark\.[^\n]+)", PAGE):
        _, _, module, *words = shlex.split(command)
        shown = iter(ids)
        words = [next(shown) if re.fullmatch("[0-9a-f]{4}", w) else w for w in words]
        assert invoke(importlib.import_module(module).main, words) == DONE, command
    assert "reproduced: equal to the bit" in capsys.readouterr().out
