"""Workers: processes, each with a pipe of its own.

Nothing is shared between workers, so one that is killed takes nothing along: its task goes back to
the queue and continues from its last checkpoint in a new process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

from benchmark.progress import GridProgress
from benchmark.runlog import RunLog
from benchmark.store import Store
from benchmark.sweep import Options
from benchmark.tasks import Ended, Task, do, note_attempt, without_dense

MOST_DEATHS = 3  # of one task's process, then it counts as failed
PAUSE = 0.5  # seconds between two messages about progress

Lost = dict[str, Ended]  # dense networks that could not be made, by key
Done = Iterator[tuple[Task, Ended]]


def worker_count(options: Options) -> int:
    """`--jobs` (0: none, all happens in this process), else one on a GPU and cores // threads on a
    CPU; results do not depend on it."""
    cores = len(os.sched_getaffinity(0))
    on_gpu = options.torch_device().type == "cuda"
    if options.jobs is not None:
        return options.jobs
    return 1 if on_gpu else max(1, cores // options.threads)


def run_tasks(tasks: list[Task], jobs: int, progress: GridProgress) -> Iterator[Ended]:
    """In processes of their own (0 jobs: in this one), in the order of completion. What another
    launcher is working on comes last."""
    lost: Lost = {}
    work = _in_processes if jobs else _in_turn
    for task, ended in work(tasks, jobs, progress, lost):
        if task.kind == "dense" and ended.status != "done":
            lost[task.makes] = ended
        progress.finish(task.name, ended.line)
        yield ended


def _in_turn(tasks: list[Task], jobs: int, progress: GridProgress, lost: Lost) -> Done:
    later = []  # the order of the tasks puts a dense network before its cells
    for task in tasks:
        if task.needs in lost:
            yield task, without_dense(task, lost[task.needs])
            continue
        ended = do(task, progress.update, wait=False)
        if ended.status == "busy":
            later.append(task)
        else:
            yield task, ended
    for task in later:
        yield task, do(task, progress.update)


# ---- the launcher's side -------------------------------------------------------------------------


@dataclass(eq=False)
class Worker:
    """A process, our end of its pipe, and what it is doing."""

    process: Any
    pipe: Connection
    task: Task | None = None

    def give(self, task: Task, waits: bool) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # it died just now: its sentinel tells
            self.pipe.send((task, waits))


def _in_processes(tasks: list[Task], jobs: int, progress: GridProgress, lost: Lost) -> Done:
    queue, later, deaths = list(tasks), list[Task](), Counter[str]()
    workers: list[Worker] = []
    try:
        while queue or later or any(w.task for w in workers):
            for task in [t for t in queue if t.needs in lost]:
                queue.remove(task)
                yield task, without_dense(task, lost[task.needs])
            _hire(workers, min(jobs, len(queue) + len(later) + len(_at_work(workers))))
            _give_work(workers, queue, later)
            for worker in _with_news(workers):
                ended = _heard(worker, progress, deaths, workers)
                if isinstance(ended, Task):
                    queue.append(ended)
                elif ended is not None and ended.status == "busy":
                    later.append(_freed(worker))
                elif ended is not None:
                    yield _freed(worker), ended
    finally:
        for worker in workers:
            worker.pipe.close()  # an idle one ends by itself
            if worker.task is not None:
                worker.process.terminate()
        for worker in workers:
            worker.process.join(10)
            worker.process.kill()


def _give_work(workers: list[Worker], queue: list[Task], later: list[Task]) -> None:
    for worker in (w for w in workers if w.task is None and w.process.is_alive()):
        task = next_task(queue, _at_work(workers))
        if task is not None:
            worker.give(task, waits=False)
        elif later and not queue:
            worker.give(later.pop(0), waits=True)


def next_task(queue: list[Task], running: list[Task]) -> Task | None:
    """Takes the first task out of the queue that would not stand and wait for a stage that another
    one is making, or will make: its dense network, or its scores."""
    unmade = {task.makes for task in (*queue, *running)}
    for place, task in enumerate(queue):
        has_scores = Store(task.options.results).has_stage(*task.shares)
        same = not has_scores and any(other.shares == task.shares for other in running)
        if task.needs not in unmade and not same:
            return queue.pop(place)
    return None


def _hire(workers: list[Worker], wanted: int) -> None:
    method = multiprocessing.get_context("forkserver")  # imports once, then starts in no time
    method.set_forkserver_preload(["benchmark.tasks"])
    while len(workers) < wanted:
        ours, theirs = method.Pipe()
        with _children_ignore_interrupts():
            process = method.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
        theirs.close()
        workers.append(Worker(process, ours))


def _at_work(workers: list[Worker]) -> list[Task]:
    return [w.task for w in workers if w.task is not None]


def _with_news(workers: list[Worker]) -> list[Worker]:
    """Workers that sent something or died; none after a second, for the stages they made may let
    others begin."""
    ready = wait([thing for w in workers for thing in (w.pipe, w.process.sentinel)], timeout=1)
    return [w for w in workers if w.pipe in ready or w.process.sentinel in ready]


def _heard(
    worker: Worker, progress: GridProgress, deaths: Counter[str], workers: list[Worker]
) -> Ended | Task | None:
    """How a task ended, the task itself if its process died, or None for news of progress."""
    try:
        message = worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):
        message = None
    if isinstance(message, Ended):
        return message
    if message is not None:
        progress.update(*message)
        return None
    if worker.process.is_alive():
        return None
    workers.remove(worker)
    worker.pipe.close()
    return _died(worker, progress, deaths) if worker.task is not None else None


def _freed(worker: Worker) -> Task:
    task, worker.task = worker.task, None
    assert task is not None
    return task


def _died(worker: Worker, progress: GridProgress, deaths: Counter[str]) -> Ended | Task:
    task, code = worker.task, worker.process.exitcode
    assert task is not None
    deaths[task.key] += 1
    killed = code is not None and code < 0
    how = signal.Signals(-code).name if killed else f"exit code {code}"
    memory = "; out of memory?" if how == "SIGKILL" else ""
    reason = f"its worker process ended ({how}{memory})"
    store = Store(task.options.results)
    again = deaths[task.key] < MOST_DEATHS
    reason += "" if again else f", {MOST_DEATHS} times"
    if task.kind == "cell":
        status = "interrupted" if again else "failed"
        note_attempt(store, task.spec, status, reason, task.key)
    RunLog(store.root / store.log_name(task.key))(reason)
    if again:
        progress.say(f"{task.name}: {reason}; it goes on, from its last checkpoint if there is one")
        return task
    return Ended("failed", f"{task.name}: failed: {reason}", 0.0, task.kind, reason)


@contextlib.contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; the launcher alone answers it. Processes started
    within the block inherit that the signal is blocked; here it is only put off until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- the worker's side ---------------------------------------------------------------------------


def _work(pipe: Connection) -> None:
    """One task after the other, until the launcher is gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    tqdm.set_lock(threading.RLock())  # its lock between processes would outlive a kill
    _die_with_parent()
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
            ended = do(task, report, waits)
            with contextlib.suppress(OSError):
                pipe.send(ended)


def _leave(*_: Any) -> None:
    """An order to end is met like Ctrl-C: what is held is let go, nothing counts as failed."""
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """A process whose launcher was killed must not go on unseen."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
