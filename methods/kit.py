"""What methods share: pure tensor helpers, and measurements that several papers make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from methods.api import ChannelGroup, Network, Scores, Trainer, Unsupported

_CPU_CHUNK = 2**19  # map elements worked on at once: 4 MiB in float64, fastest of 2^15 to 2^20
_GPU_CHUNK = 2**24  # there, enough maps to hide the launch of one small kernel per pivot


def matrix_ranks(maps: Tensor) -> Tensor:
    """Rank of every map, as ``torch.linalg.matrix_rank`` on float32, several times faster.

    A singular value counts if it exceeds tau = ``s_max * max(H, W) * eps(float32)``, the tolerance
    of the official code of HRank (Lin et al., CVPR 2020). Decided in float64, on the float32 values
    of ``maps``: torch, deciding in float32, may differ where a singular value is within about 1 %
    of tau (1 of 150,720 maps of trained ResNets). A map of zeros has rank 0.

    Args:
        maps: feature maps, shape (..., H, W); any leading shape, empty included.

    Returns:
        int64 tensor of shape (...) on the same device.

    Raises:
        ValueError: ``maps`` has fewer than 2 dimensions or holds a NaN or an infinity.
    """
    if maps.ndim < 2:
        raise ValueError(f"maps must have shape (..., H, W), got {tuple(maps.shape)}")
    height, width = maps.shape[-2:]
    if maps.numel() == 0:
        return torch.zeros(maps.shape[:-2], dtype=torch.int64, device=maps.device)
    flat = maps.detach().reshape(-1, height, width)
    flat = flat.mT if height > width else flat  # same rank, smaller Gram matrix
    chunk = max(128, (_GPU_CHUNK if maps.is_cuda else _CPU_CHUNK) // (height * width))
    return torch.cat([_ranks(part) for part in torch.split(flat, chunk)]).view(maps.shape[:-2])


def _ranks(maps: Tensor) -> Tensor:
    """Ranks of one chunk (B, H, W) with H <= W, counted without computing a spectrum.

    Singular values above tau are positive eigenvalues of ``G - tau^2 I`` (G the Gram matrix): by
    Sylvester's law of inertia, as many as Gaussian elimination finds positive pivots. In float64,
    as squaring costs half of the digits: tau^2 is 1.5e-11 s_max^2 for 32x32 maps.
    """
    maps = maps.float().double()
    gram = maps @ maps.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    if not trace.isfinite().all():  # squares of finite float32 values cannot overflow float64
        raise ValueError("maps hold a NaN or an infinity")
    gram /= torch.where(trace > 0, trace, 1.0)[:, None, None]
    largest, doubtful = _largest_eigenvalue(gram)
    rtol = maps.shape[2] * torch.finfo(torch.float32).eps
    cut = torch.where(trace > 0, largest, 1.0) * rtol**2
    # Maps innermost, so that each step is one long vector operation over all maps of the chunk.
    work = gram.flatten(1).t().contiguous().view(*gram.shape[1:], -1)
    pivots = work.diagonal().t()  # a view: elimination leaves the pivots on the diagonal
    pivots -= cut
    for k in range(len(work) - 1):
        row = work[k, k + 1 :]
        work[k + 1 :, k + 1 :].addcmul_((row / work[k, k])[:, None], row, value=-1)
    # Without pivoting, the sign of a pivot is safe unless it is tiny (a singular value near tau) or
    # numbers grew past the spectrum (after a tiny one). Written so that NaN counts as doubtful.
    size = pivots.abs()
    doubtful |= ~((size > 0.5 * cut) & (size < 2.0)).all(0)
    ranks: Tensor = (pivots > 0).sum(0)
    if doubtful.any():
        values = torch.linalg.svdvals(maps[doubtful])
        ranks[doubtful] = (values > rtol * values[:, :1]).sum(1)
    return ranks


def _largest_eigenvalue(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of PSD matrices (B, n, n) of trace 1; True where off by over 0.1 %.

    Let a be that of ``P = G^8`` (8: enough for 98 % of feature maps), t the trace of P and f its
    Frobenius norm. Then a <= f; the others sum to t - a, their squares to at most (t - a)^2, so
    f^2 - a^2 <= (t - a)^2 and a >= (t + sqrt(2 f^2 - t^2)) / 2. (If 2 f^2 < t^2 the bounds lie far
    apart.) A power iteration gives no such proof: its start may miss the leading eigenvector.
    """
    power = gram.float()  # digits to spare for 0.1 %, and half the time
    for _ in range(3):
        power = power @ power
    trace = power.diagonal(dim1=1, dim2=2).sum(1)
    upper = torch.linalg.vector_norm(power, dim=(1, 2))
    lower = (trace + (2 * upper**2 - trace**2).clamp_min(0).sqrt()) / 2
    low, high = (bound.double() ** 0.125 for bound in (lower, upper))
    return low, high > low * 1.001


def mean_ranks(net: Network, trainer: Trainer, images: int) -> Scores:
    """(C,) mean rank of each prunable layer's maps over training images, in one pass for all
    layers, eval mode, forward only (Lin et al., CVPR 2020, section 3.3).

    A map is taken behind the activation that follows the layer; a residual block's last layer is
    judged by the block's output, as the official code does.

    Raises:
        Unsupported: the forward-only share of the budget is not even one image.
    """
    total = {n: torch.zeros(len(net.weight(n)), dtype=torch.int64) for n in net.layers}
    net.eval()
    seen = 0
    sites = {n: net.last_site(n, through_add=True) for n in net.layers}
    with torch.no_grad(), net.tapped(sites, through_add=True) as maps:
        for x, _ in trainer.batches(images=images):
            net(x)
            seen += len(x)
            for layer in net.layers:
                total[layer] += matrix_ranks(maps[layer]).sum(0).cpu()
    if not seen:
        raise Unsupported("no images left in the forward-only share of the budget")
    return {layer: ranks / seen for layer, ranks in total.items()}


def mean_and_interval(values: Tensor) -> dict[str, float]:
    """Mean of (N,) values with its normal 95 % interval."""
    mean = float(values.mean())
    half = 1.96 * float(values.std(correction=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half}


def regrouped(
    batches: Iterable[tuple[Tensor, Tensor]], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, 3, H, W) and labels (N,) in batches of `size`, whatever batches they come in. What
    is left at the end is dropped unless it is all there is: a statistic of single batches depends
    on how large they are.

    Raises:
        ValueError: ``size`` is less than 1.
    """
    if size < 1:
        raise ValueError(f"batches of {size} images: at least 1 is needed")
    held: list[tuple[Tensor, Tensor]] = []
    whole = False
    for batch in batches:
        held.append(batch)
        while sum(len(x) for x, _ in held) >= size:
            x, y = (torch.cat(part) for part in zip(*held, strict=True))
            whole = True
            yield x[:size], y[:size]
            held = [(x[size:], y[size:])]
    rest = [(x, y) for x, y in held if len(x)]
    if rest and not whole:
        x, y = (torch.cat(part) for part in zip(*rest, strict=True))
        yield x, y


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation of (C,) and (C,), ties at their mean rank; 0 where one is constant."""
    ranks = []
    for values in (a, b):
        below = (values < values[:, None]).sum(1) + (values <= values[:, None]).sum(1)
        ranks.append(below.double() - below.double().mean())
    size = ranks[0].norm() * ranks[1].norm()
    return float(ranks[0] @ ranks[1] / size) if size > 0 else 0.0


# ---- what methods that keep or make whole filters share ------------------------------------------


def filters(net: Any, group: ChannelGroup, layer: str) -> Tensor:
    """(units, d): everything a layer of the group has of each unit, one row per unit."""
    rows: Tensor = net.rows(group.name)[layer]
    found: Tensor = net.weight(layer).detach()[rows].flatten(1)
    return found


@torch.no_grad()
def renew_norms(net: Any, group: ChannelGroup) -> None:
    """On the group's channels, every batch norm starts anew (weight 1, bias 0, mean 0, variance 1),
    and biases in front of them are 0: the norms belong to filters that are no more."""
    norms = net.norms()
    for name, rows in net.rows(group.name).items():
        if name in group.layers and net.bias(name) is not None:
            net.bias(name)[rows] = 0.0
        if name in norms:
            start = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
            for key, value in start.items():
                tensor = getattr(norms[name], key)
                if tensor is not None:
                    tensor[rows] = value


@torch.no_grad()
def renew_head(net: Any, group: ChannelGroup, draw: torch.Generator) -> None:
    """Linear layers that read the group start anew, as torch initialises them: uniform within
    1 / sqrt(inputs)."""
    for name in group.readers:
        layer = net.module(name)
        if isinstance(layer, nn.Linear) and name not in net.layers:
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                if tensor is not None:
                    drawn = torch.rand(tensor.shape, generator=draw)
                    tensor.copy_(bound * (2 * drawn - 1))


def per_layer(text: str, layers: tuple[str, ...], what: str) -> dict[str, float]:
    """Layer -> value from words like `1, 8*0.9, 0`, one value per layer; `8*` repeats.

    Raises:
        Unsupported: not numbers, negative, or not as many as there are layers.
    """
    found: list[float] = []
    for word in text.replace(",", " ").split():
        count, _, value = word.rpartition("*")
        try:
            found += int(count or 1) * [float(value)]
        except ValueError:
            raise Unsupported(f"{what}: '{word}' is no number and no N*NUMBER") from None
    if len(found) != len(layers):
        raise Unsupported(f"{what}: {len(found)} values for {len(layers)} prunable layers")
    if not all(0 <= value < float("inf") for value in found):
        raise Unsupported(f"{what}: give finite numbers from 0 on")
    return dict(zip(layers, found, strict=True))


# ---- least-squares refit of a layer: T samples = images x positions, n outputs, D = C_in k k -----
