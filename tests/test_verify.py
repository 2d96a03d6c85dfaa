"""Submissions are looked at, one run of each is made again, and rows say where they come from."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from packages import METHOD
from submitting import edited, make, packed
from synthetic import spec

from benchmark import against, differences, origin, report, submit, verdict, verify
from benchmark.archive import read_archive
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.frames import typed
from benchmark.store import Store
from methods import find


def run(*words: object) -> int:
    return invoke(verify.main, [str(w) for w in words])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a method of ours and of somebody's own, two seeds of ours."""
    root = tmp_path_factory.mktemp("made")
    (root / "shine.py").write_text(METHOD)
    make(root / "results", methods=["l1norm"], seeds=[0, 1])
    return make(root / "results", methods=[str(root / "shine.py")])


@pytest.fixture(scope="module")
def archive(made: Path) -> Path:
    path = made.parent / "submission.tar.gz"
    words = [str(made), "--out", str(path), "--by", "Jo", "--source", str(made.parent / "shine.py")]
    assert invoke(submit.main, words) == DONE
    return path


def ids(made: Path) -> dict[str, str]:
    """Run ids by method and seed, as `l1norm 0`."""
    return {f"{r.spec.method.name} {r.spec.seeds.run}": r.run_id for r in Store(made).records()}


def marks(root: Path) -> list[origin.Mark]:
    return origin.read_marks(root)


# ---- accepted ------------------------------------------------------------------------------------


def test_a_run_of_ours_is_made_again_and_the_rows_are_marked(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "results"
    assert run(archive, "--into", into) == DONE
    said = capsys.readouterr().out
    name = read_archive(archive).sha256[:12]
    assert said.startswith(f"submission {name} by Jo: 3 runs, ")
    source = find(str(made.parent / "shine.py")).source_hash
    assert f"uses the method shine with source hash {source}" in said
    assert f"not to be made again: {ids(made)['shine 0']}: its code came with the archive" in said
    assert "one of 2 runs is drawn by the hash of the archive" in said
    assert "this machine is of the same kind: every bit is compared" in said
    assert "verified: 2 runs of the same code; self-reported: 1" in said
    marked = f"marked in {into}/submitted/{name}.json: self-reported, verified"
    assert f"{into}: 3 runs added, {marked}" in said
    (mark,) = marks(into)
    (check,) = mark.checks
    assert (check.passed, check.code, check.how) == (True, "", "every bit")
    assert check.run in (ids(made)["l1norm 0"], ids(made)["l1norm 1"])
    assert {r.run_id for r in Store(into).records()} == set(ids(made).values())
    assert run(archive, "--into", into, "--no-rerun") == DONE  # nothing new: nothing is forgotten
    assert marks(into) == [mark]


def test_tables_have_the_origin_where_something_was_submitted(
    made: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.page, "render", lambda *_: "")  # packing its library takes seconds
    monkeypatch.setattr(report.overall, "unrun", lambda _: typed([], against.COLUMNS))  # so does it
    into = tmp_path / "results"
    shutil.copytree(made / "runs", into / "runs")
    report.build(into, "none")
    plain = (into / "leaderboard.csv").read_bytes()
    assert b"origin" not in plain
    assert run(archive, "--into", into, "--no-rerun") == DONE
    assert marks(into) == []  # all of it was made here
    shutil.rmtree(into / "runs")
    one = ids(made)["l1norm 1"]
    kept = next(p.parent for p in Store(made).record_paths() if p.parent.name == one)
    shutil.copytree(kept, into / kept.relative_to(made))
    assert run(archive, "--into", into, "--no-rerun") == DONE
    report.build(into, "none")
    board = pd.read_csv(into / "leaderboard.csv", keep_default_na=False).set_index("method")
    assert board.loc["shine", "origin"] == "self-reported"
    assert board.loc["l1norm", "origin"] == "self-reported (seeds 0)"
    assert board.loc["shine", "origin_details"] == "submitted by Jo"
    runs = pd.read_csv(into / "leaderboard/runs.csv", keep_default_na=False).set_index("run_id")
    assert runs.loc[one, "origin"] == ""
    assert runs.loc[ids(made)["l1norm 0"], "origin"] == "self-reported"
    page = (into / "leaderboard/digits-resnet8.md").read_text()
    assert re.search(r"\| +Origin +\| Marks", page)
    assert "Origin: rows that others submitted." in page
    assert "origin" in (into / "leaderboard/DICTIONARY.md").read_text()
    assert "Origin" in (into / "leaderboard/digits-resnet8.tex").read_text()
    assert list(pd.read_parquet(into / "leaderboard/parquet/leaderboard.parquet"))[-2:] == [
        "origin", "origin_details",
    ]  # fmt: skip
    shutil.rmtree(into / origin.FOLDER)
    shutil.copytree(made / "runs", into / "runs", dirs_exist_ok=True)
    report.build(into, "none")
    assert (into / "leaderboard.csv").read_bytes() == plain


def test_their_code_is_not_executed_unless_it_is_said(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[str] = []
    true = verify.reproduce.entry_of
    monkeypatch.setattr(
        verify.reproduce, "entry_of", lambda m, f: (seen.append(m.name), true(m, f))[1]
    )
    shine = ids(made)["shine 0"]
    archive = edited(
        archive, tmp_path / "elsewhere.tar.gz", shine,
        lambda r: r["environment"].update(cpu="Some other processor"),
    )  # fmt: skip
    assert run(archive, "--cell", shine) == BAD_INPUT
    assert "is executed with --run-their-code only" in capsys.readouterr().err
    assert "shine" not in seen
    into = tmp_path / "results"
    assert run(archive, "--cell", shine, "--run-their-code", "--into", into) == DONE
    said = capsys.readouterr().out
    assert "warning: this executes code of others, with your rights: the method shine" in said
    assert "shine" in seen
    assert "accuracy on the same test images is compared" in said
    (mark,) = marks(into)
    assert mark.state(mark.runs[shine].code) == "verified"
    assert mark.checks[0].how.startswith("final accuracy on the same images")
    assert mark.state("") == "self-reported"  # a run of theirs says nothing of ours


def test_looking_executes_and_adds_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record names a source that shouts; nobody hears it."""
    files = dict(read_archive(made.parent / "submission.tar.gz").files)
    proof = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n" + METHOD
    name = submit.plugins.digest_of({"shine.py": code.encode()})
    old = next(n for n in files if n.startswith("sources/"))
    files[f"sources/{name}/shine.py"] = code.encode()
    del files[old]
    place = next(n for n in files if "/shine/" in n and n.endswith("record.json"))
    record = json.loads(files[place])
    record["spec"]["method"]["source"] = name
    spec = verify.RunSpec.model_validate(record["spec"])
    record["run_id"] = spec.run_id
    folder = place.rpartition("/")[0]
    for n in [n for n in files if n.startswith(folder)]:
        files[n.replace(folder, f"runs/{spec.folder}")] = files.pop(n)
    files[f"runs/{spec.folder}/record.json"] = json.dumps(record).encode()
    path = packed(tmp_path / "loud.tar.gz", files)
    assert run(path, "--no-rerun", "--into", tmp_path / "results") == DONE
    assert run(path, "--cell", spec.run_id) == BAD_INPUT
    report.derive(tmp_path / "results", "digits/resnet8", "none")
    assert not proof.exists()
    assert find_loud(tmp_path, code)
    assert proof.exists()  # it was loud indeed


def find_loud(folder: Path, code: str) -> bool:
    (folder / "shine.py").write_text(code)
    return bool(find(str(folder / "shine.py")))


def test_a_source_that_is_not_that_of_the_runs_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = dict(read_archive(archive).files)
    source = next(n for n in files if n.startswith("sources/"))
    for changed in (files | {source: b"x = 1"}, {n: r for n, r in files.items() if n != source}):
        assert run(packed(tmp_path / "bad.tar.gz", changed), "--no-rerun") == BAD_INPUT
        assert "is not the method shine with source hash" in capsys.readouterr().err


# ---- refused -------------------------------------------------------------------------------------


def better(record: dict[str, Any]) -> None:
    record["final"]["test_top1"] = 0.9999


def test_an_accuracy_that_its_own_predictions_do_not_give_is_found_without_making_it(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(archive, tmp_path / "bad.tar.gz", ids(made)["shine 0"], better)
    into = tmp_path / "results"
    assert run(path, "--into", into) == FAILED
    said = capsys.readouterr().out
    assert f"run {ids(made)['shine 0']}: final.test_top1 is 0.9999 in its record, its own" in said
    assert "did not come out again; nothing was added" in said
    assert "dense:" not in said
    assert not into.exists()


def test_a_forged_run_that_fits_itself_is_found_when_it_is_made_again(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions, record and manifest agree; the run gives something else."""
    name, files = ids(made)["l1norm 0"], dict(read_archive(archive).files)
    place = next(n for n in files if n.endswith(f"{name}/predictions.npz"))
    labels = verify.reproduce.data.load_data("digits", cache_dir=tmp_path / "cache").test.labels
    arrays = differences.arrays_of(made / place.rpartition("/")[0])
    arrays["test_final_class"] = labels.numpy().astype(arrays["test_final_class"].dtype)
    raw = io.BytesIO()
    np.savez_compressed(raw, **arrays)
    record = json.loads(files[place.replace("predictions.npz", "record.json")])
    record["final"]["test_top1"] = 1.0
    files[place] = raw.getvalue()
    files[place.replace("predictions.npz", "record.json")] = json.dumps(record).encode()
    path, into = packed(tmp_path / "bad.tar.gz", files), tmp_path / "results"
    assert run(path, "--no-rerun", "--into", into) == DONE  # as nobody has looked yet
    assert run(path, "--cell", name, "--into", into) == FAILED
    said = capsys.readouterr().out
    assert "not reproduced:" in said
    assert f"the runs of this archive in {into} are marked: not reproduced" in said
    assert f"refused: run {name} did not come out again; nothing was added" in said
    (mark,) = marks(into)
    assert mark.state("") == "not reproduced"
    assert mark.state(mark.runs[ids(made)["shine 0"]].code) == "self-reported"


def moved(record: dict[str, Any]) -> None:
    record["spec"]["seeds"]["run"] = 5


def control(record: dict[str, Any]) -> None:
    record["control"] = True


def titled(record: dict[str, Any]) -> None:
    record["title"] = "HRank"


def odd_facts(record: dict[str, Any]) -> None:
    record["spent"]["rows"] = [{"kind": "charged"}]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("l1norm 0", moved, "was edited"),
        ("l1norm 0", control, "l1norm is no control"),
        ("shine 0", titled, "has the title of one of ours: HRank"),
        ("shine 0", lambda r: r.update(title="HRANK, scratch-e "), "has the title of one of ours"),
        ("l1norm 0", odd_facts, "no table can be made of its records"),
        ("l1norm 0", lambda r: r.update(plan="0" * 16), "is not the plan of its record"),
        ("l1norm 0", lambda r: r.update(weights=3), "is not a run record"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(
    name: str, change: Any, reason: str, made: Path, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = edited(archive, tmp_path / "bad.tar.gz", ids(made)[name], change)
    assert run(path, "--no-rerun", "--into", tmp_path / "results") == BAD_INPUT
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def relocated(archive: Path, into: Path, name: str, change: Any) -> Path:
    """The run with other settings, at the place and under the id that these have."""
    files = dict(read_archive(archive).files)
    place = next(n for n in files if n.endswith(f"{name}/record.json"))
    record = json.loads(files[place])
    change(record["spec"])
    spec = verify.RunSpec.model_validate(record["spec"])
    record["run_id"] = spec.run_id
    files[place] = json.dumps(record).encode()
    folder = place.rpartition("/")[0]
    for n in [n for n in files if n.startswith(folder)]:
        files[n.replace(folder, f"runs/{spec.folder}")] = files.pop(n)
    return packed(into, files)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("shine 0", lambda s: s["method"].update(name="hrank"), "its method hrank has the name of"),
        (
            "l1norm 0",
            lambda s: s["arch"].update(name="vgg16", source="0" * 16),
            "network vgg16",
        ),
        ("l1norm 0", lambda s: s["arch"].update(name="mine"), "mine is none of ours, and names no"),
        ("l1norm 0", lambda s: s["method"].update(name="mine"), "mine is none of ours, and names"),
        ("l1norm 0", lambda s: s["method"].update(variant="b"), "unknown variant of l1norm"),
        ("l1norm 0", lambda s: s["data"].update(num_classes=1 << 23), "no data set here has"),
        ("shine 0", lambda s: s["method"].update(source="0" * 16), "belongs to no run"),
        (
            "shine 0",
            lambda s: s.update(track="total", scratch={"kind": "scratch", "recipe": s["recovery"]}),
            "shine (scratch) is a control",
        ),
    ],
)
def test_what_goes_by_a_wrong_name_is_refused_in_one_line(
    name: str, change: Any, reason: str, made: Path, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = relocated(archive, tmp_path / "bad.tar.gz", ids(made)[name], change)
    assert run(path, "--no-rerun") == BAD_INPUT
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_runs_of_another_code_are_not_made_again_and_not_verified(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older revision, and another structure of the network."""
    first, second = ids(made)["l1norm 0"], ids(made)["l1norm 1"]
    older = relocated(
        archive, tmp_path / "a.tar.gz", first, lambda s: s["method"].update(revision=7)
    )
    other = relocated(
        older, tmp_path / "b.tar.gz", second, lambda s: s["arch"].update(structure="0" * 12)
    )
    assert run(other, "--into", tmp_path / "results") == DONE
    said = capsys.readouterr().out
    assert "l1norm has revision 7 in the record, 1 here" in said
    assert "the run has 000000000000" in said
    assert "no run was made again: all of it is self-reported" in said
    (mark,) = marks(tmp_path / "results")
    assert {own.code for own in mark.runs.values()} >= {"l1norm revision 7", ""}


def test_runs_of_another_protocol_or_checkpoint_are_passed_over(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ids(made)["l1norm 0"], ids(made)["l1norm 1"]
    other = relocated(archive, tmp_path / "a.tar.gz", first, lambda s: s.update(protocol=9))
    theirs = {"start": {"kind": "checkpoint", "checkpoint": "0" * 16}, "baseline": None}
    path = relocated(other, tmp_path / "b.tar.gz", second, lambda s: s.update(theirs))
    assert run(path, "--into", tmp_path / "results") == DONE
    said = capsys.readouterr().out
    assert ": it is of protocol 9, this is 1" in said
    assert ": it starts from a checkpoint: give --checkpoint" in said
    assert "no run was made again: all of it is self-reported" in said
    (mark,) = marks(tmp_path / "results")
    assert {own.code for own in mark.runs.values()} >= {"", "protocol 9"}


def test_which_run_is_made_again_hangs_on_every_byte_of_the_archive(
    made: Path, archive: Path, tmp_path: Path
) -> None:
    """Of those that can be: nobody chooses it, and it is the same for everybody."""
    files, able = dict(read_archive(archive).files), {ids(made)[f"l1norm {s}"] for s in (0, 1)}
    drawn = []
    for number in range(12):
        found = read_archive(packed(tmp_path / "a.tar.gz", files, by=f"Jo {number}"))
        opened = verify.unpack(found, tmp_path / f"{number}")
        request = verify.Request("", False, {})
        one, again = (verify.choose(opened, request, lambda _: None) for _ in range(2))
        assert one is not None
        assert one is again
        drawn.append(one.record.run_id)
    assert set(drawn) == able


def test_a_check_speaks_for_runs_of_its_own_code_and_one_that_failed_for_all_of_them() -> None:
    def check(code: str, passed: bool) -> origin.Check:
        return origin.Check(run="r", code=code, passed=passed, date="d", hardware="h", how="x")

    def state(*checks: origin.Check) -> str:
        return origin.Mark(archive="0" * 64, runs={}, checks=checks).state("")

    assert state() == state(check("a", True), check("b", False)) == "self-reported"
    assert state(check("", True), check("a", False)) == "verified"
    assert state(check("", True), check("", False)) == "not reproduced"
    plain = spec(arch="resnet8")
    assert origin.code_of(plain) == ""
    own = plain.arch.model_copy(update={"name": "mine", "source": "0123456789abcdef"})
    assert origin.code_of(plain.model_copy(update={"arch": own})) == "0123456789abcdef"


def test_predictions_of_other_images_back_no_accuracy(made: Path) -> None:
    folder = next(p.parent for p in Store(made).record_paths())
    run_ = differences.read_run(folder)
    labels = np.zeros(len(run_.arrays["test_final_class"]) + 1, np.uint8)
    assert {d.other for d in verdict.contradictions(run_, labels)} == {"nothing"}


def test_a_record_that_differs_from_ours_is_a_conflict(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "results"
    shutil.copytree(made / "runs", into / "runs")
    path = edited(
        archive, tmp_path / "bad.tar.gz", ids(made)["l1norm 0"], lambda r: r.update(floor_share=0.5)
    )
    assert run(path, "--no-rerun", "--into", into) == FAILED
    assert "conflict: digits/resnet8/l1norm/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--cell", "ffff"], "--cell ffff: 0 runs of it match"),
        (["--cell", "0123", "--no-rerun"], "--cell names a run to make again"),
    ],
)
def test_what_is_asked_for_and_not_there_is_one_line(
    words: list[str], reason: str, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(archive, *words) == BAD_INPUT
    assert reason in capsys.readouterr().err
