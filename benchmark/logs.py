"""`python -m benchmark.logs RUN`: what a run wrote down while it worked."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.store import Store
from benchmark.why import find_work


def main(
    run: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last so many lines.")] = None,
) -> int:
    """Print the log of a run: when it began, epochs, warnings, and the traceback if it failed.

    Example: python -m benchmark.logs 3f2a --tail 20 --results results-demo
    """
    store = Store(results)
    work = find_work(run, store)
    path = store.root / store.log_name(work.key)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = list(deque(file, maxlen=tail))
    except OSError as error:
        raise BadInput(
            f"{work.name} has no log here: logs stay on the machine that ran it"
        ) from error
    screen = console()
    for line in lines:
        screen.print(line.rstrip("\n"), highlight=False, markup=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
