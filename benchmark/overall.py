"""Tables over all blocks, made from finished frames alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import feather

from benchmark import across, against, export
from benchmark.columns import Column
from benchmark.derived import TABLES, code_version
from benchmark.errors import BadInput
from benchmark.files import new_folder

Get = Callable[[str], pd.DataFrame]  # a frame by the name of its table


@dataclass(frozen=True)
class Over:
    """A frame that is made from others."""

    name: str
    columns: list[Column]
    make: Callable[[Get], pd.DataFrame]


OVER = (
    Over("reproduced", against.SUMMARY, lambda get: against.summary(get("published"))),
    Over("pooled", across.POOLED, lambda get: across.pooled(get("differences"))),
    Over("ranking", across.RANKING, lambda get: across.ranking(get("leaderboard"))),
    Over("stability", across.STABILITY, lambda get: across.stability(get("leaderboard"))),
    Over("areas", across.AREAS, lambda get: across.areas(get("leaderboard"))),
    Over("profiles", across.PROFILES, lambda get: across.profiles(get("leaderboard"))),
)
COLUMNS: dict[str, list[Column]] = {t.name: t.columns for t in (*TABLES, *OVER)}


class Frames:
    """Every table by name, made when it is first asked for. `of_blocks`: rows of one of the tables
    that blocks have, of all blocks. `unrun`: see `against.everything`."""

    def __init__(self, of_blocks: Get, unrun: pd.DataFrame | None = None) -> None:
        self._of_blocks, self._unrun = of_blocks, unrun
        self._made: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in COLUMNS:
            raise BadInput(f"no table '{name}': there are {', '.join(COLUMNS)}")
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> pd.DataFrame:
        over = next((over for over in OVER if over.name == name), None)
        if over is not None:
            return over.make(self.__getitem__)
        rows = self._of_blocks(name)
        # a figure on two data sets is judged in two blocks: once is enough
        return against.everything([rows], unrun=self._unrun) if name == "published" else rows


def unrun(stages: Path) -> pd.DataFrame:
    """Published figures without any run of ours. Counting the networks of published lists again
    takes seconds, so it is kept under `stages`."""
    folder = stages / f"report-claims-{code_version()}"
    try:
        return feather.read_table(folder / "claims.arrow").to_pandas()
    except (OSError, pa.ArrowException):
        made = against.everything([])
    if not folder.exists():
        with new_folder(folder) as draft:
            feather.write_feather(
                export.arrow(made, against.COLUMNS), str(draft / "claims.arrow"),
                compression="uncompressed",
            )  # fmt: skip
    return made
