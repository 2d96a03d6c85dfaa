"""Taylor-FO: an example by hand, one backward pass against one per layer, the official round."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.network import Network
from methods import build, find
from methods.api import Scores, Unsupported
from methods.taylor import Taylor, UnitGate, combine


class Two(nn.Module):
    """Two channels: scale, shift, ReLU, then one logit against 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(2, 3)[:, :, None, None])
            self.norm.weight.copy_(torch.tensor([2.0, 1.0]))
            self.norm.bias.copy_(torch.tensor([0.0, 1.0]))
            self.norm.running_var.fill_(1 - self.norm.eps)  # type: ignore[union-attr]
            self.fc.weight.copy_(torch.tensor([[2.0, -1.0], [0.0, 0.0]]))
            self.fc.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class TwoImages:
    """Images of one position: both logits are 0, so the softmax is a half each."""

    device = torch.device("cpu")

    def batches(self, images: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert images == 2
        yield (torch.tensor([[1.0, 4, 0], [2, 8, 0]])[:, :, None, None], torch.tensor([0, 1]))


def of_the_example(**fields: Any) -> list[float]:
    net = Network(Two(), torch.zeros(1, 3, 1, 1))
    score = Taylor(**({"num_images": 2, "batch_size": 1} | fields)).score(net, TwoImages())  # type: ignore[arg-type]
    return [round(v, 4) for v in score["conv"].tolist()]


def test_worked_example() -> None:
    """Maps A = (2, 5) and (4, 9), gradients (-1, 1/2) and (1, -1/2): A D = (-2, 5/2) and
    (4, -9/2). Squared per mini-batch; the square of the mean would be 1."""
    assert of_the_example() == [(4 + 16) / 2, (6.25 + 20.25) / 2]
    assert of_the_example(batch_size=2) == [1, 1]
    # of the second channel, scale and shift have 2 + 1/2 and -4 - 1/2
    assert of_the_example(terms="separate") == [10, (4 + 0.25 + 16 + 0.25) / 2]
    assert of_the_example(terms="absolute") == [3, (2.5 + 4.5) / 2]
    # filters: weight 1 times input 1 or 2 (4 or 8), through the scale 2 (1)
    assert of_the_example(gate="weight") == [10, (4 + 16) / 2]


def test_how_products_become_a_number() -> None:
    products = torch.tensor([[1.0, -3.0], [2.0, 0.5]])
    assert combine(products, "joint").tolist() == [4, 6.25]
    assert combine(products, "separate").tolist() == [10, 4.25]
    assert combine(products, "absolute").tolist() == [4, 2.5]


def images_of(run: Any, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Full mini-batches of what the method draws."""
    x, y = run.train.batch(run.balanced(run.train, count))
    return [(x[i : i + size], y[i : i + size]) for i in range(0, count - size + 1, size)]


def layer_by_layer(net: Any, batches: list[tuple[Tensor, Tensor]], of: str) -> Scores:
    """A pass for each layer, channel and parameter on their own."""
    scores = {}
    for layer in net.layers:
        norm = net.norm(layer)
        parameters = [norm.weight, norm.bias] if of == "norm" else [net.weight(layer)]
        score = torch.zeros(len(net.weight(layer)), dtype=torch.float64)
        for x, y in batches:
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
            for channel in range(len(score)):
                own = [(p[channel] * p.grad[channel]).detach().double() for p in parameters]
                score[channel] += float(sum(products.sum() for products in own)) ** 2
        scores[layer] = score / len(batches)
    net.zero_grad()
    return scores


def assert_same(a: Scores, b: Scores) -> None:
    assert a.keys() == b.keys()
    for layer, score in a.items():
        torch.testing.assert_close(score, b[layer], rtol=1e-3, atol=1e-12)
        assert len(score.unique()) > 3  # something to tell apart


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("gate", ["norm", "weight"])
def test_equals_a_pass_per_layer(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str, gate: str
) -> None:
    net, run = tiny_network(kind, scope="all"), tiny_trainer()
    scores = Taylor(num_images=70, batch_size=32, gate=gate).score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    assert_same(scores, layer_by_layer(net, images_of(run, 70, 32), gate))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_a_gate_behind_the_norm_has_the_same_derivative(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str, statistics: str
) -> None:
    """gamma dL/dgamma + beta dL/dbeta = dL/dz at z = 1 = sum of A dL/dA over the map."""
    net, run = tiny_network(kind), tiny_trainer()
    method = Taylor(num_images=40, batch_size=40, statistics=statistics)  # type: ignore[arg-type]
    scores = method.score(net, run)  # type: ignore[arg-type]
    ((x, y),) = images_of(run, 40, 40)
    gates = {n: UnitGate(len(net.weight(n))) for n in net.layers}
    for norm in net.norms().values():
        norm.train(statistics == "batch")
    with net.gated(gates, at="norm"), net.tapped("norm") as maps:
        F.cross_entropy(net(x), y).backward()
        for layer, gate in gates.items():
            a = maps[layer]
            assert gate.scale.grad is not None
            assert a.grad is not None
            by_map = (a * a.grad).sum((0, 2, 3)).detach()
            torch.testing.assert_close(gate.scale.grad, by_map, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                scores[layer].sqrt().float(), by_map.abs(), rtol=1e-3, atol=1e-6
            )


class Plain(nn.Module):
    """No norm; a linear layer on every position of maps; a norm without scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 6)
        self.c, self.fixed = nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5, affine=False)
        self.fc = nn.Linear(5, tiny.CLASSES)
        nn.init.constant_(self.fixed.running_mean, -0.2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.a(x))
        x = F.gelu(self.b(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = F.relu(self.fixed(self.c(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_a_layer_without_a_batch_norm_of_its_own_gets_a_gate(
    tiny_trainer: tiny.MakeTrainer,
) -> None:
    torch.manual_seed(0)
    net, run = Network(Plain(), torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).eval(), tiny_trainer()
    scores = Taylor(num_images=40, batch_size=20).score(net, run)  # type: ignore[arg-type]
    sites = {"a": "conv", "b": "conv", "c": "norm"}
    expected = {n: torch.zeros(len(net.weight(n)), dtype=torch.float64) for n in sites}
    with net.tapped(sites) as maps:  # type: ignore[arg-type]
        for x, y in images_of(run, 40, 20):
            F.cross_entropy(net(x), y).backward()
            for layer, a in maps.items():
                assert a.grad is not None
                expected[layer] += (a * a.grad).detach().double().sum((0, 2, 3)).square() / 2
    assert_same(scores, expected)
    assert not [n for n, _ in net.named_modules() if "gate_" in n]  # they are gone again


# ---- the official round --------------------------------------------------------------------------


class Gate(nn.Module):
    """A layer of ones, as the official networks have behind their batch norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, -1, 1, 1)


def official_round(net: Any, batches: list[tuple[Tensor, Tensor]]) -> Scores:
    """In train mode: (gate times its gradient)^2 summed over mini-batches, then divided by their
    number (METHODS 16.5; method 22 of the code)."""
    model, gates = copy.deepcopy(net.dense()).train(), {}
    for name, norm in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]:
        gates[name] = Gate(norm.num_features)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, nn.Sequential(norm, gates[name]))
    total = {name: torch.zeros(len(g.weight)) for name, g in gates.items()}
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for name, gate in gates.items():
            assert gate.weight.grad is not None
            for unit in range(len(gate.weight)):
                total[name][unit] += float(gate.weight.detach()[unit] * gate.weight.grad[unit]) ** 2
    by_norm = {m: n for n, m in net.norms().items()}
    return {n: total[by_norm[net.norm(n)]].double() / len(batches) for n in net.layers}


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_official_removes_what_the_first_round_of_the_code_removes(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    entry = find("taylor:official")
    params = entry.params()
    assert params["batch_size"] == 256
    net, run = tiny_network(kind), tiny_trainer()
    before = tiny.state_of(net)
    method = build(entry, params | {"num_images": 200, "batch_size": 50})
    scores = method.score(net, run)
    assert tiny.same(tiny.state_of(net), before)  # running statistics too
    assert all(m.track_running_stats for m in net.norms().values())  # type: ignore[union-attr]
    assert not any(m.training for m in net.modules())
    expected = official_round(net, images_of(run, 200, 50))
    assert_same(scores, expected)
    ours, theirs = (torch.cat(list(s.values())) for s in (scores, expected))
    for removed in (1, 5, 10):
        threshold = theirs.sort().values[removed - 1]  # all layers in one list, none normalised
        assert set((theirs <= threshold).nonzero()[:, 0].tolist()) == set(
            ours.argsort()[:removed].tolist()
        )
    plain = Taylor(num_images=200, batch_size=50).score(net, tiny_trainer())  # type: ignore[arg-type]
    assert any(not torch.allclose(plain[n], s, rtol=0.05) for n, s in scores.items())


# ---- budget and limits ---------------------------------------------------------------------------


def test_gradient_images_are_charged_once_and_nothing_changes(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network().train(), tiny_trainer()
    before, seen = tiny.state_of(net), list[int]()
    watch = net.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    Taylor(num_images=130).score(net, run)  # type: ignore[arg-type]
    watch.remove()
    assert seen == [64, 64]  # mini-batches as the suite's own batches of 128 give them
    (entry,) = run.ledger.entries
    assert (entry.kind, entry.images, run.ledger.spent) == ("charged", 130, 130)
    assert tiny.same(tiny.state_of(net), before)
    assert all(p.grad is None for p in net.parameters())
    assert Taylor().prepares


def test_without_gradients_around_it_the_same(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    scores = []
    for enabled in (True, False):
        run = tiny_trainer()
        with torch.set_grad_enabled(enabled):
            scores.append(Taylor(num_images=64).score(tiny_network(), run))  # type: ignore[arg-type]
        assert run.ledger.spent == 64
    assert all(torch.equal(scores[0][n], scores[1][n]) for n in scores[0])


@pytest.mark.parametrize("field", ["num_images", "batch_size"])
def test_no_images_are_refused(tiny_network: tiny.MakeNetwork, field: str) -> None:
    nobody = SimpleNamespace()
    with pytest.raises(Unsupported, match="at least 1"):
        Taylor(**{field: 0}).score(tiny_network(), nobody)  # type: ignore[arg-type]
