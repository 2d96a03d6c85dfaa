"""What choosing an epoch is worth: last epoch, best validation epoch and best test epoch of the
same runs, paired by seed.

The last epoch is the honest figure. The best test epoch is chosen by what it reports; its gap to
the last cannot be negative, however good the network is, and is pure selection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from benchmark import frames, summaries
from benchmark.block import Block
from benchmark.columns import PERCENT, POINTS, SPEC, Column

EPOCHS = {"last": "test_final", "best_val": "test_best_val", "best_test": "test_best_test"}
OVER = ("epochs", "test epochs over which the maximum was taken: more of them find a higher one")
GAPS = {  # name: the larger, the smaller
    "test_over_last": ("best_test", "last"),
    "test_over_val": ("best_test", "best_val"),
    "val_over_last": ("best_val", "last"),
}
TITLES = {"last": "last epoch", "best_val": "best validation epoch", "best_test": "best test epoch"}
ROW = ["track", "data", "arch", "table", "target", "entry", "method", "control", "cell"]
KNOWN = {c.name: c for c, _ in SPEC} | {
    "table": Column("table", "rows with one value stand in one printed table"),
    "entry": Column("entry", "row label"),
    "control": Column("control", "1: a control", "", 0),
}


def _gap_columns(over: str) -> Iterator[Column]:
    for name, (larger, smaller) in GAPS.items():
        what = f"{TITLES[larger]} minus {TITLES[smaller]}, test top-1, paired by seed"
        yield Column(f"{name}_n", f"seeds{over} with both of: {what}", "", 0)
        yield Column(f"{name}_mean", f"mean over seeds{over} of: {what}", POINTS, 2)
        yield Column(f"{name}_sd", "its sample standard deviation; empty below 2 seeds", POINTS, 2)
        yield Column(f"{name}_low", "95 % t-interval of the mean, lower end; from 3 seeds, not cut "
                     "at 0", POINTS, 2)  # fmt: skip
        yield Column(f"{name}_high", "upper end", POINTS, 2)


COLUMNS: list[Column] = [
    *[KNOWN[name] for name in ROW],
    Column("n", "seeds with a result", "", 0),
    Column(OVER[0], f"{OVER[1]}; mean over seeds", "epochs", 2),
    *[Column(f"{name}_mean", f"mean test top-1 of the {TITLES[name]}, over the seeds that have it",
             PERCENT, 2) for name in EPOCHS],
    *_gap_columns(""),
]  # fmt: skip
METHODS: list[Column] = [
    *[KNOWN[name] for name in ROW if name not in ("target", "cell")],
    Column("cells", "rows of the table that were averaged", "", 0),
    Column(OVER[0], f"{OVER[1]}; mean over the runs of all these rows", "epochs", 2),
    *_gap_columns(" that have a result in all these rows, of the seed's mean over them,"),
]


def optimism(block: Block) -> pd.DataFrame:
    """One row per cell with a result, in the order of the leaderboard."""
    runs = {str(cell): part for cell, part in _gaps(block).groupby("cell", sort=False)}
    rows = []
    for row in block.board[block.board["n"] > 0].to_dict("records"):
        part = runs[str(row["cell"])]
        found: dict[str, Any] = {name: row[name] for name in ROW} | {"n": len(part)}
        found["epochs"] = summaries.summary(part["epochs"].tolist())["mean"]
        found |= {f"{k}_mean": summaries.summary(part[c].tolist())["mean"]
                  for k, c in EPOCHS.items()}  # fmt: skip
        rows.append(found | _summaries(part))
    return frames.typed(rows, COLUMNS)


def by_method(block: Block) -> pd.DataFrame:
    """One row per row label of each table. A seed is one observation, its mean over all cells: the
    cells of a seed share a dense network, so they do not count as if they were independent."""
    rows = []
    for _, part in _gaps(block).groupby(["table", "entry"], sort=True):
        cells = part["cell"].nunique()
        found = {name: part.iloc[0][name] for name in ROW} | {"cells": cells}
        found["epochs"] = summaries.summary(part["epochs"].tolist())["mean"]
        seeds = part.groupby("seed", sort=True)[list(GAPS)].agg(_mean_of_all(cells))
        rows.append(found | _summaries(seeds))
    return frames.typed(rows, METHODS)


def _gaps(block: Block) -> pd.DataFrame:
    runs = block.runs
    done = runs.loc[runs["status"] == "done", [*ROW, "run_id", "seed", *EPOCHS.values()]]
    known = zip(done["run_id"], done["test_best_test"].notna(), strict=True)
    epochs = [_test_epochs(block, run_id) if has else math.nan for run_id, has in known]
    gaps = {gap: done[EPOCHS[a]] - done[EPOCHS[b]] for gap, (a, b) in GAPS.items()}
    return done.assign(epochs=epochs, **gaps)


def _test_epochs(block: Block, run_id: str) -> float:
    """Of the measurement whose best test epoch counts."""
    measured = block.store.measurements(block.records[run_id].spec, "optimistic")
    best = max(measured, key=lambda facts: float(facts["best_test_top1"]), default={})
    return float(best.get("epochs", math.nan))


def _mean_of_all(cells: int) -> Any:
    def mean(values: pd.Series[float]) -> float:
        return float(values.mean()) if values.notna().sum() == cells else math.nan

    return mean


def _summaries(part: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {}
    for gap in GAPS:
        found[f"{gap}_n"] = int(part[gap].notna().sum())
        found |= {f"{gap}_{k}": v for k, v in summaries.summary(part[gap].tolist()).items()}
    return found
