"""What the processes of a team do in tests, and a way to start them that cannot hang."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import tiny
import torch

from benchmark.team import Team, joined

LIMIT = timedelta(seconds=60)  # of every wait between the processes
CPU = torch.device("cpu")


def together(
    folder: Path, work: Callable[..., Any], *words: Any, size: int = 2, seconds: float = 120
) -> list[Any]:
    """What `work(team, *words)` gives in each of the processes, by rank; None where it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["ddp_work"])
    port = free_port()
    crowd = [
        server.Process(target=_member, args=(work, rank, size, port, folder, words), daemon=True)
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
    with joined(rank, size, "127.0.0.1", port, CPU, LIMIT, LIMIT) as team:
        torch.save(work(team, *words), folder / f"{rank}.pt")


# ---- training phases -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a phase leaves."""

    state: dict[str, torch.Tensor]
    losses: list[float]
    val: list[float | None]
    batches: list[torch.Tensor]  # that the network saw


def phase(team: Team, recipe: dict[str, Any], **changes: Any) -> Trained:
    """Train the tiny ResNet with batches cut in two."""
    net = tiny.model()
    run = tiny.trainer(team=team, **({"replicas": 2} | changes))
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].clone()) if module.training else None
    )
    run.run_phase(net, tiny.RECIPE.model_copy(update=recipe), "recovery", validate=True)
    return Trained(
        tiny.state_of(net), [r.loss for r in run.curve], [r.val_top1 for r in run.curve], seen
    )
