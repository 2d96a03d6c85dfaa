"""Runs a grid: dense networks first, then the cells.

A failed cell is written down as an attempt with its reason; the grid goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator

from rich.console import Console

from benchmark import baseline, select
from benchmark.claims import Busy
from benchmark.context import budget_of
from benchmark.errors import BadInput
from benchmark.estimate import compare, dense_tasks, forecast, is_done
from benchmark.grid import write_grid
from benchmark.network import Network
from benchmark.options import Options
from benchmark.pool import run_tasks, worker_count
from benchmark.preflight import traced
from benchmark.progress import GridProgress, counted
from benchmark.store import Store
from benchmark.sweep import Cell
from benchmark.tasks import task_of
from benchmark.weights import load_weights, read_checkpoint

LONG = 3600.0  # an estimate beyond this is printed before starting


def run_grid(
    cells: list[Cell], options: Options, console: Console, only: Collection[str] | None = None
) -> int:
    """Run what is missing (of the run ids `only`, if given); the number of cells that failed."""
    store, jobs = Store(options.results), worker_count(options)
    for cell in (c for c in cells if c.blocked):
        note_blocked(cell, store)
    waiting = [c for c in cells if not c.blocked and not is_done(c, options)]
    waiting = [c for c in waiting if only is None or c.spec.run_id in only]
    tasks = [*dense_tasks(waiting, options), *(task_of("cell", c, options) for c in waiting)]
    expected = forecast(waiting, options, jobs)
    if expected.total.middle > LONG:
        console.print(
            f"This will take roughly {expected.total} with {jobs} jobs; it can be interrupted at "
            "any time and goes on where it was.",
            highlight=False,
        )
    key = write_grid(store, options, cells, tasks, jobs, expected.tasks)
    store.take_ballast()
    started = time.monotonic()
    bars = GridProgress(console, "grid", len(tasks), min(jobs, len(tasks)))
    with _launching(store, key, console), bars as progress:
        ended = list(run_tasks(tasks, jobs, progress))
    if tasks:
        line = compare(expected.total, time.monotonic() - started)
        console.print(f"{counted(len(tasks), 'piece')} of work: {line}", highlight=False)
    return sum(e.status == "failed" and e.kind == "cell" for e in ended)


@contextlib.contextmanager
def _launching(store: Store, key: str, console: Console) -> Iterator[None]:
    """Others can see that the grid is being worked on. Two launchers may share it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(store.claims.take("grid", key, wait=False))
        except Busy as other:
            console.print(f"{other}: this one helps", highlight=False)
        yield


def note_blocked(cell: Cell, store: Store) -> None:
    """An attempt that says why the cell cannot run, once."""
    known = [a for a in store.last_attempts() if a.run_id == cell.spec.run_id]
    if not known or known[0].reason != cell.blocked:
        store.write_attempt(cell.spec, cell.status, cell.blocked)


def preflight(cells: list[Cell], options: Options) -> Network:
    """The traced network of the grid: what is wrong with it, or with the checkpoint, is said once
    and here rather than in every cell.

    Raises:
        BadInput: the network cannot be followed, the checkpoint does not fit, or no target can be
            reached.
    """
    spec = cells[0].spec
    model = baseline.new_model(spec)
    if options.checkpoint is not None:
        load_weights(model, read_checkpoint(options.checkpoint), str(options.checkpoint))
    net = traced(model, baseline.example(spec), spec.scope, spec.arch.name)
    _check_targets(cells, net)
    return net


def _check_targets(cells: list[Cell], net: Network) -> None:
    """A target that no method can reach is a mistake of the command. Where other targets of the
    grid can be reached, its cells are left to say so (n/a) and the grid goes on."""
    asked = [c.spec for c in cells if c.spec.allocation not in ("none", "listed")]
    most = {
        (s.min_width, s.round_to): select.largest_cut(net.limits(budget_of(s, net)), net.macs)
        for s in asked
    }
    beyond = [
        s for s in asked if s.flops_reduction > most[s.min_width, s.round_to] + select.TOLERANCE
    ]
    if asked and len(beyond) == len(asked):
        spec = min(beyond, key=lambda s: s.flops_reduction)
        multiples = f" in multiples of {spec.round_to}" if spec.round_to > 1 else ""
        raise BadInput(
            f"--flops-reduction {spec.flops_reduction:g}: {spec.arch.name} with scope {spec.scope} "
            f"and a minimum width of {spec.min_width:g}{multiples} can lose at most "
            f"{100 * most[spec.min_width, spec.round_to]:.1f} % of its FLOPs; ask for less, or "
            f"lower --min-width{' or --round-to' if multiples else ''}"
        )
