"""Every comparison that is made, one row each: difference, interval, verdict and what limits them.

A board is one (table, target). Its declared family has intervals that hold together, also where
methods have other seeds than each other; exploratory rows have an interval each that is adjusted
for nothing, on the same draws. Statistics: benchmark/paired.py and family.py (DECISIONS 30).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmark import family
from benchmark.columns import POINTS, Column
from benchmark.evidence import Evidence
from benchmark.granted import NOT_CLAIMED, PAYS, cells_of, granted, judged
from benchmark.matchups import (
    DECLARED,
    EXPLORATORY,
    REFERENCES,
    Match,
    Row,
    boards,
    limits,
    remarks,
)
from benchmark.paired import CONDITIONAL, CROSSED, MARGIN, TESTED_SEEDS, Interval, sign_flip_p

COLUMNS: list[Column] = [
    Column("track", "common, total or paper"),
    Column("data", "name of the data set"),
    Column("arch", "architecture"),
    Column("table", "rows with one value stand in one printed table"),
    Column("target", "requested FLOPs reduction of the board", "% of dense MACs", 2),
    Column("entry", "row label of the first"),
    Column("method", "its method"),
    Column("cell", "its cell in the leaderboard"),
    Column("reference", "row label of the second"),
    Column("reference_method", "its method"),
    Column("reference_cell", "its cell in the leaderboard"),
    Column("family", f"{DECLARED}: each method against {', '.join(REFERENCES)}, its intervals hold "
           f"together for the board; {EXPLORATORY}: all else, unadjusted"),
    Column("n", "seeds that both have, paired", "", 0),
    Column("images", "test images, paired", "", 0),
    Column("mean", "entry minus reference, test top-1 after recovery, mean over seeds", POINTS, 2),
    *[Column(f"{end}_{level}", f"{name} end of the {level} % interval", POINTS, 2)
      for level in (95, 90) for end, name in (("low", "lower"), ("high", "upper"))],
    Column("verdict", f"better or worse: the 95 % interval lies beyond the margin of {MARGIN} "
           "points; equivalent: the 90 % interval lies within it; else undecided. "
           f"{PAYS}: it would be better or worse, but the sign changes when preparation is granted "
           f"for free; {NOT_CLAIMED}: the intervals would allow it, something else forbids it"),
    Column("withheld", "what forbids the claim that the intervals would allow"),
    Column("scope", f"what the intervals speak of: {CROSSED}, or below 5 seeds {CONDITIONAL}"),
    Column("per_seed", "difference of each seed, seed: points"),
    Column("p_value", f"exploratory rows from {TESTED_SEEDS} seeds: sign flips: new seeds on these "
           "images", "", 4),
    Column("note", "what else limits the comparison"),
]  # fmt: skip


def of_table(table: pd.DataFrame, found: Evidence) -> list[Row]:
    """Comparisons of one table, by target; declared ones first."""
    return [row for target, made in boards(table) for row in of_board(target, made, found)]


def of_board(target: float, made: list[Match], found: Evidence) -> list[Row]:
    """Exploratory pairs that share no seed are left out, declared ones say so."""
    seeds = {match.cells: found.seeds(match.cells) for match in made}
    groups: dict[tuple[int, ...], list[Match]] = defaultdict(list)
    for match in made:
        groups[seeds[match.cells]].append(match)
    total = max(1, sum(match.family == DECLARED and bool(seeds[match.cells]) for match in made))
    results: dict[tuple[str, str], family.Comparison] = {}
    for own, part in groups.items():
        if own:
            board = found.board(target, own)
            declared = [match.cells for match in part if match.family == DECLARED]
            apart = [[match.cells] for match in part if match.family == EXPLORATORY]
            for pairs, share in [
                (declared, len(declared) / total),
                *((a, 1) for a in apart),
            ]:
                results |= dict(zip(pairs, family.compare(board, pairs, share), strict=True))
    return [
        _row(target, match, seeds[match.cells], results.get(match.cells), found, total)
        for match in made
        if match.family == DECLARED or seeds[match.cells]
    ]


def _row(
    target: float,
    match: Match,
    seeds: tuple[int, ...],
    result: family.Comparison | None,
    found: Evidence,
    total: int,
) -> Row:
    one, other = match.entry, match.reference
    row = {name: one[name] for name in ("track", "data", "arch", "table", "entry", "method")}
    row |= {
        "target": target, "cell": one["cell"], "reference": other["entry"],
        "reference_method": other["method"], "reference_cell": other["cell"],
        "family": match.family, "n": len(seeds),
    }  # fmt: skip
    apart = found.apart(match.cells)
    notes = [*remarks(match), *apart, *_left_out(match, found)]
    if result is None:
        return row | {"note": "; ".join(["no seed in common with predictions", *notes])}
    images = found.images(match.cells[0])
    totals = found.difference(match.cells, seeds)
    free = granted([match], seeds, found)
    share = 1 / total if match.family == DECLARED else 1.0

    def free_interval() -> Interval:
        board = found.board(target, seeds)
        return family.compare(board, [cells_of(match)], share)[0].interval_90

    word, withheld = judged(
        result.verdict, result.mean, [*limits(match), *apart], free, free_interval
    )
    testable = match.family == EXPLORATORY and len(seeds) >= TESTED_SEEDS
    return row | {
        "images": images,
        "mean": result.mean,
        "low_95": result.interval_95.low, "high_95": result.interval_95.high,
        "low_90": result.interval_90.low, "high_90": result.interval_90.high,
        "verdict": word,
        "withheld": withheld,
        "scope": result.scope,
        "per_seed": per_seed(seeds, 100 * totals / images),
        "p_value": sign_flip_p(totals) if testable else None,
        "note": "; ".join([*notes, *free.note, *free.lacking]),
    }  # fmt: skip


def per_seed(seeds: Sequence[int], points: np.ndarray) -> str:
    pairs = zip(seeds, points.tolist(), strict=True)
    return " ".join(f"{seed}:{value:+.2f}" for seed, value in pairs)


def _left_out(match: Match, found: Evidence) -> list[str]:
    return [
        f"{who} seed {', '.join(map(str, seeds))} left out: {reason}"
        for cell, who in zip(match.cells, ("entry", "reference"), strict=True)
        for reason, seeds in sorted(found.left_out.get(cell, {}).items())
    ]
