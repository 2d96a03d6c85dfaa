"""Uniformly thinner network trained from scratch: is pruning worth more than a smaller network?"""

from dataclasses import dataclass
from typing import ClassVar

from methods.api import Allocation, Budget, Method, Network, Plan, Trainer


@dataclass(frozen=True)
class WidthScaling(Method):
    """Uniform widths from random initialisation, trained for the images of baseline plus budget."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)
    trained_start: ClassVar[bool] = False
    informed: ClassVar[bool] = False

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        return Plan({g: tuple(range(w)) for g, w in net.allocate(budget).items()})
