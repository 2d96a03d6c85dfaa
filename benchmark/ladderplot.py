"""What choices keep at many targets before any recovery, drawn."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.block import Block
from benchmark.laddertable import ladder
from benchmark.looks import Look, appearances, ordered_entries, wrapped
from benchmark.plots import heading, height_of, legend, marker_of

CAPTION = "Accuracy without recovery against FLOPs removed"
TICKS = (5, 10, 20, 40, 80)  # % of FLOPs
PANELS = {
    "recalibrated": "the choice",
    "inverse": "its inverse, at the same widths, without refits",
}


def figures(block: Block) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure, for tables of which something was measured."""
    found = ladder(block)
    looks = appearances(block.board)
    for table, part in found[found["n"] > 0].groupby("table", sort=False):
        stem = f"{block.name}-{part['track'].iloc[0]}-{table}-ladder"
        board = block.board[block.board["table"] == table]
        yield str(table), stem, CAPTION, rungs(part, board, looks[str(table)])


def rungs(part: pd.DataFrame, board: pd.DataFrame, looks: dict[str, Look]) -> Figure:
    """Validation accuracy after BN recalibration, a line per row, and below it that of inverses,
    where some are known. `board`: the table's leaderboard rows, for the caption."""
    panels = [name for name in PANELS if part[f"{name}_mean"].notna().any()]
    entries = ordered_entries(part)
    tall = 1.4 + height_of([*map(wrapped, entries), "dense"])
    figure = Figure(figsize=(8.6, max(1.2 + 3.2 * len(panels), tall)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    levels = sorted(set(part["dense_mean"].dropna()))
    for axes, name in zip(grid, panels, strict=True):
        for entry in entries:
            _line(axes, part[part["entry"] == entry], name, looks[entry])
        for level in levels:
            axes.axhline(level, color="black", linestyle=":", linewidth=1)
        axes.set_title(PANELS[name], loc="left")
        axes.set_ylabel("validation top-1 (%)")
    grid[-1].set_xscale("log")
    grid[-1].set_xticks(TICKS, [f"{tick}" for tick in TICKS])
    grid[-1].minorticks_off()
    spread = "; bar: ± sample standard deviation" if (part["n"] > 1).any() else ""
    grid[-1].set_xlabel(
        "achieved FLOPs reduction (% of dense multiply-accumulates)\nafter BN recalibration, "
        f"without recovery; mean over seeds{spread}"
    )
    handles = legend(entries, looks)
    if levels:
        handles.append(Line2D([], [], color="black", linestyle=":", linewidth=1, label="dense"))
    figure.legend(handles=handles, loc="outside right center")  # beside all panels, not one
    heading(figure, board, CAPTION)
    return figure


def _line(axes: Axes, own: pd.DataFrame, name: str, look: Look) -> None:
    ordered = own[own[f"{name}_mean"].notna()].sort_values("reduction_mean", kind="stable")
    repeated = ordered[ordered[f"{name}_sd"].notna()]
    axes.errorbar(
        repeated["reduction_mean"], repeated[f"{name}_mean"], yerr=repeated[f"{name}_sd"],
        color=look.colour, linestyle="none", capsize=2, elinewidth=1, zorder=2,
    )  # fmt: skip
    axes.plot(
        ordered["reduction_mean"], ordered[f"{name}_mean"], linestyle=look.line, linewidth=1.2,
        zorder=3, **marker_of(look) | {"markersize": 5},
    )  # fmt: skip
