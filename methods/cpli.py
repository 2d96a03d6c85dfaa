"""CPLI (Guo, Ouyang, Xu, AAAI 2020), a reconstruction: the paper's formulas are not established.

METHODS 5. Shapes: T samples, C channels of the group, n outputs of its reader, kk = k * k.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from methods.api import Allocation, Budget, ChannelGroup, Method, Plan, Unsupported
from methods.refit import (
    IMAGES,
    POSITIONS,
    RIDGE,
    Probe,
    inputs,
    lasso_select,
    refit,
    relative_error,
    responses,
)


@dataclass(frozen=True)
class CPLI(Method):
    """LASSO selection weighted by loss gradients, then a least-squares refit, shallow to deep."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform", "listed")
    refits: ClassVar[bool] = True
    num_images: int = IMAGES
    positions: int = POSITIONS  # of each image, the same in both networks
    ridge: float = RIDGE  # of the mean diagonal
    mix: float = 0.9  # share of the squared gradient in the weight of an error
    suppress: float = 0.05  # importance of a feature that the next stage will remove

    @property
    def prepares(self) -> bool:
        return True  # the pass that finds the loss gradients

    def prune(self, net: Any, budget: Budget, trainer: Any) -> Plan:
        widths = net.allocate(budget)
        groups = [g for g in net.groups if widths[g.name] < g.width]
        readers = {g.name: _reader(net, g) for g in groups}
        net.eval()
        with torch.enable_grad():
            probe = Probe.draw(trainer, self.num_images, self.positions)
            target, gradient = responses(net, probe, tuple(readers.values()))
        weight = {layer: loss_weight(g, self.mix) for layer, g in gradient.items()}
        keep = {g.name: tuple(range(g.width)) for g in net.groups}
        removed, refitted = {}, {}
        for group in groups:
            layer = readers[group.name]
            importance = torch.ones(target[layer].shape[1]).to(target[layer])
            for after in (g for g in groups if layer in g.layers):  # the next stage
                reader = readers[after.name]
                x = inputs(net, probe, reader)
                equations = normal_equations(x, net.weight(reader), target[reader], weight[reader])
                stays = lasso_select(*equations, widths[after.name])
                importance.fill_(self.suppress)[list(stays)] = 1.0
            x = inputs(net, probe, layer)
            omega = weight[layer] * importance
            equations = normal_equations(x, net.weight(layer), target[layer], omega)
            kept = keep[group.name] = lasso_select(*equations, widths[group.name])
            x = x[:, kept].flatten(1)
            removed[layer] = relative_error(x, net.weight(layer)[:, kept], target[layer])
            # an output's importance scales its own system only, so it cancels here
            new = refit(x, target[layer], self.ridge, weight[layer] if self.mix > 0 else None)
            with torch.no_grad():
                columns = net.weight(layer)[:, kept]
                net.weight(layer)[:, kept] = new.reshape(columns.shape).to(columns)
            refitted[layer] = relative_error(x, new, target[layer])
            net.mask(group.name, kept)
        trainer.note("removal_error", removed)
        trainer.note("reconstruction_error", refitted)
        return Plan(keep)


def _reader(net: Any, group: ChannelGroup) -> str:
    """The layer whose responses are reconstructed."""
    if len(group.layers) > 1:
        raise Unsupported("cpli reconstructs groups with one writer: use --scope inner")
    if len(group.readers) != 1 or net.weight(group.readers[0]).shape[1] != group.width:
        raise Unsupported(f"cpli needs one reader that reads {group.name} alone")
    return group.readers[0]


def loss_weight(gradient: Tensor, mix: float) -> Tensor:
    """omega^2 (T, n) = (1 - mix) + mix G^2 / mean G^2: without the floor, the few images that the
    network gets wrong would decide alone."""
    square = gradient.double().square()
    return (1 - mix) + mix * square / square.mean().clamp_min(1e-300)


def normal_equations(
    x: Tensor, kernel: Tensor, y: Tensor, weight: Tensor, block: int = 2**23
) -> tuple[np.ndarray, np.ndarray]:
    """A^T A (C, C) and A^T b (C,) of columns vec(omega X_i W_i / ||W_i||) and b = vec(omega y).

    x (T, C, kk), kernel (n, C, k, k) or (n, C), y and weight = omega^2 (T, n). In float64, `block`
    contributions at a time.
    """
    kernel = kernel.detach().double().reshape(*kernel.shape[:2], -1).permute(1, 2, 0)  # (C, kk, n)
    size = torch.linalg.vector_norm(kernel, dim=(1, 2), keepdim=True)
    kernel = kernel / torch.where(size > 0, size, 1.0)
    channels, _, outputs = kernel.shape
    gram = torch.zeros(channels, channels).to(kernel)
    cross = torch.zeros(channels).to(kernel)
    step = max(1, block // (channels * outputs))
    for rows in (slice(start, start + step) for start in range(0, len(x), step)):
        omega = weight[rows].double().sqrt()
        columns = (x[rows].double().transpose(0, 1) @ kernel * omega).flatten(1)
        gram += columns @ columns.T
        cross += columns @ (y[rows] * omega).flatten()
    return gram.cpu().numpy(), cross.cpu().numpy()
