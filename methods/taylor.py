"""Taylor-FO: channels whose removal changes the loss least, to first order, go."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Allocation, Method, Network, Scores, Site, Trainer, Unsupported
from methods.kit import regrouped


@dataclass(frozen=True)
class Taylor(Method):
    """Gradient times value of a channel's gate, squared per mini-batch (Molchanov et al., CVPR
    2019, section 3; METHODS 16.5).

    The gate is the channel's scale and shift in the batch norm: together they have the derivative
    of a gate of one behind it, the sum of map times gradient over the map. Where a layer has no
    batch norm of its own, such a gate is inserted behind the layer.
    """

    num_images: int = 7680  # the official configuration: 30 mini-batches of 256
    batch_size: int = 64  # images of a mini-batch
    gate: Literal["norm", "weight"] = "norm"
    # how the products of a channel's parameters become one number: (sum)^2, sum of squares, sum |.|
    terms: Literal["joint", "separate", "absolute"] = "joint"
    statistics: Literal["running", "batch"] = "running"  # what batch norm divides by

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True  # all of them estimate a change of the same loss

    @property
    def prepares(self) -> bool:
        return True  # the passes that find the gradients

    def score(self, net: Network, trainer: Trainer) -> Scores:
        if min(self.num_images, self.batch_size) < 1:
            raise Unsupported("num_images and batch_size must be at least 1")
        gates: dict[str, UnitGate] = {}
        if self.gate == "norm":
            alone = [n for n in net.layers if _norm(net, n) is None]
            gates = {n: UnitGate(len(net.weight(n))).to(trainer.device) for n in alone}
        sites: dict[str, Site] = {n: "norm" if net.has_site(n, "norm") else "conv" for n in gates}
        values = {n: self._parameters(net, n, gates) for n in net.layers}
        flat = [p for own in values.values() for p in own]
        total = {n: torch.zeros(len(own[0]), dtype=torch.float64) for n, own in values.items()}
        steps = 0
        with torch.enable_grad(), net.gated(gates, at=sites), _evaluated(net, self.statistics):
            batches = trainer.batches(images=self.num_images)
            for x, y in regrouped(batches, self.batch_size):
                loss = F.cross_entropy(net(x), y)
                slopes = iter(torch.autograd.grad(loss, flat, materialize_grads=True))
                for layer, own in values.items():
                    products = [
                        (p.detach() * next(slopes)).double().reshape(len(p), -1) for p in own
                    ]
                    total[layer] += combine(torch.cat(products, 1), self.terms).cpu()
                steps += 1
        return {layer: score / steps for layer, score in total.items()}

    def _parameters(
        self, net: Network, layer: str, gates: dict[str, "UnitGate"]
    ) -> list[nn.Parameter]:
        """What the loss is differentiated by, each (C, ...)."""
        if self.gate == "weight":
            return [net.module(layer).weight]  # type: ignore[list-item]
        norm = _norm(net, layer)
        return [gates[layer].scale] if norm is None else [norm.weight, norm.bias]


class UnitGate(nn.Module):
    """x times a scale per channel, which is 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        return x * self.scale.to(x.dtype)[:, None, None]


def combine(products: Tensor, terms: Literal["joint", "separate", "absolute"]) -> Tensor:
    """Products gradient x value (C, P) of a channel's P parameters -> (C,)."""
    if terms == "joint":
        return products.sum(1).square()
    return (products.square() if terms == "separate" else products.abs()).sum(1)


def _norm(net: Network, layer: str) -> nn.BatchNorm2d | None:
    """The layer's own batch norm, if it has one with scale and shift."""
    try:
        norm = net.norm(layer)
    except Unsupported:
        return None
    return norm if norm.affine else None


@contextmanager
def _evaluated(net: Network, statistics: Literal["running", "batch"]) -> Iterator[None]:
    """Eval mode; with `batch`, batch norms divide by statistics of the batch and keep theirs."""
    net.eval()
    norms = [m for m in net.norms().values() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if statistics == "batch" and m.track_running_stats]
    try:
        for norm in norms:
            norm.train()
            norm.track_running_stats = False  # in train mode: they are neither used nor changed
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        net.eval()
