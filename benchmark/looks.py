"""How figures look: settings, one colour and marker per method, order and length of labels."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns  # type: ignore[import-untyped, unused-ignore]
from matplotlib.figure import Figure

from methods import all_names, find

GREY = 7  # of the palette: kept for controls
COLOURS = [c for i, c in enumerate(sns.color_palette("colorblind")) if i != GREY]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">"]  # 9 and 11: 99 distinct pairs
GREYS = ["#4d4d4d", "#7a7a7a", "#a0a0a0", "#2b2b2b"]
CONTROL_MARKERS = ["x", "+", "1", "2", "3", "4"]
LINES = ["-", (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (3, 2))]


@dataclass(frozen=True)
class Look:
    colour: Any
    marker: str
    line: Any
    filled: bool  # the first row of its method


@contextmanager
def fixed_style() -> Iterator[None]:
    """Defaults whatever the user's own settings say."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(sns.axes_style("whitegrid") | sns.plotting_context("paper"))
        matplotlib.rcParams.update(
            {"svg.hashsalt": "benchmark", "svg.fonttype": "path", "font.family": "DejaVu Sans",
             "axes.titlesize": "medium", "legend.frameon": False}
        )  # fmt: skip
        yield


def appearances(board: pd.DataFrame) -> dict[str, dict[str, Look]]:
    """How each row label of each table looks. Colour and marker belong to the method: those of the
    suite come first, plain before variants; further rows of one method are hollow and differ in
    their line."""
    labels = list(dict.fromkeys(board["method"]))
    controls = set(board.loc[board["control"] == 1, "method"])
    suite = sorted(all_names(), key=lambda label: (":" in label, label))
    order = [*suite, *sorted(set(labels) - set(suite))]
    known_controls = [label for label in order if label in controls or _is_control(label, suite)]
    methods = [label for label in order if label not in known_controls]
    basic: dict[str, tuple[Any, str]] = {
        label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, label in enumerate(methods)
    } | {
        label: (GREYS[i % len(GREYS)], CONTROL_MARKERS[i % len(CONTROL_MARKERS)])
        for i, label in enumerate(known_controls)
    }
    looks: dict[str, dict[str, Look]] = defaultdict(dict)
    for (table, label), part in board.groupby(["table", "method"], sort=True):
        colour, marker = basic[str(label)]
        lines = ["--", *LINES[1:]] if label in known_controls else LINES
        entries = sorted(set(part["entry"]), key=lambda entry: (len(entry), entry))
        for i, (entry, line) in enumerate(zip(entries, itertools.cycle(lines), strict=False)):
            looks[str(table)][entry] = Look(colour, marker, line, i == 0)
    return looks


def _is_control(label: str, suite: list[str]) -> bool:
    return label in suite and find(label).is_control


def ordered_entries(part: pd.DataFrame) -> list[str]:
    """Row labels: methods, then controls, by name."""
    rows = part[["control", "entry"]].drop_duplicates().sort_values(["control", "entry"])
    return [str(entry) for entry in rows["entry"]]


def wrapped(text: str, width: int = 30) -> str:
    """At most `width` letters a line, cut at spaces."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def save(figure: Figure, path: Path, png: bool = False) -> None:
    """As SVG, and as PNG beside it if asked for."""
    settle(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": "benchmark.report"})
    if png:
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})


def settle(figure: Figure) -> None:
    """Lay the figure out, once, and round where its axes are: the solver of the layout meets its
    constraints in an order that changes, and ends a last digit apart, which ids in an SVG are made
    from."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        place = axes.get_position(original=True)
        left, low, width, height = (round(float(side), 6) for side in place.bounds)
        axes.set_position((left, low, width, height))
