"""BN-scale: channels with a small batch-norm scale go, of a network that was trained as usual."""

from dataclasses import dataclass
from typing import ClassVar

from methods.api import Allocation, Method, Network, Scores, Trainer


@dataclass(frozen=True)
class BNScale(Method):
    """Global threshold on |gamma| without sparsity training: what Network Slimming (Liu et al.,
    ICCV 2017) selects by, on the network as it is."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True

    def score(self, net: Network, trainer: Trainer) -> Scores:
        return {n: net.norm_scales(n) for n in net.layers}
