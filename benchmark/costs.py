"""Accuracy against everything that was spent on it: training of the dense network, preparation and
recovery, and what a method adds over controls that spend the same.

Multiply-accumulates are those of the ledger (benchmark.ledger): a gradient step on an image counts
three times the forward pass of the network that is trained. The dense training is counted so too,
in full for every row, though rows share it; methods from random initialisation have none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark import frames
from benchmark.block import Block
from benchmark.columns import LEADERBOARD, POINTS, Column
from benchmark.ledger import TRAIN_STEP, Entry, Ledger, is_recovery
from benchmark.matchups import REFERENCES, Row, reference
from benchmark.record import RunRecord

GIGA = "10^9 MACs"
ROW = [
    "track", "data", "arch", "table", "target", "entry", "method", "control", "start",
    "preparation", "cell", "n", "final_mean", "final_low", "final_high", "dense_mean",
    "tuning_images", "tuning_seconds",
]  # fmt: skip
UNKNOWN = "empty from a checkpoint, whose training is not known"
_KNOWN = {c.name: c for c in LEADERBOARD}
COLUMNS: list[Column] = [
    *[_KNOWN[name] for name in ROW],
    Column("dense_epochs", f"training of the dense network; {UNKNOWN}", "epochs", 2),
    Column("dense_gmacs", f"its multiply-accumulates, {TRAIN_STEP} x images x dense MACs; "
           f"{UNKNOWN}", GIGA, 1),
    Column("prepare_epochs", "gradient steps before removal: masks, sparsity, scoring", "epochs",
           2),
    Column("prepare_gmacs", "their multiply-accumulates", GIGA, 1),
    Column("recovery_epochs", "training after removal, or of a network that started thin", "epochs",
           2),
    Column("recovery_gmacs", "its multiply-accumulates", GIGA, 1),
    Column("free_epochs", "of preparation: not charged against the budget", "epochs", 2),
    Column("spent_epochs", f"dense training, preparation and recovery; {UNKNOWN}", "epochs", 2),
    Column("spent_gmacs", f"multiply-accumulates of all three; {UNKNOWN}", GIGA, 1),
    Column("forward_images", "images used without gradient: scoring, recalibration of batch norm; "
           "in none of the sums", "images", 0),
    Column("forward_gmacs", "their multiply-accumulates", GIGA, 1),
    Column("training_seconds", "wall time of preparation and recovery; of one kind of hardware, "
           "else empty", "s", 1),
    Column("seconds", "wall time of the run with its measurements, likewise. The dense training is "
           "in neither: it is shared, and records do not time it", "s", 1),
    *[Column(f"over_{name}", f"final_mean minus that of {name} at the same target, or where that "
             "removes nothing; with the same allocation, unless one of them has none. Empty unless "
             "both spent the same total of epochs. Intervals: comparisons", POINTS, 2)
      for name in REFERENCES],
]  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """Of one run; epochs of its training split, 10^9 multiply-accumulates, seconds."""

    dense_epochs: float
    dense_gmacs: float
    prepare_epochs: float
    prepare_gmacs: float
    recovery_epochs: float
    recovery_gmacs: float
    free_epochs: float
    forward_images: float
    forward_gmacs: float
    training_seconds: float

    @property
    def spent_epochs(self) -> float:
        return self.dense_epochs + self.prepare_epochs + self.recovery_epochs

    @property
    def spent_gmacs(self) -> float:
        return self.dense_gmacs + self.prepare_gmacs + self.recovery_gmacs


SUMS = [*Spent.__dataclass_fields__, "spent_epochs", "spent_gmacs"]


def spent(record: RunRecord) -> Spent:
    """From the ledger of a run and the recipe of its dense network."""
    entries = Ledger.rows(record.spent.rows)
    training = [e for e in entries if e.kind != "forward"]
    recovery = [e for e in training if is_recovery(e.phase)]
    before = [e for e in training if not is_recovery(e.phase)]
    forward = [e for e in entries if e.kind == "forward"]
    dense_epochs, dense_macs = _dense(record)
    return Spent(
        dense_epochs=dense_epochs,
        dense_gmacs=dense_macs / 1e9,
        prepare_epochs=sum(e.epochs for e in before),
        prepare_gmacs=_gmacs(before),
        recovery_epochs=sum(e.epochs for e in recovery),
        recovery_gmacs=_gmacs(recovery),
        free_epochs=sum(e.epochs for e in training if e.kind == "free"),
        forward_images=sum(e.images for e in forward),
        forward_gmacs=_gmacs(forward),
        training_seconds=sum(e.seconds for e in training),
    )


def budget(block: Block) -> pd.DataFrame:
    """One row per cell with a result, in the order of the leaderboard: means over seeds."""
    board = block.board[block.board["n"] > 0]
    runs = block.runs[block.runs["status"] == "done"]
    cells = {str(cell): part for cell, part in runs.groupby("cell", sort=False)}
    rows: list[dict[str, Any]] = []
    for row in board.to_dict("records"):
        found: dict[str, Any] = {name: row[name] for name in ROW} | {"seconds": row["seconds"]}
        own = [spent(block.records[str(run)]) for run in cells[str(row["cell"])]["run_id"]]
        found |= {name: sum(getattr(s, name) for s in own) / len(own) for name in SUMS}
        if math.isnan(row["seconds"]):  # the leaderboard says when hardware differs
            found["training_seconds"] = math.nan
        rows.append(found)
    _add_gains(rows, board)
    return frames.typed(rows, COLUMNS)


def _dense(record: RunRecord) -> tuple[float, float]:
    """Epochs and multiply-accumulates of the dense training, all of it."""
    if record.spec.weights_start == "random":
        return 0.0, 0.0
    found = dense_training(record)
    if record.spec.baseline is None or found is None or record.spec.start.checkpoint:
        return math.nan, math.nan
    return record.spec.baseline.epochs, float(found[1])


def dense_training(record: RunRecord) -> tuple[int, int] | None:
    """Images and multiply-accumulates by which the suite trained the dense network, or adapted a
    checkpoint; None: it did neither, or the ledger does not tell the size of the data."""
    rows = Ledger.rows(record.spent.rows)
    whole = next((round(e.images / e.epochs) for e in rows if e.epochs), None)
    if record.spec.baseline is None or whole is None:
        return None
    images = round(record.spec.baseline.epochs * whole)
    return images, TRAIN_STEP * images * record.dense.cost.macs


def _gmacs(entries: Iterable[Entry]) -> float:
    return sum(e.macs for e in entries) / 1e9


# ---- over controls -------------------------------------------------------------------------------


def _add_gains(rows: list[dict[str, Any]], board: pd.DataFrame) -> None:
    """Differences of means to the rows of reference, in place."""
    full = [{str(k): v for k, v in row.items()} for row in board.to_dict("records")]
    plain: dict[str, list[Row]] = defaultdict(list)
    for row in full:
        is_charged = row["preparation"] == "charged" and row["reconstruct"] == "none"
        if row["method"] in REFERENCES and is_charged and not row["source"]:
            plain[row["table"]].append(row)
    for made, own in zip(rows, full, strict=True):
        if own["preparation"] == "free":
            continue  # it spends more than they do
        near = [row for row in plain[own["table"]] if _stands_beside(row, own)]
        for label in REFERENCES:
            other = reference(own, near, label)
            if other is not None and other is not own:
                made[f"over_{label}"] = own["final_mean"] - other["final_mean"]


def _stands_beside(row: Row, own: Row) -> bool:
    """At the same target and allocation, or with nothing removed, and for the same epochs in
    all."""
    is_near = row["target"] in (0, own["target"])
    is_near &= "none" in (row["allocation"], own["allocation"]) or (
        row["allocation"] == own["allocation"]
    )
    return is_near and math.isclose(row["total_epochs"], own["total_epochs"])
