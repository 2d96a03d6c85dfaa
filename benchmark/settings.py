"""Whether two runs may be compared: settings that differ, rules that keep tables apart, and what
else than the choice of channels may lie behind a difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark import differences
from benchmark.boards import FAMILY, SETTING
from benchmark.frames import MOST_FLOOR, SATURATED
from benchmark.record import RunRecord
from benchmark.spec import RunSpec, canonical

ONE_SIZE = 1.0  # point of FLOPs reduction: networks further apart are not of one size


@dataclass(frozen=True)
class Values:
    """One fact of both runs; None: not known, or it does not apply."""

    name: str
    a: Any
    b: Any


def settings(a: RunSpec, b: RunSpec) -> tuple[Values, ...]:
    """Fields of the specs that differ, by their place, as `method.params.lr`. A part that only one
    of them has is one value."""
    ours, theirs = a.model_dump(mode="json"), b.model_dump(mode="json")
    found: list[Values] = []
    for name in ours:
        one, other = ours[name], theirs[name]
        if not (isinstance(one, dict) and isinstance(other, dict)):
            one, other = {name: one}, {name: other}
        else:
            one, other = differences.leaves(one, name), differences.leaves(other, name)
        places = dict.fromkeys([*one, *other])
        found += [Values(p, one.get(p), other.get(p)) for p in places]
    return tuple(v for v in found if canonical(v.a) != canonical(v.b))


def why_apart(a: pd.Series[Any], b: pd.Series[Any]) -> str:
    """Why two rows of the table of runs stand in different tables; empty: they share one."""
    if a["table"] == b["table"]:
        return ""
    names = dict.fromkeys([*SETTING, "min_width", "total_epochs", *FAMILY])
    differing = [n for n in names if not (a[n] == b[n] or (_empty(a[n]) and _empty(b[n])))]
    return ", ".join(f"{n} ({_shown(a[n])} and {_shown(b[n])})" for n in differing)


def _empty(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "none" if math.isnan(value) else f"{value:g}"
    return str(value) or "none"


def cautions(a: RunRecord, b: RunRecord) -> list[str]:
    """What else than the choice of channels may lie behind a difference."""
    found = []
    cut = [100 * r.flops_reduction for r in (a, b)]
    if abs(cut[0] - cut[1]) > ONE_SIZE:
        found.append(
            f"not of one size: {cut[0]:.1f} and {cut[1]:.1f} % of the FLOPs are removed, and "
            "accuracy follows size"
        )
    if all(is_trained(r) for r in (a, b)) and a.dense.weights != b.dense.weights:
        found.append("they start from different dense networks")
    for name, record in (("A", a), ("B", b)):
        if not is_trained(record):
            found.append(f"{name} starts from random weights")
        if record.spent.free:
            found.append(f"{name} was granted {record.spent.free:,} images that are not charged")
        if record.at_chance:
            found.append(f"{name} ends at chance")
        if 100 * record.floor_share > MOST_FLOOR:
            found.append(f"the minimum width decided most layers of {name}")
    saturated = [n for n, record in (("A", a), ("B", b)) if _is_saturated(record)]
    if saturated:
        found.append(
            f"dense accuracy of {' and '.join(saturated)} is above {SATURATED:.0f} %: differences "
            "are no ranking"
        )
    return found


def _is_saturated(record: RunRecord) -> bool:
    return record.dense.accuracy is not None and 100 * record.dense.accuracy.test_top1 > SATURATED


def is_trained(record: RunRecord) -> bool:
    return record.dense.accuracy is not None
