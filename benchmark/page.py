"""The report as one HTML page: works from disk, reaches no network, same content, same bytes.

Numbers travel as packed frames (`benchmark.embed`) and are drawn by the scripts in `html/`. Texts
of records are never markup: scripts set them as text, the template escapes them, and only scripts
whose hash the page's own policy names can run.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import importlib.metadata
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import vl_convert
from matplotlib.colors import to_hex

from benchmark import looks, origin
from benchmark.columns import LEADERBOARD, RUNS, SPEC, Column, names
from benchmark.embed import compressed, json_bytes, packed
from benchmark.excerpts import Card, cards, detail
from benchmark.files import write_text
from benchmark.granted import CLAIMS
from benchmark.paired import CONDITIONAL

__all__ = ["Card", "Content", "cards", "detail", "render"]

FOLDER = Path(__file__).parent / "html"
SCRIPTS = ("decode", "heads", "table", "leaderboard", "plot", "drawer", "page")
MOST_RUNS = 100_000  # listed seed by seed; more would make the page slow to load
MOST_DETAILS = 10_000  # runs whose record is in the page
CHUNK = 200  # records decoded at once when one is opened
# Of a run, in the drawer; all others are in runs.csv.
OF_A_RUN = (
    "seed", "dense_seed", "run_id", "status", "reason", "test_final", "val_final", "dense_top1",
    "delta", "test_best_val", "test_best_test", "seconds",
)  # fmt: skip
ROUNDER = ("target", "flops_reduction", "params_reduction")  # one decimal in the printed tables
FRAMES = {
    "comparisons": ("Against the controls", "Each method minus a reference on the same seeds and "
                    "test images, in percentage points. The family was declared beforehand and its "
                    "intervals hold together; everything else is exploratory and says so."),
    "published": ("Published against reproduced", "One verdict per published figure, by rule. "
                  "FLOPs reductions stand side by side as physically removed and as the authors' "
                  "own counter has it. A figure that differs in more than accuracy is not "
                  "comparable, and the reason is named."),
    "optimism": ("What choosing the epoch is worth", "Last epoch, best validation epoch and best "
                 "test epoch of the same runs. The gap to the last is what selection alone adds."),
    "selection": ("What choosing the epoch is worth, by method",
                  "A seed is one observation: its mean over all targets."),
    "budget": ("Accuracy against total training cost", "All phases count, those before pruning "
               "too. Controls show what the same budget buys without the method."),
    "robustness": ("Extra test sets", "What pruning cost on images of another origin or with "
                   "corruptions, beside what it cost on the ordinary test set."),
    "classes": ("Accuracy per class", "Of the dense network and at each stage after pruning, means "
                "over seeds. A label is known where some run got the image right; images that no "
                "run got right are counted as unrevealed."),
    "similarity": ("How alike the choices are", "Kept channels that two rows have in common, "
                   "beside what random choices at their widths would share. The same row twice: "
                   "between its seeds."),
    "ladder": ("Without recovery, at many targets", "Validation accuracy after removal and "
               "recalibration of batch norm alone, of choices made at each target as in a run."),
    "early": ("The first steps of recovery", "Validation accuracy after so many steps; step 0 is "
              "after recalibration of batch norm."),
    "exploratory": ("Other comparisons", "Exploratory: each interval stands for itself, and with "
                    "this many some leave out zero by chance."),
    "pooled": ("Over boards", "Differences to the references, targets averaged within each pair of "
               "data and architecture. No test below six pairs."),
    "areas": ("Area under accuracy against FLOPs", "Mean accuracy over the range of log FLOPs that "
              "all rows of a board cover; a row that lacks a target has none."),
    "profiles": ("Performance profiles", "Share of cells in which a method's error is at most so "
                 "many times the smallest there."),
    "ranking": ("Overall ranking", "Over boards. Withheld, with the reason, until three pairs of "
                "data and architecture are complete."),
    "stability": ("Rank stability", "Kendall's tau between the orders of methods at two targets or "
                  "on two architectures: 1 is the same order, 0 none in common."),
    "imported": ("Networks made elsewhere", "Measured here, made by other code with its own data, "
                 "recipe and dense network: compared with nothing and never ranked."),
}  # fmt: skip
SHAPES = {  # of matplotlib's markers, in Vega's words or as a path in a square of side 2
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "D": "diamond", "P": "cross", "x": "M-.8-.8L.8.8M-.8.8L.8-.8",
    "X": "M-.9-.5L-.5-.9L0-.4L.5-.9L.9-.5L.4 0L.9.5L.5.9L0 .4L-.5.9L-.9.5L-.4 0Z",
    "p": "M0-1L.95-.31L.59.81L-.59.81L-.95-.31Z", "h": "M0-1L.87-.5L.87.5L0 1L-.87.5L-.87-.5Z",
    "+": "M-1 0L1 0M0-1L0 1", "1": "M0 0L0 1M0 0L.87-.5M0 0L-.87-.5",
    "2": "M0 0L0-1M0 0L.87.5M0 0L-.87.5", "3": "M0 0L-1 0M0 0L.5-.87M0 0L.5.87",
    "4": "M0 0L1 0M0 0L-.5-.87M0 0L-.5.87",
}  # fmt: skip
CHUNK_OF = Column("chunk", "where the record is in this page", "", 0)
LOOK = Column("look", "colour, shape, and 1 for the first row of its method")


@dataclass(frozen=True)
class Content:
    """All that the page shows. `frames`: further tables by name, with their columns. `details`: by
    run id, as `detail` makes them. `checklist`: rule, whether it holds (None: not applicable), and
    the evidence. `figures`: caption and SVG. `captions` and `notes`: by table."""

    board: pd.DataFrame  # columns.LEADERBOARD
    runs: pd.DataFrame  # columns.RUNS
    frames: Mapping[str, tuple[pd.DataFrame, list[Column]]] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cards: Sequence[Card] = ()
    checklist: Sequence[tuple[str, bool | None, str]] = ()
    figures: Sequence[tuple[str, str]] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def render(content: Content, keep: Path | None = None) -> str:
    """The page. `keep`: a folder for the compressed plotting library, which takes seconds to make
    and is the same for every page."""
    script = "\n".join((FOLDER / f"{n}.js").read_text(encoding="utf-8") for n in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    library, library_hash = _library(keep)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        content=content,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        policy=f"'{_hash(script)}' '{library_hash}'",
        library=library,
        blobs=_blobs(content),
        sections=[_section(name, frame) for name, (frame, _) in content.frames.items()],
        counts=_counts(content),
        citation=_citation(content.board),
        dictionary=origin.columns(LEADERBOARD, content.board),
        is_link=_is_link,
    )


# ---- embedding -----------------------------------------------------------------------------------


def _blobs(content: Content) -> dict[str, str]:
    """Compressed data by the id of the element that holds it."""
    there = [i for i in _texts(content.runs["run_id"]) if i in content.details][:MOST_DETAILS]
    chunks = [
        json_bytes({run: content.details[run] for run in there[i : i + CHUNK]})
        for i in range(0, len(there), CHUNK)
    ]
    found = {"board": _board(content), "runs": _runs(content, there)}
    found |= {f"details-{i}": chunk for i, chunk in enumerate(chunks)}
    found |= {f"frame-{n}": packed(f, cs) for n, (f, cs) in content.frames.items()}
    found |= {f"figure-{i}": svg.encode("utf-8") for i, (_, svg) in enumerate(content.figures)}
    return {name: compressed(blob) for name, blob in found.items()}


def _board(content: Content) -> bytes:
    """The leaderboard with what belongs to each row and table."""
    board, verdicts = _with_verdicts(content.board, content.frames.get("comparisons"))
    known = {c.name: c for c in LEADERBOARD}
    rounder = [Column(f"{n}:1", known[n].meaning, known[n].unit, 1) for n in ROUNDER]
    extra = {c.name: board[c.name.partition(":")[0]] for c in rounder}
    board = board.assign(**extra, look=_looks(board))
    own = [*origin.columns(LEADERBOARD, board), *rounder, *verdicts, LOOK]
    return packed(
        board, own, captions=dict(content.captions),
        notes={t: list(notes) for t, notes in content.notes.items()},
        settings=names([c for c, _ in SPEC]),
        references=[c.name for c in verdicts if c.decimals is None],
    )  # fmt: skip


def _with_verdicts(
    board: pd.DataFrame, comparisons: tuple[pd.DataFrame, list[Column]] | None
) -> tuple[pd.DataFrame, list[Column]]:
    """The board with a verdict and a mean difference per reference, the first one named for each
    row."""
    key = ["table", "target", "entry"]
    if comparisons is None or not {*key, "reference", "mean", "verdict"} <= set(comparisons[0]):
        return board, []
    columns: list[Column] = []
    for reference, part in comparisons[0].groupby("reference", sort=True):
        name = f"vs {reference}"
        text = Column(name, f"verdict against {reference}; margin 0.3 points, fixed beforehand")
        mean = Column(f"{name}:mean", f"mean difference to {reference}", "percentage points", 2)
        first = part.drop_duplicates(key)
        if "scope" in first:  # a claim about these runs is not one about the methods
            only = (first["scope"] == CONDITIONAL) & first["verdict"].isin(CLAIMS)
            said = first["verdict"] + np.where(only, " (these runs only)", "")
            first = first.assign(verdict=said)
        first = first[[*key, "verdict", "mean"]]
        first = first.rename(columns={"verdict": text.name, "mean": mean.name})
        board = board.merge(first, on=key, how="left", validate="many_to_one")
        board[text.name] = board[text.name].fillna("").astype("str")
        columns += [text, mean]
    return board, columns


def _looks(board: pd.DataFrame) -> list[str]:
    """Per row what figures use too."""
    found = looks.appearances(board)
    texts = {
        (table, entry): f"{to_hex(look.colour)} {look.filled:d} {SHAPES.get(look.marker, 'circle')}"
        for table, entries in found.items()
        for entry, look in entries.items()
    }
    return [texts[key] for key in zip(_texts(board["table"]), _texts(board["entry"]), strict=True)]


def _runs(content: Content, detailed: Sequence[str]) -> bytes:
    """Figures seed by seed, and the chunk that holds each record."""
    chunks = {run: float(i // CHUNK) for i, run in enumerate(detailed)}
    listed = content.runs.head(MOST_RUNS)
    listed = listed.assign(chunk=[chunks.get(run, math.nan) for run in _texts(listed["run_id"])])
    wanted = [c for c in RUNS if c.name in (*OF_A_RUN, "cell")]
    return packed(
        listed, [*wanted, CHUNK_OF], details=len(detailed), all=len(content.runs),
    )  # fmt: skip


def _texts(values: pd.Series[Any]) -> list[str]:
    """At once: element by element is slow for texts."""
    found: list[str] = values.to_numpy(dtype=object).tolist()
    return found


# ---- text ----------------------------------------------------------------------------------------


def _section(name: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Heading and sentence of a further table."""
    heading, says = FRAMES.get(name, (name.replace("_", " ").capitalize(), ""))
    return {"name": name, "heading": heading, "says": says, "rows": len(frame)}


def _counts(content: Content) -> dict[str, int]:
    board, runs = content.board, content.runs
    return {
        "methods": int(board.loc[board["control"] != 1, "method"].nunique()),
        "controls": int(board.loc[board["control"] == 1, "method"].nunique()),
        "cells": len(board),
        "runs": int((runs["status"] == "done").sum()),
        "lost": int((runs["status"] != "done").sum()),
        "pairs": len(board[["data", "arch"]].drop_duplicates()),
        "tables": int(board["table"].nunique()),
        "listed": min(len(runs), MOST_RUNS),
        "details": min(sum(i in content.details for i in _texts(runs["run_id"])), MOST_DETAILS),
    }


def _citation(board: pd.DataFrame) -> dict[str, str]:
    """Name, version and what else a citation of figures has to say."""
    protocols = sorted({f"{p:.0f}" for p in board["protocol"]})
    return {
        "title": "prunebench: a reproducibility benchmark suite for CNN channel pruning",
        "version": importlib.metadata.version("prunebench"),
        "protocol": " and ".join(protocols),
    }


def _is_link(text: object) -> bool:
    """Cards may be anyone's: no other scheme becomes a link."""
    return str(text).startswith(("https://", "http://"))


# ---- the plotting library ------------------------------------------------------------------------


def _library(keep: Path | None) -> tuple[str, str]:
    """Vega, Vega-Lite and vega-embed: compressed, and the hash that allows them to run."""
    name = f"vega-{importlib.metadata.version('vl-convert-python')}.txt"
    if keep is not None:
        with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):  # absent, or damaged
            text = (keep / name).read_text(encoding="ascii")
            return text, _hash(gzip.decompress(base64.b64decode(text)).decode("utf-8"))
    script = _bundle()
    text = compressed(script.encode("utf-8"))
    if keep is not None:
        write_text(keep / name, text)
    return text, _hash(script)


@cache
def _bundle() -> str:
    """In a function of its own, so that its hundreds of names stay inside."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"(() => {{\n{bundle}\n}})();\n"


def _hash(script: str) -> str:
    """As a content security policy names an inline script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
