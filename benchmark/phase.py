"""One training phase under way: what it consists of, and how it is kept and continued."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from benchmark import checkpoint
from benchmark.checkpoint import Checkpoints, Memory, Moment, Torn
from benchmark.environment import describe, hardware_kind
from benchmark.schedule import Schedule
from benchmark.spec import Recipe

Maker = dict[str, str | None]
DIVERGED = "diverged: "  # begins the reason of a training that did


class Diverged(Exception):
    """The loss stopped being finite."""


@dataclass(frozen=True)
class EpochRow:
    """One line of curve.csv."""

    phase: str
    epoch: float
    images: int
    lr: float
    loss: float
    val_top1: float | None

    def __str__(self) -> str:
        val = "" if self.val_top1 is None else f", validation {100 * self.val_top1:.2f} %"
        return f"{self.phase} {self.epoch:g} epochs: loss {self.loss:.4f}{val}, rate {self.lr:.2g}"


class Watch(Memory, Protocol):
    """A memory that looks at the network after every step and every epoch."""

    def after_step(self, step: int) -> None: ...

    def after_epoch(self, row: EpochRow) -> None: ...


@contextlib.contextmanager
def trained_only(net: nn.Module, modules: Mapping[str, nn.Module] | None) -> Iterator[None]:
    """Within the block only these modules learn: other parameters and all running statistics stay
    as they are. None: everything learns."""
    if modules is None:
        yield
        return
    own = {id(p) for m in modules.values() for p in m.parameters()}
    frozen = [(p, p.requires_grad) for p in net.parameters() if id(p) not in own]
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    counts = [
        m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None for m in norms
    ]
    momenta = [m.momentum for m in norms]
    for parameter, _ in frozen:
        parameter.requires_grad_(False)
    for norm in norms:
        norm.momentum = 0.0  # batch statistics in forward, running statistics untouched
    try:
        yield
    finally:
        for parameter, flag in frozen:
            parameter.requires_grad_(flag)
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count


@dataclass
class Phase:
    """One training phase under way."""

    name: str
    net: nn.Module
    recipe: Recipe
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    penalty: Callable[[], Tensor] | None
    memory: Watch | None
    validate: bool
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    # summed over the epoch's images; where batches are cut, of each part: (parts,)
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    since: float = 0.0  # when the clock was read last

    def clock(self) -> None:
        """Count the seconds since the clock was read last."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def keep(
        self,
        checkpoints: Checkpoints,
        curve: list[EpochRow],
        resumed: list[Maker],
        loss: Tensor,
    ) -> None:
        """Write a checkpoint of the phase as it is now; `loss`: that of all processes."""
        own = Moment(
            {"loss": loss},
            {
                "step": self.step,
                "images": self.images,
                "seconds": self.seconds,
                "curve": [asdict(row) for row in curve if row.phase == self.name],
                "resumed": [*resumed, maker(self.loss.device)],
            },
        )
        parts = {
            "phase": own,
            "net": Moment(checkpoint.network_tensors(self.net), {}),
            "optimizer": Moment(checkpoint.optimizer_state(self.optimizer), {}),
            "random": checkpoint.random_states(),
        }
        if self.memory is not None:
            parts["memory"] = self.memory.state()
        checkpoints.save(self.name, self.step, checkpoint.joined(**parts))

    def restore(self, found: Moment) -> tuple[list[EpochRow], list[Maker]]:
        """Continue where the checkpoint was written; its curve, and who made it. The precision is
        fp32 or bf16, so there is no loss scaler; rate and order follow from the step.

        Raises:
            Torn: it is of another network or another version; nothing is changed.
        """
        try:
            own = checkpoint.part(found, "phase")
            curve = [EpochRow(**row) for row in own.facts["curve"]]
            checkpoint.check_network(self.net, checkpoint.part(found, "net").tensors)
            ready = {"loss"} <= own.tensors.keys() and own.facts["step"] <= self.schedule.steps
            parts = {"phase", "net", "optimizer", "random"} | ({"memory"} if self.memory else set())
            if not ready or parts != found.facts.keys():
                raise Torn("a checkpoint is of another version")
        except (KeyError, TypeError) as error:
            raise Torn(f"a checkpoint is of another version ({error})") from error
        checkpoint.restore_network(self.net, checkpoint.part(found, "net").tensors)
        checkpoint.restore_optimizer(self.optimizer, checkpoint.part(found, "optimizer").tensors)
        checkpoint.restore_random_states(checkpoint.part(found, "random"))
        if self.memory is not None:
            self.memory.restore(checkpoint.part(found, "memory"))
        self.loss.copy_(own.tensors["loss"])
        self.step, self.images = own.facts["step"], own.facts["images"]
        self.seconds = own.facts["seconds"]
        return curve, list(own.facts["resumed"])


def maker(device: torch.device) -> Maker:
    """Which hardware and which code made a checkpoint."""
    code = describe()["git"]["commit"]
    return {"hardware": hardware_kind(), "device": device.type, "code": code}
