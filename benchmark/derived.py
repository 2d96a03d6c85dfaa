"""What is derived from one block, kept on disk so that only blocks that changed are made again.

A block that was derived lies in `stages/report-HASH/`: frames as Arrow files, their CSV text, and
`state.json`. It is made by this code from records alone, and safe to delete.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow import feather

import benchmark
import methods
from benchmark import (
    against,
    blockwise,
    checklist,
    columns,
    comparisons,
    costplot,
    costs,
    curvespage,
    dissectplot,
    early,
    earlyplot,
    export,
    ladderplot,
    laddertable,
    lanetable,
    likeness,
    likenesspage,
    looks,
    optimism,
    origin,
    page,
    perclass,
    plots,
    robustness,
    similarityplot,
    statplots,
)
from benchmark import block as blocks
from benchmark.block import Block
from benchmark.column import Column, plain
from benchmark.files import dump_json, new_folder, write_text
from benchmark.spec import digest
from benchmark.store import Store
from benchmark.study import Study, study
from benchmark.tables import csv_text, latex_page, markdown_page

STATE = "state.json"
Drawn = Literal["svg", "png", "none"]
PICTURES = "figures"


@dataclass(frozen=True)
class Whole:
    """A block whose leaderboard knows who may be the best, and its paired statistics."""

    block: Block
    study: Study


@dataclass(frozen=True)
class Table:
    """A frame that is made from a block."""

    name: str
    columns: list[Column]
    make: Callable[[Whole], pd.DataFrame]


TABLES = (
    Table("leaderboard", columns.LEADERBOARD, lambda w: w.block.board),
    Table("runs", columns.RUNS, lambda w: w.block.runs),
    Table("comparisons", comparisons.COLUMNS, lambda w: w.study.comparisons),
    Table("differences", blockwise.COLUMNS, lambda w: w.study.differences),
    Table("optimism", optimism.COLUMNS, lambda w: optimism.optimism(w.block)),
    Table("selection", optimism.METHODS, lambda w: optimism.by_method(w.block)),
    Table("budget", costs.COLUMNS, lambda w: costs.budget(w.block)),
    Table("classes", perclass.COLUMNS, lambda w: perclass.class_accuracy(w.block)),
    Table("checklist", checklist.COLUMNS, lambda w: checklist.frame(w.block)),
    Table("published", against.COLUMNS, lambda w: against.published(w.block)),
    Table("robustness", robustness.COLUMNS, lambda w: robustness.robustness(w.block)),
    Table("similarity", likeness.COLUMNS, lambda w: likeness.similarity(w.block)),
    Table("ladder", laddertable.COLUMNS, lambda w: laddertable.ladder(w.block)),
    Table("early", early.COLUMNS, lambda w: early.early(w.block)),
    Table("lanes", lanetable.COLUMNS, lambda w: lanetable.lanes(w.block)),
)
OPTIONAL = ("robustness", "similarity", "ladder", "early", "lanes")  # no file where it has no rows


@dataclass(frozen=True)
class Picture:
    table: str
    file: str  # below the results directory
    caption: str


Draw = Callable[[Block], Iterator[tuple[str, str, str, Figure]]]  # table, stem, caption, figure
DRAW: tuple[Draw, ...] = (
    plots.figures,
    costplot.figures,
    dissectplot.figures,
    similarityplot.figures,
    ladderplot.figures,
    earlyplot.figures,
)


@dataclass(frozen=True)
class Derived:
    """A derived block on disk."""

    folder: Path
    name: str  # DATA/ARCH
    pictures: tuple[Picture, ...]
    damaged: tuple[str, ...]  # a line for each record that cannot be read
    is_drawn: bool
    is_new: bool = False  # made by this call

    def frame(self, table: str) -> pd.DataFrame:
        return feather.read_table(self.folder / f"{table}.arrow").to_pandas()

    def arrow(self, table: str) -> pa.Table:
        return feather.read_table(self.folder / f"{table}.arrow")

    def text(self, name: str) -> str:
        """`TABLE.csv`, rows without the header; `page.md` and `page.tex`."""
        return (self.folder / name).read_text(encoding="utf-8")

    def details(self) -> dict[str, Any]:
        """What the page shows of each run, by run id."""
        found: dict[str, Any] = json.loads(self.text("details.json"))
        return found


def read_whole(root: Path, name: str) -> Whole | None:
    """None: nothing in it can be read."""
    block = blocks.read_block(root, name)
    if block is None:
        return None
    found = study(block)
    runs, board = origin.with_origin(block.runs, found.board, origin.read_marks(root))
    return Whole(replace(block, runs=runs, board=board), found)


def derive(root: Path, name: str, draw: Drawn = "svg") -> Derived | None:
    """The block's tables and figures: as they were kept, or made now; None: nothing in it can be
    read. With `png` figures are drawn again, as PNG too; with `none` what is new has none, until
    they are asked for."""
    folder = Store(root).stages / f"report-{digest(name)}"
    seen = {"stamp": blocks.stamp(root, name), "code": code_version()}
    seen |= {"origin": origin.stamp(root)}
    kept = None if draw == "png" else _kept(root, folder, name, seen)
    if kept is not None and (kept.is_drawn or draw == "none"):
        return kept
    whole = read_whole(root, name)
    if whole is None:
        return None
    made = {table.name: table.make(whole) for table in TABLES}
    pictures = () if draw == "none" else tuple(_draw(root, whole, draw == "png"))
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as draft:
        for table in TABLES:
            _write_table(draft, table, made[table.name])
        for file, text in _texts(whole, pictures, made).items():
            write_text(draft / file, text)
        facts: dict[str, Any] = seen | {"name": name, "pictures": [asdict(p) for p in pictures]}
        damaged = Store(root).damaged(name, whole.block.records)
        facts |= {"damaged": damaged}
        facts |= {"sizes": {file.name: file.stat().st_size for file in sorted(draft.iterdir())}}
        write_text(draft / STATE, dump_json(facts | {"is_drawn": draw != "none"}))
    return Derived(folder, name, pictures, tuple(damaged), draw != "none", is_new=True)


def _texts(
    whole: Whole, pictures: Sequence[Picture], made: Mapping[str, pd.DataFrame]
) -> dict[str, str]:
    block, compared = whole.block, whole.study.comparisons
    links: dict[str, list[str]] = {}
    for picture in pictures:
        links.setdefault(picture.table, []).append(f"../{picture.file}")
    title = f"{block.data}, {block.arch}"
    details = {run: page.detail(record) for run, record in block.records.items()}
    return {
        "page.md": markdown_page(block.board, title, links, compared)
        + robustness.markdown(made["robustness"])
        + lanetable.markdown(made["lanes"])
        + curvespage.steps_markdown(early.recovering(made["early"], block.board))
        + curvespage.targets_markdown(made["ladder"])
        + likenesspage.markdown(made["similarity"]),
        "page.tex": latex_page(block.board, compared),
        "details.json": json.dumps(details, sort_keys=True),
    }


def _write_table(folder: Path, table: Table, frame: pd.DataFrame) -> None:
    wanted = origin.columns(table.columns, frame)
    text = csv_text(frame, plain(table.columns))
    write_text(folder / f"{table.name}.csv", text.partition("\n")[2])
    arrow = export.arrow(frame, wanted)
    feather.write_feather(arrow, str(folder / f"{table.name}.arrow"), compression="uncompressed")


def _kept(root: Path, folder: Path, name: str, seen: dict[str, str]) -> Derived | None:
    try:
        state = json.loads((folder / STATE).read_bytes())
        pictures = tuple(Picture(**p) for p in state["pictures"])
        is_drawn, damaged = bool(state["is_drawn"]), tuple(state["damaged"])
        is_whole = all((root / p.file).is_file() for p in pictures) and all(
            (folder / file).stat().st_size == size for file, size in state["sizes"].items()
        )
        is_current = state["name"] == name and all(state[k] == v for k, v in seen.items())
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Derived(folder, name, pictures, damaged, is_drawn) if is_current and is_whole else None


def _draw(root: Path, whole: Whole, png: bool) -> Iterator[Picture]:
    with looks.fixed_style():
        drawn = [draw(whole.block) for draw in DRAW]
        drawn.append(statplots.figures(whole.block, whole.study.comparisons))
        for table, stem, caption, figure in itertools.chain(*drawn):
            file = f"{PICTURES}/{stem}.svg"
            looks.save(figure, root / file, png)
            yield Picture(table, file, caption)


@cache
def code_version() -> str:
    """Of everything that tables are made by: another version makes all of them again."""
    homes = [Path(package.__file__ or "").parent for package in (benchmark, methods)]
    found = hashlib.sha256()
    for home in homes:
        for path in sorted(home.rglob("*")):
            if path.suffix in (".py", ".toml", ".csv", ".js", ".css", ".j2"):
                found.update(path.read_bytes())
    return found.hexdigest()[:16]
