"""Runs on a network of some hundred parameters, in processes that can be killed.

Imported by a fork server, so that a new process starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny
import torch

from benchmark import archs, files
from benchmark.checkpoint import EVERY
from benchmark.cifar_resnet import CifarResNet
from benchmark.context import Context
from benchmark.execute import run_one
from benchmark.images import Images
from benchmark.options import Options, options_from
from benchmark.runlog import RunLog
from benchmark.store import Store
from benchmark.sweep import Cell, expand
from benchmark.tasks import is_finished
from methods import find

ARCH, WIDTH = "killnet", 2
WORDS: dict[str, Any] = {
    "arch": ARCH, "dataset": "digits", "preset": "demo", "epochs": 3, "optimistic": True,
    "controls": False,
    "set": {"baseline.epochs": 2, "baseline.batch_size": 25, "recovery.batch_size": 25,
            "cpli.num_images": 50, "cpli.positions": 4},
}  # fmt: skip


def register() -> None:
    """Make the architecture known in this process."""
    archs.ARCHS[ARCH] = replace(
        archs.ARCHS["resnet8"], build=lambda classes: CifarResNet(8, classes, width=WIDTH)
    )


def data() -> Any:
    """A hundred images of 8 x 8."""
    whole = tiny.data()

    def small(images: Images, count: int) -> Images:
        part = images.select(torch.arange(count))
        return Images(part.pixels[:, :, ::2, ::2].contiguous(), part.labels, part.index)

    identity = whole.identity.model_copy(update={"image_size": 8, "name": "kill"})
    train, val, test = small(whole.train, 100), small(whole.val, 20), small(whole.test, 20)
    return replace(whole, identity=identity, train=train, val=val, test=test)


def options(root: str | Path = "results") -> Options:
    return options_from({"results": root, "optimistic": True})


def cell(method: str) -> Cell:
    words = WORDS | {"methods": [method]}
    words["set"] = {
        k: v for k, v in WORDS["set"].items() if not k.startswith("cpli") or method == "cpli"
    }
    (found,) = expand(options_from(words), data())
    assert not found.blocked, found.blocked
    return found


def run(root: str, method: str, every: float = 0.0) -> None:
    """One run, with a checkpoint at every step unless said."""
    register()
    torch.set_num_threads(1)
    found = cell(method)
    log = RunLog(Path(root) / "logs" / "run.log")
    context = Context(Store(Path(root)), data(), log=log, optimistic=True, checkpoint_seconds=every)
    with context.store.claims.take("run", found.spec.run_id, log=log):
        if not is_finished(found.spec, options(root)):
            run_one(found.spec, find(method), context)


def warm_up() -> None:
    """Nothing: starting this imports everything into the fork server."""


def run_until(root: str, method: str, writes: int) -> None:
    """One run that kills itself just before its n-th durable write becomes visible."""
    left = [writes]
    original = files.flush_folder

    def counted(folder: Path) -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        original(folder)

    files.flush_folder = counted
    run(root, method, EVERY)


def server() -> Any:
    """A fork server that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing"])
    return context


def start(work: Callable[..., None], *words: Any) -> Any:
    process = server().Process(target=work, args=words)
    process.start()
    return process
