"""A column of a derived table, and what becomes of columns that were added later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

PERCENT = "% of images"
POINTS = "percentage points"
# Columns that a later version of the suite added, with the value that means what was so before. A
# table in which no row has another is written without the column: its bytes stay.
ADDED_LATER: dict[str, str | float] = {
    "lane": "default", "trials": 0.0, "tuned_values": "untuned", "tuning_images": math.nan,
    "tuning_seconds": math.nan, "origin": "", "origin_details": "",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """`decimals` None: text."""

    name: str
    meaning: str
    unit: str = ""
    decimals: int | None = None


def plain(columns: Sequence[Column]) -> list[Column]:
    """Without what was added later."""
    return [c for c in columns if c.name not in ADDED_LATER]


def said(frame: pd.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """Of what was added later only columns with which a row of the frame says something."""
    return [c for c in columns if c.name not in ADDED_LATER or _says(frame, c.name)]


def _says(frame: pd.DataFrame, name: str) -> bool:
    silent = ADDED_LATER[name]
    is_silent = frame[name].isna() if silent != silent else frame[name] == silent  # NaN
    return not bool(is_silent.all())


def later(row: dict[str, object], names: Sequence[str]) -> tuple[object, ...]:
    """Values of these columns, those that were added later only where they say something: what was
    hashed before has the same hash."""
    return tuple(
        row[name] for name in names if name not in ADDED_LATER or row[name] != ADDED_LATER[name]
    )
