"""EXP: single 2-D kernels go, a random part of those that scale their input alike."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from methods.api import (
    Allocation,
    Budget,
    KernelPlan,
    Method,
    Network,
    Plan,
    Result,
    Trainer,
    Unsupported,
)
from methods.kernels import classes, quotas, sums


@dataclass(frozen=True)
class Exp(Method):
    """Kernels are alike if the sums of their elements fall in one of 13 classes; of each class a
    random part goes, frequent classes first (Sun et al., PeerJ CS 9:e1564, 2023; METHODS 13).

    `way`: `B` takes the classes of the whole layer, `A` those within a filter, filters of small
    batch-norm weights first. `margin`: what a class may lose beyond the layer's fraction. `exact`:
    what the rounding of small classes leaves over is drawn from all that is left; else fewer go.
    """

    way: Literal["A", "B"] = "B"
    margin: float = 0.1
    exact: bool = True
    add_bias: bool = False  # way A: a convolution's bias adds to the sums of its filters

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)
    stochastic: ClassVar[bool] = True

    @property
    def result(self) -> Result:
        return "kernels"

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        asked, draw = quotas(net, budget), trainer.generator()
        sizes = {n: net.weight(n).shape[:2].numel() for n in asked}
        rates = budget.rates or {n: asked[n] / sizes[n] for n in asked}
        kept_share = 1 - max(rates.values()) - self.margin
        kernels = {}
        for layer, number in asked.items():
            mask = torch.ones(sizes[layer], dtype=torch.bool)
            mask[self._gone(net, layer, number, kept_share, draw)] = False
            kernels[layer] = mask.view(net.weight(layer).shape[:2])
        removed = sum(int((~mask).sum()) for mask in kernels.values())
        trainer.note("kernels_asked", sum(asked.values()))
        trainer.note("kernels_removed", removed)
        if budget.rates is None and removed < sum(asked.values()):
            raise Unsupported(
                f"way {self.way} of the official code keeps one kernel at least of every small "
                "class: fewer go than the target asks for; exp.exact=true removes the rest"
            )
        return KernelPlan({}, kernels)

    def _gone(
        self, net: Network, layer: str, number: int, kept_share: float, draw: torch.Generator
    ) -> Tensor:
        """Places of the kernels that go, as i * C_in + j."""
        psi = sums(net.weight(layer)).cpu()
        bias = net.bias(layer)
        if self.way == "A" and self.add_bias and bias is not None:
            psi = psi + bias.detach().cpu()[:, None]
        q = classes(psi)
        filters: list[Tensor | None] = [None]
        if self.way == "A":
            order = net.norm(layer).weight.detach().abs().cpu().argsort(stable=True)
            filters = list(order)
        gone = visit(q, number, kept_share, filters, draw)
        if len(gone) < number and self.exact:
            left = torch.ones(q.numel(), dtype=torch.bool)
            left[gone] = False
            rest = left.nonzero()[:, 0]
            more = torch.randperm(len(rest), generator=draw)[: number - len(gone)]
            gone = torch.cat([gone, rest[more]])
        return gone


def visit(
    q: Tensor,
    number: int,
    kept_share: float,
    filters: list[Tensor | None],
    draw: torch.Generator,
) -> Tensor:
    """Places of at most `number` kernels of classes q (C_out, C_in). For each filter in turn, or
    the layer (None), classes go by their frequency in the layer, the lower number first where that
    is equal; of each, `ceil(kept_share x its kernels)` stay at random."""
    values, frequency = q.unique(return_counts=True)
    values = values[frequency.argsort(descending=True, stable=True)]
    places = torch.arange(q.numel()).view_as(q)
    found: list[Tensor] = []
    for which in filters:
        own, own_places = (q, places) if which is None else (q[which], places[which])
        for value in values:
            here = own_places[own == value]
            if number == 0:
                break
            if len(here):
                stay = max(0, math.ceil(len(here) * kept_share))
                goes = torch.ones(len(here), dtype=torch.bool)
                goes[torch.randperm(len(here), generator=draw)[:stay]] = False
                found.append(here[goes][:number])
                number -= len(found[-1])
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
