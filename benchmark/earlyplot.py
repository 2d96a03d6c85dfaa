"""The first steps of recovery, drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.block import Block
from benchmark.early import early, recovering
from benchmark.looks import Look, appearances, ordered_entries, wrapped
from benchmark.plots import heading, height_of, legend, marker_of

CAPTION = "The first steps of recovery"
SPREAD = 0.3  # of the way between two steps, over which rows are moved apart


def figures(block: Block) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure of each target. Rows that remove nothing stand in each
    of them; controls from random weights in none, for they have nothing to recover."""
    looks = appearances(block.board)
    for table, part in early(block).groupby("table", sort=False):
        board = block.board[block.board["table"] == table]
        part = recovering(part, board)
        stem = f"{block.name}-{part['track'].iloc[0]}-{table}"
        for target in sorted({t for t in part["target"] if t > 0}):
            own = part[part["target"].isin([0.0, target])]
            drawn = curves(own, board, looks[str(table)], target)
            caption = f"{CAPTION}, target {target:g} %"
            yield str(table), f"{stem}-{target:g}-early", caption, drawn


def curves(
    part: pd.DataFrame, board: pd.DataFrame, looks: dict[str, Look], target: float
) -> Figure:
    """Validation accuracy against steps, which stand side by side; a line per row, and bars of one
    standard deviation over seeds. `board`: the table's leaderboard rows, for the caption."""
    entries = ordered_entries(part)
    steps = sorted(set(part["step"]))
    height = max(4.8, 1.4 + height_of(map(wrapped, entries)))
    figure = Figure(figsize=(8.6, height), layout="constrained")
    axes = figure.subplots()
    shifts = np.linspace(-SPREAD / 2, SPREAD / 2, len(entries)) if len(entries) > 1 else [0.0]
    for entry, shift in zip(entries, shifts, strict=True):
        _line(axes, part[part["entry"] == entry], steps, looks[entry], float(shift))
    axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
    moved = "; points are moved sideways so that all can be seen" if len(entries) > 1 else ""
    spread = ", bar: ± sample standard deviation" if (part["n"] > 1).any() else ""
    axes.set_xlabel(
        "steps of recovery; 0: after BN recalibration\n"
        + wrapped(f"mean over seeds{spread}{moved}", 80)
    )
    axes.set_ylabel("validation top-1 (%)")
    axes.legend(
        handles=legend(entries, looks), loc="upper left", bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
    )  # fmt: skip
    heading(figure, board, f"{CAPTION}, target {target:g} % of FLOPs removed")
    return figure


def _line(axes: Axes, own: pd.DataFrame, steps: list[float], look: Look, shift: float) -> None:
    ordered = own.sort_values("step", kind="stable")
    places = np.array([steps.index(step) for step in ordered["step"]]) + shift
    repeated = ordered["val_sd"].notna().to_numpy()
    axes.errorbar(
        places[repeated], ordered.loc[repeated, "val_mean"], yerr=ordered.loc[repeated, "val_sd"],
        color=look.colour, linestyle="none", capsize=2, elinewidth=1, zorder=2,
    )  # fmt: skip
    axes.plot(
        places, ordered["val_mean"], linestyle=look.line, linewidth=1.2, zorder=3,
        **marker_of(look) | {"markersize": 5},
    )  # fmt: skip
