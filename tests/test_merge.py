"""Results of several machines become one: all is copied, nothing overwritten, conflicts named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic as made

from benchmark import frames, merge
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.spec import RunSpec, digest
from benchmark.store import Store
from methods.api import Plan

HERE = {"cpu": "processor A", "device": "cpu", "packages": {"torch": "2.9"}}
THERE = HERE | {"cpu": "processor B"}


def write(root: Path, spec: RunSpec, margin: float = 1.0, **changes: Any) -> Path:
    """A run's folder, whole: its plan is the one its digest names."""
    fields = {"environment": HERE} | changes
    final = fields.pop("final", 0.9)
    record = made.record(spec, final, **fields)
    keep = {g: list(range(w)) for g, w in record.widths.items()}
    record = record.model_copy(update={"plan": digest(keep)})
    arrays = {"test_final_class": np.zeros(4, np.uint8),
              "test_final_margin": np.full(4, margin, np.float16)}  # fmt: skip
    row = {"phase": "recovery", "epoch": 1.0, "images": 4, "lr": 0.1, "loss": 0.5, "val_top1": 0.9}
    plan = Plan({g: tuple(k) for g, k in keep.items()})
    return Store(root).write(record, plan, [row], arrays)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "record.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def bytes_of(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two machines that share one run and have one each, and an empty place."""
    one, two = tmp_path / "one", tmp_path / "two"
    for root, own in ((one, 1), (two, 2)):
        for seed in (0, own):
            write(root, made.spec(seed=seed), seconds=float(own), command=root.name)
    return one, two, tmp_path / "all"


def run(*words: object) -> int:
    return invoke(merge.main, [str(w) for w in words])


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


# ---- what is copied ------------------------------------------------------------------------------


def test_overlapping_directories_are_united_and_merging_again_changes_nothing(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = roots
    before = bytes_of(one) | bytes_of(two)
    assert run(one, two, "--results", out) == DONE
    lines = said(capsys)
    assert lines[0] == f"{out}: 3 runs copied; 1 already there; 0 conflicts"
    assert "python -m benchmark.report" in lines[1]
    assert {r.spec.seeds.run for r in Store(out).records()} == {0, 1, 2}
    united = bytes_of(out)
    assert united == bytes_of(two) | bytes_of(one)  # the shared run is that of the first
    assert run(one, two, "--results", out) == DONE
    assert said(capsys) == [f"{out}: 0 runs copied; 4 already there; 0 conflicts"]
    assert bytes_of(out) == united
    assert bytes_of(one) | bytes_of(two) == before
    assert not list(out.rglob(".draft-*"))


def test_a_dry_run_says_the_same_and_writes_nothing(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = roots
    assert run(one, two, "--results", out, "--dry-run") == DONE
    assert said(capsys) == [f"{out}: 3 runs would be copied; 1 already there; 0 conflicts"]
    assert not out.exists()


def test_measurements_and_attempts_come_along_once(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = roots
    shared = made.spec(seed=0)
    Store(one).write_measurement(shared, "latency", "a", {"ms": 1})
    Store(two).write_measurement(shared, "latency", "a", {"ms": 1})
    Store(two).write_measurement(shared, "latency", "b", {"ms": 2})
    lost, found = made.spec(seed=7), made.spec(seed=1)
    for reason in ("first", "second"):
        Store(two).write_attempt(lost, "failed", reason)
        Store(two).write_attempt(found, "failed", "but the other machine has it")
    Store(one).write_attempt(lost, "failed", "of one")
    assert run(one, two, "--results", out) == DONE
    line = f"{out}: 3 runs, 1 measurement, 3 attempts copied; 1 already there; 0 conflicts"
    assert said(capsys)[0] == line
    assert [m["ms"] for m in Store(out).measurements(shared, "latency")] == [1, 2]
    (attempt,) = Store(out).last_attempts()
    assert (attempt.run_id, attempt.reason) == (lost.run_id, "of one")  # the last by the clock
    folder = out / "attempts" / lost.folder
    assert sorted(p.name for p in folder.iterdir()) == ["000.json", "001.json", "002.json"]
    assert not (out / "attempts" / found.folder).exists()
    before = bytes_of(out)
    assert run(one, two, "--results", out) == DONE
    assert said(capsys) == [f"{out}: 0 runs copied; 4 already there; 0 conflicts"]
    assert bytes_of(out) == before


def test_a_folder_is_named_by_its_spec_whatever_it_was_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = tmp_path / "one", tmp_path / "all"
    folder = write(one, made.spec())
    folder.rename(folder.with_name("renamed"))
    killed = folder.with_name(".draft-1")
    killed.mkdir()
    (killed / "record.json").write_text("{}")
    assert run(one, "--results", out) == DONE
    assert Store(out).read(made.spec()).run_id == made.spec().run_id
    assert "1 run copied" in said(capsys)[0]


# ---- what differs --------------------------------------------------------------------------------


def test_other_figures_are_a_conflict_and_ours_is_kept(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = roots
    spec = made.spec(seed=5)
    write(one, spec)
    write(two, spec, final=0.8, environment=THERE, title="other label")
    Store(two).write_measurement(spec, "latency", "a", {"ms": 1})
    assert run(one, "--results", out) == DONE
    before = bytes_of(out)
    capsys.readouterr()
    assert run(two, "--results", out) == FAILED
    line, counts, _ = said(capsys)
    assert line.startswith(f"conflict: {spec.folder} (other machine kind): ")
    assert "final.test_top1 0.9 here, 0.8 there" in line
    assert "title" not in line
    assert str(Store(out).run_folder(spec)) in line
    assert counts == f"{out}: 1 run copied; 1 already there; 1 conflict"
    after = bytes_of(out)
    assert {k: after[k] for k in before} == before
    assert not Store(out).measurements(spec, "latency")  # they are of other weights


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"environment": THERE}, DONE),
        ({"environment": HERE | {"packages": {"torch": "2.10"}}}, DONE),
        ({"environment": HERE}, FAILED),
        ({"environment": THERE, "final": 0.8}, FAILED),
        ({"environment": THERE, "best_val": None}, FAILED),
    ],
)
def test_last_bits_may_differ_between_machine_kinds_only(
    changes: dict[str, Any], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    folder = write(one, made.spec())
    before = bytes_of(one)
    write(two, made.spec(), margin=1.5, weights="other", **changes)
    assert run(two, "--results", one) == code
    line, counts = said(capsys)
    assert bytes_of(one) == before
    if code == DONE:
        assert "differs in bits (other machine kind): weights w here, other there; pred" in line
        assert counts.endswith("1 with other bits; 0 conflicts")
    else:
        assert line.startswith("conflict: ")
        assert str(folder) in line


def test_one_name_with_two_contents_is_a_conflict(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = roots
    Store(one).write_measurement(made.spec(seed=0), "latency", "a", {"ms": 1})
    Store(two).write_measurement(made.spec(seed=0), "latency", "a", {"ms": 2})
    assert run(one, two, "--results", out) == FAILED
    assert "a.json: other content than" in said(capsys)[0]
    assert Store(out).measurements(made.spec(seed=0), "latency") == [{"ms": 1}]


def spoil(name: str, content: bytes | None) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return do


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (spoil("record.json", b"{"), "is not a run record"),
        (spoil("record.json", b'{"schema_version": 99}'), "schema version 99"),
        (spoil("plan.json", None), "is not a pruning plan"),
        (spoil("plan.json", b'{"keep": {"a": [1]}}'), "is not the plan of its record"),
        (spoil("curve.csv", None), "is not a curve"),
        (spoil("predictions.npz", b"PK\x03\x04"), "predictions"),
        (lambda f: edit(f, lambda c: c["spec"].update(threads=2)), "was edited"),
        (lambda f: edit(f, lambda c: c["spec"]["data"].update(name="../../../up")), "data.name"),
        (lambda f: edit(f, lambda c: c["spec"]["arch"].update(name="a/b")), "arch.name"),
    ],
)
def test_a_record_that_cannot_be_read_is_listed_and_the_rest_is_merged(
    damage: Callable[[Path], None],
    match: str,
    roots: tuple[Path, Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, _, out = roots
    damage(Store(one).run_folder(made.spec(seed=1)))
    assert run(one, "--results", out) == FAILED
    line, counts, _ = said(capsys)
    assert line.startswith("not merged: ")
    assert match in line
    assert counts == f"{out}: 1 run copied; 0 already there; 0 conflicts; 1 not readable"
    assert [r.spec.seeds.run for r in Store(out).records()] == [0]
    assert {p.name for p in out.parent.iterdir()} == {"one", "two", "all"}


def test_what_is_damaged_or_in_the_way_here_is_not_repaired(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _, out = roots
    broken = write(out, made.spec(seed=0)) / "record.json"
    broken.write_text("{")
    blocker = Store(out).run_folder(made.spec(seed=1)) / "note.txt"
    blocker.parent.mkdir(parents=True)
    blocker.write_text("mine")
    before = bytes_of(out)
    assert run(one, "--results", out) == FAILED
    lines = said(capsys)
    assert sum("is not a run record" in x for x in lines) == 1
    assert sum("is in the way" in x for x in lines) == 1
    assert bytes_of(out) == before


def test_an_attempt_that_leads_out_or_is_none_is_listed(
    roots: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _, out = roots
    spec = made.spec(seed=7)
    for reason in ("first", "second"):
        Store(one).write_attempt(spec, "failed", reason)
    folder = one / "attempts" / spec.folder
    content = json.loads((folder / "000.json").read_text())
    content["spec"]["method"]["name"] = "../../../../up"
    (folder / "000.json").write_text(json.dumps(content))
    (folder / "002.json").write_text("[]")
    assert run(one, "--results", out) == FAILED
    lines = said(capsys)
    assert sum("is not an attempt" in x for x in lines) == 2
    assert [a.reason for a in Store(out).last_attempts()] == ["second"]
    assert {p.name for p in out.parent.iterdir()} == {"one", "two", "all"}


def test_a_run_written_by_another_process_meanwhile_is_not_overwritten(
    roots: tuple[Path, Path, Path],
) -> None:
    one, _, out = roots
    spec = made.spec(seed=0)
    merging = merge.plan([one], out)
    Store(one).write_measurement(spec, "latency", "a", {"ms": 1})
    ours = write(out, spec, final=0.5)
    before = bytes_of(ours)
    merge.apply(merging)
    assert bytes_of(ours) == before
    assert "written meanwhile" in merging.conflicts[0]
    assert merging.code == FAILED
    Store(out).write_measurement(spec, "latency", "b", {"ms": 2})
    late = Store(out).run_folder(spec) / "measurements" / "latency-b.json"
    merge.apply(merge.Merging(Store(out), files={late: b"other"}))
    assert json.loads(late.read_text()) == {"ms": 2}


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["one", "--results", "one"], "is the directory to merge into"),
        (["two/../one", "--results", "one"], "is the directory to merge into"),
        (["absent"], "no such directory"),
        (["one/runs"], "has no runs/"),
        ([], "Missing argument"),
        (["one", "--results", "file"], "not writable"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    match: str,
    roots: tuple[Path, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(roots[0].parent)
    Path("file").write_text("")
    before = bytes_of(Path())
    assert run(*words) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert bytes_of(Path()) == before


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    roots: tuple[Path, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(source: Path, target: Path) -> None:
        if Path(source).name == "plan.json":
            raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("benchmark.merge.shutil.copyfile", full)
    assert run(roots[0], "--results", roots[2]) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device" in line
    assert [p for p in roots[2].rglob("*") if p.is_file()] == []


# ---- timings of several machines -----------------------------------------------------------------


def test_seeds_of_several_machines_share_a_row_but_no_timings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    write(one, made.spec(seed=0))
    write(two, made.spec(seed=1), environment=THERE)
    assert run(one, two, "--results", out) == DONE
    (row,) = frames.leaderboard(frames.load(out)).to_dict("records")
    assert (row["n"], row["hardware"]) == (2, "processor A / processor B")
    assert np.isnan([row["seconds"], row["speedup_1"], row["speedup_128"]]).all()
    (alone,) = frames.leaderboard(frames.load(one)).to_dict("records")
    assert (alone["seconds"], alone["hardware"]) == (12.5, "processor A")
