"""Several cells in one cluster job: enough to be worth its time in the queue, few enough to end
within its limit and to keep all jobs of the array busy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.makespan import clock_time
from benchmark.probe import Seconds
from benchmark.tasks import Task

STARTUP = 60.0  # seconds of a job before it trains: imports, images, tracing
FULL = 0.8  # share of a time limit that is planned for
EARLY = 60.0  # seconds by which SLURM may warn a job too early


@dataclass(frozen=True)
class Bundle:
    """What one job does. Without an estimate of each task there is none of the bundle."""

    tasks: tuple[Task, ...]
    seconds: Seconds | None


@dataclass(frozen=True)
class Packing:
    """How jobs may be filled."""

    slots: int  # tasks at once in a job
    parallel: int  # jobs at once
    limit: float  # seconds that a job may take
    fill: float  # seconds below which a job is not worth its time in the queue
    most: int = 0  # tasks in a job; 0: any number
    jobs: int = 0  # in all; 0: any number

    @property
    def room(self) -> float:
        """Seconds of a job that are filled at most."""
        return max(0.0, FULL * self.limit - STARTUP)


def bundle(tasks: Sequence[Task], seconds: Mapping[str, Seconds], packing: Packing) -> list[Bundle]:
    """All tasks in bundles. Tasks of one bundle start from the same dense network, so that it waits
    for one job alone; those that share scores are neighbours.

    Where there may be only so many jobs, they grow beyond the time limit, unless their number of
    tasks is limited too: a job that runs out of time goes on from its checkpoints.
    """
    estimates = {t.key: seconds[estimate_key(t)] for t in tasks if estimate_key(t) in seconds}
    goal = _goal(tasks, estimates, packing)
    found = _filled(tasks, estimates, goal, packing)
    while (
        packing.jobs
        and not packing.most
        and len(found) > max(packing.jobs, len({t.needs for t in tasks}))
    ):
        goal = 2 * goal if math.isfinite(goal) else goal
        most = 2 * max(len(b.tasks) for b in found)
        found = _filled(tasks, estimates, goal, packing, most)
    return found


def estimate_key(task: Task) -> str:
    """Under which an estimate of the task is filed."""
    return task.makes or task.key


def _goal(tasks: Sequence[Task], estimates: Mapping[str, Seconds], packing: Packing) -> float:
    """Seconds of work for each job."""
    if len(estimates) < len(tasks):
        return math.inf  # nothing is known: the number of tasks decides
    whole = clock_time(list(estimates.values()), packing.slots).middle
    share = 1.001 * whole / max(1, packing.parallel)
    return min(packing.room, max(packing.fill, share))


def _filled(
    tasks: Sequence[Task],
    estimates: Mapping[str, Seconds],
    goal: float,
    packing: Packing,
    least: int = 0,
) -> list[Bundle]:
    found: list[Bundle] = []
    most = max(packing.most, least) or (len(tasks) if math.isfinite(goal) else packing.slots)
    for task in _neighbours(tasks):
        last = found[-1] if found else None
        if last is not None and last.tasks[0].needs == task.needs and len(last.tasks) < most:
            grown = _bundle((*last.tasks, task), estimates, packing.slots)
            if grown.seconds is None or grown.seconds.middle <= goal:
                found[-1] = grown
                continue
        found.append(_bundle((task,), estimates, packing.slots))
    return found


def _bundle(tasks: tuple[Task, ...], estimates: Mapping[str, Seconds], slots: int) -> Bundle:
    known = [estimates[t.key] for t in tasks if t.key in estimates]
    return Bundle(tasks, clock_time(known, slots) if len(known) == len(tasks) else None)


def _neighbours(tasks: Sequence[Task]) -> list[Task]:
    """By dense network, then by scores, each in the order of first appearance."""
    dense = {key: i for i, key in enumerate(dict.fromkeys(t.needs for t in tasks))}
    scores = {key: i for i, key in enumerate(dict.fromkeys(t.shares for t in tasks))}
    return sorted(tasks, key=lambda t: (dense[t.needs], scores[t.shares]))


def minutes(bundles: Sequence[Bundle], most: int, warning: float) -> int:
    """Wall time to ask for: the longest bundle at the upper end of its estimate, the start, and the
    warning before the end; at most what the site allows, and all of that where nothing is known."""
    if any(b.seconds is None for b in bundles):
        return most
    longest = max(b.seconds.high for b in bundles if b.seconds is not None)
    return max(1, min(most, math.ceil((longest + STARTUP + EARLY + warning) / 60)))
