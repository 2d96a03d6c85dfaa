"""From scores and a budget to a plan: who competes with whom, and how many channels stay.

Both allocations have one scalar; a bisection on exact MACs finds the value that lands nearest to
the target. Widths come out of integer arithmetic on channel counts: no network is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.api import Budget, Plan, Unsupported

TOLERANCE = 0.005  # a target further away than this from all reachable ones is refused
GOLDEN = (math.sqrt(5) - 1) / 2

Macs = Callable[[Mapping[str, int]], int]


@dataclass(frozen=True)
class Widths:
    """Group sizes and the floor every method must respect."""

    full: Mapping[str, int]
    floor: Mapping[str, int]

    @classmethod
    def of(cls, full: Mapping[str, int], min_keep: float) -> Widths:
        """`min_keep` of each group, rounded down, and at least one unit (DECISIONS 16)."""
        # the tolerance keeps 0.3 * 10 at 3 where floating point says 2.9999999999999996
        return cls(full, {g: max(1, math.floor(min_keep * c + 1e-9)) for g, c in full.items()})


def largest_cut(widths: Widths, macs: Macs) -> float:
    """Reduction with every group at its floor: nothing beyond it can be reached."""
    return 1 - macs(widths.floor) / macs({})


def nearest(widths_at: Callable[[int], dict[str, int]], steps: int, macs: Macs, cut: float) -> int:
    """Step in 0..steps (MACs grow with it) whose reduction is nearest to `cut`.

    Raises:
        Unsupported: no step comes within the tolerance because the floors are in the way.
    """
    dense = macs({})
    goal = (1 - cut) * dense
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        if macs(widths_at(middle)) <= goal:
            low = middle
        else:
            high = middle
    best = min((low, high), key=lambda s: (abs(macs(widths_at(s)) - goal), s))
    if best == 0 and macs(widths_at(0)) - goal > TOLERANCE * dense:
        most = 100 * (1 - macs(widths_at(0)) / dense)
        raise Unsupported(
            f"FLOPs reduction {100 * cut:.1f} % is out of reach: with the minimum width at most "
            f"{most:.1f} % can be removed; ask for less, or use --scope all or --min-width"
        )
    return best


def uniform_widths(widths: Widths, budget: Budget, macs: Macs) -> dict[str, int]:
    """The same share of every group, to within one channel.

    Each group rounds at its own point (a golden-ratio sequence), so that groups of one size do not
    all change at once and the target is met closely.
    """
    steps = 1 << 16
    order = {g: (i + 1) * GOLDEN % 1 for i, g in enumerate(widths.full)}

    def at(step: int) -> dict[str, int]:
        share = step / steps
        return {
            g: min(c, max(widths.floor[g], math.floor(share * c + order[g])))
            for g, c in widths.full.items()
        }

    return at(nearest(at, steps, macs, budget.macs_cut))


def listed_widths(widths: Widths, rates: Mapping[str, float]) -> dict[str, int]:
    """Widths from a paper's own removed fraction per group: C - int(rate * C)."""
    return {
        g: max(widths.floor[g], c - int(rates.get(g, 0.0) * c + 1e-9))
        for g, c in widths.full.items()
    }


def global_widths(
    widths: Widths, scores: Mapping[str, Tensor], budget: Budget, macs: Macs
) -> dict[str, int]:
    """All units of all groups compete; a group never falls below its floor.

    scores: group -> (C,). Ties are broken by order of groups, then of channels.
    """
    names = list(scores)
    flat = torch.cat([scores[g].double() for g in names])
    owner = torch.repeat_interleave(
        torch.arange(len(names)), torch.tensor([len(scores[g]) for g in names])
    )
    ranked = owner[torch.sort(flat, descending=True, stable=True).indices]
    places = [(ranked == i).nonzero()[:, 0].contiguous() for i in range(len(names))]
    unscored = {g: c for g, c in widths.full.items() if g not in scores}

    def at(step: int) -> dict[str, int]:  # the `step` best units stay
        found = {
            g: max(widths.floor[g], int(torch.searchsorted(place, step)))
            for g, place in zip(names, places, strict=True)
        }
        return found | unscored

    return at(nearest(at, len(flat), macs, budget.macs_cut))


def best(scores: Mapping[str, Tensor], widths: Mapping[str, int]) -> Plan:
    """The highest scores of each group; ties keep the lower channel index."""
    keep = {}
    for group, width in widths.items():
        if group in scores:
            order = torch.sort(scores[group].double(), descending=True, stable=True).indices
            keep[group] = tuple(sorted(order[:width].tolist()))
    return Plan(keep)


def normalise(score: Tensor) -> Tensor:
    """Score divided by the layer's mean, for ranking across layers; an all-zero score stays."""
    mean = score.double().mean()
    return score.double() / mean if mean > 0 else score.double()


def tied_share(scores: Mapping[str, Tensor]) -> float:
    """Share of channels whose score occurs more than once within their layer."""
    tied = total = 0
    for score in scores.values():
        counts = torch.unique(score, return_counts=True)[1]
        tied += int(counts[counts > 1].sum())
        total += len(score)
    return tied / total if total else 0.0
