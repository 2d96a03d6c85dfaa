"""Where rows come from: which runs of a results directory others submitted, and which of those were
made again here.

`submitted/<archive>.json` holds it for one archive. Rows made here need no mark: a directory
without such files has no columns for it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
from pydantic import ValidationError

from benchmark.archive import Line, Sha256
from benchmark.choices import content_of
from benchmark.columns import Column
from benchmark.errors import BadInput
from benchmark.files import dump_json, write_text
from benchmark.frozen import Frozen
from benchmark.record import one_line, parse_json
from benchmark.spec import PROTOCOL, RunSpec
from methods import find_ours

FOLDER = "submitted"
State = Literal["not reproduced", "self-reported", "verified"]
STATES: tuple[State, ...] = get_args(State)  # the worst first
COLUMNS = [
    Column("origin", "of runs that others submitted: self-reported; verified: a run of the same "
           "code, from the same archive, was made again here; not reproduced. Of several the "
           "worst, with its seeds. Empty: made here"),
    Column("origin_details", "who submitted them, and which run was made again, when and on what"),
]  # fmt: skip


Origin = tuple[State, str]  # and details
NOTHING = ("", "")


class Check(Frozen):
    """A run of the archive that was made again here."""

    run: Line
    code: Line  # as in `Marked`
    passed: bool
    date: Line  # YYYY-MM-DD
    hardware: Line
    how: Line  # by what it was judged


class Marked(Frozen):
    """A run that came with the archive. `code`: what of it is not this suite's, see `code_of`: a
    check speaks for the runs of the same code, and for no others."""

    cell: Line
    seed: int
    code: Line

    @classmethod
    def of(cls, spec: RunSpec) -> Marked:
        return cls(cell=spec.cell().run_id, seed=spec.seeds.run, code=code_of(spec))


class Mark(Frozen):
    """What is known of one archive."""

    archive: Sha256
    by: Line = ""
    runs: dict[str, Marked]  # by run id
    checks: tuple[Check, ...] = ()

    def state(self, code: str) -> State:
        """Of runs of this code."""
        own = [check.passed for check in self.checks if check.code == code]
        if not own:
            return "self-reported"
        return "verified" if all(own) else "not reproduced"

    def details(self, code: str) -> str:
        """`submitted by Jo; run 0123456789ab made again on 2026-11-30, this processor: …`"""
        own = [check for check in self.checks if check.code == code]
        told = [f"run {c.run} made again on {c.date}, {c.hardware}: {c.how}" for c in own]
        return "; ".join([f"submitted by {self.by}" if self.by else "submitted", *told])


def code_of(spec: RunSpec) -> str:
    """What of a run's code is not that of this suite: protocol, revision, hashes of sources, and
    what other code chose that it prunes by; empty: nothing."""
    found = [] if spec.protocol == PROTOCOL else [f"protocol {spec.protocol}"]
    if not spec.method.source and find_ours(spec.method.label).cls.revision != spec.method.revision:
        found.append(f"{spec.method.label} revision {spec.method.revision}")
    own = (spec.method.source, spec.arch.source, content_of(spec))
    return " ".join(filter(None, (*found, *own)))


# ---- files ---------------------------------------------------------------------------------------


def place_of(root: Path, archive: str) -> Path:
    return root / FOLDER / f"{archive[:12]}.json"


def evidence_of(root: Path, archive: str) -> Path:
    """Where trials of an archive are kept: beside its mark, apart from those made here."""
    return place_of(root, archive).with_suffix("")


def read_marks(root: Path) -> list[Mark]:
    """Of a results directory, by name.

    Raises:
        BadInput: one cannot be read: without it rows would seem to be made here.
    """
    return [read_mark(path) for path in sorted((root / FOLDER).glob("[!.]*.json"))]


def read_mark(path: Path) -> Mark:
    """Raises BadInput if there is none."""
    try:
        return Mark.model_validate(parse_json(path.read_bytes()))
    except (OSError, ValidationError, ValueError) as error:
        raise BadInput(f"{path} says nothing of a submission: {one_line(error)}") from error


def write_mark(root: Path, mark: Mark) -> Path:
    path = place_of(root, mark.archive)
    write_text(path, dump_json(mark.model_dump(mode="json")))
    return path


def stamp(root: Path) -> str:
    """Changes when any mark does."""
    found = hashlib.sha256()
    for path in sorted((root / FOLDER).glob("[!.]*.json")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


# ---- the columns ---------------------------------------------------------------------------------


def columns(own: list[Column], frame: pd.DataFrame) -> list[Column]:
    """Those of a table, with the origin where its rows have one."""
    return [*own, *COLUMNS] if COLUMNS[0].name in frame else own


def with_origin(
    runs: pd.DataFrame, board: pd.DataFrame, marks: Sequence[Mark]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and leaderboard with those columns; both unchanged where nothing was submitted."""
    if not marks:
        return runs, board
    by_run: dict[str, Origin] = {}
    by_cell: dict[str, dict[str, Origin]] = defaultdict(dict)
    for mark in marks:
        for run, own in mark.runs.items():
            known = mark.state(own.code), mark.details(own.code)
            by_run[run] = by_cell[own.cell][str(own.seed)] = known
    cells = zip(board["cell"], board["seeds"], strict=True)
    return (
        _assigned(runs, [by_run.get(run, NOTHING) for run in runs["run_id"]]),
        _assigned(board, [_of_row(by_cell.get(cell, {}), seeds.split()) for cell, seeds in cells]),
    )


def _assigned(frame: pd.DataFrame, origins: Sequence[tuple[str, str]]) -> pd.DataFrame:
    names = [column.name for column in COLUMNS]
    texts = {name: [origin[i] for origin in origins] for i, name in enumerate(names)}
    return frame.assign(**texts).astype(dict.fromkeys(names, "str"))


def _of_row(known: Mapping[str, Origin], seeds: Sequence[str]) -> tuple[str, str]:
    """Of a row with these seeds: the worst state, with its seeds unless it is that of all."""
    there = {seed: known[seed] for seed in seeds if seed in known}
    if not there:
        return NOTHING
    worst = min((state for state, _ in there.values()), key=STATES.index)
    own = [seed for seed, (state, _) in there.items() if state == worst]
    some = "" if len(own) == len(seeds) else f" (seeds {' '.join(own)})"
    return worst + some, " | ".join(dict.fromkeys(details for _, details in there.values()))


def notes(frame: pd.DataFrame) -> list[str]:
    """What a reader must know of rows that others submitted."""
    if COLUMNS[0].name not in frame or not any(frame["origin"]):
        return []
    said = dict.fromkeys(text for text in frame["origin_details"] if text)
    return [
        "Origin: rows that others submitted. Self-reported: nobody made any of it again here. "
        "Verified: a run of the same code, from the same archive, was. Not reproduced: it came out "
        "otherwise. " + " | ".join(said) + "."
    ]
