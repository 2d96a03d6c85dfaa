"""A block's difference between a method and a reference, all targets averaged (DECISIONS 31).

Made here because it needs predictions; what pools blocks (benchmark/across.py) needs these rows
alone.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd

from benchmark.columns import POINTS, SPEC, Column
from benchmark.comparisons import per_seed
from benchmark.evidence import Evidence
from benchmark.granted import PAYS, granted
from benchmark.matchups import DECLARED, SAME, Match, Row, boards, limits, remarks
from benchmark.paired import CONDITIONAL, CROSSED, CROSSED_SEEDS, MARGIN, distinct, spread_of

# Blocks that agree in these and in both methods can be pooled: all but what a block is made of.
SETTING = ("protocol", "track", "lane", "trials", "precision", "scope", "min_width",
           "baseline_epochs", "budget_epochs")  # fmt: skip
METHOD = ("method", "allocation", "reconstruct", "params", "source", "revision")
_SPEC = {c.name: c for c, _ in SPEC}
COLUMNS: list[Column] = [
    *[_SPEC[name] for name in ("data", "arch", *SETTING)],
    Column("table", "rows with one value stand in one printed table"),
    Column("title", "name of the method"),
    *[_SPEC[name] for name in METHOD],
    Column("reference_method", "what it is compared with"),
    Column("targets", "requested FLOPs reductions over which the difference is averaged, "
           "% of dense MACs"),
    Column("n", "seeds that both have at all these targets, paired", "", 0),
    Column("images", "test images, paired", "", 0),
    Column("mean", "method minus reference, test top-1 after recovery, mean over seeds and targets",
           POINTS, 3),
    Column("low_95", "lower end of its 95 % interval, unadjusted", POINTS, 3),
    Column("high_95", "upper end", POINTS, 3),
    Column("error_seeds", "part of its standard error that comes with seeds; 0 below 5", POINTS, 4),
    Column("error_images", "part of its standard error that comes with images", POINTS, 4),
    Column("interval_scope", f"what the interval speaks of: {CROSSED}, or below 5 seeds "
           f"{CONDITIONAL}"),
    Column("per_seed", "difference of each seed, seed: points"),
    Column("free_mean", "the same with preparation granted for free; empty where nothing is "
           "prepared, or not all of these seeds and targets are there", POINTS, 3),
    Column("withheld", "what forbids a claim about this block"),
    Column("note", "what else limits the comparison"),
]  # fmt: skip


def of_table(table: pd.DataFrame, found: Evidence) -> list[Row]:
    kinds: dict[tuple[object, ...], list[Match]] = defaultdict(list)
    names = [name for name in SAME if name != "target"]
    for _, made in boards(table):
        for match in made:
            if match.family == DECLARED and found.seeds(match.cells):
                same = tuple(str(match.entry[name]) for name in names)
                kinds[*same, match.reference["method"]].append(match)
    rows = [_row(matches, found) for _, matches in sorted(kinds.items(), key=lambda item: item[0])]
    return [row for row in rows if row]


def _row(matches: list[Match], found: Evidence) -> Row:
    """Empty where no seed is there at all targets."""
    seeds = found.seeds(cell for match in matches for cell in match.cells)
    if not seeds:
        return {}
    one, targets = matches[0].entry, len(matches)
    values = sum(_contrast(match, seeds, found) for match in matches)
    spread = spread_of(distinct(np.asarray(values)), targets, len(seeds) >= CROSSED_SEEDS)
    points = 100 * np.asarray(values).mean(axis=1) / targets
    interval = spread.around(float(points.mean()), 0.025)
    apart = [remark for match in matches for remark in found.apart(match.cells)]
    notes = [*dict.fromkeys([note for match in matches for note in remarks(match)] + apart)]
    free = granted(matches, seeds, found)
    forbidden = [reason for match in matches for reason in limits(match)]
    forbidden += [*apart, *free.lacking]
    mean = float(points.mean())
    is_claim = interval.low > MARGIN or interval.high < -MARGIN
    paired = mean if free.mean is None or free.lacking else free.mean
    if is_claim and np.sign(paired) != np.sign(mean):
        forbidden.insert(0, PAYS)
        notes.insert(0, PAYS)
    notes += [*free.note, *free.lacking]
    return {name: one[name] for name in ("data", "arch", "table", "title", *SETTING, *METHOD)} | {
        "reference_method": matches[0].reference["method"],
        "targets": " ".join(f"{match.entry['target']:g}" for match in matches),
        "n": len(seeds),
        "images": found.images(matches[0].cells[0]),
        "mean": mean,
        "low_95": interval.low,
        "high_95": interval.high,
        "error_seeds": spread.seeds,
        "error_images": spread.images,
        "interval_scope": CROSSED if len(seeds) >= CROSSED_SEEDS else CONDITIONAL,
        "per_seed": per_seed(seeds, points),
        "free_mean": None if free.lacking else free.mean,
        "withheld": "; ".join(dict.fromkeys(forbidden)),
        "note": "; ".join(notes),
    }


def _contrast(match: Match, seeds: tuple[int, ...], found: Evidence) -> np.ndarray:
    """(S, N) whole numbers."""
    one, other = (found.matrix(cell, seeds).astype(np.int16) for cell in match.cells)
    return np.asarray(one - other)
