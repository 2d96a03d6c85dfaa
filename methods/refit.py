"""Least squares on sampled responses: what CPLI and `--reconstruct ls` share.

Shapes: T samples (images x positions), C input channels, n outputs, kk = k * k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Unsupported

Samples = dict[str, Tensor]  # layer -> (T, n)
IMAGES, POSITIONS, RIDGE = 1000, 10, 1e-6  # of every least-squares refit (DECISIONS 18)


@dataclass(frozen=True, eq=False)
class Probe:
    """The images, and the positions in each, at which two networks are compared."""

    batches: list[tuple[Tensor, Tensor]]
    positions: int
    generator: Callable[[int], torch.Generator]

    @classmethod
    def draw(cls, trainer: Any, images: int, positions: int, phase: str = "scoring") -> Probe:
        """One pass over `trainer.batches`, charged where gradients are enabled. The images stay in
        memory: later passes over them cost no budget."""
        batches = list(trainer.batches(images=images, phase=phase))
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
        return (x if x.dim() == 2 else at_places(x, places))[:, :, None]
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


def lasso(
    gram: np.ndarray, cross: np.ndarray, penalty: float, start: np.ndarray, sweeps: int = 1000
) -> np.ndarray:
    """Minimiser (C,) of 1/2 b'Gb - c'b + penalty ||b||_1 by coordinate descent."""
    beta, slope = start.copy(), cross - gram @ start
    diagonal = gram.diagonal()
    alive = np.flatnonzero(diagonal > 0)  # a channel that is always zero gets 0: it goes first
    beta[diagonal <= 0] = 0.0
    size = np.sqrt(diagonal)
    tolerance = 1e-8 * max(abs(cross[alive]) / size[alive], default=0.0)
    for _ in range(sweeps):
        largest = 0.0
        for i in alive:
            pull = slope[i] + diagonal[i] * beta[i]
            change = np.sign(pull) * max(abs(pull) - penalty, 0.0) / diagonal[i] - beta[i]
            if change:
                beta[i] += change
                slope -= gram[i] * change
                largest = max(largest, abs(change) * size[i])
        if largest <= tolerance:
            break
    return beta


def lasso_select(gram: np.ndarray, cross: np.ndarray, keep: int) -> tuple[int, ...]:
    """The `keep` channels of the LASSO path, sorted: lambda doubles until at most so many stay,
    then 20 bisections. If the count jumps over `keep`, the largest |beta_i| ||A_i|| stay."""
    high, low = 1e-6 * abs(cross).max(), 0.0
    sparse = dense = lasso(gram, cross, high, np.zeros_like(cross))
    if np.count_nonzero(sparse) < keep:
        dense = lasso(gram, cross, 0.0, sparse)
    while np.count_nonzero(sparse) > keep:
        low, dense, high = high, sparse, 2 * high
        sparse = lasso(gram, cross, high, sparse)
    for _ in range(20):
        if np.count_nonzero(sparse) == keep:
            break
        middle = (low + high) / 2
        beta = lasso(gram, cross, middle, dense)
        if np.count_nonzero(beta) > keep:
            low, dense = middle, beta
        else:
            high, sparse = middle, beta
    beta = sparse if np.count_nonzero(sparse) == keep else dense
    strength = abs(beta) * np.sqrt(gram.diagonal())
    return tuple(sorted(np.argsort(-strength, kind="stable")[:keep].tolist()))
