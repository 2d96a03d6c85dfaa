"""What a job does when its time runs out, without a cluster: the job is called here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit
from test_resume import outcome_of

from benchmark import clusterjob, slurm
from benchmark.claims import Claims
from benchmark.clusterjob import ClusterJob, JobFailed, Warned, end_of_job
from benchmark.data import Data
from benchmark.estimate import dense_tasks
from benchmark.options import Options, options_from
from benchmark.store import Store
from benchmark.submissions import job_folder
from benchmark.sweep import expand
from benchmark.tasks import Ended, Task, data_of, task_of
from benchmark.team import ALONE

ROOT = Path(__file__).parents[1]


def options(root: Path, **changes: Any) -> Options:
    words = {
        "methods": ["random"], "arch": "resnet8", "dataset": "digits", "preset": "demo",
        "epochs": 3, "results": root, "set": {"baseline.epochs": 1}, "device": "cpu",
        "controls": False,
    }  # fmt: skip
    return options_from(words | changes)


def tasks(root: Path) -> tuple[Task, Task]:
    """A dense network and the cell that starts from it."""
    chosen = options(root)
    cells = expand(chosen, data(chosen))
    return dense_tasks(cells, chosen)[0], task_of("cell", cells[0], chosen)


def data(chosen: Options) -> Data:
    return data_of(chosen)


def job(*work: Task, **changes: Any) -> ClusterJob:
    plain = ClusterJob(work, (), 1, 60, 30, ROOT, "cpu", 0)
    return replace(plain, **changes)


@pytest.fixture(autouse=True)
def requeued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs that went back into the queue."""
    found: list[str] = []
    monkeypatch.setattr(slurm, "requeue", lambda job: found.append(job) or True)
    here = SimpleNamespace(job_id="12_3", global_rank=0, local_rank=0, hostnames=["n"])
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: here)
    return found


# ---- when to stop --------------------------------------------------------------------------------


def test_a_job_watches_its_own_clock_and_hears_signals() -> None:
    assert not Warned(time.time() + 100)()
    late = Warned(time.time() - 1)
    assert (late(), late.why, late.again) == (True, "time", True)
    for number, again in ((signal.SIGUSR2, True), (signal.SIGTERM, False)):
        warned = Warned(time.time() + 100)
        with warned.listening():
            os.kill(os.getpid(), number)
        assert (warned(), warned.why, warned.again) == (True, number.name, again)


def test_an_order_to_end_is_not_undone_by_a_later_warning() -> None:
    warned = Warned(time.time() + 100)
    with warned.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)
    assert not warned.again


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Warned(0.0).listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_end_of_the_job_is_what_slurm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1234")
    assert end_of_job(60) == 1234
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert end_of_job(60) == pytest.approx(time.time() + 60, abs=50)


# ---- whole jobs ----------------------------------------------------------------------------------


def stop_in(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job hears a warning once some images of this phase have passed."""
    original = Claims.news

    def news(self: Claims, claim: Any) -> Callable[[str, int, int], None]:
        tell = original(self, claim)

        def told(now: str, done: int, total: int) -> None:
            tell(now, done, total)
            if now == phase and 0.3 * total < done < 0.7 * total:
                os.kill(os.getpid(), signal.SIGUSR2)

        return told

    monkeypatch.setattr(Claims, "news", news)


def test_a_job_that_is_warned_in_training_goes_on_in_its_next_life(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requeued: list[str]
) -> None:
    """In this process (no workers), so that the moment can be chosen."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert job(*tasks(straight), slots=0)().startswith("2 of 2 done")
    work = tasks(broken)
    with monkeypatch.context() as patch:
        stop_in("recovery", patch)
        with pytest.raises(SystemExit):
            job(*work, slots=0)()
    assert requeued == ["12_3"]
    assert [a.status for a in Store(broken).attempts(work[1].spec)] == ["interrupted"]
    assert job(*work, slots=0)().startswith("2 of 2 done")
    paths = [Store(root).record_paths()[0] for root in (straight, broken)]
    assert outcome_of(paths[0], straight) == outcome_of(paths[1], broken)
    log = "".join(p.read_text() for p in (broken / "logs").iterdir())
    assert "recovery goes on after step" in log
    assert requeued == ["12_3"]


def test_a_job_that_is_told_to_end_is_not_requeued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requeued: list[str]
) -> None:
    monkeypatch.setattr(clusterjob, "end_of_job", lambda seconds: 0.0)  # no time at all
    monkeypatch.setattr(Warned, "again", False)
    with pytest.raises(SystemExit):
        job(*tasks(tmp_path))()
    assert requeued == []


def test_a_job_without_time_begins_nothing_and_goes_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requeued: list[str]
) -> None:
    monkeypatch.setattr(clusterjob, "end_of_job", lambda seconds: 0.0)
    with pytest.raises(SystemExit):
        job(*tasks(tmp_path))()
    assert requeued == ["12_3"]
    assert list((tmp_path / "stages").glob("dense-*")) == []


def test_a_job_that_never_gets_on_gives_up(tmp_path: Path, requeued: list[str]) -> None:
    """Twice its whole time without anything kept: more of the same would go on for ever."""
    dense, cell = tasks(tmp_path)
    one = job(dense, cells=(cell,), minutes=1)
    ended = [Ended("stopped", "", 0.0, "dense", kept=False)]
    old = Warned(0.0, since=time.time() - 100)
    with pytest.raises(SystemExit):
        one._later(ended, old)
    assert requeued == ["12_3"]
    with pytest.raises(JobFailed, match="give the site a longer time"):
        one._later(ended, old)
    assert requeued == ["12_3"]
    (attempt,) = Store(tmp_path).attempts(cell.spec)
    assert attempt.status == "failed"


@pytest.mark.parametrize(
    ("kept", "age"), [(True, 100), (False, 1)], ids=["it got on", "it was preempted early"]
)
def test_a_job_that_gets_on_or_had_no_chance_goes_round_again(
    kept: bool, age: float, tmp_path: Path, requeued: list[str]
) -> None:
    dense, _ = tasks(tmp_path)
    ended = [Ended("stopped", "", 0.0, "dense", kept=kept)]
    for _ in range(5):
        with pytest.raises(SystemExit):
            job(dense, minutes=1)._later(ended, Warned(0.0, since=time.time() - age))
    assert len(requeued) == 5
    assert not list(job_folder(Store(tmp_path)).glob("*.stalls"))


def test_a_dense_network_that_fails_ends_its_cells_and_the_job(tmp_path: Path) -> None:
    chosen = options(tmp_path, set={"baseline.epochs": 1, "baseline.lr": 1e9})
    cells = expand(chosen, data(chosen))
    dense, cell = dense_tasks(cells, chosen)[0], task_of("cell", cells[0], chosen)
    with pytest.raises(JobFailed, match="diverged"):
        job(dense, cells=(cell,), slots=0)()
    (attempt,) = Store(tmp_path).attempts(cell.spec)
    assert attempt.reason.startswith("its dense network failed: diverged")


# ---- the node is not what was asked for ----------------------------------------------------------


def test_a_node_without_cuda_fails_the_cells_of_a_gpu_job(tmp_path: Path) -> None:
    dense, cell = tasks(tmp_path)
    with pytest.raises(JobFailed, match=r"asked for 1 GPU on .* and finds no CUDA"):
        job(cell, device="cuda", gpus=1)()
    with pytest.raises(JobFailed):
        job(dense, cells=(cell,), device="cuda", gpus=1)()
    assert [a.status for a in Store(tmp_path).attempts(cell.spec)] == ["failed"] * 2
    assert Store(tmp_path).records() == []


def test_other_code_than_the_snapshot_is_refused(tmp_path: Path) -> None:
    _, cell = tasks(tmp_path)
    with pytest.raises(JobFailed, match="not the snapshot"):
        job(cell, code=tmp_path)()


def test_a_job_alone_has_no_team() -> None:
    with job()._team() as team:
        assert team is ALONE
