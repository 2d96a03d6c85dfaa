"""HRel: filters whose activations tell little about the class go (METHODS 8).

Shapes: N images of a batch, F filters (1: a layer as a whole), P pairs of images.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.api import Method, Network, Scores, Site, Trainer, Unsupported
from methods.kit import regrouped

OLD, FIRST = 0.9, 21  # of the average of widths; batches that try many widths each, later ones few
LAYER, FILTER = (300, 100), (75, 50)  # how many are tried: many, few
LEAST, LEAST_OWN, MOST = 0.3, 0.1, 10.0  # smallest; of filters and largest: in mean distances
CHUNK, FILTERS = 2**21, 32  # kernel entries, and filters, worked on at once


@dataclass(frozen=True)
class HRel(Method):
    """Mutual information of activation and label, by matrix-based Renyi entropies of batches
    (Sarvani et al., Neural Networks 147, 2022)."""

    num_images: int = 1000
    batch_size: int = 100
    at: Literal["act", "conv", "code"] = "act"  # code: conv in residual networks, else act
    per_filter_sigma: bool = False  # a kernel width for each filter, not one for its layer

    def score(self, net: Network, trainer: Trainer) -> Scores:
        if min(self.num_images, self.batch_size) < 1:
            raise Unsupported("num_images and batch_size must be at least 1")
        net.eval()
        sigma: Scores = {}
        total = {n: torch.zeros(len(net.weight(n)), dtype=torch.float64) for n in net.layers}
        with torch.no_grad(), net.tapped(self.sites(net)) as maps:
            # the images stay in memory: a width is known only after all of them were seen
            batches = list(regrouped(trainer.batches(images=self.num_images), self.batch_size))
            if not batches:
                raise Unsupported("no images left in the forward-only share of the budget")
            for number, (x, y) in enumerate(batches):
                net(x)
                for n in net.layers:
                    best = self.best_width(maps[n], y, number)
                    sigma[n] = OLD * sigma[n] + (1 - OLD) * best if number else best
            for x, y in batches:
                net(x)
                for n in net.layers:
                    total[n] += relevance(maps[n], y, sigma[n]).cpu()
        trainer.note("kernel_width", {n: s.cpu() for n, s in sigma.items()})
        repeats = sum(len(y) / len(y.unique()) for _, y in batches)  # at 1 labels say nothing
        trainer.note("images_of_a_class_per_batch", repeats / len(batches))
        return {n: t / len(batches) for n, t in total.items()}

    def sites(self, net: Network) -> dict[str, Site]:
        """Where activations are read."""
        last: dict[str, Site] = {n: net.last_site(n) for n in net.convs}
        residual = any(net.last_site(n, through_add=True) != site for n, site in last.items())
        if self.at == "conv" or (self.at == "code" and residual):
            return dict.fromkeys(net.layers, "conv")
        return {n: net.last_site(n) for n in net.layers}

    def best_width(self, maps: Tensor, labels: Tensor, number: int) -> Tensor:
        """(1,), or (C,) for single filters: the best of the widths tried on batch `number`."""
        late, same = int(number >= FIRST), labels[:, None] == labels
        if not self.per_filter_sigma:
            return aligned_width(distances(maps.flatten(1)[None]), same, LEAST, LAYER[late])
        parts = map(distances, maps.transpose(0, 1).flatten(2).split(FILTERS))
        return torch.cat([aligned_width(d, same, None, FILTER[late]) for d in parts])


def distances(samples: Tensor) -> Tensor:
    """Squared distances (F, N, N) of samples (F, N, D), in float64."""
    gram = samples.double() @ samples.double().mT
    square = gram.diagonal(dim1=1, dim2=2)
    return (square[:, :, None] + square[:, None] - 2 * gram).clamp_min_(0)


def kernel(square: Tensor, sigma: Tensor) -> Tensor:
    """exp(-d^2 / sigma^2), without a factor 2; 1 for equal samples, whatever the width."""
    return torch.exp(-square / sigma.square().clamp_min(torch.finfo(sigma.dtype).tiny))


def aligned_width(square: Tensor, same: Tensor, least: float | None, count: int) -> Tensor:
    """(F,): of `count` widths up to ten mean distances, the first whose kernel is most alike to
    that of the labels by tr(K K_Y) / ||K||. `square` (F, N, N), `same` (N, N): equal labels."""
    images = len(same)
    i, j = torch.triu_indices(images, images, 1, device=same.device)
    pairs, alike = square[:, i, j], same[i, j].to(square)  # (F, P), (P,)
    mean = 2 * pairs.sqrt().sum(1) / images**2  # the diagonal counts
    low = LEAST_OWN * mean if least is None else torch.full_like(mean, least)
    steps = torch.linspace(0, 1, count, dtype=torch.float64).to(mean)[:, None]
    widths, fits = low + steps * (MOST * mean - low), []  # (count, F)
    for some in widths.split(max(1, CHUNK // max(1, pairs.numel()))):
        values = kernel(pairs, some[:, :, None])  # (some, F, P)
        fits.append((images + 2 * values @ alike) / (images + 2 * values.square().sum(2)).sqrt())
    return widths.gather(0, torch.cat(fits).argmax(0)[None])[0]


def relevance(maps: Tensor, labels: Tensor, sigma: Tensor) -> Tensor:
    """I(T; Y) = S(T) + S(Y) - S(T, Y) in bits of each filter, (N, C, H, W) and (N,) -> (C,).

    The kernel of labels has width 0.1: e^-200 between classes, which is nothing beside rounding. So
    the joint matrix falls apart into one block per class, and has the eigenvalues of the blocks.
    """
    classes = [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    share = torch.tensor([len(rows) / len(labels) for rows in classes], dtype=torch.float64)
    filters, found = maps.transpose(0, 1).flatten(2).split(FILTERS), []  # (F, N, H W) each
    for part, own in zip(filters, sigma.expand(maps.shape[1]).split(FILTERS), strict=True):
        matrix = kernel(distances(part), own[:, None, None]) / len(labels)  # trace 1
        joint = torch.stack([entropy(matrix[:, rows[:, None], rows]) for rows in classes])
        found.append(entropy(matrix) - joint.sum(0))
    return torch.cat(found) + float(torch.special.entr(share).sum()) / math.log(2)


def entropy(matrix: Tensor) -> Tensor:
    """-sum |e| log2 |e| over the eigenvalues of symmetric matrices (F, N, N) -> (F,)"""
    return torch.special.entr(torch.linalg.eigvalsh(matrix).abs()).sum(-1) / math.log(2)
