"""A batch cut into parts, each with batch-norm statistics of its own: run by as many processes at
once, or by one process in turn, with the same result but for rounding.

The parts' losses are weighted so that their sum is the mean over the whole batch, and each adds an
equal share of the penalty. The running statistics of a network are those of part 0, as they are
where `DistributedDataParallel` hands the first process's buffers to the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmark.errors import BadInput
from benchmark.losses import Criterion
from benchmark.network import Network
from benchmark.phase import Phase
from benchmark.team import Team

LEAST = 2  # images of a part: one alone has no batch statistics


@dataclass(frozen=True)
class Part:
    """Rows of a batch that one process passes through the network at once."""

    number: int
    rows: Tensor
    weight: float = 1.0  # of its mean loss
    share: float = 1.0  # of the penalty


def check_team(replicas: int, sync_bn: bool, team: Team, device: torch.device) -> None:
    """Raises BadInput unless this team can train this many replicas on this device."""
    if team.size not in (1, replicas):
        raise BadInput(
            f"{team.size} processes cannot share batches that are cut into {replicas}: start 1 "
            f"or {replicas} (--gpus-per-cell)"
        )
    if sync_bn and team.size > 1 and device.type != "cuda":
        raise BadInput("--sync-bn needs GPUs: processes on CPUs cannot share batch statistics")


def cut(rows: Tensor, replicas: int) -> list[Part]:
    """Consecutive parts of nearly equal size. A batch too small for that gives fewer, and idle
    ones: the first part once more, which counts nothing."""
    used = max(1, min(replicas, len(rows) // LEAST))
    own = rows.tensor_split(used)
    parts = [Part(i, r, len(r) / len(rows), 1 / used) for i, r in enumerate(own)]
    return parts + [Part(i, own[0], 0.0, 0.0) for i in range(used, replicas)]


def parts_of(rows: Tensor, replicas: int, whole: bool, team: Team) -> list[Part]:
    """What this process runs of a batch. `whole`: the statistics are those of the whole batch, so
    one process alone does not cut it, and an idle part must be empty."""
    if replicas == 1 or (whole and team.size == 1):
        return [Part(0, rows)]
    parts = cut(rows, replicas)
    if team.size == 1:
        return [part for part in parts if part.weight]
    own = parts[team.rank]
    return [own if own.weight or not whole else Part(own.number, rows[:0], 0.0, 0.0)]


def in_turn(net: nn.Module, parts: list[Part]) -> Iterator[Part]:
    """The parts one after the other, each with the buffers that the step began with; those that
    the first one leaves stay."""
    buffers = list(net.buffers()) if len(parts) > 1 else []
    before = [b.detach().clone() for b in buffers]
    after = before
    for part in parts:
        if part.number:
            _fill(buffers, before)
        yield part
        if part.number == 0:
            after = [b.detach().clone() for b in buffers]
    _fill(buffers, after)


@torch.no_grad()
def _fill(buffers: list[Tensor], values: list[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def share_buffers(net: nn.Module, team: Team) -> None:
    """All processes get the first one's buffers: those of the others saw other parts."""
    if team.size > 1:
        own = dict(net.named_buffers())
        told = team.agree({name: b.detach().cpu() for name, b in own.items()})
        _fill(list(own.values()), [told[name] for name in own])


def keep_own(losses: Tensor, team: Team) -> None:
    """Of the losses (parts,) that a checkpoint holds, each process goes on with those of its own
    part; one alone with all."""
    for part in range(losses.numel() if team.size > 1 else 0):
        if part != team.rank:
            losses[part] = 0


class Objective(nn.Module):
    """The loss of a part. A module around the network and its penalty, because
    `DistributedDataParallel` must see every parameter that the loss uses."""

    def __init__(self, run: Phase, criterion: Criterion, bf16: bool, compiled: bool) -> None:
        super().__init__()
        self.net = run.net
        compiles = compiled and not isinstance(run.net, Network)
        # in a tuple: not modules of this one
        self._calls = (torch.compile(run.net) if compiles else run.net, criterion, run.penalty)
        self.bf16 = bf16

    def forward(self, x: Tensor, y: Tensor, part: Part) -> Tensor:
        net, criterion, penalty = self._calls
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = net(x, y) if isinstance(net, Network) else net(x)
        loss = criterion(logits.float(), y) if len(y) else logits.float().sum()
        if part.weight != 1:
            loss = part.weight * loss
        if penalty is None:
            return loss
        added = penalty()
        return loss + (added if part.share == 1 else part.share * added)


def distributed(objective: Objective, team: Team) -> nn.Module:
    """The objective with gradients averaged over the team. What no loss uses (a gate's idle mask)
    must not be waited for: parameters are looked for in the graph."""
    if team.size == 1:
        return objective
    return DistributedDataParallel(objective, find_unused_parameters=True)


@contextlib.contextmanager
def synced(net: nn.Module, wanted: bool) -> Iterator[None]:
    """Within the block batch norms use the statistics of all processes. They keep their type, which
    methods ask for: only their forward is another's."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for norm in norms if wanted else ():
        norm.forward = _synced_forward(norm)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        for norm in norms if wanted else ():
            del norm.forward


def _synced_forward(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # shares parameters and statistics

    def forward(x: Tensor) -> Tensor:
        twin.train(norm.training)
        found: Tensor = twin(x)
        return found

    return forward
