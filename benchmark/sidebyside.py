"""Two finished runs side by side, as facts: what `python -m benchmark.compare` prints.

A is the first run, B the second; every difference is B minus A. Accuracies are in % of test
images, differences of them in percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import costs, differences, frames
from benchmark.differences import Run, hardware_of, kept_overlap
from benchmark.errors import BadInput
from benchmark.imagewise import POINTS, SCOPE, ClassChange, Point, class_changes, on_images, point
from benchmark.ledger import is_recovery
from benchmark.record import RECORD, RunRecord, read_record
from benchmark.settings import Values, cautions, is_trained, settings, why_apart


@dataclass(frozen=True)
class What:
    """Which run it is."""

    run_id: str
    title: str
    method: str  # as typed on the command line
    data: str
    arch: str
    track: str
    protocol: int
    target: float  # % of dense MACs
    seed: int


@dataclass(frozen=True)
class Layer:
    """Kept units of one group of coupled channels."""

    group: str
    channels: int  # dense
    a: int
    b: int
    shared: int
    by_chance: float  # expected of two independent uniform choices: a * b / channels


@dataclass(frozen=True)
class Kept:
    """Over all groups that both networks have. Independent choices share `by_chance` units, with
    standard deviation `chance_sd` (hypergeometric in each group)."""

    layers: tuple[Layer, ...]
    a: int
    b: int
    shared: int
    share: float  # of the units that A keeps, in %
    by_chance: float
    chance_sd: float
    same_dense: bool  # False: a channel of one network is no channel of the other


@dataclass(frozen=True)
class SideBySide:
    runs: tuple[What, What]
    settings: tuple[Values, ...]
    apart: str  # why these runs are never compared; empty: they may be
    cautions: tuple[str, ...]
    sizes: tuple[Values, ...]
    kept: Kept | None  # None: other networks
    dense: Values
    accuracy: tuple[Point, ...]
    images: int | None  # test images
    scope: str
    unpaired: str  # why images cannot be paired; empty: they are
    classes: tuple[ClassChange, ...]
    costs: tuple[Values, ...]
    no_seconds: str  # why seconds are not compared; empty: they are
    environment: tuple[Values, ...]


# ---- from disk -----------------------------------------------------------------------------------


def read(folder: Path) -> Run:
    """A run without its curve; one whose predictions were left behind has none.

    Raises:
        BadInput: record or plan cannot be read, or predictions that are there.
    """
    there = (folder / differences.PREDICTIONS).exists()
    arrays = differences.arrays_of(folder) if there else {}
    return Run(folder, read_record(folder / RECORD), differences.plan_of(folder)[0], [], arrays)


def compared(a: Run, b: Run) -> SideBySide:
    """All facts about two runs.

    Raises:
        BadInput: they are one and the same run.
    """
    if a.record.run_id == b.record.run_id:
        raise BadInput(
            f"both are run {a.record.run_id}: give two different runs; whether a run can be made "
            "again to the bit is what python -m benchmark.reproduce says"
        )
    rows = _rows(a.record, b.record)
    apart = why_apart(*rows)
    correct, images, unpaired = on_images(a, b)
    same_machine = _same_hardware(a.record, b.record)
    return SideBySide(
        runs=(_what(a.record), _what(b.record)),
        settings=settings(a.record.spec, b.record.spec),
        apart=apart,
        cautions=tuple(cautions(a.record, b.record)),
        sizes=_sizes(*rows),
        kept=kept(a, b),
        dense=Values("dense network", _dense(a.record), _dense(b.record)),
        accuracy=tuple(point(p, a.record, b.record, correct.get(p), not apart) for p in POINTS),
        images=images,
        scope=SCOPE,
        unpaired=unpaired,
        classes=class_changes(a, b, correct),
        costs=_costs(a.record, b.record, *rows) + _seconds(*rows, not same_machine),
        no_seconds=same_machine,
        environment=tuple(
            Values(*fact)
            for fact in differences.evidence_differences(a.record.environment, b.record.environment)
        ),
    )


def _rows(a: RunRecord, b: RunRecord) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Both as rows of the table of runs: there they are placed by the rules of every table."""
    rows = {row["run_id"]: row for _, row in frames.runs_frame([a, b]).iterrows()}
    return rows[a.run_id], rows[b.run_id]


def _dense(record: RunRecord) -> float | None:
    """Test accuracy of the network that the run starts from, in %; None: random weights."""
    found = record.dense.accuracy
    return None if found is None else 100 * found.test_top1


def _what(record: RunRecord) -> What:
    spec = record.spec
    return What(
        run_id=record.run_id,
        title=record.title,
        method=spec.method.label,
        data=spec.data.name,
        arch=spec.arch.name,
        track=spec.track,
        protocol=spec.protocol,
        target=100 * spec.flops_reduction,
        seed=spec.seeds.run,
    )


# ---- what was removed ----------------------------------------------------------------------------


def _sizes(a: pd.Series[Any], b: pd.Series[Any]) -> tuple[Values, ...]:
    names = (
        "flops_reduction", "macs", "params_reduction", "params_count", "floor_share",
    )  # fmt: skip
    return tuple(Values(name, _number(a[name]), _number(b[name])) for name in names)


def kept(a: Run, b: Run) -> Kept | None:
    """Kept units of both; None where the dense networks have other groups."""
    one, other = a.record.dense_widths, b.record.dense_widths
    structures = {r.record.spec.arch.structure for r in (a, b)}
    groups = [g for g in a.record.groups if g in other]
    if len(structures) > 1 or not groups or any(one[g] != other[g] for g in groups):
        return None
    ours, theirs = (_units(run, groups) for run in (a, b))
    layers = tuple(_layer(g, one[g], ours[g], theirs[g]) for g in groups)
    return Kept(
        layers=layers,
        a=sum(layer.a for layer in layers),
        b=sum(layer.b for layer in layers),
        shared=sum(layer.shared for layer in layers),
        share=100 * kept_overlap(ours, theirs),
        by_chance=sum(layer.by_chance for layer in layers),
        chance_sd=math.sqrt(sum(map(_chance_variance, layers))),
        same_dense=is_trained(a.record)
        and is_trained(b.record)
        and a.record.dense.weights == b.record.dense.weights,
    )


def _units(run: Run, groups: Sequence[str]) -> dict[str, list[int]]:
    """A group that the plan does not name is whole."""
    return {g: run.keep.get(g, list(range(run.record.dense_widths[g]))) for g in groups}


def _layer(group: str, channels: int, a: Sequence[int], b: Sequence[int]) -> Layer:
    shared = len(set(a) & set(b))
    return Layer(group, channels, len(a), len(b), shared, len(a) * len(b) / channels)


def _chance_variance(layer: Layer) -> float:
    """Hypergeometric: of the units that two independent uniform choices share."""
    whole = layer.channels
    if whole < 2:
        return 0.0
    left = (whole - layer.a) * (whole - layer.b)
    return layer.a * layer.b * left / (whole**2 * (whole - 1))


# ---- cost ----------------------------------------------------------------------------------------


def _costs(
    a: RunRecord, b: RunRecord, first: pd.Series[Any], second: pd.Series[Any]
) -> tuple[Values, ...]:
    names = (
        "images_charged", "images_free", "images_forward", "charged_epochs", "training_gmacs",
    )  # fmt: skip
    spent = (Values(n, _number(first[n]), _number(second[n])) for n in names)
    early = (_before_recovery(record) for record in (a, b))
    return (
        Values("images_allowed", float(a.spent.allowed), float(b.spent.allowed)),
        *spent,
        Values("images_preparation", *early),
        *_whole(a, b),
    )


def _whole(a: RunRecord, b: RunRecord) -> Iterator[Values]:
    """Training of the dense network counts too: without it a run from scratch looks dear."""
    one, other = costs.spent(a), costs.spent(b)
    yield Values("dense_training_gmacs", _number(one.dense_gmacs), _number(other.dense_gmacs))
    known = (
        one.dense_gmacs + one.prepare_gmacs + one.recovery_gmacs,
        other.dense_gmacs + other.prepare_gmacs + other.recovery_gmacs,
    )
    yield Values("training_gmacs_in_all", *map(_number, known))


def _before_recovery(record: RunRecord) -> float:
    """Images of gradient steps that prepare the choice, whoever pays."""
    rows = record.spent.rows
    return float(
        sum(r["images"] for r in rows if r["kind"] != "forward" and not is_recovery(r["phase"]))
    )


def _same_hardware(a: RunRecord, b: RunRecord) -> str:
    """Why timings cannot be compared; empty: they can."""
    one, other = (hardware_of(r.environment) for r in (a, b))
    if one and one == other:
        return ""
    return f"other hardware: {one or 'unknown'} and {other or 'unknown'}"


def _seconds(a: pd.Series[Any], b: pd.Series[Any], may: bool) -> tuple[Values, ...]:
    names = ("seconds", "speedup_1", "speedup_128") if may else ()
    return tuple(Values(name, _number(a[name]), _number(b[name])) for name in names)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
