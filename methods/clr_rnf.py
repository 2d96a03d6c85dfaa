"""CLR-RNF: widths by ranking the weights of all layers, filters by their nearest neighbours.

METHODS 11. Shapes: n units of a group, d weights of each in one layer.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.api import Allocation, Budget, Method, Network, Plan, Scores, Trainer
from methods.kit import filters, per_layer, renew_head, renew_norms

ALL = 1e-30  # what weights of a layer are divided by that keeps all of its filters


@dataclass(frozen=True)
class CLRRNF(Method):
    """A layer keeps the share of filters that its weights have among the largest of all layers:
    those that are among the nearest neighbours of all others (Lin et al., TNNLS 2022).

    With threshold t, a layer of n filters keeps int(n * share of weights >= t) of them: w as soon
    as its (w d)-th largest weight reaches t. That weight is the score of the w-th best filter, so a
    global ranking of the scores gives exactly these widths.
    """

    cost_power: float = 0.5  # weights of a layer are divided by its cost to this power
    costs: str = ""  # one per layer, as `8*0.9`; 0: all stay. Empty: MACs of the group
    pr_target: float = 0.0  # share of weights to go, in place of the share of MACs; 0: off
    nearest: Literal["distance", "similarity"] = "distance"  # similarity: as the official code
    renew: bool = False  # official: batch norms, biases and linear readers start anew

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True

    @property
    def targets_macs(self) -> bool:
        return not self.pr_target

    def score(self, net: Network, trainer: Trainer) -> Scores:
        scale = self._scale(net)
        order = nearest_first if self.nearest == "distance" else official_order
        scores = {n: torch.zeros(len(net.weight(n)), dtype=torch.float64) for n in net.layers}
        for group in net.groups:
            for layer in group.layers:
                rows, weights = net.rows(group.name)[layer], filters(net, group, layer)
                level = levels(weights).double().cpu() / scale[layer] / rows.shape[1]
                scores[layer][rows[order(weights).cpu()]] = level[:, None]
            if self.renew and scale[group.layers[0]] != ALL:
                renew_norms(net, group)
                renew_head(net, group, trainer.generator())
        return scores

    def select(self, net: Network, scores: Scores, budget: Budget) -> Plan:
        if not self.pr_target:
            return net.rank(scores, budget, self.comparable)
        scale = {n: s for n, s in self._scale(net).items() if s != ALL}
        gone = removed({n: net.weight(n).detach() / s for n, s in scale.items()}, self.pr_target)
        rates = {}
        for layer, width in ((n, g.width) for g in net.groups for n in g.layers):
            rates[layer] = 1 - int(width * (1 - gone.get(layer, 0.0))) / width
        return net.rank(scores, replace(budget, allocation="listed", rates=rates), self.comparable)

    def _scale(self, net: Network) -> dict[str, float]:
        """What the weights of each layer are divided by."""
        if self.costs:
            costs = per_layer(self.costs, net.layers, "clr_rnf.costs")
        else:
            dense = net.macs()
            macs = {g.name: dense - net.macs({g.name: 0}) for g in net.groups}
            first = macs[net.groups[0].name]
            costs = {layer: macs[g.name] / first for g in net.groups for layer in g.layers}
        return {layer: cost**self.cost_power if cost else ALL for layer, cost in costs.items()}


def levels(weights: Tensor) -> Tensor:
    """(n, d) -> (n,): the d-th, 2 d-th, ... largest magnitude."""
    d = weights.shape[1]
    return weights.abs().flatten().sort(descending=True).values[d - 1 :: d]


def removed(weights: dict[str, Tensor], share: float) -> dict[str, float]:
    """Share of each layer's weights below the magnitude that lets int(total (1 - share)) stay."""
    pool = torch.cat([w.abs().flatten() for w in weights.values()])
    stay = max(1, int(len(pool) * (1 - share)))
    threshold = pool.topk(stay).values[-1]
    return {n: int((w.abs() < threshold).sum()) / w.numel() for n, w in weights.items()}


def nearest_first(weights: Tensor) -> Tensor:
    """(n, d) -> (n,) indices, best first: by the worst place that a filter has among the neighbours
    of any (itself is the first of its own), then by its mean distance, then by index.

    The first m are the m filters of the paper: the k nearest neighbours of all have those in common
    whose worst place is k or better, for the least k that gives m."""
    x = weights.detach().double()
    size = x.square().sum(1)
    square = (size[:, None] + size - 2 * x @ x.T).clamp_min(0).fill_diagonal_(0)
    places = torch.searchsorted(square.sort(1).values, square)  # how many are nearer
    order = torch.sort(square.sqrt().mean(0), stable=True).indices
    return order[torch.sort(places.amax(0)[order], stable=True).indices]


def official_order(weights: Tensor) -> Tensor:
    """The same as the code at 7608ad8 does it: float32 similarities exp(-||a - b||^2), which tie
    where they are rounded; among equals whatever `set.pop` gives, as CPython lays sets out."""
    x = weights.detach().float().cpu()
    size = x.square().sum(1)
    square = (size[:, None] + size - 2.0 * x @ x.T).clamp(0)
    nearest = torch.sort(F.normalize(torch.exp(-square), 1), descending=True, stable=True).indices
    worst = nearest.argsort(1).amax(0).tolist()
    found: list[int] = []
    for place in sorted(set(worst)):
        common = {j for j in nearest[-1, : place + 1].tolist() if worst[j] <= place}
        rest = common.difference(set(found))
        while rest:
            found.append(rest.pop())
    return torch.tensor(found)
