"""Curves, for reading: the first steps of recovery, and the same choice at many targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark import frames
from benchmark.texts import md, number

Row = Mapping[str, Any]
Cell = Callable[[Row], str]
ABSENT = "-"


@dataclass(frozen=True)
class Kind:
    """`along`: the column that a table's columns are the values of. `kept`: what stands before."""

    title: str
    along: str
    head: str
    kept: dict[str, Callable[[Any], str]]
    note: str


STEPS = Kind(
    "The first steps of recovery", "step", "{:g}",
    {"entry": md, "target": lambda target: number(target, 1)},
    "- Validation top-1 in %, mean over seeds (± sample standard deviation from 2 on), after so "
    "many steps of recovery; 0: after recalibration of batch norm. Rows that pay for their "
    "preparation have fewer steps in all. With the number of seeds: `early.csv`.\n",
)  # fmt: skip
TARGETS = Kind(
    "The same choices at other targets", "target", "{:.1f} %",
    {"entry": md, "allocation": md},
    "- Validation top-1 in % after removal and recalibration of batch norm, without recovery, mean "
    "over seeds (± sample standard deviation from 2 on), by the FLOPs to remove; in brackets "
    "that of the inverse of the choice, on the weights it was made on. With what was reached, and "
    "why a target is missing: `ladder.csv`.\n",
)  # fmt: skip


def steps_markdown(early: pd.DataFrame) -> str:
    """A section of a board's page; empty where no steps were noted."""
    return _section(early, STEPS, lambda row: _figure(row, "val"))


def targets_markdown(ladder: pd.DataFrame) -> str:
    """A section of a board's page; empty where nothing was measured."""
    return _section(ladder, TARGETS, _rung)


def _section(frame: pd.DataFrame, kind: Kind, cell: Cell) -> str:
    """A table for each of the board's."""
    if frame.empty:
        return ""
    parts = [f"\n## {kind.title}"]
    for name, part in frame.groupby("table", sort=False):
        parts += [f"Table {md(str(name))}", _table(part, kind, cell)]
    return "\n\n".join([*parts, kind.note])


def _table(part: pd.DataFrame, kind: Kind, cell: Cell) -> str:
    points = sorted(set(part[kind.along]))
    cells: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in frames.rows_of(part):
        cells.setdefault(tuple(row[name] for name in kind.kept), {})[row[kind.along]] = cell(row)
    rows = [
        [
            *(show(value) for show, value in zip(kind.kept.values(), place, strict=True)),
            *(found.get(point, ABSENT) for point in points),
        ]
        for place, found in cells.items()
    ]
    names = {"entry": "Method", "target": "Target", "allocation": "Allocation"}
    heads = [*(names[name] for name in kind.kept), *(kind.head.format(p) for p in points)]
    align = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(rows, heads, "pipe", disable_numparse=True, colalign=align)


def _rung(row: Row) -> str:
    if not row["n"]:
        return ABSENT
    inverse = number(row["inverse_mean"], 1)
    return _figure(row, "recalibrated") + (f" ({inverse})" if inverse else "")


def _figure(row: Row, name: str) -> str:
    spread = number(row[f"{name}_sd"], 1)
    return number(row[f"{name}_mean"], 1) + (f" ± {spread}" if spread else "")
