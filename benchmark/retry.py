"""`python -m benchmark.retry`: go on with the grids of a results directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import report
from benchmark.cli import (
    BAD_INPUT,
    DONE,
    FAILED,
    complain,
    console,
    run_app,
    warn_of_damage,
)
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.grid import Grid, known_grids
from benchmark.lanes import grid as cells_of
from benchmark.launch import preflight, run_grid
from benchmark.options import Options
from benchmark.progress import counted, counting
from benchmark.sender import on_site, submit_grid
from benchmark.state import states
from benchmark.store import Store
from benchmark.tasks import data_of


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what failed; else all that is not done.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=0, help="Cells at once. Default: as launched.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="On this machine, also what went to a cluster.")
    ] = False,
) -> int:
    """Run again what failed, was interrupted, or was never begun, with the settings it had; what
    went to a cluster goes there again. What is in its queue is left alone.

    Example: python -m benchmark.retry --failed --results results-demo
    """
    store, screen = Store(results), console()
    grids = known_grids(store)
    check_writable(results)
    codes = []
    for grid in grids:
        try:
            again = at_home(grid) if here else grid
            codes.append(FAILED if _again(again, store, failed, jobs, screen) else DONE)
        except BadInput as error:  # the other grids can go on
            complain(f"{_name(grid)}: {error}")
            codes.append(BAD_INPUT)
    warn_of_damage(store.damaged(), screen)
    if all(grid.options.lane == "trial" for grid in grids):
        screen.print("Next: python -m benchmark.tune, as before, chooses by what is done")
    elif store.record_paths() or store.last_attempts():  # else there is nothing to show yet
        report.build(results)
    return max(codes)


def at_home(grid: Grid) -> Grid:
    """The grid as if it had been launched on this machine."""
    options = grid.options.model_copy(update={"executor": "local", "site": None})
    return replace(grid, options=options)


def _name(grid: Grid) -> str:
    return f"{grid.options.arch} on {grid.options.data_name or grid.options.dataset}"


def _again(grid: Grid, store: Store, failed: bool, jobs: int | None, screen: Console) -> int:
    """Go on with one grid; the number of cells that failed."""
    wanted = {"failed", "damaged"} if failed else {"failed", "damaged", "interrupted", "to do"}
    left = {n.work.key for n in states(store, [grid]) if n.state in wanted}
    workers = grid.options.jobs if jobs is None else jobs
    options = on_site(grid.options.model_copy(update={"results": store.root, "jobs": workers}))
    what = _name(grid)
    if not any(w.key in left for w in grid.work if w.kind == "cell"):
        screen.print(f"{what}: nothing to do")
        return 0
    with counting(screen, "reading images") as on_progress:
        data = data_of(Options.model_validate(options), on_progress)
    cells = cells_of(options, data)
    ours, known = {c.spec.run_id for c in cells}, {w.key for w in grid.work}
    for work in (w for w in grid.work if w.key in left and w.kind == "cell"):
        if work.key not in ours:
            screen.print(
                f"{work.name} ({work.key}) is another run now: its file, the data or the code "
                "changed; the new one is made",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    left |= ours - known
    again = [c for c in cells if c.spec.run_id in left]
    screen.print(f"{what}: {counted(len(again), 'cell')} again", highlight=False)
    runnable = [c for c in again if not c.blocked]
    if runnable:
        preflight(runnable, options)
    if options.executor == "slurm":
        submit_grid(cells, options, screen, left)
        return 0
    return run_grid(cells, options, screen, left)


if __name__ == "__main__":
    run_app(main)
