"""HRankPlus: HRank's scores, all layers at once, residual streams included."""

from dataclasses import dataclass, replace

from torch import nn

from methods.api import Budget, Method, Network, Plan, Scores, Trainer
from methods.kit import mean_ranks


@dataclass(frozen=True)
class HRankPlus(Method):
    """Mean rank of the maps after the activation; of residual streams the last one stays whole
    (Lin et al., code published after CVPR 2020)."""

    num_images: int = 500
    fresh_norms: bool = False  # official: batch norms start anew, only other weights are copied

    def score(self, net: Network, trainer: Trainer) -> Scores:
        scores = mean_ranks(net, trainer, self.num_images)
        if self.fresh_norms:
            for norm in net.norms().values():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    norm.reset_parameters()
        return scores

    def select(self, net: Network, scores: Scores, budget: Budget) -> Plan:
        streams = [g.name for g in net.groups if g.coupled]
        return super().select(net, scores, replace(budget, whole=tuple(streams[-1:])))
