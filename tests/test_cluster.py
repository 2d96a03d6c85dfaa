"""A grid on a real SLURM: what it yields, and what it survives.

The cells are real ones on the bundled digits. What takes its time is the start of a job, so each
test has as few of them as show the matter.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_cluster import Cluster
from test_resume import outcome_of

from benchmark import retry, run, slurm, status
from benchmark.cli import DONE, FAILED, invoke
from benchmark.grid import read_grids
from benchmark.options import options_from
from benchmark.state import Now, states
from benchmark.store import Store
from benchmark.submissions import job_folder, read_submissions
from benchmark.tasks import data_of

cluster = slurm_cluster.cluster
pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[1]
PATIENCE = 240.0  # seconds until a test gives up, never a goal
GRID = "--methods l1norm,whitebox,random --seeds 0,1 --epochs 1 --set baseline.epochs=2"
LONG = "--methods l1norm --epochs 40 --set baseline.epochs=2"  # some ten seconds of training
TIMES = {"seconds", "speedup_1", "speedup_128"}
LOST = """from methods import l1norm

class Lost(l1norm.L1Norm):
    \"\"\"Takes its job along.\"\"\"

    def score(self, net, trainer):
        import multiprocessing, os, signal, time
        os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
        time.sleep(60)  # it ends with its launcher
"""


@pytest.fixture(autouse=True)
def _nothing_left(cluster: Cluster) -> Iterator[None]:
    yield
    slurm.cancel(list(slurm.queue()))
    wait(lambda: not slurm.queue())


def site(folder: Path, **changes: Any) -> Path:
    content = {
        "device": "cpu", "partition": "main", "gpus": 1, "gpus_per_node": 2, "cpus": 2,
        "memory_gb": 1.5, "time": "0:10:00", "signal_seconds": 30, "fill_minutes": 0.1,
        "array_parallelism": 4, "master_address": "127.0.0.1", "probe": False,
    } | changes  # fmt: skip
    path = folder / "site.toml"
    extra = content.pop("extra", {})
    lines = [f"{k} = {json.dumps(v)}" for k, v in content.items()]
    lines += ["[extra]", *(f"{k} = {json.dumps(v)}" for k, v in extra.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def words(text: str, root: Path, where: Path | None = None) -> list[str]:
    always = "--arch resnet8 --dataset digits --preset demo --no-controls"
    found = shlex.split(f"{always} {text} --results {root}")
    return found + (["--executor", "slurm", "--site", str(where)] if where else [])


def wait(ready: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    until = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < until, slurm.queue()
        time.sleep(0.3)
    return found


def cells(root: Path) -> list[Now]:
    return [row for row in states(Store(root)) if row.work.kind == "cell"]


def in_recovery(root: Path) -> Callable[[], bool]:
    """Whether a cell trains, well inside its epochs."""

    def ready() -> bool:
        found = [c for c in Store(root).claims.all() if c.kind == "run" and c.phase == "recovery"]
        return any(c.total / 10 < c.done < c.total / 2 for c in found)

    return ready


@contextlib.contextmanager
def stopped(root: Path) -> Iterator[Callable[[], bool]]:
    """The cell's process stands still within the block; yields whether a warning waits for it. With
    some warnings SLURM sets it going again: then it has ended."""
    (claim,) = [c for c in Store(root).claims.all() if c.kind == "run"]

    def warned() -> bool:
        try:
            lines = Path(f"/proc/{claim.pid}/status").read_text().splitlines()
        except OSError:
            return True
        pending = [int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd")]
        return bool(pending[0] >> (signal.SIGUSR2 - 1) & 1)

    os.kill(claim.pid, signal.SIGSTOP)
    try:
        yield warned
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(claim.pid, signal.SIGCONT)


def outcomes(root: Path) -> dict[str, Any]:
    return {path.parent.name: outcome_of(path, root) for path in Store(root).record_paths()}


def job_log(root: Path) -> str:
    return "".join(p.read_text() for p in sorted(job_folder(Store(root)).glob("*.out")))


def board(root: Path) -> list[list[str]]:
    """The leaderboard without what was measured by a clock."""
    with (root / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    keep = [i for i, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[i] for i in keep] for row in rows]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long cell and the small grid, made on this machine without a cluster."""
    root = tmp_path_factory.mktemp("here")
    for text in (GRID, LONG):
        assert invoke(run.main, words(text, root / text.split()[1])) == DONE
    return root


@pytest.fixture(scope="module")
def grid_here(here: Path) -> Path:
    return here / "l1norm,whitebox,random"


@pytest.fixture(scope="module")
def long_here(here: Path) -> Path:
    return here / "l1norm"


# ---- the same results ----------------------------------------------------------------------------


def test_a_grid_on_the_cluster_equals_the_same_grid_here(
    grid_here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dense networks as an array, cells in arrays after it; every record and every column."""
    root = tmp_path / "r"
    assert invoke(run.main, [*words(GRID, root, site(tmp_path)), "--wait"]) == DONE
    assert board(root) == board(grid_here)
    assert outcomes(root) == outcomes(grid_here)
    sent = read_submissions(Store(root))
    first = sent[0]
    assert len(first.bundles) == 2  # one job for each dense network
    assert {s.after for s in sent[1:]} == set(first.members)
    assert sorted(k for s in sent[1:] for b in s.bundles for k in b) == sorted(
        row.work.key for row in cells(root)
    )
    said = capsys.readouterr().out
    assert f"sent job {first.job}: 2 jobs for 2 pieces of work" in said
    assert "6 of 6 cells done" in said
    again = invoke(run.main, words(GRID, root, site(tmp_path)))
    assert again == DONE
    assert "nothing to send" in capsys.readouterr().out
    assert read_submissions(Store(root)) == sent


def test_a_second_command_sends_only_what_is_missing_and_code_is_frozen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While jobs wait, more is asked for and the user's own file is edited."""
    mine = tmp_path / "mine.py"
    mine.write_text('from methods import l1norm\n\nclass Mine(l1norm.L1Norm):\n    """Mine."""\n')
    text = f"--epochs 1 --set baseline.epochs=2 --methods {mine}"
    root, where = tmp_path / "r", site(tmp_path, extra={"begin": "now+20"})
    assert invoke(run.main, words(f"{text} --seeds 0", root, where)) == DONE
    planned = {row.work.key for row in cells(root)}
    assert {row.state for row in cells(root)} == {"queued"}
    assert all("pending" in row.reason for row in cells(root))
    capsys.readouterr()
    assert invoke(run.main, words(f"{text} --seeds 0,1", root, where)) == DONE
    said = capsys.readouterr().out
    assert "1 cell in the queue already" in said
    sent = read_submissions(Store(root))
    keys = [key for s in sent for b in s.bundles for key in b]
    assert len(keys) == len(set(keys)) == 4  # two dense networks, two cells
    mine.write_text(mine.read_text() + "# edited while the jobs wait\n")
    assert invoke(run.main, [*words(f"{text} --seeds 0,1", tmp_path / "new"), "--dry-run"]) == DONE
    wait(lambda: all(row.state == "done" for row in cells(root)))
    assert planned <= {r.run_id for r in Store(root).records()}
    (facts,) = {str(r.environment["git"]) for r in Store(root).records()}
    assert "snapshot" in facts


# ---- what jobs survive ---------------------------------------------------------------------------


def start_long(root: Path, where: Path, long_here: Path) -> str:
    """The long cell in mid-training, from the dense network that is there already; its job."""
    for stage in (long_here / "stages").glob("dense-*"):
        shutil.copytree(stage, root / "stages" / stage.name)
    assert invoke(run.main, words(LONG, root, where)) == DONE
    wait(in_recovery(root))
    return read_submissions(Store(root))[-1].job


def ends_the_same(root: Path, long_here: Path) -> None:
    wait(lambda: all(row.state == "done" for row in cells(root)))
    assert outcomes(root) == outcomes(long_here)


def steps_resumed(root: Path) -> list[int]:
    text = "".join(p.read_text() for p in (root / "logs").glob("*.log"))
    return [int(n) for n in re.findall(r"recovery goes on after step (\d+)", text)]


def test_a_preempted_job_goes_on_from_the_step_it_had_reached(
    cluster: Cluster, long_here: Path, tmp_path: Path
) -> None:
    """A job of a partition with higher priority takes all nodes."""
    root = tmp_path / "r"
    job = start_long(root, site(tmp_path, partition="low"), long_here)
    taker = sbatch("--partition=high", "--nodes=4", "--exclusive", "--wrap=sleep 5")
    wait(lambda: "goes back into the queue" in job_log(root))
    stopped = [a for g in read_grids(Store(root)) for w in g.work for a in _attempts(root, w)]
    assert [a.status for a in stopped] == ["interrupted"]
    assert "it goes on from its checkpoint" in stopped[0].reason
    ends_the_same(root, long_here)
    assert steps_resumed(root)
    assert steps_resumed(root)[0] % steps_per_epoch(root) != 0  # of that moment, not of an epoch
    assert [s.job for s in read_submissions(Store(root))][-1] == job  # the same job, requeued
    assert taker not in slurm.queue()


def _attempts(root: Path, work: Any) -> list[Any]:
    return Store(root).attempts(work.spec) if work.kind == "cell" else []


def steps_per_epoch(root: Path) -> int:
    (record,) = Store(root).records()
    options = options_from({"dataset": "digits", "results": root})
    return -(-len(data_of(options).train) // record.spec.recovery.batch_size)


def sbatch(*options: str) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", "--output=/dev/null", *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("signal_seconds", [30, 700], ids=["below 10 min", "above 10 min"])
def test_a_job_that_is_warned_requeues_itself_however_long_its_limit(
    signal_seconds: int, long_here: Path, tmp_path: Path
) -> None:
    """submitit would take every warning of a short job for a time-out."""
    root = tmp_path / "r"
    where = site(tmp_path, signal_seconds=signal_seconds, time="0:30:00")
    job = start_long(root, where, long_here)
    (sent,) = read_submissions(Store(root))
    assert (sent.minutes > 10) == (signal_seconds > 600)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait(lambda: "goes back into the queue" in job_log(root))
    ends_the_same(root, long_here)
    assert len(steps_resumed(root)) == 1
    assert [s.job for s in read_submissions(Store(root))] == [job]


def test_a_job_that_is_requeued_by_hand_goes_on(long_here: Path, tmp_path: Path) -> None:
    """`scontrol requeue` kills without our warning: the last checkpoint counts."""
    root = tmp_path / "r"
    job = start_long(root, site(tmp_path), long_here)
    assert slurm.requeue(job)
    ends_the_same(root, long_here)
    assert steps_resumed(root)


def test_a_job_whose_time_runs_out_goes_back_into_the_queue(
    long_here: Path, tmp_path: Path
) -> None:
    """SLURM warns it before the end of its limit, which is lowered here rather than waited for."""
    root = tmp_path / "r"
    job = start_long(root, site(tmp_path, signal_seconds=200), long_here)
    with stopped(root) as warned:  # SLURM looks at limits twice a minute; training takes seconds
        subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=3"], check=True)
        wait(warned)
    wait(lambda: "goes back into the queue" in job_log(root))
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=9"], check=False)
    ends_the_same(root, long_here)
    assert len(steps_resumed(root)) >= 1


def test_a_cancelled_job_is_found_and_sent_again_by_retry(
    long_here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "r"
    job = start_long(root, site(tmp_path), long_here)
    slurm.cancel([job])
    wait(lambda: cells(root)[0].state == "interrupted")
    wait(lambda: f"job {job} ended" in cells(root)[0].reason)
    assert "CANCELLED" in cells(root)[0].reason
    assert invoke(status.main, ["--watch", "--results", str(root)]) == DONE  # ends by itself
    assert "benchmark.retry goes on" in capsys.readouterr().out
    assert invoke(retry.main, ["--results", str(root)]) == DONE
    assert "1 cell again" in capsys.readouterr().out
    ends_the_same(root, long_here)
    assert steps_resumed(root)


def test_a_node_that_goes_down_loses_nothing_but_the_steps_since_the_checkpoint(
    long_here: Path, tmp_path: Path
) -> None:
    root = tmp_path / "r"
    job = start_long(root, site(tmp_path), long_here)
    node = slurm.queue()[job].node
    change = ["scontrol", "update", f"NodeName={node}", "Reason=test"]
    subprocess.run([*change, "State=DOWN"], check=True)
    try:
        wait(lambda: job not in slurm.queue() or slurm.queue()[job].state == "PENDING")
        if job not in slurm.queue():  # the cluster does not requeue by itself
            assert invoke(retry.main, ["--results", str(root)]) == DONE
        ends_the_same(root, long_here)
    finally:
        subprocess.run([*change, "State=RESUME"], check=False)  # it may have come back by itself


def test_a_job_killed_hard_leaves_no_wait_hanging(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by the out-of-memory killer: no signal, no last word."""
    path = tmp_path / "lost.py"
    path.write_text(LOST)
    text = f"--methods {path} --epochs 1 --set baseline.epochs=1"
    root = tmp_path / "r"
    assert invoke(run.main, [*words(text, root, site(tmp_path)), "--wait"]) == FAILED
    (row,) = cells(root)
    assert row.state == "interrupted"
    assert re.search(r"job \d+ ended on node\d \((FAILED|OUT_OF_MEMORY)", row.reason)
    assert slurm.queue() == {}


def test_cells_whose_dense_network_fails_end_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster cancels what waits for it; nothing is left pending."""
    text = "--methods l1norm,random --epochs 1 --set baseline.epochs=1 --set baseline.lr=1e9"
    root = tmp_path / "r"
    assert invoke(run.main, [*words(text, root, site(tmp_path)), "--wait"]) == FAILED
    assert [row.state for row in cells(root)] == ["failed", "failed"]
    assert all("its dense network failed: diverged" in row.reason for row in cells(root))
    wait(lambda: not slurm.queue())
    assert "0 of 2 cells done, 2 failed" in capsys.readouterr().out


def test_cells_of_a_dense_job_that_was_cancelled_say_so(tmp_path: Path) -> None:
    text = "--methods random --epochs 1 --set baseline.epochs=500"
    root = tmp_path / "r"
    assert invoke(run.main, words(text, root, site(tmp_path))) == DONE
    dense, after = read_submissions(Store(root))
    wait(lambda: slurm.queue()[dense.job].state == "RUNNING")
    slurm.cancel([dense.job])
    wait(lambda: not slurm.queue())
    (row,) = cells(root)
    assert row.state == "interrupted"
    assert f"job {after.job} ended" in row.reason
    assert invoke(retry.main, ["--results", str(root)]) == DONE  # with nothing to show yet
    assert slurm.queue()


def test_a_warning_while_a_job_starts_does_not_end_it(tmp_path: Path) -> None:
    text = "--methods random --epochs 1 --set baseline.epochs=1"
    root = tmp_path / "r"
    assert invoke(run.main, words(text, root, site(tmp_path))) == DONE
    dense = read_submissions(Store(root))[0].job
    wait(lambda: slurm.queue()[dense].state == "RUNNING")
    wait(lambda: f"{dense}.0" in _steps(dense))
    subprocess.run(["scancel", "--signal=USR2", dense], check=True)
    wait(lambda: all(row.state == "done" for row in cells(root)))


def _steps(job: str) -> str:
    """The steps of a job that have begun."""
    done = subprocess.run(["squeue", "-h", "-s", "-j", job], capture_output=True, text=True)
    return done.stdout


def test_a_job_that_asked_for_a_gpu_and_finds_no_cuda_fails_its_cells(tmp_path: Path) -> None:
    text = "--methods random --epochs 1 --set baseline.epochs=1"
    root = tmp_path / "r"
    where = site(tmp_path, device="cuda")
    assert invoke(run.main, [*words(text, root, where), "--wait"]) == FAILED
    (row,) = cells(root)
    assert row.state == "failed"
    assert re.search(r"asked for 1 GPU on \S+ and finds no CUDA", row.reason)
    assert Store(root).records() == []


# ---- many cells ----------------------------------------------------------------------------------


def test_two_hundred_tiny_cells_go_in_a_few_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 to a job, so many jobs at once and no more."""
    seeds = ",".join(map(str, range(200)))
    text = f"--methods random --seeds {seeds} --epochs 0.02 --checkpoint {tmp_path / 'w.pt'}"
    _weights(tmp_path / "w.pt")
    root = tmp_path / "r"
    where = site(tmp_path, cells_per_job=25, array_parallelism=2, fill_minutes=60)
    assert invoke(run.main, words(text, root, where)) == DONE
    _, array = read_submissions(Store(root))
    assert [len(b) for b in array.bundles] == [25] * 8
    most = 0

    def finished() -> bool:
        nonlocal most
        live = [j for j in slurm.queue().values() if j.state == "RUNNING"]
        most = max(most, len(live))
        return len(Store(root).record_paths()) == 200

    wait(finished, 900)
    assert most == 2
    assert {row.state for row in cells(root)} == {"done"}


def _weights(path: Path) -> None:
    import torch

    from benchmark import archs

    torch.manual_seed(0)
    torch.save(archs.build("resnet8", 10).state_dict(), path)


# ---- several processes for one cell --------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_cell_on_two_processes_equals_the_one_that_takes_the_parts_in_turn(
    nodes: int, tmp_path: Path
) -> None:
    text = "--methods whitebox --epochs 1 --set baseline.epochs=2 --gpus-per-cell 2"
    where = site(tmp_path, cpus=1 if nodes == 2 else 2, gpus_per_node=2 // nodes)
    assert invoke(run.main, words(text, tmp_path / "turn")) == DONE
    assert invoke(run.main, [*words(text, tmp_path / "team", where), "--wait"]) == DONE
    (turn,), (team,) = (Store(tmp_path / name).records() for name in ("turn", "team"))
    assert (turn.run_id, turn.plan, turn.widths) == (team.run_id, team.plan, team.widths)
    assert (turn.environment["processes"], team.environment["processes"]) == (1, 2)
    assert team.final.test_top1 == pytest.approx(turn.final.test_top1, abs=2 / 360)
    assert team.final.test_loss == pytest.approx(turn.final.test_loss, rel=1e-2)


def test_a_team_that_is_warned_ends_together_and_goes_on_together(tmp_path: Path) -> None:
    """The first process writes the checkpoint and requeues the job of all."""
    text = f"{LONG} --gpus-per-cell 2"
    root, where = tmp_path / "r", site(tmp_path)
    assert invoke(run.main, words(text, tmp_path / "turn")) == DONE
    assert invoke(run.main, words(text, root, where)) == DONE
    wait(in_recovery(root))
    job = read_submissions(Store(root))[-1].job
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait(lambda: "goes back into the queue" in job_log(root))
    wait(lambda: all(row.state == "done" for row in cells(root)))
    assert len(steps_resumed(root)) == 1
    (turn,), (team,) = (Store(place).records() for place in (tmp_path / "turn", root))
    assert team.plan == turn.plan
    assert team.final.test_top1 == pytest.approx(turn.final.test_top1, abs=2 / 360)


# ---- a cluster that keeps no books ---------------------------------------------------------------


@pytest.mark.parametrize("cluster", [False], indirect=True)
def test_without_accounting_all_of_it_works_and_no_wait_hangs(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not cluster.accounting
    root, where = tmp_path / "r", site(tmp_path)
    text = "--epochs 1 --set baseline.epochs=1 --methods random"
    assert invoke(run.main, [*words(text, root, where), "--wait"]) == DONE
    path = tmp_path / "lost.py"
    path.write_text(LOST)
    assert invoke(run.main, [*words(f"{text},{path}", root, where), "--wait"]) == FAILED
    lost = next(row for row in cells(root) if row.state != "done")
    assert re.search(r"job \d+ ended on node\d \(FAILED", lost.reason)
    slurm.forget()


# ---- the page ------------------------------------------------------------------------------------


def test_the_commands_of_the_page_do_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in its order, on a smaller network; the jobs end between sending and looking."""
    page = (ROOT / "docs" / "on-a-cluster.md").read_text(encoding="utf-8")
    commands = [line.split(" | ")[0] for line in re.findall(r"^    \$ python -m (.+)$", page, re.M)]
    assert [c.split()[0] for c in commands] == [
        "benchmark.doctor", "benchmark.run", "benchmark.run", "benchmark.status", "benchmark.retry"
    ]  # fmt: skip
    monkeypatch.chdir(ROOT)
    for command in commands:
        verb, *rest = shlex.split(command)
        main = importlib.import_module(verb).main
        found = [str(tmp_path / "r") if w == "r" else w for w in rest]
        found = ["resnet8" if w == "resnet20" else w for w in found]
        code = invoke(main, found)
        assert code == DONE, (command, capsys.readouterr())
        if "--executor" in found and "--dry-run" not in found:
            wait(lambda: all(row.state == "done" for row in cells(tmp_path / "r")))
    said = capsys.readouterr().out
    for line in ("would send 2 jobs for dense networks", "sent job", "6 done (D)", "nothing to do"):
        assert line in said, line
