"""What pruning costs on images that are not like the training images, beside what it costs on the
ordinary test set: from the measurement files of extra test sets alone.

Robustness is often lost before accuracy is (Hooker et al. 2019, "What do compressed deep neural
networks forget?"; Liebenwein et al. 2021, "Lost in pruning").
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmark import frames, shifted, summaries
from benchmark.block import Block
from benchmark.columns import PERCENT, POINTS, Column
from benchmark.optimism import KNOWN, ROW
from benchmark.paired import difference
from benchmark.texts import md, number

WHOLE = "(all)"  # in the column of corruptions: the mean over them, or a set without any
_T = "95 % t-interval of the mean over seeds, {} end; from 3 seeds"

COLUMNS: list[Column] = [
    *[KNOWN[name] for name in ROW],
    Column("set", "name of the extra test set"),
    Column("set_hash", "hash of its files: rows of one name and hash are on the same images"),
    Column("corruption", f"{WHOLE}: the whole set, a plain mean over corruptions where it has any; "
           "else one corruption, a plain mean over its severities"),
    Column("images", "images of the whole set", "images", 0),
    Column("n", "seeds measured on the set", "", 0),
    Column("accuracy_mean", "mean top-1 of the pruned network after recovery", PERCENT, 2),
    Column("accuracy_sd", "its sample standard deviation over seeds", PERCENT, 2),
    Column("accuracy_low", _T.format("lower"), PERCENT, 2),
    Column("accuracy_high", _T.format("upper"), PERCENT, 2),
    Column("top5_mean", "mean top-5, from 20 classes on", PERCENT, 2),
    Column("dense_mean", "mean top-1 of the dense networks it is set against, on the same images; "
           "for a random start that of the baseline with the same seed and total_epochs",
           PERCENT, 2),
    Column("drop_n", "seeds with both: dense and pruned network on the set and on the ordinary "
           "test set", "", 0),
    Column("drop_mean", "dense minus pruned on the set, paired by seed: what pruning cost there",
           POINTS, 2),
    Column("drop_low", _T.format("lower"), POINTS, 2),
    Column("drop_high", _T.format("upper"), POINTS, 2),
    Column("paired_low", "95 % interval of drop_mean over test images, lower end, as for "
           "differences between methods; of sets without corruptions", POINTS, 2),
    Column("paired_high", "upper end", POINTS, 2),
    Column("paired_scope", "what that interval speaks of: seeds and images from 5 seeds on, else "
           "images only"),
    Column("test_drop_mean", "dense minus pruned on the ordinary test set, same seeds", POINTS, 2),
    Column("excess_mean", "drop_mean minus test_drop_mean: what pruning cost more here than on the "
           "ordinary test set", POINTS, 2),
    Column("excess_low", _T.format("lower"), POINTS, 2),
    Column("excess_high", _T.format("upper"), POINTS, 2),
    Column("agreement_mean", "images of the ordinary test set on which dense and pruned network "
           "say the same class, mean over seeds", PERCENT, 2),
]  # fmt: skip


class Key(NamedTuple):
    """A set and one figure of it."""

    name: str
    content_hash: str
    corruption: str


@dataclass(frozen=True)
class Found:
    """A network on one set."""

    top1: float  # %
    top5: float  # %
    right: np.ndarray | None = None  # (N,) bool


@dataclass(frozen=True)
class Heard:
    """What all measurement files of a block say: pruned networks by run, dense ones by weights."""

    pruned: dict[tuple[str, Key], Found] = field(default_factory=dict)
    dense: dict[tuple[str, Key], Found] = field(default_factory=dict)
    images: dict[Key, int] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)  # by run


def robustness(block: Block) -> pd.DataFrame:
    """One row per cell, set and corruption, in the order of the leaderboard; none where nothing
    was measured.

    Raises:
        BadInput: a measurement cannot be read.
    """
    heard = _heard(block)
    runs = block.runs[block.runs["status"] == "done"]
    parts = {str(cell): part for cell, part in runs.groupby("cell", sort=False)}
    rows = []
    for row in block.board[block.board["n"] > 0].to_dict("records"):
        part = parts[str(row["cell"])]
        ids = [str(run_id) for run_id in part["run_id"]]
        known = {name: row[name] for name in ROW}
        for key in sorted({key for run_id, key in heard.pruned if run_id in ids}, key=_order):
            rows.append(known | _row(part, key, heard))
    return frames.typed(rows, COLUMNS)


def _order(key: Key) -> tuple[str, str, bool, str]:
    return key.name, key.content_hash, key.corruption != WHOLE, key.corruption


def _heard(block: Block) -> Heard:
    """The first file by name counts where a set was measured several times, as on two machines."""
    heard = Heard()
    for run_id, record in block.records.items():
        for facts in block.store.measurements(record.spec, shifted.KIND):
            if facts["own_test"]["agreement"] is not None:
                heard.agreement.setdefault(run_id, 100 * facts["own_test"]["agreement"])
            for name, figures in facts["networks"].items():
                place, owner = (
                    (heard.dense, figures["weights"]) if name == "dense" else (heard.pruned, run_id)
                )
                for key, found in _figures(facts, figures, name):
                    place.setdefault((owner, key), found)
                    heard.images.setdefault(key, facts["images"])
    return heard


def _figures(
    facts: Mapping[str, Any], figures: Mapping[str, Any], name: str
) -> Iterator[tuple[Key, Found]]:
    """Of one network, the whole set first."""
    right = None
    if facts["predictions"] is not None:
        classes, labels = (shifted.decoded(facts["predictions"][n]) for n in (name, "labels"))
        right = classes == labels
    key = Key(facts["set"], facts["content_hash"], WHOLE)
    yield key, Found(100 * figures["top1"], _percent(figures["top5"]), right)
    for corruption, own in figures.get("corruptions", {}).items():
        found = Found(100 * own["top1"], _percent(own["top5"]))
        yield key._replace(corruption=corruption), found


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def _row(part: pd.DataFrame, key: Key, heard: Heard) -> dict[str, Any]:
    """Of one cell: `part` has its runs, one per seed."""
    own, seeds = [], defaultdict(list)
    pairs = []
    for run in part.sort_values("seed", kind="stable").to_dict("records"):
        found = heard.pruned.get((str(run["run_id"]), key))
        if found is None:
            continue
        own.append(found)
        seeds["agreement"].append(heard.agreement.get(str(run["run_id"]), math.nan))
        dense = heard.dense.get((str(run["dense_weights"]), key))
        if dense is None:
            continue
        test_drop = float(run["dense_top1"]) - float(run["test_final"])
        seeds["dense"].append(dense.top1)
        seeds["drop"].append(dense.top1 - found.top1)
        seeds["test_drop"].append(test_drop)
        seeds["excess"].append(dense.top1 - found.top1 - test_drop)
        pairs.append((dense.right, found.right))
    accuracy = summaries.summary([found.top1 for found in own])
    row: dict[str, Any] = {
        "set": key.name, "set_hash": key.content_hash, "corruption": key.corruption,
        "images": heard.images[key], "n": len(own),
        **{f"accuracy_{name}": value for name, value in accuracy.items()},
        "top5_mean": summaries.mean([found.top5 for found in own]),
        "drop_n": len(seeds["drop"]),
        **{f"{name}_mean": summaries.mean(seeds[name])
           for name in ("dense", "test_drop", "agreement")},
    }  # fmt: skip
    for name in ("drop", "excess"):
        row |= {f"{name}_{k}": v for k, v in summaries.summary(seeds[name]).items() if k != "sd"}
    return row | _paired(pairs)


def _paired(pairs: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> dict[str, Any]:
    """The interval of the drop over images; none without predictions."""
    dense = [one for one, _ in pairs if one is not None]
    pruned = [other for _, other in pairs if other is not None]
    if not pairs or len(dense) < len(pairs) or len(pruned) < len(pairs):
        return {"paired_scope": ""}
    found = difference(np.stack(dense), np.stack(pruned))
    interval = found.interval_95
    return {
        "paired_low": interval.low, "paired_high": interval.high, "paired_scope": found.scope,
    }  # fmt: skip


# ---- for reading ---------------------------------------------------------------------------------


HEADS = [
    "Method", "Target", "Set", "Seeds", "Dense", "Pruned", "Drop", "95 % interval",
    "Drop on the test set", "Lost more here",
]  # fmt: skip
NOTE = (
    "- Top-1 in %, drops in percentage points: dense minus pruned, paired by seed. The interval is "
    "over test images and, from 5 seeds on, over seeds; of sets with corruptions it is over seeds, "
    "from 3 on. Figures of each corruption are in `robustness.csv`.\n"
)


def markdown(frame: pd.DataFrame) -> str:
    """A section of a board's page, a table for each of the board's; empty where nothing was
    measured."""
    whole = frame[frame["corruption"] == WHOLE]
    if whole.empty:
        return ""
    parts = ["\n## Extra test sets"]
    align = ["left", "right", "left", *["right"] * (len(HEADS) - 3)]
    for name, part in whole.groupby("table", sort=False):
        rows = [[md(cell) for cell in _cells(row)] for row in part.to_dict("records")]
        table = tabulate(rows, HEADS, "pipe", disable_numparse=True, colalign=align)
        parts += [f"Table {md(str(name))}", table]
    return "\n\n".join([*parts, NOTE])


def _cells(row: Mapping[Any, Any]) -> list[str]:
    own = "paired" if not math.isnan(row["paired_low"]) else "drop"
    low, high = number(row[f"{own}_low"], 2), number(row[f"{own}_high"], 2)
    return [
        str(row["entry"]), number(row["target"], 1), str(row["set"]), number(row["n"], 0),
        number(row["dense_mean"], 2), number(row["accuracy_mean"], 2),
        number(row["drop_mean"], 2), f"{low} to {high}" if low else "",
        number(row["test_drop_mean"], 2), number(row["excess_mean"], 2),
    ]  # fmt: skip
