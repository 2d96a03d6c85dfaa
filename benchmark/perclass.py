"""Accuracy of every entry on each class, before and after pruning.

Records hold no labels. As in `paired.correctness`, a positive margin in any run reveals the label
of its test image; images whose label no run reveals (wrong or tied in all of them) belong to no
class here: they are left out and counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from benchmark.block import Block
from benchmark.columns import PERCENT, POINTS, Column
from benchmark.errors import BadInput

STAGES = ("dense", "before", "recalibrated", "final")
UNKNOWN = -1
KINDS = ("class", "margin")
Key = tuple[str, int]

COLUMNS = [
    Column("data", "name of the data set"),
    Column("arch", "architecture"),
    Column("track", "rules of the comparison"),
    Column("table", "entries of one table are compared"),
    Column("entry", "row label within the table"),
    Column("control", "1: a control", "", 0),
    Column("target", "asked reduction of multiply-accumulates", "% of dense MACs", 2),
    Column("cell", "hash of everything but the seeds"),
    Column("n", "finished seeds that have predictions", "", 0),
    Column("class", "number of the class", "", 0),
    Column("images", "test images known to be of this class: a run of this data set has a positive "
           "margin on them", "images", 0),
    Column("unrevealed", "test images of any class that no run tells the label of: left out here",
           "images", 0),
    Column("dense", "of these, right by the dense network that the entry is set against; mean over "
           "seeds; empty: no record has its predictions (records of earlier versions)", PERCENT, 2),
    Column("before", "right before recovery; mean over seeds", PERCENT, 2),
    Column("recalibrated", "right after BN recalibration; mean over seeds", PERCENT, 2),
    Column("final", "right after the last recovery epoch; mean over seeds", PERCENT, 2),
    Column("drop", "dense minus final: what the class lost; negative: it gained", POINTS, 2),
]  # fmt: skip


def class_accuracy(block: Block) -> pd.DataFrame:
    """One row per cell and class.

    Raises:
        BadInput: runs on the same test images disagree about their labels.
    """
    told = heard(block)
    rows = []
    for cell, runs in block.runs[block.runs["status"] == "done"].groupby("cell", sort=False):
        found = [
            frame
            for run, dense in zip(runs["run_id"], runs["dense_weights"], strict=True)
            if (frame := per_class(block, str(run), str(dense), told)) is not None
        ]
        if not found:
            continue
        first = runs.iloc[0]
        known = {c.name: first[c.name] for c in COLUMNS if c.name in runs}
        known |= {"cell": cell, "n": len(found)}
        rows += [known | row for row in mean_rows(found)]
    frame = pd.DataFrame(rows, columns=[c.name for c in COLUMNS])
    for column in COLUMNS:
        frame[column.name] = frame[column.name].astype("str" if column.decimals is None else float)
    order = ["track", "table", "target", "control", "entry", "cell", "class"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


# ---- labels and dense networks -------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What all runs of a block say together about test images; keys are the images' order and
    number."""

    labels: dict[Key, np.ndarray] = field(default_factory=dict)  # (N,), UNKNOWN: nobody reveals it
    dense: dict[tuple[str, Key], np.ndarray] = field(default_factory=dict)  # (N,) by weights


def heard(block: Block) -> Told:
    """Labels of the test images, and the classes that each dense network predicts."""
    told = Told()
    for run_id, record in block.records.items():
        arrays = block.arrays(run_id, *(named(s, kind) for s in STAGES for kind in KINDS))
        for stage in STAGES:
            if any(named(stage, kind) not in arrays for kind in KINDS):
                continue
            classes, margins = (arrays[named(stage, kind)] for kind in KINDS)
            key = (record.predictions_order, len(classes))
            told.labels[key] = with_labels(told.labels.get(key), classes, margins)
            if stage == "dense":
                told.dense[record.dense.weights, key] = classes
    return told


def named(stage: str, kind: str) -> str:
    """Name of an array of predictions on the test split."""
    return f"test_{stage}_{kind}"


def with_labels(known: np.ndarray | None, classes: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Labels (N,) after these predictions have been heard too.

    Raises:
        BadInput: they contradict what is known.
    """
    told = np.where(margins > 0, classes.astype(np.int64), UNKNOWN)
    if known is None:
        return told
    both = (known != UNKNOWN) & (told != UNKNOWN)
    if (known[both] != told[both]).any():
        raise BadInput("runs disagree about the labels: they saw other images, or in another order")
    return np.maximum(known, told)


# ---- accuracies ----------------------------------------------------------------------------------


def per_class(block: Block, run_id: str, dense: str, told: Told) -> pd.DataFrame | None:
    """One row per class of one run; None: it has no predictions. `dense`: weights of the network
    that it is set against, which a run from random initialisation shares with its board."""
    record = block.records[run_id]
    names = {named(stage, "class"): stage for stage in STAGES if stage != "dense"}
    predicted = {names[name]: found for name, found in block.arrays(run_id, *names).items()}
    key = (record.predictions_order, len(predicted.get("final", ())))
    if key not in told.labels:
        return None
    if (dense, key) in told.dense:
        predicted["dense"] = told.dense[dense, key]
    labels, classes = told.labels[key], record.spec.data.num_classes
    known = labels != UNKNOWN
    counts = np.bincount(labels[known], minlength=classes).astype(float)
    found = {"class": np.arange(classes), "images": counts, "unrevealed": (~known).sum()}
    for stage in STAGES:
        found[stage] = np.full(classes, math.nan)
        if stage in predicted:
            hits = np.bincount(labels[known & (predicted[stage] == labels)], minlength=classes)
            np.divide(100 * hits, counts, out=found[stage], where=counts > 0)
    return pd.DataFrame(found)


def mean_rows(found: Iterable[pd.DataFrame]) -> list[dict[str, float]]:
    """Means over seeds. A mean over some of them would be compared with one over all: it is empty
    instead."""
    stacked: dict[str, list[np.ndarray]] = defaultdict(list)
    for frame in found:
        for name in frame:
            stacked[str(name)].append(frame[name].to_numpy(dtype=float))
    means = {name: np.mean(values, axis=0) for name, values in stacked.items()}
    means["drop"] = means["dense"] - means["final"]
    return pd.DataFrame(means).to_dict("records")  # type: ignore[return-value]
