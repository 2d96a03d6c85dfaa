"""Published against reproduced: every published figure beside the cell of ours that is nearest to
it, with a verdict by rule (benchmark.claimed).

Each cell offers two figures, its last epoch and its best test epoch, so that a figure which its
authors chose on the test split meets one of ours that was chosen alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from benchmark import frames, recount, summaries
from benchmark.block import Block
from benchmark.claimed import (
    ABOVE,
    BELOW,
    BEST_TEST,
    LAST,
    NOT_COMPARABLE,
    NOT_YET_RUN,
    REPRODUCED,
    Reproduced,
    Verdict,
    distance,
    judge_all,
)
from benchmark.columns import PERCENT, POINTS, Column
from benchmark.counting import OUTPUTS_ONLY, PHYSICAL
from benchmark.published import Claim, read_claims

MACS = "% of dense MACs"
WORDS = (REPRODUCED, ABOVE, BELOW, NOT_COMPARABLE, NOT_YET_RUN)
COLUMNS: list[Column] = [
    Column("claim", "the published figure's row in methods/published.csv"),
    Column("label", "method and variant as typed on the command line"),
    Column("paper", "the method's own paper"),
    Column("arch", "architecture"),
    Column("published_data", "data set as printed"),
    Column("variant", "what tells published figures of one method apart"),
    Column("reported", "own: by the authors of the method; quoted, or reimplemented, by others"),
    Column("published_figure", "what kind of accuracy is published"),
    Column("published_baseline", "published top-1 of the dense network", PERCENT, 2),
    Column("published_top1", "published top-1 of the pruned network", PERCENT, 2),
    Column("published_delta", "pruned minus dense, as published", POINTS, 2),
    Column("published_reduction", "published FLOPs reduction", MACS, 2),
    Column("flops_rule", "how it was counted: physical, outputs only (removed input channels are "
           "not seen), kernels, none or unknown"),
    Column("rates_physical", "physical reduction of the published rates per layer, if the method's "
           "card has those of this figure", MACS, 1),
    Column("rates_outputs_only", "the same rates counted by outputs only", MACS, 1),
    Column("entry", "row label of our nearest cell: the fewest reasons not to compare, then the "
           "nearest FLOPs reduction by the published rule"),
    Column("cell", "that cell in the leaderboard"),
    Column("data", "its data set"),
    Column("track", "its track"),
    Column("figure", "which of its figures: last epoch or best test epoch (optimistic)"),
    Column("n", "its seeds with that figure", "", 0),
    Column("mean", "its mean over seeds", PERCENT, 2),
    Column("low", "95 % t-interval of the mean, lower end; from 3 seeds", PERCENT, 2),
    Column("high", "upper end", PERCENT, 2),
    Column("delta", "its mean difference to the dense network of the same seed", POINTS, 2),
    Column("physical", "its FLOPs reduction", MACS, 2),
    Column("outputs_only", "the same network counted by outputs only", MACS, 2),
    Column("gap", "our mean minus the published top-1; empty where they cannot be compared", POINTS,
           2),
    Column("gap_delta", "our delta minus the published one; empty likewise", POINTS, 2),
    Column("against", "reasons not to compare", "", 0),
    Column("apart", "distance of the FLOPs reductions by the published rule", POINTS, 2),
    Column("verdict", "reproduced: the published top-1 lies in our interval; above, below: ours is "
           "higher, lower; not comparable; not yet run"),
    Column("reasons", "why they cannot be compared"),
    Column("confidence", "in the published figure: exact, secondary, uncertain or withdrawn"),
    Column("reported_by", "who reports it"),
    Column("source", "where"),
    Column("note", "facts about the source, and who reports which other figure"),
]  # fmt: skip
USED = ["cell", "run_id", "test_final", "test_best_test", "dense_top1", "flops_reduction"]
SUMMARY: list[Column] = [
    Column("label", "method and variant as typed on the command line"),
    Column("claims", "published figures on architectures of this suite", "", 0),
    *[Column(word.replace(" ", "_"), f"of these {word}", "", 0) for word in WORDS],
]


def published(block: Block, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """One row per published figure on the block's architecture, set against its cells."""
    own = [c for c in (_ours() if claims is None else claims) if c.arch == block.arch and c.label]
    cells = list(offered(block, {c.label for c in own}))
    return _frame(judge_all(own, cells))


def everything(
    parts: Iterable[pd.DataFrame],
    claims: Sequence[Claim] | None = None,
    unrun: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Each published figure once, from the frames of all blocks: over several data sets the row
    that stands nearest; figures on architectures without a block are not yet run. `unrun`: what
    this gives without any block, where that is known already."""
    known = [c for c in (_ours() if claims is None else claims) if c.label and c.arch]
    found = [part for part in parts if len(part)]
    seen = {str(claim) for part in found for claim in part["claim"]}
    if unrun is None:
        unrun = _frame(judge_all([c for c in known if c.id not in seen], ()))
    found.append(unrun[~unrun["claim"].isin(seen)])
    rows = pd.concat(found, ignore_index=True)
    place = {claim.id: i for i, claim in enumerate(known)}
    rows = rows.assign(_place=rows["claim"].map(place))  # not yet run: empty, which sorts last
    keys = ["_place", "against", "apart", "data", "cell"]
    first = rows.sort_values(keys, kind="stable").drop_duplicates("claim", ignore_index=True)
    return first[[c.name for c in COLUMNS]]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Verdicts counted per method, in the order of the frame."""
    rows = []
    for label, part in frame.groupby("label", sort=False):
        counted = part["verdict"].value_counts()
        row: dict[str, Any] = {"label": label, "claims": len(part)}
        rows.append(row | {w.replace(" ", "_"): int(counted.get(w, 0)) for w in WORDS})
    return frames.typed(rows, SUMMARY)


@lru_cache(maxsize=1)
def _ours() -> tuple[Claim, ...]:
    return tuple(c for c in read_claims() if c.label and c.arch)


# ---- our cells -----------------------------------------------------------------------------------


def offered(block: Block, labels: Collection[str]) -> Iterator[Reproduced]:
    """Both figures of each cell of these methods that has them."""
    chosen = (block.runs["status"] == "done") & block.runs["method"].isin(labels)
    runs = block.runs.loc[chosen, USED]
    cells = {str(cell): part for cell, part in runs.groupby("cell", sort=False)}
    for _, row in block.board[block.board["cell"].isin(list(cells))].iterrows():
        part = cells[str(row["cell"])]
        reductions = _reductions(block, part)
        for figure, column in ((LAST, "test_final"), (BEST_TEST, "test_best_test")):
            known = part[part[column].notna()]
            if len(known):
                yield _reproduced(row, known, figure, column, reductions)


def _reproduced(
    row: pd.Series[Any], runs: pd.DataFrame, figure: str, column: str, reductions: dict[str, float]
) -> Reproduced:
    top1 = summaries.summary(runs[column].tolist())
    delta = summaries.summary((runs[column] - runs["dense_top1"]).tolist())["mean"]
    return Reproduced(
        method=str(row["method"]),
        arch=str(row["arch"]),
        data=str(row["data"]),
        track=str(row["track"]),
        n=len(runs),
        mean=top1["mean"],
        low=_known(top1["low"]),
        high=_known(top1["high"]),
        figure=figure,
        reductions=reductions,
        start="scratch" if row["start"] == "random" else "trained",
        delta=_known(delta),
        entry=str(row["entry"]),
        cell=str(row["cell"]),
    )


def _reductions(block: Block, runs: pd.DataFrame) -> dict[str, float]:
    """Mean over seeds by each rule; what cannot be counted for all of them is left out."""
    records = [block.records[str(run)] for run in runs["run_id"]]
    if any(record.counted for record in records):  # nothing is smaller: it counts in its own way
        kernels = [record.flops_reduction for record in records if "kernels" in record.counted]
        return {"kernels": 100 * sum(kernels) / len(kernels)} if kernels else {}
    found = {PHYSICAL: float(runs["flops_reduction"].mean())}
    counted = [recount.of_run(record) for record in records]
    known = [c.reduction(OUTPUTS_ONLY) for c in counted if c is not None]
    if len(known) == len(counted):
        found[OUTPUTS_ONLY] = sum(known) / len(known)
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# ---- rows ----------------------------------------------------------------------------------------


def _frame(found: Iterable[tuple[Claim, Reproduced | None, Verdict]]) -> pd.DataFrame:
    return frames.typed([_said(c) | _done(c, ours, v) for c, ours, v in found], COLUMNS)


def _said(claim: Claim) -> dict[str, Any]:
    rates = recount.of_claim(claim)
    return {
        "claim": claim.id,
        "label": claim.label,
        "paper": claim.paper,
        "arch": claim.arch,
        "published_data": claim.data_printed,
        "variant": claim.variant,
        "reported": claim.reported,
        "published_figure": claim.figure,
        "published_baseline": claim.baseline_top1,
        "published_top1": claim.pruned_top1,
        "published_delta": claim.delta_top1,
        "published_reduction": claim.flops_reduction,
        "flops_rule": claim.flops_rule,
        "rates_physical": rates.reduction(PHYSICAL) if rates else None,
        "rates_outputs_only": rates.reduction(OUTPUTS_ONLY) if rates else None,
        "confidence": claim.confidence,
        "reported_by": claim.reported_by,
        "source": claim.source,
        "note": claim.note,
    }


def _done(claim: Claim, ours: Reproduced | None, verdict: Verdict) -> dict[str, Any]:
    row: dict[str, Any] = {"verdict": verdict.word, "reasons": "; ".join(verdict.reasons)}
    if ours is None:
        return row
    reasons, apart = distance(claim, ours)
    row |= {
        name: getattr(ours, name)
        for name in ("entry", "cell", "data", "track", "figure", "n", "mean", "low", "high",
                     "delta")
    }  # fmt: skip
    row |= {
        "physical": ours.reductions.get(PHYSICAL),
        "outputs_only": ours.reductions.get(OUTPUTS_ONLY),
        "against": reasons,
        "apart": apart if math.isfinite(apart) else None,
        "gap": verdict.gap,
    }
    if verdict.gap is not None and ours.delta is not None and claim.delta_top1 is not None:
        row["gap_delta"] = ours.delta - float(claim.delta_top1)
    return row
