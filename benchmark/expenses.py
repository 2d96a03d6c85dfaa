"""What runs cost, as their records tell: wall time by hardware, phases, images,
multiply-accumulates.

Records time runs, not the training of dense networks, which runs share. Phases are those of the
ledger; a phase that several runs shared stands in the ledger of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmark import costs
from benchmark.differences import hardware_of
from benchmark.ledger import Ledger, is_recovery
from benchmark.record import RunRecord
from benchmark.tally import Tally, summed


@dataclass(frozen=True)
class Expense(Tally):
    """Seconds; images of gradient steps and of forward passes alone; multiply-accumulates of
    both."""

    runs: int = 0
    seconds: float = 0.0
    preparation: float = 0.0
    recovery: float = 0.0
    forward: float = 0.0
    images: int = 0
    forward_images: int = 0
    macs: int = 0


@dataclass(frozen=True)
class DenseTraining:
    """Of dense networks that runs trained for themselves, each counted once."""

    networks: int
    images: int
    macs: int


def of_run(record: RunRecord) -> Expense:
    entries = Ledger.rows(record.spent.rows)
    steps = [e for e in entries if e.kind != "forward"]
    return Expense(
        runs=1,
        seconds=record.seconds,
        preparation=sum(e.seconds for e in steps if not is_recovery(e.phase)),
        recovery=sum(e.seconds for e in steps if is_recovery(e.phase)),
        forward=sum(e.seconds for e in entries if e.kind == "forward"),
        images=sum(e.images for e in steps),
        forward_images=sum(e.images for e in entries if e.kind == "forward"),
        macs=sum(e.macs for e in entries),
    )


def by_hardware(records: Iterable[RunRecord]) -> dict[str, Expense]:
    """Sums over runs, by the processor or GPU that computed."""
    return summed((hardware_of(r.environment) or "not said", of_run(r)) for r in records)


def dense_training(records: Iterable[RunRecord]) -> DenseTraining:
    """From the recipes: each different dense network once, however many runs started from it."""
    macs: dict[str, tuple[int, int]] = {}
    for record in records:
        if record.spec.weights_start != "random" and (own := costs.dense_training(record)):
            macs[record.dense.weights] = own
    return DenseTraining(
        len(macs), sum(i for i, _ in macs.values()), sum(m for _, m in macs.values())
    )


def is_gpu(record: RunRecord) -> bool:
    return not str(record.environment.get("device", "cpu")).startswith("cpu")
