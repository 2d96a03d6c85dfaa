"""The same comparison with preparation for free, and what it leaves of a verdict (DECISIONS 12).

A claim needs both: the row that pays for its preparation and its twin that does not, paired on the
same seeds. Where one of them is missing there is no claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.evidence import Evidence
from benchmark.matchups import Match
from benchmark.paired import MARGIN, Interval

CLAIMS = ("better", "worse", "equivalent")
UNDECIDED = "undecided"
PAYS = "depends on who pays"
NOT_CLAIMED = "not claimed"
NO_TWIN = "has a row with preparation charged only"
NOT_PAIRED = "preparation free not paired"


@dataclass(frozen=True)
class Granted:
    """Of one method and reference over one or several targets; points. `mean` None: nothing is
    prepared, or nothing can be paired."""

    mean: float | None = None
    seeds: tuple[int, ...] = ()
    lacking: tuple[str, ...] = ()  # why it does not support a claim

    @property
    def note(self) -> list[str]:
        if self.mean is None:
            return []
        return [f"preparation free: {self.mean:+.2f}, n = {len(self.seeds)}"]


def granted(matches: Sequence[Match], seeds: Sequence[int], found: Evidence) -> Granted:
    """The mean difference over the same targets and seeds as that of the charged rows; over fewer
    seeds where some are missing, which is then said."""
    alone = tuple(
        dict.fromkeys(
            f"{who} {NO_TWIN}"
            for match in matches
            for who in _without_twin(match, found)
        )
    )  # fmt: skip
    if alone or all(match.free is None for match in matches):
        return Granted(lacking=alone)
    pairs = [cells_of(match) for match in matches]
    there = set(found.seeds(cell for pair in pairs for cell in pair))
    common = tuple(seed for seed in seeds if seed in there)
    lacking: tuple[str, ...] = ()
    missing = [str(seed) for seed in seeds if seed not in there]
    if missing:
        lacking = (f"{NOT_PAIRED}: without seed {', '.join(missing)}",)
    if not common:
        return Granted(lacking=lacking)
    totals = sum(found.difference(pair, common) for pair in pairs)
    images = found.images(pairs[0][0]) * len(pairs)
    return Granted(100 * float(np.mean(totals)) / images, common, lacking)


def cells_of(match: Match) -> tuple[str, str]:
    """Of the twins with preparation free; its own where nothing is prepared."""
    rows = match.free or (match.entry, match.reference)
    return str(rows[0]["cell"]), str(rows[1]["cell"])


def _without_twin(match: Match, found: Evidence) -> list[str]:
    twins = match.free or (match.entry, match.reference)
    named = zip(twins, (match.entry, match.reference), ("entry", "reference"), strict=True)
    return [
        who
        for twin, row, who in named
        if twin["cell"] == row["cell"] and row["cell"] in found.prepared
    ]


def judged(
    verdict: str,
    mean: float,
    reasons: Sequence[str],
    free: Granted,
    interval: Callable[[], Interval],
) -> tuple[str, str]:
    """Verdict and why nothing is claimed, from the verdict of the charged rows.

    Better and worse need the sign of the free mean, equivalent needs the free 90 % `interval`
    within the margin. What is undecided stays so.
    """
    if verdict not in CLAIMS:
        return verdict, ""
    lacking = [*reasons, *free.lacking]
    if lacking:
        return NOT_CLAIMED, " and ".join(lacking)
    if free.mean is None:
        return verdict, ""
    if verdict == "equivalent":
        return (verdict if interval().inside(MARGIN) else UNDECIDED), ""
    return (verdict, "") if np.sign(free.mean) == np.sign(mean) else (PAYS, PAYS)
