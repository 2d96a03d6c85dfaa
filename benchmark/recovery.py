"""From the pruned network to the recovered one, read at the three fixed points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from benchmark import baseline, environment, measure
from benchmark.context import Context
from benchmark.evaluation import Evaluation, evaluate
from benchmark.images import BatchSource
from benchmark.record import (
    Accuracy,
    BestVal,
)
from benchmark.spec import RunSpec, digest
from benchmark.store import Store
from benchmark.trainer import Trainer


@dataclass
class Outcome:
    """Figures at the three fixed points, and per image."""

    before: Accuracy
    recalibrated: Accuracy
    final: Accuracy
    best_val: BestVal | None
    arrays: dict[str, np.ndarray]
    optimistic: list[tuple[float, float]]  # epoch, test accuracy


def recover(
    spec: RunSpec,
    pruned: nn.Module,
    price: measure.Cost,
    trainer: Trainer,
    test: BatchSource,
    context: Context,
) -> Outcome:
    arrays: dict[str, np.ndarray] = {}
    before = read_point(pruned, "before", trainer, test, arrays)
    trainer.recalibrate(pruned, price.macs)
    recalibrated = read_point(pruned, "recalibrated", trainer, test, arrays)
    recipe = spec.recovery.model_copy(
        update={"epochs": trainer.ledger.left / trainer.ledger.train_images}
    )
    best: dict[str, Any] = {"val": -1.0, "state": {}, "epoch": 0.0}
    seen: list[tuple[float, float]] = []

    def after_epoch(epoch: int) -> None:
        row = trainer.curve_now
        if row.val_top1 is not None and row.val_top1 > best["val"]:
            state = {k: v.detach().clone() for k, v in pruned.state_dict().items()}
            best.update(val=row.val_top1, epoch=row.epoch, state=state)
        if context.optimistic:
            seen.append((row.epoch, evaluate(pruned, test).top1))

    trainer.run_phase(
        pruned, recipe, "recovery", validate=True, charged=True, macs=price.macs,
        after_epoch=after_epoch,
    )  # fmt: skip
    pruned.eval()
    final = read_point(pruned, "final", trainer, test, arrays)
    best_val = None
    if best["state"]:
        last = {k: v.detach().clone() for k, v in pruned.state_dict().items()}
        pruned.load_state_dict(best["state"])
        found = baseline.accuracy(pruned, trainer, test)
        best_val = BestVal(epoch=best["epoch"], accuracy=found)
        pruned.load_state_dict(last)
    return Outcome(before, recalibrated, final, best_val, arrays, seen)


def read_point(
    model: nn.Module,
    point: str,
    trainer: Trainer,
    test: BatchSource,
    arrays: dict[str, np.ndarray],
) -> Accuracy:
    found: dict[str, Evaluation] = {"test": evaluate(model, test)}
    if len(trainer.val):
        found["val"] = evaluate(model, trainer.val)
    for split, result in found.items():
        arrays[f"{split}_{point}_class"] = result.predicted.numpy()
        arrays[f"{split}_{point}_margin"] = result.margin.numpy()
    return Accuracy(
        test_top1=found["test"].top1,
        test_top5=found["test"].top5,
        test_loss=found["test"].loss,
        val_top1=found["val"].top1 if "val" in found else None,
    )


def write_optimistic(store: Store, spec: RunSpec, outcome: Outcome) -> None:
    epoch, best = max(outcome.optimistic, key=lambda pair: pair[1])
    facts = {
        "run_id": spec.run_id,
        "kind": "optimistic",
        "best_test_top1": best,
        "best_test_epoch": epoch,
        "last_test_top1": outcome.final.test_top1,
        "epochs": len(outcome.optimistic),
        "test_top1": [accuracy for _, accuracy in outcome.optimistic],
        "hardware": environment.hardware_kind(),
    }
    store.write_measurement(spec, "optimistic", digest(facts, 12), facts)
