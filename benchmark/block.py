"""All results of one data set and architecture: what every derived table is made from.

Nothing that is compared ever crosses a block: settings, tables and rows belong to one pair of data
and architecture. What speaks of several blocks is made from their finished frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import frames
from benchmark.record import RunRecord
from benchmark.store import Store

PREDICTIONS = "predictions.npz"


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
        return f"{self.data}-{self.arch}"

    def arrays(self, run_id: str, *names: str) -> dict[str, np.ndarray]:
        """Arrays of a run's predictions by name: those of `names` that it has, or all. Empty where
        there is no file, as for records that came without."""
        path = self.store.run_folder(self.records[run_id].spec) / PREDICTIONS
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as stored:
            wanted = [n for n in stored.files if not names or n in names]
            return {name: stored[name] for name in wanted}


def blocks(root: Path) -> Iterator[Block]:
    """Of a results directory, by name."""
    runs, store = frames.load(root), Store(root)
    if runs.empty:
        return
    records = {r.run_id: r for r in store.records()}
    for (data, arch), part in runs.groupby(["data", "arch"], sort=True):
        own = part.reset_index(drop=True)
        ids = own.loc[own["status"] == "done", "run_id"]
        yield Block(
            str(data), str(arch), store, {i: records[i] for i in ids}, own, frames.leaderboard(own)
        )
