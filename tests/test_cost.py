"""Analytic MACs equal what two independent counters find on the pruned network, always."""

import copy
import random
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import EXAMPLE, random_model, random_network, randomise, units_of
from torch import nn

from benchmark import flops
from benchmark.cifar_vgg import VGG16, CifarVgg
from benchmark.flops import CostMismatch
from benchmark.latency import latency
from benchmark.network import Network
from methods.api import Plan

SEEDS = st.integers(0, 2**32)


@cache
def network(arch: str) -> Network:
    if arch == "narrow_vgg":  # VGG-16 at an eighth of its widths: fvcore is quick on it
        plan = tuple(width // 8 for width in VGG16)
        return Network(randomise(CifarVgg(10, plan)).eval(), EXAMPLE, "all")
    return random_network(arch, "all")


def random_widths(net: Network, seed: int) -> dict[str, int]:
    """Any width, one and all included; some groups keep everything by not being named."""
    draw = random.Random(seed)
    low, high = sorted((draw.random(), draw.random()))
    return {
        g.name: max(1, min(g.width, round(draw.uniform(low, high) * (g.width + 1))))
        for g in net.groups
        if draw.random() < 0.9
    }


def check(arch: str, seed: int) -> None:
    net = network(arch)
    widths = random_widths(net, seed)
    draw = random.Random(seed)
    full = net.map.widths
    plan = Plan({g: units_of(full[g], width, draw) for g, width in widths.items()})
    removed = net.remove(plan)
    found = flops.cost(removed, EXAMPLE)  # raises if torch's counter disagrees
    assert net.macs(widths) == found.operators["conv"] + found.operators["linear"] == found.macs
    assert found.macs_paper == found.operators["conv"] + 2 * found.operators["linear"]
    assert found.params == sum(p.numel() for p in removed.parameters())


@settings(max_examples=70, deadline=None)
@given(SEEDS)
def test_resnet8_macs_are_exact(seed: int) -> None:
    check("resnet8", seed)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_resnet20_macs_are_exact(seed: int) -> None:
    check("resnet20", seed)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_narrow_vgg_macs_are_exact(seed: int) -> None:
    check("narrow_vgg", seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arch", ["vgg16", "resnet56"])
def test_macs_of_large_networks_are_exact(arch: str, seed: int) -> None:
    check(arch, seed)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vgg16", "resnet56", "resnet110"])
def test_macs_of_large_networks_are_exact_more_often(arch: str) -> None:
    for seed in range(100, 120):
        check(arch, seed)


@pytest.mark.parametrize("arch", ["resnet8", "resnet20", "resnet56", "vgg16"])
def test_dense_macs_are_exact(arch: str) -> None:
    net = network(arch)
    assert net.macs() == net.macs(net.map.widths) == flops.cost(net.dense(), EXAMPLE).macs


def test_hidden_layer_of_vgg_is_counted() -> None:
    net = network("narrow_vgg")
    halved = {"linear1": net.map.widths["linear1"] // 2}
    removed = net.remove(Plan({g: tuple(range(w)) for g, w in halved.items()}))
    assert net.macs(halved) == flops.cost(removed, EXAMPLE).macs < net.macs()


def test_other_image_sizes_are_counted() -> None:
    for size in (8, 16, 48):
        x = torch.zeros(1, 3, size, size)
        net = Network(random_model("resnet8"), x, "all")
        widths = random_widths(net, size)
        removed = net.remove(Plan({g: tuple(range(w)) for g, w in widths.items()}))
        assert net.macs(widths) == flops.cost(removed, x).macs


def test_grouped_and_depthwise_convolutions_are_counted() -> None:
    def block(width_in: int, width: int, groups: int) -> nn.Sequential:
        conv = nn.Conv2d(width_in, width, 3, padding=1, groups=groups)
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

    model = nn.Sequential(
        block(3, 16, 1), block(16, 16, 16), block(16, 24, 1), block(24, 12, 2), block(12, 8, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    net = Network(model, EXAMPLE, "all")
    for seed in range(10):
        widths = random_widths(net, seed)
        removed = net.remove(Plan({g: tuple(range(w)) for g, w in widths.items()}))
        assert net.macs(widths) == flops.cost(removed, EXAMPLE).macs


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_alone(training: bool) -> None:
    model = random_model("resnet8").train(training).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    first = flops.cost(model, EXAMPLE)
    assert model.training is training
    assert all(m.training is training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert flops.cost(model, EXAMPLE) == first


def test_mode_does_not_change_the_cost() -> None:
    model = random_model("resnet8")
    assert flops.cost(model.train(), EXAMPLE) == flops.cost(model.eval(), EXAMPLE)


def test_counters_that_disagree_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("resnet8")
    macs = flops.cost(model, EXAMPLE).macs
    monkeypatch.setattr(flops, "torch_macs", lambda *_: macs + 1)
    with pytest.raises(CostMismatch, match=f"fvcore counts {macs} MACs, .* {macs + 1}$"):
        flops.cost(model, EXAMPLE)


def test_latency_names_both_networks() -> None:
    net = network("resnet8")
    dense, x = net.dense(), torch.randn(1, 3, 8, 8)
    small = net.remove(Plan({g.name: (0,) for g in net.groups}))
    found = latency(dense, small, x)
    assert found.keys() == {"batch_1", "batch_128"}
    for row in found.values():
        for name in ("dense", "pruned"):
            assert 0 < row[f"{name}_q1_ms"] <= row[f"{name}_ms"] <= row[f"{name}_q3_ms"]
