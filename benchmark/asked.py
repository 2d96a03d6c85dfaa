"""What is asked of a board, and what an answer is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmark.frozen import Frozen
from benchmark.record import RunRecord
from benchmark.summaries import LEAST_SEEDS, summary
from benchmark.texts import signed

Kind = Literal[
    "compared",
    "informative",
    "order",
    "paired",
    "optimism",
    "continued",
    "label",
    "chosen",
    "published",
]

NOT_RUN = "Not run yet."
OPEN = {"undecided", "not claimed", "no seed in common"}  # verdicts that say nothing of their rows


class Question(Frozen):
    """`entries` and `against`: rows as tables call them, `l1norm + ls` and `whitebox (preparation
    free)` among them; none: all of them."""

    ask: str
    kind: Kind
    entries: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    note: str = ""  # what the figures cannot say


@dataclass(frozen=True)
class Answer:
    """`source`: the file under the results directory that has these figures in full."""

    sentences: tuple[str, ...]
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Found:
    """Of one board: its frames, those of runs and cells with the row's name, `RunSpec.name`, as a
    column, and its records."""

    runs: pd.DataFrame
    leaderboard: pd.DataFrame
    comparisons: pd.DataFrame
    selection: pd.DataFrame
    published: pd.DataFrame
    records: Sequence[RunRecord]
    choices: Sequence[tuple[RunRecord, dict[str, Any]]]  # see `choose.py`


def points(mean: float, low: float, high: float) -> str:
    """A difference with its interval, where it has one."""
    around = "" if math.isnan(low) else f" [{signed(low)}, {signed(high)}]"
    return f"{signed(mean)}{around}"


def interval(values: Sequence[float]) -> str:
    """Mean over seeds and its 95 % t-interval; below 3 seeds all values."""
    found = summary(values)
    if len(values) < LEAST_SEEDS:
        return ", ".join(signed(v) for v in values) or "no seed"
    return points(found["mean"], found["low"], found["high"])


def decided(values: Sequence[float]) -> int:
    """1 or -1 where the interval of the mean lies on that side of zero, else 0."""
    found = summary(values)
    above, below = found["low"] > 0, found["high"] < 0
    return 1 if above else -1 if below else 0


def named(verdicts: Sequence[tuple[str, str]]) -> str:
    """How often each verdict fell, those that say something first and with what they fell on."""
    fell: dict[str, list[str]] = {}
    for word, what in verdicts:
        fell.setdefault(word, []).append(what)
    parts = sorted(fell.items(), key=lambda item: (item[0] in OPEN, -len(item[1])))
    return ", ".join(
        f"{word} in {len(on)}" + ("" if word in OPEN else f" ({'; '.join(on)})")
        for word, on in parts
    )
