"""`python -m benchmark.similarity`: do methods choose the same channels?

Overlap of kept channels beside what chance gives, and rank correlation of scores, for every pair of
rows of a table at one target. Plans suffice for the first; scores are taken where they are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmark import block as blocks
from benchmark import looks, similarityplot, tables
from benchmark.block import Block
from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.files import check_writable, write_text
from benchmark.likeness import COLUMNS, WHOLE, KeptScores, similarity
from benchmark.likenesspage import markdown, ranks_markdown
from benchmark.load import find_run
from benchmark.tables import csv_text

EVERY = "all"  # in place of run ids
FOLDER = "similarity"  # below the results directory


def chosen(words: list[str], results: Path) -> set[str] | None:
    """Run ids; None: every one."""
    if not words or EVERY in words:
        return None
    return {find_run(word, results).name for word in words}


def drawn(block: Block, frame: pd.DataFrame, out: Path, png: bool) -> list[Path]:
    """Heat maps of the block's tables."""
    made = []
    with looks.fixed_style():
        for table, own in frame.groupby("table", sort=False):
            title = tables.caption(block.board[block.board["table"] == table])
            for quantity in similarityplot.QUANTITIES:
                if own[quantity].notna().any():
                    path = out / f"{block.name}-{table}-{quantity}.svg"
                    looks.save(similarityplot.heat_maps(own, title, quantity), path, png)
                    made.append(path)
    return made


def main(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run ids, their starts, or folders. Default: all.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where the records are.")] = Path("results"),
    target: Annotated[
        float | None, typer.Option(help="Only runs at this FLOPs reduction, as 0.5.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. Default: RESULTS/similarity.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also write figures as PNG.")] = False,
) -> int:
    """How alike the choices of methods are, for finished runs at one target on one network.

    Example: python -m benchmark.similarity --results results-demo --target 0.5
    """
    screen = console()
    place, only = out or results / FOLDER, chosen(runs or [], results)
    frames, files, sections = [], [], []

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    for block in blocks.blocks(results):
        scores = KeptScores(block.store)
        percent = None if target is None else 100 * target
        frame = similarity(block, scores, layers=True, only=only, target=percent)
        if frame.empty:
            continue
        check_writable(place)
        files += drawn(block, frame, place, png)
        section = f"# {block.data}, {block.arch}\n{markdown(frame)}{ranks_markdown(frame)}"
        said = [*scores.lines()]
        sections.append(section + "\n" + "".join(f"- {line.strip()}\n" for line in said))
        frames.append(frame)
        say(section)
        for line in said:
            say(line)
    if not frames:
        raise BadInput(
            f"nothing to compare in {results}: it takes runs of two methods at one target that "
            "start from one dense network, or two seeds of one method"
        )
    every = pd.concat(frames, ignore_index=True)
    texts = {
        "similarity.csv": csv_text(every[every["layer"] == WHOLE], COLUMNS),
        "similarity-layers.csv": csv_text(every[every["layer"] != WHOLE], COLUMNS),
        "similarity.md": "\n".join(sections),
    }
    for name, text in texts.items():
        write_text(place / name, text)
    say(f"{len(texts) + len(files)} files written under {place}")
    return DONE


if __name__ == "__main__":
    run_app(main)
