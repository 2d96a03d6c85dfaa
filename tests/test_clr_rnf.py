"""CLR-RNF: the worked examples of METHODS 11, the official code stated again, whole networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import archs
from benchmark.network import Network
from methods import find
from methods.api import Budget, Plan, Unsupported
from methods.clr_rnf import CLRRNF, levels, nearest_first, official_order, removed

GLOBAL = Budget(0.5, 0.1, "global")
LINE = torch.tensor([[0.0], [1], [1.5], [2.2], [5]])
LAYERS = {
    "one": torch.tensor([0.5, -0.1, 0.05, 0.9, 0.3, -0.02]),
    "two": torch.tensor([1.2, -0.7, 0.2, 0.4, 0.6, 0.01]),
}


def filters(count: int, seed: int, width: int = 12) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def prune(net: Network, budget: Budget = GLOBAL, **params: Any) -> Plan:
    method, run = CLRRNF(**params), tiny.trainer()
    return method.select(net, method.score(net, run), budget)


# ---- widths --------------------------------------------------------------------------------------


def test_the_worked_example_of_widths() -> None:
    assert removed(LAYERS, 0.5) == {"one": 4 / 6, "two": 2 / 6}


def literal_widths(
    weights: dict[str, Tensor], counts: dict[str, int], share: float
) -> dict[str, int]:
    """METHODS 11, one weight after the other: weights are divided by their costs already."""
    everything = sorted(
        (abs(float(v)) for w in weights.values() for v in w.flatten()), reverse=True
    )
    stay = int(len(everything) * (1 - share))
    threshold = everything[stay - 1]
    found = {}
    for name, w in weights.items():
        below = sum(abs(float(v)) < threshold for v in w.flatten())
        found[name] = int(counts[name] * (1 - below / w.numel()))
    return found


def test_scores_ranked_together_give_the_widths_of_any_threshold() -> None:
    """The d-th, 2 d-th, ... largest weights of a layer: as many of them reach a threshold as the
    layer keeps filters."""
    layers = {"a": filters(8, 0), "b": 0.5 * filters(5, 1, 20), "c": 2 * filters(16, 2, 3)}
    counts = {name: len(w) for name, w in layers.items()}
    everything = torch.cat([w.abs().flatten() for w in layers.values()]).sort(descending=True)
    for share in (0.1, 0.35, 0.5, 0.77, 0.9, 0.99):
        stay = int(len(everything.values) * (1 - share))
        threshold = everything.values[stay - 1]
        expected = literal_widths(layers, counts, share)
        assert {n: int((levels(w) >= threshold).sum()) for n, w in layers.items()} == expected
        for name, gone in removed(layers, share).items():
            assert int(counts[name] * (1 - gone)) == expected[name]


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("cut", [0.3, 0.5, 0.7])
def test_the_target_is_met_by_widths_of_the_rule(kind: Any, cut: float) -> None:
    """No share of weights gives widths nearer to the target."""
    net = tiny.network(kind)
    plan = prune(net, Budget(cut, 0.0, "global"), cost_power=0.0)
    weights = {g.name: net.weight(g.layers[0]).detach() for g in net.groups}
    gaps = {}
    for per_mille in range(50, 996, 5):
        gone = removed(weights, per_mille / 1000)
        widths = {g.name: int(g.width * (1 - gone[g.name])) for g in net.groups}
        if all(widths.values()):
            gaps[abs(1 - net.macs(widths) / net.macs() - cut)] = widths
    reached = abs(1 - net.macs(plan.widths()) / net.macs() - cut)
    assert reached <= min(gaps) + 1e-9
    near = gaps[min(gaps)]
    assert sum(abs(near[n] - w) for n, w in plan.widths().items()) <= 2


def test_costs_are_what_goes_with_the_group() -> None:
    net = tiny.network("vgg")
    first, second, third = net.groups
    macs = []
    for group in net.groups:
        none = net.macs({group.name: 0})
        macs.append(net.macs() - none)
    scale = CLRRNF(cost_power=2.0)._scale(net)
    assert [scale[g.layers[0]] for g in (first, second, third)] == pytest.approx(
        [(m / macs[0]) ** 2 for m in macs]
    )
    # 8 and 16 filters of 3 x 3 at 16 x 16 and at 8 x 8
    assert macs[0] == 9 * (16 * 16 * 3 * 8 + 8 * 8 * 8 * 16)
    flat = prune(net, cost_power=0.0).widths()
    steep = prune(net, cost_power=4.0).widths()
    dearest = max(net.groups, key=lambda g: scale[g.layers[0]]).name
    assert steep[dearest] < flat[dearest]


# ---- filters -------------------------------------------------------------------------------------


def test_the_worked_example_of_filters() -> None:
    """In common among the k nearest: none for k = 2, {2} for 3, {1, 2, 3} for 4. Of 1 and 3, 1 has
    the lower mean distance (6.7 / 5 against 6.9 / 5)."""
    assert nearest_first(LINE).tolist() == [2, 1, 3, 0, 4]
    assert set(official_order(LINE)[:2].tolist()) in ({2, 1}, {2, 3})


def loops(weights: Tensor, m: int) -> tuple[int, ...]:
    """k = m, m + 1, ... until the k nearest of all have m in common; too many: those of before and
    the new ones with the lowest mean distance."""
    n = len(weights)
    far = [[float((weights[i].double() - w.double()).norm()) for w in weights] for i in range(n)]
    nearest = [sorted(range(n), key=lambda j: (far[i][j], j)) for i in range(n)]
    before: set[int] = set()
    for k in range(m, n + 1):
        common = set(range(n))
        for i in range(n):
            common &= set(nearest[i][:k])
        if len(common) >= m:
            new = sorted(common - before, key=lambda j: sum(far[i][j] for i in range(n)))
            return tuple(sorted([*before, *new][:m]))
        before = common
    raise AssertionError("all n are in common in the end")


@pytest.mark.parametrize("seed", range(4))
def test_the_first_filters_are_those_of_the_obvious_loops(seed: int) -> None:
    weights = filters(14, seed)
    order = nearest_first(weights)
    for m in range(1, 15):
        assert tuple(sorted(order[:m].tolist())) == loops(weights, m), m


def test_filters_near_to_all_others_stay() -> None:
    weights = torch.cat([filters(9, 0), filters(9, 0).mean(0, keepdim=True)])
    assert nearest_first(weights)[0] == 9


def official(weights: Tensor, m: int) -> set[int]:
    """The filters that the code keeps (METHODS 11), with its sets and with float32."""
    w = weights.float()
    norm = (w**2).sum(1).view(-1, 1)
    distance = torch.clamp(norm + norm.view(1, -1) - 2.0 * torch.mm(w, w.t()), 0.0, math.inf)
    similar = F.normalize(torch.exp(-distance), 1)
    nearest = torch.sort(similar, descending=True, stable=True)[1].tolist()
    k, kept = m, set()
    while len(kept) < m:
        kept = set(nearest[0][:k]).intersection(*[row[:k] for row in nearest[1:]])
        if len(kept) > m:
            before = set(nearest[0][: k - 1]).intersection(*[row[: k - 1] for row in nearest[1:]])
            rest = kept.difference(before)
            while len(before) != m:
                before.add(rest.pop())
            kept = before
        k += 1
    return kept


@pytest.mark.parametrize(
    "weights",
    [
        filters(14, 0),
        filters(40, 1, 4),
        30 * filters(20, 2),  # similarities of 0
        1e-5 * filters(20, 3),  # similarities of 1
        torch.randint(0, 2, (70, 5), generator=torch.Generator().manual_seed(4)).float(),
        LINE,
        filters(1, 5),
        filters(2, 6),
    ],
    ids=lambda w: f"{len(w)}x{w.shape[1]}",
)
def test_the_official_order_is_the_code_for_every_width(weights: Tensor) -> None:
    order = official_order(weights)
    assert sorted(order.tolist()) == list(range(len(weights)))
    for m in range(1, len(weights) + 1):
        assert set(order[:m].tolist()) == official(weights, m), m


def test_the_official_similarities_lose_what_distances_tell() -> None:
    weights = 1e-5 * filters(20, 3)
    assert not torch.equal(official_order(weights), nearest_first(weights))
    assert torch.equal(nearest_first(weights), nearest_first(1e5 * weights))


def test_equal_filters_share_a_place() -> None:
    weights = torch.cat([torch.zeros(3, 4), filters(6, 0, 4)])
    order = nearest_first(weights).tolist()
    first = order.index(0)
    assert order[first : first + 3] == [0, 1, 2]  # ties: lower index


# ---- whole networks ------------------------------------------------------------------------------


def test_a_layer_keeps_the_filters_that_come_first() -> None:
    net = tiny.network("resnet")
    for budget in (GLOBAL, Budget(0.5)):
        plan = prune(net, budget)
        for group in net.groups:
            order = nearest_first(net.weight(group.layers[0]).detach().flatten(1))
            kept = plan.keep[group.name]
            assert kept == tuple(sorted(order[: len(kept)].tolist()))
        assert abs(1 - net.macs(plan.widths()) / net.macs() - 0.5) < 0.05
    assert plan.widths() == net.allocate(Budget(0.5))


def test_the_clean_variant_changes_no_weight() -> None:
    net = tiny.network("vgg")
    before = tiny.state_of(net)
    prune(net)
    assert tiny.same(before, tiny.state_of(net))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_official_variant_is_the_code(kind: Any, share: float) -> None:
    net, before = tiny.network(kind), tiny.network(kind)
    costs, power = (1.0, 0.9, 0.6), 2.0
    plan = prune(
        net, Budget(0.9, 0.0, "global"), pr_target=share, costs="1, 0.9, 0.6", cost_power=power,
        nearest="similarity", renew=True,
    )  # fmt: skip
    weights = {n: before.weight(n).detach() for n in before.layers}
    scaled = {n: w / math.pow(c, power) for (n, w), c in zip(weights.items(), costs, strict=True)}
    widths = literal_widths(scaled, {n: len(w) for n, w in weights.items()}, share)
    for layer, weight in weights.items():
        expected = official(weight.flatten(1), max(1, widths[layer]))
        assert plan.keep[layer] == tuple(sorted(expected))
        assert torch.equal(net.weight(layer), weight)
        norm = net.norm(layer)
        fresh = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        for tensor, start in zip(fresh, (1, 0, 0, 1), strict=True):
            assert (tensor == start).all()
    assert widths != {n: len(w) for n, w in weights.items()}
    head, anew = {"resnet": ("fc", False), "vgg": ("linear1", True)}[kind]
    assert torch.equal(net.weight(head), before.weight(head)) != anew


def test_a_layer_keeps_one_filter_at_least() -> None:
    plan = prune(tiny.network("resnet"), Budget(0.5, 0.0, "global"), pr_target=0.999)
    assert min(plan.widths().values()) == 1


def test_layers_of_no_cost_stay_whole_and_do_not_compete() -> None:
    net, before = tiny.network("resnet"), tiny.network("resnet")
    first, second, third = net.layers
    budget = Budget(0.2, 0.0, "global")
    for params in ({"pr_target": 0.6}, {}):
        plan = prune(net, budget, costs="1, 0, 1", renew=True, **params)
        assert len(plan.keep[second]) == len(net.weight(second))
        assert len(plan.keep[third]) < len(net.weight(third))
    assert torch.equal(net.norm(second).weight, before.norm(second).weight)
    own = {n: net.weight(n).detach() for n in (first, third)}
    widths = literal_widths(own, {n: len(w) for n, w in own.items()}, 0.6)
    plan = prune(net, budget, costs="1, 0, 1", pr_target=0.6)
    assert {n: len(plan.keep[n]) for n in own} == widths


def test_costs_must_fit_the_network() -> None:
    with pytest.raises(Unsupported, match=r"clr_rnf\.costs: 4 values for 3 prunable layers"):
        prune(tiny.network("resnet"), costs="4*1")


class Grouped(nn.Module):
    """A unit of the first layer has two filters: the same place in both groups of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.next = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.next(F.relu(self.first(x)))).mean((2, 3)))


def test_units_of_several_filters_are_compared_as_one() -> None:
    torch.manual_seed(0)
    net = Network(Grouped(), torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).eval()
    plan = prune(net, Budget(0.4, 0.1, "global"))
    method = CLRRNF()
    scores = net.group_scores(method.score(net, tiny.trainer()), comparable=True)
    for group in net.groups:
        weight = net.weight(group.layers[0]).detach()
        units = torch.cat([weight[:4].flatten(1), weight[4:].flatten(1)], 1)
        whole = levels(units) / method._scale(net)[group.layers[0]]
        found = scores[group.name].sort(descending=True).values
        torch.testing.assert_close(found, whole.double())
        kept = plan.keep[group.name]
        assert kept == tuple(sorted(nearest_first(units)[: len(kept)].tolist()))
    assert any(len(kept) < 4 for kept in plan.keep.values())


def test_multiples_are_met_unless_a_share_of_weights_is_asked_for() -> None:
    net, budget = tiny.network("vgg"), Budget(0.5, 0.1, "global", round_to=4)
    assert all(w % 4 == 0 for w in prune(net, budget).widths().values())
    with pytest.raises(Unsupported, match="--round-to"):
        prune(net, budget, pr_target=0.5)


# ---- the card ------------------------------------------------------------------------------------


def test_costs_of_the_card_are_flops_of_layers_and_blocks() -> None:
    """They follow from the networks, with a few operations per value beside multiplications."""
    recipes = find("clr_rnf:official")
    vgg = Network(archs.build("vgg16-linear", 10), torch.zeros(1, 3, 32, 32))
    values = {n: t.scale // vgg.weight(n)[0, 0].numel() for n, t in terms(vgg).items()}
    flops = [values[n] * len(vgg.weight(n)) * (vgg.weight(n)[0].numel() + 5) for n in vgg.layers]
    expected = [f / flops[0] for f in flops]
    assert costs_of(recipes.recipe("vgg16-linear"), vgg) == pytest.approx(expected, abs=6e-6)
    net = Network(archs.build("resnet56", 10), torch.zeros(1, 3, 32, 32))
    size = {n: t.scale // 9 * len(net.weight(n)) for n, t in terms(net).items() if n != "fc"}
    cost = {n: size[n] * (net.weight(n)[0].numel() + 4) for n in size}
    blocks = [cost[n] + cost[n.replace("conv1", "conv2")] for n in net.layers]
    blocks[0] += cost["conv1"]
    expected = [b / blocks[0] for b in blocks]
    assert costs_of(recipes.recipe("resnet56"), net) == pytest.approx(expected, abs=6e-6)


def terms(net: Network) -> dict[str, Any]:
    return {t.layer: t for t in net.terms}


def costs_of(recipe: dict[str, Any], net: Network) -> list[float]:
    scale = CLRRNF(costs=recipe["params"]["costs"], cost_power=1.0)._scale(net)
    return [scale[n] for n in net.layers]
