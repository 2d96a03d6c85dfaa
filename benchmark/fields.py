"""Rows of all blocks that can stand together, by setting: what rankings and areas are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from benchmark import frames
from benchmark.blockwise import METHOD, SETTING
from benchmark.matchups import Row
from benchmark.pooling import Score


@dataclass(frozen=True)
class Field:
    """Comparable rows of all blocks, with the names that scores use for methods."""

    setting: Row
    rows: pd.DataFrame  # with columns key and saturated
    titles: dict[str, Row]  # METHOD and title by key

    def scores(self, rows: pd.DataFrame) -> list[Score]:
        return [
            Score(r["key"], r["data"], r["arch"], r["target"], r["final_mean"],
                  1 - r["flops_reduction"] / 100)
            for r in frames.rows_of(rows)
        ]  # fmt: skip

    @property
    def ranked(self) -> pd.DataFrame:
        """Methods on boards that are not saturated."""
        return self.methods[~self.methods["saturated"]]

    @property
    def methods(self) -> pd.DataFrame:
        lost = self.rows["marks"].str.contains("floor-bound|incomplete|at chance")
        return self.rows[(self.rows["control"] == 0) & ~lost]


def fields(board: pd.DataFrame) -> Iterator[Field]:
    """From the leaderboards of all blocks, by setting: rows with a result, preparation charged and
    something removed; of the tables of a block the one with most rows."""
    there = (board["n"] > 0) & (board["target"] > 0) & (board["preparation"] == "charged")
    rows = board[there & (board["track"] != "paper")]
    saturated = rows["dense_mean"] > frames.SATURATED
    rows = _as_placed(rows)
    rows = rows.assign(key=_keys(rows), saturated=saturated)
    for _, part in rows.groupby(list(SETTING), sort=True, dropna=False):
        sizes = part.groupby("table", sort=True).size()
        order = part.assign(size=part["table"].map(sizes)).sort_values(
            ["data", "arch", "size", "table"], ascending=[True, True, False, True], kind="stable"
        )
        first = order.groupby(["data", "arch"])["table"].transform("first")
        kept = order[order["table"] == first]
        kept = kept.sort_values(["data", "arch", "target", "key", "cell"], kind="stable")
        kept = kept.drop_duplicates(["data", "arch", "target", "key"])
        setting = {name: kept.iloc[0][name] for name in SETTING}
        titles = {
            str(key): {name: same.iloc[0][name] for name in METHOD}
            | {"title": " / ".join(sorted(set(same["title"])))}
            for key, same in kept.groupby("key", sort=True)
        }
        yield Field(setting, kept, titles)


def _as_placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows from random initialisation, which have a budget of their own by construction, with the
    setting of the table they stand in: it spends as much in all."""
    budgets = ["baseline_epochs", "budget_epochs"]
    trained = rows[rows["start"] != "random"].drop_duplicates("table").set_index("table")[budgets]
    own = (rows["start"] == "random") & rows["table"].isin(trained.index)
    placed = rows.copy()
    placed.loc[own, budgets] = trained.loc[rows.loc[own, "table"]].to_numpy()
    return placed


def _keys(rows: pd.DataFrame) -> list[str]:
    return [" | ".join(map(str, values)) for values in rows[list(METHOD)].itertuples(index=False)]


def limits_of(rows: pd.DataFrame) -> str:
    """Marks that limit what these rows show, and whether their board is saturated."""
    marks = {mark.partition(" (")[0] for text in rows["marks"] for mark in text.split("; ")}
    found = sorted(marks & {"at chance", "floor-bound", "incomplete"})
    return "; ".join([*found, *["saturated"] * bool(rows["saturated"].any())])
