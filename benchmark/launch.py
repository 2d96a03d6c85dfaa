"""Runs a grid: dense networks first, then the cells.

A failed cell is written down as an attempt with its reason; the grid goes on.
"""

from __future__ import annotations

from rich.console import Console

from benchmark import baseline
from benchmark.archs import load_weights, read_checkpoint
from benchmark.estimate import dense_tasks, is_done
from benchmark.network import Network
from benchmark.pool import run_tasks, worker_count
from benchmark.progress import GridProgress
from benchmark.store import Store
from benchmark.sweep import Cell, Options
from benchmark.tasks import task_of


def run_grid(cells: list[Cell], options: Options, console: Console) -> int:
    """Run what is missing; the number of cells that failed."""
    store = Store(options.results)
    for cell in (c for c in cells if c.blocked):
        _note_blocked(cell, store)
    waiting = [c for c in cells if not c.blocked and not is_done(c, options)]
    tasks = [*dense_tasks(waiting, options), *(task_of("cell", c, options) for c in waiting)]
    store.take_ballast()
    jobs = worker_count(options)
    with GridProgress(console, "grid", len(tasks), min(jobs, len(tasks))) as progress:
        ended = list(run_tasks(tasks, jobs, progress))
    return sum(e.status == "failed" and e.kind == "cell" for e in ended)


def _note_blocked(cell: Cell, store: Store) -> None:
    known = [a for a in store.last_attempts() if a.run_id == cell.spec.run_id]
    if not known or known[0].reason != cell.blocked:
        store.write_attempt(cell.spec, cell.status, cell.blocked)


def preflight(cells: list[Cell], options: Options) -> Network:
    """The traced network of the grid: what is wrong with it, or with the checkpoint, is said once
    and here rather than in every cell.

    Raises:
        BadInput: the checkpoint does not fit.
    """
    spec = cells[0].spec
    model = baseline.new_model(spec)
    if options.checkpoint is not None:
        load_weights(model, read_checkpoint(options.checkpoint), str(options.checkpoint))
    return Network(model, baseline.example(spec), spec.scope)
