"""FBS: its gates by hand, the density that meets a target, and what every image costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from benchmark import flops, twins
from benchmark.became import Gated, became, macs_per_image, plan_of, used_channels
from benchmark.network import Network
from benchmark.sites import Mask
from methods.api import Budget, ChannelGate, GatePlan, Plan, Unsupported
from methods.fbs import FBS
from methods.gates import (
    SaliencyGate,
    attached,
    channels_at,
    density_for,
    gated_layers,
    most_salient,
    new_gates,
    start,
)
from methods.random_gates import RandomGates

Gates = dict[str, SaliencyGate]


def gates_of(net: Network, density: float = 1.0, seed: int = 0, **how: Any) -> Gates:
    """Fresh gates with weights P."""
    gates = new_gates(net, how.pop("beta_first", True), **how)
    start(gates, torch.Generator().manual_seed(seed))
    for layer, channels in channels_at(gated_layers(net), density).items():
        gates[layer].channels.fill_(channels)
    return gates


def uneven(gates: Gates) -> None:
    """Many saliencies are 0, so that images differ in how many channels they use."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates.values():
            gate.bias.copy_(torch.linspace(-0.4, 0.4, len(gate.bias)))
            gate.weight.copy_(torch.randn(gate.weight.shape, generator=draw))


# ---- a gate --------------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    g = torch.tensor([[0.4, 0.0, 1.2, 0.7]])
    assert most_salient(g, math.ceil(0.5 * 4)).int().tolist() == [[0, 0, 1, 1]]


def test_ties_let_fewer_through_and_a_full_gate_lets_all() -> None:
    g = torch.tensor([[0.0, 0.0, 0.0, 0.7], [1.0, 1.0, 1.0, 2.0]])
    assert most_salient(g, 2).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert most_salient(g, 4).all()
    assert most_salient(g, 5).all()


@pytest.mark.parametrize("beta_first", [True, False])
def test_a_gate_is_the_formula(beta_first: bool) -> None:
    torch.manual_seed(0)
    gate = SaliencyGate(3, 4, beta_first)
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    gate.channels.fill_(2)
    read, normed = torch.randn(5, 3, 2, 2), torch.randn(5, 4, 2, 2)
    gate.look(read)
    found = gate(normed)
    for n in range(5):
        pooled = [read[n, j].mean().item() for j in range(3)]
        g = [
            max(0.0, sum(gate.weight[i, j].item() * pooled[j] for j in range(3))
                + gate.bias[i].item())
            for i in range(4)
        ]  # fmt: skip
        third = sorted(g, reverse=True)[2]
        for i in range(4):
            a, beta, x = float(g[i] > third), gate.beta[i].item(), normed[n, i]
            expected = a * g[i] * (x + beta) if beta_first else a * g[i] * x + a * beta
            torch.testing.assert_close(found[n, i], expected)
            assert bool(gate.active[n, i]) == (g[i] > third)
    with pytest.raises(AssertionError):
        gate(normed)  # it has seen nothing


def test_the_choice_itself_has_no_gradient() -> None:
    gate = SaliencyGate(3, 4, True)
    nn.init.normal_(gate.weight)
    gate.channels.fill_(2)
    gate.look(torch.rand(1, 3, 2, 2))
    gate(torch.ones(1, 4, 2, 2)).sum().backward()
    assert gate.bias.grad is not None
    assert ((gate.bias.grad != 0) == gate.active[0]).all()


# ---- in a network --------------------------------------------------------------------------------


def test_at_density_1_the_dense_network_is_the_start() -> None:
    net, (x, _) = tiny.network("vgg"), tiny.batch()
    with torch.no_grad():
        for layer in net.layers:  # a saliency is not negative, a batch norm's weight may be
            net.norm(layer).weight[::2] *= -1
        dense = net(x)
        with attached(net, new_gates(net, beta_first=True)):
            torch.testing.assert_close(net(x), dense, atol=1e-4, rtol=1e-4)
        with attached(net, gates_of(net)):
            assert (net(x) - dense).abs().max() > 0.1  # P has a say


def test_what_gates_replace_is_no_longer_trained() -> None:
    net = tiny.network()
    plan = FBS(gate_epochs=1.0).prune(net, Budget(0.3, 0.1, "uniform"), tiny.trainer())
    assert isinstance(plan, GatePlan)
    made = became(net, plan)
    x, _ = tiny.batch(1)
    price = made.price(flops.cost(made.model, x))
    tiny.trainer().run_phase(made.model, tiny.RECIPE, "recovery")
    for layer in plan.gates:
        norm: Any = made.model.get_submodule(layer.replace("conv", "bn"))
        assert norm.weight.tolist() == [1.0] * len(norm.weight)
        assert norm.bias.tolist() == [0.0] * len(norm.bias)
    stored = sum(
        (net.weight(n).shape[1] + 2 - 2) * len(net.weight(n)) for n in plan.gates
    )  # P, c and beta in place of two numbers per channel
    dense = sum(p.numel() for p in tiny.network().parameters())
    assert price.params == dense + stored


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("cut", [0.2, 0.4])
def test_the_density_is_the_largest_that_meets_the_target(kind: Any, cut: float) -> None:
    net = tiny.network(kind)
    gates = gates_of(net)
    density = density_for(net, gates, Budget(cut, 0.1, "uniform"))

    places = {n: positions(net, n) for n in gates}

    def saved(density: float) -> float:
        channels = {n: math.ceil(round(density * net.group_of(n).width, 6)) for n in gates}
        total = net.macs({net.group_of(n).name: channels[n] for n in gates})
        own = 0
        for layer in gates:  # what a gate reads is another's choice in a plain stack
            width, inputs = net.weight(layer).shape[:2]
            before = net.layers.index(layer) - 1
            read = channels[net.layers[before]] if kind == "vgg" and before >= 0 else inputs
            own += read * width + width * places[layer]
        return 1 - (total + own) / net.macs()

    assert saved(density) >= cut
    assert all(saved(density + d) < cut for d in (0.001, 0.01, 0.1, 0.2))
    most = channels_at(gated_layers(net), density)
    for layer, channels in most.items():
        gates[layer].channels.fill_(channels)
    made = became(net, GatePlan({}, gates))
    assert 1 - made.macs / net.macs() == pytest.approx(saved(density))


def positions(net: Network, layer: str) -> int:
    """Of the layer's output map, as it is run."""
    with torch.no_grad(), net.tapped("conv", (layer,)) as maps:
        net(tiny.batch(1)[0])
        return maps[layer].shape[2:].numel()


def test_a_target_out_of_reach_is_explained() -> None:
    net = tiny.network()
    with pytest.raises(Unsupported, match=r"out of reach: .* at most \d\d\.\d %"):
        density_for(net, gates_of(net), Budget(0.9, 0.2, "uniform"))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_every_image_costs_what_a_network_of_its_channels_costs(kind: Any) -> None:
    net = tiny.network(kind)
    gates = gates_of(net, 0.6)
    uneven(gates)
    made = became(net, GatePlan({}, gates))
    assert isinstance(made, Gated)
    model, copies = made._copies
    used = used_channels(model, copies, tiny.trainer().val)
    own, extra = macs_per_image(net, copies, used)
    assert len(own) == tiny.VAL
    assert len(own.unique()) > 3
    checked = 0
    for image in range(0, tiny.VAL, 7):
        active = {n: u[image].nonzero()[:, 0].tolist() for n, u in used.items()}
        if not all(active.values()):
            continue  # nothing can be built of no channels
        plan = Plan({net.group_of(n).name: tuple(units) for n, units in active.items()})
        small = net.remove(plan)
        assert int(own[image]) == flops.cost(small, tiny.batch(1)[0]).macs
        by_hand = 0
        for layer in gates:
            read = small.get_submodule(layer).weight.shape[1]  # type: ignore[union-attr]
            width = len(net.weight(layer))
            by_hand += read * width + width * positions(net, layer)
        assert int(extra[image]) == by_hand
        checked += 1
    assert checked > 2


def test_the_meter_of_a_run_says_what_images_cost() -> None:
    net = tiny.network()
    gates = gates_of(net, 0.6)
    uneven(gates)
    made = became(net, GatePlan({}, gates))
    assert isinstance(made, Gated)
    price, facts = made.measured(flops.cost(made.model, tiny.batch(1)[0]), tiny.trainer().val)
    used = used_channels(*made._copies, tiny.trainer().val)
    whole = sorted(sum(macs_per_image(net, gates, used)).tolist())
    mean = sum(whole) / len(whole)
    assert price.macs == round(mean) < made.macs
    assert facts["macs_mean"] == pytest.approx(mean, abs=0.001)
    assert facts["macs_sd"] == pytest.approx(
        (sum((w - mean) ** 2 for w in whole) / len(whole)) ** 0.5, abs=0.001
    )
    assert facts["macs_p95"] == whole[math.ceil(0.95 * (len(whole) - 1))]
    assert facts["macs_max"] == whole[-1] <= made.macs
    for layer, own in used.items():
        assert facts["channels_ever"][layer] == len({i for row in own for i in row.nonzero()[:, 0]
                                                     .tolist()})  # fmt: skip
        assert facts["channels_most"][layer] == math.ceil(0.6 * facts["channels"][layer])


def test_a_channel_that_leaks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, _) = tiny.network(), tiny.batch(4)
    made = became(net, GatePlan({}, gates_of(net, 0.5)))
    ours, twin = twins.outputs(made, x)
    assert twins.error(ours, twin) <= 1e-6
    right = SaliencyGate.forward
    monkeypatch.setattr(
        SaliencyGate, "forward", lambda self, x, labels=None: right(self, x, labels) + 0.5
    )
    ours, twin = twins.outputs(became(net, GatePlan({}, gates_of(net, 0.5))), x)
    assert twins.error(ours, twin) > 1e-3


def test_a_wrong_meter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, _) = tiny.network(), tiny.batch(2)
    made = became(net, GatePlan({}, gates_of(net, 0.5)))

    def of_dense(net: Network, gates: Any, active: Any) -> tuple[Tensor, Tensor]:
        return torch.tensor([net.macs()]), torch.tensor([0])

    monkeypatch.setattr(twins, "macs_per_image", of_dense)
    with pytest.raises(twins.Miscounted, match="fvcore counts"):
        twins.outputs(made, x)


def test_a_plan_comes_back_from_its_tensors() -> None:
    net, method = tiny.network(), FBS(gate_epochs=1.0)
    plan = method.prune(net, Budget(0.3, 0.1, "uniform"), tiny.trainer())
    again = plan_of(method, net, {}, plan.tensors())
    assert again == plan
    assert isinstance(again, GatePlan)
    assert all(float(gate.weight.detach().abs().max()) > 0 for gate in again.gates.values())
    assert again != GatePlan({}, gates_of(net))


# ---- what cannot be gated ------------------------------------------------------------------------


class Separable(nn.Module):
    """A depthwise convolution and its norm read what a gate would shut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.deep, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.out, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.out(torch.relu(self.norm2(self.deep(x))))
        return self.fc(x.mean((2, 3)))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.out(torch.relu(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "words"),
    [(Separable, "deep is a grouped convolution"), (Bare, "conv has no site 'norm'")],
)
def test_what_cannot_be_gated_is_unsupported(model: type[nn.Module], words: str) -> None:
    net = Network(model(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(Unsupported, match=words):
        FBS().prune(net, Budget(0.2, 0.1, "uniform"), tiny.trainer())


def test_shared_channels_are_not_gated() -> None:
    with pytest.raises(Unsupported, match="use --scope inner"):
        new_gates(tiny.network(scope="all"), beta_first=True)


def test_without_a_twin_the_depthwise_case_would_be_wrong() -> None:
    """Why it is refused: what the depthwise norm makes of a channel at 0 is not 0."""
    net = Network(Separable(), torch.zeros(1, 3, 8, 8)).eval()
    net.norm("deep").bias.data.fill_(0.3)
    shut = Mask(torch.arange(8) < 4, flat=False)
    with torch.no_grad(), net.gated({"conv": shut}, at="act"), net.tapped("in", ("out",)) as maps:
        net(torch.rand(1, 3, 8, 8))
    assert maps["out"][0, 4:].abs().max() > 0.1


# ---- the method, its control and its static form -------------------------------------------------

THIRD = Budget(0.3, 0.1, "uniform")


def test_densities_fall_from_1_to_the_one_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    net, run, seen = tiny.network(), tiny.trainer(), []
    fit = type(run).fit

    def watched(self: Any, net: Network, epochs: float) -> None:
        gates = [m for m in net.modules() if isinstance(m, ChannelGate)]
        seen.append((round(epochs, 6), [gate.most / len(gate.beta) for gate in gates]))  # type: ignore[arg-type]
        fit(self, net, epochs)

    monkeypatch.setattr(type(run), "fit", watched)
    plan = FBS(gate_epochs=1.0, step=0.2).prune(net, THIRD, run)
    assert isinstance(plan, GatePlan)
    wanted = run.notes["density"]
    ladder = [d for d in (1.0, 0.8, 0.6, 0.4) if d > wanted] + [wanted]
    assert [epochs for epochs, _ in seen] == [round(1 / len(ladder), 6)] * len(ladder)
    for density, (_, shares) in zip(ladder, seen, strict=True):
        assert all(0 <= share - density < 1 / 8 for share in shares)
    assert {n: g.most for n, g in plan.gates.items()} == channels_at(gated_layers(net), wanted)
    assert abs(run.ledger.spent - tiny.TRAIN) <= 1  # each phase is rounded to whole images


def test_training_moves_what_passes() -> None:
    """Another image, other channels: that is what the control does not have."""
    source = tiny.trainer().val
    for method, differs in ((FBS(gate_epochs=2.0), True), (RandomGates(gate_epochs=2.0), False)):
        net = tiny.network()
        plan = method.prune(net, THIRD, tiny.trainer())  # type: ignore[attr-defined]
        made = became(net, plan)
        assert isinstance(made, Gated)
        used = used_channels(*made._copies, source)
        assert differs == any(len(own.unique(dim=0)) > 1 for own in used.values())
        if not differs:
            assert {n: int(own[0].sum()) for n, own in used.items()} == {
                n: g.most for n, g in plan.gates.items()
            }


def test_fixed_channels_of_a_low_density_pass_at_a_higher_one() -> None:
    net = tiny.network()
    low, high = (gates_of(net, density, fixed=True) for density in (0.3, 0.6))
    for layer, gate in low.items():
        shape = torch.zeros(2, len(gate.beta))
        assert (high[layer].chosen(shape) | ~gate.chosen(shape)).all()
        assert not torch.equal(gate.order, torch.arange(len(gate.order)))


def test_the_static_form_is_an_ordinary_plan_by_what_passes() -> None:
    net, run = tiny.network(), tiny.trainer()
    method = FBS(gate_epochs=1.0, static=True)
    plan = method.prune(net, THIRD, run)
    assert (type(plan), method.result, FBS().result) == (Plan, "channels", "dynamic")
    assert plan.widths() == net.allocate(THIRD)
    for layer in net.layers:
        kept, boost = plan.keep[layer], net.norm(layer).weight.detach()
        dropped = [i for i in range(len(boost)) if i not in kept]
        assert boost[list(kept)].min() >= boost[dropped].max()  # the mean of what passes stays
    small = net.remove(plan)
    assert all(p.requires_grad for p in small.parameters())


def test_the_official_form_starts_around_1() -> None:
    net = tiny.network()
    gates = new_gates(net, beta_first=False)
    start(gates, torch.Generator().manual_seed(0), plain=True)
    for gate in gates.values():
        assert gate.bias.tolist() == [1.0] * len(gate.bias)
        assert gate.beta.tolist() == pytest.approx([0.1] * len(gate.beta))
        assert 0.03 < float(gate.weight.detach().std()) < 0.06
        assert float(gate.weight.detach().abs().max()) <= 0.1
