"""Published against reproduced: one verdict per published figure, by rule.

`reproduced`: the published accuracy lies in our interval. `above` and `below`: it does not, and
ours is higher, or lower, than the published one. `not comparable`: something other than the
accuracy differs; every reason is named. `not yet run`: there is no result of this method on this
architecture.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from benchmark.claimlint import half
from benchmark.counting import PHYSICAL, RULES
from benchmark.published import Claim

REPRODUCED, ABOVE, BELOW = "reproduced", "above", "below"
NOT_COMPARABLE, NOT_YET_RUN = "not comparable", "not yet run"
TRACK = "paper"  # the others have a budget of their own
WIDEST = 1.0  # percentage points either way; else few noisy runs would reproduce everything
SAME_POINT = 1.0  # percentage points of FLOPs reduction: nearer is the same operating point
LAST, BEST_TEST = "last epoch", "best test epoch"


@dataclass(frozen=True)
class Reproduced:
    """Our runs of one cell. Accuracies in percent; `low` and `high` are None without an interval.

    `figure` says which epoch `mean` is of: the last, or the best on the test split (optimistic).
    `reductions`: percent of FLOPs removed, by counting rule.
    """

    method: str  # with its variant, as on the command line
    arch: str
    data: str
    track: str
    n: int
    mean: float
    low: float | None
    high: float | None
    figure: str
    reductions: Mapping[str, float]
    start: str = ""  # "trained" or "scratch", as in claims; empty: not known
    delta: float | None = None  # to the dense network of the same seed, mean, points
    entry: str = ""  # its row label and cell on the leaderboard
    cell: str = ""


@dataclass(frozen=True)
class Verdict:
    """`gap`: our mean minus the published accuracy, in points; None if they cannot be compared."""

    word: str
    reasons: tuple[str, ...] = ()
    gap: float | None = None

    def __str__(self) -> str:
        return f"{self.word} ({'; '.join(self.reasons)})" if self.reasons else self.word


def judge(claim: Claim, ours: Reproduced | None) -> Verdict:
    """The verdict on one published figure, set against one of our cells."""
    if ours is None or ours.n == 0:
        return Verdict(NOT_YET_RUN)
    reasons = (*_lacking(claim), *_elsewhere(claim, ours), *_other_figure(claim, ours))
    if reasons or claim.pruned_top1 is None or ours.low is None or ours.high is None:
        return Verdict(NOT_COMPARABLE, reasons)
    gap = ours.mean - float(claim.pruned_top1)
    rounding = float(half(claim.pruned_top1))
    if ours.low - rounding <= float(claim.pruned_top1) <= ours.high + rounding:
        return Verdict(REPRODUCED, gap=gap)
    return Verdict(ABOVE if gap > 0 else BELOW, gap=gap)


def judge_all(
    claims: Iterable[Claim], results: Iterable[Reproduced]
) -> list[tuple[Claim, Reproduced | None, Verdict]]:
    """Every claim about a method and an architecture of this suite, with the cell of ours that
    stands nearest to it: the fewest reasons against it, then the nearest FLOPs reduction."""
    cells: dict[tuple[str, str], list[Reproduced]] = defaultdict(list)
    for result in results:
        if result.n:
            cells[result.method, result.arch].append(result)
    found: list[tuple[Claim, Reproduced | None, Verdict]] = []
    for claim in claims:
        if not (claim.label and claim.arch):
            continue
        rivals = cells[claim.label, claim.arch]
        ours = min(rivals, key=lambda c: distance(claim, c), default=None)
        found.append((claim, ours, judge(claim, ours)))
    return found


def distance(claim: Claim, ours: Reproduced) -> tuple[int, float]:
    """How far a cell is from being the published experiment: reasons against it, then points of
    FLOPs reduction by the claim's own rule, infinite where they cannot be compared."""
    reduction = ours.reductions.get(_rule(claim))
    reasons = len(judge(claim, ours).reasons)
    if reduction is None or claim.flops_reduction is None:
        return reasons, math.inf
    return reasons, abs(reduction - float(claim.flops_reduction))


def _lacking(claim: Claim) -> Iterator[str]:
    """What stands against the claim alone."""
    if claim.confidence == "withdrawn":
        yield "withdrawn by its authors"
    if claim.pruned_top1 is None:
        yield "it names no accuracy"
    if claim.flops_reduction is None:
        yield "it names no FLOPs reduction"


def _elsewhere(claim: Claim, ours: Reproduced) -> Iterator[str]:
    """Another experiment. Names have to be equal: a re-encoded copy of a data set is other data."""
    if claim.label != ours.method:
        yield f"other method: {ours.method}, not {claim.label or claim.method}"
    if claim.arch != ours.arch:
        yield f"other architecture: {ours.arch}, not {claim.arch or claim.arch_printed}"
    if claim.data != ours.data:
        yield f"other data: {ours.data}, not {claim.data or claim.data_printed}"
    if claim.start and ours.start and claim.start != ours.start:
        yield f"other start: {ours.start}, not {claim.start}"
    if ours.track != TRACK:
        yield f"other budget: {ours.track} track, not the paper's recipe"
    if claim.flops_reduction is not None:
        yield from _other_point(claim.flops_reduction, _rule(claim), claim.flops_rule, ours)


def _rule(claim: Claim) -> str:
    """The rule by which our cell has to be counted. An unknown one is taken for physical: where it
    is not, the reductions differ and nothing is compared."""
    return PHYSICAL if claim.flops_rule == "unknown" else claim.flops_rule


def _other_point(said: Decimal, rule: str, printed_rule: str, ours: Reproduced) -> Iterator[str]:
    reduction = ours.reductions.get(rule)
    if reduction is None:
        yield f"other counting rule: its FLOPs are counted by '{rule}', ours are not"
        return
    if abs(reduction - float(said)) <= SAME_POINT + float(half(said)):
        return
    fits = [r for r in RULES if abs(ours.reductions.get(r, 1e9) - float(said)) <= SAME_POINT]
    if fits:
        yield (
            f"other counting rule: {said} % by '{printed_rule}', ours is {reduction:.1f} % by "
            f"'{rule}' and equal by '{fits[0]}' only"
        )
    else:
        yield f"other FLOPs reduction: {reduction:.1f} % by '{rule}', not {said} %"


def _other_figure(claim: Claim, ours: Reproduced) -> Iterator[str]:
    """A mean over seeds of last epochs is no match for a maximum, over epochs or over runs."""
    if claim.figure == "best of several":
        yield "best of n: it is the highest of several runs, ours is a mean"
    elif claim.figure == BEST_TEST and ours.figure != BEST_TEST:
        yield f"test-selected: it is the best test epoch, ours is the {ours.figure}"
    elif claim.figure == "best validation epoch":
        yield f"other selection: it is the best validation epoch, ours is the {ours.figure}"
    elif claim.figure in (LAST, "mean", "unknown") and ours.figure == BEST_TEST:
        yield f"test-selected: ours is the best test epoch, it is '{claim.figure}'"
    if ours.low is None or ours.high is None:
        yield f"no interval: {ours.n} {'run' if ours.n == 1 else 'runs'}"
    elif ours.high - ours.low > 2 * WIDEST:
        wide = (ours.high - ours.low) / 2
        yield f"interval too wide: {wide:.1f} points either way hold nearly any figure"
