"""Cost of HRank on all convolutions: one pass with taps against one pass per layer and one call per
map, and against a single forward pass (goal: at most 10 times). Few images: both sides are linear
in their number. Speed is reported; what is asserted is that both find the same ranks.
"""

from __future__ import annotations

import pytest
import torch
from pairs import CLASSES, SIZE, Turns, trainer
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmark import archs
from benchmark.network import Network
from benchmark.trainer import Trainer
from methods.api import Scores
from methods.hrank import HRank

GOAL = 10.0
IMAGES, NAIVE_IMAGES = 100, 8
TURNS, NAIVE_TURNS = 7, 3
ARCHS = ("resnet20", "resnet56")


def network(arch: str, run: Trainer) -> Network:
    """Random weights; running statistics of the images, so that maps are as in a trained one."""
    torch.manual_seed(0)
    example = torch.zeros(1, 3, SIZE, SIZE)
    net = Network(archs.build(arch, CLASSES), example, "all").to(run.device)
    run.recalibrate(net, 0, note=False)
    return net


def one_pass(net: Network, run: Trainer) -> Scores:
    return HRank(num_images=len(run.train)).score(net, run)  # type: ignore[arg-type]


@torch.no_grad()
def naive(net: Network, run: Trainer) -> Scores:
    """All images again for every layer, and a rank for one map at a time."""
    found = {}
    for layer in net.layers:
        ranks: list[Tensor] = []
        with net.tapped("act", (layer,), through_add=True) as maps:
            for x, _ in run.batches(images=len(run.train)):
                net(x)
                for image in maps[layer]:
                    ranks.append(torch.stack([torch.linalg.matrix_rank(one) for one in image]))
        found[layer] = torch.stack(ranks).float().mean(0)
    return found


@torch.no_grad()
def forward(net: Network, run: Trainer) -> None:
    for x, _ in run.batches(images=len(run.train)):
        net(x)


@pytest.mark.benchmark(group="hrank")
@pytest.mark.parametrize("arch", ARCHS)
def test_one_pass_against_one_pass_per_layer(benchmark: BenchmarkFixture, arch: str) -> None:
    run = trainer(NAIVE_IMAGES)
    net = network(arch, run)
    ours, theirs = one_pass(net, run), naive(net, run)
    differ = sum(int((NAIVE_IMAGES * (ours[n] - theirs[n])).abs().round().sum()) for n in ours)
    turns = Turns(ours=lambda: one_pass(net, run), naive=lambda: naive(net, run))
    benchmark.pedantic(turns, rounds=NAIVE_TURNS)  # type: ignore[no-untyped-call, unused-ignore]
    maps = NAIVE_IMAGES * sum(len(s) for s in ours.values())
    assert differ <= 1e-4 * maps  # a value within rounding of the tolerance: see matrix_ranks
    benchmark.extra_info["milliseconds"] = turns.milliseconds()
    benchmark.extra_info["naive_over_ours"] = turns.ratio("naive", "ours")
    benchmark.extra_info["layers"], benchmark.extra_info["maps"] = len(ours), maps


@pytest.mark.benchmark(group="hrank")
@pytest.mark.parametrize("arch", ARCHS)
def test_one_pass_against_a_forward_pass(benchmark: BenchmarkFixture, arch: str) -> None:
    run = trainer(IMAGES)
    net = network(arch, run)
    turns = Turns(ours=lambda: one_pass(net, run), forward=lambda: forward(net, run))
    turns()  # warm up
    turns = Turns(**turns.works)
    benchmark.pedantic(turns, rounds=TURNS)  # type: ignore[no-untyped-call, unused-ignore]
    benchmark.extra_info["milliseconds"] = turns.milliseconds()
    benchmark.extra_info["ours_over_forward"] = turns.ratio("ours", "forward")
    benchmark.extra_info["goal_ours_over_forward"] = GOAL
    benchmark.extra_info["images"] = IMAGES
