"""Counting rules: by hand on small networks, and the published figures from the published rates."""

from __future__ import annotations

import pytest
import torch
from random_nets import EXAMPLE

from benchmark.archs import build
from benchmark.cifar_resnet import CifarResNet
from benchmark.cifar_vgg import CifarVgg
from benchmark.counting import OUTPUTS_ONLY, PHYSICAL, by_layers, by_widths, kept_outputs
from benchmark.network import Network
from methods import find

IMAGE = torch.zeros(1, 3, 32, 32)
TINY = CifarVgg(10, (4, 0, 8))  # conv 3-4 at 32 x 32, conv 4-8 at 16 x 16, linear 8-8 and 8-10


def rates_of(arch: str) -> list[float]:
    return list(find("hrank").card["recipe"][arch]["rates"])


def test_both_rules_by_hand() -> None:
    net = Network(TINY, IMAGE)
    one, two = net.groups
    found = by_widths(net, {one.name: 1, two.name: 4})
    assert found.dense == 9 * 3 * 4 * 1024 + 9 * 4 * 8 * 256 + 8 * 8 + 8 * 10
    assert found.physical == 9 * 3 * 1 * 1024 + 9 * 1 * 4 * 256 + 4 * 8 + 8 * 10
    assert found.outputs_only == 9 * 3 * 1 * 1024 + 9 * 4 * 4 * 256 + 8 * 8 + 8 * 10
    assert found.reduction(PHYSICAL) == 100 * (1 - found.physical / found.dense)
    assert found.reductions().keys() == {PHYSICAL, OUTPUTS_ONLY}
    assert found.reductions()[OUTPUTS_ONLY] < found.reductions()[PHYSICAL]


def test_a_list_and_a_plan_that_mean_the_same_count_the_same() -> None:
    net = Network(CifarResNet(8, 10, 4), EXAMPLE)
    widths = {g.name: g.width // 2 for g in net.groups}
    listed = {g.layers[0]: g.width // 2 for g in net.groups}
    assert by_widths(net, widths) == by_layers(net, listed)
    assert by_widths(net, widths).physical == net.macs(widths)
    assert by_widths(net, {}).physical == by_widths(net, {}).outputs_only == net.macs()


def test_coupled_widths_cost_what_the_network_says() -> None:
    net = Network(CifarResNet(8, 10, 4), EXAMPLE, "all")
    widths = {g.name: max(1, g.width // 3) for g in net.groups}
    found = by_widths(net, widths)
    assert found.physical == net.macs(widths) < found.outputs_only < found.dense


def test_readers_of_a_residual_stream_keep_their_inputs() -> None:
    """Writers of the stream lose outputs one by one, so the stream itself stays whole."""
    net = Network(CifarResNet(8, 10, 4), EXAMPLE)
    found = by_layers(net, {"conv1": 2, "layer1.0.conv2": 1})
    assert found.physical == found.outputs_only
    side = EXAMPLE.shape[-1] ** 2
    assert found.dense - found.physical == side * 9 * (3 * 2 + 4 * 3)
    inner = by_layers(net, {"layer1.0.conv1": 1})  # 3 of 4 outputs, then 3 of 4 inputs
    assert found.dense - inner.outputs_only == side * 9 * 4 * 3
    assert inner.outputs_only - inner.physical == side * 9 * 4 * 3


def test_rates_round_as_the_lists_say_and_lists_must_fit() -> None:
    net = Network(TINY, IMAGE)
    assert list(kept_outputs(net, [0.25, 0.3]).values()) == [3, 6]
    assert list(kept_outputs(net, [0.0, 0.875]).values()) == [4, 1]
    wide = Network(CifarVgg(10, (4, 0, 100)), IMAGE)  # 0.29 * 100 is 28.999999999999996
    assert list(kept_outputs(wide, [0.0, 0.29]).values()) == [4, 71]
    with pytest.raises(ValueError, match="1 rates for 2 convolutions"):
        kept_outputs(net, [0.5])
    with pytest.raises(ValueError, match="scope 'inner', not 'all'"):
        by_layers(Network(TINY, IMAGE, "all"), {})


@pytest.mark.parametrize(
    ("arch", "printed", "outputs_only", "percent", "physical"),
    [
        # comes out to the printed digit: 62.72 M, 50.0 %
        ("resnet56", 62.72, 62.715520, 50.0, 61.4),
        # 0.015 M below the 156.90 M of the source, whose 37.9 % is 37.96 % cut off
        ("resnet110", 156.90, 156.884608, 38.0, 49.8),
        # 8.02 M above the 108.61 M of the source, with its 13th rate left out as in its masks
        ("vgg16", 108.61, 116.628480, 62.8, 86.2),
    ],
)
def test_published_rates_give_published_figures_only_by_the_authors_rule(
    arch: str, printed: float, outputs_only: float, percent: float, physical: float
) -> None:
    net = Network(build(arch, 10), IMAGE)
    found = by_layers(net, kept_outputs(net, rates_of(arch)))
    assert found.outputs_only / 1e6 == pytest.approx(outputs_only, abs=1e-9)
    assert round(found.reduction(OUTPUTS_ONLY), 1) == percent
    assert round(found.reduction(PHYSICAL), 1) == physical
    if arch != "vgg16":
        assert found.outputs_only / 1e6 == pytest.approx(printed, rel=1e-4)
        return
    # with its 13th rate, 0.8: 0.48 M (0.4 %) above the source, 65.2 % against its 65.3 %
    found = by_layers(net, kept_outputs(net, [*rates_of(arch)[:12], 0.8]))
    assert found.outputs_only / 1e6 == pytest.approx(109.089792, abs=1e-9)
    assert found.outputs_only / 1e6 - printed == pytest.approx(0.48, abs=0.001)
    assert round(found.reduction(OUTPUTS_ONLY), 1) == 65.2
    assert round(found.reduction(PHYSICAL), 1) == 86.8
