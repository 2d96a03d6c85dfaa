"""Heat maps of masks per class and channel, for any method that notes `class_masks`."""

from __future__ import annotations

import math

import numpy as np
import seaborn as sns  # type: ignore[import-untyped, unused-ignore]
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.encoding import decode
from benchmark.frames import kept_units
from benchmark.record import RunRecord
from benchmark.store import Store

NEUTRAL = 1.0  # where masks start: the channel passes unchanged
MOST_PANELS = 9
DARK, LIGHT = "#333333", "#c8c8c8"  # kept and removed
KEPT = ListedColormap(["white", DARK])


def chosen(layers: list[str], most: int = MOST_PANELS) -> list[str]:
    """The first, the last, and evenly between."""
    if len(layers) <= most:
        return layers
    return [layers[round(i * (len(layers) - 1) / (most - 1))] for i in range(most)]


def masks(store: Store, record: RunRecord, title: str) -> Figure:
    """One panel per layer: classes down, channels across in their own order. Bars above are votes:
    the size of the sum over classes; they and the strip below are dark where the channel was
    kept."""
    stored = record.method_facts["class_masks"]
    layers = chosen([g for g in record.groups if g in stored])
    values = {layer: decode(stored[layer]) for layer in layers}  # (K, C) each
    keep = kept_units(store, record.spec)
    columns = min(3, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(1.0 + 3.3 * columns, 1.5 + 2.6 * rows))
    figure.set_layout_engine("constrained", h_pad=0.1)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    reach = max(float(np.abs(v - NEUTRAL).max()) for v in values.values()) or 1.0
    norm = TwoSlopeNorm(NEUTRAL, NEUTRAL - reach, NEUTRAL + reach)
    for axes, layer in zip(grid, layers, strict=False):
        _panel(axes, values[layer], keep.get(layer), norm)
        above = axes.inset_axes((0, 1.04, 1, 0.38))
        bars(above, np.abs(values[layer].sum(axis=0)), keep.get(layer))
        above.set_xticklabels([])
        above.set_title(layer, fontsize="small")
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("class")
    for axes in grid[max(0, len(layers) - columns) : len(layers)]:
        axes.set_xlabel("channel, in the layer's own order")
    bar = figure.colorbar(grid[0].images[0], ax=list(grid), fraction=0.03, pad=0.01)
    bar.set_label("mask (1 = neutral)")
    figure.suptitle(_heading(record, title, len(layers), len(stored)), fontsize="medium")
    return figure


def _heading(record: RunRecord, title: str, shown: int, layers: int) -> str:
    which = f"all {layers} layers"
    if shown < layers:
        which = f"{shown} of {layers} layers: the first, the last, and evenly between"
    spec = record.spec
    return (
        f"Class-wise masks: {title}\n{spec.data.name}, {spec.arch.name}, {spec.track} track, seed "
        f"{spec.seeds.run}, {which}\n"
        "bars: votes |sum over classes|, not from zero; dark = channel kept, light = removed"
    )


def bars(axes: Axes, values: np.ndarray, kept: list[int] | None) -> None:
    """A bar per channel (C,), dark where it is kept. They begin a little below the smallest value:
    votes differ by little, and it is the order that decides."""
    channels = np.arange(len(values))
    own = channels if kept is None else np.asarray(kept)
    low, high = float(values.min()), float(values.max())
    room = 0.12 * (high - low) or 0.5
    colours = np.where(np.isin(channels, own), DARK, LIGHT)
    axes.bar(channels, values - (low - room), bottom=low - room, color=colours, width=0.8)
    axes.set(xlim=(-0.5, len(values) - 0.5), ylim=(low - room, high + room / 2))
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(labelsize=6)


def _panel(axes: Axes, mask: np.ndarray, kept: list[int] | None, norm: TwoSlopeNorm) -> None:
    """(K, C) masks, and the kept channels where the plan knows the layer by this name."""
    classes, channels = mask.shape
    palette = sns.color_palette("vlag", as_cmap=True)
    axes.imshow(mask, cmap=palette, norm=norm, aspect="auto", interpolation="none")
    high = max(0.8, 0.09 * classes)
    bottom = classes - 0.5 + 0.4 * high
    if kept is not None:
        strip = np.isin(np.arange(channels), kept).astype(float)[None]
        axes.imshow(
            strip, cmap=KEPT, vmin=0, vmax=1, aspect="auto", interpolation="none",
            extent=(-0.5, channels - 0.5, bottom + high, bottom),
        )  # fmt: skip
        axes.plot(
            [-0.5, channels - 0.5, channels - 0.5, -0.5, -0.5],
            [bottom, bottom, bottom + high, bottom + high, bottom], color=DARK, linewidth=0.6,
        )  # fmt: skip
        bottom += high
    axes.set(xlim=(-0.5, channels - 0.5), ylim=(bottom + 0.1, -0.5))
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    step = max(1, math.ceil(classes / 10))
    axes.set_yticks(range(0, classes, step))
    axes.tick_params(labelsize=7)
