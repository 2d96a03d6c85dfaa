"""From the pruned network to the recovered one, read at the three fixed points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from benchmark import baseline, environment, flops
from benchmark.checkpoint import Moment
from benchmark.context import Context
from benchmark.evaluation import Evaluation, balanced, evaluate
from benchmark.losses import HEAD
from benchmark.network import Network
from benchmark.phase import EpochRow
from benchmark.record import (
    Accuracy,
    BestVal,
    Dense,
)
from benchmark.schedule import phase_seed
from benchmark.sources import Source
from benchmark.spec import RunSpec, digest
from benchmark.store import Store
from benchmark.team import ALONE, Team
from benchmark.trainer import Trainer

EARLY = (0, 50, 100, 200, 400, 800)  # steps of recovery after which validation accuracy is noted
EARLY_IMAGES = 5000  # validation images for that, at most: the same for every run on the data


@dataclass
class Outcome:
    """Figures at the three fixed points, and per image; `early`: step, validation accuracy."""

    before: Accuracy
    recalibrated: Accuracy
    final: Accuracy
    best_val: BestVal | None
    arrays: dict[str, np.ndarray]
    optimistic: list[tuple[float, float]]  # epoch, test accuracy
    early: list[tuple[int, float]]

    def figures(self) -> dict[str, Any]:
        """As the record has them."""
        return {
            "before_recovery": self.before,
            "recalibrated": self.recalibrated,
            "final": self.final,
            "best_val": self.best_val,
            "early": self.early,
        }


@dataclass
class Recovering:
    """Weights of the epoch with the best validation accuracy, validation accuracy after the first
    steps, and, where asked for, the test accuracy of every epoch. Survives a kill as part of the
    phase's checkpoints."""

    net: nn.Module
    test: Source | None
    val_source: Source | None = None
    rows: Tensor | None = None  # of these, for the first steps
    val: float = -1.0
    epoch: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)
    seen: list[tuple[float, float]] = field(default_factory=list)  # epoch, test accuracy
    early: list[tuple[int, float]] = field(default_factory=list)  # step, validation accuracy
    team: Team = ALONE

    def after_step(self, step: int) -> None:
        if self.val_source is not None and step in EARLY:
            found = evaluate(self.net, self.val_source, team=self.team, rows=self.rows)
            self.early.append((step, found.top1))

    def after_epoch(self, row: EpochRow) -> None:
        if row.val_top1 is not None and row.val_top1 > self.val:
            self.val, self.epoch = row.val_top1, row.epoch
            state = {k: v for k, v in self.net.state_dict().items() if not k.startswith(HEAD)}
            self.weights = {k: v.detach().clone() for k, v in state.items()}
        if self.test is not None:
            self.seen.append((row.epoch, evaluate(self.net, self.test, team=self.team).top1))

    def state(self) -> Moment:
        facts = {"val": self.val, "epoch": self.epoch, "seen": self.seen, "early": self.early}
        return Moment(self.weights, facts)

    def restore(self, moment: Moment) -> None:
        self.weights = moment.tensors
        self.val, self.epoch = moment.facts["val"], moment.facts["epoch"]
        self.seen = [(epoch, top1) for epoch, top1 in moment.facts["seen"]]
        self.early = [(step, top1) for step, top1 in moment.facts.get("early", [])]


def read_start(net: Network, dense: Dense, trainer: Trainer, test: Source) -> dict[str, np.ndarray]:
    """Predictions of the dense network per image, before the method sees it. Its accuracy is in the
    record already; nothing is chosen by them. A random start has nothing to predict."""
    arrays: dict[str, np.ndarray] = {}
    if dense.accuracy is not None:
        read_point(net.dense(), "dense", trainer, test, arrays)
    return arrays


def recover(
    spec: RunSpec,
    pruned: nn.Module,
    price: flops.Cost,
    trainer: Trainer,
    test: Source,
    context: Context,
) -> Outcome:
    arrays: dict[str, np.ndarray] = {}
    before = read_point(pruned, "before", trainer, test, arrays)
    trainer.recalibrate(pruned, price.macs)
    recalibrated = read_point(pruned, "recalibrated", trainer, test, arrays)
    recipe = spec.recovery.model_copy(
        update={"epochs": trainer.ledger.left / trainer.ledger.train_images}
    )
    best = Recovering(pruned, test if context.optimistic else None, team=context.team)
    if len(trainer.val):
        best.val_source, best.rows = trainer.val, _some(trainer)
    best.after_step(0)
    trainer.run_phase(
        pruned, recipe, "recovery", validate=True, charged=True, macs=price.macs, memory=best,
    )  # fmt: skip
    pruned.eval()
    final = read_point(pruned, "final", trainer, test, arrays)
    best_val = None
    if best.weights:
        last = {k: v.detach().clone() for k, v in pruned.state_dict().items()}
        pruned.load_state_dict(best.weights)
        found = baseline.accuracy(pruned, trainer, test)
        best_val = BestVal(epoch=best.epoch, accuracy=found)
        pruned.load_state_dict(last)
    return Outcome(before, recalibrated, final, best_val, arrays, best.seen, best.early)


def _some(trainer: Trainer) -> Tensor:
    """Rows of validation images, class-balanced, that no seed changes."""
    seed = phase_seed(0, f"early-{trainer.data_hash}")
    order = balanced(trainer.val.labels.cpu(), trainer.num_classes, seed)
    return order[:EARLY_IMAGES].sort().values


def read_point(
    model: nn.Module,
    point: str,
    trainer: Trainer,
    test: Source,
    arrays: dict[str, np.ndarray],
) -> Accuracy:
    found: dict[str, Evaluation] = {"test": evaluate(model, test, team=trainer.team)}
    if len(trainer.val):
        found["val"] = evaluate(model, trainer.val, team=trainer.team)
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
