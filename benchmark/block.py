"""All results of one data set and architecture: what every derived table is made from.

Nothing that is compared ever crosses a block: settings, tables and rows belong to one pair of data
and architecture. What speaks of several blocks is made from their finished frames.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import frames
from benchmark.record import RECORD, RunRecord
from benchmark.store import Store

PREDICTIONS = "predictions.npz"
HOMES = ("runs", "attempts")
FILES = (RECORD, PREDICTIONS, "plan.json", "curve.csv")
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
)  # what numpy raises on files that are no archive of arrays


@dataclass(frozen=True)
class Block:
    """Records by run id, with the frames made from them: one row per run, one per cell."""

    data: str
    arch: str
    store: Store
    records: Mapping[str, RunRecord]
    runs: pd.DataFrame  # columns.RUNS
    board: pd.DataFrame  # columns.LEADERBOARD

    @property
    def name(self) -> str:
        """As files of the block are called."""
        return f"{self.data}-{self.arch}"

    def arrays(self, run_id: str, *names: str) -> dict[str, np.ndarray]:
        """Arrays of a run's predictions by name: those of `names` that it has, or all. Empty where
        there is no file, as for records that came without, and where it is damaged."""
        path = self.store.run_folder(self.records[run_id].spec) / PREDICTIONS
        try:
            with np.load(path, allow_pickle=False) as stored:
                wanted = [n for n in stored.files if not names or n in names]
                return {name: stored[name] for name in wanted}
        except UNREADABLE:
            return {}

    def has_predictions(self, run_id: str) -> bool:
        """Whether there is such a file, damaged or not."""
        return (self.store.run_folder(self.records[run_id].spec) / PREDICTIONS).is_file()


def names(root: Path) -> list[str]:
    """DATA/ARCH of everything that was finished or tried, sorted."""
    found = {
        path.relative_to(root / home).as_posix()
        for home in HOMES
        for path in (root / home).glob("*/*")
        if path.is_dir() and not path.name.startswith(".")
    }
    return sorted(found)


def stamp(root: Path, name: str) -> str:
    """Changes when a run, measurement or attempt of the block comes, goes or is edited: a hash of
    the names and times of its folders and records. No file is opened."""
    digest = hashlib.sha256()
    for home in HOMES:
        for method in _inside(root / home / name):
            for run in _inside(method):
                seen = [os.stat(run).st_mtime_ns]  # noqa: PTH116
                for file in FILES:
                    with contextlib.suppress(OSError):
                        found = os.stat(f"{run}/{file}")  # noqa: PTH116
                        seen += [found.st_mtime_ns, found.st_size]
                digest.update(f"{home} {os.path.basename(run)} {seen}".encode())  # noqa: PTH119
    return digest.hexdigest()[:16]


def _inside(folder: str | Path) -> list[str]:
    """Folders in a folder, sorted; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


def read_block(root: Path, name: str) -> Block | None:
    """The block of this name; None: nothing in it can be read."""
    store = Store(root)
    records = [record for record in store.records(name) if not record.spec.is_trial]
    runs = frames.runs_of(store, records, store.last_attempts(name))
    if runs.empty:
        return None
    data, _, arch = name.partition("/")
    found = {record.run_id: record for record in records}
    return Block(data, arch, store, found, runs, frames.leaderboard(runs))


def blocks(root: Path) -> Iterator[Block]:
    """Of a results directory, by name."""
    for name in names(root):
        block = read_block(root, name)
        if block is not None:
            yield block
