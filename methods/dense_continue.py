"""The dense network with the same extra training: is a gain due to pruning or to more epochs?"""

from dataclasses import dataclass
from typing import ClassVar

from methods.api import Allocation, Budget, Method, Network, Plan, Trainer


@dataclass(frozen=True)
class DenseContinue(Method):
    """Nothing is removed; the recovery budget is spent on the dense network."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("none",)
    informed: ClassVar[bool] = False

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        return Plan({})
