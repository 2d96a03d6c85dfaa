"""What the processes of a team do in tests, and a way to start them that cannot hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import killing
import tiny
import torch
from torch import nn

from benchmark import tasks
from benchmark.checkpoint import Checkpoints
from benchmark.errors import Stopped, never
from benchmark.evaluation import evaluate
from benchmark.images import BatchSource
from benchmark.options import Options
from benchmark.phase import EpochRow
from benchmark.tasks import Ended, Task
from benchmark.team import Lost, Team, joined
from benchmark.trainer import Trainer

LIMIT = timedelta(seconds=60)  # of every wait between the processes
ROLL_CALL = timedelta(seconds=3)
CPU = torch.device("cpu")


def together(
    folder: Path, work: Callable[..., Any], *words: Any, size: int = 2, seconds: float = 120
) -> list[Any]:
    """What `work(team, *words)` gives in each of the processes, by rank; None where it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmark.tasks"])  # the slow part of what is imported
    port = free_port()
    crowd = [
        server.Process(target=_member, args=(work, rank, size, port, folder, words))
        for rank in range(size)
    ]
    for process in crowd:
        process.start()
    until = time.monotonic() + seconds
    for process in crowd:
        process.join(max(0.0, until - time.monotonic()))
    hung = [process for process in crowd if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, f"{len(hung)} processes hang"
    return [_read(folder / f"{rank}.pt") for rank in range(size)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _read(path: Path) -> Any:
    return torch.load(path, weights_only=False) if path.exists() else None


def _member(
    work: Callable[..., Any], rank: int, size: int, port: int, folder: Path, words: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    with joined(rank, size, "127.0.0.1", port, CPU, LIMIT, LIMIT, ROLL_CALL) as team:
        torch.save(work(team, *words), folder / f"{rank}.pt")


# ---- training phases -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a phase leaves."""

    state: dict[str, torch.Tensor]
    rows: list[EpochRow]
    batches: list[torch.Tensor]  # that the network saw
    noise: list[torch.Tensor]  # that a penalty drew
    after: float  # the next number of the global generator


class Drift(nn.Module):
    """Reads a buffer in training and changes it, which is more than batch norm does, and has a
    parameter that no loss uses."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(tiny.CLASSES))
        self.idle = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = x + self.seen
        if self.training:
            self.seen += 0.1 * x.detach().mean(0)
        return found


def phase(
    team: Team,
    recipe: dict[str, Any],
    folder: Path | None = None,
    asks: int | None = None,
    dropout: float = 0.0,
    **changes: Any,
) -> Trained | bool:
    """Train the tiny ResNet; if it is stopped, whether it kept a checkpoint."""
    net = nn.Sequential(tiny.model(), nn.Dropout(dropout), Drift())
    checkpoints = None if folder is None else Checkpoints(folder)
    stop = never if asks is None else After(asks if team.first else 0)
    fields = {"replicas": 2, "checkpoints": checkpoints, "stop": stop, "team": team}
    run = tiny.trainer(**(fields | changes))
    seen, drawn = list[torch.Tensor](), list[torch.Tensor]()
    net.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].clone()) if module.training else None
    )

    def penalty() -> torch.Tensor:
        drawn.append(run.noise(3, salt=1))
        return 1e-3 * net[0].fc.weight.square().sum()

    whole = tiny.RECIPE.model_copy(update=recipe)
    try:
        run.run_phase(net, whole, "recovery", penalty=penalty, validate=True)
    except Stopped as stopped:
        return stopped.kept
    return Trained(tiny.state_of(net), run.curve, seen, drawn, float(torch.rand(())))


@dataclass
class After:
    """Stops once it was asked so many times."""

    asks: int

    def __call__(self) -> bool:
        self.asks -= 1
        return self.asks < 0


def evaluated(team: Team) -> list[Any]:
    """Figures of a network on the test images, in 9 batches."""
    source = BatchSource(tiny.data().test, tiny.data().identity)
    found = evaluate(tiny.model().train(), source, 7, team)
    return [found.predicted, found.margin, torch.tensor([found.top1, found.loss])]


# ---- failures ------------------------------------------------------------------------------------


def alone_in_failure(team: Team, root: Path, how: str) -> str:
    """A run in which the second process fails, or dies, at its third step."""
    steps = [0]
    original = Trainer._step

    def step(self: Trainer, *words: Any) -> None:
        steps[0] += 1
        if steps[0] == 3 and not team.first:
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no luck")
        original(self, *words)

    Trainer._step = step  # type: ignore[method-assign]
    ended, _ = whole(team, root, "l1norm")
    try:
        team.agree(1)
    except Lost:
        return ended.line
    return "the team goes on with who is not there"


def wild(team: Team, root: Path) -> str:
    """A run that diverges."""
    task = task_of(root, "l1norm")
    baseline = task.spec.baseline
    assert baseline is not None
    wilder = baseline.model_copy(update={"lr": 1e30, "warmup": 0.0})
    spec = task.spec.model_copy(update={"baseline": wilder})
    with mock.patch.object(tasks, "cached_data", return_value=killing.data()):
        first = tasks.do(replace(task, spec=spec), lambda *_: None, team=team)
        again = tasks.do(task, lambda *_: None, team=team)  # the team goes on
    return f"{first.line}; {again.status}"


# ---- whole runs ----------------------------------------------------------------------------------


def task_of(root: Path, method: str, sync_bn: bool = False, replicas: int = 2) -> Task:
    """A cell on the data of `killing`, with batches cut in two."""
    killing.register()
    spec = killing.cell(method).spec
    spec = spec.model_copy(update={"replicas": replicas, "sync_bn": sync_bn})
    options = Options(results=root, optimistic=True, device="cpu")
    return Task("cell", spec, method, options, "the command", spec.run_id)


def whole(
    team: Team,
    root: Path,
    method: str,
    asks: int | None = None,
    wait: bool = True,
    **changes: Any,
) -> tuple[Ended, list[str]]:
    """A run from its task to its record, and what was reported; it stops at the n-th question."""
    heard: list[str] = []
    with mock.patch.object(tasks, "cached_data", return_value=killing.data()):
        ended = tasks.do(
            task_of(root, method, **changes),
            lambda cell, phase, done, total: heard.append(phase),
            wait,
            stop=never if asks is None else After(asks if team.first else 0),
            team=team,
        )
    return ended, heard
