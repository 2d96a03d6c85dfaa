"""Network Slimming: an L1 penalty drives batch-norm scales down; small scales go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from methods.api import Allocation, Method, Network, Scores, Trainer

# learning rates of the published recipe, summed over its steps: 160 epochs of 782 batches of 64,
# 0.1 for half of them, then 0.01 and 0.001 for a quarter each (METHODS 4.1)
PUBLISHED_RATE = 782 * (80 * 0.1 + 40 * 0.01 + 40 * 0.001)
MOMENTUM = 0.9  # of the published recipe: a constant gradient moves a weight by rate / (1 - 0.9)
INACTIVE = 0.05  # median relative change of the scales below this: sparsity did nothing


@dataclass(frozen=True)
class Slimming(Method):
    """Global threshold on |gamma| after sparsity training (Liu et al., ICCV 2017, section 3)."""

    sparse_epochs: float = 0.0  # 0: half of the budget
    sparsity: float = 1e-4  # lambda of the paper, for the published recipe
    start: Literal["plain", "sparse"] = "plain"  # sparse: a dense network of its own, penalised

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True
    labels: ClassVar[tuple[str, ...]] = ("BN-scale (sparsity inactive)",)
    shares: ClassVar[dict[str, float]] = {"sparse_epochs": 0.5}

    def score(self, net: Network, trainer: Trainer) -> Scores:
        for layer in net.layers:
            net.norm_scales(layer)  # a layer without a batch norm is told before anything trains
        if self.start == "plain":
            before = _scales(net)
            rates = trainer.learning_rates(self.sparse_epochs)
            strength = self._strength(net, rates)
            trainer.fit(net, self.sparse_epochs, penalty=lambda: strength * _l1(net))
            change = ((_scales(net) - before).abs() / before.abs().clamp(min=1e-12)).median()
            trainer.note("lambda_used", strength)
            trainer.note("lambda_matching_published", self._matching(rates))
            trainer.note("median_gamma_change", float(change))
            if change < INACTIVE:
                trainer.note("label", *self.labels)
        return {n: net.norm_scales(n).clone() for n in net.layers}

    @property
    def prepares(self) -> bool:
        return self.start == "plain"

    @property
    def own_dense(self) -> bool:
        return self.start == "sparse"

    def dense_penalty(self, net: Network, rates: list[float]) -> Callable[[], Tensor]:
        """The penalty of its own dense network, for the rates of that training."""
        strength = self._strength(net, rates)
        return lambda: strength * _l1(net)

    def _matching(self, rates: list[float]) -> float:
        """Lambda times the summed rate is that of the published recipe."""
        return self.sparsity * PUBLISHED_RATE / sum(rates)

    def _strength(self, net: Network, rates: list[float]) -> float:
        """The matching lambda, but (unless the paper's own is) never so large that the penalty
        alone could drive a typical scale to zero within the phase: unlimited, a phase of a few
        epochs takes every scale to zero, whatever the images say (the card tells what was
        measured). At the published length it is the paper's."""
        reach = float(_scales(net).abs().median()) * (1 - MOMENTUM) / sum(rates)
        return min(self._matching(rates), max(self.sparsity, reach))


def _gammas(net: Network) -> list[Tensor]:
    return [m.weight for m in net.norms().values() if isinstance(m, nn.BatchNorm2d)]


def _l1(net: Network) -> Tensor:
    """Sum of |gamma| over every 2-d batch norm; its gradient is the paper's sign(gamma)."""
    return torch.cat(_gammas(net)).abs().sum()


def _scales(net: Network) -> Tensor:
    return torch.cat([g.detach().clone() for g in _gammas(net)])
