"""Which images each row of a table got right on each seed, and why runs are left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from benchmark import family, sharing
from benchmark.answers import Answers, answers
from benchmark.block import Block
from benchmark.fairness import prepares


@dataclass(frozen=True)
class Evidence:
    """Of one table, by cell."""

    right: Mapping[str, Mapping[int, np.ndarray]]  # by seed: (N,) booleans
    left_out: Mapping[str, Mapping[str, list[int]]]  # seeds by reason
    targets: Mapping[str, float]
    prepared: frozenset[str] = frozenset()  # cells that train before they remove
    dense: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # that others share
    boards: dict[tuple[float, tuple[int, ...]], family.Board] = field(default_factory=dict)

    def seeds(self, cells: Iterable[str]) -> tuple[int, ...]:
        """Those that all cells have."""
        own = [set(self.right.get(cell, {})) for cell in cells]
        return tuple(sorted(set.intersection(*own))) if own else ()

    def apart(self, cells: tuple[str, str]) -> list[str]:
        """A remark if two cells start some seed from two dense networks that they should share."""
        one, other = (self.dense.get(cell, {}) for cell in cells)
        odd = [seed for seed in self.seeds(cells) if seed in one.keys() & other.keys()]
        odd = [seed for seed in odd if one[seed] != other[seed]]
        return [f"two dense networks on seed {', '.join(map(str, odd))}"] if odd else []

    def matrix(self, cell: str, seeds: Iterable[int]) -> np.ndarray:
        """(S, N) booleans."""
        return np.stack([self.right[cell][seed] for seed in seeds])

    def board(self, target: float, seeds: tuple[int, ...]) -> family.Board:
        """All rows at a target that have these seeds, and those that remove nothing, resampled
        once: comparisons and standings use the same draws."""
        if (target, seeds) not in self.boards:
            cells = [
                cell
                for cell, own in self.right.items()
                if self.targets[cell] in (0, target) and set(seeds) <= own.keys()
            ]
            rows = {cell: self.matrix(cell, seeds) for cell in cells}
            self.boards[target, seeds] = family.board(rows)
        return self.boards[target, seeds]

    def images(self, cell: str) -> int:
        return len(next(iter(self.right[cell].values())))

    def difference(self, cells: tuple[str, str], seeds: Iterable[int]) -> np.ndarray:
        """(S,) images that the first got right and the second did not, less the others."""
        one, other = (self.matrix(cell, seeds).sum(axis=1) for cell in cells)
        return np.asarray(one.astype(np.int64) - other)


def evidence(block: Block, table: pd.DataFrame) -> Evidence:
    """Of the finished runs of one table."""
    runs = block.runs[(block.runs["table"] == table["table"].iloc[0])]
    runs = runs[runs["status"] == "done"].sort_values(["cell", "seed", "dense_seed", "run_id"])
    known = answers(block, runs["run_id"])
    prepared = frozenset(
        str(cell)
        for run_id, cell in zip(runs["run_id"], runs["cell"], strict=True)
        if prepares(block.records[run_id].spent.rows)
    )
    dense: dict[str, dict[int, str]] = defaultdict(dict)
    for run_id, cell, seed in zip(runs["run_id"], runs["cell"], runs["seed"], strict=True):
        if run_id in known.right and sharing.shares(block.records[run_id]):
            dense[cell].setdefault(int(seed), block.records[run_id].dense.weights)
    return replace(gathered(runs, known, prepared), dense=dense)


def gathered(
    runs: pd.DataFrame, known: Answers, prepared: frozenset[str] = frozenset()
) -> Evidence:
    """Where a cell has several runs of one seed, the first counts, which has the lowest dense
    seed."""
    right: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    left_out: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for run_id, cell, seed in zip(runs["run_id"], runs["cell"], runs["seed"], strict=True):
        if run_id in known.right:
            right[cell].setdefault(int(seed), known.right[run_id])
        else:
            left_out[cell][known.left_out[run_id]].append(int(seed))
    targets = dict(zip(runs["cell"], runs["target"].astype(float), strict=True))
    return Evidence(right, left_out, targets, prepared)
