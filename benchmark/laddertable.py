"""What choices keep at many targets, before any recovery: from the measurement files of
`python -m benchmark.ladder` alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from benchmark import frames, summaries
from benchmark.block import Block
from benchmark.columns import PERCENT, SPEC, Column
from benchmark.optimism import KNOWN
from benchmark.spec import RunSpec

KIND = "ladder"
VERSION = 1  # of the facts: raise it when they change
ROW = ["track", "data", "arch", "table", "entry", "method", "control", "allocation"]
POINTS = {
    "recalibrated": "after removal and recalibration of batch norm, without recovery",
    "before": "after removal alone",
    "inverse": "of the inverse of the choice, at its widths, after recalibration of batch norm, on "
    "the weights that the choice was made on: a refit of the choice is not in it",
}
_SPEC = {c.name: c for c, _ in SPEC} | KNOWN
COLUMNS: list[Column] = [
    *[_SPEC[name] for name in ROW],
    Column("target", "FLOPs reduction that was asked for", "% of dense MACs", 2),
    Column("n", "seeds measured at the target", "", 0),
    Column("reduction_mean", "FLOPs reduction that was reached, mean over seeds",
           "% of dense MACs", 2),
    *[
        Column(f"{name}_{part}", text.format(f"validation top-1 {when}"), PERCENT, 2)
        for name, when in POINTS.items()
        for part, text in (
            ("mean", "mean over seeds of {}"),
            ("sd", "sample standard deviation over seeds of {}; empty below 2 seeds"),
        )
    ],
    Column("dense_mean", "mean validation top-1 of the dense networks of these runs", PERCENT, 2),
    Column("reason", "why nothing was measured at the target"),
]  # fmt: skip
Rung = Mapping[str, Any]


def shared(spec: RunSpec) -> str:
    """What runs that differ in their target alone have in common, as an id: they share a ladder."""
    return spec.model_copy(update={"flops_reduction": 0.0}).run_id


def ladder(block: Block) -> pd.DataFrame:
    """One row per row of the leaderboard, all its targets taken together, and target of a ladder;
    none where nothing was measured.

    Raises:
        BadInput: a measurement cannot be read.
    """
    rows = []
    known = _known(block)
    for family, seeds in _heard(block).items():
        if family in known:
            rows += list(_rows(known[family], seeds))
    rows.sort(key=lambda row: [row[c] for c in ("track", "table", "control", "entry", "target")])
    return frames.typed(rows, COLUMNS)


def _known(block: Block) -> dict[str, dict[str, Any]]:
    """What the leaderboard says of each family of cells that differ in their target alone, as its
    smallest target has it."""
    done = block.runs[block.runs["status"] == "done"]
    spec_of = {str(r.cell): block.records[str(r.run_id)].spec for r in done.itertuples()}
    found: dict[str, dict[str, Any]] = {}
    board = block.board[block.board["n"] > 0].sort_values(["target", "cell"], kind="stable")
    for row in frames.rows_of(board):
        family = shared(spec_of[str(row["cell"])].cell())
        found.setdefault(family, {name: row[name] for name in ROW})
    return found


def _heard(block: Block) -> dict[str, dict[str, dict[float, Rung]]]:
    """Rungs by family, by run without its target, and by target. The first file by name counts
    where a target was measured several times, as on two machines."""
    found: dict[str, dict[str, dict[float, Rung]]] = defaultdict(lambda: defaultdict(dict))
    for _, record in sorted(block.records.items()):
        for facts in block.store.measurements(record.spec, KIND):
            if facts.get("version") != VERSION:
                continue
            own = found[shared(record.spec.cell())][shared(record.spec)]
            dense = record.dense.accuracy
            for rung in facts["rows"]:
                known = {"dense": dense.val_top1 if dense else None}
                own.setdefault(rung["target"], rung | known)
    return found


def _rows(
    known: Mapping[str, Any], seeds: Mapping[str, Mapping[float, Rung]]
) -> Iterator[dict[str, Any]]:
    for target in sorted({target for rungs in seeds.values() for target in rungs}):
        rungs = [own[target] for _, own in sorted(seeds.items()) if target in own]
        there = [rung for rung in rungs if not rung["reason"]]
        row = {**known, "target": 100 * target, "n": len(there)}
        row |= {f"{n}_mean": _summary(there, n)["mean"] for n in ("reduction", "dense")}
        for name in POINTS:
            summary = _summary(there, name)
            row |= {f"{name}_{part}": summary[part] for part in ("mean", "sd")}
        yield row | {"reason": "; ".join(sorted({r["reason"] for r in rungs} - {""}))}


def _summary(rungs: list[Rung], name: str) -> dict[str, float]:
    """In %; None where a run has no such figure."""
    return summaries.summary([100 * r[name] for r in rungs if r[name] is not None])
