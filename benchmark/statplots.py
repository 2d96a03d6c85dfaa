"""Figures of the paired statistics: verdicts of a table, and performance profiles over blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import findings, frames, tables
from benchmark.across import SETTING
from benchmark.block import Block
from benchmark.column import later
from benchmark.granted import NOT_CLAIMED, PAYS
from benchmark.lanecolumns import named
from benchmark.looks import Look, appearances, wrapped
from benchmark.matchups import REFERENCES
from benchmark.paired import CONDITIONAL, MARGIN
from benchmark.plots import height_of
from benchmark.spec import digest

CLAIM = "bold"
TICKS = (1, 1.1, 1.3, 1.5, 2, 3, 5)  # error ratios


def figures(block: Block, comparisons: pd.DataFrame) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure, for tables that have a paired result."""
    appearance = appearances(block.board)
    for table, part in block.board.groupby("table", sort=False):
        found = findings.declared(part, comparisons)
        found = found[found["mean"].notna()]
        if len(found):
            first = part.iloc[0]
            stem = f"{first['data']}-{first['arch']}-{first['track']}-{table}-verdicts"
            caption = "Paired differences to the references, with simultaneous 95 % intervals"
            yield str(table), stem, caption, forest(part, found, appearance[str(table)])


def forest(part: pd.DataFrame, found: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    """Differences of the declared family, a row of panels per target and a column per reference.
    The band is the margin; words are verdicts."""
    targets = sorted(set(found["target"]))
    names = [name for name in REFERENCES if name in set(found["reference_method"])]
    entries = {t: sorted(set(found.loc[found["target"] == t, "entry"]))[::-1] for t in targets}
    heights = [len(entries[t]) for t in targets]
    size = (2.6 + 2.9 * len(names), 1.7 + 0.55 * len(targets) + 0.34 * sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(targets), len(names), squeeze=False, sharex="col", sharey="row", height_ratios=heights
    )
    titles = part.drop_duplicates("method").set_index("method")["title"]
    for panels, target in zip(grid, targets, strict=True):
        for axes, name in zip(panels, names, strict=True):
            own = found[(found["target"] == target) & (found["reference_method"] == name)]
            _panel(axes, own, entries[target], looks)
            axes.set_title(f"against {wrapped(str(titles[name]))}, target {target:g} %", loc="left")
        labels = [wrapped(entry, 26) for entry in entries[target]]
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(-0.6, len(labels) - 0.4)
    for axes, name in zip(grid[0], names, strict=True):
        _limits(axes, found[found["reference_method"] == name])
    figure.supxlabel(wrapped(_small(found), int(14 * size[0])), fontsize="small")
    letters = int(15 * size[0])
    figure.suptitle(f"What can be claimed\n{wrapped(tables.caption(part), letters)}", x=0.01,
                    ha="left", fontsize="small")  # fmt: skip
    return figure


def _panel(axes: Axes, own: pd.DataFrame, entries: list[str], looks: Mapping[str, Look]) -> None:
    axes.axvspan(-MARGIN, MARGIN, color="#0072b2", alpha=0.12, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    for row in frames.rows_of(own):
        y, look = entries.index(row["entry"]), looks[row["entry"]]
        line = "--" if row["scope"] == CONDITIONAL else "-"
        axes.plot([row["low_95"], row["high_95"]], [y, y], color=look.colour, linestyle=line,
                  linewidth=1.6, label=f"_{row['entry']}")  # fmt: skip
        axes.plot([row["mean"]], [y], color=look.colour, marker=look.marker, markersize=5.5,
                  markerfacecolor=look.colour if look.filled else "white")  # fmt: skip
        is_claim = findings.is_firm(row)
        axes.annotate(
            row["verdict"], (row["mean"], y), xytext=(0, 4.5), textcoords="offset points",
            ha="center", va="bottom", fontsize=6.5, fontweight=CLAIM if is_claim else "normal",
            color="black" if is_claim else "#555555",
            bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.3},
        )  # fmt: skip


def _limits(axes: Axes, found: pd.DataFrame) -> None:
    """Room for the margin, and for words beside the outermost points."""
    low, high = float(found["low_95"].min()), float(found["high_95"].max())
    low, high = min(low, -2 * MARGIN), max(high, 2 * MARGIN)
    room = 0.08 * (high - low)
    axes.set_xlim(low - room, high + room)


def _small(found: pd.DataFrame) -> str:
    text = [
        "test top-1, row minus reference on the same seeds and images (percentage points)",
        "bars: 95 % intervals that hold together for all comparisons of a target",
        f"band: margin of {MARGIN} points",
    ]
    if (found["scope"] == CONDITIONAL).any():
        text.append(f"dashed: {CONDITIONAL}")
    if (found["verdict"] == PAYS).any():
        text.append(f"{PAYS}: the sign changes when preparation is free")
    if (found["verdict"] == NOT_CLAIMED).any():
        text.append(f"{NOT_CLAIMED}: for the reasons in the table")
    return "; ".join(text)


# ---- over blocks ---------------------------------------------------------------------------------


def profile_figures(
    profiles: pd.DataFrame, board: pd.DataFrame
) -> Iterator[tuple[str, str, Figure]]:
    """File stem, caption and figure for each setting, from rows of `across.profiles` and the
    leaderboards of all blocks, which tell how methods look."""
    for _, part in profiles.groupby(list(SETTING), sort=True, dropna=False):
        setting = {name: part.iloc[0][name] for name in SETTING}
        text = [str(value) for value in later(setting, SETTING)]
        stem = f"profiles-{setting['track']}-{digest(text, 6)}"
        yield stem, "Performance profiles over all cells", profile(part, board)


def profile(part: pd.DataFrame, board: pd.DataFrame) -> Figure:
    """Share of cells in which a method's error is at most a multiple of the smallest error."""
    colours = _method_looks(board)
    labels = _labels(part)
    height = max(4.2, 0.6 + height_of(map(wrapped, sorted(set(labels)))))
    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.subplots()
    for label in sorted(set(labels)):
        own = part[labels == label]
        look = colours[str(own["method"].iloc[0])]
        axes.step(own["ratio"], own["share"], where="post", color=look.colour, marker=look.marker,
                  markersize=4, linewidth=1.4, label=wrapped(label))  # fmt: skip
    axes.set_xlabel("error over the smallest error of the cell (at most)")
    axes.set_ylabel("cells (%)")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{ratio:g}" for ratio in TICKS])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    first = part.iloc[0]
    what = (
        f"Performance profiles over {first['cells']:.0f} cells of data, architecture and target: "
        f"{first['track']} track{named(first)}, budget {first['budget_epochs']:g} epochs"
    )
    figure.suptitle(wrapped(what, 110), x=0.01, ha="left", fontsize="small")
    return figure


def _method_looks(board: pd.DataFrame) -> dict[str, Look]:
    """Of the first row of each method: colour and marker are the same in all tables."""
    looks: dict[str, Look] = {}
    appearance = appearances(board)
    for row in board.sort_values(["method", "entry"]).itertuples():
        looks.setdefault(str(row.method), appearance[str(row.table)][str(row.entry)])
    return looks


def _labels(part: pd.DataFrame) -> pd.Series[str]:
    """Title, and what tells rows of one method apart."""
    refit = part["reconstruct"].map({"ls": " + LS"}).fillna("")
    label = part["title"] + refit
    for name in ("allocation", "params", "revision", "source"):
        kinds = part.assign(label=label).groupby(["method", "label"])[name].transform("nunique")
        label = label.where(kinds == 1, label + ", " + part[name].astype(str))
    return label
