"""From scores and a budget to a plan: who competes with whom, and how many channels stay.

Both allocations have one scalar; a bisection on exact MACs finds the value that lands nearest to
the target. Widths come out of integer arithmetic on channel counts: no network is built.

With `round_to` N every width is a multiple of N, or the group's full width where that is none: a
group of 12 can have 8 or 12 units in multiples of 8, a group of 6 keeps its 6. The scalar is solved
for such widths, so that the target is met as well as they allow; rounding up afterwards would miss
it by ten points and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.api import Budget, ChannelGroup, Plan, Unsupported

TOLERANCE = 0.005  # a target further away than this from all reachable ones is refused
GOLDEN = (math.sqrt(5) - 1) / 2
LISTS_ARE_NOT_ROUNDED = "--round-to: a paper's own list says how many channels stay; leave it at 1"

Macs = Callable[[Mapping[str, int]], int]


@dataclass(frozen=True)
class Widths:
    """Group sizes, the floor every method must respect, and what widths are multiples of. All in
    units: a unit of a grouped layer can be several channels. Groups in `whole` keep everything."""

    full: Mapping[str, int]
    floor: Mapping[str, int]
    round_to: int = 1
    whole: tuple[str, ...] = ()
    dense: Mapping[str, int] | None = None  # widths before anything was pruned

    @classmethod
    def of(
        cls,
        full: Mapping[str, int],
        min_keep: float,
        round_to: int = 1,
        whole: tuple[str, ...] = (),
        dense: Mapping[str, int] | None = None,
    ) -> Widths:
        """`min_keep` of each group, rounded down, and at least one unit (DECISIONS 16); then up to
        the next width that is allowed. It is a share of the dense widths, where they differ."""
        # the tolerance keeps 0.3 * 10 at 3 where floating point says 2.9999999999999996
        own = {g: (dense or full)[g] for g in full}
        floor = {g: max(1, math.floor(min_keep * c + 1e-9)) for g, c in own.items()}
        floor |= {g: full[g] for g in whole}
        return cls(full, _up(full, floor, round_to), round_to, whole, dense)

    def up(self, widths: Mapping[str, int]) -> dict[str, int]:
        """The next allowed width for each of these."""
        return _up(self.full, widths, self.round_to)

    def near(self, group: str, width: float, offset: float) -> int:
        """An allowed width beside this one: the higher of its two neighbours from `1 - offset` of
        the way between them on. Grows with `width`, from the floor to all units."""
        full, n = self.full[group], self.round_to
        last = full - full % n  # from here on the full width is the next
        place = width / n if width <= last else last / n + (width - last) / (full - last)
        return min(full, max(self.floor[group], n * math.floor(place + offset)))

    def unrounded(self, min_keep: float) -> Widths:
        """The same groups without multiples."""
        return Widths.of(self.full, min_keep, whole=self.whole, dense=self.dense)


def _up(full: Mapping[str, int], widths: Mapping[str, int], n: int) -> dict[str, int]:
    return {g: min(full[g], -(-w // n) * n) for g, w in widths.items()}


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
    """The same share of every group, to within one channel, or one multiple.

    Each group rounds at its own point (a golden-ratio sequence), so that groups of one size do not
    all change at once and the target is met closely.
    """
    steps = 1 << 16
    order = {g: (i + 1) * GOLDEN % 1 for i, g in enumerate(widths.full)}

    def at(limits: Widths, step: int) -> dict[str, int]:
        share = step / steps
        return {g: limits.near(g, share * c, order[g]) for g, c in limits.full.items()}

    return _solved(at, steps, widths, budget, macs)


def shared_rates(groups: Iterable[ChannelGroup], rates: Mapping[str, float]) -> dict[str, float]:
    """Rates per group from a list per layer.

    Raises:
        Unsupported: layers that lose channels together have different rates: the list prunes them
            one by one, as masks can, and no smaller network is meant by it.
    """
    found = {}
    for group in groups:
        own = sorted({rates[layer] for layer in group.layers})
        if len(own) > 1:
            raise Unsupported(
                f"the list gives {group.name} and the layers that lose channels with it rates from "
                f"{own[0]:g} to {own[-1]:g}: use --scope inner"
            )
        found[group.name] = own[0]
    return found


def listed_widths(widths: Widths, rates: Mapping[str, float]) -> dict[str, int]:
    """Widths from a paper's own removed fraction per group: C - int(rate * C).

    Raises:
        Unsupported: multiples are asked for; a list says its widths itself.
    """
    if widths.round_to > 1:
        raise Unsupported(LISTS_ARE_NOT_ROUNDED)
    return {
        g: max(widths.floor[g], c - int(rates.get(g, 0.0) * c + 1e-9))
        for g, c in widths.full.items()
    }


def global_widths(
    widths: Widths, scores: Mapping[str, Tensor], budget: Budget, macs: Macs
) -> dict[str, int]:
    """All units of all groups compete; a group never falls below its floor. With multiples, the
    group's share of the best units goes to the nearer one: a step changes one group at most.

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

    def at(limits: Widths, step: int) -> dict[str, int]:  # the `step` best units stay
        found = {
            g: limits.near(g, int(torch.searchsorted(place, step)), 0.5)
            for g, place in zip(names, places, strict=True)
        }
        return found | unscored

    return _solved(at, len(flat), widths, budget, macs)


def _solved(
    at: Callable[[Widths, int], dict[str, int]],
    steps: int,
    widths: Widths,
    budget: Budget,
    macs: Macs,
) -> dict[str, int]:
    """The widths of the step that lands nearest to the target. With multiples, those of the plain
    solution rounded up are taken where they happen to land nearer: solving never loses to that."""

    def solve(limits: Widths) -> dict[str, int]:
        step = nearest(lambda s: at(limits, s), steps, macs, budget.macs_cut)
        return at(limits, step)

    if widths.round_to == 1:
        return solve(widths)
    try:
        found = solve(widths)
    except Unsupported as reason:
        raise Unsupported(f"{reason}, or a --round-to below {widths.round_to}") from None
    goal = (1 - budget.macs_cut) * macs({})
    up = widths.up(solve(widths.unrounded(budget.min_keep)))
    return min(found, up, key=lambda w: abs(macs(w) - goal))


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
