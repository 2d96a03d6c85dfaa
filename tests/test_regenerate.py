"""The committed leaderboard is what the committed records give, byte for byte."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import block as blocks
from benchmark.card import CARD, card, read_shelf
from benchmark.derived import TABLES, Whole, read_whole
from benchmark.protocol import PROTOCOL_FILE
from benchmark.questions import FINDINGS, page
from benchmark.report import MANIFEST, build
from benchmark.store import Store
from benchmark.study import study
from benchmark.tables import csv_text
from methods.api import Plan
from tests.synthetic import from_scratch, record, spec, three, write

ROOT = Path(__file__).parents[1]
COMPARED = (".csv", ".md", ".tex")  # figures are the same bytes within one environment only
LOCAL = ("attempts", "stages", "logs", "grids", "submissions")  # ignored by git


def problem(results: Path, scratch: Path) -> str:
    """How the tables under `results` differ from those that its records give; empty: not at all.
    `scratch`: a folder to make them in."""
    if not (results / "runs").is_dir():
        return "leaderboard.csv is there and runs/ is not: its figures come from nowhere"
    if not (results / MANIFEST).is_file():
        return f"runs/ is there and {MANIFEST} is not: python -m benchmark.report, and commit it"
    shutil.copytree(results / "runs", scratch / "runs")
    build(scratch)
    return first_difference(results, scratch)


def first_difference(results: Path, again: Path) -> str:
    """Between the tables of two reports."""
    listed, expected = tables(results), tables(again)
    if listed != expected:
        odd = sorted(set(listed) ^ set(expected))[0]
        return f"{MANIFEST}: {odd} is only {'there' if odd in listed else 'in what records give'}"
    return next((d for name in listed if (d := difference(results, again, name))), "")


def tables(results: Path) -> list[str]:
    """Those that the manifest lists."""
    names = (results / MANIFEST).read_text(encoding="utf-8").splitlines()
    return [name for name in names if name.endswith(COMPARED)]


def difference(results: Path, scratch: Path, name: str) -> str:
    """The first line of one file that differs."""
    if not (results / name).is_file():
        return f"{name} is listed in {MANIFEST} and missing"
    there, again = ((place / name).read_bytes() for place in (results, scratch))
    if there == again:
        return ""
    lines = [content.split(b"\n") for content in (there, again)]
    length = max(map(len, lines))
    ours, theirs = ([*part, *[b"(no line)"] * (length - len(part))] for part in lines)
    place = next(i for i in range(length) if ours[i] != theirs[i])
    one, other = ours[place], theirs[place]
    same = next((i for i, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), 0)
    begin = max(0, same - 20)
    shown = [repr(line[begin : begin + 60].decode("utf-8", "replace")) for line in (one, other)]
    return f"{name}, line {place + 1}: {shown[0]} is there, records give {shown[1]}"


def committed(results: Path) -> list[str]:
    """Files under `results` that git knows; where there is no git, those that are not local."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "."], cwd=results, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return [name for name in listed.stdout.split("\0") if name]
    found = (p.relative_to(results) for p in results.rglob("*") if p.is_file())
    return [str(name) for name in found if name.parts[0] not in LOCAL]


def copied(results: Path, into: Path) -> Path | None:
    """What is committed of the records and tables, as it is now; None: nothing is."""
    names = committed(results)
    if not any(n == "leaderboard.csv" or n.startswith("runs/") for n in names):
        return None
    into.mkdir()
    for name in names:
        if (results / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / name, into / name)
    return into


def test_the_committed_leaderboard_comes_from_the_committed_records(tmp_path: Path) -> None:
    found = copied(ROOT / "results", tmp_path / "committed")
    assert found is not None, "the board that the repository ships is gone from results/"
    assert problem(found, tmp_path / "again") == ""


def test_the_committed_card_comes_from_the_committed_files(tmp_path: Path) -> None:
    """Without git: where the copy lies there is no history, as in a shallow clone."""
    found = copied(ROOT / "results", tmp_path / "committed")
    assert found is not None
    again = card(read_shelf(found)).encode()
    assert (found / CARD).read_bytes() == again, "python -m benchmark.card, and commit it"


def test_the_committed_findings_come_from_the_committed_files(tmp_path: Path) -> None:
    found = copied(ROOT / "results", tmp_path / "committed")
    assert found is not None
    there, declared = (found / FINDINGS).is_file(), (found / PROTOCOL_FILE).is_file()
    assert there == declared, "answers belong to boards that were declared"
    if declared:
        said = (found / FINDINGS).read_text(encoding="utf-8")
        assert said == page(found), "python -m benchmark.questions, and commit it"


# ---- the check can fail --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with predictions, and their report."""
    root = tmp_path_factory.mktemp("made") / "results"
    for each in [*three("l1norm", (0.90, 0.92, 0.91)), *three("hrank", (0.91, 0.93, 0.92))]:
        write(Store(root), each)
    write(Store(root), record(from_scratch(), 0.88, None))
    for seed in range(2):
        predicted(root, seed)
    build(root)
    return root


def predicted(root: Path, seed: int) -> None:
    """A run on another network, with predictions for 20 images."""
    run = record(spec("hrank", seed, arch="net8"), 0.9)
    labels, right = np.arange(20) % 10, np.arange(20) < 18
    arrays = {
        "test_final_class": np.where(right, labels, (labels + 1) % 10).astype(np.uint8),
        "test_final_margin": np.where(right, 1, -1).astype(np.float16),
    }
    plan = Plan({group: tuple(range(width)) for group, width in run.widths.items()})
    Store(root).write(run, plan, [], arrays)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_tables_of_these_records_pass_and_of_more_do_not(copy: Path, tmp_path: Path) -> None:
    Store(copy).write_attempt(spec("slimming"), "failed", "out of memory")  # local: not looked at
    assert problem(copy, tmp_path / "again") == ""
    assert {Path(name).suffix for name in tables(copy)} == set(COMPARED)
    write(Store(copy), record(spec("slimming"), 0.9))
    assert problem(copy, tmp_path / "more").startswith("leaderboard")


@pytest.mark.parametrize("suffix", COMPARED)
def test_one_byte_is_seen(made: Path, copy: Path, suffix: str) -> None:
    name = next(n for n in tables(copy) if n.endswith(suffix))
    content = bytearray((copy / name).read_bytes())
    place = content.rindex(b"9")
    content[place] = ord("8")
    (copy / name).write_bytes(bytes(content))
    line = content[:place].count(b"\n") + 1
    assert first_difference(copy, made).startswith(f"{name}, line {line}: ")


def test_a_line_too_many_is_seen(made: Path, copy: Path) -> None:
    with (copy / "leaderboard.csv").open("a") as file:
        file.write("more\n")
    said = first_difference(copy, made)
    assert said.startswith("leaderboard.csv, line ")
    assert "'more' is there" in said


def test_a_table_that_is_missing_or_unknown_is_seen(made: Path, copy: Path) -> None:
    (copy / "leaderboard/runs.csv").unlink()
    missing = f"leaderboard/runs.csv is listed in {MANIFEST} and missing"
    assert first_difference(copy, made) == missing
    manifest = copy / MANIFEST
    manifest.write_text(manifest.read_text() + "old.csv\n")
    assert first_difference(copy, made) == f"{MANIFEST}: old.csv is only there"
    assert first_difference(made, copy) == f"{MANIFEST}: old.csv is only in what records give"


def test_a_leaderboard_without_records_fails(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "runs")
    assert problem(copy, tmp_path / "again").startswith("leaderboard.csv is there and runs/ is not")


def test_records_without_a_leaderboard_fail(copy: Path, tmp_path: Path) -> None:
    (copy / MANIFEST).unlink()
    assert problem(copy, tmp_path / "again").startswith(f"runs/ is there and {MANIFEST} is not")


def test_only_what_is_committed_is_looked_at(copy: Path, tmp_path: Path) -> None:
    assert copied(tmp_path, tmp_path / "none") is None
    git = ["git", "-C", str(copy)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert copied(copy, tmp_path / "none") is None  # all of it is only here
    subprocess.run([*git, "add", "leaderboard.csv"], check=True)
    found = copied(copy, tmp_path / "index")
    assert found is not None
    assert "runs/ is not" in problem(found, tmp_path / "1")
    subprocess.run([*git, "add", "runs", "leaderboard"], check=True)
    found = copied(copy, tmp_path / "whole")
    assert found is not None
    assert {name: (found / name).read_bytes() for name in tables(found)} == {
        name: (copy / name).read_bytes() for name in tables(copy)
    }
    assert len(Store(found).record_paths()) == len(Store(copy).record_paths())


# ---- two builds ----------------------------------------------------------------------------------


def derived_bytes(root: Path) -> dict[str, bytes]:
    """Every file that the report wrote, figures and page among them."""
    names = (root / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {name: (root / name).read_bytes() for name in [*names, MANIFEST]}


def test_two_builds_write_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """Figures and page too; another process, where sets have another order."""
    again = tmp_path / "elsewhere" / "results"
    shutil.copytree(made / "runs", again / "runs", copy_function=shutil.copyfile)
    subprocess.run(
        [sys.executable, "-m", "benchmark.report", "--results", str(again)],
        cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True, capture_output=True,
    )  # fmt: skip
    ours, theirs = derived_bytes(made), derived_bytes(again)
    assert any(name.endswith(".svg") for name in ours)
    assert [n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)] == []


# ---- order ---------------------------------------------------------------------------------------


@contextmanager
def listed_in_another_order(seed: int) -> Iterator[None]:
    """Folders list their files in any order, which depends on the file system."""
    glob, order = Path.glob, random.Random(seed)

    def shuffled(self: Path, pattern: str) -> Iterator[Path]:
        found = sorted(glob(self, pattern))
        order.shuffle(found)
        return iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "glob", shuffled)
        yield


def texts(root: Path) -> dict[str, str]:
    """Every derived table of every block as CSV."""
    found = {}
    for name in blocks.names(root):
        whole = read_whole(root, name)
        assert whole is not None
        found |= {f"{name} {t.name}": csv_text(t.make(whole), t.columns) for t in TABLES}
    return found


@pytest.fixture(scope="module")
def usual(made: Path) -> dict[str, str]:
    return texts(made)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_tables_do_not_depend_on_the_order_of_files(
    made: Path, usual: dict[str, str], seed: int
) -> None:
    with listed_in_another_order(seed):
        assert texts(made) == usual


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_tables_do_not_depend_on_the_order_of_records(
    made: Path, usual: dict[str, str], seed: int
) -> None:
    order = random.Random(seed)
    for name in blocks.names(made):
        store = Store(made)
        records = store.records(name)
        order.shuffle(records)
        runs = blocks.frames.runs_of(store, records, [])
        data, _, arch = name.partition("/")
        by_id = {r.run_id: r for r in records}
        block = blocks.Block(data, arch, store, by_id, runs, blocks.frames.leaderboard(runs))
        compared = study(block)
        whole = Whole(replace(block, board=compared.board), compared)
        for table in TABLES:
            assert csv_text(table.make(whole), table.columns) == usual[f"{name} {table.name}"]
