"""Heat maps of what each class gained or lost by pruning."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns  # type: ignore[import-untyped, unused-ignore]
from matplotlib.figure import Figure

from benchmark.looks import wrapped

ANNOTATED = 20  # classes up to which numbers fit
CAPTION = (
    "Accuracy per class after recovery minus that of the dense network, mean over seeds, in "
    "percentage points. Only test images whose label some run reveals are counted."
)


def classes(part: pd.DataFrame, title: str) -> Figure:
    """Heat maps of final minus dense accuracy, entries down, classes across, a panel per target."""
    gained = part.assign(gain=part["final"] - part["dense"])
    targets = sorted(set(gained["target"]))
    grids = [
        gained[gained["target"] == t].set_index(["control", "entry", "cell", "class"])["gain"]
        .unstack("class")
        for t in targets
    ]  # fmt: skip
    reach = max(1.0, float(np.nanmax([*np.abs(gained["gain"].dropna()), 0.0])))
    many = grids[0].shape[1] > ANNOTATED
    wide = 3.6 + (0.12 if many else 0.5) * grids[0].shape[1]
    figure = Figure(figsize=(min(14, wide), 1.6 + sum(0.5 + 0.3 * len(g) for g in grids)))
    figure.set_layout_engine("constrained", h_pad=0.08)
    rows = [len(g) for g in grids]
    axes = figure.subplots(len(grids), 1, squeeze=False, sharex=True, height_ratios=rows)[:, 0]
    for own, grid, target in zip(axes, grids, targets, strict=True):
        sns.heatmap(
            grid, ax=own, vmin=-reach, vmax=reach, cmap="vlag_r", cbar=False,
            annot=None if many else grid.round(1) + 0.0, fmt=".1f",  # + 0.0: no minus before zero
            linewidths=0 if many else 0.5, annot_kws={"fontsize": 7},
            yticklabels=[wrapped(entry, 40) for _, entry, _ in grid.index],
            xticklabels=[f"{c:.0f}" for c in grid.columns] if not many else "auto",
        )  # fmt: skip
        own.set(xlabel="", ylabel="")
        own.set_facecolor("#dddddd")
        own.grid(False)
        own.tick_params(axis="y", rotation=0)
        own.set_title(f"target {target:g} % of FLOPs removed", loc="left")
    axes[-1].set_xlabel("class")
    bar = figure.colorbar(axes[0].collections[0], ax=list(axes), fraction=0.03, pad=0.01)
    bar.set_label("points gained (+) or lost (-)")
    small = _small(part)
    figure.suptitle(
        f"Accuracy per class, final minus dense, mean over seeds\n{title}\n{wrapped(small, 80)}",
        x=0.01, ha="left", fontsize="small",
    )  # fmt: skip
    return figure


def _small(part: pd.DataFrame) -> str:
    """What the figure rests on."""
    images = part.groupby("class")["images"].first()
    low, high = f"{images.min():.0f}", f"{images.max():.0f}"
    text = f"{low if low == high else f'{low} to {high}'} test images a class"
    if images.min() > 0:
        text += f", so one image more or less in one run is {100 / images.min():.2g} points"
    if (left_out := part["unrevealed"].max()) > 0:
        text += f"; {left_out:.0f} more have no known label"
    if part["drop"].isna().any():
        text += "; grey: the dense network's predictions are in no record"
    return text
