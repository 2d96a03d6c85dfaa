"""Networks with random weights and statistics, for tests of what is done to them."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from benchmark.archs import build
from benchmark.coupling import ChannelMap
from benchmark.network import Network, Scope
from methods.api import Plan

EXAMPLE = torch.zeros(1, 3, 32, 32)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, biases, batch-norm factors and statistics, none at a value that hides a mistake."""
    draw = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw)

    def positive(like: Tensor) -> Tensor:
        return 0.5 + torch.rand(like.shape, generator=draw)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(normal(module.weight) * (2 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(0.3 * normal(module.bias))
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.copy_(positive(module.weight))
                module.bias.copy_(0.3 * normal(module.bias))
                module.running_mean.copy_(0.3 * normal(module.running_mean))
                module.running_var.copy_(positive(module.running_var))
        for parameter in parameters_of_their_own(model):  # layer scale starts at 1e-6
            parameter.copy_(positive(parameter))
    return model


def parameters_of_their_own(model: nn.Module) -> list[nn.Parameter]:
    """Those that belong to no layer with weights and no norm."""
    layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
    owned = {id(p) for m in model.modules() if isinstance(m, layers) for p in m.parameters()}
    return [p for p in model.parameters() if id(p) not in owned]


def random_model(arch: str, seed: int = 0) -> nn.Module:
    return randomise(build(arch, 10), seed).eval()


def random_network(arch: str, scope: Scope = "inner", seed: int = 0) -> Network:
    return Network(random_model(arch, seed), EXAMPLE, scope).eval()


def images(count: int, seed: int = 1, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_plan(net: Network, seed: int = 0, low: float = 0.3, high: float = 0.7) -> Plan:
    """Between these shares of every group in scope, at random."""
    draw = random.Random(seed)
    return Plan(
        {
            g.name: units_of(g.width, max(1, round(draw.uniform(low, high) * g.width)), draw)
            for g in net.groups
        }
    )


def units_of(width: int, count: int, draw: random.Random) -> tuple[int, ...]:
    return tuple(sorted(draw.sample(range(width), count)))


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


def same_maps(a: ChannelMap, b: ChannelMap) -> bool:
    return a.widths == b.widths and all(
        one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
        for one, two in ((a.writes, b.writes), (a.reads, b.reads))
    )
