"""Controls schedule themselves (DECISIONS 12, 17, 18): what stands beside the rows asked for.

Which methods these are is said by their cards: `kind = "control"`, and `reference = true` for those
that every other method is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmark.spec import ONE_SHOT, Anew, RunSpec, Track
from methods import Entry, find, names
from methods.api import Result


@dataclass(frozen=True)
class Row:
    """A place in the grid that is still to be planned; target None: the default, or the paper's."""

    entry: Entry
    target: float | None
    seed: int
    preparation: Literal["charged", "free"] = "charged"
    reconstruct: Literal["none", "ls"] = "none"
    allocation: Literal["method", "global", "uniform"] = "method"
    schedule: str = ONE_SHOT
    weights: Anew | Literal["inherited"] = "inherited"


def suite(lane: Result = "channels") -> list[Entry]:
    """The suite's controls, and the methods of reference, in the order of their names: those that
    belong beside rows with this kind of result. What removes nothing belongs beside all."""
    known = [e for e in map(find, names()) if e.is_control or is_reference(e)]
    return [e for e in known if e.result == lane or e.cls.allocations == ("none",)]


def is_reference(entry: Entry) -> bool:
    """Whether every method is compared with it: it then stands there with reconstruction too."""
    return entry.card["card"].get("reference") is True


def beside(asked: Sequence[tuple[Row, RunSpec]]) -> Iterator[Row]:
    """What belongs beside the rows of one target, which came out as these specs; some of it may be
    among them already. Where nothing is pruned there is nothing to control."""
    for row, _ in asked:
        yield from _both_budgets(row)
    for lane in dict.fromkeys(spec.result for _, spec in asked):
        own = [(row, spec) for row, spec in asked if spec.result == lane]
        ways = dict.fromkeys((s.allocation, s.schedule) for _, s in own if s.allocation != "none")
        for target, seed in dict.fromkeys((row.target, row.seed) for row, _ in own):
            for entry in suite(lane):
                for allocation, schedule in ways:
                    nearest = _nearest(entry, allocation)
                    more = Row(entry, target, seed, allocation=nearest, schedule=schedule)
                    for row in _with_reconstruction(more):
                        yield from _both_budgets(row)


def anew(asked: Sequence[tuple[Row, RunSpec]], track: Track) -> Iterator[Row]:
    """The networks that methods chose, with new weights. In the total track `width_scaling` is that
    network already wherever widths are uniform."""
    for row, spec in asked:
        is_method = not row.entry.is_control and spec.result == "channels" and not spec.scratch
        plain = spec.preparation == "charged" and spec.reconstruct == "none"
        if not is_method or not plain or spec.is_tuned:
            continue
        if track == "paper":
            yield replace(row, weights="scratch-e")
            yield replace(row, weights="scratch-b")
        elif track == "total" and spec.allocation != "uniform":
            yield replace(row, weights="scratch")


def _both_budgets(row: Row) -> list[Row]:
    """Preparation charged and granted; one row where nothing is prepared, for both have its id."""
    return [replace(row, preparation="charged"), replace(row, preparation="free")]


def _with_reconstruction(row: Row) -> list[Row]:
    more = [replace(row, reconstruct="ls")] if is_reference(row.entry) else []
    return [row, *more]


def _nearest(entry: Entry, allocation: str) -> Literal["method", "global", "uniform"]:
    """The allocation of the rows it stands beside, or its own where it has no choice."""
    for shared in ("global", "uniform"):
        if shared == allocation and shared in entry.cls.allocations:
            return shared
    return "method"
