"""What a method's card gives to tuning (`[space]`), and which settings of it are tried, in order.

A space is a grid: at most three parameters with a few values each, the recovery learning rate among
them for every method and control (DECISIONS 20). Of the recovery recipe nothing else is tuned: all
the rest of it belongs to the board.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.record import one_line
from benchmark.spec import RATE, Recipe, canonical
from methods import Entry, UnknownMethod, build

MOST = 3  # parameters
Setting = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """Values by parameter: `recovery.lr`, or a field of the method."""

    values: Mapping[str, tuple[Any, ...]]

    def settings(self, default: Mapping[str, Any], most: int) -> list[Setting]:
        """The default setting, then others of the grid without repetition, at most so many in all.
        More of them begin with the fewer.

        Their order is Roberts' low-discrepancy sequence, which covers the values of each parameter
        evenly. Of three parameters of three values, 30 % of random draws of seven settings never
        try some value.
        """
        found = {canonical(default): dict(default)}
        for setting in self._in_order():
            if len(found) >= most:
                break
            found.setdefault(canonical(setting), setting)
        return list(found.values())

    def resolved(self, entry: Entry, epochs: float) -> Space:
        """With epochs that were left at 0 set to their share of the budget, as the method does."""
        shares = {f: round(s * epochs, 6) for f, s in entry.cls.shares.items()}
        settled = {
            name: tuple(dict.fromkeys(value or shares.get(name, value) for value in values))
            for name, values in self.values.items()
        }
        return replace(self, values=settled)

    def _in_order(self) -> Iterator[Setting]:
        sizes = [len(values) for values in self.values.values()]
        everything = set(itertools.product(*map(range, sizes)))
        steps = _steps(len(sizes))
        for k in itertools.count(1):
            if not everything:
                return
            place = tuple(
                int((0.5 + k * step) % 1 * size) for step, size in zip(steps, sizes, strict=True)
            )
            if place in everything:
                everything.remove(place)
                pairs = zip(self.values.items(), place, strict=True)
                yield {name: values[i] for (name, values), i in pairs}


def _steps(dimensions: int) -> list[float]:
    """Of Roberts' sequence: powers of the inverse of the root of x^(d + 1) = x + 1, which for one
    dimension is the golden ratio (The unreasonable effectiveness of quasirandom sequences, 2018).
    """
    root = 2.0
    for _ in range(64):
        root = float((1 + root) ** (1 / (dimensions + 1)))
    return [float(root ** -(i + 1)) for i in range(dimensions)]


# ---- from a card ---------------------------------------------------------------------------------


def space_of(entry: Entry) -> Space:
    """The space of a method's card. What a variant sets makes it that variant, and is not tuned.

    Raises:
        BadInput: there is none, it has too many parameters or not the recovery rate, or a value
            does not fit.
    """
    place = f"{entry.label}: [space] of its card {entry.name}.toml"
    given = entry.card.get("space")
    if not given:
        raise BadInput(
            f'{place} is missing: list there "{RATE}" and at most {MOST - 1} fields of the method, '
            f'each with its values, as "{RATE}" = [0.1, 0.03, 0.01]'
        )
    if not isinstance(given, dict):
        raise BadInput(f"{place} must be a table of lists")
    if len(given) > MOST:
        raise BadInput(f"{place} has {len(given)} parameters, at most {MOST} are tuned: drop some")
    if RATE not in given:
        raise BadInput(f'{place} lacks "{RATE}", which is tuned for every method: add it')
    pinned = entry.card.get("variant", {}).get(entry.variant, {}).get("params", {})
    for name, values in given.items():
        _check(entry, one_line(name), values, place)
    return Space({n: tuple(v) for n, v in given.items() if n not in pinned})


def _check(entry: Entry, name: str, values: object, place: str) -> None:
    if not isinstance(values, list) or not values:
        raise BadInput(f"{place}: {name} must be a list of values")
    if len({canonical(value) for value in values}) < len(values):
        raise BadInput(f"{place}: {name} lists a value twice")
    if name.startswith("recovery.") and name != RATE:
        raise BadInput(
            f"{place}: {name} is not tuned: of the recovery recipe only {RATE} is, all else is the "
            "same for every method"
        )
    try:
        for value in values:
            if name == RATE:
                Recipe(epochs=1, lr=value)
            else:
                build(entry, {name: value})
    except ValidationError as error:
        said = one_line(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise BadInput(f"{place}: {name} = {one_line(value, quoted=True)}: {said}") from error
    except UnknownMethod as error:
        raise BadInput(f"{place}: {error}") from error


def of_round(settings: Sequence[Setting], trial: int) -> tuple[Setting, int]:
    """Setting and round of a trial, counted from 0. Where there are fewer settings than trials all
    are tried again with another seed, so that every method has the same number of trials."""
    return settings[trial % len(settings)], trial // len(settings)
