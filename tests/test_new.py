"""A new method is written, keeps every promise as written, and stands in nobody's way."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmark import cardlint, new
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.docstrings import remarks
from methods import FOLDER, build, find

ROOT = Path(__file__).parents[1]


def make(name: str, folder: Path) -> int:
    return invoke(new.main, ["method", name, "--folder", str(folder)])


def test_three_files_are_written_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "mine"
    assert make("soft_glow", folder) == DONE
    said = capsys.readouterr().out
    files = ["soft_glow.py", "soft_glow.toml", "test_soft_glow.py"]
    assert sorted(p.name for p in folder.iterdir()) == files
    assert all(f"written: {folder / file}" in said for file in files)
    assert f"python -m benchmark.check {folder / 'soft_glow.py'}" in said
    entry = find(str(folder / "soft_glow.py"))
    assert (entry.cls.__name__, entry.title) == ("SoftGlow", "Soft glow")
    assert build(entry, {"power": 1.0})
    assert {r.status for r in cardlint.check(entry)} == {"kept"}
    assert all("REPLACE" in line for line in remarks(entry))  # nothing else is left to be said
    assert len(remarks(entry)) == 2


def test_its_comments_are_true_of_the_card(tmp_path: Path) -> None:
    """What is commented out in the card can be taken in, and keeps the rules."""
    make("glow", tmp_path)
    card = tmp_path / "glow.toml"
    lines = card.read_text().splitlines()
    first = lines.index("# [variant.official]")
    told = {i for i, line in enumerate(lines) if line.startswith("# ") and line.endswith(":")}
    taken = [x[2:] if x.startswith("# ") and i not in told and i >= first else x
             for i, x in enumerate(lines)]  # fmt: skip
    card.write_text("\n".join(x.removeprefix("# ") if "tracks" in x else x for x in taken))
    assert tomllib.loads(card.read_text())["deviation"][0]["what"] == "Ties"
    entry = find(str(tmp_path / "glow.py"))
    assert (entry.recipes, entry.tracks) == (("resnet56",), ("common", "paper"))
    assert {r.status for r in cardlint.check(entry)} == {"kept"}


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]])
def test_what_is_written_is_clean(words: list[str], tmp_path: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.is_file():
        pytest.skip("ruff is not installed")
    make("glow", tmp_path)
    call = [ruff, *words, "--no-cache", "--config", ROOT / "pyproject.toml", tmp_path]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hrank", "is one of ours"),
        ("kit", "is one of ours"),
        ("all", "means something else here"),
        ("recovery", "means something else here"),
        ("test_glow", "means something else here"),
        ("Glow", "cannot be the name of a method"),
        ("1glow", "cannot be the name of a method"),
        ("../glow", "cannot be the name of a method"),
        ("my-glow", "cannot be the name of a method"),
        ("class", "cannot be the name of a method"),
        ("g" * 41, "cannot be the name of a method"),
        ("json", "is the name of a module that Python imports"),
        ("torch", "is the name of a module that Python imports"),
    ],
)
def test_a_bad_name_is_one_line_and_writes_nothing(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(name, tmp_path / "mine") == BAD_INPUT
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["glow.py", "glow.toml", "test_glow.py"])
def test_nothing_is_overwritten(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / there).write_text("mine")
    assert make("glow", tmp_path) == BAD_INPUT
    assert f"{there} is there already" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(there, "mine")]


def test_strange_places_and_kinds_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert make("glow", tmp_path / "file") == BAD_INPUT
    assert "is a file: give a folder" in capsys.readouterr().err
    assert make("glow", FOLDER) == BAD_INPUT
    assert "holds the suite's own methods" in capsys.readouterr().err
    assert not (FOLDER / "glow.py").exists()
    assert invoke(new.main, ["network", "glow", "--folder", str(tmp_path)]) == BAD_INPUT
    assert "'network' cannot be made here: give method" in capsys.readouterr().err


def test_a_folder_of_its_name_beside_it_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "glow").mkdir()
    assert invoke(new.main, ["method", "glow"]) == DONE
    assert (tmp_path / "glow.py").is_file()
