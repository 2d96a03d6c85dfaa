"""Networks with random weights and statistics, for tests of what is done to them."""

from __future__ import annotations

import copy
import random

import torch
from torch import Tensor, nn

from benchmark.archs import build
from benchmark.coupling import ChannelMap
from benchmark.network import Network, Scope
from benchmark.randomise import randomise
from methods.api import Plan

EXAMPLE = torch.zeros(1, 3, 32, 32)


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


def check_twin(
    model: nn.Module, scope: Scope, seed: int, low: float = 0.3, high: float = 0.7, count: int = 8
) -> None:
    """Masked at its readers the network equals the removed one, in all modes and precisions."""
    net = Network(model, EXAMPLE, scope).eval()
    plan = random_plan(net, seed, low, high)
    x = images(count)
    removed = net.remove(plan)
    assert type(removed) is type(model)
    with torch.no_grad():
        dense = net(x)
        assert relative(removed(x), dense) > 0.1  # the test is not vacuous
        with net.gated(net.masks(plan), "in"):
            assert relative(net(x), removed(x)) <= 1e-5
        assert torch.equal(net(x), dense)

        exact, small = net.copy().double(), copy.deepcopy(removed).double()
        with exact.gated(exact.masks(plan), "in"):
            assert relative(exact(x.double()), small(x.double())) <= 1e-10

        net.train(), removed.train()
        with net.gated(net.masks(plan), "in"):
            assert relative(net(x), removed(x)) <= 1e-4
    later = net.remove(plan).state_dict()  # running statistics moved alike
    assert later.keys() == removed.state_dict().keys()
    assert all(torch.allclose(later[k], v, 1e-3, 1e-4) for k, v in removed.state_dict().items())


def same_maps(a: ChannelMap, b: ChannelMap) -> bool:
    return a.widths == b.widths and all(
        one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
        for one, two in ((a.writes, b.writes), (a.reads, b.reads))
    )
