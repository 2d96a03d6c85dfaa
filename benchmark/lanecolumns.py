"""Columns about how the values of a run were chosen (DECISIONS 20)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from benchmark.column import Column
from benchmark.progress import counted, duration
from benchmark.record import RunRecord
from benchmark.spec import RATE, RunSpec, canonical, digest, identity
from benchmark.tuning import shown

UNTUNED = "untuned"
NOTE = (
    "Tuned: the values of each row come from the trial with the best final validation accuracy, of "
    "equally many for every method and control. Trials read no test image and have seeds of their "
    "own; no budget is charged for them, so compare rows with those of untuned tables only beside "
    "what the trials cost."
)


def params(spec: RunSpec) -> str:
    """As JSON; what was tuned is only named: it has another value in every block."""
    own = spec.method.params
    return canonical({k: "tuned" if k in spec.tuned else v for k, v in own.items()})


def recipe(spec: RunSpec) -> str:
    """Of training, without a rate that was tuned: rows that differ in it stand together."""
    baseline = None if spec.baseline is None or spec.scratch else identity(spec.baseline)
    return digest({"baseline": baseline, "recovery": _recovery(spec)}, 8)


def _recovery(spec: RunSpec) -> dict[str, Any]:
    own = identity(spec.training)
    return {k: v for k, v in own.items() if k != "lr" or RATE not in spec.tuned}


def board(spec: RunSpec) -> str:
    """Of all settings but the method and what is tuned of it."""
    apart = ("method", "tuned", "scratch")
    content = {k: v for k, v in identity(spec.cell()).items() if k not in apart}
    return digest(content | {"recovery": _recovery(spec)}, 8)


def _values(spec: RunSpec) -> str:
    return canonical(spec.tuned_values) if spec.tuned else UNTUNED


LANE: list[tuple[Column, Callable[[RunSpec], Any]]] = [
    (Column("lane", "default: values of paper or card; tuned: values that trials chose on "
            "validation images, the same number for every method"), lambda s: s.lane),
    (Column("trials", "trials of each method of the table; 0: untuned", "", 0), lambda s: s.trials),
]  # fmt: skip
VALUES: list[tuple[Column, Callable[[RunSpec], Any]]] = [
    (Column("tuned_values", f"what the trials chose, as JSON; {UNTUNED}: values of paper or card"),
     _values),
]  # fmt: skip
COST: list[tuple[Column, Callable[[RunRecord], Any]]] = [
    (Column("tuning_images", "images for gradient steps of all trials of the method, which no "
            "budget is charged for; the dense network that they start from is not counted",
            "images", 0), lambda r: r.tuning.images if r.tuning else None),
    (Column("tuning_seconds", "wall time of these trials, on their hardware", "s", 1),
     lambda r: r.tuning.seconds if r.tuning else None),
]  # fmt: skip


# ---- printed tables ------------------------------------------------------------------------------


def named(row: pd.Series[Any]) -> str:
    """For the caption of a table; empty: untuned."""
    trials = counted(int(row["trials"]), "trial")
    return f", tuned by {trials} of each method" if row["lane"] == "tuned" else ""


def _chosen(row: pd.Series[Any]) -> str:
    return "" if row["tuned_values"] == UNTUNED else shown(json.loads(row["tuned_values"]))


def _cost(row: pd.Series[Any]) -> str:
    images, seconds = row["tuning_images"], row["tuning_seconds"]
    if math.isnan(images):
        return ""
    return f"{images:,.0f} images" + ("" if math.isnan(seconds) else f", {duration(seconds)}")


SHOWN: list[tuple[str, Callable[[pd.Series[Any]], str]]] = [
    ("Tuned values", _chosen),
    ("Trials cost", _cost),
]
