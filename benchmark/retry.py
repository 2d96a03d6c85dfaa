"""`python -m benchmark.retry`: go on with the grids of a results directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import report
from benchmark.cli import DONE, FAILED, console, run_app
from benchmark.errors import BadInput
from benchmark.grid import Grid, read_grids
from benchmark.launch import preflight, run_grid
from benchmark.progress import counted, counting
from benchmark.state import states
from benchmark.store import Store, check_writable
from benchmark.sweep import Options, expand
from benchmark.tasks import data_of


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what failed; else all that is not done.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at once.")] = None,
) -> int:
    """Run again what failed, was interrupted, or was never begun, with the settings it had.

    Example: python -m benchmark.retry --failed --results results-demo
    """
    store, screen = Store(results), console()
    grids = read_grids(store)
    if not grids:
        raise BadInput(f"no grid was launched on {results}: python -m benchmark.run makes one")
    check_writable(results)
    lost = 0
    for grid in grids:
        lost += _again(grid, store, failed, jobs, screen)
    report.build(results)
    return FAILED if lost else DONE


def _again(grid: Grid, store: Store, failed: bool, jobs: int | None, screen: Console) -> int:
    """Go on with one grid; the number of cells that failed."""
    wanted = {"failed"} if failed else {"failed", "interrupted", "to do"}
    left = {n.work.key for n in states(store, [grid]) if n.state in wanted}
    options = grid.options.model_copy(update={"results": store.root, "jobs": jobs})
    what = f"{options.arch} on {options.data_name or options.dataset}"
    if not any(w.key in left for w in grid.work if w.kind == "cell"):
        screen.print(f"{what}: nothing to do")
        return 0
    with counting(screen, "reading images") as on_progress:
        data = data_of(Options.model_validate(options), on_progress)
    cells = expand(options, data)
    again = [c for c in cells if c.spec.run_id in left]
    if not again:
        raise BadInput(f"{what}: the data, a file or the code changed, so these are other runs now")
    screen.print(f"{what}: {counted(len(again), 'cell')} again", highlight=False)
    runnable = [c for c in again if not c.blocked]
    if runnable:
        preflight(runnable, options)
    return run_grid(cells, options, screen, left)


if __name__ == "__main__":
    run_app(main)
