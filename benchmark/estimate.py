"""What is left to do, and what it will cost."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch

from benchmark import baseline
from benchmark.archs import build as build_arch
from benchmark.ledger import FORWARD_SHARE, TRAIN_STEP
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import Cell, Options
from benchmark.tasks import DATA_FIELDS, Task, cached_data, task_of, wants_optimistic
from methods import build as build_method

START_SECONDS = 8.0  # of a pool of processes
CELL_SECONDS = 4.0  # of tracing, counting and latency, whatever the training


def is_done(cell: Cell, options: Options) -> bool:
    """Whether nothing is left to do for the cell."""
    store = Store(options.results)
    has_optimistic = not wants_optimistic(options) or store.measurements(cell.spec, "optimistic")
    return store.has(cell.spec) and bool(has_optimistic)


def dense_tasks(cells: Iterable[Cell], options: Options) -> list[Task]:
    """One task per dense network that is not there yet."""
    store = Store(options.results)
    found: dict[str, Task] = {}
    for cell in (c for c in cells if c.spec.start.kind != "random"):
        method = build_method(cell.entry, cell.spec.method.params)
        key = baseline.stage_key(cell.spec, method.own_dense)
        if store.stage("dense", key) is None:
            found.setdefault(key, task_of("dense", cell, options))
    return list(found.values())


def estimate(cells: list[Cell], options: Options, jobs: int) -> float:
    """Seconds for what is missing, from the measured pace of one training step."""
    waiting = [c for c in cells if not c.blocked and not is_done(c, options)]
    if not waiting:
        return 0.0
    spec = waiting[0].spec
    pace = _seconds_per_image(spec, options.torch_device())
    images = 0.0
    data = cached_data(options.model_dump_json(include=set(DATA_FIELDS)))
    epoch = len(data.train)
    for task in dense_tasks(waiting, options):
        images += (task.spec.baseline.epochs if task.spec.baseline else 0) * epoch
    forward = (2 * len(data.val) + 3 * len(data.test)) / TRAIN_STEP
    for cell in waiting:
        pruned = 1 - cell.spec.flops_reduction
        images += cell.spec.budget_epochs * epoch * (pruned + 2 * FORWARD_SHARE)
        images += forward + cell.spec.recovery.epochs * len(data.val) / TRAIN_STEP
    workers = max(1, min(jobs, len(waiting)))
    return START_SECONDS + (images * pace + CELL_SECONDS * len(waiting)) / workers


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
