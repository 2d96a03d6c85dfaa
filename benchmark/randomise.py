"""Weights, factors and statistics at random, none at a value that hides a mistake of surgery."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """In place: weights by fan-in, biases, batch-norm factors and statistics, and parameters that
    belong to no layer (layer scale starts at 1e-6, which would hide all that is behind it)."""
    draw = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw)

    def positive(like: Tensor) -> Tensor:
        return 0.5 + torch.rand(like.shape, generator=draw)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.copy_(normal(module.weight) * (2 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.copy_(0.3 * normal(module.bias))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.copy_(positive(module.weight))
            module.bias.copy_(0.3 * normal(module.bias))
            for buffer, value in ((module.running_mean, normal), (module.running_var, positive)):
                if buffer is not None:
                    buffer.copy_(value(buffer) * (0.3 if value is normal else 1.0))
    for parameter in parameters_of_their_own(model):
        parameter.copy_(positive(parameter))
    return model


def parameters_of_their_own(model: nn.Module) -> list[nn.Parameter]:
    """Those that belong to no layer with weights and no batch norm."""
    layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
    owned = {id(p) for m in model.modules() if isinstance(m, layers) for p in m.parameters()}
    return [p for p in model.parameters() if id(p) not in owned]
