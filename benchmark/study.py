"""All paired statistics of a block, with its predictions read once."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from benchmark import blockwise, comparisons, frames, standing
from benchmark.block import Block
from benchmark.evidence import evidence
from benchmark.matchups import Row


@dataclass(frozen=True)
class Study:
    """Frames with the columns of the modules they are named after."""

    comparisons: pd.DataFrame
    standings: pd.DataFrame
    differences: pd.DataFrame  # blockwise
    board: pd.DataFrame  # the leaderboard with standings


def study(block: Block) -> Study:
    compared: list[Row] = []
    standings: list[Row] = []
    differences: list[Row] = []
    for _, table in block.board.groupby("table", sort=True):
        found = evidence(block, table)
        compared += comparisons.of_table(table, found)
        standings += standing.of_table(table, found)
        differences += blockwise.of_table(table, found)
    stand = frames.typed(standings, standing.COLUMNS)
    return Study(
        comparisons=frames.typed(compared, comparisons.COLUMNS),
        standings=stand,
        differences=frames.typed(differences, blockwise.COLUMNS),
        board=frames.with_standings(block.board, stand),
    )
