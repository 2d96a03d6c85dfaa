"""EPruner: the worked example of METHODS 10, affinity propagation as loops, targets and widths."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sklearn.cluster import AffinityPropagation
from sklearn.metrics import euclidean_distances

from benchmark.network import Network
from methods import exemplars as ap
from methods.api import Budget, Plan, Unsupported
from methods.epruner import EPruner
from methods.exemplars import exemplars, of_width, resized, similarity

GLOBAL = Budget(0.5, 0.1, "global")
POINTS = np.array([[0, 0], [0.1, 0], [1, 1], [1.1, 1], [3, 0]])


def similar(points: np.ndarray) -> np.ndarray:
    return -np.square(points[:, None] - points).sum(-1)


def filters(count: int, seed: int, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


# ---- exemplars -----------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    s = similar(POINTS)
    assert np.median(s, axis=0).tolist() == pytest.approx([-2, -1.81, -1.81, -2, -5])
    for beta, expected in {
        0.3: (1, 2, 4), 0.5: (1, 2, 4), 0.73: (1, 2, 4), 1.0: (1, 3), 2.0: (1, 3), 4.0: (2,),
    }.items():  # fmt: skip
        assert exemplars(s, beta) == expected, beta


@pytest.mark.parametrize("beta", [0.2, 0.6, 0.73, 0.9, 1.2])
def test_it_is_the_affinity_propagation_of_scikit_learn(beta: float) -> None:
    for seed in range(3):
        points = filters(20, seed)
        s = -euclidean_distances(points, squared=True)
        cluster = AffinityPropagation(preference=np.median(s, axis=0) * beta, random_state=0)
        expected = cluster.fit(points).cluster_centers_indices_
        assert exemplars(s, beta) == tuple(expected)


def loops(s: np.ndarray, beta: float, damping: float = 0.5, steps: int = 200) -> tuple[int, ...]:
    """Messages one by one (Frey and Dueck, 2007), until 15 steps change nothing; then every cluster
    takes its most central member. Without the noise against ties."""
    n, s = len(s), s.copy()
    for k, middle in enumerate(np.median(s, axis=0)):
        s[k, k] = beta * middle
    r, a = np.zeros((n, n)), np.zeros((n, n))
    history: list[list[bool]] = []
    for _ in range(steps):
        for i in range(n):
            row = [a[i, j] + s[i, j] for j in range(n)]
            for k in range(n):
                other = max(row[j] for j in range(n) if j != k)
                r[i, k] = damping * r[i, k] + (1 - damping) * (s[i, k] - other)
        new = np.zeros((n, n))
        for i in range(n):
            for k in range(n):
                told = sum(max(0.0, r[j, k]) for j in range(n) if j not in (i, k))
                new[i, k] = told if i == k else min(0.0, r[k, k] + told)
        a = damping * a + (1 - damping) * new
        history.append([bool(a[k, k] + r[k, k] > 0) for k in range(n)])
        if len(history) > 15 and any(history[-1]) and all(h == history[-1] for h in history[-15:]):
            break
    found = [k for k in range(n) if history[-1][k]]
    members = {k: [i for i in range(n) if i == k or (i not in found and
               k == max(found, key=lambda j: s[i, j]))] for k in found}  # fmt: skip
    return tuple(sorted(
        max(own, key=lambda j: sum(s[i, j] for i in own)) for own in members.values()
    ))  # fmt: skip


@pytest.mark.parametrize("beta", [0.4, 0.7, 0.9, 1.1])
def test_it_is_message_passing_as_loops(beta: float) -> None:
    s = similar(filters(10, 5))
    assert exemplars(s, beta) == loops(s, beta)


def test_filters_of_a_network_are_compared_as_vectors() -> None:
    net = tiny.network("resnet")
    group = net.groups[0]
    weight = net.weight(group.layers[0]).detach().double().flatten(1).numpy()
    np.testing.assert_allclose(similarity(net, group), similar(weight), atol=1e-12)
    coupled = tiny.network("resnet", scope="all")
    stream = next(g for g in coupled.groups if len(g.layers) > 1)
    parts = [coupled.weight(n).detach().double().flatten(1).numpy() for n in stream.layers]
    expected = sum(similar(p) for p in parts)
    np.testing.assert_allclose(similarity(coupled, stream), expected, atol=1e-10)


def test_what_does_not_settle_is_damped_and_kept_whole_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s = similar(filters(20, 1))
    settled = exemplars(s, 0.8)
    assert 1 < len(settled) < 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of it reaches the user
        monkeypatch.setattr(ap, "PASSES", ((0.5, 3), (0.9, 2000)))
        stronger = AffinityPropagation(
            preference=np.median(s, axis=0) * 0.8, damping=0.9, max_iter=2000, random_state=0,
            affinity="precomputed",
        ).fit(s.copy())  # fmt: skip
        assert exemplars(s, 0.8) == tuple(stronger.cluster_centers_indices_)
        monkeypatch.setattr(ap, "PASSES", ((0.5, 3), (0.9, 3)))
        assert exemplars(s, 0.8) == tuple(range(20))


def test_filters_that_are_all_alike_have_one_exemplar() -> None:
    assert exemplars(np.zeros((6, 6)), 0.7) == (0,)
    assert exemplars(np.zeros((1, 1)), 0.7) == (0,)


# ---- other numbers of exemplars ------------------------------------------------------------------


def value(s: np.ndarray, kept: tuple[int, ...]) -> float:
    """Sum over all filters of the similarity to their nearest exemplar."""
    return sum(max(s[i, k] for k in kept) for i in range(len(s)))


def greedy(s: np.ndarray, kept: tuple[int, ...], width: int) -> tuple[int, ...]:
    found = set(kept)
    while len(found) > width:
        found.remove(max(sorted(found, reverse=True), key=lambda k: value(s, tuple(found - {k}))))
    while len(found) < width:
        rest = [k for k in range(len(s)) if k not in found]
        found.add(max(rest, key=lambda k: value(s, tuple(found | {k}))))
    return tuple(sorted(found))


@pytest.mark.parametrize("width", [1, 3, 6, 7, 11, 16])
def test_exemplars_that_are_missed_least_go_and_those_that_help_most_come(width: int) -> None:
    s = similar(filters(16, 2))
    kept = exemplars(s, 0.9)
    assert 1 < len(kept) < 16
    assert resized(s, kept, width) == greedy(s, kept, width)


def test_ties_keep_lower_indices() -> None:
    points = np.array([[0.0], [0], [4], [4]])  # two pairs of equal filters
    s = similar(points)
    assert resized(s, (0, 1, 2, 3), 3) == (0, 1, 2)
    assert resized(s, (0, 1, 2, 3), 2) == (0, 2)
    assert resized(s, (2,), 2) == (0, 2)


@pytest.mark.parametrize("width", [1, 2, 5, 9, 14, 16])
def test_exemplars_for_a_width_are_those_of_the_largest_beta_tried(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, tried = similar(filters(16, 4)), {0.0: tuple(range(16))}

    def watched(s: np.ndarray, beta: float) -> tuple[int, ...]:
        return tried.setdefault(beta, exemplars(s, beta))

    monkeypatch.setattr(ap, "exemplars", watched)
    found = of_width(s, width)
    assert len(tried) == ap.STEPS + 1
    assert found == tried[max(beta for beta, kept in tried.items() if len(kept) >= width)]


# ---- the target ----------------------------------------------------------------------------------


def prune(net: Network, budget: Budget = GLOBAL, **params: Any) -> tuple[Plan, dict[str, Any]]:
    run = tiny.trainer()
    plan = EPruner(**params).prune(net, budget, run)
    return plan, run.notes


def widest_step(net: Network) -> float:
    """Share of the MACs that the dearest unit has."""
    dense = net.macs()
    return max(1 - net.macs({g.name: g.width - 1}) / dense for g in net.groups)


def test_a_group_that_jumps_over_the_target_gets_a_number_of_its_own() -> None:
    """Filters that are all as far from each other: all are exemplars, or one is."""
    far, near = similar(np.eye(8)), similar(filters(8, 0))
    assert (len(exemplars(far, 0.99)), len(exemplars(far, 1.01))) == (8, 1)
    dense = {"before": near, "far": far, "after": near}

    def macs(widths: dict[str, int]) -> int:
        return sum({"before": 1, "far": 100, "after": 1}[n] * w for n, w in widths.items())

    kept, widths, (low, high) = ap.solved(dense, dict.fromkeys(dense, 1), macs, 510)
    assert low < 1 <= high
    assert widths["far"] == 5
    assert kept == {
        "before": exemplars(near, high), "far": tuple(range(8)), "after": exemplars(near, low),
    }  # fmt: skip
    states = list(ap.path({"a": (0, 1, 2, 3)}, {"a": 4}, {"a": (5,)}, {"a": 1}))
    assert [w["a"] for _, w in states] == [4, 3, 2, 1]
    assert [k["a"] for k, _ in states] == [(0, 1, 2, 3)] * 3 + [(5,)]


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("cut", [0.2, 0.5, 0.7])
def test_the_target_is_met_to_half_a_unit(kind: Any, cut: float) -> None:
    net = tiny.network(kind)
    plan, notes = prune(net, Budget(cut, 0.1, "global"))
    reached = 1 - net.macs(plan.widths()) / net.macs()
    assert abs(reached - cut) <= 0.51 * widest_step(net)
    low, high = notes["beta"]
    assert 0 <= low < high <= ap.LARGEST
    assert high - low <= ap.LARGEST / 2**ap.STEPS
    sets = {
        g.name: {exemplars(similarity(net, g), beta) for beta in (low, high) if beta}
        for g in net.groups
    }
    floor = {g.name: max(1, int(0.1 * g.width)) for g in net.groups}
    own = [n for n, kept in plan.keep.items() if kept not in sets[n] and len(kept) > floor[n]]
    assert len(own) <= 1, own  # the group in which the target is met


def test_exemplars_are_what_stays_where_the_preference_meets_the_target() -> None:
    """Layers that do not change between the two betas keep exactly the exemplars of both."""
    net = tiny.network("vgg")
    plan, notes = prune(net)
    low, high = notes["beta"]
    for group in net.groups:
        s = similarity(net, group)
        if exemplars(s, low) == exemplars(s, high):
            assert plan.keep[group.name] == exemplars(s, low)
    assert notes["exemplars"].keys() == plan.keep.keys()


def test_floors_are_filled_with_the_filters_that_help_most() -> None:
    net = tiny.network("resnet")
    floor = {g.name: g.width // 2 for g in net.groups}
    most = 1 - net.macs(floor) / net.macs()
    plan, notes = prune(net, Budget(0.98 * most, 0.5, "global"))
    short = [n for n, width in floor.items() if notes["exemplars"][n] < width]
    assert short
    assert all(len(kept) >= floor[n] for n, kept in plan.keep.items())
    low, high = notes["beta"]
    for group in (g for g in net.groups if g.name in short):
        s = similarity(net, group)
        sets = [greedy(s, exemplars(s, beta), floor[group.name]) for beta in (low, high)]
        assert plan.keep[group.name] in sets


def test_beyond_the_largest_beta_groups_shrink_to_their_floors() -> None:
    net = tiny.network("vgg")
    most = net.macs({g.name: 1 for g in net.groups}) / net.macs()
    plan, notes = prune(net, Budget(1 - most, 0.0, "global"))
    assert set(plan.widths().values()) == {1}
    assert notes["beta"] == [] or notes["beta"][1] <= ap.LARGEST


def test_what_is_out_of_reach_is_told() -> None:
    with pytest.raises(Unsupported, match="out of reach"):
        prune(tiny.network("resnet"), Budget(0.95, 0.1, "global"))


def test_uniform_widths_keep_exemplars_of_those_widths() -> None:
    net = tiny.network("vgg")
    budget = Budget(0.5)
    plan, _ = prune(net, budget)
    assert plan.widths() == net.allocate(budget)
    for group in net.groups:
        s, width = similarity(net, group), len(plan.keep[group.name])
        found = of_width(s, width)
        assert plan.keep[group.name] == greedy(s, found, width)


def test_it_is_the_same_whatever_happened_before() -> None:
    plans = []
    for _ in range(2):
        np.random.rand(3)
        torch.rand(2)
        plans.append(prune(tiny.network("resnet"))[0])
    assert plans[0] == plans[1]


def test_the_clean_variant_changes_no_weight() -> None:
    net = tiny.network("vgg")
    before = tiny.state_of(net)
    prune(net)
    assert tiny.same(before, tiny.state_of(net))


# ---- the official variant ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_the_official_variant_is_the_code(kind: Any) -> None:
    """METHODS 10 layer by layer: scikit-learn on the flattened filters, the preference from column
    medians; what is not copied starts anew."""
    net, before = tiny.network(kind), tiny.network(kind)
    betas = (0.9, 0.6, 0.5)
    plan, notes = prune(net, Budget(0.0, 0.0, "global"), betas="0.9, 0.6, 0.5", renew=True)
    for layer, beta in zip(net.layers, betas, strict=True):
        rows = before.weight(layer).detach().flatten(1).double().numpy()
        affinity = -euclidean_distances(rows, squared=True)
        preference = np.median(affinity, axis=0) * beta
        fitted = AffinityPropagation(preference=preference, random_state=0).fit(rows)
        assert plan.keep[layer] == tuple(fitted.cluster_centers_indices_)
        assert torch.equal(net.weight(layer), before.weight(layer))
        norm = net.norm(layer)
        fresh = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        for tensor, start in zip(fresh, (1, 0, 0, 1), strict=True):
            assert (tensor == start).all()
        assert net.bias(layer) is None or (net.bias(layer) == 0).all()
    assert 0 < sum(plan.widths().values()) < sum(g.width for g in net.groups)
    assert "beta" not in notes
    heads = {"resnet": ("fc", False), "vgg": ("linear1", True)}
    head, anew = heads[kind]
    assert torch.equal(net.weight(head), before.weight(head)) != anew
    if kind == "resnet":
        assert torch.equal(net.module("bn1").weight, before.module("bn1").weight)  # the stem's


def test_layers_with_beta_zero_stay_as_they_are() -> None:
    net, before = tiny.network("resnet"), tiny.network("resnet")
    plan, _ = prune(net, betas="0, 0.8, 0", renew=True)
    assert list(plan.keep) == [net.groups[1].name]
    for layer in (net.layers[0], net.layers[2]):
        assert torch.equal(net.norm(layer).weight, before.norm(layer).weight)


def test_betas_must_fit_the_network() -> None:
    with pytest.raises(Unsupported, match=r"epruner\.betas: 2 values for 3 prunable layers"):
        prune(tiny.network("resnet"), betas="2*0.7")


def test_multiples_are_for_others() -> None:
    assert not EPruner().rounds
