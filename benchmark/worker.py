"""The worker's side of the pool: a process that does tasks, ends with a checkpoint when it is told
to, and goes when its launcher is gone."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from multiprocessing.connection import Connection

import torch
from tqdm import tqdm

from benchmark.lifeline import STOP, die_with_parent
from benchmark.tasks import do

PAUSE = 0.5  # seconds between two messages about progress


def work(pipe: Connection, place: int) -> None:
    """One task after the other, until the launcher is gone. `place` numbers the workers of a
    launcher: they take the GPUs in turn."""
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    stopping = threading.Event()
    signal.signal(STOP, lambda *_: stopping.set())
    signal.signal(signal.SIGTERM, lambda *_: _leave(stopping))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP})
    tqdm.set_lock(threading.RLock())  # its lock between processes would outlive a kill
    die_with_parent()
    last = 0.0

    def report(cell: str, phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > PAUSE or done == total:
            last = now
            with contextlib.suppress(OSError):  # the launcher is going: work on
                pipe.send((cell, phase, done, total))

    with contextlib.suppress(KeyboardInterrupt, EOFError):
        while True:
            task, waits = pipe.recv()
            ended = do(task, report, waits, stopping.is_set)
            with contextlib.suppress(OSError):
                pipe.send(ended)


def _leave(stopping: threading.Event) -> None:
    """The first order to end leaves time for a checkpoint; at the second what is held is let go and
    nothing counts as failed, as after Ctrl-C."""
    if stopping.is_set():
        raise KeyboardInterrupt
    stopping.set()
