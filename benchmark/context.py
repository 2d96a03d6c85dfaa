"""What every step of a run shares: where files go, the data, the trainer, the dense network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmark import baseline, flops, vectors
from benchmark.checkpoint import EVERY, Checkpoints, quiet
from benchmark.data import Data
from benchmark.encoding import weights_digest
from benchmark.errors import never
from benchmark.imported import Shelf
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.record import (
    Accuracy,
    Dense,
)
from benchmark.sources import Source
from benchmark.spec import RunSpec
from benchmark.store import Stage, Store
from benchmark.team import ALONE, Team
from benchmark.trainer import Progress, Trainer, silent
from benchmark.tuning import Tuning
from methods.api import Budget, Method


@dataclass(frozen=True)
class Context:
    """What a run needs to know but does not depend on."""

    store: Store
    data: Data
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    checkpoint: Path | None = None
    compiled: bool = False
    optimistic: bool = False  # also read the test split after every recovery epoch
    command: str = ""
    log: Callable[[str], None] = quiet
    checkpoint_seconds: float = EVERY  # between checkpoints within an epoch
    stop: Callable[[], bool] = never  # whether to end at the next checkpoint
    team: Team = ALONE  # who works on this run together
    tuning: Tuning | None = None  # by what the values of a tuned run were chosen

    def seen_by(self, spec: RunSpec) -> Context:
        """As the run may see it: to a trial there is no test split."""
        if not spec.is_trial:
            return self
        return replace(self, data=self.data.without_test(), optimistic=False)


def set_threads_and_determinism(threads: int) -> None:
    """Same seed, same machine kind, same bits."""
    vectors.hold()  # for who calls from Python; commands did it before anything was computed
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is filled before it is written. That guards what reads memory it never
    # wrote; nothing here does, results are the same bits, and a training step takes 5 % less.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def as_in_a_run(threads: int) -> Iterator[None]:
    """The thread count of a run; what was set before, and the random state, come back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def make_trainer(spec: RunSpec, context: Context) -> Trainer:
    """A trainer with the run's budget, recipe and seed, and no test split."""
    train = context.data.train.source(spec.data, context.device)
    return Trainer(
        train=train,
        val=context.data.val.source(spec.data, context.device),
        num_classes=spec.data.num_classes,
        recipe=spec.recovery,
        seed=spec.seeds.run,
        data_hash=spec.data.content_hash,
        ledger=Ledger(round(spec.budget_epochs * len(train)), len(train)),
        precision=spec.precision,
        device=context.device,
        progress=context.progress,
        charged=spec.preparation == "charged",
        compiled=context.compiled,
        log=context.log,
        stop=context.stop,
        team=context.team,
        replicas=spec.replicas,
        sync_bn=spec.sync_bn,
        imported=Shelf(context.store),
    )


def checkpoints_of(context: Context, kind: str, key: str) -> Checkpoints:
    """Where the training phases of a piece of work are kept until it is done."""
    return context.store.checkpoints(kind, key, context.checkpoint_seconds, context.log)


def start(spec: RunSpec, method: Method, test: Source, context: Context) -> tuple[Dense, Network]:
    model, accuracy = baseline.new_model(spec), None
    if spec.start.kind != "random":
        trainer = make_trainer(spec, context)
        stage = dense_stage(spec, method, trainer, test, context)
        model.load_state_dict(stage.tensors)
        accuracy = Accuracy.model_validate(stage.facts["accuracy"])
    cost = flops.cost(model, baseline.example(spec))
    dense = Dense(weights=weights_digest(model.state_dict()), accuracy=accuracy, cost=cost)
    net = Network(model, baseline.example(spec), spec.scope)
    return dense, net.to(context.device)


def dense_stage(
    spec: RunSpec, method: Method, trainer: Trainer, test: Source, context: Context
) -> Stage:
    """The dense network of the run, made on first use by whoever comes first."""
    key = baseline.stage_key(spec, method.own_dense)
    trainer.checkpoints = checkpoints_of(context, "dense", key)
    return baseline.dense_stage(spec, method, trainer, test, context.store, context.checkpoint)


def budget_of(spec: RunSpec, net: Network) -> Budget:
    """What the method must reach."""
    rates = dict(zip(net.convs, spec.rates, strict=True)) if spec.rates else None
    return Budget(spec.flops_reduction, spec.min_width, spec.allocation, rates, spec.round_to)
