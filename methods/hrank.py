"""HRank: filters whose feature maps have a low rank go."""

from dataclasses import dataclass

from methods.api import Method, Network, Scores, Trainer
from methods.kit import mean_ranks


@dataclass(frozen=True)
class HRank(Method):
    """Mean rank of the maps after the activation (Lin et al., CVPR 2020, section 3.3)."""

    num_images: int = 500

    def score(self, net: Network, trainer: Trainer) -> Scores:
        return mean_ranks(net, trainer, self.num_images)
