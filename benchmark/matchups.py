"""Who is compared with whom: the family declared beforehand, and what else is worth a look.

Works on leaderboard rows alone, before any result is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from benchmark.boards import Row
from benchmark.frames import SATURATED, rows_of

# DECISIONS 30: each method is compared with these. The one place where they are named.
REFERENCES = ("random", "l1norm", "dense_continue")
DECLARED, EXPLORATORY = "declared", "exploratory"
ONE_DENSE = "conditional on one dense network"
ONE_CHECKPOINT = "conditional on one checkpoint"  # that each seed adapted for itself
MOST = 24  # methods on a board: with more, pairs of methods are too many to look at
# Rows that differ in preparation alone agree in these.
SAME = ("method", "revision", "source", "params", "allocation", "reconstruct", "recipe", "start",
        "checkpoint", "budget_epochs", "baseline_epochs", "target")  # fmt: skip


@dataclass(frozen=True)
class Match:
    """One row against another, and the same with preparation granted for free where either has
    such a row."""

    entry: Row
    reference: Row
    family: str
    free: tuple[Row, Row] | None

    @property
    def cells(self) -> tuple[str, str]:
        return str(self.entry["cell"]), str(self.reference["cell"])


def boards(table: pd.DataFrame) -> Iterator[tuple[float, list[Match]]]:
    """Target and matches of each board of a table. Rows that remove nothing belong to every target
    of their table, and make a board where there is no other."""
    rows = rows_of(table[table["n"] > 0].sort_values(["entry", "cell"]))
    targets = sorted({row["target"] for row in rows if row["target"] > 0})
    for target in targets or sorted({row["target"] for row in rows}):
        yield target, matches([row for row in rows if row["target"] in (0, target)])


def matches(rows: list[Row]) -> list[Match]:
    """Of the rows of one board.

    The family: each method's row, preparation charged, against its row of each reference method. A
    reference that is a method too (no control) stands against the other references. Exploratory:
    methods among themselves, methods against the other controls, and refitted controls against
    their plain row.
    """
    charged = [row for row in rows if row["preparation"] == "charged"]
    plain = [row for row in charged if _is_plain(row)]
    methods = [row for row in charged if not row["control"] and row["target"] == _target(rows)]
    others = [row for row in charged if row["control"] and row not in plain]
    family = [
        (entry, found)
        for entry in methods
        for label in REFERENCES
        if (found := reference(entry, plain, label)) is not None and found is not entry
    ]
    seen = {frozenset((a["cell"], b["cell"])) for a, b in family}
    further = [(a, b) for a in methods for b in others]
    further += [(a, b) for a in others if (b := _unrefitted(a, charged)) is not None]
    if len(methods) <= MOST:
        further += combinations(methods, 2)
    fresh = [pair for pair in further if frozenset(row["cell"] for row in pair) not in seen]
    return [
        Match(a, b, name, _free(a, b, rows))
        for name, pairs in ((DECLARED, family), (EXPLORATORY, fresh))
        for a, b in pairs
    ]


def reference(entry: Row, plain: list[Row], label: str) -> Row | None:
    """The row of a reference method for this entry: of the same allocation if there is one, of the
    newest revision."""
    found = [row for row in plain if row["method"] == label]
    if entry in found:
        return entry
    return min(
        found,
        key=lambda row: (
            row["allocation"] != entry["allocation"], -row["revision"], len(row["params"]),
            row["params"], row["cell"],
        ),
        default=None,
    )  # fmt: skip


def remarks(match: Match) -> list[str]:
    """What limits a comparison and is known from the rows alone."""
    found = []
    one, other = match.entry, match.reference
    allocations = [one["allocation"], other["allocation"]]
    if "none" not in allocations and len(set(allocations)) > 1:
        found.append(f"allocation {allocations[0]} against {allocations[1]}")
    if "checkpoint" in (one["start"], other["start"]):
        found.append(ONE_DENSE)
    elif any(str(row["start"]).startswith("adapted") for row in (one, other)):
        found.append(ONE_CHECKPOINT)
    for row, who in ((one, "entry"), (other, "reference")):
        marks = set(str(row["marks"]).split("; "))
        named = [m for m in sorted(marks) if m.startswith(("at chance", "floor-bound"))]
        named += ["incomplete"] * ("incomplete" in marks)
        found += [f"{who} {mark}" for mark in named]
    if any(row["dense_mean"] > SATURATED for row in (one, other)):
        found.append("saturated")
    return found


def limits(match: Match) -> list[str]:
    """Those of the remarks that forbid a claim: the rows differ in more than the method, or one of
    them shows nothing about it."""
    return [remark for remark in remarks(match) if remark not in (ONE_DENSE, ONE_CHECKPOINT)]


def _target(rows: list[Row]) -> float:
    return float(max(row["target"] for row in rows))


def _is_plain(row: Row) -> bool:
    ours = row["method"] in REFERENCES and not row["source"]
    return bool(ours and row["reconstruct"] == "none")


def _unrefitted(row: Row, charged: list[Row]) -> Row | None:
    if row["reconstruct"] == "none":
        return None
    kept = [name for name in SAME if name != "reconstruct"]
    return next((r for r in charged if r["reconstruct"] == "none" and _alike(r, row, kept)), None)


def _free(one: Row, other: Row, rows: list[Row]) -> tuple[Row, Row] | None:
    granted = [row for row in rows if row["preparation"] == "free"]
    twins = [next((g for g in granted if _alike(g, row, SAME)), row) for row in (one, other)]
    return None if twins == [one, other] else (twins[0], twins[1])


def _alike(one: Row, other: Row, names: tuple[str, ...] | list[str]) -> bool:
    return all(one[n] == other[n] or (one[n] != one[n] and other[n] != other[n]) for n in names)
