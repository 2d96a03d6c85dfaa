"""FilterSketch: the worked example of METHODS 9, the official code stated again, whole networks."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import archs
from benchmark.network import Network
from methods.api import Budget, Plan, Unsupported
from methods.filtersketch import FilterSketch, sketch, strongest

A = torch.tensor([[1, 0, 2], [0, 1, 1], [2, 1, 0], [1, 1, 1], [0, 0, 3]]).double()
HALF = Budget(0.5)
OFFICIAL: dict[str, Any] = {"weight_norm": "l2", "transpose": False}


def spectral_error(rows: Tensor, found: Tensor) -> float:
    return float(torch.linalg.matrix_norm(rows.T @ rows - found.T @ found, 2))


# ---- the sketch ----------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    two = sketch(A, 2)
    expected = torch.tensor([[1.7866, 1.2147, 1.4718], [0, 0, 3]]).double()
    torch.testing.assert_close(two, expected, atol=1e-4, rtol=0)
    assert spectral_error(A, two) == pytest.approx(4.0512, abs=1e-4)
    assert spectral_error(A, two) <= 2 / 2 * float(A.square().sum())
    normed = torch.tensor([[0.4490, 0.3053, 0.3699], [0, 0, 0.7539]]).double()
    found = FilterSketch(weight_norm="l2")._sketched(A, 2)
    torch.testing.assert_close(found, normed, atol=1e-4, rtol=0)
    three = sketch(A, 3)
    first = torch.tensor([1.4943, 0.7472, 1.3384]).double()
    torch.testing.assert_close(three[0], first, atol=1e-4, rtol=0)
    assert torch.equal(three[1:], A[3:])
    assert spectral_error(A, three) == pytest.approx(3.2087, abs=1e-4)


def literal(rows: Tensor, size: int) -> Tensor:
    """As METHODS 9 writes it down, from the decomposition of the transposed sketch."""
    count, width = rows.shape
    found, half, filled = torch.zeros(size, width).double(), size // 2, 0
    i = 0
    while i < count:
        if filled < size:
            for j in range(width):
                found[filled, j] = rows[i, j]
        else:
            if count - i < size // 2:
                break
            u, s, _ = torch.linalg.svd(found.T.clone(), full_matrices=False)  # (width, size)
            new = torch.zeros(size, width).double()
            for k in range(size):
                left = float(s[k]) ** 2 - float(s[half]) ** 2
                column = u[:, k]
                if column[column.abs().argmax()] < 0:
                    column = -column
                new[k] = max(left, 0.0) ** 0.5 * column
            found, filled = new, half
            found[filled] = rows[i]
        filled += 1
        i += 1
    return found


@pytest.mark.parametrize(
    ("count", "width", "size"),
    [(12, 9, 4), (13, 9, 5), (20, 30, 6), (9, 9, 9), (5, 4, 1), (16, 27, 15), (7, 7, 3)],
)
def test_it_equals_the_obvious_loops(count: int, width: int, size: int) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(count)).double()
    torch.testing.assert_close(sketch(rows, size), literal(rows, size), atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [2, 4, 6, 10])
def test_the_guarantee_of_frequent_directions(size: int) -> None:
    rows = torch.randn(50, 40, generator=torch.Generator().manual_seed(size)).double()
    found = sketch(rows, size)
    count = len(rows)
    rest, full = size - size // 2, size
    while full + rest <= count:  # all rows but those that the code leaves out
        full += rest
    last = count if count - full >= size // 2 else full
    lost = rows[:last].T @ rows[:last] - found.T @ found
    eigenvalues = torch.linalg.eigvalsh(lost)
    assert eigenvalues.min() >= -1e-9
    assert eigenvalues.max() <= 2 / size * rows.square().sum()


def test_last_rows_that_are_too_few_are_left_out() -> None:
    rows = torch.randn(9, 12, generator=torch.Generator().manual_seed(0)).double()
    # size 6: full at 6 rows, shrunk for the 7th and full at the 9th; the 10th would be alone
    assert torch.equal(sketch(rows[:9], 6)[-1], rows[8])
    more = torch.cat([rows, torch.ones(1, 12).double()])
    assert torch.equal(sketch(more, 6), sketch(rows, 6))
    enough = torch.cat([rows, torch.ones(3, 12).double()])
    assert torch.equal(sketch(enough, 6)[-1], torch.ones(12).double())


def test_signs_do_not_depend_on_the_decomposition() -> None:
    rows = torch.randn(10, 8, generator=torch.Generator().manual_seed(3)).double()
    for found in (sketch(rows, 4)[0], sketch(-rows, 4)[0]):
        assert found[found.abs().argmax()] > 0


def test_the_strongest_rows() -> None:
    assert strongest(torch.tensor([[1.0, 0], [3, 0], [0, -3], [0, 0]]), 2) == (1, 2)
    assert strongest(torch.tensor([[2.0], [2], [2], [3]]), 3) == (0, 1, 3)  # ties: lower index


# ---- readers: official views against input channels ----------------------------------------------


class Two(nn.Module):
    """One group of four channels, written from three and read by two filters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.fc = nn.Conv2d(4, 2, 1, bias=False), nn.Linear(2, 2)
        with torch.no_grad():
            self.b.weight.copy_(torch.arange(8.0).reshape(2, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.norm(self.a(x))))).mean((2, 3)))


def test_views_of_the_official_code_are_no_input_channels() -> None:
    """METHODS 9 (a): the rows of a 2x4x1x1 weight 0..7, here sketched to one."""
    weights = torch.arange(8.0).double()
    for transpose, rows in ((True, weights.reshape(2, 4).T), (False, weights.reshape(4, 2))):
        net = network(Two())
        group = next(g for g in net.groups if g.layers == ("a",))
        with torch.no_grad():
            method = FilterSketch(transpose=transpose)
            assert method._new_columns(net, group, "b", {group.name: (0,)})
        found = net.weight("b").detach()[:, 0, 0, 0].double()
        assert torch.equal(found, sketch(rows, 1)[0])
        assert found.tolist() == ([3, 7] if transpose else [6, 7])


def network(model: nn.Module, scope: Any = "inner", size: int = tiny.SIZE) -> Network:
    return Network(model, torch.zeros(1, 3, size, size), scope).eval()


def prune(net: Network, budget: Budget = HALF, **params: Any) -> tuple[Plan, dict[str, Any]]:
    run = tiny.trainer()
    plan = FilterSketch(**params).prune(net, budget, run)
    return plan, run.notes


# ---- whole networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_filters_and_columns_are_input_channels_sketched(kind: Any) -> None:
    net, before = tiny.network(kind), tiny.network(kind)
    plan, notes = prune(net)
    widths = net.allocate(HALF)
    assert plan.keep == {g: tuple(range(w)) for g, w in widths.items()}
    assert notes["not_sketched"] == []
    for group in net.groups:
        (writer,), (reader,), width = group.layers, group.readers, widths[group.name]
        old = before.weight(writer).detach().double()
        rows = literal(old.flatten(1), width).reshape(width, *old.shape[1:])
        inputs = next((widths[g.name] for g in net.groups if writer in g.readers), old.shape[1])
        if inputs == old.shape[1]:  # else its columns are sketched too
            torch.testing.assert_close(net.weight(writer)[:width].double(), rows, atol=1e-5, rtol=0)
        own = next((widths[g.name] for g in net.groups if reader in g.layers), None)
        columns = before.weight(reader).detach().double()
        if own is not None:
            columns = literal(columns.flatten(1), own).reshape(own, *columns.shape[1:])
        by_input = columns.transpose(0, 1).flatten(1)
        new = literal(by_input, width).reshape(width, len(columns), *columns.shape[2:])
        found = net.weight(reader)[: len(columns), :width].transpose(0, 1).double()
        torch.testing.assert_close(found, new, atol=1e-4, rtol=0)


def official_rows(weight: Tensor, size: int) -> Tensor:
    """`sketch_matrix(..., dim=0, "l2")`: METHODS 9."""
    new = literal(weight.reshape(weight.shape[0], -1).double(), size)
    return new.reshape(size, *weight.shape[1:]) / new.norm()


def official_columns(weight: Tensor, size: int) -> Tensor:
    """`sketch_matrix(..., dim=1, "l2")`: a view of the weight, not its transpose."""
    new = literal(weight.double().contiguous().view(weight.shape[1], -1), size)
    return (new / new.norm()).view(weight.shape[0], size, *weight.shape[2:])


def test_the_official_variant_is_the_code_on_residual_blocks() -> None:
    net, before = tiny.network("resnet"), tiny.network("resnet")
    plan, _ = prune(net, **OFFICIAL)
    for group in net.groups:
        name, width = group.name.removesuffix(".conv1"), len(plan.keep[group.name])
        for conv, new in (
            ("conv1", official_rows(before.weight(f"{name}.conv1").detach(), width)),
            ("conv2", official_columns(before.weight(f"{name}.conv2").detach(), width)),
        ):
            found = net.weight(f"{name}.{conv}").detach().double()
            found = found[:width] if conv == "conv1" else found[:, :width]
            torch.testing.assert_close(found, new, atol=1e-6, rtol=1e-4)
        first, second = net.module(f"{name}.bn1"), net.module(f"{name}.bn2")
        old = before.module(f"{name}.bn2")
        fresh = (first.weight, first.bias, first.running_mean, first.running_var)
        for tensor, value in zip(fresh, (1, 0, 0, 1), strict=True):
            assert (tensor == value).all()
        assert torch.equal(second.weight, old.weight)
        assert torch.equal(second.running_var, old.running_var)
    untouched = {"traced.conv1.weight", "traced.bn1.weight", "traced.fc.weight", "traced.fc.bias"}
    old_state, new_state = tiny.state_of(before), tiny.state_of(net)
    assert all(torch.equal(old_state[k], new_state[k]) for k in untouched)


def test_the_official_variant_is_the_code_on_chains() -> None:
    """The columns of a filter sketch are sketched in turn, as in a branch of GoogLeNet."""
    net, before = tiny.network("vgg"), tiny.network("vgg")
    plan, _ = prune(net, **OFFICIAL)
    first, second = (g.layers[0] for g in net.groups[:2])
    l1, l2 = (len(plan.keep[g.name]) for g in net.groups[:2])
    middle = official_columns(official_rows(before.weight(second).detach(), l2), l1)
    found = net.weight(second).detach().double()[:l2, :l1]
    torch.testing.assert_close(found, middle, atol=1e-6, rtol=1e-4)
    assert (net.bias(second)[:l2] == 0).all()
    assert torch.equal(net.weight(first)[l1:], before.weight(first)[l1:])  # cut off later


class Narrow(nn.Module):
    """Units of three weights; readers with four and with two outputs, one of a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.thin, self.norm1 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.mid, self.norm2 = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.last, self.norm3 = nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.fc = nn.Linear(10 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.thin(F.avg_pool2d(x, 8))))
        x = F.relu(self.norm2(self.mid(x)))
        return self.fc(F.relu(self.norm3(self.last(x))).flatten(1))


def test_layers_with_too_few_weights_keep_their_strongest_filters() -> None:
    torch.manual_seed(0)
    net = network(Narrow())
    nn.init.uniform_(net.module("norm1").weight, 0.5, 1.5)
    before = tiny.state_of(net)
    widths = {"thin": 4, "mid": 6, "last": 9}
    rates = {n: 1 - w / len(net.weight(n)) for n, w in widths.items()}
    plan, notes = prune(net, Budget(0.5, 0.1, "listed", rates))
    assert plan.widths() == widths
    norms = before["traced.thin.weight"].flatten(1).norm(dim=1)
    assert plan.keep["thin"] == tuple(sorted(norms.topk(4).indices.tolist()))
    for key in ("thin.weight", "norm1.weight", "norm1.running_var"):
        assert torch.equal(tiny.state_of(net)[f"traced.{key}"], before[f"traced.{key}"])
    # 2 outputs x 4 positions: 8 weights of a unit are too few for 9 columns
    assert notes["not_sketched"] == ["thin", "fc"]
    columns = before["traced.fc.weight"].reshape(2, 10, 4)
    stay = sorted(columns.transpose(0, 1).flatten(1).norm(dim=1).topk(9).indices.tolist())
    assert torch.equal(net.weight("fc").detach().reshape(2, 10, 4)[:, :9], columns[:, stay])
    # the middle layer is sketched, but not the columns by which it reads the first
    new = literal(before["traced.mid.weight"].flatten(1), 6)
    torch.testing.assert_close(
        net.weight("mid").detach()[:6, :, 0, 0].double(), new, atol=1e-6, rtol=0
    )


def test_a_flattened_map_is_read_by_several_columns_of_a_unit() -> None:
    torch.manual_seed(0)
    net = network(Narrow())
    old = net.weight("fc").detach().clone()
    prune(net, Budget(0.5, 0.1, "listed", {"thin": 0.0, "mid": 0.0, "last": 0.5}))
    rows = old.reshape(2, 10, 4).transpose(0, 1).flatten(1)
    new = literal(rows, 5).reshape(5, 2, 4).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net.weight("fc").detach()[:, :20].double(), new, atol=1e-6, rtol=0)
    assert torch.equal(net.weight("fc").detach()[:, 20:], old[:, 20:])


class Beside(nn.Module):
    """Two branches that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.norm, self.read = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.fc(F.relu(self.read(x)).mean((2, 3)))


@pytest.mark.parametrize("params", [{}, OFFICIAL])
def test_a_concatenation_is_read_by_the_columns_of_each_group(params: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = network(Beside())
    nn.init.uniform_(net.module("norm").weight, 0.5, 1.5)
    old, norm = net.weight("read").detach().clone(), net.module("norm").weight.detach().clone()
    rates = {"left": 0.0, "right": 0.5, "read": 0.0}
    plan, _ = prune(net, Budget(0.5, 0.1, "listed", rates), **params)
    assert plan.keep == {"right": (0, 1, 2)}
    part = old[:, 6:]
    by_input = literal(part.transpose(0, 1).flatten(1), 3).reshape(3, 8, 3, 3).transpose(0, 1)
    new = official_columns(part, 3) if params else by_input
    found = net.weight("read").detach()
    torch.testing.assert_close(found[:, 6:9].double(), new, atol=1e-6, rtol=1e-4)
    assert torch.equal(found[:, :6], old[:, :6])
    after = net.module("norm").weight.detach()
    assert torch.equal(after[:6], norm[:6])
    assert (after[6:] == 1).all()


def test_what_cannot_be_sketched_is_told() -> None:
    net = network(archs.build("mobilenetv2", 4), size=32)
    with pytest.raises(Unsupported, match=r"layers\.0\.conv2 is bound to single filters of"):
        prune(net)
    with pytest.raises(Unsupported, match="use --scope inner"):
        prune(tiny.network("resnet", scope="all"))


def test_groups_that_keep_their_width_are_left_alone() -> None:
    net = tiny.network("resnet")
    before = tiny.state_of(net)
    rates = dict.fromkeys(net.convs, 0.0)
    plan, _ = prune(net, Budget(0.5, 0.0, "listed", rates), **OFFICIAL)
    assert plan.keep == {}
    assert tiny.same(before, tiny.state_of(net))


def test_same_weights_same_sketch() -> None:
    nets = [tiny.network("vgg") for _ in range(2)]
    nets[1].train()
    plans = [prune(net)[0] for net in nets]
    assert plans[0] == plans[1]
    assert tiny.same(tiny.state_of(nets[0]), tiny.state_of(nets[1]))


# ---- the published figures -----------------------------------------------------------------------


def test_lists_give_the_published_figures() -> None:
    """thop counts two per value of a batch norm beside convolutions; at 0.6 the README's figure has
    none of these. All printed figures are those of the smaller network."""
    net = network(archs.build("resnet56", 10), size=32)
    printed = {
        0.1: 11.43, 0.2: 24.54, 0.3: 35.61, 0.4: 48.72, 0.5: 63.78, 0.7: 87.31, 0.8: 98.40,
        0.9: 111.5,
    }  # fmt: skip
    for rate, expected in printed.items():
        found = net.macs(kept(net, rate)) + 2 * normed(net, rate)
        assert found / 1e6 == pytest.approx(expected, abs=0.011), rate
    assert net.macs(kept(net, 0.6)) == 73_360_000


def kept(net: Network, rate: float) -> dict[str, int]:
    return {g.name: int(rate * g.width) for g in net.groups}


def normed(net: Network, rate: float) -> int:
    """Values that pass a batch norm: those of every convolution."""
    total = 0
    for stage, side in ((1, 32), (2, 16), (3, 8)):
        width = 16 * 2 ** (stage - 1)
        total += 9 * (int(rate * width) + width) * side * side
    return total + 16 * 32 * 32
