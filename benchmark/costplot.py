"""What was spent and what selection is worth: drawings of benchmark.costs and optimism."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark import summaries
from benchmark.block import Block
from benchmark.costs import budget
from benchmark.looks import Look, appearances, ordered_entries, wrapped
from benchmark.optimism import optimism
from benchmark.plots import heading, height_of, legend, marker_of

SPENT, WORTH = "Accuracy against total training cost", "What test-set selection alone is worth"


def figures(block: Block) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure: of every table its budget, and its optimism where best
    test epochs are known."""
    looks = appearances(block.board)
    costs, gaps = budget(block), optimism(block)
    for table, part in costs.groupby("table", sort=False):
        board = block.board[block.board["table"] == table]
        stem = f"{block.name}-{part['track'].iloc[0]}-{table}"
        yield str(table), f"{stem}-budget", SPENT, spending(part, board, looks[str(table)])
        worth = gaps[(gaps["table"] == table) & (gaps["test_over_last_n"] > 0)]
        if len(worth):
            drawn = selection(worth, board, looks[str(table)])
            yield str(table), f"{stem}-optimism", WORTH, drawn


# ---- budget --------------------------------------------------------------------------------------


def spending(part: pd.DataFrame, board: pd.DataFrame, looks: dict[str, Look]) -> Figure:
    """Final accuracy against training multiply-accumulates, a panel per target. Rows that remove
    nothing stand in every panel. Where the cost of a dense training is not known it is left out for
    all, and the axis says so. `board`: the table's leaderboard rows, for the caption."""
    targets = sorted(t for t in set(part["target"]) if t > 0) or [0.0]
    whole = bool(part["spent_gmacs"].notna().all())
    cost = part["spent_gmacs"] if whole else part["prepare_gmacs"] + part["recovery_gmacs"]
    placed = part.assign(cost=cost / 1000)
    entries = ordered_entries(part)
    tall = 1.2 + height_of([*map(wrapped, entries), "dense"])
    figure = Figure(figsize=(8.6, max(1.4 + 2.6 * len(targets), tall)), layout="constrained")
    grid = figure.subplots(len(targets), 1, sharex=True, squeeze=False)
    lowest, highest = float(placed["cost"].min()), float(placed["cost"].max())
    step = 0.015 * (highest - lowest) or 0.01 * highest
    moved = 0.0
    for axes, target in zip(grid[:, 0], targets, strict=True):
        apart = _apart(placed[placed["target"].isin([0.0, target])], step)
        moved = max(moved, float((apart["cost"] - placed["cost"]).abs().max()))
        for row in apart.itertuples():
            _point(axes, row, looks[str(row.entry)])
        if whole:
            _dense(axes, part)
        axes.set_title(f"target {target:g} % of FLOPs removed", loc="left")
        axes.set_ylabel("test top-1 after recovery (%)")
        axes.margins(x=0.08, y=0.12)
    what = "dense training, preparation and recovery" if whole else "preparation and recovery only"
    grid[-1, 0].set_xlabel(
        f"training multiply-accumulates (10^12): {what}\n"
        + wrapped(_bars(part) + _shift(moved), 80)
    )
    handles = legend(entries, looks)
    for handle in handles:
        handle.set_linestyle("none")
    if whole and part["dense_gmacs"].gt(0).any():
        handles.append(Line2D([], [], label="dense network as it was trained", **DENSE))
    figure.legend(handles=handles, loc="outside right center")  # beside all panels, not one
    heading(figure, board, SPENT)
    return figure


def _apart(rows: pd.DataFrame, step: float) -> pd.DataFrame:
    """Rows of about one cost moved sideways by a step each, so that all can be seen."""
    ordered = rows.sort_values("entry", kind="stable")
    same = ordered.groupby((ordered["cost"] / step).round())["cost"]
    shift = same.cumcount() - (same.transform("size") - 1) / 2
    return ordered.assign(cost=ordered["cost"] + step * shift)


def _shift(moved: float) -> str:
    """By how much points are moved, in units of the axis."""
    if not moved:
        return ""
    return f"; points are moved sideways by up to {moved:.2g} so that all can be seen"


DENSE: dict[str, Any] = {
    "color": "black", "marker": "*", "markersize": 9, "linestyle": "none", "zorder": 4,
}  # fmt: skip


def _point(axes: Axes, row: Any, look: Look) -> None:
    if not math.isnan(row.final_low):
        axes.plot(
            [row.cost, row.cost], [row.final_low, row.final_high], color=look.colour, linewidth=1,
            zorder=2,
        )  # fmt: skip
    axes.plot([row.cost], [row.final_mean], linestyle="none", zorder=3, **marker_of(look))


def _dense(axes: Axes, part: pd.DataFrame) -> None:
    """What the dense training alone gives, for what it cost."""
    known = part[part["dense_gmacs"].gt(0) & part["dense_mean"].notna()]
    for cost, top1 in sorted(set(zip(known["dense_gmacs"], known["dense_mean"], strict=True))):
        axes.plot([cost / 1000], [top1], **DENSE)


def _bars(part: pd.DataFrame) -> str:
    few = part["n"] < summaries.LEAST_SEEDS
    less = f"; no bar: fewer than {summaries.LEAST_SEEDS} seeds" if few.any() else ""
    return f"mean over seeds, bar: 95 % t-interval{less}"


# ---- optimism ------------------------------------------------------------------------------------


def selection(part: pd.DataFrame, board: pd.DataFrame, looks: dict[str, Look]) -> Figure:
    """Best test epoch minus last epoch per entry, with its interval; a panel per target. `board`:
    the leaderboard rows of the table, for the caption."""
    targets = sorted(set(part["target"]))
    entries = ordered_entries(part)[::-1]
    rows = {t: [e for e in entries if e in set(part.loc[part["target"] == t, "entry"])]
            for t in targets}  # fmt: skip
    height = 1.6 + 0.45 * len(targets) + 0.28 * sum(map(len, rows.values()))
    figure = Figure(figsize=(8.2, height), layout="constrained")
    grid = figure.subplots(
        len(targets), 1, sharex=True, squeeze=False, height_ratios=[len(rows[t]) for t in targets]
    )
    for axes, target in zip(grid[:, 0], targets, strict=True):
        here = part[part["target"] == target].set_index("entry")
        axes.axvline(0, color="black", linewidth=1)
        for y, entry in enumerate(rows[target]):
            _gap(axes, here.loc[entry], y, looks[entry])
        axes.set_yticks(range(len(rows[target])), [wrapped(e, 40) for e in rows[target]])
        axes.set_ylim(-0.6, len(rows[target]) - 0.4)
        axes.set_title(f"target {target:g} % of FLOPs removed", loc="left")
    grid[-1, 0].set_xlabel(
        "best test epoch minus last epoch of the same runs, test top-1 (percentage points)\n"
        + _bars(part)
    )
    heading(figure, board, WORTH)
    return figure


def _gap(axes: Axes, row: pd.Series[Any], y: int, look: Look) -> None:
    mean, low, high = (row[f"test_over_last_{k}"] for k in ("mean", "low", "high"))
    if not math.isnan(low):
        axes.plot([low, high], [y, y], color=look.colour, linewidth=1.2, zorder=2)
    axes.plot([mean], [y], linestyle="none", zorder=3, **marker_of(look))
