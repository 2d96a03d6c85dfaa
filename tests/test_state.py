"""What a results directory tells about work that is done, going on, lost or still to do."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic

from benchmark import clean, doctor, logs, report, retry, run, status, why
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.files import dump_json, write_text
from benchmark.grid import Grid, Planned, read_grids
from benchmark.options import Options
from benchmark.probe import Seconds
from benchmark.runlog import RunLog
from benchmark.spec import RunSpec
from benchmark.state import Now, pace, remaining, states
from benchmark.store import Stage, Store

FORK = multiprocessing.get_context("fork")
METHODS = ["l1norm", "hrank", "random", "whitebox", "cpli", "slimming", "l1norm:never"]
DENSE = "d" * 16


def planned(spec: RunSpec, dense: str = "", blocked: str = "") -> Planned:
    name = f"{spec.method.label} seed {spec.seeds.run}"
    return Planned("cell", spec.run_id, name, spec, dense, blocked, Seconds(5, 10, 20))


def write(store: Store, work: list[Planned]) -> None:
    """A grid file, as a launcher leaves it."""
    rows: list[dict[str, Any]] = []
    for w in work:
        seconds = None if w.seconds is None else vars(w.seconds)
        rows.append(vars(w) | {"spec": w.spec.model_dump(mode="json"), "seconds": seconds})
    options = Options(results=store.root).model_dump(mode="json")
    content = {"options": options, "started": time.time(), "jobs": 2, "work": rows}
    write_text(store.root / "grids" / "abc.json", dump_json(content))


def _hold(root: Path, kind: str, key: str, ready: Any, phase: str) -> None:
    claims = Store(root).claims
    with claims.take(kind, key) as claim:
        claims.news(claim)(phase, 30, 100)
        ready.set()
        time.sleep(120)


def held(root: Path, kind: str, key: str, phase: str = "recovery") -> Any:
    """A living process that holds the claim."""
    ready = FORK.Event()
    process = FORK.Process(target=_hold, args=(root, kind, key, ready, phase), daemon=True)
    process.start()
    assert ready.wait(30)
    return process


@pytest.fixture
def grid(tmp_path: Path) -> Any:
    """One cell of each state: done, failed, running, interrupted, n/a, waiting, to do."""
    store = Store(tmp_path)
    specs = {m: synthetic.spec(m, 0) for m in METHODS}
    synthetic.write(store, synthetic.record(specs["l1norm"]))
    store.write_attempt(specs["hrank"], "failed", "diverged: the loss is not finite")
    running = held(tmp_path, "run", specs["random"].run_id)
    killed = held(tmp_path, "run", specs["whitebox"].run_id, "prepare-1")
    killed.kill()
    killed.join(30)
    store.write_attempt(specs["cpli"], "n/a", "cpli supports uniform only")
    training = held(tmp_path, "dense", DENSE, "dense")
    RunLog(tmp_path / store.log_name(specs["random"].run_id))("recovery 3 epochs: loss 0.5")
    work = [planned(s, DENSE if m == "slimming" else "") for m, s in specs.items()]
    dense = Planned("dense", f"dense-{DENSE}", "dense net20", specs["l1norm"], "", "", Seconds())
    write(store, [dense, *work])
    yield store, specs
    for process in (running, training):
        process.kill()
        process.join(30)


def test_every_state_is_told_from_disk(grid: Any) -> None:
    store, _ = grid
    found = {n.work.spec.method.label: n for n in states(store) if n.work.kind == "cell"}
    assert {label: n.state for label, n in found.items()} == {
        "l1norm": "done", "hrank": "failed", "random": "running", "whitebox": "interrupted",
        "cpli": "n/a", "slimming": "to do", "l1norm:never": "to do",
    }  # fmt: skip
    assert found["random"].share == "recovery 30 %"
    assert found["random"].line == "recovery 3 epochs: loss 0.5"
    assert "ended in prepare-1 without a word" in found["whitebox"].reason
    assert "waiting for its dense network, which process" in found["slimming"].reason
    assert found["l1norm:never"].reason == "nothing has begun it yet"
    (dense,) = [n for n in states(store) if n.work.kind == "dense"]
    assert dense.state == "running"


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("l1norm", r"l1norm seed 0 is done: 90.00 % .*; its record is reused, for nothing"),
        ("hrank", r"hrank seed 0 failed because diverged: the loss is not finite; `python -m ben"),
        ("random", r"random seed 0 is running: process \d+ on .* is at work on it, recovery 30 %"),
        ("whitebox", r"whitebox seed 0 was interrupted: .*`python -m benchmark.retry --results"),
        ("cpli", r"cpli seed 0 is n/a because cpli supports uniform only\."),
        ("slimming", r"slimming seed 0 is to do: waiting for its dense network, which process"),
    ],
)
def test_why_answers_in_a_sentence(
    method: str, sentence: str, grid: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, specs = grid
    words = [specs[method].run_id[:7], "--results", str(store.root)]
    assert invoke(why.main, words) == DONE
    said = capsys.readouterr().out.replace("\n", " ").strip()
    assert re.match(sentence, said), said
    assert said.endswith(".")


def test_a_run_that_waits_for_another_process_says_so(grid: Any) -> None:
    store, specs = grid
    log = RunLog(store.root / store.log_name(specs["random"].run_id))
    log("waiting for scores abc: process 7 on node1 is at work on it")
    (now,) = [n for n in states(store) if n.work.spec == specs["random"]]
    assert (now.state, now.reason[:30]) == ("waiting", "waiting for scores abc: proces")


def test_status_shows_the_map_the_counts_and_what_needs_a_line(
    grid: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = grid
    assert invoke(status.main, ["--results", str(store.root)]) == DONE
    out = capsys.readouterr().out
    assert "7 cells: 1 n/a (-), 1 done (D), 2 to do (.), 1 failed (F), 1 interrupted (I)" in out
    assert "0 of 1 dense network trained" in out
    assert "diverged: the loss is not finite" in out
    assert "recovery 3 epochs: loss 0.5" in out
    assert "finished cells took 12 s, estimated 10 s" in out


def test_watch_ends_when_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, spec = Store(tmp_path), synthetic.spec("l1norm", 0)
    synthetic.write(store, synthetic.record(spec))
    write(store, [planned(spec)])
    assert invoke(status.main, ["--watch", "--results", str(tmp_path)]) == DONE
    assert "1 cell: 1 done (D)" in capsys.readouterr().out


def test_what_is_left_follows_estimates_pace_and_workers() -> None:
    spec = synthetic.spec("l1norm", 0)
    done = [state(spec, "done", took=20.0)]
    todo = [state(synthetic.spec("l1norm", i), "to do") for i in (1, 2)]
    assert pace(done) == 2.0  # took 20 s where 10 s were expected
    assert remaining([*done, *todo], jobs=2) == Seconds(10, 20, 40)
    assert remaining([*done, *todo], jobs=1) == Seconds(20, 40, 80)
    running = state(synthetic.spec("l1norm", 1), "running", since=100.0)
    assert remaining([running], jobs=1, now=106.0) == Seconds(0, 4, 14)


def state(spec: RunSpec, name: Any, **facts: Any) -> Any:
    return Now(planned(spec), name, **facts)


def test_logs_prints_all_or_the_tail(grid: Any, capsys: pytest.CaptureFixture[str]) -> None:
    store, specs = grid
    log = RunLog(store.root / store.log_name(specs["hrank"].run_id))
    log("first")
    log("Traceback [red]\n  deep")
    words = [specs["hrank"].run_id, "--results", str(store.root)]
    assert invoke(logs.main, words) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line[20:] for line in lines] == ["first", "Traceback [red]", "  deep"]
    assert invoke(logs.main, [*words, "--tail", "1"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert invoke(logs.main, [specs["slimming"].run_id, *words[1:]]) == BAD_INPUT
    assert "has no log here" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [why, logs])
@pytest.mark.parametrize(
    ("run", "match"),
    [("../../etc", "neither"), ("*", "neither"), ("", "neither"), ("0000000", "nothing under")],
)
def test_run_ids_are_checked_before_they_become_paths(
    verb: Any, run: str, match: str, grid: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = grid
    assert invoke(verb.main, [run, "--results", str(store.root)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert match in said


@pytest.mark.parametrize("verb", [status, retry])
def test_without_a_grid_there_is_one_clear_line(
    verb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(verb.main, ["--results", str(tmp_path)]) == BAD_INPUT
    assert "no grid was launched" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"options": {}, "work": []}', "\x00"])
def test_a_grid_file_that_cannot_be_read_is_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "a.json").write_text(text)
    assert read_grids(Store(tmp_path)) == []


def test_grids_are_read_as_they_were_written(tmp_path: Path) -> None:
    store, work = Store(tmp_path), planned(synthetic.spec("hrank", 1), "k", "why not")
    write(store, [work])
    (found,) = read_grids(store)
    assert isinstance(found, Grid)
    assert found.work == (work,)


def test_clean_drops_what_nobody_needs_and_never_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, done = Store(tmp_path), synthetic.spec("l1norm", 0)
    going = synthetic.spec("l1norm", 1)
    record = synthetic.write(store, synthetic.record(done))
    for spec in (done, going):
        (store.stages / "checkpoints" / f"recovery-{spec.run_id}").mkdir(parents=True)
    store.publish_stage("final", done.run_id, Stage({}, {}))
    store.publish_stage("dense", "k", Stage({}, {}))
    old, new = record.parent / ".draft-old", record.parent / ".draft-new"
    for draft in (old, new):
        draft.mkdir()
    os.utime(old, (0, 0))
    before = {p: p.read_bytes() for p in record.rglob("*") if p.is_file()}
    assert invoke(clean.main, ["--results", str(tmp_path), "--dry-run"]) == DONE
    assert old.exists()
    assert "checkpoints of finished work: 1" in capsys.readouterr().out
    assert invoke(clean.main, ["--results", str(tmp_path)]) == DONE
    left = sorted(p.name for p in (store.stages / "checkpoints").iterdir())
    assert left == [f"recovery-{going.run_id}"]
    assert (old.exists(), new.exists()) == (False, True)
    assert store.has_stage("final", done.run_id)
    assert invoke(clean.main, ["--results", str(tmp_path), "--weights", "--stages"]) == DONE
    assert not store.has_stage("final", done.run_id)
    assert not store.has_stage("dense", "k")
    assert {p: p.read_bytes() for p in record.rglob("*") if p.is_file()} == before


def test_doctor_finds_broken_records_and_locks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    folder = synthetic.write(store, synthetic.record(synthetic.spec("l1norm", 0)))
    monkeypatch.setattr(doctor, "locks_hold", lambda _: True)
    assert invoke(doctor.main, ["--results", str(tmp_path)]) == DONE
    out = capsys.readouterr().out
    for said in ("versions", "torch", "can be written", "GB free", "keeps other processes out",
                 "digits comes with", "1 are whole"):  # fmt: skip
        assert said in out
    (folder / "record.json").write_text("{")
    monkeypatch.setattr(doctor, "locks_hold", lambda _: False)
    assert invoke(doctor.main, ["--results", str(tmp_path)]) == FAILED
    out = capsys.readouterr().out
    assert out.count("PROBLEM") == 2
    assert "is not a run record" in out
    assert "does not lock between processes" in out


def test_the_locks_of_this_file_system_hold(tmp_path: Path) -> None:
    assert doctor.locks_hold(tmp_path)


MINE = '''"""Mine."""
from dataclasses import dataclass
from pathlib import Path
from methods.api import Method

@dataclass(frozen=True)
class Mine(Method):
    """Fails while a file lies beside it."""

    def score(self, net, trainer):
        if Path(__file__).with_name("stop").exists():
            raise RuntimeError("no luck")
        return {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}
'''


def test_retry_goes_on_from_any_working_directory_with_the_settings_of_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for place in (home, away):
        place.mkdir()
    (home / "mine.py").write_text(MINE)
    (home / "stop").touch()
    monkeypatch.chdir(home)
    words = "--arch resnet8 --dataset digits --preset demo --epochs 0.5 --set baseline.epochs=1"
    words += " --no-controls"
    grid = ["--methods", "./mine.py,l1norm", *words.split(), "--jobs", "1", "--results", "r"]
    assert invoke(run.main, grid) == FAILED
    (home / "stop").unlink()
    monkeypatch.chdir(away)
    again = ["--failed", "--results", str(home / "r")]
    assert invoke(retry.main, again) == DONE
    out = capsys.readouterr().out
    assert "1 cell again" in out
    store = Store(home / "r")
    assert sorted(r.spec.method.name for r in store.records()) == ["l1norm", "mine"]
    assert len(read_grids(store)) == 1
    assert invoke(retry.main, again) == DONE
    assert "nothing to do" in capsys.readouterr().out
    (home / "mine.py").write_text(MINE.replace("no luck", "bad luck"))  # another method now
    (record,) = [p for p in store.record_paths() if "mine" in str(p)]
    shutil.rmtree(record.parent)
    assert invoke(retry.main, ["--results", str(home / "r")]) == DONE
    assert "is another run now: its file, the data or the code changed" in capsys.readouterr().out
    assert len([r for r in store.records() if r.spec.method.name == "mine"]) == 1


def test_a_try_that_was_killed_after_one_that_failed_is_interrupted(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), synthetic.spec("l1norm", 0)
    store.write_attempt(spec, "failed", "no luck")
    killed = held(tmp_path, "run", spec.run_id)
    killed.kill()
    killed.join(30)
    write(store, [planned(spec)])
    assert [n.state for n in states(store)] == ["interrupted"]
    store.write_attempt(spec, "failed", "no luck again")
    assert [(n.state, n.reason) for n in states(store)] == [("failed", "no luck again")]


def test_a_damaged_record_is_a_state_of_its_own_and_blocks_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    specs = [synthetic.spec("l1norm", seed) for seed in (0, 1)]
    folders = [synthetic.write(store, synthetic.record(spec)) for spec in specs]
    write(store, [planned(spec) for spec in specs])
    content = (folders[0] / "record.json").read_bytes()
    (folders[0] / "record.json").write_bytes(content[:300])
    assert [n.state for n in states(store)] == ["damaged", "done"]
    for verb, words in ((status, []), (report, []), (clean, []), (why, [specs[0].run_id])):
        assert invoke(verb.main, [*words, "--results", str(tmp_path)]) == DONE
        said = " ".join(capsys.readouterr().out.split())
        assert "is not a run record" in said or verb is clean
    synthetic.write(store, synthetic.record(specs[0]))  # made again
    assert (folders[0] / "record.json").read_bytes() == content
    (aside,) = folders[0].parent.glob(".damaged-*")
    assert (aside / "record.json").read_bytes() == content[:300]
    assert [n.state for n in states(store)] == ["done", "done"]


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [("grids/abc.json", "started", "NaN"), ("claims", "done", '"a"'), ("attempts", "reason", "7")],
)
def test_local_files_with_values_of_other_types_are_passed_over(
    place: str, key: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, spec = Store(tmp_path), synthetic.spec("l1norm", 0)
    write(store, [planned(spec)])
    store.write_attempt(spec, "failed", "x")
    process = held(tmp_path, "run", spec.run_id)
    process.kill()
    process.join(30)
    (path,) = [p for p in tmp_path.rglob("*.json") if place in str(p.relative_to(tmp_path))]
    path.write_text(re.sub(rf'"{key}": [^,\n]+', f'"{key}": {value}', path.read_text()))
    code = invoke(status.main, ["--results", str(tmp_path)])
    said = capsys.readouterr()
    assert (code, "cannot be read" in said.err) == ((2, True) if key == "started" else (0, False))
    assert invoke(why.main, [spec.run_id, "--results", str(tmp_path)]) in (DONE, BAD_INPUT)
