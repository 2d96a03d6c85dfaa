"""Workers: processes, each with a pipe of its own.

Nothing is shared between workers, so one that is killed takes nothing along: its task goes back to
the queue and continues from its last checkpoint in a new process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmark.errors import never
from benchmark.lifeline import STOP, deaf
from benchmark.options import Options
from benchmark.progress import GridProgress
from benchmark.runlog import RunLog
from benchmark.store import Store
from benchmark.tasks import Ended, Task, do, note_attempt, without_dense
from benchmark.team import ALONE, Team
from benchmark.worker import work

MOST_DEATHS = 3  # of one task's process, then it counts as failed
PATIENCE = 60.0  # seconds for the work under way to write a checkpoint when it should stop

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


def run_tasks(
    tasks: list[Task],
    jobs: int,
    progress: GridProgress,
    stop: Callable[[], bool] = never,
    team: Team = ALONE,
    patience: float = PATIENCE,
) -> Iterator[Ended]:
    """In processes of their own (0 jobs: in this one), in the order of completion. What another
    launcher is working on comes last.

    When `stop` says so, what is under way writes a checkpoint and ends as "stopped" (or is ended
    after so many seconds of `patience`), and nothing more is begun. A `team` of processes does each
    task together, without workers.
    """
    lost: Lost = {}
    if jobs and team.size == 1:
        done = _in_processes(tasks, jobs, progress, lost, stop, patience)
    else:
        done = _in_turn(tasks, progress, lost, stop, team)
    for task, ended in done:
        if task.kind == "dense" and ended.status not in ("done", "stopped"):
            lost[task.makes] = ended
        progress.finish(task.name, ended.line)
        yield ended


def _in_turn(
    tasks: list[Task], progress: GridProgress, lost: Lost, stop: Callable[[], bool], team: Team
) -> Done:
    later = []  # the order of the tasks puts a dense network before its cells
    for task in tasks:
        if team.agree(stop()):
            return
        if task.needs in lost:
            yield task, without_dense(task, lost[task.needs], team)
            continue
        ended = do(task, progress.update, wait=False, stop=stop, team=team)
        if ended.status == "busy":
            later.append(task)
        else:
            yield task, ended
    for task in later:
        if team.agree(stop()):
            return
        yield task, do(task, progress.update, stop=stop, team=team)


# ---- the launcher's side -------------------------------------------------------------------------


@dataclass(eq=False)
class Worker:
    """A process, our end of its pipe, and what it is doing."""

    process: Any
    pipe: Connection
    place: int
    task: Task | None = None

    def end(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError, TypeError):  # it is gone already
            os.kill(self.process.pid, number)

    def give(self, task: Task, waits: bool) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # it died just now: its sentinel tells
            self.pipe.send((task, waits))


def _in_processes(
    tasks: list[Task],
    jobs: int,
    progress: GridProgress,
    lost: Lost,
    stop: Callable[[], bool],
    patience: float,
) -> Done:
    queue, later, deaths = list(tasks), list[Task](), Counter[str]()
    workers: list[Worker] = []
    try:
        while queue or later or any(w.task for w in workers):
            if stop():
                yield from _wind_down(workers, progress, patience)
                return
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
        _dismiss(workers)


def _wind_down(workers: list[Worker], progress: GridProgress, patience: float) -> Done:
    """All that is under way is asked to write a checkpoint and end."""
    for worker in (w for w in workers if w.task is not None):
        worker.end(STOP)
    until = time.monotonic() + min(patience, PATIENCE)
    while any(w.task for w in workers) and time.monotonic() < until:
        for worker in _with_news(workers):
            ended = _heard(worker, progress, Counter[str](), workers)
            if isinstance(ended, Ended):
                yield _freed(worker), ended


def _dismiss(workers: list[Worker]) -> None:
    """What is idle ends by itself; the rest may write a checkpoint, then has to go."""
    for worker in workers:
        worker.pipe.close()
        if worker.task is not None:
            worker.end(STOP)
    try:
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            until = time.monotonic() + seconds
            for worker in workers:
                worker.process.join(max(0.0, until - time.monotonic()))
                if worker.process.is_alive():
                    worker.end(number)
    finally:  # whoever presses Ctrl-C again does not want to wait
        for worker in workers:
            if worker.process.is_alive():
                worker.end(signal.SIGTERM)
    for worker in workers:
        worker.process.join(5)


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
        place = min(set(range(wanted)) - {w.place for w in workers})
        ours, theirs = method.Pipe()
        with deaf():
            # No daemon, which may not have children, as those that decode images. It watches its
            # launcher instead.
            process = method.Process(target=work, args=(theirs, place))
            process.start()
        theirs.close()
        workers.append(Worker(process, ours, place))


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
