"""Gates that do not choose: what a choice anew for every image must beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from methods.api import (
    Allocation,
    Budget,
    ChannelGate,
    GatePlan,
    Method,
    Network,
    Plan,
    Result,
    Trainer,
)
from methods.gates import density_for, new_gates, start, train


@dataclass(frozen=True)
class RandomGates(Method):
    """The gates of `fbs` at the same density, with the same training: they scale channels for
    every image, but let the same random ones through for all."""

    gate_epochs: float = 0.0
    step: float = 0.1

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)
    shares: ClassVar[Mapping[str, float]] = {"gate_epochs": 0.5}
    stochastic: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    @property
    def result(self) -> Result:
        return "dynamic"

    def gates(self, net: Network) -> Mapping[str, ChannelGate]:
        return new_gates(net, beta_first=True, fixed=True)

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        gates = new_gates(net, beta_first=True, fixed=True)
        start(gates, trainer.generator())
        density = density_for(net, gates, budget)
        trainer.note("density", density)
        train(net, gates, density, self.step, self.gate_epochs, trainer)
        return GatePlan({}, gates)
