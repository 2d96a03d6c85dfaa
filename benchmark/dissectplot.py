"""Figures of dissections and of accuracy per class: from records and measurements alone."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns  # type: ignore[import-untyped, unused-ignore]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmark import classplot, diagnosticsplot, dissection, perclass
from benchmark.block import Block
from benchmark.dissection import KIND, VERSION, removed_channels, removed_per_class
from benchmark.looks import wrapped
from benchmark.maskplot import DARK, bars, chosen
from benchmark.record import RunRecord

Facts = Mapping[str, Any]
RULES = (
    ("serves", "fire at least 1.25 times their average"),
    ("prefers", "fire most"),
    ("masks_above_neutral", "have a mask above neutral"),
)
REMOVED = "#a03010"


def figures(block: Block) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure of everything there is to draw."""
    frame = perclass.class_accuracy(block)
    for (track, table), part in frame.groupby(["track", "table"], sort=True):
        stem = f"{block.name}-{track}-{table}-classes"
        if part["drop"].notna().any():
            title = f"{block.data}, {block.arch}, {track} track"
            yield str(table), stem, classplot.CAPTION, classplot.classes(part, title)
    done = block.runs[block.runs["status"] == "done"]
    for row in done.itertuples():
        record = block.records[str(row.run_id)]
        facts = dissection_of(block, record)
        if facts is None:
            continue
        stem = f"{block.name}-{row.track}-{row.table}-dissection-{row.run_id}"
        title = f"{row.entry}, target {row.target:g} %\n" + subject(record)
        for name, caption, figure in of_run(facts, title):
            yield str(row.table), f"{stem}-{name}", caption, figure


def dissection_of(block: Block, record: RunRecord) -> Facts | None:
    """The measurement of a run; the first by name where several machines made one."""
    found = block.store.measurements(record.spec, KIND)
    return next((facts for facts in found if facts.get("version") == VERSION), None)


def subject(record: RunRecord) -> str:
    """Which run a figure is of."""
    spec = record.spec
    return f"{spec.data.name}, {spec.arch.name}, {spec.track} track, seed {spec.seeds.run}"


def of_run(facts: Facts, title: str) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of each part of a dissection."""
    yield "scores", SCORES, scores(facts, title)
    yield "selectivity", SELECTIVITY, selectivity(facts, title)
    yield "served", SERVED, served(facts, title)
    yield "gallery", GALLERY, gallery(facts, title)
    if diagnosticsplot.panels_of(facts):
        yield "training", dissection.paragraph(facts), diagnosticsplot.training(facts, title)


SCORES = (
    "Score of every channel in the layer's own order; dark channels were kept, light ones removed. "
    "Bars do not begin at zero: the order decides."
)
SELECTIVITY = (
    "Score of every channel against its class selectivity (0: fires alike for all classes, 1: for "
    "one alone) in the dense network. rho: Spearman correlation within the layer."
)
SERVED = (
    "Removed channels of each layer by the classes they served in the dense network; colour: share "
    "of the layer's removed channels."
)
GALLERY = (
    "The most class-specific and the most general channels among the removed and the kept ones, "
    "with the images that excite each most, the strongest first; the class is above each image."
)


# ---- panels of layers ----------------------------------------------------------------------------


def scores(facts: Facts, title: str) -> Figure:
    """Bars of scores, a panel per layer."""
    figure, panels = layer_panels(facts, "Scores", title, 1.5)
    for axes, layer in panels:
        kept = np.flatnonzero(layer["kept"]).tolist()
        bars(axes, np.array(layer["scores"]), kept)
    figure.supxlabel("channel, in the layer's own order; dark: kept, light: removed", fontsize=9)
    return figure


def selectivity(facts: Facts, title: str) -> Figure:
    """Scores against selectivity, a panel per layer."""
    figure, panels = layer_panels(facts, "Scores against class selectivity", title, 1.9)
    known = [i for layer in facts["layers"].values() for i in layer["selectivity"] if i is not None]
    top = max(known, default=1.0) + 0.05
    for axes, layer in panels:
        index = np.array(layer["selectivity"], dtype=float)  # None becomes NaN: not drawn
        kept = np.array(layer["kept"], dtype=bool)
        for chosen_, face, name in ((~kept, "white", "removed"), (kept, DARK, "kept")):
            axes.plot(
                np.array(layer["scores"])[chosen_], index[chosen_], linestyle="none", marker="o",
                markersize=4, markerfacecolor=face, markeredgecolor=DARK, label=name,
            )  # fmt: skip
        rho = layer["score_against_selectivity"]
        axes.set_title(f"{axes.get_title()}, rho {'-' if rho is None else f'{rho:+.2f}'}",
                       fontsize="small")  # fmt: skip
        axes.set_ylim(-0.03, top)
        axes.tick_params(labelsize=6)
        axes.locator_params(axis="x", nbins=4)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower right", ncols=2)
    figure.supxlabel("score", fontsize=9)
    figure.supylabel("class selectivity", fontsize=9)
    return figure


def layer_panels(
    facts: Facts, what: str, title: str, height: float
) -> tuple[Figure, list[tuple[Axes, Facts]]]:
    """A grid of panels with the layers' names, and what is known of each."""
    names = chosen(list(facts["layers"]))
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.0 + 3.2 * columns, 1.5 + height * rows))
    figure.set_layout_engine("constrained", h_pad=0.06)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name, fontsize="small")
    shown = "" if len(names) == len(facts["layers"]) else (
        f"\n{len(names)} of {len(facts['layers'])} layers: the first, the last, evenly between"
    )  # fmt: skip
    figure.suptitle(f"{what}: {title}{shown}", fontsize="medium")
    return figure, [(a, facts["layers"][n]) for a, n in zip(grid, names, strict=False)]


# ---- classes that removed channels served --------------------------------------------------------


def served(facts: Facts, title: str) -> Figure:
    """Layers down, classes across: how many removed channels served each."""
    rules = [(rule, text) for rule, text in RULES
             if all(rule in layer for layer in facts["layers"].values())]  # fmt: skip
    names = [str(name) for name in facts["classes"]]
    removed = np.append(removed_channels(facts), removed_channels(facts).sum())
    rows = [f"{n}  ({r} removed)"
            for n, r in zip([*facts["layers"], "all layers"], removed, strict=True)]  # fmt: skip
    few = len(names) <= classplot.ANNOTATED and len(rows) <= 60
    size = (2.2 + len(rules) * min(4.6, 1 + 0.36 * len(names)), 1.8 + 0.26 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(rules), squeeze=False, sharey=True)[0]
    for axes, (rule, text) in zip(grid, rules, strict=True):
        counts = removed_per_class(facts, rule)
        counts = np.vstack([counts, counts.sum(axis=0)])
        sns.heatmap(
            100 * counts / np.maximum(removed, 1)[:, None], ax=axes, vmin=0, vmax=100,
            cmap="rocket_r", cbar=False, annot=counts if few else None, fmt="d",
            annot_kws={"fontsize": 6}, linewidths=0.4 if few else 0, yticklabels=rows,
            xticklabels=names if few else "auto",
        )  # fmt: skip
        axes.axhline(len(rows) - 1, color="black", linewidth=1.2)
        axes.set_title(wrapped(f"removed channels that {text} for the class", 34), fontsize="small")
        axes.set_xlabel("class", fontsize=8)
        axes.tick_params(axis="x", rotation=90 if max(map(len, names)) > 2 else 0, labelsize=7)
        axes.tick_params(axis="y", rotation=0, labelsize=7)
    bar = figure.colorbar(grid[0].collections[0], ax=list(grid), fraction=0.04, pad=0.01)
    bar.set_label("% of the layer's removed channels")
    figure.suptitle(f"Classes that removed channels served: {title}", fontsize="medium")
    return figure


# ---- gallery -------------------------------------------------------------------------------------


def gallery(facts: Facts, title: str) -> Figure:
    """A row per channel, its images from left to right."""
    found = facts["gallery"]
    channels: Sequence[Facts] = found["channels"]
    columns = max((len(c["images"]) for c in channels), default=1)
    figure = Figure(figsize=(1.9 + 0.66 * columns, 0.8 + 0.78 * max(1, len(channels))))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02)
    grid = figure.subplots(
        max(1, len(channels)), 1 + columns, squeeze=False, width_ratios=[2.3] + [1] * columns
    )
    for axes in grid.ravel():
        axes.axis("off")
    for row, channel in zip(grid, channels, strict=False):
        for axes, image, label in zip(row[1:], channel["images"], channel["labels"], strict=False):
            axes.imshow(picture(found["thumbnails"][str(image)]), interpolation="nearest")
            axes.set_title(str(facts["classes"][label])[:12], fontsize=6, pad=1)
        side = "kept" if channel["kept"] else "removed"
        text = (
            f"{side}, {channel['end']}\n{channel['layer']}, channel {channel['channel']}\n"
            f"selectivity {channel['selectivity']:.2f}, prefers "
            f"{facts['classes'][channel['prefers']]}"
        )
        row[0].text(1, 0.5, text, transform=row[0].transAxes, ha="right", va="center",
                    fontsize=7, color=REMOVED if side == "removed" else DARK)  # fmt: skip
    figure.suptitle(f"What channels react to: {title}", fontsize="medium")
    return figure


def picture(thumbnail: str) -> np.ndarray:
    """(H, W, 3) uint8 of a thumbnail."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail))).convert("RGB"))
