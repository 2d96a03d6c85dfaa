"""Curves as text: a row per row of the board, a column per step or target, nothing made up."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from benchmark.curvespage import steps_markdown, targets_markdown
from benchmark.early import COLUMNS as EARLY
from benchmark.laddertable import COLUMNS as LADDER

Row = dict[str, Any]


def step(
    entry: str, at: int, mean: float, sd: float = math.nan, table: str = "t"
) -> dict[str, Any]:
    return {"table": table, "entry": entry, "target": 50.0, "step": at, "n": 1,
            "val_mean": mean, "val_sd": sd}  # fmt: skip


def rung(entry: str, target: float, mean: float, inverse: float, n: int = 2) -> Row:
    return {"table": "t", "entry": entry, "allocation": "uniform", "target": target,
            "n": n, "recalibrated_mean": mean, "recalibrated_sd": 0.25,
            "inverse_mean": inverse}  # fmt: skip


def cells(text: str) -> list[list[str]]:
    """Of every line of every table, without the rules under headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in found if not row[0].startswith(":")]


def test_steps_stand_in_their_order_and_a_step_nobody_noted_is_a_dash() -> None:
    rows = [step("A|B", 50, 71.26, 0.44), step("A|B", 0, 30.0), step("C", 0, -0.0)]
    rows += [step("C", 100, 9.0, table="other")]
    text = steps_markdown(pd.DataFrame(rows))
    assert cells(text.replace(r"\|", "/")) == [
        ["Method", "Target", "0", "50"],
        ["A/B", "50.0", "30.0", "71.3 ± 0.4"],
        ["C", "50.0", "0.0", "-"],
        ["Method", "Target", "100"],
        ["C", "50.0", "9.0"],
    ]
    assert "Table t" in text
    assert "Table other" in text


def test_targets_have_the_inverse_beside_them_where_there_is_one() -> None:
    rows = [rung("A", 20.0, 80.0, 60.04), rung("A", 5.0, 88.0, math.nan)]
    rows += [rung("B", 20.0, math.nan, math.nan, n=0)]
    assert cells(targets_markdown(pd.DataFrame(rows))) == [
        ["Method", "Allocation", "5.0 %", "20.0 %"],
        ["A", "uniform", "88.0 ± 0.2", "80.0 ± 0.2 (60.0)"],
        ["B", "uniform", "-", "-"],
    ]


def test_what_was_not_measured_has_no_section() -> None:
    assert steps_markdown(pd.DataFrame(columns=[c.name for c in EARLY])) == ""
    assert targets_markdown(pd.DataFrame(columns=[c.name for c in LADDER])) == ""
