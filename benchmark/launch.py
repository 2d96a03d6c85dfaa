"""Runs a grid: dense networks first, then the cells, in this process or in a pool of processes.

A failed cell is written down as an attempt with its reason; the grid goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmark import baseline
from benchmark.archs import build as build_arch
from benchmark.data import BatchSource, Data, load_data
from benchmark.errors import BadInput
from benchmark.execute import Context, make_trainer, run_one, set_threads_and_determinism
from benchmark.ledger import FORWARD_SHARE, TRAIN_STEP, BudgetExceeded
from benchmark.network import Network
from benchmark.progress import GridProgress
from benchmark.spec import RunSpec
from benchmark.store import Store, write_text
from benchmark.sweep import Cell, Options
from benchmark.trainer import Diverged
from methods import build as build_method
from methods import find
from methods.api import Unsupported

EXPECTED = (BudgetExceeded, Diverged, BadInput)  # the reason says it all: no traceback is shown


@dataclass(frozen=True)
class Task:
    """One piece of work that a worker process can do from scratch."""

    kind: str  # "dense" or "cell"
    spec: RunSpec
    label: str  # of the method, as typed: a path for a user's own file
    options: Options
    command: str

    @property
    def name(self) -> str:
        """Shown in progress lines."""
        seed = f"seed {self.spec.seeds.run}"
        if self.kind == "dense":
            return f"dense {self.spec.arch.name} {seed}"
        cut = self.spec.flops_reduction
        target = f" at {100 * cut:g} %" if cut else ""
        ls = "+ls" if self.spec.reconstruct == "ls" else ""
        return f"{self.spec.method.label}{ls}{target} {seed}"


@dataclass(frozen=True)
class Ended:
    """How a task ended: done, failed or n/a."""

    status: str
    line: str
    seconds: float


Report = Callable[[str, str, int, int], None]  # cell, phase, done, total


@lru_cache(maxsize=2)
def _data(key: str) -> Data:
    options = Options.model_validate_json(key)
    return data_of(options)


def data_of(options: Options, on_progress: Callable[[int, int], None] | None = None) -> Data:
    """The data set the options name; the paper track trains on all of train."""
    return load_data(
        options.dataset,
        data_dir=options.data_dir,
        data_name=options.data_name,
        image_size=options.image_size,
        normalize=options.normalize,
        cache_dir=options.results / "stages",
        validation=options.track != "paper",
        on_progress=on_progress,
    )


def do(task: Task, report: Report) -> Ended:
    """Do the task; whatever goes wrong is an attempt on disk, never an exception."""
    started, log = time.monotonic(), ""
    store = Store(task.options.results)
    try:
        line = _do(task, store, report)
        return Ended("done", line, time.monotonic() - started)
    except Unsupported as reason:
        status, text = "n/a", str(reason)
    except EXPECTED as reason:
        status, text = "failed", str(reason)
    except Exception as error:  # a cell must never take the grid down
        log = f"logs/{task.spec.run_id}.log"
        write_text(store.root / log, traceback.format_exc())
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        status, text = "failed", f"{what} (see {log})"
    if task.kind == "cell":
        store.write_attempt(task.spec, status, text, log)
    return Ended(status, f"{task.name}: {status}: {text}", time.monotonic() - started)


def _do(task: Task, store: Store, report: Report) -> str:
    options, spec = task.options, task.spec
    keyed = options.model_dump_json(include=set(_DATA_FIELDS))
    data = _data(keyed)
    if data.identity != spec.data:
        raise BadInput("the data changed since the grid was planned")
    entry = find(task.label)
    context = Context(
        store=store,
        data=data,
        device=options.torch_device(),
        progress=lambda phase, done, total: report(task.name, phase, done, total),
        checkpoint=options.checkpoint,
        compiled=options.compile,
        optimistic=wants_optimistic(options),
        command=task.command,
    )
    if task.kind == "dense":
        set_threads_and_determinism(spec.threads)
        trainer = make_trainer(spec, context)
        test = BatchSource(data.test, spec.data, context.device)
        method = build_method(entry, spec.method.params)
        stage = baseline.dense_stage(spec, method, trainer, test, store, options.checkpoint)
        return f"{task.name}: {100 * stage.facts['accuracy']['test_top1']:.2f} % test top-1"
    record = run_one(spec, entry, context)
    line = f"{task.name}: {100 * record.final.test_top1:.2f} % test top-1"
    cut = f" with {100 * record.flops_reduction:.1f} % of the FLOPs removed"
    return line + (cut if record.flops_reduction else "")


_DATA_FIELDS = (
    "dataset", "data_dir", "data_name", "image_size", "normalize", "track", "results",
)  # fmt: skip


def wants_optimistic(options: Options) -> bool:
    """On in the paper track, off elsewhere, unless said (DECISIONS 19)."""
    return options.track == "paper" if options.optimistic is None else options.optimistic


def dense_tasks(cells: Iterable[Cell], options: Options) -> list[Task]:
    """One task per dense network that is not there yet."""
    store = Store(options.results)
    found: dict[str, Task] = {}
    for cell in (c for c in cells if c.spec.start.kind != "random"):
        method = build_method(cell.entry, cell.spec.method.params)
        key = baseline.stage_key(cell.spec, method.own_dense)
        if store.stage("dense", key) is None:
            found.setdefault(key, _task("dense", cell, options))
    return list(found.values())


def _task(kind: str, cell: Cell, options: Options) -> Task:
    label = next(m for m in [*options.methods, cell.entry.label] if _same(m, cell))
    return Task(kind, cell.spec, label, options, command_of(cell, options, label))


def _same(label: str, cell: Cell) -> bool:
    is_file = label.endswith(".py") and Path(label).stem == cell.entry.name
    return is_file if cell.entry.source_hash else label == cell.entry.label


def command_of(cell: Cell, options: Options, label: str) -> str:
    """The command that makes this one record again."""
    spec = cell.spec
    own: dict[str, Any] = {
        "methods": [label],
        "seeds": [spec.seeds.run],
        "flops_reduction": [spec.flops_reduction] if spec.flops_reduction else [],
        "preparation": [spec.preparation],
        "reconstruct": [spec.reconstruct],
        "precision": spec.precision,
    }
    chosen = options.model_copy(update=own)
    words = ["python -m benchmark.run"]
    for name, value in chosen.model_dump(mode="json", exclude_defaults=True).items():
        if name in ("results", "jobs", "device"):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            words += [f"--set {k}={_word(v)}" for k, v in value.items()]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words.append(f"{flag} {','.join(map(str, value))}")
        else:
            words.append(f"{flag} {value}")
    return " ".join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_grid(cells: list[Cell], options: Options, console: Console) -> int:
    """Run what is missing; the number of cells that failed."""
    store = Store(options.results)
    for cell in (c for c in cells if c.blocked):
        _note_blocked(cell, store)
    waiting = [c for c in cells if not c.blocked and not is_done(c, options)]
    tasks = [_task("cell", c, options) for c in waiting]
    failed = 0
    with Workers(options) as workers:
        for title, wave in (("dense networks", dense_tasks(waiting, options)), ("cells", tasks)):
            if wave:
                count = min(workers.jobs, len(wave))
                with GridProgress(console, title, len(wave), count) as progress:
                    ended = list(workers.run(wave, progress))
                failed += sum(e.status == "failed" for e in ended) if title == "cells" else 0
    return failed


def is_done(cell: Cell, options: Options) -> bool:
    """Whether nothing is left to do for the cell."""
    store = Store(options.results)
    has_optimistic = not wants_optimistic(options) or store.measurements(cell.spec, "optimistic")
    return store.has(cell.spec) and bool(has_optimistic)


def _note_blocked(cell: Cell, store: Store) -> None:
    known = [a for a in store.last_attempts() if a.run_id == cell.spec.run_id]
    if not known or known[0].reason != cell.blocked:
        store.write_attempt(cell.spec, cell.status, cell.blocked)


def worker_count(options: Options) -> int:
    """`--jobs`, else one on a GPU and cores // threads on a CPU; results do not depend on it."""
    cores = len(os.sched_getaffinity(0))
    on_gpu = options.torch_device().type == "cuda"
    return options.jobs or (1 if on_gpu else max(1, cores // options.threads))


# ---- workers -------------------------------------------------------------------------------------


class Workers:
    """In this process for one job, else a pool of fresh processes."""

    def __init__(self, options: Options) -> None:
        self.jobs = worker_count(options)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def run(self, tasks: list[Task], progress: GridProgress) -> Iterator[Ended]:
        """Ends in the order of completion."""
        if self.jobs == 1 or len(tasks) == 1:
            for task in tasks:
                ended = do(task, progress.update)
                progress.finish(task.name, ended.line)
                yield ended
            return
        yield from self._pool(tasks, progress)

    def _pool(self, tasks: list[Task], progress: GridProgress) -> Iterator[Ended]:
        method = multiprocessing.get_context("spawn")
        with method.Manager() as manager:
            events = manager.Queue()
            stop = threading.Event()
            listener = threading.Thread(target=_listen, args=(events, progress, stop), daemon=True)
            listener.start()
            try:
                left = yield from self._wave(tasks, self.jobs, method, events, progress)
                for task in left:  # a process died and took the pool along: now one by one
                    if (yield from self._wave([task], 1, method, events, progress)):
                        yield _died(task, progress)
            finally:
                stop.set()
                listener.join(timeout=5)

    def _wave(
        self, tasks: list[Task], jobs: int, method: Any, events: Any, progress: GridProgress
    ) -> Generator[Ended, None, list[Task]]:
        """Yields what ended; returns the tasks whose process died."""
        left = []
        with ProcessPoolExecutor(jobs, method) as pool:
            futures = {pool.submit(_in_worker, t, events): t for t in tasks}
            try:
                for task, ended in _completed(futures):
                    if ended is None:
                        left.append(task)
                        continue
                    progress.finish(task.name, ended.line)
                    yield ended
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(getattr(pool, "_processes", {}).values()):
                    process.terminate()
                raise
        return left


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


# ---- estimate ------------------------------------------------------------------------------------


def estimate(cells: list[Cell], options: Options, jobs: int) -> float:
    """Seconds for what is missing, from the measured pace of one training step."""
    waiting = [c for c in cells if not c.blocked and not is_done(c, options)]
    if not waiting:
        return 0.0
    spec = waiting[0].spec
    pace = _seconds_per_image(spec, options.torch_device())
    images = 0.0
    data = _data(options.model_dump_json(include=set(_DATA_FIELDS)))
    epoch = len(data.train)
    for task in dense_tasks(waiting, options):
        images += (task.spec.baseline.epochs if task.spec.baseline else 0) * epoch
    forward = (2 * len(data.val) + 3 * len(data.test)) / TRAIN_STEP
    for cell in waiting:
        pruned = 1 - cell.spec.flops_reduction
        images += cell.spec.budget_epochs * epoch * (pruned + 2 * FORWARD_SHARE)
        images += forward + cell.spec.recovery.epochs * len(data.val) / TRAIN_STEP
    return images * pace / max(1, min(jobs, len(waiting)))


def _seconds_per_image(spec: RunSpec, device: torch.device) -> float:
    """Of one training step of the dense network, second of two."""
    torch.set_num_threads(spec.threads)
    model = build_arch(spec.arch.name, spec.data.num_classes).to(device).train()
    size = spec.data.image_size
    batch = torch.zeros(32, 3, size, size, device=device)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        model(batch).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds / len(batch)


def preflight(cells: list[Cell]) -> Network:
    """The traced network of the grid: refused here rather than in every cell."""
    spec = cells[0].spec
    return Network(baseline.new_model(spec), baseline.example(spec), spec.scope)
