"""How fast networks recover: validation accuracy after the first steps, from records alone."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pandas as pd

from benchmark import frames, summaries
from benchmark.block import Block
from benchmark.columns import PERCENT, Column
from benchmark.optimism import KNOWN, ROW

COLUMNS: list[Column] = [
    *[KNOWN[name] for name in ROW],
    Column("step", "steps of recovery; 0: after recalibration of batch norm", "steps", 0),
    Column("n", "seeds that noted it", "", 0),
    Column("val_mean", "mean validation top-1 after the step, of 5,000 images at most, the same "
           "for all runs on the data", PERCENT, 2),
    Column("val_sd", "its sample standard deviation over seeds; empty below 2 seeds", PERCENT, 2),
]  # fmt: skip


def early(block: Block) -> pd.DataFrame:
    """One row per cell and step, in the order of the leaderboard; none for records of earlier
    versions, which noted no steps."""
    runs = block.runs[block.runs["status"] == "done"]
    parts = {str(cell): part for cell, part in runs.groupby("cell", sort=False)}
    rows: list[dict[str, Any]] = []
    for row in frames.rows_of(block.board[block.board["n"] > 0]):
        noted: dict[int, list[float]] = defaultdict(list)
        for run in frames.rows_of(parts[row["cell"]].sort_values("seed", kind="stable")):
            for step, share in block.records[run["run_id"]].early:
                noted[step].append(100 * share)
        known = {name: row[name] for name in ROW}
        for step, values in sorted(noted.items()):
            found = summaries.summary(values)
            told = {"step": step, "n": len(values), "val_mean": found["mean"]}
            rows.append(known | told | {"val_sd": found["sd"]})
    return frames.typed(rows, COLUMNS)


def recovering(found: pd.DataFrame, board: pd.DataFrame) -> pd.DataFrame:
    """Without controls from random weights, which have nothing to recover: what is shown."""
    anew = board[(board["start"] == "random") & (board["control"] == 1)]
    return found[~found["cell"].isin(anew["cell"])]
