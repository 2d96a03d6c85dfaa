"""WSP (Guo et al., Neural Networks 2021): channels that matter little forward and backward go.

The paper was not available. The default is a reconstruction (METHODS 12); `official` is what the
authors' code computes, from weights alone.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Allocation, Method, Network, Scores, Trainer, Unsupported
from methods.kit import rank_correlation

ACTIVE = 1e-12  # a gradient larger than this counts as one


@dataclass(frozen=True)
class WSP(Method):
    """Size of a channel's map times size of the loss gradient there, for all layers at once
    (METHODS 12, a reconstruction)."""

    num_images: int = 1000
    saliency: Literal["product", "sparsity", "sum", "taylor", "weights"] = "product"

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True  # each layer by its own norm, or by ranks

    @property
    def prepares(self) -> bool:
        return self.saliency != "weights"  # the pass that finds the gradients

    def score(self, net: Network, trainer: Trainer) -> Scores:
        if self.saliency == "weights":
            return weight_ranks(net)
        if self.num_images < 1:
            raise Unsupported("num_images must be at least 1")
        means = contributions(net, trainer, self.num_images)
        scores = {n: combine(m, self.saliency) for n, m in means.items()}
        agreement = {n: rank_correlation(s, combine(means[n], "taylor")) for n, s in scores.items()}
        trainer.note("rank_correlation_with_taylor", agreement)
        return {n: unit(s) for n, s in scores.items()}


def contributions(net: Network, trainer: Trainer, images: int) -> dict[str, Tensor]:
    """`sums` (5, C) over the number of images and positions; one backward pass per batch for all
    layers, batch norms in eval mode."""
    total = {n: torch.zeros(5, len(net.weight(n)), dtype=torch.float64) for n in net.layers}
    count = dict.fromkeys(net.layers, 0)
    net.eval()
    sites = {n: net.last_site(n) for n in net.layers}
    with torch.enable_grad(), net.tapped(sites) as maps:
        for x, y in trainer.batches(images=images):
            loss = F.cross_entropy(net(x), y, reduction="sum")  # each image's own gradient
            wanted = [maps[n] for n in net.layers]
            slopes = torch.autograd.grad(loss, wanted, materialize_grads=True)
            for layer, a, d in zip(net.layers, wanted, slopes, strict=True):
                total[layer] += sums(a.detach(), d)
                count[layer] += a[:, 0].numel()
    return {n: t / count[n] for n, t in total.items()}


def sums(a: Tensor, d: Tensor) -> Tensor:
    """|A|, A > 0, |D|, |D| > 1e-12 and A D, of maps A and gradients D (N, C, H, W) -> (5, C)."""
    found = (a.abs(), a > 0, d.abs(), d.abs() > ACTIVE, a * d)
    return torch.stack([v.sum((0, 2, 3), dtype=torch.float64) for v in found]).cpu()


def combine(means: Tensor, saliency: str) -> Tensor:
    """Means (5, C) of `sums` -> (C,), larger = keep."""
    size, used, slope, active, product = means
    if saliency == "sparsity":
        return used * active
    if saliency == "sum":
        return unit(size) + unit(slope)
    return product.abs() if saliency == "taylor" else size * slope


def unit(score: Tensor) -> Tensor:
    """Over its l2 norm; zeros stay."""
    return score / score.norm().clamp_min(torch.finfo(score.dtype).tiny)


def weight_ranks(net: Network) -> Scores:
    """The larger of a channel's two ranks in its layer, from 0 to 1: by the L1 norm of its filter,
    and of what the next layers read of it. At percentile p the code removes the channels that are
    below it by both: those whose score is below p / 100."""
    read, scores = read_sizes(net), {}
    for layer in net.layers:
        own = net.weight(layer).detach().abs().double().sum((1, 2, 3)).cpu()
        ranks = [(v <= v[:, None]).sum(1) - 1 for v in (own, read[layer])]  # ties go together
        scores[layer] = torch.maximum(*ranks) / max(1, len(own) - 1)
    return scores


@torch.no_grad()
def read_sizes(net: Network) -> dict[str, Tensor]:
    """(C,) per layer: L1 norm of what the layers next to it read of each channel. A copy tells
    which weights these are: all are 1 there, and readers are scaled by the channels' numbers."""
    twin, first, number = net.copy(), {}, 2  # 1: a weight that reads no channel in scope
    for parameter in twin.parameters():
        nn.init.ones_(parameter)
    for layer in net.layers:
        first[layer], width = number, len(net.weight(layer))
        number += width
        twin.scale_readers(layer, torch.arange(number - width, number).float())
    total = torch.zeros(number, dtype=torch.float64)
    for reader in {*net.convs, *(r for g in net.groups for r in g.readers)}:
        index = twin.weight(reader).round().long().flatten().cpu()
        total.index_add_(0, index, net.weight(reader).abs().double().flatten().cpu())
    return {n: total[f : f + len(net.weight(n))] for n, f in first.items()}
