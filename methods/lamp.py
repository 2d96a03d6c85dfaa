"""LAMP: filters that carry little of what is left of their layer's energy go."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.api import Allocation, Method, Network, Scores, Trainer

TINY = 1e-300  # keeps 0 / 0 at 0


@dataclass(frozen=True)
class LAMP(Method):
    """Squared norm of a filter over that of all filters of the layer that are no smaller (Lee et
    al., ICLR 2021, section 3, for filters in place of single weights)."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True

    def score(self, net: Network, trainer: Trainer) -> Scores:
        energy = {n: net.weight(n).detach().double().square().sum((1, 2, 3)) for n in net.layers}
        return {n: lamp(u) for n, u in energy.items()}


def lamp(u: Tensor) -> Tensor:
    """(C,) non-negative -> (C,) u_i over the sum of itself and all larger ones, in [0, 1].

    The largest always has 1. Of equal ones the lower index counts as the larger: in the paper, too,
    each has its place in the order. Zero stays zero.
    """
    ordered = u.sort(descending=True, stable=True)
    kept = ordered.values.cumsum(0)  # what is left of the layer when all behind this one are gone
    return torch.empty_like(u).scatter_(0, ordered.indices, ordered.values / kept.clamp(min=TINY))
