"""The traced network: faithful, exactly maskable, and unchanged by what was only borrowed."""

import copy
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_nets import (
    EXAMPLE,
    check_twin,
    images,
    random_model,
    random_network,
    random_plan,
    randomise,
    relative,
    same_maps,
)
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_vgg import CifarVgg
from benchmark.network import Network, Scope
from methods.api import Plan, Site, Unsupported

ARCHS = ["resnet8", "resnet20", "resnet56", "vgg16"]
SITES: tuple[Site, ...] = ("in", "conv", "norm", "act")


class Affine(nn.Module):
    """x * factor + shift: two of them do not commute, so their order shows."""

    def __init__(self, factor: float, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x * self.factor + self.shift


class PerChannel(nn.Module):
    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor[:, None, None])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x * self.factor


class ByLabel(nn.Module):
    """A factor per class: (K, C)."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x if labels is None else x * self.factors[labels][:, :, None, None]


def text(net: Network) -> tuple[str, ...]:
    graph = net.traced.graph.python_code("self").src
    return net.traced.code, graph, *net.state_dict(), *dict(net.named_modules())


def gate_names(net: Network) -> list[str]:
    return [n for n, _ in net.traced.named_children() if n.startswith("gate_")]


# ---- tracing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [*ARCHS, pytest.param("resnet110", marks=pytest.mark.slow)])
def test_tracing_changes_nothing(arch: str) -> None:
    model = random_model(arch)
    net = Network(model, EXAMPLE)
    x = images(4)
    assert list(net.traced.state_dict()) == list(model.state_dict())
    assert torch.equal(net.eval()(x), model.eval()(x))
    assert torch.equal(net.train()(x), model.train()(x))
    ours = net.traced.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in model.state_dict().items())  # BN statistics
    assert torch.equal(net.eval()(x), net.dense().eval()(x))


def test_the_given_model_is_left_alone() -> None:
    model = random_model("resnet8").train()
    before = copy.deepcopy(model.state_dict())
    net = Network(model, EXAMPLE, "all")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_frozen_parameters_do_not_hide_groups() -> None:
    free = random_network("resnet20", "all")
    model = random_model("resnet20").requires_grad_(False)
    frozen = Network(model, EXAMPLE, "all")
    assert frozen.groups == free.groups
    assert same_maps(frozen.map, free.map)
    assert not any(p.requires_grad for p in frozen.parameters())


# ---- scope ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "blocks"), [("resnet8", 1), ("resnet20", 3), ("resnet56", 9)])
def test_inner_scope_leaves_the_stream_out(arch: str, blocks: int) -> None:
    inner = [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in range(blocks)]
    net = random_network(arch)
    assert [g.layers for g in net.groups] == [(n,) for n in inner]
    assert net.layers == tuple(inner)
    assert [g.readers for g in net.groups] == [(n.replace("conv1", "conv2"),) for n in inner]
    assert [g.width for g in net.groups] == [16] * blocks + [32] * blocks + [64] * blocks


@pytest.mark.parametrize(("arch", "blocks"), [("resnet8", 1), ("resnet20", 3)])
def test_all_scope_adds_the_streams(arch: str, blocks: int) -> None:
    net = random_network(arch, "all")
    coupled = {g.layers for g in net.groups} - {(n,) for n in random_network(arch).layers}
    assert coupled == {
        ("conv1", *(f"layer1.{b}.conv2" for b in range(blocks))),
        tuple(f"layer2.{b}.conv2" for b in range(blocks)),
        tuple(f"layer3.{b}.conv2" for b in range(blocks)),
    }
    assert net.layers == net.convs
    assert net.group_of("layer3.0.conv2").readers[-1] == "fc"


def test_vgg_has_no_stream() -> None:
    inner, every = random_network("vgg16"), random_network("vgg16", "all")
    assert inner.groups == every.groups
    assert len(inner.groups) == 13
    assert inner.layers == inner.convs
    assert inner.groups[-1].readers == ("linear1",)  # the hidden layer itself is not a group


# ---- masked twin ---------------------------------------------------------------------------------


def check_arch(arch: str, scope: Scope, seed: int, low: float = 0.3, high: float = 0.7) -> None:
    check_twin(random_model(arch, seed), scope, seed, low, high)


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("arch", ARCHS)
def test_masked_equals_removed(arch: str, scope: Scope) -> None:
    check_arch(arch, scope, seed=0)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scope", ["inner", "all"])
def test_masked_equals_removed_for_other_plans(scope: Scope, seed: int) -> None:
    check_arch("resnet8", scope, seed, low=0.0, high=0.9)  # down to a single channel


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["inner", "all"])
def test_masked_equals_removed_at_110_layers(scope: Scope) -> None:
    check_arch("resnet110", scope, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("arch", ["resnet20", "resnet56", "vgg16"])
def test_masked_equals_removed_more_often(arch: str, scope: Scope, seed: int) -> None:
    check_arch(arch, scope, seed, low=0.1, high=0.9)


def test_removal_keeps_the_right_rows_of_every_tensor() -> None:
    net = random_network("resnet8")
    kept = (1, 5, 11)
    pruned, whole = (
        n.state_dict() for n in (net.remove(Plan({"layer2.0.conv1": kept})), net.traced)
    )
    rows = torch.tensor(kept)
    for key in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        name = f"layer2.0.{key}"
        assert torch.equal(pruned[name], whole[name][rows])
    assert torch.equal(pruned["layer2.0.conv2.weight"], whole["layer2.0.conv2.weight"][:, rows])
    touched = {k for k in whole if pruned[k].shape != whole[k].shape}
    assert touched == {
        *(f"layer2.0.bn1.{k}" for k in ("weight", "bias", "running_mean", "running_var")),
        "layer2.0.conv1.weight",
        "layer2.0.conv2.weight",
    }
    norm = net.remove(Plan({"layer2.0.conv1": kept})).get_submodule("layer2.0.bn1")
    assert norm.num_features == 3


@pytest.mark.parametrize("units", [(0, 40), (-1, 3), (32,)])
def test_units_that_do_not_exist_are_refused(units: tuple[int, ...]) -> None:
    net = random_network("resnet8")
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1"):
        net.remove(Plan({"layer2.0.conv1": units}))  # 32 units


def test_pruned_network_can_be_saved_and_trains() -> None:
    net = random_network("resnet8", "all")
    pruned = net.remove(random_plan(net)).train()
    torch.manual_seed(0)
    x, y = images(16), torch.arange(16) % 10
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(pruned(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in pruned.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    file = io.BytesIO()
    torch.save(pruned, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again.eval()(x), pruned.eval()(x))


def test_persistent_masks_add_up() -> None:
    net = random_network("resnet8", "all")
    plan = random_plan(net)
    x = images(4)
    groups = list(plan.keep)
    for count, group in enumerate(groups, 1):
        net.mask(group, plan.keep[group])
        so_far = Plan({g: plan.keep[g] for g in groups[:count]})
        assert relative(net(x), net.remove(so_far)(x)) <= 1e-5
    masked = net(x)
    with net.gated({"layer1.0.conv1": Affine(2, 1)}, "act"):
        assert relative(net(x), masked) > 1e-3
    assert torch.equal(net(x), masked)
    assert torch.equal(net.copy()(x), masked)
    assert relative(net.dense()(x), masked) > 0.1  # weights are still there
    assert net.dense().state_dict().keys() == random_model("resnet8").state_dict().keys()


# ---- gates ---------------------------------------------------------------------------------------


def hooked(model: nn.Module, layer: str, at: Site, change: Callable[[Tensor], Tensor]) -> Any:
    """The same gate on the original class by hooks; conv1 of a block has one reader, conv2."""
    names = {"in": layer, "conv": layer, "norm": layer.replace("conv1", "bn1")}
    module = model.get_submodule(names.get(at, layer.replace("conv1", "conv2")))
    if at in ("in", "act"):
        return module.register_forward_pre_hook(lambda _, x: (change(x[0]),))
    return module.register_forward_hook(lambda _, __, out: change(out))


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer2.0.conv1"])
@pytest.mark.parametrize("at", SITES)
def test_gates_act_at_their_site_in_order(layer: str, at: Site) -> None:
    net = random_network("resnet8")
    model, x = net.dense(), images(4)
    before, dense = text(net), net(x)
    first, second, third = Affine(2, 0.5), Affine(-1, 0.3), Affine(0.5, -1)
    with net.gated({layer: first}, at):
        with net.gated({layer: second}, at), net.gated({layer: third}, at):
            found = net(x)
        outer = net(x)
    with hooked(model, layer, at, first):
        expected = model(x)
    with hooked(model, layer, at, lambda m: third(second(first(m)))):
        expected_nested = model(x)
    assert relative(expected, dense) > 0.1
    assert relative(expected_nested, expected) > 0.1
    assert relative(outer, expected) <= 1e-6
    assert relative(found, expected_nested) <= 1e-6
    assert text(net) == before
    assert torch.equal(net(x), dense)


def test_gates_at_all_sites_at_once() -> None:
    net = random_network("resnet8")
    model, x, layer = net.dense(), images(4), "layer3.0.conv1"
    before = text(net)
    gates = {at: Affine(1.5 + i, 0.1 * i) for i, at in enumerate(SITES)}
    for order in (SITES, SITES[::-1]):
        with (
            net.gated({layer: gates[order[0]]}, order[0]),
            net.gated({layer: gates[order[1]]}, order[1]),
            net.gated({layer: gates[order[2]]}, order[2]),
            net.gated({layer: gates[order[3]]}, order[3]),
        ):
            found = net(x)
        handles = [hooked(model, layer, at, gate) for at, gate in gates.items()]
        assert relative(found, model(x)) <= 1e-6
        for handle in handles:
            handle.remove()
        assert text(net) == before


def test_gate_on_a_shared_stream_must_be_asked_for() -> None:
    net = random_network("resnet8", "all")
    with pytest.raises(Unsupported, match=r"layer1\.0\.conv2 has no site 'act'"):
        net.site("layer1.0.conv2", "act")
    x, model, change = images(2), net.dense(), Affine(3, 1)
    with net.gated({"layer3.0.conv2": change}, "act", through_add=True):
        found = net(x)
    with model.layer3[0].register_forward_hook(lambda _, __, out: change(out)):
        assert relative(found, model(x)) <= 1e-6


def test_code_is_restored_after_an_exception() -> None:
    net = random_network("resnet8")
    before, x = text(net), images(2)
    dense = net(x)
    gates = dict.fromkeys(net.layers, Affine(2, 0))

    def fail() -> None:
        with net.gated(gates, "act"):
            assert not torch.equal(net(x), dense)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert text(net) == before
    assert torch.equal(net(x), dense)


@pytest.mark.parametrize("layers", [("layer1.0.conv1", "layer1.0.conv2"), ("conv1", "nothing")])
def test_code_is_restored_when_a_gate_cannot_be_placed(layers: tuple[str, ...]) -> None:
    net = random_network("resnet8", "all")
    before = text(net)

    def fail() -> None:
        with net.tapped("act", layers):
            pass

    with pytest.raises((Unsupported, KeyError), match=re.escape(layers[1])):
        fail()
    assert text(net) == before


def test_layers_that_do_not_exist_are_named() -> None:
    net = random_network("resnet8", "inner")
    for layer in ("conv1", "nothing"):
        with pytest.raises(KeyError, match=f"{layer} writes no group within scope 'inner'"):
            net.group_of(layer)
    with pytest.raises(KeyError, match="no layer nothing"):
        net.has_site("nothing", "act")


def test_gate_names_are_never_used_twice() -> None:
    net = random_network("resnet8")
    x, seen = images(2), set[str]()
    layer, other = net.layers[:2]
    with net.gated({layer: Affine(2, 1)}, "conv"):
        alone = net(x)
        (outer,) = gate_names(net)
        for _ in range(3):
            with net.gated({layer: Affine(0, 3), other: Affine(1, 1)}, "conv"):
                names = set(gate_names(net)) - {outer}
                assert len(names) == 2
                assert not names & seen
                seen |= names
            assert gate_names(net) == [outer]
            assert torch.equal(net(x), alone)


def test_labels_reach_gates_only() -> None:
    net = random_network("resnet8")
    x, labels = images(6), torch.tensor([0, 1, 2, 0, 1, 2])
    factors = torch.rand(3, 16) + 0.5
    assert torch.equal(net(x, labels), net(x))
    with net.gated({"layer1.0.conv1": ByLabel(factors)}, "act"):
        found = net(x, labels)
    for k in range(3):
        with net.gated({"layer1.0.conv1": PerChannel(factors[k])}, "act"):
            assert relative(found[labels == k], net(x[labels == k])) <= 1e-6


def test_norm_is_found_behind_a_gate() -> None:
    net = random_network("resnet8")
    own = net.norm("layer1.0.conv1")
    with net.gated({"layer1.0.conv1": Affine(2, 0)}, "norm"), net.tapped("conv"):
        assert net.norm("layer1.0.conv1") is own
    assert isinstance(own, nn.BatchNorm2d)


def test_gates_are_trained_and_copied() -> None:
    net = random_network("resnet8")
    gate = PerChannel(torch.ones(16))
    with net.gated({"layer1.0.conv1": gate}, "act"):
        assert any(p is gate.factor for p in net.parameters())
        twin = net.copy()
        net(images(2)).sum().backward()
        with torch.no_grad():
            gate.factor.zero_()
        assert relative(net(images(2)), twin(images(2))) > 1e-3
    assert gate.factor.grad is not None
    assert not any(p is gate.factor for p in net.parameters())


# ---- taps ----------------------------------------------------------------------------------------


def record(model: nn.Module, layer: str, at: Site, store: dict[str, Tensor]) -> Any:
    def keep(x: Tensor) -> Tensor:
        x.retain_grad()
        store[layer] = x
        return x

    return hooked(model, layer, at, keep)


@pytest.mark.parametrize("at", SITES)
def test_taps_see_what_hooks_see(at: Site) -> None:
    net = random_network("resnet20")
    model, x, y = net.dense(), images(4), torch.arange(4)
    by_hook: dict[str, Tensor] = {}
    handles = [record(model, layer, at, by_hook) for layer in net.layers]
    F.cross_entropy(model(x), y).backward()
    with net.tapped(at) as maps:
        F.cross_entropy(net(x, y), y).backward()
        assert tuple(maps) == net.layers
        first = maps[net.layers[0]]
        net(images(4, seed=2))
        assert maps[net.layers[0]] is not first  # new at each forward pass
        net(x)
    for layer in net.layers:
        assert torch.equal(maps[layer], by_hook[layer])
    with net.tapped(at) as maps:
        F.cross_entropy(net(x), y).backward()
    for layer in net.layers:
        gradient, expected = maps[layer].grad, by_hook[layer].grad
        assert gradient is not None
        assert expected is not None
        assert relative(gradient, expected) <= 1e-5
    for handle in handles:
        handle.remove()


def test_taps_through_the_addition() -> None:
    net = random_network("resnet8", "all")
    model, x = net.dense(), images(3)
    blocks = {f"layer{s}.0.conv2": f"layer{s}" for s in (1, 2, 3)}
    expected: dict[str, Tensor] = {}
    for layer, stage in blocks.items():
        model.get_submodule(stage).register_forward_hook(
            lambda _, __, out, layer=layer: expected.update({layer: out})
        )
    model(x)
    with net.tapped("act", through_add=True) as maps, torch.no_grad():
        net(x)
    assert set(maps) == set(net.convs)
    for layer in blocks:
        assert torch.equal(maps[layer], expected[layer])
    stem = F.relu(model.bn1(model.conv1(x)))
    assert torch.equal(maps["conv1"], stem)
    block = model.layer1[0]
    assert torch.equal(maps["layer1.0.conv1"], F.relu(block.bn1(block.conv1(stem))))


def test_taps_and_gates_see_each_other_in_order() -> None:
    net = random_network("resnet8")
    layer, x = net.layers[0], images(2)
    with (
        net.tapped("act", (layer,)) as before,
        net.gated({layer: Affine(2, 1)}, "act"),
        net.tapped("act", (layer,)) as after,
    ):
        net(x)
    assert torch.equal(after[layer], 2 * before[layer] + 1)


def test_taps_of_a_network_without_gradients() -> None:
    net = random_network("resnet8")
    with net.tapped("conv", net.convs) as maps, torch.no_grad():
        net(images(2))
    assert [m.shape[1] for m in maps.values()] == [16, 16, 16, 32, 32, 64, 64]


# ---- folding -------------------------------------------------------------------------------------


def signed(width: int, seed: int = 0) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def check_fold(net: Network, layer: str, factor: Tensor) -> None:
    x, folded = images(4), net.copy()
    folded.scale_readers(layer, factor)
    with net.gated({layer: PerChannel(factor)}, "act"):
        expected = net(x)
    assert relative(expected, net(x)) > 1e-2
    assert relative(folded(x), expected) <= 1e-5
    own = net.weight(layer)
    assert torch.equal(folded.weight(layer), own)  # only readers change


@pytest.mark.parametrize("arch", ["resnet8", "resnet20", "resnet56"])
def test_folding_is_gating_by_a_constant(arch: str) -> None:
    net = random_network(arch)
    for layer in (net.layers[0], net.layers[len(net.layers) // 2], net.layers[-1]):
        check_fold(net, layer, signed(net.group_of(layer).width))


def narrow_vgg() -> Network:
    plan = (8, 8, 0, 16, 16, 0, 16)
    return Network(randomise(CifarVgg(10, plan)).eval(), EXAMPLE).eval()


def test_folding_through_pooling_needs_positive_factors() -> None:
    net = narrow_vgg()
    for i, layer in enumerate(net.layers):
        check_fold(net, layer, signed(net.group_of(layer).width, i).abs() + 0.1)
    for layer in (net.layers[0], net.layers[2], net.layers[4]):  # no max-pool behind them
        check_fold(net, layer, signed(net.group_of(layer).width))


def test_folding_all_layers_at_once() -> None:
    net = random_network("resnet20").double()
    x = images(3).double()
    factors = {n: signed(net.group_of(n).width, i).double() for i, n in enumerate(net.layers)}
    folded = net.copy()
    for layer, factor in factors.items():
        folded.scale_readers(layer, factor)
    with net.gated({n: PerChannel(f) for n, f in factors.items()}, "act"):
        assert relative(folded(x), net(x)) <= 1e-12


def test_folding_then_removing_is_removing_the_folded_columns() -> None:
    net = random_network("resnet8")
    layer, plan = net.layers[1], random_plan(net)
    factor = signed(net.group_of(layer).width)
    net.scale_readers(layer, factor)
    x, removed = images(2), net.remove(plan)
    with net.gated(net.masks(plan), "in"):
        assert relative(net(x), removed(x)) <= 1e-5


@pytest.mark.parametrize("layer", ["conv1", "layer2.0.conv2", "layer3.0.conv2"])
def test_shared_channels_cannot_be_folded(layer: str) -> None:
    # stage 2 and 3 of ResNet-8 have a single conv writer; the shortcut writes there as well
    net = random_network("resnet8", "all")
    with pytest.raises(Unsupported, match=re.escape(layer)):
        net.scale_readers(layer, torch.ones(net.group_of(layer).width))


def test_folding_into_grouped_convolutions() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)
            self.second, self.fc = nn.Conv2d(8, 12, 3, groups=2), nn.Linear(12, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
            return self.fc(x.mean((2, 3)))

    net = Network(randomise(Grouped()).eval(), EXAMPLE).eval()
    per_unit = signed(net.group_of("first").width)
    check_fold(net, "first", per_unit[net.map.writes["first"] - net.map.first["first"]])
    with pytest.raises(Unsupported, match="first: channels that go together"):
        net.scale_readers("first", torch.arange(8.0))


def test_scale_norm_is_gating_behind_the_norm() -> None:
    net = random_network("resnet8", "all")
    x = images(3)
    for layer in net.convs:
        scaled, factor = net.copy(), signed(len(net.weight(layer)))
        scaled.scale_norm(layer, factor)
        with net.gated({layer: PerChannel(factor)}, "norm"):
            assert relative(scaled(x), net(x)) <= 1e-5
        assert relative(scaled(x), net(x)) > 1e-3


# ---- scores --------------------------------------------------------------------------------------


def test_coupled_scores_are_the_mean_over_writers() -> None:
    net = random_network("resnet20", "all")
    writers = net.group_of("layer2.0.conv2").layers
    scores = {n: torch.rand(32) * 10**i for i, n in enumerate(writers)}
    (raw,) = net.group_scores(scores, comparable=True).values()
    (scaled,) = net.group_scores(scores, comparable=False).values()
    stack = torch.stack([scores[n].double() for n in writers])
    torch.testing.assert_close(raw, stack.mean(0))
    torch.testing.assert_close(scaled, (stack / stack.mean(1, keepdim=True)).mean(0))
    (two,) = net.group_scores({n: scores[n] for n in writers[:2]}, comparable=True).values()
    torch.testing.assert_close(two, stack[:2].mean(0))  # writers without a score do not count


def test_scores_outside_the_scope_are_left_out() -> None:
    net = random_network("resnet8")
    scores = {n: torch.rand(len(net.weight(n))) for n in net.convs}
    assert list(net.group_scores(scores, comparable=False)) == list(net.layers)


def test_scale_of_a_layer_counts_only_when_comparable() -> None:
    net = random_network("resnet8")
    scores = {n: torch.rand(len(net.weight(n))) + 0.1 for n in net.layers}
    louder = scores | {net.layers[1]: 100 * scores[net.layers[1]]}
    for comparable in (False, True):
        a, b = (net.group_scores(s, comparable)[net.layers[1]] for s in (scores, louder))
        torch.testing.assert_close(b, 100 * a if comparable else a)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (torch.full((16,), torch.nan), "not finite"),
        (torch.tensor([torch.inf] * 16), "not finite"),
        (torch.rand(15), r"shape \(15,\), needs \(16,\)"),
        (torch.rand(16, 1), r"shape \(16, 1\)"),
        (torch.tensor(1.0), r"shape \(\)"),
    ],
)
def test_bad_scores_are_refused_by_name(score: Tensor, reason: str) -> None:
    net = random_network("resnet8")
    with pytest.raises(ValueError, match=rf"layer1\.0\.conv1 .*{reason}"):
        net.group_scores({"layer1.0.conv1": score}, comparable=False)


# ---- copies --------------------------------------------------------------------------------------


def test_copies_are_equal_and_separate() -> None:
    net = random_network("resnet8", "all")
    twin, x = copy.deepcopy(net), images(3)
    dense = net(x)
    assert torch.equal(twin(x), dense)
    assert twin.groups == net.groups
    assert same_maps(twin.map, net.map)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    twin.mask("layer1.0.conv1", (0, 1))
    assert torch.equal(net(x), dense)
    assert not gate_names(net)
    plan = random_plan(net)
    assert torch.equal(net.remove(plan)(x), net.copy().remove(plan)(x))


def test_removal_uses_the_present_weights() -> None:
    net = random_network("resnet8")
    with torch.no_grad():
        net.weight("fc").mul_(-2)
        net.module("fc").bias.mul_(-2)
    before = random_network("resnet8").remove(random_plan(net))
    x = images(2)
    torch.testing.assert_close(net.remove(random_plan(net))(x), -2 * before(x))


# ---- networks that cannot be followed ------------------------------------------------------------


class Small(nn.Module):
    """conv - relu - `middle` - conv - mean - linear."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2)
        self.second = nn.Conv2d(width, 8, 3, 2)
        self.fc = nn.Linear(8, 10)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(F.relu(self.first(x)))
        return self.fc(F.relu(self.second(x)).mean((2, 3)))


class Padded(Small):
    def middle(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 2, 2))


class Halved(Small):
    def middle(self, x: Tensor) -> Tensor:
        return x.chunk(2, 1)[0]


class DropsInTraining(Small):
    def middle(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Branches(Small):
    def middle(self, x: Tensor) -> Tensor:
        return -x if self.training else x


class Looks(Small):
    def middle(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LambdaPad(Small):
    """The zero-padding shortcut as most CIFAR repositories write it."""

    def __init__(self) -> None:
        super().__init__(12)
        self.shortcut = Lambda(lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)))

    def middle(self, x: Tensor) -> Tensor:
        return self.shortcut(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Padded(12), r"pad moves channels at pad\b"),
        (Halved(4), "(chunk|getitem) moves channels at"),
        (LambdaPad(), r"Lambda moves channels at module shortcut\b"),
        (DropsInTraining(), r"self\.training .*dropout"),
        (Branches(), r"self\.training .*neg"),
        (Looks(), "control flow"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_networks_that_cannot_be_followed_are_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        Network(model, EXAMPLE)


def test_leaf_modules_may_depend_on_the_mode() -> None:
    class WithDropout(Small):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def middle(self, x: Tensor) -> Tensor:
            return self.drop(x)

    net = Network(WithDropout(), EXAMPLE)
    x = images(2)
    assert [g.name for g in net.groups] == ["first", "second"]
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_operations_in_place_are_undone() -> None:
    class InPlace(Small):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def middle(self, x: Tensor) -> Tensor:
            x += 1
            return F.relu(self.relu(x).mul_(0.5), inplace=True)

    model = randomise(InPlace()).eval()
    net = Network(model, EXAMPLE).eval()
    x = images(2)
    with net.tapped("conv", net.convs) as maps:
        assert torch.equal(net(x), model(x))
    assert torch.equal(maps["first"], F.conv2d(x, model.first.weight, model.first.bias, 2))
