"""Whether a choice is informed, drawn over the training phase of its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.maskplot import DARK

Facts = Mapping[str, Any]
INVERSE, DRAWN = "#D55E00", "#7a7a7a"  # colour-blind safe; grey for controls


def training(facts: Facts, title: str) -> Figure:
    """Choice, agreement and leakage after each part of the training phase."""
    points, panels = facts["training"], panels_of(facts)
    figure = Figure(figsize=(1.0 + 3.4 * len(panels), 4.2), layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, points)
        axes.tick_params(labelsize=7)
        alone = len(points) == 1
        axes.set_xlabel("" if alone else "epochs of the method's training phase", fontsize=8)
        if alone:
            axes.set_xticks([points[0]["epochs"]], ["as the run chose"])
    figure.suptitle(f"Is the choice informed? {title}", fontsize="medium")
    return figure


def panels_of(facts: Facts) -> list[Callable[[Axes, Sequence[Facts]], None]]:
    """What there is to draw; empty: nothing."""
    points = facts["training"]
    known = {
        _choice: all(p["vote"] is not None for p in points),
        _agreement: all(p["rank_correlation"] is not None for p in points),
        _leakage: all(p["leakage"] for p in points),
    }
    return [draw for draw, there in known.items() if there]


def _choice(axes: Axes, points: Sequence[Facts]) -> None:
    x = [p["epochs"] for p in points]
    drawn = [100 * np.array(p["random"]) for p in points]
    axes.fill_between(x, [d.min() for d in drawn], [d.max() for d in drawn], color=DRAWN,
                      alpha=0.2, linewidth=0)  # fmt: skip
    for values, name, colour, marker in (
        ([100 * p["vote"] for p in points], "highest scores kept", DARK, "o"),
        ([100 * p["inverse"] for p in points], "lowest scores kept", INVERSE, "v"),
        ([float(d.mean()) for d in drawn], "random draws: mean, range", DRAWN, "x"),
    ):
        axes.plot(x, values, marker=marker, color=colour, label=name, linewidth=1.4)
    if len(points) == 1:
        axes.plot(x * len(drawn[0]), drawn[0], "_", color=DRAWN, markersize=14)
    axes.set_title("validation accuracy after BN\nrecalibration (%), widths of the run",
                   fontsize="small")  # fmt: skip
    below(axes)


def _agreement(axes: Axes, points: Sequence[Facts]) -> None:
    x = [p["epochs"] for p in points]
    for key, name, marker in (
        ("rank_correlation", "rank correlation of scores", "o"),
        ("kept_overlap", "share of kept channels in common", "s"),
    ):
        axes.plot(x, [p[key] for p in points], marker=marker, color=DARK, label=name,
                  linestyle="-" if marker == "o" else ":")  # fmt: skip
    axes.set_ylim(min(0.0, *(p["rank_correlation"] for p in points)) - 0.03, 1.03)
    axes.set_title("agreement of two seeds\nof the method", fontsize="small")
    below(axes)


def below(axes: Axes) -> None:
    """The legend under the axis, where no value can be."""
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))


LEAKS = {
    "noise_minus_chance": "noise images, minus guessing",
    "true_minus_wrong_label": "true minus wrong label told",
    "true_label_minus_unmasked": "true label told minus no masks",
}


def _leakage(axes: Axes, points: Sequence[Facts]) -> None:
    x = np.array([p["epochs"] for p in points])
    room = 0.015 * (np.ptp(x) or 1.0)
    for i, ((key, name), colour) in enumerate(zip(LEAKS.items(), (DARK, INVERSE, DRAWN),
                                                  strict=True)):  # fmt: skip
        found = [p["leakage"][key] for p in points]
        means = 100 * np.array([f["mean"] for f in found])
        ends = 100 * np.array([[f["mean"] - f["low"], f["high"] - f["mean"]] for f in found]).T
        axes.errorbar(x + (i - 1) * room, means, yerr=ends, color=colour, marker="osv"[i],
                      markersize=4, capsize=2, linewidth=1.2, label=name)  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_title("do masks tell the label? accuracy\nin points, 95 % interval",
                   fontsize="small")  # fmt: skip
    below(axes)
