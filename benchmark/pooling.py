"""Across boards: blocks, partial pooling, rank stability, profiles, areas, best-of-n.

A block is an independent (data, architecture) pair, its targets averaged (DECISIONS 31; the
difference within a block is `paired.difference_over`). Accuracies are in percent, differences in
percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import kendalltau
from scipy.stats import t as student

from benchmark.errors import BadInput
from benchmark.paired import Difference, Interval

TESTED_BLOCKS = 6  # below: an estimate and no test
RANKED_BLOCKS = 3  # complete ones, for an overall ranking
Block = tuple[str, str]  # data, architecture


@dataclass(frozen=True)
class Score:
    """Mean accuracy of a method in one cell, in percent; `left`: FLOPs remaining, a fraction."""

    method: str
    data: str
    arch: str
    target: float
    accuracy: float
    left: float = math.nan

    @property
    def block(self) -> Block:
        return self.data, self.arch

    @property
    def place(self) -> tuple[str, str, float]:
        return self.data, self.arch, self.target


# ---- partial pooling -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pooled:
    """Of one comparison over blocks, in percentage points."""

    blocks: dict[Block, Difference]
    mean: float | None  # from 2 blocks
    interval_95: Interval | None
    between: float | None  # sd of true differences between blocks
    shrunk: dict[Block, float]  # each block's estimate, drawn towards the mean
    note: str


def pool(blocks: Mapping[Block, Difference]) -> Pooled:
    """Differences of independent blocks with a random-effects mean, and no test.

    The sd between blocks is Paule and Mandel's (1982): the one root of an exact estimating
    equation, where REML iterates and DerSimonian and Laird are biased low when blocks differ much
    (Veroniki and others 2016). The interval is Knapp and Hartung's (2003) with k - 1 degrees of
    freedom, as modified for few blocks (Roever, Knapp and Friede 2015): never shorter than blocks'
    own standard errors allow, since two blocks may agree by chance. Blocks' standard errors are
    taken as known.
    """
    rows = dict(sorted(blocks.items()))
    if len(rows) < 2:
        return Pooled(rows, None, None, None, {}, f"{len(rows)} block: nothing to pool")
    means = np.array([d.mean for d in rows.values()])
    variances = np.array([d.spread.error**2 for d in rows.values()])
    between = paule_mandel(means, variances)
    weights = 1 / (variances + between)
    mean = float(weights @ means / weights.sum())
    scatter = float(weights @ (means - mean) ** 2) / (len(rows) - 1)
    half = float(student.isf(0.025, len(rows) - 1)) * math.sqrt(max(1.0, scatter) / weights.sum())
    own = between / (variances + between)
    shrunk = mean + own * (means - mean)
    return Pooled(
        blocks=rows,
        mean=mean,
        interval_95=Interval(mean - half, mean + half),
        between=math.sqrt(between),
        shrunk=dict(zip(rows, shrunk.tolist(), strict=True)),
        note=_pool_note(rows),
    )


def _pool_note(rows: Mapping[Block, Difference]) -> str:
    kinds = sorted({d.scope for d in rows.values()})
    test = "an estimate, no test (needs 6)" if len(rows) < TESTED_BLOCKS else "an estimate"
    return f"{len(rows)} blocks: {test}; within blocks {' / '.join(kinds)}"


def paule_mandel(means: np.ndarray, variances: np.ndarray) -> float:
    """Variance between blocks at which the weighted scatter equals its expectation, k - 1; 0 where
    it is below already. Variances (k,) are positive."""

    def excess(between: float) -> float:
        weights = 1 / (variances + between)
        mean = weights @ means / weights.sum()
        return float(weights @ (means - mean) ** 2) - (len(means) - 1)

    if excess(0.0) <= 0:
        return 0.0
    # weights are below 1 / between, so that at the sample variance the scatter is below k - 1
    highest = 2 * float(means.var(ddof=1))
    return float(brentq(excess, 0.0, highest, xtol=1e-12, rtol=1e-12))


# ---- overall ranking -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Methods, best first, with their mean accuracy over blocks; or why there is none."""

    rows: tuple[tuple[str, float], ...]
    withheld: str


def overall(scores: Iterable[Score], methods: Sequence[str], targets: Sequence[float]) -> Ranking:
    """Rank these methods over the blocks in which all of them have all of these targets; withheld
    until there are three."""
    table = _table(scores)
    blocks = sorted({(data, arch) for data, arch, _ in table})
    complete = [
        block for block in blocks
        if all(set(methods) <= table.get((*block, t), {}).keys() for t in targets)
    ]  # fmt: skip
    if not methods or not targets:
        return Ranking((), "withheld: no methods or no targets")
    if len(complete) < RANKED_BLOCKS:
        reason = (
            f"withheld: {len(complete)} of {len(blocks)} (data, architecture) pairs are complete, "
            f"{RANKED_BLOCKS} are needed"
        )
        return Ranking((), reason)
    means = {
        m: float(np.mean([[table[(*b, t)][m] for t in targets] for b in complete])) for m in methods
    }
    return Ranking(tuple(sorted(means.items(), key=lambda row: (-row[1], row[0]))), "")


# ---- stability of ranks --------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Of the order of methods at two places."""

    one: tuple[str, str, float]  # data, architecture, target
    other: tuple[str, str, float]
    tau: float | None  # Kendall's tau-b; None: fewer than 2 methods in common, or all tied
    methods: int


def across_targets(scores: Iterable[Score]) -> list[Agreement]:
    """Every two targets of one block, over the methods at both."""
    table = _table(scores)
    return [_agreement(table, a, b) for a, b in combinations(sorted(table), 2) if a[:2] == b[:2]]


def across_archs(scores: Iterable[Score]) -> list[Agreement]:
    """Every two architectures on one data set at one target, over the methods at both."""
    table = _table(scores)
    pairs = combinations(sorted(table), 2)
    return [_agreement(table, a, b) for a, b in pairs if (a[0], a[2]) == (b[0], b[2])]


def _agreement(
    table: Mapping[tuple[str, str, float], Mapping[str, float]],
    one: tuple[str, str, float],
    other: tuple[str, str, float],
) -> Agreement:
    both = sorted(table[one].keys() & table[other].keys())
    tau = math.nan
    if len(both) > 1:
        first, second = ([table[place][m] for m in both] for place in (one, other))
        tau = float(kendalltau(first, second, variant="b").statistic)
    return Agreement(one, other, None if math.isnan(tau) else tau, len(both))


def profiles(
    scores: Iterable[Score], methods: Sequence[str], ratios: Sequence[float]
) -> dict[str, list[float]]:
    """Performance profiles (Dolan and More 2002): share of cells in which a method's error is at
    most `ratio` times the smallest error there. A cell that a method lacks counts against it.

    Raises:
        BadInput: a ratio below 1.
    """
    if any(ratio < 1 for ratio in ratios):
        raise BadInput("error ratios begin at 1")
    table = _table(scores)
    cells = [{m: 100 - v for m, v in row.items() if m in methods} for row in table.values()]
    found = {m: np.array([_ratio(cell, m) for cell in cells]) for m in methods if cells}
    return {m: [float((own <= r).mean()) for r in ratios] for m, own in found.items()}


def _ratio(errors: Mapping[str, float], method: str) -> float:
    if method not in errors:
        return math.inf
    own, best = errors[method], min(errors.values())
    if own <= best:
        return 1.0
    return own / best if best > 0 else math.inf


# ---- accuracy over FLOPs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Area:
    """Mean accuracy over a range of log FLOPs remaining, in percent; or why it is refused."""

    value: float | None
    low: float  # fractions of the FLOPs: the range that all methods with an area share
    high: float
    refused: str


def areas(scores: Sequence[Score]) -> dict[str, Area]:
    """Area under accuracy against log FLOPs remaining for the methods of one block, divided by the
    width of the range: trapezoids between measured points, over the range that all methods cover.
    A method that lacks a target of the others is refused, and nothing is extrapolated.

    Raises:
        BadInput: scores of several blocks, or FLOPs that are no positive fraction.
    """
    if len({s.block for s in scores}) > 1:
        raise BadInput("areas are of one (data, architecture) pair")
    if any(not 0 < s.left <= 1 for s in scores):
        raise BadInput("FLOPs remaining are a fraction above 0 and up to 1")
    targets = sorted({s.target for s in scores})
    lacking = {m: _lacking(scores, m, targets) for m in sorted({s.method for s in scores})}
    curves = {m: _curve(scores, m) for m, reason in lacking.items() if not reason}
    low = max((x[0] for x, _ in curves.values()), default=math.nan)
    high = min((x[-1] for x, _ in curves.values()), default=math.nan)
    ends = (math.exp(low), math.exp(high))
    if not low < high:
        return {m: Area(None, *ends, r or "no common range of FLOPs") for m, r in lacking.items()}
    return {
        m: Area(None, *ends, r) if r else Area(_height(*curves[m], low, high), *ends, "")
        for m, r in lacking.items()
    }


def _lacking(scores: Sequence[Score], method: str, targets: Sequence[float]) -> str:
    own = {s.target for s in scores if s.method == method}
    missing = [f"{t:g}" for t in targets if t not in own]
    return f"lacks targets {', '.join(missing)}" if missing else ""


def _curve(scores: Sequence[Score], method: str) -> tuple[np.ndarray, np.ndarray]:
    points = sorted((math.log(s.left), s.accuracy) for s in scores if s.method == method)
    x, y = np.array(points).T
    return x, y


def _height(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    inside = x[(x > low) & (x < high)]
    grid = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(np.interp(grid, x, y), grid)) / (high - low)


def best_of(values: Sequence[float], n: int) -> float:
    """Expected maximum of n of these values drawn without replacement: the average over all
    subsets, and without bias for the best of n new runs; drawing with replacement is biased low
    (Tang and others 2020, "Showing Your Work Doesn't Always Work").

    Raises:
        BadInput: n is not between 1 and the number of values.
    """
    if not 1 <= n <= len(values):
        raise BadInput(f"the best of {n} cannot be told from {len(values)} values")
    ways = math.comb(len(values), n)
    ordered = enumerate(sorted(values))
    return math.fsum(v * (math.comb(below, n - 1) / ways) for below, v in ordered)


def _table(scores: Iterable[Score]) -> dict[tuple[str, str, float], dict[str, float]]:
    """Accuracies by place and method.

    Raises:
        BadInput: a cell is there twice.
    """
    found: dict[tuple[str, str, float], dict[str, float]] = {}
    for score in scores:
        row = found.setdefault(score.place, {})
        if score.method in row:
            raise BadInput(f"{score.method} is there twice at {score.place}")
        row[score.method] = score.accuracy
    return found
