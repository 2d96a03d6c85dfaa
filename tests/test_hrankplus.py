"""HRankPlus: HRank's scores, all streams but the last, fresh batch norms, lists and counts."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from benchmark import select
from methods import build, find
from methods.api import Budget
from methods.hrank import HRank
from methods.hrankplus import HRankPlus

OFFICIAL = build(find("hrankplus:official"), find("hrankplus:official").params())
ALLOCATIONS = ["uniform", "global"]


def test_scores_are_hranks(tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer) -> None:
    net, run, other = tiny_network(scope="all"), tiny_trainer(), tiny_trainer()
    found = HRankPlus(num_images=30).score(net, run)  # type: ignore[arg-type]
    expected = HRank(num_images=30).score(tiny_network(scope="all"), other)  # type: ignore[arg-type]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    (mine,), (theirs,) = run.ledger.entries, other.ledger.entries
    assert (mine.kind, mine.images) == (theirs.kind, theirs.images) == ("forward", 30)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_inside_blocks_it_selects_what_hrank_selects(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, allocation: Any
) -> None:
    net = tiny_network()
    scores = HRank().score(net, tiny_trainer())  # type: ignore[arg-type]
    budget = Budget(0.5, 0.1, allocation)
    plans = [m.select(net, scores, budget) for m in (HRank(), HRankPlus(), OFFICIAL)]  # type: ignore[arg-type]
    assert plans[0] == plans[1] == plans[2]


# ---- residual streams ----------------------------------------------------------------------------


@pytest.mark.parametrize("round_to", [1, 2])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_last_stream_stays_whole_and_the_target_is_met(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, allocation: Any, round_to: int
) -> None:
    net = tiny_network(scope="all")
    assert [g.name for g in net.groups if g.coupled] == [
        "conv1",
        "layer2.0.conv2",
        "layer3.0.conv2",
    ]
    # Not the ranks themselves: on one processor they spared a stream.
    scores = {
        name: torch.linspace(0.0, 1.0, len(ranks))
        for name, ranks in HRank().score(net, tiny_trainer()).items()  # type: ignore[arg-type]
    }
    budget = Budget(0.5, 0.1, allocation, round_to=round_to)
    plan, hranks = (m.select(net, scores, budget) for m in (HRankPlus(), HRank()))  # type: ignore[arg-type]
    full = {g.name: g.width for g in net.groups}
    kept = full | plan.widths()
    assert kept["layer3.0.conv2"] == full["layer3.0.conv2"]
    assert hranks.widths()["layer3.0.conv2"] < full["layer3.0.conv2"]
    assert all(kept[g] < full[g] for g in ("conv1", "layer2.0.conv2"))
    assert 1 - net.macs(plan.widths()) / net.macs() == pytest.approx(0.5, abs=0.04)
    small = net.remove(plan)
    assert small(tiny.batch(2)[0]).shape == (2, tiny.CLASSES)
    last = small.get_submodule("layer3.0.conv2")
    assert last.out_channels == full["layer3.0.conv2"]


def test_networks_without_streams_lose_channels_everywhere(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network("vgg", scope="all")
    scores = HRank().score(net, tiny_trainer())  # type: ignore[arg-type]
    budget = Budget(0.5, 0.1, "uniform")
    plans = [m.select(net, scores, budget) for m in (HRank(), HRankPlus())]  # type: ignore[arg-type]
    assert plans[0] == plans[1]
    assert all(plans[1].widths()[g.name] < g.width for g in net.groups)


def test_groups_that_stay_whole_are_at_their_floor() -> None:
    full = {"a": 10, "b": 20, "c": 6}
    limits = select.Widths.of(full, 0.1, 4, ("b",))
    assert limits.floor == {"a": 4, "b": 20, "c": 4}
    assert limits.unrounded(0.1).floor == {"a": 1, "b": 20, "c": 1}
    assert select.listed_widths(select.Widths.of(full, 0.1, 1, ("b",)), {"a": 0.5, "b": 0.5}) == {
        "a": 5, "b": 20, "c": 6,
    }  # fmt: skip


# ---- the official variant ------------------------------------------------------------------------


def test_official_selects_by_the_published_rule(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    """evaluate_cifar.py: of C filters the last int(C (1 - r)) in ascending order of rank stay."""
    net = tiny_network()
    scores = OFFICIAL.score(net, tiny_trainer())
    rates = {n: (1 + i) / 8 for i, n in enumerate(net.layers)}
    width = {n: len(net.weight(n)) for n in rates}
    effective = {n: 1 - int(width[n] * (1 - r)) / width[n] for n, r in rates.items()}
    budget = Budget(0.0, 0.0, "listed", dict.fromkeys(net.convs, 0.0) | effective)
    plan = OFFICIAL.select(net, scores, budget)
    for group in net.groups:
        (layer,) = group.layers
        ranks = scores[layer].tolist()
        stays = int(len(ranks) * (1 - rates[layer]))
        ascending = sorted(range(len(ranks)), key=lambda i: (ranks[i], -i))
        assert plan.keep[group.name] == tuple(sorted(ascending[len(ranks) - stays :]))


def test_official_starts_every_batch_norm_anew_and_copies_the_rest(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    budget, smaller = Budget(0.5, 0.1, "uniform"), []
    for method in (HRankPlus(), OFFICIAL):
        net, run = tiny_network(), tiny_trainer()
        scores = method.score(net, run)  # type: ignore[arg-type]
        smaller.append(net.remove(method.select(net, scores, budget)))  # type: ignore[arg-type]
    clean, official = smaller
    seen = 0
    for name, module in official.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            fresh = nn.BatchNorm2d(module.num_features)
            assert tiny.same(tiny.state_of(module), tiny.state_of(fresh))
            assert not tiny.same(tiny.state_of(clean.get_submodule(name)), tiny.state_of(fresh))
            seen += 1
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert tiny.same(tiny.state_of(clean.get_submodule(name)), tiny.state_of(module))
    assert seen == 7


def test_only_the_official_variant_changes_the_network(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network()
    before = tiny.state_of(net)
    HRankPlus().score(net, tiny_trainer())  # type: ignore[arg-type]
    assert tiny.same(tiny.state_of(net), before)
    OFFICIAL.score(net, tiny_trainer())
    assert not tiny.same(tiny.state_of(net), before)


# ---- the lists of the source ---------------------------------------------------------------------


class Count:
    """thop's rule: multiply-accumulates, biases of convolutions, 2 per batch norm value."""

    def __init__(self) -> None:
        self.ops = 0

    def conv(
        self, inputs: int, outputs: int, size: int, kernel: int = 3, bias: bool = False
    ) -> int:
        self.ops += size * size * outputs * (kernel * kernel * inputs + bias + 2)
        return outputs


def left(width: int, rate: float) -> int:
    return int(width * (1 - rate))


def resnet_ops(blocks: int, rates: list[float]) -> int:
    """models/cifar10/resnet.py: rates of the stem, of two streams, and of blocks inside."""
    count, inner = Count(), iter(rates[3:])
    width = count.conv(3, left(16, rates[0]), 32)
    streams = (left(16, rates[1]), left(32, rates[2]), 64)
    for full, stream, size in zip((16, 32, 64), streams, (32, 16, 8), strict=True):
        for _ in range(blocks):
            width = count.conv(count.conv(width, left(full, next(inner)), size), stream, size)
    assert next(inner, None) is None
    return count.ops + 64 * 10


def vgg_ops(rates: list[float]) -> int:
    count, width = Count(), 3
    full = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sizes = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    for outputs, size, rate in zip(full, sizes, [*rates, 0.0], strict=True):
        width = count.conv(width, left(outputs, rate), size, bias=True)
    return count.ops + width * 512 + 512 * 10


INCEPTION = {  # 1x1; reduce, 3x3; reduce, 5x5; pool
    "a3": (64, 96, 128, 16, 32, 32), "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64), "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64), "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128), "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def googlenet_widths(rates: list[float]) -> list[int]:
    """Kept filters per conv; of the last module only the inner conv of one branch is pruned."""
    found = [192]
    for (name, (one, r3, n3, r5, n5, pool)), rate in zip(INCEPTION.items(), rates[1:], strict=True):
        out = 0.0 if name == "b5" else rate
        found += [one, r3, left(n3, out), r5, left(n5, rate), left(n5, out), pool]
    return found


def googlenet_ops(rates: list[float]) -> int:
    count, widths = Count(), googlenet_widths(rates)
    inputs = count.conv(3, widths[0], 32, bias=True)
    for i, name in enumerate(INCEPTION):
        size = {"3": 32, "4": 16, "5": 8}[name[1]]
        one, r3, n3, r5, n5, last, pool = widths[1 + 7 * i : 8 + 7 * i]
        for a, b, k in ((inputs, one, 1), (inputs, r3, 1), (r3, n3, 3), (inputs, r5, 1),
                        (r5, n5, 3), (n5, last, 3), (inputs, pool, 1)):  # fmt: skip
            count.conv(a, b, size, k, True)
        inputs = one + n3 + last + pool
    return count.ops + inputs * 10


R56, R110 = [0.0, *[0.18] * 29], [0.0, *[0.2] * 2, *[0.3] * 18, *[0.35] * 36]
VGG = [0.45] * 7 + [0.78] * 5
GOOGLENET = [0.3, *[0.6] * 2, *[0.7] * 5, *[0.8] * 2]


@pytest.mark.parametrize(
    ("ops", "printed"),
    [
        (resnet_ops(9, R56), 90.35),
        (resnet_ops(9, [0.0, *[0.15] * 2, *[0.4] * 27]), 65.94),
        (resnet_ops(9, [0.0, *[0.4] * 2, *[0.5] * 9, *[0.6] * 9, *[0.7] * 9]), 34.78),
        (resnet_ops(18, R110), 140.54),
        (resnet_ops(18, [0.0, *[0.25] * 2, *[0.4] * 18, *[0.55] * 36]), 101.97),
        (vgg_ops(VGG), 66.95),
        (googlenet_ops(GOOGLENET), 649.19),
    ],
)
def test_lists_count_to_the_printed_results(ops: int, printed: float) -> None:
    assert round(ops / 1e6, 2) == printed


def card_widths(arch: str, full: list[int]) -> list[int]:
    rates = find("hrankplus:official").recipe(arch)["rates"]
    return [round(c * (1 - r)) for c, r in zip(full, rates, strict=True)]


@pytest.mark.parametrize(
    ("arch", "blocks", "rates"), [("resnet56", 9, R56), ("resnet110", 18, R110)]
)
def test_lists_of_the_card_have_the_widths_of_the_source(
    arch: str, blocks: int, rates: list[float]
) -> None:
    full = [16] * (2 * blocks + 1) + [32] * 2 * blocks + [64] * 2 * blocks
    found = card_widths(arch, full)
    stage = 2 * blocks
    streams = [found[2 + i * stage : 2 + (i + 1) * stage : 2] for i in range(3)]
    assert [set(s) for s in streams] == [{left(16, rates[1])}, {left(32, rates[2])}, {64}]
    assert found[0] == left(16, rates[1])  # goes with the stream that it writes
    inner = [left(c, r) for c, r in zip(full[1::2], rates[3:], strict=True)]
    assert found[1::2] == inner


def test_other_lists_of_the_card() -> None:
    full = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    expected = [left(c, r) for c, r in zip(full, [*VGG, 0.0], strict=True)]
    assert card_widths("vgg16", full) == expected
    assert card_widths("googlenet", googlenet_widths([0.0] * 10)) == googlenet_widths(GOOGLENET)
