"""Search for the widths of a FLOPs target, and surgery: ours against the usual ways.

Speed is reported, never asserted; what is asserted is that both sides do the same work.
"""

import copy
import time
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch_pruning
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from benchmark import select
from benchmark.archs import build
from benchmark.network import Network
from methods.api import Budget, Plan

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)  # fvcore 2022 on torch.jit
    from fvcore.nn import FlopCountAnalysis

TARGET = 0.65
EXAMPLE = torch.zeros(1, 3, 32, 32)
ARCHS = ["resnet56", "resnet110"]
PAIRS = {"budget search": 5, "surgery": 11}
Work = Callable[[], object]


@cache
def network(arch: str) -> Network:
    torch.manual_seed(0)
    return Network(build(arch, 10), EXAMPLE).eval()


@cache
def scores(arch: str) -> dict[str, torch.Tensor]:
    net = network(arch)
    draw = torch.Generator().manual_seed(0)
    return {g.name: torch.rand(g.width, generator=draw) for g in net.groups}


# ---- budget search -------------------------------------------------------------------------------


def bisection(arch: str) -> dict[str, int]:
    """Ours: exact MACs by integer arithmetic."""
    net, budget = network(arch), Budget(TARGET, allocation="global")
    return select.global_widths(net.limits(budget), scores(arch), budget, net.macs)


def instantiate(arch: str, widths: dict[str, int]) -> nn.Module:
    model = build(arch, 10)
    for name, width in widths.items():
        block = model.get_submodule(name.removesuffix(".conv1"))
        first, second = block.conv1, block.conv2
        block.conv1 = nn.Conv2d(first.in_channels, width, 3, first.stride, 1, bias=False)
        block.bn1 = nn.BatchNorm2d(width)
        block.conv2 = nn.Conv2d(width, second.out_channels, 3, 1, 1, bias=False)
    return model.eval()


def instantiate_and_profile(arch: str) -> dict[str, int]:
    """The loop of research code: remove 1 % more of all channels, build the network, profile it,
    until the target is passed."""
    net, ranked = network(arch), scores(arch)
    flat = torch.cat(list(ranked.values())).sort().values
    for percent in range(1, 100):
        threshold = flat[len(flat) * percent // 100]
        widths = {g: max(1, int((s >= threshold).sum())) for g, s in ranked.items()}
        counter = FlopCountAnalysis(instantiate(arch, widths), EXAMPLE)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operators = counter.by_operator()
        if 1 - (operators["conv"] + operators["linear"]) / net.macs() >= TARGET:
            return widths
    raise AssertionError("unreachable")


# ---- surgery -------------------------------------------------------------------------------------


@cache
def plan(arch: str) -> Plan:
    return select.best(scores(arch), bisection(arch))


def slicing(arch: str) -> nn.Module:
    """Ours: slices along maps that were read once."""
    return network(arch).remove(plan(arch))


def library_surgery(arch: str) -> nn.Module:
    """torch-pruning's own: a dependency graph per copy, since its surgery changes the model."""
    model = copy.deepcopy(network(arch).dense())
    graph = torch_pruning.DependencyGraph().build_dependency(model, (EXAMPLE,), verbose=False)
    for name, kept in plan(arch).keep.items():
        layer = model.get_submodule(name)
        dropped = sorted(set(range(layer.out_channels)) - set(kept))
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, dropped)
        assert graph.check_pruning_group(group)
        group.prune()
    return model.eval()


# ---- measuring -----------------------------------------------------------------------------------


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_interval(values: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval."""
    sample = np.random.default_rng(0).choice(values, (draws, len(values)))
    low, high = np.percentile(np.median(sample, axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def report_ratio(benchmark: BenchmarkFixture, ours: Work, usual: Work, pairs: int) -> None:
    """How many times faster, pair by pair, so that a busy machine slows both sides alike."""
    times: list[tuple[float, float]] = []

    def pair() -> None:
        times.append((seconds(ours), seconds(usual)))

    benchmark.pedantic(pair, rounds=pairs)  # type: ignore[no-untyped-call, unused-ignore]
    median, low, high = median_interval([b / a for a, b in times])
    benchmark.extra_info["times_faster_median"] = median
    benchmark.extra_info["times_faster_95_interval"] = [low, high]
    benchmark.extra_info["pairs"] = len(times)
    for name, column in zip(("ours", "usual"), zip(*times)):
        benchmark.extra_info[f"{name}_median_ms"] = 1e3 * float(np.median(column))


@pytest.mark.benchmark(group="budget search")
@pytest.mark.parametrize("arch", ARCHS)
def test_search(benchmark: BenchmarkFixture, arch: str) -> None:
    net = network(arch)
    scores(arch)
    widths = benchmark(bisection, arch)
    achieved = 1 - net.macs(widths) / net.macs()
    assert abs(achieved - TARGET) <= 0.001
    benchmark.extra_info["points_off_target"] = 100 * abs(achieved - TARGET)


@pytest.mark.benchmark(group="budget search")
@pytest.mark.parametrize("arch", ARCHS)
def test_search_ratio_of_interleaved_pairs(benchmark: BenchmarkFixture, arch: str) -> None:
    net, found = network(arch), bisection(arch)
    report_ratio(
        benchmark,
        lambda: bisection(arch),
        lambda: instantiate_and_profile(arch),
        PAIRS["budget search"],
    )
    widths = instantiate_and_profile(arch)
    counted = FlopCountAnalysis(instantiate(arch, found), EXAMPLE).by_operator()
    assert counted["conv"] + counted["linear"] == net.macs(found)
    assert net.macs(widths) <= (1 - TARGET) * net.macs()
    for name, one in (("ours", found), ("usual", widths)):
        benchmark.extra_info[f"{name}_points_off_target"] = 100 * abs(
            1 - net.macs(one) / net.macs() - TARGET
        )


@pytest.mark.benchmark(group="surgery")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("surgery", [slicing, library_surgery])
def test_surgery(
    benchmark: BenchmarkFixture, surgery: Callable[[str], nn.Module], arch: str
) -> None:
    plan(arch)
    removed = benchmark.pedantic(surgery, (arch,), rounds=7, warmup_rounds=1)  # type: ignore[no-untyped-call, unused-ignore]
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(removed.eval()(x), slicing(arch).eval()(x))


@pytest.mark.benchmark(group="surgery")
@pytest.mark.parametrize("arch", ARCHS)
def test_surgery_ratio_of_interleaved_pairs(benchmark: BenchmarkFixture, arch: str) -> None:
    slicing(arch), library_surgery(arch)
    report_ratio(benchmark, lambda: slicing(arch), lambda: library_surgery(arch), PAIRS["surgery"])
