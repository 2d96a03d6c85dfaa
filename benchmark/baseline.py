"""The dense network a run starts from: trained once, shared by all methods of a board."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark import archs
from benchmark.claims import take_for
from benchmark.encoding import weights_digest
from benchmark.environment import hardware_kind
from benchmark.errors import BadInput
from benchmark.evaluation import evaluate
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.record import Accuracy
from benchmark.schedule import Schedule, phase_seed, rate_at
from benchmark.sources import Source
from benchmark.spec import RunSpec, digest, identity
from benchmark.store import Stage, Store
from benchmark.trainer import Trainer
from benchmark.weights import load_weights, read_checkpoint
from methods.api import Method


def new_model(spec: RunSpec, draw: str = "initialisation") -> nn.Module:
    """The architecture with random weights of the run's dense seed. `draw`: another name is another
    draw of them.

    Raises:
        BadInput: the structure is not the one the spec names.
    """
    seed = spec.seeds.run if spec.seeds.dense is None else spec.seeds.dense
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(phase_seed(seed, draw))
        return archs.build_again(spec.arch, spec.data.num_classes)


def stage_key(spec: RunSpec, own_dense: bool = False) -> str:
    """Everything that the dense network depends on, and nothing else."""
    content = {
        "protocol": spec.protocol,
        "arch": identity(spec.arch),
        "data": identity(spec.data),
        "start": spec.start.model_dump(mode="json"),
        "seed": spec.seeds.dense,
        "precision": spec.precision,
        "threads": spec.threads,
    }
    if spec.replicas > 1:
        content |= {"replicas": spec.replicas, "sync_bn": spec.sync_bn}
    if spec.baseline is not None:
        content["recipe"] = identity(spec.baseline)
    if own_dense:
        content["method"] = spec.method.model_dump(mode="json")
    return digest(content)


def dense_stage(
    spec: RunSpec,
    method: Method,
    trainer: Trainer,
    test: Source,
    store: Store,
    checkpoint: Path | None,
) -> Stage:
    """Weights and accuracy of the dense network, made on first use."""
    model = new_model(spec)
    key, team = stage_key(spec, method.own_dense), trainer.team
    with take_for(team, store.claims, "dense", key, log=trainer.log) as claim:
        found = team.lead(lambda: store.stage("dense", key, trainer.log))
        if found is not None:
            return found
        if spec.start.checkpoint:
            _read(model, spec, checkpoint)
        if spec.start.is_trained_here:
            with trainer.telling(store.claims.news(claim)):
                model = _train(model, spec, method, trainer)
        model.to(trainer.device)
        made = Stage(
            {name: tensor.cpu() for name, tensor in model.state_dict().items()},
            {
                "weights": weights_digest(model.state_dict()),
                "accuracy": accuracy(model, trainer, test).model_dump(mode="json"),
                "curve": [asdict(row) for row in trainer.curve],
                "seconds": sum(e.seconds for e in trainer.ledger.entries),
                "hardware": hardware_kind(),
            },
        )

        def publish() -> Stage:
            store.publish_stage("dense", key, made)
            if trainer.checkpoints is not None:
                trainer.checkpoints.drop()
            return made

        return team.lead(publish)


def example(spec: RunSpec) -> Tensor:
    """One blank image (1, 3, S, S)."""
    return torch.zeros(1, 3, spec.data.image_size, spec.data.image_size)


def accuracy(model: nn.Module, trainer: Trainer, test: Source) -> Accuracy:
    """Test and validation figures of a network as it is."""
    found = evaluate(model, test, team=trainer.team)
    val = trainer.accuracy(model) if len(trainer.val) else None
    return Accuracy(test_top1=found.top1, test_top5=found.top5, test_loss=found.loss, val_top1=val)


def checkpoint_hash(path: Path) -> str:
    """Digest of the tensors of a checkpoint file."""
    return weights_digest(read_checkpoint(path))


def _read(model: nn.Module, spec: RunSpec, checkpoint: Path | None) -> None:
    if checkpoint is None:
        raise BadInput(f"the run starts from checkpoint {spec.start.checkpoint}: pass --checkpoint")
    tensors = read_checkpoint(checkpoint)
    if weights_digest(tensors) != spec.start.checkpoint:
        raise BadInput(f"checkpoint {checkpoint} changed since the run was planned")
    load_weights(model, tensors, str(checkpoint))


def _train(model: nn.Module, spec: RunSpec, method: Method, trainer: Trainer) -> nn.Module:
    recipe = spec.baseline
    assert recipe is not None
    assert spec.seeds.dense is not None
    net = Network(model, example(spec))
    net.to(trainer.device)
    trainer.seed = spec.seeds.dense
    trainer.ledger = Ledger(0, len(trainer.train))
    penalty = None
    if method.own_dense:
        schedule = Schedule.of(recipe.epochs, len(trainer.train), recipe.batch_size)
        rates = [rate_at(recipe, i / schedule.steps) for i in range(schedule.steps)]
        penalty = method.dense_penalty(net, rates)
    trainer.run_phase(net, recipe, "dense", penalty=penalty, charged=False, macs=net.macs())
    return net.dense()
