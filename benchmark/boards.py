"""Which rows belong together: the dense network a run is set against, tables, and row labels.

All three are written into the rows (one per run) that they are given.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from benchmark.column import later
from benchmark.spec import digest

Row = dict[str, Any]
# Runs that agree in these can be compared at all (DECISIONS 2).
SETTING = (
    "protocol", "track", "lane", "trials", "data", "data_id", "arch", "structure", "precision",
    "threads", "scope",
)  # fmt: skip
FAMILY = ("start", "checkpoint", "baseline_epochs", "budget_epochs", "recipe")
# What tells two cells of one method in one table apart, in the order of naming.
AXES = ("allocation", "min_width", "revision", "source", "recipe", "start", "tuned_values")
PLAIN = {"allocation"}  # understood without its name


def refer_to_dense(rows: list[Row]) -> None:
    """Runs from random initialisation are set against the baseline of the same seed, setting and
    total training: the dense network that most methods there start from. How long a checkpoint was
    trained is not known."""
    users: dict[tuple[Any, ...], dict[tuple[str, float], set[str]]] = {}
    for row in rows:
        if row.get("dense_top1") is not None and not row["checkpoint"]:
            dense = (row["dense_weights"], row["dense_top1"])
            there = users.setdefault(_opponents(row), defaultdict(set))
            there[dense].add(row["method"])
    for row in rows:
        found = users.get(_opponents(row))
        if row["status"] != "done" or row.get("dense_top1") is not None or not found:
            continue
        most = max(len(methods) for methods in found.values())
        shared = [dense for dense, methods in found.items() if len(methods) == most]
        if len(shared) == 1:
            row["dense_weights"], row["dense_top1"] = shared[0]
            row["delta"] = row["test_final"] - row["dense_top1"]


def _opponents(row: Row) -> tuple[Any, ...]:
    return (*(row[c] for c in SETTING), row["total_epochs"], row["dense_seed"])


def assign_tables(rows: list[Row]) -> None:
    """A table holds one setting and one pair of recipes. Runs from random initialisation, which
    have another recipe by construction, join the table of the same total training if there is
    exactly one, and none that starts from a checkpoint. In the paper track every method has its own
    recipe."""

    def place(row: Row) -> tuple[Any, ...]:
        own = () if row["track"] == "paper" else (row["min_width"], row["total_epochs"])
        return (*later(row, SETTING), *own)

    def family(row: Row) -> tuple[Any, ...]:
        return () if row["track"] == "paper" else tuple(row[c] for c in FAMILY)

    families: dict[tuple[Any, ...], set[tuple[Any, ...]]] = defaultdict(set)
    for row in rows:
        if row["start"] != "random" and not row["checkpoint"]:
            families[place(row)].add(family(row))
    for row in rows:
        there, own = families[place(row)], family(row)
        if row["start"] == "random" and len(there) == 1:
            (own,) = there
        row["table"] = digest([place(row), own], 6)


def name_entries(rows: list[Row]) -> None:
    """Row labels: the title, and what tells a cell from others of the same table."""
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    firsts = {cell: part[0] for cell, part in cells.items()}
    twins: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in firsts.values():
        twins[row["table"], row["method"]].append(row)
    told_apart = {key: _told_apart(part) for key, part in twins.items()}
    names = {
        cell: _name(_title(cells[cell]), row, *told_apart[row["table"], row["method"]])
        for cell, row in firsts.items()
    }
    namesakes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell, row in firsts.items():
        namesakes[row["table"], names[cell]].add(row["method"])
    for cell, part in cells.items():
        table, label = part[0]["table"], part[0]["method"]
        is_shared = len(namesakes[table, names[cell]]) > 1
        for row in part:
            row["entry"] = names[cell] + (f" [{label}]" if is_shared else "")


def _told_apart(twins: list[Row]) -> tuple[list[str], list[str]]:
    """Axes, and names of hyper-parameters, in which cells of one method in one table differ."""
    axes = [axis for axis in AXES if len({row[axis] for row in twins}) > 1]
    texts = sorted({row["params"] for row in twins})
    params = [json.loads(text) for text in texts]
    names = dict.fromkeys(name for own in params for name in own)
    return axes, [n for n in names if len({json.dumps(own.get(n)) for own in params}) > 1]


def _name(title: str, row: Row, axes: list[str], params: list[str]) -> str:
    extra = [str(row[axis]) if axis in PLAIN else f"{axis} {row[axis]}" for axis in axes]
    if params:
        own = json.loads(row["params"])
        extra += [f"{name}={own[name]}" for name in own if name in params]
    if row["preparation"] == "free":
        extra.append("preparation free")
    return title + " + LS" * (row["reconstruct"] == "ls") + "".join(f", {e}" for e in extra)


def _title(part: list[Row]) -> str:
    done = {row["title"] for row in part if row["status"] == "done"}
    return " / ".join(sorted(done or {row["title"] for row in part}))
