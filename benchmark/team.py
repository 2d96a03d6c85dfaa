"""The processes that work on one cell together: who is first, and what all of them hear from it.

Words between them (not gradients) go over a group on the CPU, so that no GPU waits. The first may
be busy for long with what it does alone: that group is patient, and notices a process that ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

TIMEOUT = timedelta(minutes=10)  # to find each other, and of one sum of gradients
PATIENCE = timedelta(days=7)  # of the others while the first waits for another cell's claim

ROLL_CALL = timedelta(minutes=1)  # from the first that failed to the last

T = TypeVar("T")


class Lost(Exception):
    """The team is no longer complete."""


@dataclass(frozen=True)
class Team:
    """One process among those of a cell. Alone, nothing is sent. All methods but `first` are called
    by all processes in the same order."""

    rank: int = 0
    size: int = 1
    group: Any = None  # gloo, for words
    roll: Any = None  # gloo, to see who is there

    @property
    def first(self) -> bool:
        """Whether this process takes claims and writes files."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """The first one's value, everywhere. Tensors in it must be on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        with _losing():
            dist.broadcast_object_list(box, src=0, group=self.group)
        return value if self.first else box[0]

    def lead(self, work: Callable[[], T]) -> T:
        """The first does it, the others wait; what it yields or raises is theirs too."""
        if self.size == 1:
            return work()
        if not self.first:
            value, failure = self.agree((None, None))
            if failure is not None:
                raise failure
            return value  # type: ignore[return-value]
        try:
            found = work()
        except Exception as error:
            self.agree((None, _portable(error)))
            raise
        self.agree((found, None))
        return found

    def gather(self, value: T) -> list[T]:
        """The values of all, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _losing():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them."""
        return any(self.gather(flag))

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes, on the CPU; alone, the value itself."""
        if self.size == 1:
            return value
        total = value.detach().cpu().clone()
        with _losing():
            dist.all_reduce(total, group=self.group)
        return total

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def portable(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that can be sent; alone, they stay where they are."""
        return tensors if self.size == 1 else {k: v.detach().cpu() for k, v in tensors.items()}

    def complete(self) -> bool:
        """After a failure: whether all met it and the team can go on. If not, this process leaves,
        so that nobody waits for it, and whatever it does with its team from now on raises Lost."""
        if self.size == 1:
            return True
        try:
            dist.monitored_barrier(group=self.roll)
        except (RuntimeError, ValueError):
            if dist.is_initialized():
                dist.destroy_process_group()
            return False
        return True


ALONE = Team()


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # closed connections; a group that was left
        raise Lost(f"another process of the team ended ({' '.join(str(error).split())})") from error


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # whatever a class of errors does when it is made again
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextlib.contextmanager
def joined(
    rank: int,
    size: int,
    address: str,
    port: int,
    device: torch.device,
    timeout: timedelta = TIMEOUT,
    patience: timedelta = PATIENCE,
    roll_call: timedelta = ROLL_CALL,
) -> Iterator[Team]:
    """Within the block this process is one of a team that meets at address:port, where the first
    one listens. Whoever leaves the block early makes the others fail soon, not hang: leave it after
    every failure."""
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",  # of the gradients
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    try:
        words = dist.new_group(backend="gloo", timeout=patience)
        yield Team(rank, size, words, dist.new_group(backend="gloo", timeout=roll_call))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
