"""Timings taken in turn, what they say of a ratio, and whether a speed-up can be expected at all.

Networks are timed one after the other within each round, so that what slows the machine down meets
all of them; a ratio is taken within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from scipy.stats import binom

WARM_UP = 2  # rounds that are thrown away
LEAST, MOST = 11, 101  # rounds; 11 is enough for a 95 % interval of a median
OVERHEAD = 0.5  # share of the time above which a network counts as bound by overhead
NOTHING = 0.9  # share above which no speed-up can be expected: a cut of one half gives x1.05

Key = TypeVar("Key")


def in_turn(
    clocks: Mapping[Key, Callable[[], float]], seconds: float, least: int = LEAST, most: int = MOST
) -> dict[Key, list[float]]:
    """Milliseconds of each clock, round by round; the order rotates. `seconds`: about how long all
    of it may take, within `least` and `most` rounds."""
    keys = list(clocks)
    taken = [sum(clocks[key]() for key in keys) for _ in range(WARM_UP)][-1]
    rounds = min(most, max(least, int(1e3 * seconds / max(taken, 1e-6))))
    found: dict[Key, list[float]] = {key: [] for key in keys}
    for turn in range(rounds):
        first = turn % len(keys)
        for key in keys[first:] + keys[:first]:
            found[key].append(clocks[key]())
    return found


def quartiles(times: list[float]) -> dict[str, float]:
    """Median and quartiles of milliseconds."""
    low, middle, high = statistics.quantiles(times, n=4)
    return {"ms": round(middle, 5), "q1_ms": round(low, 5), "q3_ms": round(high, 5)}


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of one time over another of the same round, with a 95 % interval."""

    median: float
    low: float
    high: float
    rounds: int


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """Of two lists of times of the same rounds. The interval of the median is that between two
    order statistics (Conover 1999, Practical Nonparametric Statistics, 3.2): it supposes no shape,
    but that rounds are independent."""
    each = sorted(a / b for a, b in zip(slow, fast, strict=True))
    n = len(each)
    left_out = int(binom.ppf(0.025, n, 0.5))  # P(fewer than this many below the median) < 2.5 %
    low, high = each[max(0, left_out - 1)], each[min(n - 1, n - left_out)]
    return Ratio(round(statistics.median(each), 4), round(low, 4), round(high, 4), n)


# ---- can a speed-up be expected? -----------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """How time grows with work, in milliseconds at one batch size: the dense network, and the same
    network with all widths at their floor; and the dense network at the largest batch."""

    batch: int
    dense_ms: float
    dense_macs: int  # per image
    floor_ms: float | None = None
    floor_macs: int | None = None
    largest_batch: int = 1
    largest_ms: float | None = None


@dataclass(frozen=True)
class Verdict:
    """`share`: of the dense network's time that no pruning takes away. `expected`: the speed-up
    that is left of an ideal ratio of MACs. `by`: what the share was measured with."""

    share: float
    expected: float
    by: str  # "floor", or "batch"

    @property
    def is_bound(self) -> bool:
        return self.share > OVERHEAD

    @property
    def is_hopeless(self) -> bool:
        return self.share > NOTHING

    def as_facts(self) -> dict[str, Any]:
        shown = {"share": round(self.share, 4), "expected": round(self.expected, 4)}
        return asdict(self) | shown | {"is_bound": self.is_bound, "is_hopeless": self.is_hopeless}


def verdict(growth: Growth, ideal: float) -> Verdict | None:
    """Whether a network is bound by overhead: calls, launches and memory traffic that cost the same
    whatever the widths. `ideal`: dense MACs over pruned MACs.

    Time is taken as a + c MACs. The network with all widths at their floor has few MACs and the
    same calls: with its time, a is known, and its share of the dense time is what pruning within
    this scope cannot take away. Where there is no such network (nothing can be removed), the share
    comes from the batch: work that counts costs as much per image in the largest batch, so that
    what an image costs more in this batch is overhead. Above one half the network is bound by it.
    What remains of the ideal ratio follows Amdahl's law (1967): a cut of one half gives at most
    x1.33 from there on, and x1.05 where the share is nine tenths, which is called no speed-up.
    None: neither was measured.
    """
    share = _share_by_floor(growth)
    by = "floor"
    if share is None:
        share, by = _share_by_batch(growth), "batch"
    if share is None:
        return None
    return Verdict(share, 1 / (share + (1 - share) / ideal), by)


def _share_by_floor(growth: Growth) -> float | None:
    if growth.floor_ms is None or not growth.floor_macs or growth.floor_macs >= growth.dense_macs:
        return None
    per_mac = (growth.dense_ms - growth.floor_ms) / (growth.dense_macs - growth.floor_macs)
    return _within(1 - per_mac * growth.dense_macs / growth.dense_ms)


def _share_by_batch(growth: Growth) -> float | None:
    if growth.largest_ms is None or growth.largest_batch <= growth.batch:
        return None
    per_image = growth.largest_ms / growth.largest_batch
    return _within(1 - per_image * growth.batch / growth.dense_ms)


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))
