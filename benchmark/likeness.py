"""How alike the choices of two methods are: kept channels in common, beside what chance gives.

From plans alone. Rank correlations of scores need the scores, which are kept under `stages/` and
not committed: `python -m benchmark.similarity` takes them where they are there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from benchmark import alike, frames
from benchmark.alike import Overlap
from benchmark.block import Block
from benchmark.checkpoint import Moment, part
from benchmark.columns import SPEC, Column
from benchmark.errors import BadInput
from benchmark.looks import ordered_entries
from benchmark.planning import scores_key
from benchmark.progress import counted
from benchmark.record import RunRecord
from benchmark.store import Store
from methods import UnknownMethod, build, find

MOST = 60  # rows of a board: with more, their pairs are too many to look at
WHOLE = "all"  # in place of a layer's name
UNITS = "% of kept units"
ONE, SEVERAL = "the same", "one per seed"  # dense networks of a pair of runs
_SPEC = {c.name: c for c, _ in SPEC}
COLUMNS: list[Column] = [
    *[_SPEC[name] for name in ("track", "data", "arch")],
    Column("table", "rows with one value stand in one printed table"),
    _SPEC["target"],
    Column("entry", "row label; the same as `other`: between seeds of one row"),
    Column("other", "row label that it is set against"),
    Column("allocation", "of entry"),
    Column("other_allocation", "of other"),
    Column("layer", "group of channels, by the layer that writes it first; all: the whole network"),
    Column("pairs", "pairs of runs; of two rows: runs of one seed that start from one dense "
           "network", "", 0),
    Column("dense", f"the dense networks of a pair: {ONE}, or {SEVERAL}: channel numbers then mean "
           "nothing across seeds, and the overlap is what chance gives"),
    Column("overlap", "units that both keep, twice over the units that each keeps; mean over pairs",
           UNITS, 2),
    Column("expected", "the same for random choices at these widths", UNITS, 2),
    Column("chance_sd", "standard deviation of it for one pair of random choices", UNITS, 2),
    Column("largest", "the most that these widths allow", UNITS, 2),
    Column("beyond", "(overlap - expected) / (largest - expected): 0 as random choices, 1 as alike "
           "as the widths allow", "", 3),
    Column("rank", "Spearman correlation of the scores, mean over layers and pairs; empty: no "
           "scores are kept", "", 3),
    Column("rank_pairs", "pairs of runs whose scores are there", "", 0),
]  # fmt: skip
# Rows of one choice: what is refitted afterwards, or who pays, changes nothing of it.
SAME = ["table", "target", "method", "revision", "source", "params", "allocation", "min_width"]
Scores = Callable[[RunRecord], Mapping[str, Tensor] | None]


def no_scores(record: RunRecord) -> None:
    """Plans are compared, not scores."""


@dataclass
class Pair:
    """What pairs of runs of two rows gave, by layer."""

    dense: str = ""
    found: dict[str, list[Overlap]] = field(default_factory=dict)
    ranks: dict[str, list[float]] = field(default_factory=dict)

    def add(self, parts: Mapping[str, Overlap], ranks: Mapping[str, float]) -> None:
        """One pair of runs."""
        for layer, overlap in {**parts, WHOLE: alike.total(parts.values())}.items():
            self.found.setdefault(layer, []).append(overlap)
        means = {WHOLE: float(np.mean([*ranks.values()]))} if ranks else {}
        for layer, rank in {**ranks, **means}.items():
            self.ranks.setdefault(layer, []).append(rank)


def similarity(
    block: Block,
    scores: Scores = no_scores,
    layers: bool = False,
    only: set[str] | None = None,
    target: float | None = None,
) -> pd.DataFrame:
    """One row per pair of rows of a table at one target, and with `layers` one per layer of it.
    `only`: run ids; `target`: in %. Runs from random initialisation choose nothing."""
    runs = block.runs[block.runs["status"] == "done"]
    runs = runs if target is None else runs[(runs["target"] - target).abs() < 1e-6]
    runs = runs if only is None else runs[runs["run_id"].isin(only)]
    board = block.board[block.board["cell"].isin(set(runs["cell"]))]
    board = board[(board["target"] > 0) & (board["start"] != "random")]
    rows: list[dict[str, Any]] = []
    for (_, _), part_of_it in board.groupby(["table", "target"], sort=True):
        chosen = _once(part_of_it)
        if len(chosen) <= MOST:
            rows += _pairs(block, chosen, runs, scores, layers)
    return frames.typed(rows, COLUMNS)


def _once(board: pd.DataFrame) -> pd.DataFrame:
    """One row per choice: the plain one where there is one."""
    repeated = (board["reconstruct"] != "none") * 1 + (board["preparation"] != "charged") * 1
    ordered = board.assign(repeated=repeated).sort_values(["repeated", "entry"], kind="stable")
    kept = ordered.drop_duplicates(SAME)
    order = {entry: i for i, entry in enumerate(ordered_entries(kept))}
    return kept.sort_values("entry", key=lambda entries: entries.map(order), kind="stable")


def _pairs(
    block: Block, board: pd.DataFrame, runs: pd.DataFrame, scores: Scores, layers: bool
) -> Iterator[dict[str, Any]]:
    """Rows of one table at one target."""
    own = {
        str(cell): {float(r.seed): block.records[str(r.run_id)] for r in part_of_it.itertuples()}  # type: ignore[arg-type]
        for cell, part_of_it in runs[runs["cell"].isin(set(board["cell"]))].groupby("cell")
    }
    plans = {r.run_id: _plan(block, r) for seeds in own.values() for r in seeds.values()}
    ranked = {r.run_id: scores(r) for seeds in own.values() for r in seeds.values()}
    for one, other in combinations_with_replacement(frames.rows_of(board), 2):
        pair = Pair()
        for first, second in _runs(own[one["cell"]], own[other["cell"]], one is other):
            keep, others = plans[first.run_id], plans[second.run_id]
            if keep is None or others is None:
                continue
            same = first.dense.weights == second.dense.weights
            pair.dense = SEVERAL if pair.dense == SEVERAL or not same else ONE
            a, b = ranked[first.run_id], ranked[second.run_id]
            ranks = alike.rank_correlations(a, b) if a is not None and b is not None else {}
            dense = {group: first.dense_widths[group] for group in first.groups}
            pair.add(alike.overlaps(keep, others, dense), ranks)
        if one is other and not pair.found:  # one seed: nothing to set it against
            continue
        names = [WHOLE, *[n for n in pair.found if n != WHOLE]] if layers else [WHOLE]
        yield from (_row(one, other, pair, name) for name in names)


def _runs(
    one: Mapping[float, RunRecord], other: Mapping[float, RunRecord], is_self: bool
) -> Iterator[tuple[RunRecord, RunRecord]]:
    """Two seeds of one row; of two rows the runs of a seed that start from one dense network."""
    if is_self:
        yield from combinations([one[seed] for seed in sorted(one)], 2)
        return
    for seed in sorted(one.keys() & other.keys()):
        if one[seed].dense.weights == other[seed].dense.weights:
            yield one[seed], other[seed]


def _plan(block: Block, record: RunRecord) -> dict[str, list[int]] | None:
    """Kept units per group; None: the file is not there, or damaged."""
    with contextlib.suppress(BadInput):
        keep = frames.kept_units(block.store, record.spec)
        widths = record.dense_widths
        if all(g in widths and units[-1] < widths[g] for g, units in keep.items()):
            return keep
    return None


def _row(
    one: Mapping[str, Any], other: Mapping[str, Any], pair: Pair, layer: str
) -> dict[str, Any]:
    row = {name: one[name] for name in ("track", "data", "arch", "table", "target", "entry")}
    found, ranks = pair.found.get(layer, []), pair.ranks.get(layer, [])
    row |= {
        "other": other["entry"],
        "allocation": one["allocation"],
        "other_allocation": other["allocation"],
        "layer": layer,
        "pairs": len(found),
        "dense": pair.dense,
        "rank": float(np.mean(ranks)) if ranks else None,
        "rank_pairs": len(ranks),
    }
    if not found:
        return row
    beyond = [o.beyond for o in found if not np.isnan(o.beyond)]
    return row | {
        "overlap": 100 * float(np.mean([o.share for o in found])),
        "expected": 100 * float(np.mean([o.by_chance for o in found])),
        "chance_sd": 100 * float(np.mean([o.chance_sd for o in found])),
        "largest": 100 * float(np.mean([o.largest for o in found])),
        "beyond": float(np.mean(beyond)) if beyond else None,
    }


# ---- scores --------------------------------------------------------------------------------------


@dataclass
class KeptScores:
    """Scores as the runs' stages keep them. `missing`: why a run has none, by its title."""

    store: Store
    there: int = 0
    missing: dict[str, dict[str, int]] = field(default_factory=dict)  # title -> reason -> runs
    _read: dict[str, Mapping[str, Tensor] | None] = field(default_factory=dict)  # by key

    def __call__(self, record: RunRecord) -> Mapping[str, Tensor] | None:
        found, reason = self._find(record)
        if found is None:
            reasons = self.missing.setdefault(record.title, {})
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            self.there += 1
        return found

    def _find(self, record: RunRecord) -> tuple[Mapping[str, Tensor] | None, str]:
        spec = record.spec
        if spec.method.source:
            return None, "its file is not known here"
        try:
            method = build(find(spec.method.label), spec.method.params)
        except UnknownMethod as error:
            return None, str(error)
        if not method.scores_first:
            return None, "it decides without scores"
        key = scores_key(spec, method.prepares)
        if key not in self._read:
            stage = self.store.stage("scores", key)
            whole = None if stage is None else Moment(stage.tensors, stage.facts)
            self._read[key] = None if whole is None else part(whole, "found").tensors
        return self._read[key], f"not kept under {self.store.stages}"

    def lines(self) -> Iterator[str]:
        """Where rank correlations come from, and where there are none."""
        lost = sum(n for reasons in self.missing.values() for n in reasons.values())
        yield f"scores of {self.there} of {self.there + lost} runs"
        for title, reasons in sorted(self.missing.items()):
            for reason, runs in sorted(reasons.items()):
                yield f"  {title}: {counted(runs, 'run')} without: {reason}"
