"""Processes that end with the one that started them, and that signals to a whole group pass by."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

STOP = signal.SIGUSR2  # asks a process at work on a cell to end with a checkpoint


def die_with_parent() -> None:
    """A process whose parent was killed must not go on unseen."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Ctrl-C and a cluster's warning reach the whole process group; who started the others answers
    alone. Processes started within the block inherit that these signals are blocked; here they are
    only put off until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, STOP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
