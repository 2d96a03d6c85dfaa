"""EXP carried over to whole channels: a random part of the filters that scale their input alike."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.api import Allocation, Budget, Method, Network, Plan, Trainer
from methods.kernels import classes, sums


@dataclass(frozen=True)
class ExpFilter(Method):
    """Filters are alike if the sums of all their elements fall in one of 13 classes; every class
    keeps its share of the layer's width, drawn at random (a reconstruction: METHODS 13)."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)
    stochastic: ClassVar[bool] = True

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        psi = {n: sums(net.weight(n)).sum(1) for n in net.layers}
        units, widths = net.group_scores(psi, comparable=True), net.allocate(budget)
        draw, keep = trainer.generator(), {}
        for group in net.groups:
            q = classes(units[group.name])
            keep[group.name] = stratified(q, widths[group.name], draw)
        return Plan(keep)


def stratified(q: Tensor, width: int, draw: torch.Generator) -> tuple[int, ...]:
    """So many of the units with classes q (C,), drawn within each class; `seats` says how many."""
    values, sizes = q.unique(return_counts=True)
    kept: list[int] = []
    for value, count in zip(values, seats(sizes.tolist(), width), strict=True):
        members = (q == value).nonzero()[:, 0]
        kept += members[torch.randperm(len(members), generator=draw)[:count]].tolist()
    return tuple(sorted(kept))


def seats(sizes: list[int], width: int) -> list[int]:
    """Places of each class: its share of the width by largest remainder, and at least one while
    there are as many places as classes. Equal claims: the class named first."""
    shares = [width * size / sum(sizes) for size in sizes]
    found = [int(width >= len(sizes))] * len(sizes)
    while sum(found) < width:
        claims = [s - f if f < size else -1e9 for s, f, size in zip(shares, found, sizes)]
        found[claims.index(max(claims))] += 1
    return found
