"""Random kernels: what a choice of single kernels must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from methods.api import Allocation, Budget, KernelPlan, Method, Network, Plan, Result, Trainer
from methods.kernels import quotas


@dataclass(frozen=True)
class RandomKernels(Method):
    """As many single kernels of every layer as `exp` removes, drawn uniformly at random."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)
    stochastic: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    @property
    def result(self) -> Result:
        return "kernels"

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        draw, kernels = trainer.generator(), {}
        for layer, number in quotas(net, budget).items():
            shape = net.weight(layer).shape[:2]
            mask = torch.ones(shape.numel(), dtype=torch.bool)
            mask[torch.randperm(len(mask), generator=draw)[:number]] = False
            kernels[layer] = mask.view(shape)
        return KernelPlan({}, kernels)
