"""How alike two choices of channels are, and two rankings of them.

Per group with C units of which the choices keep a and b: both of them keep so many, random choices
at these widths would share ab / C of them, and no two choices of these widths share more than
min(a, b). Groups add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

Keep = Mapping[str, Sequence[int]]  # group -> kept units; absent groups keep all


@dataclass(frozen=True)
class Overlap:
    """Units, added over groups in which one of the two removes something."""

    both: int = 0
    kept: int = 0  # a + b
    expected: float = 0.0  # of `both`, for random choices at these widths
    variance: float = 0.0  # of `both` then: hypergeometric
    most: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.both + other.both,
            self.kept + other.kept,
            self.expected + other.expected,
            self.variance + other.variance,
            self.most + other.most,
        )

    @property
    def share(self) -> float:
        """2 both / (a + b): what share of its units a choice has in common with the other."""
        return self._share(self.both)

    @property
    def by_chance(self) -> float:
        """The same for random choices at these widths, on average."""
        return self._share(self.expected)

    @property
    def chance_sd(self) -> float:
        """Its standard deviation."""
        return self._share(self.variance**0.5)

    @property
    def largest(self) -> float:
        """The same for the most that these widths allow; below 1 where they differ."""
        return self._share(self.most)

    @property
    def beyond(self) -> float:
        """0: as random choices; 1: as alike as the widths allow; NaN: they leave no choice."""
        room = self.most - self.expected
        return (self.both - self.expected) / room if room > 1e-9 else float("nan")

    def _share(self, units: float) -> float:
        return 2 * units / self.kept if self.kept else float("nan")


def overlaps(one: Keep, other: Keep, dense: Mapping[str, int]) -> dict[str, Overlap]:
    """Of two plans for one network, group by group. `dense`: units of every group; what neither
    prunes is left out."""
    found = {}
    for group, units in dense.items():
        first, second = (_mask(plan.get(group), units) for plan in (one, other))
        a, b = first.bit_count(), second.bit_count()
        if min(a, b) == units:
            continue
        spread = a * b * (units - a) * (units - b) / (units * units * max(1, units - 1))
        both = (first & second).bit_count()
        found[group] = Overlap(both, a + b, a * b / units, spread, min(a, b))
    return found


def total(parts: Iterable[Overlap]) -> Overlap:
    """Of the whole network."""
    return sum(parts, Overlap())


def _mask(kept: Sequence[int] | None, units: int) -> int:
    """A bit for each unit that stays."""
    return (1 << units) - 1 if kept is None else sum(1 << unit for unit in kept)


def rank_correlations(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """Spearman's rank correlation of two scores, layer by layer; a layer whose score is the same
    for all its channels in one of them has none."""
    found = {}
    for layer in one.keys() & other.keys():
        a, b = (np.asarray(scores[layer].double()) for scores in (one, other))
        if a.shape == b.shape and np.ptp(a) > 0 and np.ptp(b) > 0:
            found[layer] = float(spearmanr(a, b).statistic)
    return {layer: found[layer] for layer in one if layer in found}
