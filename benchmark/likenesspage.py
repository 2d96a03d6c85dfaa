"""How alike choices are, for reading: a matrix for each table and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark import frames
from benchmark.likeness import SEVERAL, WHOLE
from benchmark.texts import md, number

NOTE = (
    "- Units that both rows keep, in % of what a row keeps. In brackets: what random choices at "
    "these widths would share, with the standard deviation of one pair of such choices. Mean over "
    "seeds, of runs that start from one dense network; - stands where two rows have none in "
    "common. On the diagonal two seeds of one row{}. `similarity.csv` has the most that different "
    "widths allow, and a figure corrected for it and for chance.\n"
)
RANKS = (
    "- Spearman correlation of the scores: 1 is the same order of channels within each layer, 0 "
    "none in common. Mean over layers and over pairs of runs whose scores are kept.\n"
)
APART = (
    ", each with a dense network of its own here: channel numbers mean nothing across them, and "
    "the figure is chance"
)


def markdown(frame: pd.DataFrame) -> str:
    """A section of a board's page: a matrix for each table and target; empty without rows."""
    whole = frame[frame["layer"] == WHOLE] if len(frame) else frame
    if whole.empty:
        return ""
    parts = ["\n## How alike the choices are"]
    for (table, target), own in whole.groupby(["table", "target"], sort=False):
        parts += [f"Table {md(str(table))}, target {target:g} %", matrix(own)]
    return "\n\n".join([*parts, NOTE.format(APART if SEVERAL in set(whole["dense"]) else "")])


def ranks_markdown(frame: pd.DataFrame) -> str:
    """The same for scores; empty where none are kept."""
    whole = frame[(frame["layer"] == WHOLE) & (frame["rank_pairs"] > 0)]
    if whole.empty:
        return ""
    parts = ["\n## How alike the scores are"]
    for (table, target), own in whole.groupby(["table", "target"], sort=False):
        parts += [f"Table {md(str(table))}, target {target:g} %", matrix(own, _rank)]
    return "\n\n".join([*parts, RANKS])


def matrix(own: pd.DataFrame, cell: Callable[[Mapping[str, Any]], str] | None = None) -> str:
    """Rows by rows: overlap and what chance gives, or what `cell` says."""
    labels = list(dict.fromkeys([*own["entry"], *own["other"]]))
    cells = {(r["entry"], r["other"]): (cell or _cell)(r) for r in frames.rows_of(own)}
    rows = [
        [f"{i + 1} {md(label)}", *[cells.get((other, label), "") for other in labels[: i + 1]]]
        for i, label in enumerate(labels)
    ]
    rows = [row + [""] * (len(labels) + 1 - len(row)) for row in rows]
    heads = ["", *[str(i + 1) for i in range(len(labels))]]
    align = ["left", *["right"] * len(labels)]
    return tabulate(rows, heads, "pipe", disable_numparse=True, colalign=align)


def _cell(row: Mapping[str, Any]) -> str:
    if not row["pairs"]:
        return "-"
    chance = f"{number(row['expected'], 1)} ± {number(row['chance_sd'], 1)}"
    return f"{number(row['overlap'], 1)} ({chance})"


def _rank(row: Mapping[str, Any]) -> str:
    return number(row["rank"], 2)
