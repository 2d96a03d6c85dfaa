"""Pure tensor helpers shared by the methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Unsupported

Samples = dict[str, Tensor]  # layer -> (T, n)
IMAGES, POSITIONS, RIDGE = 1000, 10, 1e-6  # of every least-squares refit (DECISIONS 18)

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


def mean_and_interval(values: Tensor) -> dict[str, float]:
    """Mean of (N,) values with its normal 95 % interval."""
    mean = float(values.mean())
    half = 1.96 * float(values.std(correction=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half}


# ---- least-squares refit of a layer: T samples = images x positions, n outputs, D = C_in k k -----


@dataclass(frozen=True, eq=False)
class Probe:
    """The images, and the positions in each, at which two networks are compared."""

    batches: list[tuple[Tensor, Tensor]]
    positions: int
    generator: Callable[[int], torch.Generator]

    @classmethod
    def draw(cls, trainer: Any, images: int, positions: int) -> Probe:
        """One pass over `trainer.batches`, charged where gradients are enabled. The images stay in
        memory: later passes over them cost no budget."""
        batches = [(x, y) for x, y in trainer.batches(images=images) if len(y)]
        if not batches:
            raise Unsupported("no images left in the forward-only share of the budget")
        return cls(batches, positions, trainer.generator)

    def places(self, batch: int, area: int) -> Tensor:
        """(N, min(positions, area)) distinct flat positions in the maps of a batch: the same for
        all networks, and for all layers with maps of this area."""
        x, _ = self.batches[batch]
        draw = torch.rand(len(x), area, generator=self.generator(batch))
        return draw.topk(min(self.positions, area), dim=1).indices.to(x.device)


def responses(net: Any, probe: Probe, layers: tuple[str, ...]) -> tuple[Samples, Samples]:
    """Per layer its outputs Y (T, n) without bias, before the norm; and dCE/dY (T, n) where
    gradients are enabled, else nothing."""
    outputs: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    gradients: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with net.tapped("conv", layers) as maps:
        for batch, (x, y) in enumerate(probe.batches):
            loss = F.cross_entropy(net(x), y, reduction="sum")
            wanted = [maps[layer] for layer in layers]
            slopes = torch.autograd.grad(loss, wanted) if torch.is_grad_enabled() else ()
            for found, tensors in ((outputs, wanted), (gradients, slopes)):
                for layer, m in zip(layers, tensors, strict=False):
                    found[layer].append(at_places(m.detach(), probe.places(batch, _area(m))))
    joined = {k: torch.cat(v) for k, v in outputs.items()}
    for layer, y in joined.items():
        y -= 0 if net.bias(layer) is None else net.bias(layer).detach()
    return joined, {k: torch.cat(v) for k, v in gradients.items() if v}


@torch.no_grad()
def inputs(net: Any, probe: Probe, layer: str) -> Tensor:
    """(T, C_in, k * k): what the layer reads at the positions of `responses`."""
    found = []
    with net.tapped("in", (layer,)) as read, net.tapped("conv", (layer,)) as written:
        for batch, (x, _) in enumerate(probe.batches):
            net(x)
            out = written[layer]
            places = probe.places(batch, _area(out))
            found.append(patches(read[layer], net.module(layer), places, out.shape[-1]))
    return torch.cat(found)


def _area(maps: Tensor) -> int:
    return maps[0, 0].numel()


def at_places(maps: Tensor, places: Tensor) -> Tensor:
    """Maps (N, C, H, W), or (N, C), at flat positions (N, P) -> (N * P, C)."""
    flat = maps.reshape(*maps.shape[:2], -1)
    index = places[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).flatten(0, 1)


def patches(x: Tensor, layer: nn.Module, places: Tensor, columns: int) -> Tensor:
    """Inputs of the outputs at flat positions (N, P), maps being `columns` wide -> (N * P, C_in,
    k * k): columns of `F.unfold` for a convolution, everything (k = 1) for a linear layer."""
    if not isinstance(layer, nn.Conv2d):
        return x[:, :, None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    down, right = (
        torch.arange(k, device=x.device) * d
        for k, d in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    top = (places // columns * layer.stride[0])[..., None, None] + down[:, None]
    left = (places % columns * layer.stride[1])[..., None, None] + right
    index = (top * x.shape[3] + left).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    found = x.flatten(2).gather(2, index).reshape(*x.shape[:2], places.shape[1], -1)
    return found.transpose(1, 2).flatten(0, 1)


def ridge_solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(gram + rho I)^-1 cross for gram (D, D) and cross (D, n), rho = ridge * trace / D."""
    mean = gram.diagonal().mean()
    rho = torch.where(mean > 0, ridge * mean, 1.0)  # an input of zeros gets weights of zero
    factor = torch.linalg.cholesky(gram + rho * torch.eye(len(gram)).to(gram))
    return torch.cholesky_solve(cross, factor)


def least_squares(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """(D, n) weights from x (T, D) to y (T, n); with fewer samples than inputs by the dual."""
    samples, size = x.shape
    if samples < size:  # same rho: a share of trace / D, not of trace / T
        return x.T @ ridge_solve(x @ x.T, y, ridge * samples / size)
    return ridge_solve(x.T @ x, x.T @ y, ridge)


def refit(x: Tensor, y: Tensor, ridge: float, weight: Tensor | None = None) -> Tensor:
    """(n, D) weights with x @ w_j closest to y[:, j], in float64. Weights (T, n) of the squared
    errors give every output its own system."""
    x, y = x.double(), y.double()
    if weight is None:
        return least_squares(x, y, ridge).T
    pairs = [(r[:, None], a[:, None]) for r, a in zip(weight.double().sqrt().T, y.T, strict=True)]
    return torch.cat([least_squares(x * r, a * r, ridge) for r, a in pairs], dim=1).T


def relative_error(x: Tensor, weight: Tensor, y: Tensor) -> float:
    """||y - x w^T||^2 / ||y||^2 for x (T, D), weight (n, D) or (n, C, k, k), y (T, n)."""
    wrong = y.double() - x.double() @ weight.detach().double().flatten(1).T
    return float(wrong.square().sum() / y.double().square().sum().clamp_min(1e-300))
