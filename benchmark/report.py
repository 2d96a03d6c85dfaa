"""`python -m benchmark.report`: everything that is derived from the records of a directory.

Same records, same bytes: no clock, no host, sorted rows, fixed decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmark import (
    againstpage,
    artefacts,
    export,
    frontpage,
    looks,
    origin,
    overall,
    page,
    statplots,
)
from benchmark import block as blocks
from benchmark.cli import DONE, console, run_app, warn_of_damage
from benchmark.column import Column, plain, said
from benchmark.columns import LEADERBOARD, names
from benchmark.derived import OPTIONAL, PICTURES, TABLES, Derived, Drawn, derive
from benchmark.errors import BadInput
from benchmark.files import write_bytes, write_text
from benchmark.store import Store
from benchmark.tables import csv_text, markdown_table, terminal_table

__all__ = ["build", "main", "markdown_table", "terminal_table"]

DESCRIBED = {
    "leaderboard": "`leaderboard.csv` and `leaderboard/DATA-ARCH.csv`: one row per cell",
    "runs": "`leaderboard/runs.csv`: one row per run",
}
MANIFEST = "leaderboard/FILES.txt"  # what the last report wrote: stale files are found by it
PAGE = "report/index.html"
Say = Callable[[str], None]
Tables = dict[str, tuple[pd.DataFrame, list[Column]]]


def quiet(line: str) -> None:
    """Says nothing."""


def build(root: Path, draw: Drawn = "svg", say: Say = quiet) -> list[Path]:
    """Write tables, figures and the page under `root`, and remove those of boards that are gone.

    Raises:
        BadInput: there is nothing to report.
    """
    found = list(_derived(root, draw, say))
    foreign = artefacts.frame(root)
    if not found and foreign.empty:
        _remove_stale(root, set())
        raise BadInput(f"no results under {root}: run a benchmark first, or pass --results DIR")
    if not found:
        return _written(root, _foreign(foreign), [])
    frames, drawn = _frames(root, found), [p.file for part in found for p in part.pictures]
    if len(foreign):
        frames[artefacts.TABLE] = (foreign, artefacts.COLUMNS)
    drawn += [] if draw == "none" else _profiles(root, frames, draw == "png")
    files: dict[str, str | bytes] = {**_texts(found, frames), **_parquet(frames)}
    files |= _foreign(foreign)
    content = frontpage.content(root, found, frames)
    files[PAGE] = page.render(content, Store(root).stages)
    drawn += _earlier_figures(root) if draw == "none" else []
    images = [str(Path(name).with_suffix(".png")) for name in drawn] if draw == "png" else []
    return [*_written(root, files, drawn), *(root / name for name in images)]


def _written(root: Path, files: Mapping[str, str | bytes], drawn: Sequence[str]) -> list[Path]:
    """These files and the manifest, and nothing that an earlier report wrote beside them."""
    written = list(dict.fromkeys([*files, *drawn]))
    _remove_stale(root, set(written))
    for name, body in files.items():
        write_bytes(root / name, body.encode("utf-8") if isinstance(body, str) else body)
    write_text(root / MANIFEST, "".join(f"{name}\n" for name in sorted(written)))
    return [root / name for name in sorted([*written, MANIFEST])]


def _foreign(found: pd.DataFrame) -> dict[str, str | bytes]:
    """The table of networks made elsewhere, where there are any."""
    if found.empty:
        return {}
    table = place(artefacts.TABLE)
    page_of_it = str(Path(table).with_suffix(".md"))
    return {table: csv_text(found, artefacts.COLUMNS), page_of_it: artefacts.markdown(found)}


def damaged(root: Path) -> list[str]:
    """A line for each record that cannot be read; blocks that are kept are not read again."""
    there = {name: derive(root, name, "none") for name in blocks.names(root)}
    return [
        line
        for name, made in there.items()
        for line in (Store(root).damaged(name) if made is None else made.damaged)
    ]


def rows_of(root: Path, cells: Set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the leaderboard, and what they are compared with, for these cells: with all seeds
    that are there."""
    found = list(_derived(root, "none", quiet))
    board, compared = (
        pd.concat([part.frame(name) for part in found], ignore_index=True)
        for name in ("leaderboard", "comparisons")
    )
    return board[board["cell"].isin(cells)], compared[compared["cell"].isin(cells)]


def _derived(root: Path, draw: Drawn, say: Say) -> Iterator[Derived]:
    there = blocks.names(root)
    for i, name in enumerate(there, 1):
        made = derive(root, name, draw)
        if made is not None:
            if made.is_new and len(there) > 1:
                say(f"[{i}/{len(there)}] {name}")
            yield made


def _frames(root: Path, found: Sequence[Derived]) -> Tables:
    """Every table, over all blocks, by name; those that are optional where they have rows."""

    def of_blocks(name: str) -> pd.DataFrame:
        return pd.concat([part.frame(name) for part in found], ignore_index=True)

    frames = overall.Frames(of_blocks, overall.unrun(Store(root).stages))
    made = {
        name: (frames[name], said(frames[name], origin.columns(columns, frames[name])))
        for name, columns in overall.COLUMNS.items()
    }
    return {name: made[name] for name in made if name not in OPTIONAL or len(made[name][0])}


def _profiles(root: Path, frames: Tables, png: bool) -> list[str]:
    """Performance profiles: the one figure that speaks of all blocks."""
    files = []
    with looks.fixed_style():
        drawn = statplots.profile_figures(frames["profiles"][0], frames["leaderboard"][0])
        for stem, _, figure in drawn:
            files.append(f"{PICTURES}/{stem}.svg")
            looks.save(figure, root / files[-1], png)
    return files


def _texts(found: Sequence[Derived], frames: Tables) -> dict[str, str]:
    """Text files by their place below the results directory."""
    kept = {table.name for table in TABLES} - {"published"}  # as text too, block by block
    texts = {
        place(name): _united(name, columns, found) if name in kept else csv_text(frame, columns)
        for name, (frame, columns) in frames.items()
    }
    for part in found:
        stem = f"leaderboard/{part.name.replace('/', '-')}"
        own = part.frame("leaderboard")
        columns = said(own, origin.columns(LEADERBOARD, own))
        texts[f"{stem}.csv"] = _united("leaderboard", columns, [part])
        texts[f"{stem}.md"] = part.text("page.md")
        texts[f"{stem}.tex"] = part.text("page.tex")
    published = frames["published"][0]
    return texts | {
        "leaderboard/published.md": againstpage.markdown(published),
        "leaderboard/published.tex": againstpage.latex(published),
        "leaderboard/DICTIONARY.md": export.dictionary(
            [(DESCRIBED.get(n, f"`{place(n)}`"), columns) for n, (_, columns) in frames.items()]
        ),
    }


def place(table: str) -> str:
    """Of a table as CSV; the leaderboard itself stands at the top."""
    return f"{table}.csv" if table == "leaderboard" else f"leaderboard/{table}.csv"


def _united(table: str, columns: list[Column], found: Sequence[Derived]) -> str:
    """Kept texts are without columns that were added later, which few results need."""
    header = ",".join(names(columns)) + "\n"
    if columns == plain(columns):
        return header + "".join(part.text(f"{table}.csv") for part in found)
    texts = (csv_text(_whole(part.frame(table), columns), columns) for part in found)
    return header + "".join(text.partition("\n")[2] for text in texts)


def _whole(frame: pd.DataFrame, columns: list[Column]) -> pd.DataFrame:
    """With empty columns for what only other blocks say."""
    return frame.assign(**{n: "" for n in names(columns) if n not in frame})


def _parquet(frames: Tables) -> dict[str, bytes]:
    """The same tables for other programs, numbers in full."""
    return {
        f"leaderboard/parquet/{name}.parquet": export.parquet(export.arrow(frame, columns))
        for name, (frame, columns) in frames.items()
    }


def _earlier(root: Path) -> list[str]:
    """Files of the last report."""
    manifest = root / MANIFEST
    return manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []


def _earlier_figures(root: Path) -> list[str]:
    """They stay while none are drawn."""
    return [n for n in _earlier(root) if n.startswith(f"{PICTURES}/") and (root / n).is_file()]


def _remove_stale(root: Path, current: set[str]) -> None:
    """Only files that an earlier report wrote, and PNG copies of its figures, which are made on
    request."""
    for name in set(_earlier(root)) - current:
        path = root / name
        if path.resolve().is_relative_to(root.resolve()):
            path.unlink(missing_ok=True)
            if path.suffix == ".svg":
                path.with_suffix(".png").unlink(missing_ok=True)


def main(
    results: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results"),
    png: Annotated[bool, typer.Option("--png", help="Also write figures as PNG.")] = False,
    figures: Annotated[
        bool, typer.Option(help="Draw figures; without, tables and the page come sooner.")
    ] = True,
) -> int:
    """Rebuild leaderboards, figures and the page from the records under --results.

    Example: python -m benchmark.report --results results-demo
    """
    screen = console()
    draw: Drawn = "none" if not figures else "png" if png else "svg"
    try:
        written = build(results, draw, lambda line: screen.print(line, highlight=False))
    finally:  # where nothing can be read, this is why
        warn_of_damage(damaged(results), screen)
    screen.print(f"{len(written)} files written under {results}", highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
