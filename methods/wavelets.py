"""What the Haar bands of feature maps say of channels (METHODS 14).

Shapes: N images, C channels of a layer, K classes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def haar(maps: Tensor) -> Tensor:
    """One-level 2-d Haar transform of (..., H, W) -> (4, ..., h, w): LL, LH (between rows), HL
    (between columns), HH. Odd sizes are filled up by repeating the edge, so that a map of one
    value has LL alone; even ones keep their sum of squares."""
    height, width = maps.shape[-2:]
    flat = maps.reshape(-1, 1, height, width)
    flat = F.pad(flat, (0, width % 2, 0, height % 2), mode="replicate")
    flat = flat.reshape(*maps.shape[:-2], *flat.shape[2:])
    a, b = flat[..., ::2, ::2], flat[..., ::2, 1::2]
    c, d = flat[..., 1::2, ::2], flat[..., 1::2, 1::2]
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return torch.stack([top + bottom, top - bottom, left + right, left - right]) / 2


def describe(
    net: Any, batches: list[tuple[Tensor, Tensor]], layers: tuple[str, ...], classes: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per layer, of its map behind the activation: mean energies of the four bands (C, 4), and the
    Fisher ratio between classes of the mean of LL (C,). In float64 on the CPU."""
    energy: dict[str, Tensor] = {}
    means: dict[str, list[Tensor]] = {n: [] for n in layers}
    sites = {n: net.last_site(n) for n in layers}
    with net.tapped(sites, layers) as maps:
        for x, _ in batches:
            net(x)
            for n in layers:
                bands = haar(maps[n].float())  # (4, N, C, h, w)
                energy[n] = energy.get(n, 0.0) + bands.square().sum((3, 4)).double().sum(1).cpu()
                means[n].append(bands[0].mean((2, 3)).double().cpu())
    labels = torch.cat([y for _, y in batches]).cpu()
    return {
        n: (energy[n].T / len(labels), fisher_ratio(torch.cat(means[n]), labels, classes))
        for n in layers
    }


def fisher_ratio(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Variance between over variance within classes of (N, C) values in float64 -> (C,): at most
    1e6, and 0 where they are all the same."""
    member = F.one_hot(labels, classes).to(values)  # (N, K)
    count = member.sum(0).clamp_min(1.0)[:, None]
    own = (member.T @ values / count)[labels]  # mean of each image's class
    between = (own - values.mean(0)).square().sum(0)
    within = (values - own).square().sum(0)
    total = between + within
    changes = total > 1e-20 * values.square().sum(0)  # else it is rounding
    return torch.where(changes, between / torch.where(changes, within + 1e-6 * total, 1.0), 0.0)
