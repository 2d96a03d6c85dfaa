"""Cells are packed into jobs: nothing lost, nothing twice, limits kept."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from benchmark.bundles import FULL, STARTUP, Packing, bundle, minutes
from benchmark.options import options_from
from benchmark.probe import Seconds
from benchmark.tasks import Task

SPEC = synthetic.spec("l1norm", 0)
OPTIONS = options_from({"dataset": "digits"})
ROOMY = Packing(slots=1, parallel=8, limit=3600, fill=0)


def task(number: int, needs: str = "d", shares: str = "s") -> Task:
    return Task("cell", SPEC, "l1norm", OPTIONS, "", f"{number}", "", needs, ("scores", shares))


def exactly(seconds: float, count: int) -> dict[str, Seconds]:
    return {f"{i}": Seconds.exactly(seconds) for i in range(count)}


def test_two_hundred_equal_cells_go_25_to_a_job_when_eight_jobs_run_at_once() -> None:
    found = bundle([task(i) for i in range(200)], exactly(10, 200), ROOMY)
    assert [len(b.tasks) for b in found] == [25] * 8
    assert found[0].seconds == Seconds.exactly(250)


def test_a_job_that_is_too_short_for_the_queue_takes_more() -> None:
    found = bundle([task(i) for i in range(8)], exactly(10, 8), replace(ROOMY, fill=40))
    assert [len(b.tasks) for b in found] == [4, 4]


def test_a_job_is_not_filled_beyond_its_time_limit() -> None:
    packing = replace(ROOMY, parallel=1, limit=(100 + STARTUP) / FULL)
    found = bundle([task(i) for i in range(10)], exactly(30, 10), packing)
    assert [len(b.tasks) for b in found] == [3, 3, 3, 1]


def test_several_slots_work_side_by_side() -> None:
    found = bundle([task(i) for i in range(8)], exactly(10, 8), replace(ROOMY, slots=4, parallel=1))
    assert [(len(b.tasks), b.seconds) for b in found] == [(8, Seconds.exactly(20))]


def test_a_cell_longer_than_the_limit_has_a_job_of_its_own() -> None:
    found = bundle([task(0), task(1)], exactly(1e6, 2), ROOMY)
    assert [len(b.tasks) for b in found] == [1, 1]


def test_without_estimates_a_job_takes_as_many_cells_as_it_has_slots_or_as_it_is_told() -> None:
    tasks = [task(i) for i in range(6)]
    assert [len(b.tasks) for b in bundle(tasks, {}, replace(ROOMY, slots=2))] == [2, 2, 2]
    assert [len(b.tasks) for b in bundle(tasks, {}, replace(ROOMY, most=4))] == [4, 2]
    assert bundle(tasks, {}, ROOMY)[0].seconds is None


def test_a_limit_of_the_number_of_jobs_makes_them_longer() -> None:
    tight = replace(ROOMY, limit=200, jobs=3)
    found = bundle([task(i) for i in range(20)], exactly(60, 20), tight)
    assert len(found) <= 3
    assert sum(len(b.tasks) for b in found) == 20
    unknown = bundle([task(i) for i in range(20)], {}, tight)
    assert len(unknown) <= 3


def test_cells_of_one_job_start_from_one_dense_network_and_neighbours_share_scores() -> None:
    tasks = [task(i, f"dense{i % 2}", f"scores{i % 3}") for i in range(12)]
    found = bundle(tasks, exactly(1, 12), replace(ROOMY, parallel=1))
    assert [{t.needs for t in b.tasks} for b in found] == [{"dense0"}, {"dense1"}]
    for part in found:
        shares = [t.shares for t in part.tasks]
        assert sum(a != b for a, b in itertools.pairwise(shares)) == len(set(shares)) - 1


@given(
    seconds=st.lists(st.floats(0.1, 5000), min_size=1, max_size=60),
    networks=st.integers(1, 4),
    slots=st.integers(1, 4),
    parallel=st.integers(1, 20),
    most=st.integers(0, 10),
    jobs=st.integers(0, 10),
    fill=st.floats(0, 4000),
)
def test_every_task_is_in_exactly_one_job(
    seconds: list[float], networks: int, slots: int, parallel: int, most: int, jobs: int,
    fill: float,
) -> None:  # fmt: skip
    tasks = [task(i, f"d{i % networks}", f"s{i % 5}") for i in range(len(seconds))]
    known = {f"{i}": Seconds.exactly(s) for i, s in enumerate(seconds)}
    packing = Packing(slots, parallel, 3600, fill, most, jobs)
    found = bundle(tasks, known, packing)
    assert sorted(t.key for b in found for t in b.tasks) == sorted(t.key for t in tasks)
    assert all(len({t.needs for t in b.tasks}) == 1 for b in found)
    if jobs and not most:
        assert len(found) <= max(jobs, networks)
    else:
        whole = [b for b in found if len(b.tasks) > 1]
        assert all(b.seconds.middle <= max(packing.room, 0) + 1e-6 for b in whole)  # type: ignore[union-attr]
        assert not most or all(len(b.tasks) <= most for b in found)


def test_the_wall_time_is_the_longest_job_with_what_comes_before_and_after() -> None:
    found = bundle([task(0)], {"0": Seconds(100, 200, 600)}, ROOMY)
    assert minutes(found, 240, warning=120) == math.ceil((600 + 60 + 60 + 120) / 60)
    assert minutes(found, 5, warning=120) == 5  # what the site allows
    assert minutes(bundle([task(0)], {}, ROOMY), 240, 120) == 240  # nothing is known


@pytest.mark.parametrize("limit", [1.0, 60.0, 75.0])
def test_a_limit_that_leaves_no_room_still_gives_each_cell_a_job(limit: float) -> None:
    found = bundle([task(0), task(1)], exactly(10, 2), replace(ROOMY, limit=limit))
    assert [len(b.tasks) for b in found] == [1, 1]
