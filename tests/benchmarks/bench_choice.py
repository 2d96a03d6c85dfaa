"""Cost of choosing filters of ResNet-56 by CLR-RNF and EPruner, against the obvious ways: nearest
neighbours as lists and sets for every width tried, and affinity propagation for every beta of a
scan. Goal: at least five times faster. Speed is reported; what is asserted is that both sides
choose the same.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from pairs import CLASSES, SIZE, Turns, trainer
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.cluster import AffinityPropagation
from sklearn.metrics import euclidean_distances
from torch import Tensor

from benchmark import archs
from benchmark.network import Network
from benchmark.trainer import Trainer
from methods.api import Budget, Plan
from methods.clr_rnf import CLRRNF
from methods.epruner import EPruner
from methods.exemplars import exemplars, similarity

GOAL = 5.0
TARGET = 0.5
BUDGET = Budget(TARGET, 0.1, "global")
TURNS = 3
ARCHS = ("resnet20", "resnet56")


@cache
def network(arch: str) -> Network:
    """Filters in clusters of different size and width, so that exemplars are not all alike."""
    torch.manual_seed(0)
    net = Network(archs.build(arch, CLASSES), torch.zeros(1, 3, SIZE, SIZE)).eval()
    with torch.no_grad():
        for layer in net.layers:
            weight = net.weight(layer)
            centres = weight[torch.randint(0, len(weight), (len(weight),))]
            weight.copy_(centres + 0.5 * torch.rand(len(weight), 1, 1, 1) * weight)
    return net


# ---- CLR-RNF -------------------------------------------------------------------------------------


def ours_clr(net: Network, run: Trainer) -> Plan:
    method = CLRRNF(cost_power=0.0)
    return method.select(net, method.score(net, run), BUDGET)


def nearest_lists(weight: Tensor) -> tuple[list[list[int]], list[float]]:
    """Neighbours of every filter, nearest first, from one pair at a time; mean distances."""
    rows = weight.detach().double().flatten(1)
    distance = [[float((a - b).norm()) for b in rows] for a in rows]
    nearest = [sorted(range(len(rows)), key=row.__getitem__) for row in distance]
    return nearest, [sum(row) / len(rows) for row in distance]


def in_common(nearest: list[list[int]], k: int) -> set[int]:
    return set(nearest[0][:k]).intersection(*[row[:k] for row in nearest[1:]])


def naive_clr(net: Network) -> Plan:
    """Every whole percent of the weights is tried; then neighbours with a growing k."""
    weights = {n: net.weight(n).detach() for n in net.layers}
    pool = torch.cat([w.abs().flatten() for w in weights.values()])
    best: tuple[float, dict[str, int]] = (1.0, {})
    for percent in range(1, 100):
        threshold = pool.topk(int(len(pool) * (1 - percent / 100))).values[-1]
        widths = {}
        for name, w in weights.items():
            gone = float((w.abs() < threshold).double().mean())
            widths[name] = max(int(0.1 * len(w)), 1, int(len(w) * (1 - gone) + 1e-9))
        gap = abs(1 - net.macs(widths) / net.macs() - TARGET)
        best = min(best, (gap, widths), key=lambda found: found[0])
    return Plan({n: naive_filters(weights[n], m) for n, m in best[1].items()})


def naive_filters(weight: Tensor, m: int) -> tuple[int, ...]:
    nearest, far = nearest_lists(weight)
    before: set[int] = set()
    for k in range(m, len(weight) + 1):
        common = in_common(nearest, k)
        if len(common) >= m:
            new = sorted(common - before, key=far.__getitem__)
            return tuple(sorted([*before, *new][:m]))
        before = common
    raise AssertionError("all are in common in the end")


@pytest.mark.benchmark(group="choice")
@pytest.mark.parametrize("arch", ARCHS)
def test_clr_rnf(benchmark: BenchmarkFixture, arch: str) -> None:
    net, run = network(arch), trainer(2)
    ours, theirs = ours_clr(net, run), naive_clr(net)
    for group in net.groups:  # the same filters wherever both keep as many
        m = len(ours.keep[group.name])
        assert ours.keep[group.name] == naive_filters(net.weight(group.layers[0]), m)
    gaps = [abs(1 - net.macs(p.widths()) / net.macs() - TARGET) for p in (ours, theirs)]
    assert gaps[0] <= gaps[1] + 1e-9  # a finer search is at least as near
    turns = Turns(ours=lambda: ours_clr(net, run), naive=lambda: naive_clr(net))
    benchmark.pedantic(turns, rounds=TURNS)  # type: ignore[no-untyped-call, unused-ignore]
    _report(benchmark, turns, gaps)


# ---- EPruner -------------------------------------------------------------------------------------


def ours_ep(net: Network, run: Trainer) -> Plan:
    return EPruner().prune(net, BUDGET, run)


def naive_ep(net: Network) -> Plan:
    """A little more beta until the target is passed."""
    plan = Plan({})
    for percent in range(1, 201):
        keep = {}
        for group in net.groups:
            rows = net.weight(group.layers[0]).detach().double().flatten(1).numpy()
            middle = np.median(-euclidean_distances(rows, squared=True), axis=0)
            cluster = AffinityPropagation(preference=middle * percent / 100, random_state=0)
            keep[group.name] = tuple(int(i) for i in cluster.fit(rows).cluster_centers_indices_)
        plan = Plan(keep)
        if 1 - net.macs(plan.widths()) / net.macs() >= TARGET:
            break
    return plan


def loops(similar: np.ndarray, beta: float, steps: int) -> int:
    """Message passing one number at a time, a given number of steps; how many exemplars there are.
    Each row and column looks up its largest values once."""
    n, s = len(similar), similar.tolist()
    for k, middle in enumerate(np.median(similar, axis=0)):
        s[k][k] = beta * float(middle)
    r, a = ([[0.0] * n for _ in range(n)] for _ in range(2))
    for _ in range(steps):
        for i in range(n):
            row = [a[i][k] + s[i][k] for k in range(n)]
            top = max(range(n), key=row.__getitem__)
            second = max(row[k] for k in range(n) if k != top)
            for k in range(n):
                r[i][k] = 0.5 * r[i][k] + 0.5 * (s[i][k] - (second if k == top else row[top]))
        for k in range(n):
            told = [max(0.0, r[i][k]) for i in range(n)]
            total = sum(told) - told[k]
            for i in range(n):
                new = total if i == k else min(0.0, r[k][k] + total - told[i])
                a[i][k] = 0.5 * a[i][k] + 0.5 * new
    return sum(a[k][k] + r[k][k] > 0 for k in range(n))


@pytest.mark.benchmark(group="choice")
@pytest.mark.parametrize("arch", ARCHS)
def test_epruner_against_a_scan(benchmark: BenchmarkFixture, arch: str) -> None:
    net, run = network(arch), trainer(2)
    plans = ours_ep(net, run), naive_ep(net)
    gaps = [abs(1 - net.macs(plan.widths()) / net.macs() - TARGET) for plan in plans]
    assert gaps[0] <= gaps[1] + 1e-9
    turns = Turns(ours=lambda: ours_ep(net, run), naive=lambda: naive_ep(net))
    benchmark.pedantic(turns, rounds=TURNS)  # type: ignore[no-untyped-call, unused-ignore]
    _report(benchmark, turns, gaps)


@pytest.mark.benchmark(group="choice")
def test_affinity_propagation_against_loops(benchmark: BenchmarkFixture) -> None:
    """One layer of 64 filters at one beta, which settles in a few steps; the loops get 20."""
    net = network("resnet56")
    group = net.groups[-1]
    similar = similarity(net, group)
    found = len(exemplars(similar, 0.5))
    assert 1 < found < group.width
    assert loops(similar, 0.5, 60) == found  # before members are exchanged within clusters
    turns = Turns(ours=lambda: exemplars(similar, 0.5), naive=lambda: loops(similar, 0.5, 20))
    benchmark.pedantic(turns, rounds=TURNS)  # type: ignore[no-untyped-call, unused-ignore]
    _report(benchmark, turns, [])


def _report(benchmark: BenchmarkFixture, turns: Turns, gaps: list[float]) -> None:
    benchmark.extra_info["milliseconds"] = turns.milliseconds()
    benchmark.extra_info["naive_over_ours"] = turns.ratio("naive", "ours")
    benchmark.extra_info["goal_naive_over_ours"] = GOAL
    benchmark.extra_info["points_off_target"] = [100 * gap for gap in gaps]
