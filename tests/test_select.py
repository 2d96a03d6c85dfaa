"""Targets are met to the nearest reachable value, floors hold, and order does not matter."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_nets import random_network
from torch import Tensor

from benchmark import select
from benchmark.network import Network
from benchmark.select import TOLERANCE, Widths
from methods.api import Budget, Scores, Unsupported

Allocate = Literal["global", "uniform"]
ALLOCATIONS: tuple[Allocate, ...] = ("global", "uniform")
TARGETS = st.floats(0.0, 0.95)
SEEDS = st.integers(0, 2**32)
network = cache(random_network)


def draw_scores(net: Network, seed: int) -> Scores:
    """Positive, and of different size and spread from layer to layer."""
    draw = torch.Generator().manual_seed(seed)
    return {
        n: torch.rand(len(net.weight(n)), generator=draw)
        ** (4 * float(torch.rand(1, generator=draw)))
        for n in net.layers
    }


def reduction(net: Network, widths: Mapping[str, int]) -> float:
    return 1 - net.macs(widths) / net.macs()


def linear(full: Mapping[str, int]) -> select.Macs:
    """A cost that is easy to reason about: one MAC per kept unit."""
    return lambda widths: sum({**full, **widths}.values())


# ---- the target ----------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("arch", ["resnet20", "resnet56", "vgg16"])
@settings(max_examples=20, deadline=None)
@given(target=TARGETS, seed=SEEDS, comparable=st.booleans())
def test_target_is_met_within_half_a_point(
    arch: str, allocation: Allocate, target: float, seed: int, comparable: bool
) -> None:
    net = network(arch)
    budget = Budget(target, allocation=allocation)
    limits, scores = net.limits(budget), draw_scores(net, seed)
    most = select.largest_cut(limits, net.macs)
    if target > most + TOLERANCE:
        with pytest.raises(Unsupported, match=re.escape(f"at most {100 * most:.1f} %")):
            net.rank(scores, budget, comparable)
        return
    plan = net.rank(scores, budget, comparable)
    found = reduction(net, plan.widths())
    # A step of the search can be wider than a point, where two groups change at once or near the
    # floors: then the nearest counts, and `test_no_other_value_of_the_scalar_is_nearer` shows it.
    near_the_floors = target > most - 0.02
    step = max(net.macs() - net.macs({g.name: g.width - 1}) for g in net.groups) / net.macs()
    assert abs(found - target) <= max(TOLERANCE, step * (2 if near_the_floors else 1) + 1e-9)
    for group in net.groups:
        assert limits.floor[group.name] <= plan.widths()[group.name] <= group.width


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_resnet110_lands_within_a_tenth_of_a_point(allocation: Allocate) -> None:
    net = network("resnet110")
    for seed in range(10):
        plan = net.rank(draw_scores(net, seed), Budget(0.65, allocation=allocation))
        assert abs(reduction(net, plan.widths()) - 0.65) <= 0.001


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@settings(max_examples=12, deadline=None)
@given(target=st.floats(0, 0.8), seed=SEEDS, scope=st.sampled_from(["inner", "all"]))
def test_no_other_value_of_the_scalar_is_nearer(
    allocation: Allocate, target: float, seed: int, scope: Literal["inner", "all"]
) -> None:
    net = network("resnet8", scope)
    reachable: set[tuple[tuple[str, int], ...]] = set()
    search = select.nearest

    def recorded(
        widths_at: Callable[[int], dict[str, int]], steps: int, macs: select.Macs, cut: float
    ) -> int:
        stride = max(1, steps // 4096)
        reachable.update(tuple(widths_at(s).items()) for s in range(0, steps + 1, stride))
        return search(widths_at, steps, macs, cut)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "nearest", recorded)
        budget = Budget(target, allocation=allocation)
        assume(target <= select.largest_cut(net.limits(budget), net.macs))
        plan = net.rank(draw_scores(net, seed), budget)
    nearest = min(abs(reduction(net, dict(w)) - target) for w in reachable)
    assert abs(reduction(net, plan.widths()) - target) <= nearest + 1e-12


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=30), st.floats(0, 1))
def test_search_finds_the_nearest_step(increments: list[int], cut: float) -> None:
    costs = torch.tensor(increments).cumsum(0).tolist()
    dense, goal = costs[-1], (1 - cut) * costs[-1]
    assume(dense > 0)

    def macs(widths: Mapping[str, int]) -> int:
        return int(costs[widths["step"]]) if widths else int(dense)

    best = min(abs(c - goal) for c in costs)
    if costs[0] - goal > TOLERANCE * dense:
        with pytest.raises(Unsupported):
            select.nearest(lambda step: {"step": step}, len(costs) - 1, macs, cut)
    else:
        found = select.nearest(lambda step: {"step": step}, len(costs) - 1, macs, cut)
        assert abs(costs[found] - goal) == best


@pytest.mark.parametrize("goal", range(11))
def test_search_hits_what_can_be_hit(goal: int) -> None:
    def macs(widths: Mapping[str, int]) -> int:
        return widths.get("step", 10)

    assert select.nearest(lambda step: {"step": step}, 10, macs, 1 - goal / 10) == goal


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("arch", ["resnet8", "resnet56", "resnet110", "vgg16"])
def test_number_of_cost_evaluations_is_bounded(arch: str, allocation: Allocate) -> None:
    net = network(arch)
    scores = net.group_scores(draw_scores(net, 0), comparable=False)
    for target in (0.0, 0.1, 0.5, 0.72, 0.99):
        budget, calls = Budget(target, allocation=allocation), 0

        def counted(widths: Mapping[str, int]) -> int:
            nonlocal calls
            calls += 1
            return net.macs(widths)

        limits = net.limits(budget)
        try:
            if allocation == "global":
                select.global_widths(limits, scores, budget, counted)
            else:
                select.uniform_widths(limits, budget, counted)
        except Unsupported:
            assert target > 0.9
        assert 0 < calls <= 40


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_nothing_is_removed_for_nothing(allocation: Allocate) -> None:
    net = network("resnet20")
    plan = net.rank(draw_scores(net, 0), Budget(0.0, allocation=allocation))
    assert plan.keep == {g.name: tuple(range(g.width)) for g in net.groups}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@settings(max_examples=15, deadline=None)
@given(first=st.floats(0, 0.8), second=st.floats(0, 0.8), seed=SEEDS)
def test_a_larger_target_keeps_a_subset(
    allocation: Allocate, first: float, second: float, seed: int
) -> None:
    net = network("resnet20")
    scores = draw_scores(net, seed)
    less, more = sorted((first, second))
    large, small = (net.rank(scores, Budget(t, allocation=allocation)).keep for t in (less, more))
    assert all(set(small[g]) <= set(large[g]) for g in large)


# ---- floors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@settings(max_examples=20, deadline=None)
@given(min_keep=st.floats(0, 1), target=TARGETS, seed=SEEDS)
def test_floors_hold_and_unreachable_targets_say_what_is(
    allocation: Allocate, min_keep: float, target: float, seed: int
) -> None:
    net = network("resnet20", "all")
    budget = Budget(target, min_keep, allocation)
    limits = net.limits(budget)
    most = select.largest_cut(limits, net.macs)
    # one layer far below the others: a global ranking empties it first
    scores = draw_scores(net, seed)
    scores[net.layers[3]] = scores[net.layers[3]] * 1e-6
    if target > most + TOLERANCE:
        with pytest.raises(Unsupported) as refused:
            net.rank(scores, budget, comparable=True)
        assert f"{100 * target:.1f} % is out of reach" in str(refused.value)
        assert f"at most {100 * most:.1f} %" in str(refused.value)
        return
    widths = net.rank(scores, budget, comparable=True).widths()
    for group in net.groups:
        assert widths[group.name] >= max(1, int(min_keep * group.width))


@pytest.mark.parametrize(
    ("min_keep", "width", "floor"),
    [(0.1, 16, 1), (0.1, 64, 6), (0.3, 10, 3), (0.3, 16, 4), (0.3, 512, 153), (0, 5, 1), (1, 7, 7),
     (0.7, 10, 7), (0.1, 3, 1)],
)  # fmt: skip
def test_floor_is_rounded_down_and_at_least_one(min_keep: float, width: int, floor: int) -> None:
    assert Widths.of({"a": width}, min_keep).floor == {"a": floor}


@pytest.mark.parametrize(("arch", "most"), [("resnet56", 0.722), ("resnet110", 0.723)])
def test_largest_reduction_with_the_floors_of_whitebox(arch: str, most: float) -> None:
    net = network(arch)
    limits = net.limits(Budget(0.5, min_keep=0.3))
    assert round(select.largest_cut(limits, net.macs), 3) == most


# ---- who stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_ties_keep_the_lower_index(allocation: Allocate) -> None:
    net = network("resnet20")
    flat = {n: torch.ones(len(net.weight(n))) for n in net.layers}
    plan = net.rank(flat, Budget(0.5, allocation=allocation))
    for kept in plan.keep.values():
        assert kept == tuple(range(len(kept)))


def test_ties_across_groups_keep_the_earlier_group() -> None:
    full = {"a": 4, "b": 4, "c": 4}
    scores = {g: torch.ones(4) for g in full}
    found = select.global_widths(Widths.of(full, 0.25), scores, Budget(0.5), linear(full))
    assert found == {"a": 4, "b": 1, "c": 1}


def test_global_ranking_by_hand() -> None:
    full = {"a": 4, "b": 4}
    scores = {"a": torch.tensor([9.0, 1, 8, 2]), "b": torch.tensor([7.0, 6, 0, 0.5])}
    for kept, expected in [(7, (4, 3)), (6, (4, 2)), (5, (3, 2)), (4, (2, 2)), (3, (2, 1))]:
        budget = Budget(1 - kept / 8)
        widths = select.global_widths(Widths.of(full, 0), scores, budget, linear(full))
        assert tuple(widths.values()) == expected
        keep = select.best(scores, widths).keep
        top = sorted(((float(s), g, i) for g in full for i, s in enumerate(scores[g])))[-kept:]
        assert keep == {g: tuple(sorted(i for _, h, i in top if h == g)) for g in full}


def test_groups_without_scores_keep_everything() -> None:
    full = {"a": 4, "b": 4}
    scores = {"b": torch.arange(4.0)}
    widths = select.global_widths(Widths.of(full, 0), scores, Budget(0.25), linear(full))
    assert widths == {"a": 4, "b": 2}
    assert select.best(scores, widths).keep == {"b": (2, 3)}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@settings(max_examples=20, deadline=None)
@given(target=st.floats(0.05, 0.8), seed=SEEDS, comparable=st.booleans())
def test_permuted_channels_permute_the_kept_set(
    allocation: Allocate, target: float, seed: int, comparable: bool
) -> None:
    net = network("resnet20")
    scores = draw_scores(net, seed)
    assume(select.tied_share(scores) == 0)
    draw = torch.Generator().manual_seed(seed)
    orders = {n: torch.randperm(len(s), generator=draw) for n, s in scores.items()}
    permuted = {n: scores[n][order] for n, order in orders.items()}
    budget = Budget(target, allocation=allocation)
    before, after = (net.rank(s, budget, comparable).keep for s in (scores, permuted))
    for layer, order in orders.items():
        assert sorted(order[list(after[layer])].tolist()) == list(before[layer])


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_negated_scores_change_the_plan(allocation: Allocate) -> None:
    net = network("resnet20")
    scores, budget = draw_scores(net, 3), Budget(0.5, allocation=allocation)
    negated = {n: -s for n, s in scores.items()}
    assert net.rank(scores, budget).keep != net.rank(negated, budget).keep


def test_scale_of_a_layer_does_not_matter_unless_comparable() -> None:
    net = network("resnet20")
    scores, budget = draw_scores(net, 4), Budget(0.5, allocation="global")
    louder = scores | {net.layers[0]: 2**20 * scores[net.layers[0]]}
    assert net.rank(scores, budget) == net.rank(louder, budget)
    assert net.rank(scores, budget, True) != net.rank(louder, budget, True)
    uniform = Budget(0.5)
    assert net.rank(scores, uniform, True) == net.rank(louder, uniform, True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_best_is_the_top_by_score_then_index(values: list[int], data: st.DataObject) -> None:
    width = data.draw(st.integers(1, len(values)))
    found = select.best({"a": torch.tensor(values)}, {"a": width, "unscored": 3}).keep
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert found == {"a": tuple(sorted(order[:width]))}


# ---- widths --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0, 0.85), arch=st.sampled_from(["resnet20", "resnet56", "vgg16"]))
def test_uniform_widths_are_one_share_within_a_channel(target: float, arch: str) -> None:
    net = network(arch)
    budget = Budget(target)
    limits, widths = net.limits(budget), net.allocate(budget)
    # some share s has |w - s c| < 1 everywhere; at the floor or at full width only one side binds
    low = max((w - 1) / limits.full[g] for g, w in widths.items() if w > limits.floor[g])
    high = min([(w + 1) / limits.full[g] for g, w in widths.items() if w < limits.full[g]] + [2])
    assert low < high
    assert net.allocate(budget) == widths


def test_uniform_allocation_ignores_scores() -> None:
    net = network("resnet20")
    plans = [net.rank(draw_scores(net, s), Budget(0.5)) for s in (0, 1)]
    assert plans[0].widths() == plans[1].widths() == net.allocate(Budget(0.5))
    assert plans[0] != plans[1]


def test_listed_widths_truncate_what_goes() -> None:
    full = {"a": 16, "b": 10, "c": 64, "d": 16, "e": 8}
    rates = {"a": 0.1, "b": 0.3, "c": 0.99, "d": 0.0}
    found = select.listed_widths(Widths.of(full, 0.1), rates)
    assert found == {"a": 15, "b": 7, "c": 6, "d": 16, "e": 8}


def test_listed_rates_are_found_by_layer() -> None:
    net = network("resnet8")
    rates = dict(zip(net.layers, (0.5, 0.25, 0.75)))
    budget = Budget(0.5, allocation="listed", rates=rates)
    assert list(net.allocate(budget).values()) == [8, 24, 16]
    plan = net.rank(draw_scores(net, 0), budget)
    assert list(plan.widths().values()) == [8, 24, 16]


def test_global_allocation_needs_scores() -> None:
    with pytest.raises(Unsupported, match="'global' needs scores first"):
        network("resnet8").allocate(Budget(0.5, allocation="global"))


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ({}, 0.0),
        ({"a": torch.arange(4)}, 0.0),
        ({"a": torch.tensor([1, 1, 2, 3])}, 0.5),
        ({"a": torch.tensor([1, 1, 1, 1]), "b": torch.arange(4)}, 0.5),
        ({"a": torch.tensor([1, 2]), "b": torch.tensor([2, 1])}, 0.0),  # within layers only
        ({"a": torch.tensor([0.0, -0.0, 3, 3, 3])}, 1.0),
    ],
)
def test_share_of_ties(scores: dict[str, Tensor], share: float) -> None:
    assert select.tied_share(scores) == share


def test_normalised_scores_have_mean_one() -> None:
    score = torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(select.normalise(score), score.double() / 2)
    assert torch.equal(select.normalise(torch.zeros(3)), torch.zeros(3, dtype=torch.float64))
