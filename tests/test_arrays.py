"""Bundles become arrays of the right size, that wait for the right job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import submitit
import synthetic
from submitit.core.utils import FailedJobError

from benchmark.arrays import Sender, load_of
from benchmark.clusterjob import ClusterJob
from benchmark.errors import BadInput
from benchmark.options import options_from
from benchmark.probe import Seconds
from benchmark.site import Site
from benchmark.store import Store
from benchmark.submissions import read_submissions
from benchmark.tasks import Task

SPEC = synthetic.spec("l1norm", 0)
OPTIONS = options_from({"dataset": "digits"})


def cell(number: int, needs: str) -> Task:
    return Task("cell", SPEC, "l1norm", OPTIONS, "", f"c{number}", "", needs, ("s", needs))


def dense(key: str) -> Task:
    return Task("dense", SPEC, "l1norm", OPTIONS, "", f"dense-{key}", key)


def site(**changes: Any) -> Site:
    return Site(**{"device": "cpu", "time": "1:00:00", "fill_minutes": 0} | changes)


class Queue:
    """Takes what would go to sbatch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[list[ClusterJob], int, str]] = []
        monkeypatch.setattr(Sender, "_sbatch", lambda _, *words: self.take(*words))

    def take(self, jobs: list[ClusterJob], time: int, after: str) -> str:
        self.sent.append((jobs, time, after))
        return str(100 + len(self.sent))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(monkeypatch)


def sender(root: Path, where: Site, most: int = 1000, **options: Any) -> Sender:
    chosen = options_from({"dataset": "digits", **options})
    return Sender(Store(root), where, "local", most, root / "code", chosen, "grid")


def test_cells_wait_for_their_own_dense_network_alone(queue: Queue, tmp_path: Path) -> None:
    where = site(cells_per_job=2)
    cells = [cell(i, "ab"[i % 2]) for i in range(6)]
    load = load_of([dense("a"), dense("b")], cells, {}, where, OPTIONS)
    found = list(sender(tmp_path, where).send(load, {}))
    assert [(len(jobs), after) for jobs, _, after in queue.sent] == [
        (2, ""), (2, "101_0"), (2, "101_1")
    ]  # fmt: skip
    makers = [job for jobs, _, after in queue.sent for job in jobs if not after]
    assert [{t.needs for t in job.cells} for job in makers] == [{"a"}, {"b"}]
    assert read_submissions(Store(tmp_path)) == found
    assert found[1].members == {"102_0": ("c0", "c2"), "102_1": ("c4",)}


def test_a_dense_network_in_the_queue_is_waited_for_and_not_sent_again(
    queue: Queue, tmp_path: Path
) -> None:
    load = load_of([], [cell(0, "a"), cell(1, "b")], {}, site(), OPTIONS)
    list(sender(tmp_path, site()).send(load, {"a": "77_3"}))
    assert [after for _, _, after in queue.sent] == ["77_3", ""]  # b is trained already


def test_arrays_are_split_where_the_cluster_takes_only_so_many(
    queue: Queue, tmp_path: Path
) -> None:
    where = site(cells_per_job=1)
    load = load_of([dense("a")], [cell(i, "a") for i in range(7)], {}, where, OPTIONS)
    found = list(sender(tmp_path, where, most=3).send(load, {}))
    assert [len(jobs) for jobs, _, _ in queue.sent] == [1, 3, 3, 1]
    assert [after for _, _, after in queue.sent] == ["", "101", "101", "101"]
    keys = [key for s in found[1:] for b in s.bundles for key in b]
    assert sorted(keys) == [f"c{i}" for i in range(7)]


def test_no_more_jobs_than_the_user_may_have(queue: Queue, tmp_path: Path) -> None:
    where = site(max_submit=4)
    known = {f"c{i}": Seconds.exactly(1000) for i in range(20)}
    load = load_of([dense("a")], [cell(i, "a") for i in range(20)], known, where, OPTIONS)
    list(sender(tmp_path, where).send(load, {}))
    assert sum(len(jobs) for jobs, _, _ in queue.sent) <= 4


def test_the_wall_time_asked_for_is_that_of_the_estimate(queue: Queue, tmp_path: Path) -> None:
    known = {"c0": Seconds(60, 120, 240), "a": Seconds.exactly(600)}
    load = load_of([dense("a")], [cell(0, "a")], known, site(), OPTIONS)
    list(sender(tmp_path, site()).send(load, {}))
    assert [time for _, time, _ in queue.sent] == [14, 8]  # and 240 s of start and warning
    assert all(job.minutes == time for jobs, time, _ in queue.sent for job in jobs)


def test_what_sbatch_is_told(tmp_path: Path) -> None:
    where = site(
        device="cuda", partition="gpu", account="me", gpus=2, gpus_per_node=4, cpus=8,
        gpu_type="a100", memory_gb=64, setup=("module load cuda",), extra={"reservation": "r"},
        cells_per_gpu=3,
    )  # fmt: skip
    alone = sender(tmp_path, where)._parameters(30, "12_0")
    assert (alone["partition"], alone["account"], alone["time"]) == ("gpu", "me", 30)
    assert (alone["nodes"], alone["ntasks_per_node"], alone["cpus_per_task"]) == (1, 1, 8)
    assert alone["dependency"] == "afterok:12_0"
    assert alone["setup"][0] == "module load cuda"
    more = alone["additional_parameters"]
    assert (more["gpus-per-node"], more["reservation"]) == ("a100:2", "r")
    assert (more["kill-on-invalid-dep"], more["requeue"]) == ("yes", True)
    assert "qos" not in alone
    team = sender(tmp_path, where, gpus_per_cell=8)._parameters(30, "")
    assert (team["nodes"], team["ntasks_per_node"], team["cpus_per_task"]) == (2, 4, 2)
    assert team["additional_parameters"]["gpus-per-node"] == "a100:4"
    assert "dependency" not in team


def test_several_cells_share_the_gpus_of_a_job() -> None:
    where = site(device="cuda", gpus=2, cells_per_gpu=3, cpus=8)
    load = load_of([], [cell(i, "a") for i in range(12)], {}, where, OPTIONS)
    assert [len(b.tasks) for b in load.cells] == [6, 6]


def test_what_the_cluster_says_against_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def update_parameters(self, **_: Any) -> None: ...

        def submit_array(self, _: Any) -> None:
            raise FailedJobError("sbatch: error: Batch job\nsubmission failed: Job violates x")

    monkeypatch.setattr(submitit, "SlurmExecutor", Refusing)
    load = load_of([], [cell(0, "a")], {}, site(), OPTIONS)
    with pytest.raises(BadInput, match=r"^the cluster refuses: .* Job violates x; what was sent"):
        list(sender(tmp_path, site()).send(load, {}))
    assert read_submissions(Store(tmp_path)) == []


def test_what_does_not_fit_into_the_queue_is_left_for_later() -> None:
    where = site(cells_per_job=1)
    cells = [cell(i, "abc"[i % 3]) for i in range(6)]
    whole = load_of([dense("a"), dense("b")], cells, {}, where, OPTIONS)
    assert whole.jobs == 8
    few = whole.within(3, makers=())
    assert [b.tasks[0].makes for b in few.dense] == ["a", "b"]
    assert [t.key for b in few.cells for t in b.tasks] == ["c0"]
    one = whole.within(1, makers=())  # b is not sent, so neither are its cells
    assert ([b.tasks[0].makes for b in one.dense], one.cells) == (["a"], [])
    two = whole.within(3, makers=("b",))
    assert len(two.dense) == 2
    assert whole.within(None, ()) == whole.within(8, ()) == whole
    rest = whole.within(2, ())
    assert {t.needs for b in rest.cells for t in b.tasks} <= {"a", "b", "c"}
