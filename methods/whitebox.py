"""White-Box: class-wise masks, learned with the labels at hand, vote on the channels to keep."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from methods.api import Allocation, Budget, Method, Network, Plan, Scores, Site, Trainer
from methods.class_masks import ClassMask, Mixing, leakage, official_search

COUNT_MARGIN = 0.01  # of the `count` vote


@dataclass(frozen=True)
class WhiteBox(Method):
    """Channels that few classes need go, by a global vote of class-wise masks (Zhang et al.,
    TNNLS 2022). The default is the clean variant: trained start, frozen weights, masks after ReLU.
    """

    mask_epochs: float = 0.0  # 0: a quarter of the budget
    mask_lr: float = 0.01  # METHODS 1.8: masks alone on trained weights; official 0.1
    sparsity: float = 0.0  # weight of the sum over layers of ||v||_2
    train_weights: bool = False
    at: Literal["act", "conv"] = "act"
    vote: Literal["sum", "gain", "count", "spread"] = "sum"  # all but the sum are ours
    dead_masks: bool = False  # official: masks that no forward pass uses vote too
    rescale: bool = True  # start at the dense function
    fold: Literal["readers", "norm"] = "readers"
    search: Literal["bisect", "step"] = "bisect"

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True
    shares: ClassVar[dict[str, float]] = {"mask_epochs": 0.25}
    stochastic: ClassVar[bool] = True

    def score(self, net: Network, trainer: Trainer) -> Scores:
        masks = self.train_masks(net, trainer)
        votes = {n: m.mask.detach().sum(0) for n, m in masks.items()}  # (C,)
        self._fold(net, votes, masks)
        trainer.note("class_masks", {n: m.mask.detach() for n, m in masks.items()})
        scores = {n: self.count_votes(m.mask.detach(), m.idle.detach()) for n, m in masks.items()}
        if self.dead_masks:
            scores |= {n: _dead_vote(net, n, masks, trainer.num_classes) for n in _dead(net, masks)}
        return scores

    def train_masks(self, net: Network, trainer: Trainer) -> dict[str, ClassMask]:
        """Masks after training, with the leakage diagnostics noted."""
        divisor = (trainer.num_classes + 1) / 2 if self.rescale else 1.0
        mixing = Mixing(trainer, len(net.layers))
        masks = {
            n: ClassMask(len(net.weight(n)), mixing, i, divisor).to(trainer.device)
            for i, n in enumerate(net.layers)
        }

        def penalty() -> Tensor:
            norms = torch.stack([m.mask.sum(0).norm() for m in masks.values()]).sum()
            idle = torch.cat([m.idle for m in masks.values()]).sum()
            return self.sparsity * norms + 0.0 * idle  # a zero gradient, so that decay acts

        with net.gated(masks, at={n: self._site(net, n) for n in net.layers}):
            trainer.fit(
                net,
                self.mask_epochs,
                lr=self.mask_lr,
                penalty=penalty,
                only=None if self.train_weights else masks,
                constant_lr=True,
            )
            trainer.note("leakage", leakage(net, mixing, trainer))
        return masks

    def _site(self, net: Network, layer: str) -> Site:
        """Where no activation of the layer's own follows: behind its norm, else behind itself."""
        return net.last_site(layer) if self.at == "act" else "conv"

    def count_votes(self, mask: Tensor, idle: Tensor) -> Tensor:
        """(K, C) -> (C,), larger = keep."""
        if self.vote == "gain":
            return (mask - idle).clamp(min=0).sum(0)
        if self.vote == "count":
            return (mask > idle + COUNT_MARGIN).sum(0).float()
        if self.vote == "spread":
            return mask.std(0)
        return mask.sum(0).abs()

    def _fold(self, net: Network, votes: dict[str, Tensor], masks: dict[str, ClassMask]) -> None:
        """Clean: the mean of the guide over classes and noise, v (K + 1) / (2 K) over the divisor,
        into the readers' columns. Official: v / 2 into batch norm, idle masks included."""
        for layer, vote in votes.items():
            classes = len(masks[layer].mask)
            if self.fold == "norm":
                net.scale_norm(layer, vote / 2)
            else:
                guide = vote * (classes + 1) / (2 * classes) / masks[layer].divisor
                at_conv = self._site(net, layer) == "conv"
                (net.scale_writer if at_conv else net.scale_readers)(layer, guide)
        if self.fold == "norm" and self.dead_masks:
            for layer in _dead(net, masks):
                net.scale_norm(layer, _dead_vote(net, layer, masks, classes) / 2)

    @property
    def rounds(self) -> bool:
        return self.search == "bisect"

    def select(self, net: Network, scores: Scores, budget: Budget) -> Plan:
        if self.search == "bisect":
            return net.rank(scores, budget, self.comparable)
        return official_search(net, scores, budget)


def _dead(net: Network, masks: dict[str, ClassMask]) -> list[str]:
    return [n for n in net.convs if n not in masks]


def _dead_vote(net: Network, layer: str, masks: dict[str, ClassMask], classes: int) -> Tensor:
    idle = next(iter(masks.values())).idle.detach()
    return (classes * idle).expand(len(net.weight(layer)))
