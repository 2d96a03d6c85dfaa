"""What is on disk and what the cluster says make one picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from benchmark import state, submissions
from benchmark.grid import Planned
from benchmark.slurm import Job, NoAnswer
from benchmark.state import state_of
from benchmark.status import abandoned
from benchmark.store import Store
from benchmark.submissions import (
    NOTHING,
    Coverage,
    Submission,
    coverage,
    read_submissions,
    write_submission,
)

SPEC = synthetic.spec("l1norm", 0)
KEY = SPEC.run_id
WORK = Planned("cell", KEY, "l1norm seed 0", SPEC, "", "", None)


def submission(job: str, *bundles: tuple[str, ...], at: float = 1.0) -> Submission:
    return Submission(job, "local", "grid", bundles, 10, at=at)


def test_what_was_written_is_read_again_and_strange_files_are_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = submission("12", ("a", "b"), ("c",)), submission("13", ("d",), at=2.0)
    for one in (second, first):
        write_submission(store, one)
    (tmp_path / submissions.FOLDER / "odd.json").write_text("{}")
    assert read_submissions(store) == [first, second]


def test_members_have_the_ids_of_the_cluster() -> None:
    assert submission("12", ("a", "b"), ("c",)).members == {"12_0": ("a", "b"), "12_1": ("c",)}
    assert submission("13", ("d",)).members == {"13": ("d",)}  # submitit sends it without an array


def test_the_newest_job_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = [submission("12", ("a",), ("b",)), submission("15", ("b",), at=2.0)]
    live = {"15": Job("15", "RUNNING")}
    monkeypatch.setattr(submissions, "queue", lambda: live)
    found = coverage(Store(tmp_path), sent)
    assert found.alive("b") == live["15"]
    assert found.alive("a") is None
    assert (found.gone("a"), found.gone("b"), found.gone("c")) == ("12_0", "", "")


def test_a_cluster_is_not_asked_where_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> dict[str, Job]:
        raise AssertionError

    monkeypatch.setattr(submissions, "queue", refuse)
    assert coverage(Store(tmp_path)) == NOTHING


def test_a_silent_cluster_leaves_what_is_on_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def silent() -> dict[str, Job]:
        raise NoAnswer("squeue: no answer")

    monkeypatch.setattr(submissions, "queue", silent)
    found = coverage(Store(tmp_path), [submission("12", (KEY,))])
    assert found.silent == "squeue: no answer"
    assert found.gone(KEY) == ""  # nobody knows
    assert state_of(WORK, Store(tmp_path), found).state == "to do"


def cluster(live: Job | None = None, end: Job | None = None) -> Coverage:
    return Coverage({KEY: "12_3"}, {"12_3": live} if live else {}, how=lambda _: end)


@pytest.mark.parametrize(
    ("jobs", "expected", "said"),
    [
        (cluster(Job("12_3", "PENDING", "Resources")), "queued", "12_3 is pending (Resources)"),
        (cluster(Job("12_3", "RUNNING", "", "node2")), "queued", "12_3 on node2 comes to it"),
        (cluster(None, Job("12_3", "CANCELLED", exit="0:15")), "interrupted", "ended (CANCELLED"),
        (cluster(None, Job("12_3", "FAILED", "", "node1", "3:0")), "interrupted", "node1 (FAILED"),
        (cluster(), "interrupted", "job 12_3 is gone, and the cluster forgot how it ended"),
        (NOTHING, "to do", "nothing has begun it yet"),
    ],
)  # fmt: skip
def test_the_cluster_says_why_nothing_has_begun(
    tmp_path: Path, jobs: Coverage, expected: str, said: str
) -> None:
    found = state_of(WORK, Store(tmp_path), jobs)
    assert found.state == expected
    assert said in found.reason


def test_what_was_interrupted_and_is_back_in_the_queue_is_queued(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_attempt(SPEC, "interrupted", "stopped before the end of its job")
    found = state_of(WORK, store, cluster(Job("12_3", "PENDING", "BeginTime")))
    assert found.state == "queued"
    assert found.reason.endswith("it goes on from its checkpoint")
    lost = state_of(WORK, store, cluster(None, Job("12_3", "NODE_FAIL")))
    assert lost.state == "interrupted"
    assert "stopped before the end of its job; job 12_3 ended (NODE_FAIL)" in lost.reason


def test_a_failed_cell_stays_failed_while_its_job_does_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_attempt(SPEC, "failed", "it broke")
    assert state_of(WORK, store, cluster(Job("12_3", "RUNNING"))).state == "failed"


def test_watching_ends_when_nothing_will_change_by_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    live = cluster(Job("12_3", "PENDING"))
    dead = cluster(None, Job("12_3", "CANCELLED"))
    assert not abandoned([state_of(WORK, store, live)], store, live)
    assert abandoned([state_of(WORK, store, dead)], store, dead)
    assert not abandoned([state_of(WORK, store, dead)], store, replace(dead, silent="no answer"))


def test_states_ask_the_cluster_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(state, "coverage", lambda store: asked.append(store) or NOTHING)
    state.states(Store(tmp_path), [])
    assert len(asked) == 1


def test_the_last_words_of_a_lost_job_are_said(tmp_path: Path) -> None:
    (tmp_path / "12_3_0_log.out").write_text("…\npython3: No module named 'submitit'\n\n")
    lost = replace(cluster(None, Job("12_3", "FAILED", exit="1:0")), logs=tmp_path)
    found = state_of(WORK, Store(tmp_path), lost)
    assert "(FAILED, exit code 1:0): python3: No module named 'submitit' (in " in found.reason
    (tmp_path / "12_3_0_log.out").write_text("submitit INFO (…) - Loading pickle\n")
    assert state_of(WORK, Store(tmp_path), lost).reason.endswith("exit code 1:0)")


def test_a_job_that_is_held_says_how_to_let_it_go(tmp_path: Path) -> None:
    found = state_of(WORK, Store(tmp_path), cluster(Job("12_3", "PENDING", "JobHeldUser")))
    assert found.reason.endswith("; scontrol release 12_3")
