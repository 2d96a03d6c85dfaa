"""FBS: gates that boost and suppress channels anew for every image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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
    Unsupported,
)
from methods.gates import SaliencyGate, attached, density_for, new_gates, start, train


@dataclass(frozen=True)
class FBS(Method):
    """The channels of an image are those whose predicted saliency is largest; the saliency scales
    them too. All weights stay (Gao et al., ICLR 2019; METHODS 6).

    `step`: the density falls by it in preparation, from 1 to what meets the target on average.
    `add_beta_first`: the constant of a channel is scaled by its saliency, as in the paper; else
    only switched, as in the code. `plain_start`: gates start as in the code, around 1; else as the
    batch norm they replace. `static`: what the gates let through of the training images on average
    ranks channels, which then go for good; that is no dynamic network but a small one.
    """

    gate_epochs: float = 0.0
    step: float = 0.1
    add_beta_first: bool = True
    plain_start: bool = False
    static: bool = False

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)
    shares: ClassVar[Mapping[str, float]] = {"gate_epochs": 0.5}
    stochastic: ClassVar[bool] = True

    @property
    def result(self) -> Result:
        return "channels" if self.static else "dynamic"

    def gates(self, net: Network) -> Mapping[str, ChannelGate]:
        return new_gates(net, self.add_beta_first)

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        gates = new_gates(net, self.add_beta_first)
        start(gates, trainer.generator(), self.plain_start)
        density = density_for(net, gates, budget)
        trainer.note("density", density)
        train(net, gates, density, self.step, self.gate_epochs, trainer)
        if not self.static:
            return GatePlan({}, gates)
        boost = self._boost(net, gates, trainer)
        for layer, mean in boost.items():
            norm, beta = net.norm(layer), gates[layer].beta.detach()
            norm.weight.data.copy_(mean)
            norm.bias.data.copy_(mean * beta if self.add_beta_first else beta)
        return net.rank(boost, budget)

    @torch.no_grad()
    def _boost(
        self, net: Network, gates: Mapping[str, SaliencyGate], trainer: Trainer
    ) -> dict[str, Tensor]:
        """(C,) per layer: mean of what passes, over un-augmented training images."""
        total = {n: torch.zeros(len(net.weight(n)), dtype=torch.float64) for n in gates}
        images = 0
        net.eval()
        with attached(net, gates):
            for x, _ in trainer.batches(phase="saliency"):
                net(x)
                images += len(x)
                for layer, gate in gates.items():
                    total[layer] += gate.passed.sum(0).double().cpu()
        if not images:
            raise Unsupported("no images left in the forward-only share of the budget")
        return {n: (t / images).float().to(net.weight(n).device) for n, t in total.items()}
