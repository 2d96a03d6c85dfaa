"""Which rows and columns are a unit's, and what methods that look at whole filters share."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import planning
from benchmark.network import Network
from benchmark.options import options_from
from benchmark.sweep import Cell, expand
from methods import build, find
from methods.api import Budget, Plan, Unsupported
from methods.kit import filters, per_layer, renew_head, renew_norms


class Joined(nn.Module):
    """Concatenation, grouped and depthwise convolutions, a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.narrow = nn.Conv2d(10, 6, 1)
        self.grouped = nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False)
        self.wide = nn.Conv2d(8, 12, 1)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.last = nn.Conv2d(12, 5, 1)
        self.fc = nn.Linear(5 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 8)
        x = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        x = F.relu(self.grouped(F.relu(self.narrow(x))))
        x = F.relu(self.deep(self.wide(x)))
        return self.fc(torch.flatten(F.relu(self.last(x)), 1))


def joined() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(Joined(), torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).eval()


# ---- rows and columns ----------------------------------------------------------------------------


def test_rows_and_columns_of_a_plain_chain() -> None:
    net = tiny.network("resnet")
    group = net.groups[1]
    rows, columns = net.rows(group.name), net.columns(group.name)
    assert list(columns) == list(group.readers)
    assert set(rows) == {group.layers[0], group.layers[0].replace("conv1", "bn1")}
    for found in (*rows.values(), *columns.values()):
        assert torch.equal(found, torch.arange(group.width)[:, None])


def test_rows_and_columns_follow_concatenation_groups_and_flattening() -> None:
    net = joined()
    right, narrow, grouped, wide, last = (
        next(g for g in net.groups if g.layers == (name,))
        for name in ("right", "narrow", "grouped", "wide", "last")
    )
    assert lists(net.rows(right.name)) == {
        "right": [[i] for i in range(6)], "norm": [[i] for i in range(4, 10)],
    }  # fmt: skip
    assert lists(net.columns(right.name)) == {"narrow": [[i] for i in range(4, 10)]}
    # a unit of a grouped convolution: the same place in each of its two groups
    assert lists(net.rows(narrow.name)) == {"narrow": [[0, 3], [1, 4], [2, 5]]}
    assert lists(net.columns(narrow.name)) == {"grouped": [[0], [1], [2]]}
    assert lists(net.columns(grouped.name)) == {"wide": [[0, 4], [1, 5], [2, 6], [3, 7]]}
    # a depthwise convolution goes along and has no columns
    assert set(net.rows(wide.name)) == {"wide", "deep"}
    assert set(net.columns(wide.name)) == {"last"}
    assert lists(net.columns(last.name)) == {"fc": torch.arange(20).reshape(5, 4).tolist()}


def test_order_is_that_of_execution() -> None:
    """Not that of names or kinds, nor that in which modules were made."""
    model = Joined()
    model.norm = model._modules.pop("norm")  # made last
    net = Network(model, torch.zeros(1, 3, tiny.SIZE, tiny.SIZE))
    assert net.order == (
        "left", "right", "norm", "narrow", "grouped", "wide", "deep", "last", "fc",
    )  # fmt: skip


def lists(places: dict[str, Tensor]) -> dict[str, list[list[int]]]:
    return {name: found.tolist() for name, found in places.items()}


def test_rows_and_columns_are_those_that_removal_takes() -> None:
    net = joined()
    for group in net.groups:
        small = net.remove(Plan({group.name: (0,)}))
        for name, rows in net.rows(group.name).items():
            gone = net.module(name).weight.shape[0] - small.get_submodule(name).weight.shape[0]
            assert gone == (group.width - 1) * rows.shape[1], name
        for name, columns in net.columns(group.name).items():
            stay = torch.ones(net.weight(name).shape[1], dtype=torch.bool)
            stay[columns[1:].flatten()] = False
            kept = small.get_submodule(name).weight.shape[1]
            assert kept == int(stay.sum()), name


# ---- shared helpers ------------------------------------------------------------------------------


def test_filters_of_a_grouped_convolution_are_all_of_a_unit() -> None:
    net = joined()
    group = next(g for g in net.groups if g.layers == ("grouped",))
    weight = net.weight("grouped").detach()
    expected = torch.stack(
        [torch.cat([weight[i].flatten(), weight[i + 4].flatten()]) for i in range(4)]
    )
    assert torch.equal(filters(net, group, "grouped"), expected)


def test_norms_start_anew_on_the_channels_of_the_group_alone() -> None:
    net = joined()
    for tensor in (net.module("norm").weight, net.module("norm").running_mean):
        nn.init.uniform_(tensor, 2.0, 3.0)
    before = tiny.state_of(net)
    renew_norms(net, next(g for g in net.groups if g.layers == ("right",)))
    norm = net.module("norm")
    for key, fresh in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        found = getattr(norm, key)
        assert (found[4:] == fresh).all(), key
        assert torch.equal(found[:4], before[f"traced.norm.{key}"][:4]), key
    assert (net.bias("right") == 0).all()
    touched = {k for k, v in tiny.state_of(net).items() if not torch.equal(v, before[k])}
    assert touched == {"traced.norm.weight", "traced.norm.running_mean", "traced.right.bias"}


def test_a_head_starts_anew_within_its_bounds_and_by_its_generator() -> None:
    nets = [joined() for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        last = next(g for g in net.groups if g.layers == ("last",))
        renew_head(net, last, torch.Generator().manual_seed(seed))
    first, again, other = (net.weight("fc").detach() for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.9 * 20**-0.5 < first.abs().max() <= 20**-0.5
    assert first.min() < 0 < first.max()
    before = tiny.state_of(joined())
    touched = {k for k, v in tiny.state_of(nets[0]).items() if not torch.equal(v, before[k])}
    assert touched == {"traced.fc.weight", "traced.fc.bias"}


def test_values_per_layer() -> None:
    layers = ("a", "b", "c", "d")
    expected = {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0}
    for text in ("1, 2*0.5, 0", "1 0.5 0.5 0", "1,0.5,1*0.5,0."):
        assert per_layer(text, layers, "x") == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1, 2", "x: 2 values for 3 prunable layers"),
        ("", "x: 0 values"),
        ("4*1", "x: 4 values"),
        ("1, two, 3", "x: 'two' is no number and no N\\*NUMBER"),
        ("1.5*2, 1", "'1.5\\*2' is no number"),
        ("-1, 1, 1", "finite numbers from 0 on"),
        ("1, 1, inf", "finite numbers from 0 on"),
        ("1, 1, nan", "finite numbers from 0 on"),
    ],
)
def test_mistakes_in_values_per_layer_are_told(text: str, match: str) -> None:
    with pytest.raises(Unsupported, match=match):
        per_layer(text, ("a", "b", "c"), "x")


# ---- targets of a method's own kind --------------------------------------------------------------

OWN = [("clr_rnf", {"pr_target": 0.3}), ("epruner", {"betas": "3*0.1"})]


@pytest.mark.parametrize(("label", "params"), OWN)
def test_a_plan_for_another_target_is_not_held_to_the_flops(
    label: str, params: dict[str, object]
) -> None:
    entry, net = find(label), tiny.network("resnet")
    everything = Plan({g.name: tuple(range(g.width)) for g in net.groups})
    solves, other = build(entry, {}), build(entry, params)
    assert (solves.targets_macs, other.targets_macs) == (True, False)
    for method in (solves, other):
        budget = planning._owed(method, Budget(0.5))
        if method.targets_macs:
            with pytest.raises(planning.BadMethod, match=r"removes 0\.0 %"):
                planning._check_plan(everything, net, budget)
        else:
            planning._check_plan(everything, net, budget)


def test_another_target_belongs_to_the_paper_track() -> None:
    def cell(track: str, settings: dict[str, object]) -> Cell:
        words = {"methods": ["epruner"], "arch": "resnet56", "track": track, "set": settings}
        return expand(options_from(words | {"dataset": "digits"}), tiny.data())[0]

    assert cell("common", {}).status == "planned"
    blocked = cell("common", {"epruner.betas": "27*0.5"})
    assert (blocked.status, "the FLOPs target sets no width" in blocked.blocked) == ("n/a", True)
