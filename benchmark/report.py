"""`python -m benchmark.report`: everything that is derived from the records of a directory.

Same records, same bytes: no clock, no host, sorted rows, fixed decimals.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmark import columns, frames, looks, plots
from benchmark.cli import DONE, console, run_app, warn_of_damage
from benchmark.errors import BadInput
from benchmark.files import write_text
from benchmark.store import Store
from benchmark.tables import csv_text, latex_page, markdown_page, markdown_table, terminal_table

__all__ = ["build", "main", "markdown_table", "terminal_table"]

MANIFEST = "leaderboard/FILES.txt"  # what the last report wrote: stale files are found by it
PICTURES = "figures"


def build(root: Path, png: bool = False) -> list[Path]:
    """Write tables and figures under `root` and remove those of boards that are gone.

    Raises:
        BadInput: there is nothing to report.
    """
    runs = frames.load(root)
    if runs.empty:
        raise BadInput(f"no results under {root}: run a benchmark first, or pass --results DIR")
    board = frames.leaderboard(runs)
    pictures = _draw(root, runs, board, png)
    texts = _texts(runs, board, pictures)
    written = [*texts, *(name for names in pictures.values() for name in names)]
    _remove_stale(root, set(written))
    for name, text in texts.items():
        write_text(root / name, text)
    write_text(root / MANIFEST, "".join(f"{name}\n" for name in sorted(written)))
    drawn = [n for names in pictures.values() for n in names]
    images = [Path(name).with_suffix(".png") for name in drawn] if png else []
    return [root / name for name in sorted([*written, MANIFEST, *map(str, images)])]


def _texts(
    runs: pd.DataFrame, board: pd.DataFrame, pictures: dict[str, list[str]]
) -> dict[str, str]:
    texts = {
        "leaderboard.csv": csv_text(board, columns.LEADERBOARD),
        "leaderboard/runs.csv": csv_text(runs, columns.RUNS),
        "leaderboard/DICTIONARY.md": columns.dictionary(),
    }
    links = {table: [f"../{name}" for name in names] for table, names in pictures.items()}
    for (data, arch), part in board.groupby(["data", "arch"], sort=True):
        stem = f"leaderboard/{data}-{arch}"
        texts[f"{stem}.csv"] = csv_text(part, columns.LEADERBOARD)
        texts[f"{stem}.md"] = markdown_page(part, f"{data}, {arch}", links)
        texts[f"{stem}.tex"] = latex_page(part)
    return texts


def _draw(root: Path, runs: pd.DataFrame, board: pd.DataFrame, png: bool) -> dict[str, list[str]]:
    """Draw all figures; their names by table."""
    names: dict[str, list[str]] = defaultdict(list)
    with looks.fixed_style():
        for table, stem, figure in plots.figures(Store(root), runs, board):
            name = f"{PICTURES}/{stem}.svg"
            plots.save(figure, root / name, png)
            names[table].append(name)
    return dict(names)


def _remove_stale(root: Path, current: set[str]) -> None:
    """Only files that an earlier report wrote, and PNG copies of its figures, which are made on
    request."""
    manifest = root / MANIFEST
    earlier = manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []
    for name in set(earlier) - current:
        path = root / name
        if path.resolve().is_relative_to(root.resolve()):
            path.unlink(missing_ok=True)
            if path.suffix == ".svg":
                path.with_suffix(".png").unlink(missing_ok=True)


def main(
    results: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results"),
    png: Annotated[bool, typer.Option("--png", help="Also write figures as PNG.")] = False,
) -> int:
    """Rebuild leaderboards and figures from the records under --results.

    Example: python -m benchmark.report --results results-demo
    """
    screen = console()
    warn_of_damage(Store(results), screen)
    written = build(results, png)
    screen.print(f"{len(written)} files written under {results}", highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
