"""What the page shows, gathered from derived blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import tablenotes, tables
from benchmark.columns import Column
from benchmark.derived import Derived
from benchmark.page import MOST_DETAILS, Content, cards

MOST_FIGURES = 200  # drawn into the page; all are files too
MOST_ROWS = 20_000  # of a further table
NAMED = 3  # tables that break a rule
# Tables of the page, in its order. The others, and the columns below, are in the CSV files.
SHOWN = (
    "comparisons", "published", "optimism", "selection", "budget", "robustness", "lanes",
    "classes", "similarity", "ladder", "early",
    "exploratory", "pooled", "ranking", "stability", "areas", "profiles", "imported",
)  # fmt: skip
UNSHOWN = {
    "protocol", "precision", "scope", "min_width", "baseline_epochs", "budget_epochs", "params",
    "source", "revision", "family", "reference_cell", "control", "against", "apart", "layer",
    "rank_pairs",
}  # fmt: skip


def content(
    root: Path,
    found: Sequence[Derived],
    frames: Mapping[str, tuple[pd.DataFrame, list[Column]]],
) -> Content:
    """`frames`: all tables by name; `leaderboard` and `runs` among them."""
    board, runs = frames["leaderboard"][0], frames["runs"][0]
    compared, columns = frames["comparisons"]
    declared = compared["family"] == "declared"
    known = dict(frames) | {
        "comparisons": (compared[declared].reset_index(drop=True), columns),
        "exploratory": (compared[~declared].reset_index(drop=True), columns),
    }
    parts = dict(list(board.groupby("table", sort=False)))
    return Content(
        board=board,
        runs=runs,
        frames={n: _shown(*known[n]) for n in SHOWN if n in known and len(known[n][0])},
        details=_details(found),
        cards=cards(board["method"]),
        checklist=verdicts(frames["checklist"][0]),
        figures=_figures(root, found),
        captions={str(t): tables.caption(part) for t, part in parts.items()},
        notes={str(t): tablenotes.notes(part) for t, part in parts.items()},
    )


def _shown(frame: pd.DataFrame, columns: list[Column]) -> tuple[pd.DataFrame, list[Column]]:
    kept = [c for c in columns if c.name not in UNSHOWN]
    return frame.head(MOST_ROWS)[[c.name for c in kept]], kept


def _details(found: Sequence[Derived]) -> dict[str, Any]:
    details: dict[str, Any] = {}
    for part in found:
        if len(details) < MOST_DETAILS:
            details |= part.details()
    return details


def _figures(root: Path, found: Sequence[Derived]) -> list[tuple[str, str]]:
    drawn = [(p.caption, root / p.file) for part in found for p in part.pictures]
    return [(caption, path.read_text(encoding="utf-8")) for caption, path in drawn[:MOST_FIGURES]]


def verdicts(checks: pd.DataFrame) -> list[tuple[str, bool | None, str]]:
    """Rules over all tables: one holds where it holds in every table that it applies to."""
    found: list[tuple[str, bool | None, str]] = []
    for rule, part in checks.groupby("rule", sort=False):
        broken, kept = part[part["holds"] == "no"], part[part["holds"] == "yes"]
        if len(broken):
            found.append((str(rule), False, _evidence(broken, len(part))))
        elif len(kept):
            found.append((str(rule), True, _evidence(kept, len(part))))
        else:
            found.append((str(rule), None, _evidence(part, len(part))))
    return found


def _evidence(part: pd.DataFrame, tables_in_all: int) -> str:
    if tables_in_all == 1:
        return str(part["evidence"].iloc[0])
    said = [
        f"table {table}: {evidence}"
        for table, evidence in zip(part["table"], part["evidence"], strict=True)
    ]
    more = f"; and {len(said) - NAMED} more" if len(said) > NAMED else ""
    return f"{len(said)} of {tables_in_all} tables: {'; '.join(said[:NAMED])}{more}"
