"""Every architecture for small images can be pruned, and its cost stays exact."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from random_nets import EXAMPLE, check_twin, images, random_model, random_plan, randomise
from torch import nn
from torch.nn import functional as F

from benchmark import flops
from benchmark.archs import build
from benchmark.cifar_densenet import CifarDenseNet
from benchmark.cifar_googlenet import CifarGoogLeNet
from benchmark.cifar_mobilenet import CifarMobileNetV2
from benchmark.cifar_resnet import CifarResNet
from benchmark.cifar_resnet4 import CifarResNet4
from benchmark.cifar_vgg import LinearVgg
from benchmark.network import Network, Scope
from benchmark.weights import load_weights

STAGES = ((1, 8, 1, 1), (3, 8, 2, 2), (3, 12, 2, 1), (3, 16, 1, 2))
MODULES = {"a3": (8, 6, 12, 4, 8, 6), "a4": (6, 8, 10, 6, 8, 8)}
# one small network of every family
SMALL: dict[str, Callable[[], nn.Module]] = {
    "option B": lambda: CifarResNet(14, 10, width=8, option="B"),
    "linear VGG": lambda: LinearVgg(10, (8, 0, 16, 16), bias=True),
    "linear VGG without bias": lambda: LinearVgg(10, (8, 0, 16, 16), bias=False),
    "GoogLeNet": lambda: CifarGoogLeNet(10, MODULES, width=16),
    "DenseNet": lambda: CifarDenseNet(13, 10, growth=6),
    "MobileNet-V2": lambda: CifarMobileNetV2(10, STAGES),
    "MobileNet-V2, identity": lambda: CifarMobileNetV2(10, STAGES, project=False),
    "MobileNet-V2, torchvision": lambda: CifarMobileNetV2(
        10, STAGES, project=False, expand_first=False
    ),
    "basic blocks": lambda: CifarResNet4((2, 1, 1, 1), False, 10, width=8),
    "bottlenecks": lambda: CifarResNet4((2, 1, 1, 1), True, 10, width=4),
}
# groups in all, and those with several writers
GROUPS = {
    "resnet20": (12, 3), "resnet20b": (12, 3), "resnet56": (30, 3), "resnet56b": (30, 3),
    "resnet110": (57, 3), "resnet110b": (57, 3), "vgg16": (13, 0), "vgg16-linear": (13, 0),
    "vgg19": (16, 0), "googlenet": (64, 0), "densenet40": (39, 0), "mobilenetv2": (26, 7),
    "mobilenetv2-identity": (26, 5), "mobilenetv2-torchvision": (25, 5),
    "resnet18-cifar": (12, 4), "resnet50-cifar": (37, 4),
}  # fmt: skip
LARGE = sorted(GROUPS.keys() - {"resnet20", "resnet56", "resnet110", "vgg16"})  # not elsewhere


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("family", SMALL)
def test_masked_equals_removed(family: str, scope: Scope) -> None:
    check_twin(randomise(SMALL[family]()).eval(), scope, seed=0)


@pytest.mark.parametrize("family", SMALL)
def test_macs_are_exact(family: str) -> None:
    net = Network(randomise(SMALL[family]()).eval(), EXAMPLE, "all")
    check_macs(net, range(2))
    assert net.macs() == flops.cost(net.dense(), EXAMPLE).macs


@pytest.mark.parametrize("family", ["GoogLeNet", "DenseNet", "MobileNet-V2", "bottlenecks"])
def test_pruned_networks_learn(family: str) -> None:
    torch.manual_seed(0)
    net = Network(SMALL[family](), EXAMPLE, "all")
    pruned = net.remove(random_plan(net)).train()
    x, y = images(16), torch.arange(16) % 10
    optimizer = torch.optim.Adam(pruned.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(pruned(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in pruned.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_full_size(name: str) -> None:
    model = random_model(name)
    for scope in ("inner", "all"):
        check_twin(model, scope, seed=0, count=1)
    net = Network(model, EXAMPLE, "all")
    check_macs(net, range(1))
    assert (len(net.groups), sum(len(g.layers) > 1 for g in net.groups)) == GROUPS[name]


def check_macs(net: Network, seeds: range) -> None:
    """The analytic count equals both counters', at any width from one channel to all."""
    for seed in seeds:
        low, high = sorted(random.Random(seed).choices((0, 0.2, 0.5, 0.9, 1), k=2))
        plan = random_plan(net, seed, low, high)
        found = flops.cost(net.remove(plan), EXAMPLE)  # raises if torch's counter disagrees
        assert net.macs({g: len(units) for g, units in plan.keep.items()}) == found.macs


@pytest.mark.parametrize("name", ["resnet20b", "vgg19", "densenet40", "mobilenetv2"])
def test_groups_of_full_size(name: str) -> None:
    net = Network(build(name, 10), EXAMPLE, "all")
    assert (len(net.groups), sum(len(g.layers) > 1 for g in net.groups)) == GROUPS[name]


def test_streams_of_option_b_are_written_by_the_projection_too() -> None:
    net = Network(CifarResNet(14, 10, option="B"), EXAMPLE, "all")
    coupled = {g.layers for g in net.groups if len(g.layers) > 1}
    assert coupled == {
        ("conv1", "layer1.0.conv2", "layer1.1.conv2"),
        ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2"),
        ("layer3.0.conv2", "layer3.0.shortcut.0", "layer3.1.conv2"),
    }
    inner = Network(CifarResNet(14, 10, option="B"), EXAMPLE, "inner")
    assert [g.layers for g in inner.groups] == [
        (f"layer{stage}.{block}.conv1",) for stage in (1, 2, 3) for block in (0, 1)
    ]


@pytest.mark.parametrize("size", [16, 32, 40])
@pytest.mark.parametrize("family", SMALL)
def test_other_sizes_and_classes(family: str, size: int) -> None:
    model = SMALL[family]().eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_all_take_the_number_of_classes() -> None:
    for name in ("googlenet", "densenet40", "mobilenetv2", "vgg19", "resnet18-cifar", "resnet44b"):
        assert [*build(name, 7).parameters()][-1].shape == (7,)


def test_depth_of_densenets_must_fit() -> None:
    with pytest.raises(ValueError, match="not 41"):
        CifarDenseNet(41, 10)


# Names of weights in the code that circulates, beside those that end in a head's name.
CIRCULATING = {
    "resnet20b": ("conv1.weight", "layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var"),
    "googlenet": ("pre_layers.0.bias", "inception_b5.branch5x5.6.weight",
                  "inception_a3.branch_pool.1.weight"),
    "densenet40": ("dense3.11.conv1.weight", "trans2.bn1.bias", "bn.weight"),
    "mobilenetv2": ("layers.1.shortcut.0.weight", "layers.16.conv3.weight", "conv2.weight"),
    "resnet18-cifar": ("layer4.0.shortcut.1.bias", "layer1.1.bn2.weight"),
    "resnet50-cifar": ("layer3.5.conv3.weight", "layer1.0.shortcut.0.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", CIRCULATING)
def test_weights_have_the_names_that_circulate(name: str) -> None:
    saved, loaded = build(name, 10), build(name, 10)
    state = {k.replace("fc.", "linear."): v for k, v in saved.state_dict().items()}
    assert state.keys() >= {*CIRCULATING[name], "linear.weight", "linear.bias"}
    load_weights(loaded, state, "weights.th")
    ours = loaded.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in saved.state_dict().items())
