"""FPICI (Tang et al., TNNLS 2024), a reconstruction: the paper's estimators are not established.

METHODS 15. Shapes: C filters of a layer, d weights each.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.api import Method, Network, Scores, Trainer, Unsupported


@dataclass(frozen=True)
class FPICI(Method):
    """Filters with little information (entropy of their weights) that is not their own (similarity
    to the others of the layer) go (METHODS 15, a reconstruction)."""

    capacity: Literal["histogram", "gaussian"] = "histogram"
    bins: int = 10  # of the histogram, over the layer's range of weights
    centred: bool = False  # correlations of filters instead of cosines
    lam: float = 0.5  # share of independence

    def score(self, net: Network, trainer: Trainer) -> Scores:
        if self.bins < 1 or not 0 <= self.lam <= 1:
            raise Unsupported("bins must be at least 1 and lam lie between 0 and 1")
        return {n: self.fused(net.weight(n).detach().double().flatten(1)) for n in net.layers}

    def fused(self, filters: Tensor) -> Tensor:
        """(C, d) -> (C,): both views on one scale."""
        if self.capacity == "gaussian":
            information = gaussian_entropy(filters)
        else:
            information = histogram_entropy(filters, self.bins)
        own = independence(filters - filters.mean(1, keepdim=True) if self.centred else filters)
        return (1 - self.lam) * min_max(information) + self.lam * min_max(own)


def histogram_entropy(filters: Tensor, bins: int) -> Tensor:
    """Bits (C,) of each filter's weights (C, d) in equal bins over the range of the whole layer:
    with bins of its own, a filter of small weights would look like one of large weights."""
    low, high = filters.min(), filters.max()
    place = (filters - low) / (high - low).clamp_min(torch.finfo(filters.dtype).tiny) * bins
    index = place.long().clamp(max=bins - 1)  # the largest weight belongs to the last bin
    counts = torch.zeros(len(filters), bins).to(filters)
    share = counts.scatter_add_(1, index, torch.ones_like(filters)) / filters.shape[1]
    return torch.special.entr(share).sum(1) / math.log(2)


def gaussian_entropy(filters: Tensor) -> Tensor:
    """Bits (C,) of normal distributions with the variances of the filters' weights (C, d). A
    constant filter has 10^-12 of the largest variance: of minus infinity no scale could be made."""
    variance = filters.var(1, correction=0)
    least = (1e-12 * variance.max()).clamp_min(torch.finfo(filters.dtype).tiny)
    return 0.5 * torch.log2(2 * math.pi * math.e * variance.clamp_min(least))


def independence(filters: Tensor) -> Tensor:
    """1 - mean |cos| to the other filters, (C, d) -> (C,). A filter of zeros is a multiple of any
    other one, so its cosines count as 1. A filter alone in its layer is independent."""
    others = len(filters) - 1
    if not others:
        return torch.ones(1).to(filters)
    size = filters.norm(dim=1, keepdim=True)
    direction = filters / torch.where(size > 0, size, 1.0)
    cosine = (direction @ direction.T).abs()
    empty = size[:, 0] == 0
    cosine[empty], cosine[:, empty] = 1.0, 1.0
    return 1 - (cosine.sum(1) - cosine.diagonal()) / others


def min_max(values: Tensor) -> Tensor:
    """To 0..1 in the layer; zeros where all are equal."""
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else torch.zeros_like(values)
