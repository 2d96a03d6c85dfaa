"""L1-norm filter pruning."""

from dataclasses import dataclass

from methods.api import Method, Network, Scores, Trainer


@dataclass(frozen=True)
class L1Norm(Method):
    """Filters with the smallest L1 norm go (Li et al., ICLR 2017, section 3.1)."""

    def score(self, net: Network, trainer: Trainer) -> Scores:
        return {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}
