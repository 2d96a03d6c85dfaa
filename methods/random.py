"""Random channels: the control every criterion must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from methods.api import Method, Network, Scores, Trainer


@dataclass(frozen=True)
class Random(Method):
    """Channels drawn uniformly at random."""

    stochastic: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    def score(self, net: Network, trainer: Trainer) -> Scores:
        draw = trainer.generator()
        return {n: torch.rand(len(net.weight(n)), generator=draw) for n in net.layers}
