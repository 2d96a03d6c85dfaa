"""Counts that add up, field by field and key by key."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import astuple, dataclass
from typing import Any, Self, TypeVar


@dataclass(frozen=True)
class Tally:
    """Of numbers that all start at 0."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


Key = TypeVar("Key", bound=Hashable)
Counts = TypeVar("Counts", bound=Tally)


def summed(pairs: Iterable[tuple[Key, Counts]]) -> dict[Key, Counts]:
    """One sum for each key, in the order of the keys."""
    found: dict[Any, Counts] = {}
    for key, counts in pairs:
        found[key] = found[key] + counts if key in found else counts
    return dict(sorted(found.items()))
