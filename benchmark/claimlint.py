"""Where published figures contradict themselves or each other, found by computing them again.

A printed number stands for all that round to it; a finding is what no rounding explains. It says
that two printed figures cannot both hold, not which of them is right. Percentages whose digits were
cut off instead of rounded have a kind of their own.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from statistics import median

from benchmark.published import Claim

PERCENTAGES = (
    "baseline_top1", "pruned_top1", "baseline_top5", "pruned_top5", "flops_reduction",
    "params_reduction",
)  # fmt: skip
COSTS = ("flops", "params")
TITLES = {"flops": "FLOPs", "params": "parameters"}
FAR = Decimal("0.1")  # counters differ by some percent on one network, copies from it by more
FEWEST = 3  # rows from which the usual cost of a network is known
CLOSE = Decimal(1)  # two headline figures for one network this near mean the same network
DERIVED_SLACK = Decimal(3)  # percentages from a printed speed-up such as 1.7x


@dataclass(frozen=True)
class Finding:
    """What is printed in a row, and what follows from the other printed figures instead."""

    row: str
    kind: str
    printed: str
    follows: str


def lint(claims: list[Claim]) -> list[Finding]:
    """Findings in the order of rows."""
    found = [f for claim in claims for f in _alone(claim)]
    found += [*_usual_cost(claims), *_elsewhere(claims)]
    order = {claim.id: i for i, claim in enumerate(claims)}
    return sorted(found, key=lambda f: order[f.row])


def half(value: Decimal) -> Decimal:
    """Half a unit of the last printed digit."""
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)  # finite, as the reader checked
    return Decimal(5).scaleb(exponent - 1)


def agree(one: Decimal, other: Decimal, slack: Decimal = Decimal(0)) -> bool:
    """Whether rounding explains the difference."""
    return abs(one - other) <= half(one) + half(other) + slack


# ---- within one row ------------------------------------------------------------------------------


def _alone(claim: Claim) -> Iterator[Finding]:
    if not claim.source or not claim.reported_by:
        yield Finding(claim.id, "source", "no source", "a figure without a source is no claim")
    yield from _delta(claim)
    for cost in COSTS:
        yield from _percentage(claim, cost)
    yield from _range(claim)


def _delta(claim: Claim) -> Iterator[Finding]:
    before, after, delta = claim.baseline_top1, claim.pruned_top1, claim.delta_top1
    if before is None or after is None or delta is None:
        return
    slack = half(before) + half(after) + half(delta)
    if abs(delta - (after - before)) > slack:
        follows = f"{after} - {before} = {after - before:+}"
        yield Finding(claim.id, "difference", f"{delta:+}", follows)


def _percentage(claim: Claim, cost: str) -> Iterator[Finding]:
    after, before = claim.number(f"pruned_{cost}"), claim.number(f"baseline_{cost}")
    said = claim.number(f"{cost}_reduction")
    if after is None or before is None or said is None or before <= half(before):
        return
    least = 100 * (1 - (after + half(after)) / (before - half(before)))
    most = 100 * (1 - (after - half(after)) / (before + half(before)))
    if said + half(said) < least or said - half(said) > most:
        exact = 100 * (1 - after / before)
        cut_off = said <= exact < said + 2 * half(said)
        kind = f"{TITLES[cost]} {'cut off' if cut_off else 'removed'}"
        follows = f"{_short(after)} of {_short(before)} is {exact:.2f} %"
        yield Finding(claim.id, kind, f"{said} %", follows)


def _range(claim: Claim) -> Iterator[Finding]:
    for name in PERCENTAGES:
        value = claim.number(name)
        if value is not None and not 0 <= value <= 100:
            yield Finding(claim.id, "range", f"{name} {value}", "a percentage is from 0 to 100")
    for when in ("baseline", "pruned"):
        first, fifth = claim.number(f"{when}_top1"), claim.number(f"{when}_top5")
        if first is not None and fifth is not None and fifth < first:
            printed = f"top-5 {fifth}, top-1 {first}"
            yield Finding(claim.id, "range", printed, "top-5 is never below top-1")
    for cost in COSTS:
        after, before = claim.number(f"pruned_{cost}"), claim.number(f"baseline_{cost}")
        for value in (after, before):
            if value is not None and value <= 0:
                yield Finding(claim.id, "range", f"{TITLES[cost]} {value}", "a cost is positive")
        if after is not None and before is not None and after > before:
            printed = f"{TITLES[cost]} {_short(after)} of {_short(before)}"
            yield Finding(claim.id, "range", printed, "pruning does not add")


def _short(value: Decimal) -> str:
    """208610000 as 208.61 M."""
    return f"{value / 1_000_000:.10f}".rstrip("0").rstrip(".") + " M"


# ---- between rows --------------------------------------------------------------------------------


def _usual_cost(claims: Iterable[Claim]) -> Iterator[Finding]:
    """The dense network's cost that a row prints or implies, set against that of all others."""
    for cost in COSTS:
        dense: dict[tuple[str, str], list[tuple[Claim, Decimal]]] = defaultdict(list)
        for claim in claims:
            whole = _dense(claim, cost)
            if whole is not None:
                dense[claim.arch_printed, claim.data_printed].append((claim, whole))
        for rows in dense.values():
            usual = median(whole for _, whole in rows)
            for claim, whole in rows if len(rows) >= FEWEST else ():
                if abs(whole / usual - 1) > FAR:
                    follows = f"others have {_short(usual.quantize(Decimal('1e4')))}"
                    printed = f"{_short(whole.quantize(Decimal('1e4')))} in the dense network"
                    yield Finding(claim.id, f"dense {TITLES[cost]}", printed, follows)


def _dense(claim: Claim, cost: str) -> Decimal | None:
    before, after = claim.number(f"baseline_{cost}"), claim.number(f"pruned_{cost}")
    said = claim.number(f"{cost}_reduction")
    if before is not None:
        return before
    return after / (1 - said / 100) if after is not None and said is not None else None


def _elsewhere(claims: Iterable[Claim]) -> Iterator[Finding]:
    """Rows about one result that do not agree. Runs of somebody else are another result."""
    by_network: dict[tuple[str, ...], list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.reported != "reimplemented" and claim.flops_reduction is not None:
            key = (claim.method, claim.arch_printed, claim.data_printed)
            by_network[key].append(claim)
    for rows in by_network.values():
        for one, other in itertools.combinations(rows, 2):
            yield from _pair(one, other)
        yield from _headlines(rows)


def _pair(one: Claim, other: Claim) -> Iterator[Finding]:
    """`other` comes later in the file, and is the one that is named."""
    first, second = one.flops_reduction, other.flops_reduction
    before, after = one.pruned_top1, other.pruned_top1
    if first is None or second is None or before is None or after is None:
        return
    if not _may_agree(one.baseline_top1, other.baseline_top1):
        return
    same_table = one.source == other.source
    alike = one.variant == other.variant and one.recipe == other.recipe
    same_setting = one.start == other.start and (alike or not same_table)
    if same_setting and agree(first, second) and not agree(before, after):
        follows = f"{one.id} prints {before} for the same reduction ({first} %)"
        yield Finding(other.id, "accuracy elsewhere", str(after), follows)
    if same_table or not (one.start == other.start or "" in (one.start, other.start)):
        return
    slack = DERIVED_SLACK if "flops_reduction" in one.derived + other.derived else Decimal(0)
    same_cost = _may_agree(one.pruned_flops, other.pruned_flops, unknown=False)
    if before == after and not (agree(first, second, slack) or same_cost):
        follows = f"{one.id} prints {first} % for the same accuracy ({before})"
        yield Finding(other.id, "FLOPs elsewhere", f"{second} %", follows)


def _may_agree(one: Decimal | None, other: Decimal | None, unknown: bool = True) -> bool:
    return unknown if one is None or other is None else agree(one, other)


def _headlines(rows: list[Claim]) -> Iterator[Finding]:
    """Figures without an accuracy of their own (abstracts) that almost equal one of the same
    authors, and equal none."""
    own = [c for c in rows if c.reported == "own"]
    tables = [c for c in own if c.pruned_top1 is not None]
    headlines = [c for c in own if c.pruned_top1 is None]
    for i, headline in enumerate(headlines):
        said = headline.flops_reduction
        others = {c.id: c.flops_reduction for c in (*tables, *headlines[:i])}
        apart = {n: (v, abs(v - said)) for n, v in others.items() if v is not None and said}
        if said is None or any(agree(said, value) for value, _ in apart.values()):
            continue
        near = min(apart, key=lambda name: apart[name][1], default="")
        if near and apart[near][1] < CLOSE:
            follows = f"{near} prints {others[near]} %, by the same authors"
            yield Finding(headline.id, "FLOPs elsewhere", f"{said} %", follows)
