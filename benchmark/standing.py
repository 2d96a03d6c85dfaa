"""Who may be the best of a board: groups that cannot be separated, in place of bare ranks.

A board is what `rank` ranks: rows that agree in everything but the method.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd

from benchmark import columns, family, frames
from benchmark.columns import Column
from benchmark.evidence import Evidence
from benchmark.matchups import MOST, Row

COLUMNS: list[Column] = [
    next(c for c in columns.LEADERBOARD if c.name == "cell"), *columns.STANDINGS
]  # fmt: skip


def of_table(table: pd.DataFrame, found: Evidence) -> list[Row]:
    """Rows at chance are left out, and boards that nobody can read: of more than 24 methods."""
    able = [row for row in frames.rows_of(table) if _stands(row)]
    made: list[Row] = []
    for _, part in pd.DataFrame(able).groupby("board", sort=True) if able else ():
        cells, seeds = _paired(sorted(part["cell"]), found)
        if 1 < len(cells) <= MOST:
            board = found.board(float(part["target"].iloc[0]), seeds).only(cells)
            made += [_row(s) for s in family.standings(board)]
    return made


def _stands(row: Row) -> bool:
    return bool(row["n"]) and frames.is_rankable(row) and "at chance" not in row["marks"]


def _paired(cells: list[str], found: Evidence) -> tuple[list[str], tuple[int, ...]]:
    """The seeds that most rows have, and the rows that have all of these. A newcomer with one seed
    does not take the others' away."""
    own = {cell: found.seeds([cell]) for cell in cells}
    counts = Counter(seeds for seeds in own.values() if seeds)
    if not counts:
        return [], ()
    seeds = max(counts, key=lambda s: (counts[s], len(s), s))
    return [cell for cell in cells if set(seeds) <= set(own[cell])], seeds


def _row(standing: family.Standing) -> Row:
    return {
        "cell": standing.entry,
        "lead": standing.lead,
        "lead_low": standing.interval.low,
        "lead_high": standing.interval.high,
        "near_best": standing.near_best,
    }
