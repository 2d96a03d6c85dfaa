"""One printed table with the records behind it, as the rules of the checklist look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.block import Block
from benchmark.progress import counted
from benchmark.record import RunRecord

SHOWN = 3  # offending rows


@dataclass(frozen=True)
class Found:
    """What a rule says of a table. `holds` None: it does not apply, or the records cannot tell."""

    holds: bool | None
    evidence: str


@dataclass(frozen=True)
class View:
    """Rows of one table, finished or not, and the records of those that are finished."""

    table: str
    block: Block
    runs: pd.DataFrame  # columns.RUNS
    board: pd.DataFrame  # columns.LEADERBOARD

    @cached_property
    def records(self) -> tuple[RunRecord, ...]:
        """In the order of the rows."""
        done = self.runs.loc[self.runs["status"] == "done", "run_id"]
        return tuple(self.block.records[i] for i in done)

    @cached_property
    def track(self) -> str:
        return str(self.runs["track"].iloc[0])

    @cached_property
    def _names(self) -> Mapping[str, str]:
        rows = zip(
            self.runs["run_id"], self.runs["entry"], self.runs["target"], self.runs["seed"],
            strict=True,
        )  # fmt: skip
        return {i: f"{place(entry, target)}, seed {seed:g}" for i, entry, target, seed in rows}

    @cached_property
    def _homes(self) -> dict[tuple[str, str, str], Path]:
        return {}

    def folder(self, record: RunRecord) -> Path:
        """Where the run belongs. Ids were checked on reading: no spec is hashed again."""
        spec = record.spec
        key = (spec.data.name, spec.arch.name, spec.method.label)
        if key not in self._homes:
            self._homes[key] = self.block.store.run_folder(spec).parent
        return self._homes[key] / record.run_id

    def name(self, record: RunRecord) -> str:
        """`L1-norm at 50 %, seed 0`."""
        return self._names[record.run_id]


def place(entry: str, target: float) -> str:
    """`L1-norm at 50 %`; nothing is removed at target 0."""
    return f"{entry} at {target:g} %" if target else entry


def views(block: Block) -> Iterator[View]:
    """The tables of a block, by their hash."""
    for table, board in block.board.groupby("table", sort=True):
        runs = block.runs[block.runs["table"] == table]
        yield View(str(table), block, runs, board)


def judged(offenders: Sequence[str], fine: str) -> Found:
    """It holds unless somebody offends; the first offenders are named."""
    return Found(False, listed(offenders)) if offenders else Found(True, fine)


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more


def runs_of(records: Sequence[Any]) -> str:
    """`1 run`, `12 runs`."""
    return counted(len(records), "run")
