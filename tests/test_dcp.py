"""DCP: the worked example of METHODS 7, its heads, and whole networks against literal loops."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from math import floor
from typing import Any

import pytest
import tiny
import torch
from random_nets import random_network
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.network import Network
from benchmark.trainer import Trainer
from benchmark.trial import method_of
from methods import find
from methods.api import Budget, Plan, Unsupported
from methods.aux_heads import Head, gradient_shares, places
from methods.dcp import DCP
from methods.greedy import column_norms, greedy_sizes, passes, rebatched

HALF = Budget(0.5)


def dcp(label: str = "dcp", **params: Any) -> DCP:
    found = method_of(find(label), tiny.EPOCHS, params)
    assert isinstance(found, DCP)
    return found


# ---- norms, steps, places ------------------------------------------------------------------------


def test_norms_of_the_worked_example() -> None:
    first, second = [[[3.0, 4.0]], [[0.0, 0.0]]], [[[2.0, 0.0]], [[0.0, 4.0]]]
    gradient = torch.tensor([first, second]).transpose(0, 1)  # (outputs, channels, 1, 2)
    torch.testing.assert_close(column_norms([gradient], "columns"), torch.tensor([5.0, 20**0.5]))
    torch.testing.assert_close(column_norms([gradient], "kernels"), torch.tensor([5.0, 6.0]))


def test_norms_are_those_of_loops_over_all_readers() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = ((4, 6, 3, 3), (2, 6, 1, 1), (5, 6))
    gradients = [torch.randn(*shape, generator=draw) for shape in shapes]
    columns, kernels = column_norms(gradients, "columns"), column_norms(gradients, "kernels")
    for channel in range(6):
        squares, norms = 0.0, 0.0
        for gradient in gradients:
            for output in gradient[:, channel]:
                squares += float(output.square().sum())
                norms += float(output.square().sum()) ** 0.5
        assert float(columns[channel]) == pytest.approx(squares**0.5, rel=1e-5)
        assert float(kernels[channel]) == pytest.approx(norms, rel=1e-5)


def test_greedy_steps_take_equal_shares() -> None:
    assert greedy_sizes(8, 4) == [2, 4, 6, 8]
    assert greedy_sizes(7, 4) == [2, 4, 6, 7]
    assert greedy_sizes(3, 16) == [1, 2, 3]
    assert greedy_sizes(9, 1) == [9]


@pytest.mark.parametrize(
    ("blocks", "heads", "expected"),
    [
        (27, 3, [7, 14, 21]),  # ResNet-56
        (8, 2, [3, 6]),  # ResNet-18
        (16, 3, [5, 10, 15]),  # ResNet-50
        (9, 3, [3, 6, 8]),  # the last one would stand behind the last block
        (3, 3, [1, 2]),
        (1, 3, []),
        (5, 0, []),
        (5, -1, []),
    ],
)
def test_heads_stand_where_the_official_code_has_them(
    blocks: int, heads: int, expected: list[int]
) -> None:
    assert places(blocks, heads) == expected


def test_shares_of_the_official_code() -> None:
    gamma = [(15 / 43) ** 2, (29 / 43) ** 2, 1.0]
    expected = [gamma[0] / sum(gamma), gamma[1] / (gamma[1] + 1), 1.0]
    assert gradient_shares([7, 14, 21]) == pytest.approx(expected)
    assert gradient_shares([1, 50])[0] == pytest.approx(0.01 / 1.01)  # gamma is 0.01 at least
    assert gradient_shares([]) == []


def test_more_steps_where_images_allow_it() -> None:
    run = tiny.trainer()  # 200 images an epoch
    widths = [4, 7, 14]
    assert dcp(greedy_epochs=1.0).schedule(widths, run) == (2, 16, 12)
    assert dcp(greedy_epochs=2.0).schedule(widths, run) == (4, 16, 24)
    assert dcp(greedy_epochs=20.0).schedule(widths, run) == (4, 166, 24)
    assert dcp(greedy_epochs=50.0, steps=0).schedule(widths, run) == (14, 200, 50)
    assert dcp(greedy_epochs=99.0, steps=0).schedule(widths, run) == (14, 200, 50)
    assert dcp(greedy_epochs=0.02).schedule(widths, run) == (1, 1, 6)


# ---- images --------------------------------------------------------------------------------------


def test_passes_go_on_through_the_split_and_are_charged() -> None:
    run = tiny.trainer()
    order = torch.cat([y for _, y in run.batches()])
    run = tiny.trainer()
    with passes(run, 3, 150) as turns:
        seen = [[y for _, y in turn] for turn in turns]
    assert [[len(y) for y in turn] for turn in seen] == [[128, 22]] * 3
    found = torch.cat([y for turn in seen for y in turn])
    assert torch.equal(found, torch.cat([order, order, order])[:450])
    assert [e.images for e in run.ledger.entries] == [200, 200, 50]
    assert run.ledger.spent == 450


def test_what_is_left_undone_is_charged_as_far_as_it_went() -> None:
    run = tiny.trainer()
    with passes(run, 3, 50) as turns:
        list(next(turns))
    assert run.ledger.spent == 128  # what was drawn of the split


def test_rebatched_images_keep_their_order() -> None:
    x, y = torch.arange(40).reshape(20, 2), torch.arange(20)
    source = zip(x.split(6), y.split(6), strict=True)
    batches = list(rebatched(source, [1, 9, 6, 2, 2]))
    assert [len(labels) for _, labels in batches] == [1, 9, 6, 2, 2]
    assert torch.equal(torch.cat([b for b, _ in batches]), x)
    assert torch.equal(torch.cat([b for _, b in batches]), y)


# ---- heads ---------------------------------------------------------------------------------------


class Plain(nn.Module):
    """What a head is, of torch's own modules."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(len(head.scale), momentum=None)
        self.fc = nn.Linear(len(head.scale), len(head.bias))
        for own, other in (
            (self.norm.weight, head.scale), (self.norm.bias, head.shift),
            (self.norm.running_mean, head.mean), (self.norm.running_var, head.variance),
            (self.fc.weight, head.weight), (self.fc.bias, head.bias),
        ):  # fmt: skip
            own.detach().copy_(other.detach())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.norm(x).relu().mean(2).mean(2))
        return found


def some_head(share: float = 1.0) -> Head:
    head, draw = Head(5, 3, share), torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=draw)
    return head


def test_a_head_looks_and_lets_pass() -> None:
    draw = torch.Generator().manual_seed(1)
    head = some_head(0.25)
    plain = Plain(head).train()
    for step in range(3):
        x = 2 + 3 * torch.randn(8, 5, 4, 6, generator=draw)
        y = torch.randint(3, (8,), generator=draw)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        head.train(step < 2)
        plain.train(step < 2)
        assert head(a, y) is a
        loss = F.cross_entropy(plain(b), y)
        torch.testing.assert_close(head.loss, loss)
        (found,) = torch.autograd.grad(head.loss, a, retain_graph=True)
        (expected,) = torch.autograd.grad(loss, b, retain_graph=True)
        torch.testing.assert_close(found, 0.25 * expected)
        own = torch.autograd.grad(head.loss, list(head.parameters()))
        others = torch.autograd.grad(loss, list(plain.parameters()))
        for g, e in zip(own, others, strict=True):  # of the head itself: all of it
            torch.testing.assert_close(g, e)
    assert int(head.steps) == 2
    torch.testing.assert_close(head.mean, plain.norm.running_mean)
    torch.testing.assert_close(head.variance, plain.norm.running_var)


def head_losses(net: Network, heads: dict[str, Head]) -> list[float]:
    x, y = tiny.batch(100)
    with torch.no_grad(), net.gated(heads, at="in"):
        net(x, y)
    return [float(h.loss) for h in heads.values()]


def test_heads_learn_while_the_network_stands_still() -> None:
    net, run = tiny.network(), tiny.trainer()
    before = tiny.state_of(net)
    heads = dcp(head_epochs=1.0).train_heads(net, run)
    assert tiny.same(tiny.state_of(net), before)
    assert list(heads) == [net.groups[i].layers[0] for i in (1, 2)]
    assert not net.training
    assert all(p.requires_grad for p in net.parameters())
    chance = torch.tensor(float(tiny.CLASSES)).log()
    assert all(loss < 0.8 * chance for loss in head_losses(net, heads))
    assert run.ledger.spent == tiny.TRAIN


def test_the_official_heads_train_the_network_too() -> None:
    net = tiny.network()
    before = tiny.state_of(net)
    heads = dcp("dcp:official", head_epochs=1.0).train_heads(net, tiny.trainer())
    after = tiny.state_of(net)
    assert not torch.equal(after["traced.conv1.weight"], before["traced.conv1.weight"])
    assert {h.share for h in heads.values()} == {1.0}  # in the selection all of it counts


# ---- whole networks ------------------------------------------------------------------------------


class Literal:
    """METHODS 7.2 to 7.4 for a CIFAR ResNet, as slow loops over a plain module: the input channels
    of every second convolution of a block, one channel at a time."""

    def __init__(self, net: Network, heads: dict[str, Head], norm: str, mse: float) -> None:
        self.original, self.pruned = net.dense().eval(), net.dense().eval()
        self.heads = [Plain(h).eval() for h in heads.values()]
        self.norm, self.mse = norm, mse
        self.batches = list(tiny.trainer().batches())
        for parameter in self.pruned.parameters():
            parameter.requires_grad_(False)

    @staticmethod
    def blocks(model: nn.Module) -> list[nn.Module]:
        return [m for stage in ("layer1", "layer2", "layer3") for m in model.get_submodule(stage)]

    def loss(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Of the block of this number, with the head behind it."""
        seen: dict[str, Tensor] = {}
        hooks = [
            self.blocks(model)[number].conv2.register_forward_hook(
                lambda module, given, made, name=name: seen.update({name: made})
            )
            for name, model in (("original", self.original), ("pruned", self.pruned))
        ]
        hooks.append(
            self.blocks(self.pruned)[number].register_forward_hook(
                lambda module, given, made: seen.update(block=made)
            )
        )
        self.original(x)
        logits = self.pruned(x)
        for hook in hooks:
            hook.remove()
        if number < len(self.heads):  # a head stands behind each of the first blocks
            logits = self.heads[number](seen["block"])
        wrong = (seen["pruned"] - seen["original"].detach()).square().mean()
        return self.mse * wrong + F.cross_entropy(logits, y)

    def select(self, number: int, rate: Fraction) -> tuple[int, ...]:
        conv = self.blocks(self.pruned)[number].conv2
        weight = conv.weight.detach().clone()
        conv.weight.requires_grad_(True)
        conv.weight.data.zero_()
        chosen: list[int] = []
        while weight.shape[1] - len(chosen) > floor(weight.shape[1] * rate):
            conv.weight.grad = None
            for x, y in self.batches:
                self.loss(number, x, y).backward()  # gradients add up
            best, largest = -1, -1.0
            for channel in range(weight.shape[1]):
                kernels = [float(k.square().sum()) for k in conv.weight.grad[:, channel]]
                if self.norm == "kernels":
                    value = sum(k**0.5 for k in kernels)
                else:
                    value = sum(kernels) ** 0.5
                if channel not in chosen and value > largest:
                    best, largest = channel, value
            chosen.append(best)
            conv.weight.data[:, best] = weight[:, best]
            optimizer = torch.optim.SGD(
                [conv.weight], lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True
            )
            for x, y in self.batches:
                optimizer.zero_grad()
                self.loss(number, x, y).backward()
                for channel in range(weight.shape[1]):
                    if channel not in chosen:
                        conv.weight.grad[:, channel] = 0
                optimizer.step()
        conv.weight.requires_grad_(False)
        return tuple(sorted(chosen))


@pytest.mark.parametrize(
    ("label", "norm", "mse"), [("dcp:official", "kernels", 1.0), ("dcp", "columns", 0.5)]
)
def test_selection_is_that_of_literal_loops(label: str, norm: str, mse: float) -> None:
    budget = Budget(0.8)
    method = dcp(label, steps=0, head_epochs=1.0, greedy_epochs=99.0)  # a pass is a whole epoch
    net, other, run = tiny.network(), tiny.network(), tiny.trainer(epochs=120)
    plan = method.prune(net, budget, run)
    literal = Literal(other, method.train_heads(other, tiny.trainer(epochs=120)), norm, mse)
    for number, group in enumerate(other.groups):
        rate = Fraction(group.width - len(plan.keep[group.name]), group.width)
        assert 0 < rate < 1
        assert literal.select(number, rate) == plan.keep[group.name]
        found = net.weight(group.readers[0])[:, plan.keep[group.name]]
        expected = literal.blocks(literal.pruned)[number].conv2.weight[:, plan.keep[group.name]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert run.ledger.spent == tiny.TRAIN * (1 + 2 * sum(map(len, plan.keep.values())))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_only_kept_columns_of_readers_change(kind: tiny.Kind) -> None:
    net, run = tiny.network(kind), tiny.trainer()
    before = tiny.state_of(net)
    plan = dcp(lr=0.5).prune(net, HALF, run)
    assert plan.widths() == net.allocate(HALF)
    assert all(p.requires_grad for p in net.parameters())
    changed = {k for k, v in tiny.state_of(net).items() if not torch.equal(v, before[k])}
    readers = [(g, g.readers[0]) for g in net.groups]
    biased = {f"traced.{r}.bias" for _, r in readers if net.bias(r) is not None}
    assert changed == {f"traced.{r}.weight" for _, r in readers} | biased
    assert bool(biased) == (kind == "vgg")  # its last group is read by the classifier
    for group, reader in readers:
        kept = torch.tensor(plan.keep[group.name])
        lost = torch.ones(group.width, dtype=torch.bool).index_fill(0, kept, False)
        old, new = before[f"traced.{reader}.weight"], net.module(reader).weight
        assert torch.equal(new[:, lost], old[:, lost])
        assert not torch.equal(new[:, kept], old[:, kept])
    told = run.notes["greedy"]
    assert told["loss"].keys() == {g.name for g in net.groups}
    heads = round(tiny.TRAIN * tiny.EPOCHS / 12)
    greedy = 2 * told["images_per_pass"] * sum(map(len, told["loss"].values()))
    assert run.ledger.spent == heads + greedy
    assert greedy <= tiny.TRAIN * tiny.EPOCHS / 4


def test_more_greedy_steps_end_with_a_smaller_loss() -> None:
    """It is the joint loss that the choice and the weights make smaller."""
    net, run = tiny.network(), tiny.trainer(epochs=10)
    dcp(greedy_epochs=8.0).prune(net, HALF, run)
    for losses in run.notes["greedy"]["loss"].values():
        assert losses[-1] < losses[0]


def test_silent_channels_are_never_chosen() -> None:
    net = tiny.network()
    with torch.no_grad():
        for group in net.groups:
            norm = net.norm(group.layers[0])
            norm.weight[::2], norm.bias[::2] = 0, -1
    plan = dcp().prune(net, Budget(0.6), tiny.trainer())
    assert all(unit % 2 for kept in plan.keep.values() for unit in kept)


def test_losses_and_norms_matter() -> None:
    def kept(**params: Any) -> Plan:
        method = dcp(greedy_epochs=4.0, **params)
        return method.prune(tiny.network(), HALF, tiny.trainer(epochs=8))

    own = kept()
    for changes in ({"mse_weight": 0.0}, {"loss_weight": 0.0}, {"norm": "kernels"}, {"steps": 1}):
        assert kept(**changes) != own, changes


class Forked(nn.Module):
    """Two layers read the first one, as a block with a projection reads the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.main = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.side = nn.Conv2d(12, 8, 1, bias=False)
        self.fc = nn.Linear(8, tiny.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        found: Tensor = self.fc((self.main(x) + self.side(x)).relu().mean((2, 3)))
        return found


def test_several_readers_choose_together() -> None:
    torch.manual_seed(0)
    net = Network(Forked(), torch.zeros(1, 3, 16, 16)).eval()
    (group,) = net.groups
    assert group.readers == ("main", "side")
    with torch.no_grad():  # only the side reads the last channels
        net.weight("main")[:, 6:] = 0
    before = [net.weight(r).detach().clone() for r in group.readers]
    run = tiny.trainer()
    plan = dcp(lr=0.5).prune(net, HALF, run)
    kept = torch.tensor(plan.keep["stem"])
    for old, reader in zip(before, group.readers, strict=True):
        assert not torch.equal(net.weight(reader)[:, kept], old[:, kept])
    x, _ = tiny.batch(8)
    torch.testing.assert_close(net(x), net.remove(plan).eval()(x))


def test_what_it_cannot_choose_is_told() -> None:
    with pytest.raises(Unsupported, match="--scope inner"):
        dcp().prune(tiny.network(scope="all"), HALF, tiny.trainer())
    net, run = random_network("densenet40"), tiny.trainer()
    with pytest.raises(Unsupported, match="read conv1 alone"):
        dcp().prune(net, HALF, run)
    assert run.ledger.spent == 0  # told before anything trains


def test_nothing_to_remove_costs_nothing() -> None:
    net, run = tiny.network(), tiny.trainer()
    plan = dcp().prune(net, Budget(0.0, 0.1, "listed", dict.fromkeys(net.layers, 0.0)), run)
    assert plan.keep == {g.name: tuple(range(g.width)) for g in net.groups}
    assert run.ledger.spent == 0


def test_images_are_those_of_the_budget() -> None:
    """The share of preparation is known before the run: estimates and the paper track need it."""
    method = dcp()
    assert method.prepares
    assert (method.head_epochs, method.greedy_epochs) == pytest.approx((4 / 12, 1.0), abs=1e-5)
    run: Trainer = tiny.trainer()
    assert len(list(islice(run.batches(), 9))) == 2
    assert run.train_images == tiny.TRAIN
