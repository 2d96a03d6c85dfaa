"""DepGraph: a worked example, group norms against torch-pruning's, the pull of sparse training."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F
from torch_pruning.pruner.function import BasePruningFunc

from benchmark import select
from benchmark.cifar_resnet import Shortcut
from benchmark.network import Network
from benchmark.randomise import randomise
from benchmark.spec import Recipe
from benchmark.tracing import is_depthwise
from methods import build, find
from methods.api import Budget, Plan
from methods.depgraph import PUBLISHED_RATE, DepGraph, Parts, group_norm, places, pull, tied

EXAMPLE = torch.zeros(1, 3, 16, 16)
SPARSE = DepGraph(sparse=True, sparse_epochs=1.0)


class Flat(nn.Module):
    """The classifier reads maps of 2 x 2, flattened: four columns per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm_a(self.a(x))), 8)
        return self.fc(F.relu(self.norm_b(self.b(x))).flatten(1))


class Separable(nn.Module):
    """A depthwise convolution between two plain ones, then a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.deep, self.norm_deep = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.c, self.norm_c = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.d = nn.Conv2d(8, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_deep(self.deep(F.relu(self.norm_a(self.a(x))))))
        x = F.relu(self.norm_c(self.c(F.relu(self.norm_b(self.b(x))))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.d(x)), 1).flatten(1))


class Joined(nn.Module):
    """Two maps are put side by side: their channels have one norm and one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.c = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 3, padding=1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.c(x)), 1).flatten(1))


def network(kind: str) -> Network:
    """In scope `all`, with random weights and statistics."""
    if kind in ("resnet", "vgg"):
        return tiny.network(kind, scope="all")  # type: ignore[arg-type]
    model = {"flat": Flat, "separable": Separable, "joined": Joined}[kind]()
    return Network(randomise(model, 0), EXAMPLE, "all").eval()


def weights_of(net: Network, group: str) -> Parts:
    """All weights that go with the units of a group."""
    return tied(net, places(net, group))  # type: ignore[arg-type]


KINDS = ["resnet", "vgg", "flat", "separable", "joined"]


class Apart(BasePruningFunc):
    """The two sides of a shortcut have channels of their own."""

    def prune_out_channels(self, layer: Any, idxs: list[int]) -> Any:
        return layer

    def prune_in_channels(self, layer: Any, idxs: list[int]) -> Any:
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return len(layer.source)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.width_in)


def their_pruner(model: nn.Module) -> Any:
    """torch-pruning's own pruner, which finds its groups itself; the classifier stays."""
    return torch_pruning.pruner.GroupNormPruner(
        model,
        EXAMPLE,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        reg=0.5,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)],
        customized_pruners={Shortcut: Apart()},
    )


def written_by(pruner: Any, group: Any, model: nn.Module) -> list[str]:
    names = {m: n for n, m in model.named_modules()}
    parts = [(dep.target.module, dep.handler) for dep, _ in group]
    return [names[m] for m, h in parts if m in names and pruner.DG.is_out_channel_pruning_fn(h)]


# ---- group norms ---------------------------------------------------------------------------------


def test_worked_example() -> None:
    """One layer of two filters (3, 4 and 0, 2 of three weights), norm scales 1 and 3, one reader
    with columns (1, 1) and (2, 0): squares 25 + 1 + 2 and 4 + 9 + 4, three tensors."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.fc = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.adaptive_avg_pool2d(F.relu(self.norm(self.a(x))), 1).flatten(1))

    net = Network(Net(), torch.zeros(1, 3, 4, 4))
    with torch.no_grad():
        net.weight("a").copy_(torch.tensor([[3.0, 4, 0], [0, 2, 0]]).view(2, 3, 1, 1))
        net.norm("a").weight.copy_(torch.tensor([1.0, -3.0]))
        net.weight("fc").copy_(torch.tensor([[1.0, 2], [1, 0]]))
        net.bias("a").fill_(100.0)  # type: ignore[union-attr]  # biases do not count
        assert group_norm(weights_of(net, "a")).tolist() == pytest.approx([28 / 3, 17 / 3])
    scores = DepGraph().score(net, None)  # type: ignore[arg-type]
    assert scores["a"].tolist() == pytest.approx([28 / 22.5, 17 / 22.5])
    scores = DepGraph(normalise="max").score(net, None)  # type: ignore[arg-type]
    assert scores["a"].tolist() == pytest.approx([1, 17 / 28])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch_pruning(kind: str) -> None:
    """On inner and coupled groups. It leaves depthwise filters out and counts a grouped layer's
    column once for every convolution group, so these are compared without them."""
    net = network(kind)
    model = net.dense().eval()
    pruner = their_pruner(model)
    compared = set()
    for group in pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers):
        name = next((n for n in written_by(pruner, group, model) if n in net.map.widths), "")
        if name not in {g.name for g in net.groups}:
            continue
        if kind == "separable" and name in ("b", "c"):
            continue
        deep = {n for n in net.map.writes if is_depthwise(net.module(n))}
        without = {k: w for k, w in weights_of(net, name).items() if k[0] not in deep}
        theirs = pruner.importance(group)  # divided by its mean
        ours = group_norm(without).detach()
        torch.testing.assert_close(ours / ours.mean(), theirs, rtol=1e-5, atol=1e-6)
        compared.add(name)
    assert len(compared) >= len(net.groups) - 2 * (kind == "separable") >= 1
    coupled = {g.name for g in net.groups if g.coupled}
    assert coupled <= compared
    assert bool(coupled) == (kind == "resnet")


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_are_those_that_removal_takes_away(kind: str) -> None:
    """What stays of the smaller network's groups are the rows of the units that were kept."""
    net = network(kind)
    for group in net.groups:
        keep = tuple(u for u in range(group.width) if u != 1)
        small = Network(net.remove(Plan({group.name: keep})), EXAMPLE, "all")
        before, after = weights_of(net, group.name), weights_of(small, group.name)
        assert before.keys() == after.keys()
        for name, weights in after.items():
            assert len(before[name]) == group.width
            assert torch.equal(weights, before[name][list(keep)]), name
        weights_gone = sum(
            p.numel() - found[name].numel()
            for found in [dict(small.traced.named_parameters())]
            for name, p in net.traced.named_parameters()
            if name.endswith("weight")
        )
        assert weights_gone == sum(w.shape[1] for w in before.values())  # nothing is missing


def test_gradients_reach_the_unit_and_nothing_else() -> None:
    net = network("flat")
    sum(w[2].sum() for w in weights_of(net, "b").values()).backward()  # type: ignore[union-attr]
    row = torch.zeros(5, 6, 3, 3)
    row[2] = 1
    column = torch.zeros(4, 20)
    column[:, 8:12] = 1  # channel 2 of maps of 2 x 2
    scale = torch.zeros(5)
    scale[2] = 1
    assert torch.equal(net.module("b").weight.grad, row)  # type: ignore[arg-type]
    assert torch.equal(net.module("fc").weight.grad, column)  # type: ignore[arg-type]
    assert torch.equal(net.module("norm_b").weight.grad, scale)  # type: ignore[arg-type]
    assert net.module("a").weight.grad is None
    assert list(weights_of(net, "b")) == [("b", 0), ("norm_b", 0), ("fc", 1)]


def test_groups_follow_the_network_to_new_weights() -> None:
    net = network("resnet")
    name = net.groups[0].name
    before = group_norm(weights_of(net, name)).detach()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(group_norm(weights_of(net, name)).detach(), 4 * before)
    other = net.copy()
    with torch.no_grad():
        other.weight(net.groups[0].layers[0]).zero_()
    torch.testing.assert_close(group_norm(weights_of(net, name)).detach(), 4 * before)


# ---- scores of units as scores of layers ---------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_spread_scores_come_back(kind: str) -> None:
    net = network(kind)
    draw = torch.Generator().manual_seed(0)
    units = {g.name: torch.rand(g.width, generator=draw).double() for g in net.groups}
    scores = net.spread(units)
    assert {n: len(s) for n, s in scores.items()} == {n: len(net.weight(n)) for n in net.layers}
    back = net.group_scores(scores, comparable=True)
    assert back.keys() == units.keys()
    for name in units:
        torch.testing.assert_close(back[name], units[name])


def test_spread_refuses_scores_that_do_not_fit() -> None:
    net = network("flat")
    with pytest.raises(ValueError, match=r"score of a has shape \(5,\), needs \(6,\)"):
        net.spread({"a": torch.zeros(5)})
    with pytest.raises(ValueError, match="not finite"):
        net.spread({"a": torch.full((6,), torch.nan)})


@pytest.mark.parametrize("normalise", ["mean", "max"])
@pytest.mark.parametrize("scope", ["inner", "all"])
def test_ranks_groups_by_their_relative_norm(
    scope: Any, normalise: Any, tiny_network: tiny.MakeNetwork
) -> None:
    """All units of all groups stand in one row, by norm over mean or largest norm of the group."""
    net, method = tiny_network(scope=scope), DepGraph(normalise=normalise)
    scores = method.score(net, None)  # type: ignore[arg-type]
    budget = Budget(0.5, 0.0, "global")
    relative = {}
    for group in net.groups:
        norm = group_norm(weights_of(net, group.name)).detach().double()
        relative[group.name] = norm / (norm.mean() if normalise == "mean" else norm.max())
    found = net.group_scores(scores, method.comparable)
    assert all(torch.allclose(found[g], relative[g]) for g in relative)
    widths = select.global_widths(net.limits(budget), relative, budget, net.macs)
    assert method.select(net, scores, budget) == select.best(relative, widths)  # type: ignore[arg-type]


def test_a_group_without_weights_scores_zero() -> None:
    net = network("flat")
    with torch.no_grad():
        for weights in (net.module("a"), net.module("norm_a"), net.module("b")):
            weights.weight.zero_()  # type: ignore[operator, union-attr]
    assert DepGraph().score(net, None)["a"].tolist() == [0.0] * 6  # type: ignore[arg-type]


def test_depthwise_filters_are_tied_to_their_input() -> None:
    net = network("separable")
    assert [(at, tuple(w.shape)) for at, w in weights_of(net, "a").items()] == [
        (("a", 0), (6, 27)),
        (("norm_a", 0), (6, 1)),
        (("deep", 0), (6, 9)),
        (("norm_deep", 0), (6, 1)),
        (("b", 1), (6, 8)),
    ]


def test_weights_stand_in_execution_order() -> None:
    """Layers that write the residual stream and layers that read it take turns."""
    net = network("resnet")
    stream = next(g.name for g in net.groups if g.coupled)
    found = list(weights_of(net, stream))
    assert found == sorted(found, key=lambda at: (net.order.index(at[0]), at[1]))
    assert [dim for _, dim in found] != sorted(dim for _, dim in found)


def test_norms_without_scales_have_no_weights() -> None:
    model = Flat()
    model.norm_a = nn.BatchNorm2d(6, affine=False)
    net = Network(model, EXAMPLE, "all")
    assert list(weights_of(net, "a")) == [("a", 0), ("b", 1)]


# ---- sparse training -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vgg", "flat", "joined"])
def test_the_pull_is_torch_prunings(kind: str) -> None:
    """Its regularizer adds to gradients, ours to the loss: the same gradients."""
    net = network(kind)
    model = net.dense().eval()
    pruner = their_pruner(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(model)
    pull(net, 0.5)().backward()
    found = dict(net.traced.named_parameters())
    seen = set()
    for name, parameter in model.named_parameters():
        ours = found[name].grad
        theirs = parameter.grad
        assert theirs is not None
        if ours is None:
            assert not bool(theirs.any()), name
            continue
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        if bool(theirs.any()):
            seen.add(name)
    assert seen == {f"{name}.weight" for g in net.groups for name, _ in weights_of(net, g.name)}


def test_the_pull_by_hand() -> None:
    """s = 1, 2 and 3 of one tensor: 16, 4 and 1 times the strength times w."""
    weight = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)

    class Net:
        groups = (SimpleNamespace(name="g"),)
        order = ("a",)

        def rows(self, group: str) -> dict[str, Tensor]:
            return {"a": torch.arange(3)[:, None]}

        def columns(self, group: str) -> dict[str, Tensor]:
            return {}

        def module(self, layer: str) -> Any:
            return SimpleNamespace(weight=weight)

    pull(Net(), 0.1)().backward()  # type: ignore[arg-type]
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == pytest.approx([1.6, 0.8, 0.3])
    with torch.no_grad():
        weight.fill_(2.0)  # equal norms: the strength alone
    weight.grad = None
    pull(Net(), 0.1)().backward()  # type: ignore[arg-type]
    assert weight.grad[:, 0].tolist() == pytest.approx([0.2] * 3)  # type: ignore[index]


def test_sparse_training_is_charged_and_draws_norms_apart(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    apart = {}
    for name, when in (("before", net.copy()), ("after", net)):
        if name == "after":
            SPARSE.score(net, run)  # type: ignore[arg-type]
        norms = [group_norm(weights_of(when, g.name)).detach().sqrt() for g in net.groups]
        apart[name] = torch.stack([n.min() / n.max() for n in norms]).mean()
    assert run.ledger.spent == tiny.TRAIN
    assert apart["after"] < apart["before"]
    assert run.notes["median_norm_change"] > 0.05
    assert "label" not in run.notes
    assert 0 < run.notes["strength_used"] <= run.notes["strength_matching_published"]


def test_an_idle_penalty_is_told(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    run = tiny_trainer(recipe=Recipe(epochs=4, lr=1e-6, batch_size=25))
    weak = DepGraph(sparse=True, sparse_epochs=1.0, strength=1e-12)
    weak.score(tiny_network(), run)  # type: ignore[arg-type]
    assert run.notes["median_norm_change"] < 0.05
    assert run.notes["label"] == "DepGraph (sparsity inactive)"


def test_strength_of_the_published_length_is_the_published_one() -> None:
    rates = [0.01] * (390 * 60) + [0.001] * (390 * 20) + [0.0001] * (390 * 20)
    assert sum(rates) == pytest.approx(PUBLISHED_RATE)
    assert DepGraph()._strength(rates) == pytest.approx(5e-4)
    short = [0.01] * 390
    assert DepGraph()._matching(short) == pytest.approx(5e-4 * 62.2)
    used = DepGraph()._strength(short)
    assert 5e-4 < used < DepGraph()._matching(short)
    # half-way between the strongest and the weakest, the pull alone leaves 1 / e
    assert used * 4 * sum(short) / (1 - 0.9) == pytest.approx(1.0)
    assert DepGraph(strength=0.9)._strength(short) == 0.9  # one's own word is not limited


def test_only_the_sparse_variant_trains(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    before = tiny.state_of(net)
    plain = build(find("depgraph"), find("depgraph").resolved(find("depgraph").params(), 4.0))
    plain.score(net, run)
    assert run.ledger.entries == []
    assert tiny.same(tiny.state_of(net), before)
    assert not plain.prepares
    sparse = find("depgraph:sparse")
    method = build(sparse, sparse.resolved(sparse.params(), 4.0))
    assert method.prepares
    assert method.sparse_epochs == 2.0  # type: ignore[attr-defined]


def test_scores_see_what_was_trained(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network()
    plain = DepGraph().score(copy.deepcopy(net), None)  # type: ignore[arg-type]
    sparse = SPARSE.score(net, tiny_trainer())  # type: ignore[arg-type]
    assert not any(torch.equal(plain[n], sparse[n]) for n in net.layers)
    again = DepGraph().score(net, None)  # type: ignore[arg-type]
    assert all(torch.equal(again[n], sparse[n]) for n in net.layers)
