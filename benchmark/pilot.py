"""`python -m benchmark.pilot DIR`: the budget and the targets of a board, by rule, from runs of
L1-norm and random channels alone, on validation images, with seeds that the board does not use.

- Budget: the smallest of 1, 2, 3, 5 and 10 epochs at which doubling the budget last gained L1-norm
  less than a point: what follows is slow, and equal for all. Where it still gains more at the
  largest, the largest.
- Targets: one at which L1-norm loses 1 to 3 points, one at which it loses 4 to 10, both with more
  than twice the standard deviation of their paired differences between L1-norm and random, and with
  5 points of freedom left by the minimum widths. Of several the one nearest to the middle.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.record import RunRecord
from benchmark.spec import RunSpec, digest, identity
from benchmark.store import Store

METHOD, CONTROL = "l1norm", "random"
BUDGETS = (1.0, 2.0, 3.0, 5.0, 10.0)  # epochs
GAIN = 1.0  # points
BANDS = ((1.0, 3.0), (4.0, 10.0))  # points that L1-norm loses
FREEDOM = 5.0  # points between a target and the largest reduction
SPREADS = 2.0  # standard deviations
LEAST = 2  # seeds


@dataclass(frozen=True)
class Gain:
    """What the last doubling gained L1-norm, in points of validation accuracy, mean over seeds."""

    budget: float
    target: float
    points: float
    seeds: int

    @property
    def is_enough(self) -> bool:
        return self.points < GAIN


@dataclass(frozen=True)
class Target:
    """L1-norm and random at a target, at the board's budget: points of validation accuracy."""

    target: float
    seeds: int
    loss: float  # of L1-norm to its dense network
    lead: float  # of L1-norm over random, mean over seeds
    spread: float  # sample standard deviation of these differences
    freedom: float

    @property
    def is_told_apart(self) -> bool:
        return abs(self.lead) > SPREADS * self.spread

    @property
    def is_free(self) -> bool:
        return self.freedom >= FREEDOM


def gains(records: Iterable[RunRecord]) -> list[Gain]:
    """Of each budget that was run with its half, at each target."""
    found: dict[tuple[float, float], dict[int, float]] = defaultdict(dict)
    for r in records:
        if r.spec.method.label == METHOD:
            place = (r.spec.flops_reduction, r.spec.budget_epochs)
            found[place][r.spec.seeds.run] = _validation(r)
    rows = []
    for (target, budget), whole in sorted(found.items()):
        half = found.get((target, budget / 2), {})
        both = sorted(whole.keys() & half.keys())
        if budget in BUDGETS and both:
            points = statistics.mean(whole[s] - half[s] for s in both)
            rows.append(Gain(budget, target, points, len(both)))
    return rows


def budget(rows: Sequence[Gain]) -> float | None:
    """The smallest at which doubling has ceased to pay at every target that was tried, or the
    largest; None: smaller ones were not tried."""
    for candidate in BUDGETS:
        own = [row for row in rows if row.budget == candidate]
        if not own:
            return None
        if all(row.is_enough for row in own):
            return candidate
    return BUDGETS[-1]


def targets(records: Iterable[RunRecord], epochs: float) -> list[Target]:
    """Every target that both were run at with this budget, with the same seeds."""
    found: dict[float, dict[str, dict[int, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        if r.spec.budget_epochs == epochs:
            found[r.spec.flops_reduction][r.spec.method.label][r.spec.seeds.run] = r
    rows = []
    for target, own in sorted(found.items()):
        seeds = sorted(own[METHOD].keys() & own[CONTROL].keys())
        if len(seeds) < LEAST:
            continue
        pairs = [(own[METHOD][s], own[CONTROL][s]) for s in seeds]
        leads = [_validation(a) - _validation(b) for a, b in pairs]
        losses = [_dense(a) - _validation(a) for a, _ in pairs]
        freedom = 100 * (min(a.largest_reduction for a, _ in pairs) - target)
        loss, lead = statistics.mean(losses), statistics.mean(leads)
        spread = statistics.stdev(leads)
        rows.append(Target(target, len(seeds), loss, lead, spread, freedom))
    return rows


def chosen(rows: Sequence[Target]) -> tuple[float | None, ...]:
    """A target of each band; None: none fits."""

    def of(low: float, high: float) -> float | None:
        fit = [r for r in rows if low <= r.loss <= high and r.is_told_apart and r.is_free]
        nearest = min(fit, key=lambda r: abs(r.loss - (low + high) / 2), default=None)
        return nearest.target if nearest else None

    return tuple(of(*band) for band in BANDS)


def of_directory(place: Path) -> list[RunRecord]:
    """The pilot's runs.

    Raises:
        BadInput: there are none, or of several settings.
    """
    plain = (METHOD, CONTROL)
    found = [r for r in Store(place).records() if r.spec.method.label in plain and _is_plain(r)]
    if not found:
        raise BadInput(f"{place} holds no runs of {METHOD} and {CONTROL} with validation images")
    kinds = {_setting(r.spec) for r in found}
    if len(kinds) > 1:
        raise BadInput(f"{place} holds runs of {len(kinds)} settings: a pilot has one, for a board")
    return found


def _is_plain(record: RunRecord) -> bool:
    spec = record.spec
    usual = spec.reconstruct == "none" and spec.lane == "default" and not spec.in_rounds
    known = record.dense.accuracy is not None and record.dense.accuracy.val_top1 is not None
    return usual and known and record.final.val_top1 is not None


def _setting(spec: RunSpec) -> str:
    """All that runs of a pilot share."""
    apart = {"method", "flops_reduction", "budget_epochs", "recovery", "seeds"}
    recipe = {k: v for k, v in identity(spec.recovery).items() if k != "epochs"}
    return digest([{k: v for k, v in identity(spec).items() if k not in apart}, recipe])


def _validation(record: RunRecord) -> float:
    assert record.final.val_top1 is not None
    return 100 * record.final.val_top1


def _dense(record: RunRecord) -> float:
    assert record.dense.accuracy is not None
    assert record.dense.accuracy.val_top1 is not None
    return 100 * record.dense.accuracy.val_top1


def report(records: Sequence[RunRecord]) -> list[str]:
    """What was found and what follows, line by line."""
    found = gains(records)
    lines = [
        f"budget {g.budget:g} epochs at {100 * g.target:g} %: the last doubling gains "
        f"{g.points:+.2f} points, {g.seeds} seeds"
        for g in found
    ]
    epochs = budget(found)
    if epochs is None:
        tried = sorted({g.budget for g in found})
        following = next(b for b in BUDGETS if b not in tried)
        more = f"run {METHOD} at {following:g} and {following / 2:g} epochs"
        return [*lines, f"budget: not known yet: {more}"]
    pays = any(g.budget == epochs and not g.is_enough for g in found)
    note = ", the largest allowed, where doubling still pays" if pays else ""
    lines.append(f"budget: {epochs:g} epochs{note}")
    rows = targets(records, epochs)
    for row in rows:
        apart = "told apart from" if row.is_told_apart else "not told apart from"
        lines.append(
            f"target {100 * row.target:g} %: {METHOD} loses {row.loss:.2f} points, {row.lead:+.2f} "
            f"± {row.spread:.2f} to {CONTROL} over {row.seeds} seeds ({apart} it), "
            f"{row.freedom:.1f} points of freedom" + ("" if row.is_free else ": too few")
        )
    for (low, high), target in zip(BANDS, chosen(rows), strict=True):
        said = "none fits: run more targets" if target is None else f"{100 * target:g} %"
        lines.append(f"target for a loss of {low:g} to {high:g} points: {said}")
    return lines


def main(
    directory: Annotated[Path, typer.Argument(help="Results directory of the pilot.")],
) -> int:
    """Choose budget and targets of a board from a pilot of L1-norm and random channels.

    Example: python -m benchmark.pilot results-pilot
    """
    for line in report(of_directory(directory)):
        console().print(line, highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
