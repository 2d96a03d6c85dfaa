"""Workers: this process for one job, else a pool of fresh processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.managers import SyncManager
from typing import Any

from benchmark.progress import GridProgress
from benchmark.store import Store
from benchmark.sweep import Options
from benchmark.tasks import Ended, Task, do


def worker_count(options: Options) -> int:
    """`--jobs`, else one on a GPU and cores // threads on a CPU; results do not depend on it."""
    cores = len(os.sched_getaffinity(0))
    on_gpu = options.torch_device().type == "cuda"
    return options.jobs or (1 if on_gpu else max(1, cores // options.threads))


def run_tasks(tasks: list[Task], jobs: int, progress: GridProgress) -> Iterator[Ended]:
    """In this process for one job, else in a pool of fresh ones; in the order of completion."""
    if jobs > 1 and len(tasks) > 1:
        yield from _in_pool(tasks, jobs, progress)
        return
    for task in tasks:
        ended = do(task, progress.update)
        progress.finish(task.name, ended.line)
        yield ended


def _in_pool(tasks: list[Task], jobs: int, progress: GridProgress) -> Iterator[Ended]:
    method = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=method)
    with _children_ignore_interrupts():
        manager.start(_die_with_parent)
    with manager:
        events = manager.Queue()
        stop = threading.Event()
        listener = threading.Thread(target=_listen, args=(events, progress, stop), daemon=True)
        listener.start()
        try:
            left = yield from _wave(tasks, jobs, method, events, progress)
            for task in left:  # a process died and took the pool along: now one by one
                if (yield from _wave([task], 1, method, events, progress)):
                    yield _died(task, progress)
        finally:
            stop.set()
            listener.join(timeout=5)


def _wave(
    tasks: list[Task], jobs: int, method: Any, events: Any, progress: GridProgress
) -> Generator[Ended, None, list[Task]]:
    """Yields what ended; returns the tasks whose process died."""
    left = []
    with ProcessPoolExecutor(jobs, method, initializer=_die_with_parent) as pool:
        try:
            with _children_ignore_interrupts():
                futures = {pool.submit(_in_worker, t, events): t for t in tasks}
            for task, ended in _completed(futures):
                if ended is None:
                    left.append(task)
                    continue
                progress.finish(task.name, ended.line)
                yield ended
        except BaseException:
            workers = list((pool._processes or {}).values())  # shutdown forgets them
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            raise
    return left


@contextlib.contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; the launcher alone answers it. Processes started
    within the block inherit that the signal is blocked; here it is only put off until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_parent() -> None:
    """A process whose launcher was killed must not go on unseen."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _died(task: Task, progress: GridProgress) -> Ended:
    reason = "its worker process was killed (out of memory?)"
    if task.kind == "cell":
        Store(task.options.results).write_attempt(task.spec, "failed", reason)
    ended = Ended("failed", f"{task.name}: failed: {reason}", 0.0)
    progress.finish(task.name, ended.line)
    return ended


def _completed(futures: dict[Future[Ended], Task]) -> Iterator[tuple[Task, Ended | None]]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], None


def _in_worker(task: Task, events: queue.Queue[tuple[str, str, int, int]]) -> Ended:
    last = 0.0

    def report(cell: str, phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.5 or done == total:
            last = now
            with contextlib.suppress(OSError, EOFError):  # the launcher is going: work on
                events.put((cell, phase, done, total))

    return do(task, report)


def _listen(
    events: queue.Queue[tuple[str, str, int, int]], progress: GridProgress, stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            progress.update(*events.get(timeout=0.2))
        except queue.Empty:
            continue
        except (EOFError, OSError):
            return
