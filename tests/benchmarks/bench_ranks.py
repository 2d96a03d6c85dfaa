"""Cost of feature-map ranks: ``pytest tests/benchmarks/bench_ranks.py`` (nothing is asserted)."""

import time
from collections.abc import Callable
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional

from methods.kit import matrix_ranks

IMAGES = 50
WIDTHS = [16] * 19 + [32] * 18 + [64] * 18  # the 55 convs of ResNet-56, at 32x32, 16x16 and 8x8


def stack_weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(width, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        for before, width in zip([3, *WIDTHS], WIDTHS, strict=False)
    ]


def forward(weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """A plain stack of conv, batch norm and ReLU with the shapes of ResNet-56."""
    layers = []
    for weight in weights:
        width, before = weight.shape[:2]
        x = functional.conv2d(x, weight, stride=2 if width == 2 * before else 1, padding=1)
        x = functional.relu(functional.batch_norm(x, torch.zeros(width), torch.ones(width)))
        layers.append(x)
    return layers


def smooth_images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return functional.interpolate(noise, size=32, mode="bicubic") + 0.1 * torch.randn(
        count, 3, 32, 32, generator=generator
    )


def sample_maps(side: int, count: int = 256) -> Tensor:
    """Maps of ``side`` x ``side`` from all layers of that size."""
    layers = [m.flatten(0, 1) for m in forward(stack_weights(), smooth_images(4))]
    maps = torch.cat([m for m in layers if m.shape[-1] == side])
    order = torch.randperm(len(maps), generator=torch.Generator().manual_seed(1))
    return maps[order[:count]]


def map_loop(maps: Tensor) -> Tensor:
    """The obvious way, and that of the official code."""
    return torch.stack([torch.linalg.matrix_rank(one) for one in maps])


@pytest.mark.benchmark(group="ranks", max_time=0.5)
@pytest.mark.parametrize("side", [32, 16, 8])
@pytest.mark.parametrize("ranks", [matrix_ranks, torch.linalg.matrix_rank, map_loop])
def test_ranks(benchmark: BenchmarkFixture, ranks: Callable[[Tensor], Tensor], side: int) -> None:
    maps = sample_maps(side)
    benchmark(ranks, maps)
    benchmark.extra_info["maps"] = len(maps)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["us_per_map"] = benchmark.stats.stats.median / len(maps) * 1e6


@pytest.mark.benchmark(group="ranks-resnet56", max_time=1.0)
def test_ranks_against_forward_pass(benchmark: BenchmarkFixture) -> None:
    weights, images = stack_weights(), smooth_images(IMAGES)

    def rank_layers(layers: list[Tensor]) -> list[Tensor]:
        return [matrix_ranks(maps) for maps in layers]

    passes = []
    for _ in range(5):
        start = time.perf_counter()
        layers = forward(weights, images)
        passes.append(time.perf_counter() - start)
    benchmark(rank_layers, layers)
    one_pass = median(passes)
    benchmark.extra_info["images"] = IMAGES
    benchmark.extra_info["forward_seconds"] = one_pass
    if benchmark.stats is not None:
        benchmark.extra_info["scoring_over_forward"] = 1 + benchmark.stats.stats.median / one_pass
