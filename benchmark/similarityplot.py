"""Heat maps of how alike the choices of a table's rows are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns  # type: ignore[import-untyped, unused-ignore]
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import tables
from benchmark.block import Block
from benchmark.likeness import SEVERAL, WHOLE, similarity
from benchmark.looks import wrapped
from benchmark.texts import number

ANNOTATED = 14  # rows up to which numbers fit
CAPTION = "Kept channels that two rows have in common, beside what chance gives"
QUANTITIES = {
    "beyond": "overlap beyond chance\n(0: as random choices, 1: the most)",
    "rank": "Spearman correlation\nof scores, mean over layers",
}


def figures(block: Block) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure, for tables with two rows that choose channels."""
    found = similarity(block)
    for table, part in found.groupby("table", sort=False):
        if len(_labels(part)) > 1:
            first = part.iloc[0]
            stem = f"{block.name}-{first['track']}-{table}-similarity"
            title = tables.caption(block.board[block.board["table"] == table])
            yield str(table), stem, CAPTION, heat_maps(part, title)


def heat_maps(part: pd.DataFrame, title: str, quantity: str = "beyond") -> Figure:
    """A panel per target, from the whole-network rows of `likeness.similarity` of one table.
    Colour is the quantity; numbers are overlap and, smaller, what chance gives."""
    whole = part[part["layer"] == WHOLE]
    targets = sorted(set(whole["target"]))
    count = max(len(_labels(whole[whole["target"] == t])) for t in targets)
    cell = 0.62 if count <= ANNOTATED else 0.3
    size = (3.6 + cell * count, 1.2 + len(targets) * (0.7 + 0.8 * cell * count))
    figure = Figure(figsize=(max(6.4, size[0]), size[1]))
    figure.set_layout_engine("constrained", h_pad=0.1)
    grid = figure.subplots(len(targets), 1, squeeze=False)[:, 0]
    for axes, target in zip(grid, targets, strict=True):
        _panel(axes, whole[whole["target"] == target], quantity, count <= ANNOTATED)
        axes.set_title(f"target {target:g} % of FLOPs removed", loc="left")
    bar = figure.colorbar(grid[0].collections[0], ax=list(grid), fraction=0.04, pad=0.02)
    bar.set_label(QUANTITIES[quantity])
    figure.suptitle(
        f"How alike the choices are\n{wrapped(title, 80)}\n{wrapped(_small(whole), 90)}",
        x=0.01, ha="left", fontsize="small",
    )  # fmt: skip
    return figure


def _labels(whole: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys([*whole["entry"], *whole["other"]]))


def _panel(axes: Axes, whole: pd.DataFrame, quantity: str, annotated: bool) -> None:
    labels = _labels(whole)
    place = {label: i for i, label in enumerate(labels)}
    values = np.full((len(labels), len(labels)), np.nan)
    texts = np.full(values.shape, "", dtype=object)
    for row in whole.to_dict("records"):
        at = place[row["other"]], place[row["entry"]]
        values[at] = row[quantity]
        if row["pairs"]:
            texts[at] = f"{number(row['overlap'], 0)}\n({number(row['expected'], 0)})"
        if quantity == "rank":
            texts[at] = number(row["rank"], 2)
    sns.heatmap(
        pd.DataFrame(values), ax=axes, vmin=-1, vmax=1, cmap="vlag", cbar=False,
        annot=texts if annotated else None, fmt="", annot_kws={"fontsize": 7}, linewidths=0.5,
        yticklabels=[f"{wrapped(label, 34)}  {i + 1}" for i, label in enumerate(labels)],
        xticklabels=[str(i + 1) for i in range(len(labels))], mask=np.isnan(values),
    )  # fmt: skip
    axes.set_facecolor("white")
    axes.grid(False)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="y", rotation=0)


def _small(whole: pd.DataFrame) -> str:
    """How to read it."""
    text = [
        "% of kept units that both keep, and in brackets what random choices at these widths "
        "would share; mean over seeds, of runs that start from one dense network"
    ]
    diagonal = whole[whole["entry"] == whole["other"]]
    if len(diagonal):
        apart = ", whose dense networks differ: chance" if SEVERAL in set(diagonal["dense"]) else ""
        text.append(f"diagonal: two seeds of one row{apart}")
    return "; ".join(text)
