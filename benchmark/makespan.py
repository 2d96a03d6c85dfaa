"""How long tasks take together, if each goes to the worker that is free first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from benchmark.probe import Seconds


def clock_time(tasks: Sequence[Seconds], jobs: int) -> Seconds:
    """Until the last task ends, if each goes to the worker that is free first. The ends of the
    range are those of all tasks together: one slow step makes all of them slow."""
    ends = ("low", "middle", "high")
    return Seconds(*(makespan([getattr(task, end) for task in tasks], jobs) for end in ends))


def makespan(tasks: Iterable[float], jobs: int) -> float:
    """Seconds of list scheduling. Longer tasks never end sooner: sorted, the loads of the workers
    stay ordered at every step."""
    loads = [0.0] * max(1, jobs)
    for seconds in tasks:
        heapq.heapreplace(loads, loads[0] + seconds)
    return max(loads)
