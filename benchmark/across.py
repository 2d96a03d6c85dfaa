"""What holds over several blocks, (data, architecture) pairs: made from finished frames alone.

Rows stand together that agree in `blockwise.SETTING`, and a method is one in `blockwise.METHOD`.
The paper track is left out: every method there has its own recipe. Statistics:
benchmark/pooling.py and hierarchical.py (DECISIONS 31).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from benchmark import frames, pooling
from benchmark.blockwise import METHOD, SETTING
from benchmark.columns import POINTS, SPEC, Column
from benchmark.fields import fields, limits_of
from benchmark.granted import CLAIMS, NOT_CLAIMED, PAYS, UNDECIDED
from benchmark.hierarchical import outlook
from benchmark.matchups import Row
from benchmark.paired import MARGIN, Difference, Interval, Spread
from benchmark.pooling import RANKED_BLOCKS, TESTED_BLOCKS

RATIOS = (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0)
_SPEC = {c.name: c for c, _ in SPEC}
_SETTING = [_SPEC[name] for name in SETTING]
_METHOD = [Column("title", "name of the method"), *[_SPEC[name] for name in METHOD]]

POOLED: list[Column] = [
    *_SETTING,
    *_METHOD,
    Column("reference_method", "what it is compared with"),
    Column("blocks", "(data, architecture) pairs", "", 0),
    Column("mean", "random-effects mean over blocks of method minus reference, test top-1 after "
           "recovery; from 2 blocks", POINTS, 3),
    Column("low_95", "lower end of its 95 % interval", POINTS, 3),
    Column("high_95", "upper end", POINTS, 3),
    Column("between", "standard deviation of true differences between blocks", POINTS, 3),
    *[Column(f"p_{name}", f"from {TESTED_BLOCKS} blocks: probability that in a new block the method"
             f" is {what}", "", 4)
      for name, what in (("better", f"better by more than {MARGIN} points"),
                         ("equivalent", f"within {MARGIN} points"),
                         ("worse", f"worse by more than {MARGIN} points"))],
    Column("verdict", f"from {TESTED_BLOCKS} blocks: what has a probability of 95 %; "
           f"{NOT_CLAIMED}: something forbids a claim in one of them; {PAYS}: the mean changes "
           "sign when preparation is granted for free"),
    Column("per_block", "difference of each block, points"),
    Column("shrunk", "the same drawn towards the mean by partial pooling"),
    Column("note", "scope, and what limits the estimate"),
]  # fmt: skip
RANKING: list[Column] = [
    *_SETTING,
    *_METHOD,
    Column("rank", "by accuracy, over all blocks", "", 0),
    Column("accuracy", "test top-1 after recovery, mean over targets and blocks", "% of images", 2),
    Column("targets", "requested FLOPs reductions, % of dense MACs"),
    Column("withheld", "why there is no ranking"),
]
STABILITY: list[Column] = [
    *_SETTING,
    Column("across", "what differs: targets or architectures"),
    Column("data", "name of the data set"),
    *[Column(f"{name}{i}", f"{what} of {'one' if i == 1 else 'the other'} order", unit, decimals)
      for i in (1, 2)
      for name, what, unit, decimals in (("arch_", "architecture", "", None),
                                         ("target_", "target", "% of dense MACs", 2))],
    Column("tau", "Kendall's tau-b of the two orders of methods by accuracy", "", 3),
    Column("methods", "methods at both", "", 0),
    Column("note", "saturated: one of the boards is, and its order means little"),
]  # fmt: skip
AREAS: list[Column] = [
    *_SETTING,
    Column("data", "name of the data set"),
    Column("arch", "architecture"),
    *_METHOD,
    Column("control", "1: a control", "", 0),
    Column("area", "mean test top-1 over the logarithm of the FLOPs that remain, over the range "
           "that all rows of the block cover", "% of images", 2),
    Column("left_low", "its lower end", "% of dense MACs", 2),
    Column("left_high", "its upper end", "% of dense MACs", 2),
    Column("refused", "why there is none"),
    Column("note", "what limits it: saturated, or marks of its rows"),
]  # fmt: skip
PROFILES: list[Column] = [
    *_SETTING,
    *_METHOD,
    Column("cells", "(data, architecture, target) cells", "", 0),
    Column("ratio", "of a method's error to the smallest error of the cell", "ratio", 2),
    Column("share", "cells in which the method's ratio is at most this; a cell that it lacks "
           "counts against it", "% of cells", 1),
]  # fmt: skip


# ---- differences ---------------------------------------------------------------------------------


def pooled(differences: pd.DataFrame) -> pd.DataFrame:
    """From rows of benchmark/blockwise.py of all blocks: one row per method and reference."""
    key = [*SETTING, *METHOD, "reference_method"]
    parts = differences.groupby(key, sort=True, dropna=False)
    return frames.typed([_pooled(part) for _, part in parts], POOLED)


def _pooled(part: pd.DataFrame) -> Row:
    """A block with several tables is there once, with the largest of them."""
    part = part.assign(wide=part["targets"].str.count(" "))
    ordered = part.sort_values(["data", "arch", "wide", "n", "table"],
                               ascending=[True, True, False, False, True])  # fmt: skip
    rows = frames.rows_of(ordered.drop_duplicates(["data", "arch"]))
    blocks = {(row["data"], row["arch"]): _difference(row) for row in rows}
    found = pooling.pool(blocks)
    notes = [found.note]
    notes += ["targets differ between blocks"] * (len({row["targets"] for row in rows}) > 1)
    notes += ["several tables in a block: the largest"] * (len(rows) < len(part))
    notes += sorted({note for row in rows for note in row["note"].split("; ") if note})
    made = {name: rows[0][name] for name in (*SETTING, *METHOD, "reference_method")}
    made |= {
        "title": " / ".join(sorted({row["title"] for row in rows})),
        "blocks": len(rows),
        "mean": found.mean,
        "between": found.between,
        "per_block": _by_block({b: d.mean for b, d in blocks.items()}),
        "shrunk": _by_block(found.shrunk),
    }
    tested = _tested(blocks) if len(rows) >= TESTED_BLOCKS else {}
    forbidden = sorted({why for row in rows for why in row["withheld"].split("; ") if why})
    if tested:
        tested["verdict"] = _claimed(tested["verdict"], forbidden, rows)
    if tested and forbidden:
        notes.insert(1, f"{NOT_CLAIMED}: {' and '.join(forbidden)}")
    made["note"] = "; ".join(notes)
    if found.interval_95 is not None:
        made |= {"low_95": found.interval_95.low, "high_95": found.interval_95.high}
    return made | tested


def _claimed(verdict: str, forbidden: list[str], rows: list[Row]) -> str:
    """A claim over blocks needs that each of them allows one, and that it holds with preparation
    for free too (DECISIONS 12): the sign of the mean, or for equivalence a mean within the margin.
    """
    if verdict not in CLAIMS:
        return verdict
    if forbidden:
        return NOT_CLAIMED
    free = [row["mean"] if math.isnan(row["free_mean"]) else row["free_mean"] for row in rows]
    mean = float(np.mean(free))
    if verdict == "equivalent":
        return verdict if abs(mean) < MARGIN else UNDECIDED
    return verdict if np.sign(mean) == np.sign(np.mean([row["mean"] for row in rows])) else PAYS


def _tested(blocks: dict[pooling.Block, Difference]) -> Row:
    means = np.array([d.mean for d in blocks.values()])
    found = outlook(means, np.array([d.spread.error for d in blocks.values()]))
    return {"p_better": found.better, "p_equivalent": found.equivalent, "p_worse": found.worse,
            "verdict": found.verdict}  # fmt: skip


def _difference(row: Row) -> Difference:
    """As it was in its block; what pooling does not use is left empty."""
    crossed = row["error_seeds"] > 0
    freedom = int(row["n"]) - 1 if crossed else 0
    spread = Spread(row["error_seeds"], row["error_images"], freedom, int(row["images"]) + 1)
    wide = Interval(row["low_95"], row["high_95"])
    nowhere = Interval(math.nan, math.nan)
    return Difference((), row["mean"], spread, wide, nowhere, row["interval_scope"], None)


def _by_block(values: dict[pooling.Block, float]) -> str:
    return " ".join(f"{data}/{arch}:{value:+.2f}" for (data, arch), value in values.items())


# ---- accuracies ----------------------------------------------------------------------------------


def ranking(board: pd.DataFrame) -> pd.DataFrame:
    """Methods by mean accuracy; one row with the reason for each setting where it is withheld."""
    rows: list[Row] = []
    for field in fields(board):
        ranked = field.ranked
        targets = _in_blocks(ranked, "target")
        at_these = ranked[ranked["target"].isin(targets)]
        methods = _in_blocks(at_these, "key")
        found = pooling.overall(field.scores(ranked), methods, targets)
        saturated = field.methods.loc[field.methods["saturated"], ["data", "arch"]]
        count = len(saturated.drop_duplicates())
        withheld = found.withheld + (f"; {count} more saturated" if count else "")
        if count and ranked.empty:
            withheld = f"withheld: saturated ({count} (data, architecture) pairs)"
        made = [
            field.titles[key] | {
                "rank": 1 + sum(other > value for _, other in found.rows), "accuracy": value,
                "targets": " ".join(f"{t:g}" for t in targets),
            }
            for key, value in found.rows
        ] or [{"withheld": withheld}]  # fmt: skip
        rows += [field.setting | row for row in made]
    return frames.typed(rows, RANKING)


def _in_blocks(rows: pd.DataFrame, name: str) -> list[Any]:
    """Values that occur in as many blocks as a ranking needs; without any, all."""
    counts = rows.drop_duplicates(["data", "arch", name]).groupby(name, sort=True).size()
    enough = counts[counts >= RANKED_BLOCKS]
    return list((enough if len(enough) else counts).index)


def stability(board: pd.DataFrame) -> pd.DataFrame:
    """Agreement of the order of methods, for each two targets of a block and each two architectures
    at one target."""
    rows: list[Row] = []
    for field in fields(board):
        own = field.methods
        full = {place for place, part in own.groupby(["data", "arch", "target"])
                if part["saturated"].any()}  # fmt: skip
        scores = field.scores(own)
        pairs = (("targets", pooling.across_targets), ("architectures", pooling.across_archs))
        for name, agreements in pairs:
            for found in agreements(scores):
                rows.append(field.setting | {
                    "across": name, "data": found.one[0], "tau": found.tau,
                    "arch_1": found.one[1], "target_1": found.one[2],
                    "arch_2": found.other[1], "target_2": found.other[2],
                    "methods": found.methods,
                    "note": "saturated" if {found.one, found.other} & full else "",
                })  # fmt: skip
    return frames.typed(rows, STABILITY)


def areas(board: pd.DataFrame) -> pd.DataFrame:
    """Area under accuracy against log FLOPs for each row that keeps its settings over targets."""
    rows: list[Row] = []
    for field in fields(board):
        sound = field.rows[field.rows["flops_reduction"].between(0, 100, inclusive="left")]
        for (data, arch), part in sound.groupby(["data", "arch"], sort=True):
            control = dict(zip(part["key"], part["control"], strict=True))
            notes = {str(key): limits_of(own) for key, own in part.groupby("key", sort=True)}
            for key, area in sorted(pooling.areas(field.scores(part)).items()):
                rows.append(field.setting | field.titles[key] | {
                    "data": data, "arch": arch, "control": control[key], "area": area.value,
                    "left_low": 100 * area.low, "left_high": 100 * area.high,
                    "refused": area.refused, "note": notes[key],
                })  # fmt: skip
    return frames.typed(rows, AREAS)


def profiles(board: pd.DataFrame) -> pd.DataFrame:
    """Performance profiles of the methods over all cells of boards that are not saturated; from 2
    cells."""
    rows: list[Row] = []
    for field in fields(board):
        ranked = field.ranked
        cells = len(ranked.drop_duplicates(["data", "arch", "target"]))
        if cells < 2:
            continue
        keys = sorted(set(ranked["key"]))
        for key, shares in pooling.profiles(field.scores(ranked), keys, RATIOS).items():
            rows += [
                field.setting | field.titles[key]
                | {"cells": cells, "ratio": ratio, "share": 100 * share}
                for ratio, share in zip(RATIOS, shares, strict=True)
            ]  # fmt: skip
    return frames.typed(rows, PROFILES)
