"""Comparisons that hold together: a family declared beforehand, and who may be the best.

Accuracies are in percentage points. Statistics and their assumptions: benchmark/paired.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import BadInput
from benchmark.paired import (
    CONDITIONAL,
    CROSSED,
    CROSSED_SEEDS,
    DRAWS,
    MARGIN,
    Interval,
    Spread,
    Table,
    check_correctness,
    crossed_means,
    distinct,
    joint_tail,
    random_stream,
    spread_of,
    standardised,
    verdict,
)

LEVEL = 0.95
EQUIVALENCE = 0.90  # two one-sided tests at 5 %


@dataclass(frozen=True)
class Comparison:
    """Entry minus reference, in percentage points; intervals hold for the whole family at once."""

    entry: str
    reference: str
    mean: float
    spread: Spread
    interval_95: Interval
    interval_90: Interval
    verdict: str
    scope: str


@dataclass(frozen=True)
class Standing:
    """An entry against the best of the others, in percentage points."""

    entry: str
    lead: float  # over the best of the others; negative: behind it
    interval: Interval  # of the true lead, for all entries at once
    near_best: bool  # not separable from the best


@dataclass(frozen=True)
class Board:
    """All entries of a board on the same draws."""

    names: tuple[str, ...]
    matrices: np.ndarray  # (E, S, N) booleans
    drawn: np.ndarray  # (draws, E) points
    means: np.ndarray  # (E,) points
    word: int  # seeds what is drawn later

    @property
    def crossed(self) -> bool:
        return self.matrices.shape[1] >= CROSSED_SEEDS

    def only(self, names: Sequence[str]) -> Board:
        """Some of the entries, on the same draws."""
        kept = [i for i, name in enumerate(self.names) if name in names]
        own = tuple(self.names[i] for i in kept)
        drawn, means = self.drawn[:, kept], self.means[kept]
        return Board(own, self.matrices[kept], drawn, means, self.word)

    def mean(self, one: int, other: int) -> float:
        return float(self.means[one] - self.means[other])

    def spread(self, one: int, other: int) -> Spread:
        values = self.matrices[one].astype(np.int16) - self.matrices[other].astype(np.int16)
        return spread_of(Table(values, np.ones(values.shape[1])), 1, self.crossed)

    def standardised(self, pairs: Sequence[tuple[int, int]], spreads: list[Spread]) -> np.ndarray:
        """(draws, pairs) on which joint limits rest.

        Ten thousand images tell how contrasts vary together, five seeds cannot: their draws stay
        in four dimensions however many contrasts there are, and each contrast's error is uncertain
        by itself. So the share of seeds is blended with independent draws, which is the widest
        case (Sidak 1967). 18 intervals of 9 equal entries, sd between seeds 0.1 / 0.4 / 1.2
        points, hold together in 99 / 99 / 97 % of simulated boards with 5 seeds and 98 / 98 / 97 %
        with 10 (400 boards each); with Satterthwaite's one t and no blending, 84 % at the worst.
        """
        ones, others = ([p[side] for p in pairs] for side in (0, 1))
        z = standardised(self.drawn[:, ones] - self.drawn[:, others])
        share = np.array([spread.share for spread in spreads])
        alone = np.random.RandomState(self.word).standard_normal(z.shape)
        return standardised(np.sqrt(1 - share) * z + np.sqrt(share) * alone)


def board(entries: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = 0) -> Board:
    """Resample seeds (from 5 on) and images once for all entries: correctness matrices (S, N) of
    the same seeds and images. The order of entries and of images does not matter.

    Raises:
        BadInput: shapes differ, or nothing is there.
    """
    names = tuple(sorted(entries))
    check_correctness([entries[name] for name in names])
    matrices = np.stack([entries[name] for name in names])
    count, seeds, images = matrices.shape
    table = distinct(matrices.reshape(count * seeds, images).astype(np.int8))
    stream = random_stream(table, seeds, draws, seed)
    drawn = 100 * crossed_means(table, seeds, draws, stream, seeds >= CROSSED_SEEDS)
    word = int(stream.randint(1 << 31))
    return Board(names, matrices, drawn, 100 * matrices.mean(axis=(1, 2)), word)


def declared(names: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    """The family declared beforehand: every entry that is no reference against each reference that
    is on the board, by name."""
    there = [r for r in references if r in names]
    return [(e, r) for e in sorted(names) if e not in references for r in there]


def compare(found: Board, pairs: Sequence[tuple[str, str]], share: float = 1.0) -> list[Comparison]:
    """Intervals that hold together for these (entry, reference) pairs, in their order.

    `share`: of a family whose pairs do not all have the same seeds, so that they lie on several
    boards. Each board may then fail with its share of the family's 5 % (10 %), and all hold
    together with 95 % (90 %) by Bonferroni's inequality.

    Raises:
        BadInput: a name that is not on the board, or a pair of one entry with itself.
    """
    if not pairs:
        return []
    places = [_places(found, pair) for pair in pairs]
    spreads = [found.spread(*place) for place in places]
    z = found.standardised(places, spreads)
    tails = tuple(joint_tail(z, 1 - share * (1 - level)) for level in (LEVEL, EQUIVALENCE))
    return [_comparison(found, place, s, tails) for place, s in zip(places, spreads, strict=True)]


def _comparison(
    found: Board, place: tuple[int, int], spread: Spread, tails: Sequence[float]
) -> Comparison:
    one, other = place
    mean = found.mean(one, other)
    wide, narrow = (spread.around(mean, tail) for tail in tails)
    return Comparison(
        entry=found.names[one],
        reference=found.names[other],
        mean=mean,
        spread=spread,
        interval_95=wide,
        interval_90=narrow,
        verdict=verdict(wide, narrow, MARGIN),
        scope=CROSSED if found.crossed else CONDITIONAL,
    )


def standings(found: Board) -> list[Standing]:
    """Multiple comparisons with the best (Hsu 1981; unequal variances as Edwards and Hsu 1983),
    best first.

    An entry is near the best unless another is ahead of it by more than chance, one-sided and for
    all its rivals together at 5 %. So the best entry is among those near the best with 95 %
    confidence, and the intervals of all leads over the best of the others hold together.
    """
    count = len(found.names)
    if count == 1:
        return []
    upper = _reaches(found)
    rival_high = [float(np.delete(upper[i], i).min()) for i in range(count)]
    near = [high >= 0 for high in rival_high]
    rows = []
    for i, name in enumerate(found.names):
        rivals = [j for j in range(count) if j != i and near[j]]
        low = min([0.0, *(-float(upper[j, i]) for j in rivals)])
        lead = found.means[i] - np.delete(found.means, i).max()
        interval = Interval(low, max(0.0, rival_high[i]))
        rows.append(Standing(name, float(lead), interval, near[i]))
    return sorted(rows, key=lambda row: (-row.lead, row.entry))


def _reaches(found: Board) -> np.ndarray:
    """(E, E) upper limits of entry i minus entry j, for all rivals j of an i supposed the best."""
    count = len(found.names)
    upper = np.zeros((count, count))
    spreads = {(i, j): found.spread(i, j) for i in range(count) for j in range(i)}
    for i in range(count):
        rivals = [j for j in range(count) if j != i]
        own = [spreads[max(i, j), min(i, j)] for j in rivals]
        tail = joint_tail(found.standardised([(j, i) for j in rivals], own), LEVEL, sides=1)
        for j, spread in zip(rivals, own, strict=True):
            upper[i, j] = spread.around(found.mean(i, j), tail).high
    return upper


def _places(found: Board, pair: tuple[str, str]) -> tuple[int, int]:
    missing = [name for name in pair if name not in found.names]
    if missing:
        raise BadInput(f"{missing[0]} is not on this board")
    if pair[0] == pair[1]:
        raise BadInput(f"{pair[0]} is compared with itself")
    return found.names.index(pair[0]), found.names.index(pair[1])
