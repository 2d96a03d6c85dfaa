"""What methods share: pure tensor helpers, and measurements that several papers make."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Network, Scores, Trainer, Unsupported

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


# ---- least-squares refit of a layer: T samples = images x positions, n outputs, D = C_in k k -----
