"""The log of test-split openings: how many times finished runs read it, and where.

Fixed points are those of `execute.run_one`. Trials are judged on validation images and open it
never. What leaves no record of it is not counted: runs that failed, reproductions, and dissections
and ladders that make a dense network again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields

import numpy as np

from benchmark.block import PREDICTIONS, UNREADABLE
from benchmark.record import RunRecord
from benchmark.shifted import KIND as EXTRA
from benchmark.store import Store
from benchmark.tally import Tally, summed

OPTIMISTIC = "optimistic"
Row = tuple[str, str]  # its name and allocation


@dataclass(frozen=True)
class Openings(Tally):
    """Networks read on the whole test split. `dense`: the dense network's predictions in the runs
    that keep them; `best_val`: the weights of the best validation epoch, for the record only;
    `epochs`: after every epoch, for the best-test-epoch figure; `counted`: for the cost per image
    of networks that choose their channels by image; `later`: the dense and the pruned network
    beside an extra test set."""

    runs: int = 0
    dense: int = 0
    before: int = 0
    recalibrated: int = 0
    final: int = 0
    best_val: int = 0
    epochs: int = 0
    counted: int = 0
    later: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self)) - self.runs


HEADS = {
    "runs": "runs", "dense": "dense network", "before": "before recovery",
    "recalibrated": "after BN recalibration", "final": "at the end",
    "best_val": "best validation epoch", "epochs": "every epoch, optimistic",
    "counted": "cost per image", "later": "beside extra test sets",
}  # fmt: skip
assert list(HEADS) == [f.name for f in fields(Openings)]


def of_run(store: Store, record: RunRecord) -> Openings:
    """Of one finished run, from its record, its predictions and its measurements.

    Raises:
        BadInput: a measurement cannot be read.
    """
    optimistic = store.measurements(record.spec, OPTIMISTIC)
    extra = store.measurements(record.spec, EXTRA)
    return Openings(
        runs=1,
        dense=int("test_dense_class" in _arrays(store, record)),
        before=1,
        recalibrated=1,
        final=1,
        best_val=int(record.best_val is not None),
        epochs=sum(int(facts["epochs"]) for facts in optimistic),
        counted=int("images" in record.counted),
        later=sum(len(facts["networks"]) for facts in extra),
    )


def by_row(store: Store, records: Iterable[RunRecord]) -> dict[Row, Openings]:
    """Sums over the runs of each row, at all targets and seeds."""
    return summed(((r.spec.name, r.spec.allocation), of_run(store, r)) for r in records)


def dense_networks(records: Iterable[RunRecord]) -> int:
    """Different trained networks that runs started from."""
    return len({r.dense.weights for r in records if r.dense.accuracy is not None})


def total(rows: Mapping[Row, Openings]) -> Openings:
    return sum(rows.values(), Openings())


def _arrays(store: Store, record: RunRecord) -> frozenset[str]:
    """Names of the arrays of a run; none of them is read."""
    try:
        with np.load(store.run_folder(record.spec) / PREDICTIONS, allow_pickle=False) as stored:
            return frozenset(stored.files)
    except UNREADABLE:
        return frozenset()
