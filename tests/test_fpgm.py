"""FPGM: the worked example of METHODS 16.4, distances against loops over pairs, who goes."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from torch import Tensor

from methods.api import Budget
from methods.fpgm import FPGM, sum_of_distances


def by_loops(weight: Tensor) -> list[float]:
    """The definition: pairs of filters, one weight at a time, exact sums."""
    filters = [f.flatten().tolist() for f in weight.double()]
    squares = [
        [[(x - y) ** 2 for x, y in zip(a, b, strict=True)] for b in filters] for a in filters
    ]
    return [math.fsum(math.sqrt(math.fsum(pair)) for pair in row) for row in squares]


class Weights:
    """A network of which only the weights are asked for."""

    layers = ("conv",)

    def __init__(self, *filters: float) -> None:
        self.filters = torch.tensor(filters).view(-1, 1, 1, 1)

    def weight(self, layer: str) -> Tensor:
        return self.filters


def test_worked_example() -> None:
    """Filters 0, 1, 3: the one in the middle goes, not the smallest."""
    score = FPGM().score(Weights(0, 1, 3), None)["conv"]  # type: ignore[arg-type]
    assert score.tolist() == [4, 3, 5]


def test_filters_are_not_squared_first() -> None:
    """The squares of w and -w would be the same point."""
    score = FPGM().score(Weights(2, -2, 0), None)["conv"]  # type: ignore[arg-type]
    assert score.tolist() == [6, 6, 4]


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_equals_loops_over_pairs(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind, scope="all"), tiny_trainer()
    scores = FPGM().score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    for layer in net.layers[:4]:
        expected = torch.tensor(by_loops(net.weight(layer)), dtype=torch.float64)
        torch.testing.assert_close(scores[layer], expected, rtol=1e-12, atol=0)
    assert run.ledger.entries == []  # weights only


@pytest.mark.parametrize(("offset", "size"), [(0.0, 1.0), (1000.0, 1e-3), (1.0, 1e-6), (-3.0, 0.0)])
def test_near_filters_keep_their_digits(offset: float, size: float) -> None:
    """Filters that nearly coincide, far from zero: where products alone would lose all digits."""
    draw = torch.Generator().manual_seed(3)
    far = torch.randn(1, 20, generator=draw)
    weight = offset + size * torch.randn(12, 20, generator=draw)
    for filters in (weight, torch.cat([weight, far])):
        expected = torch.tensor(by_loops(filters), dtype=torch.float64)
        found = sum_of_distances(filters)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
        gaps = expected.sort().values.diff()
        if float(gaps.min()) > 1e-6 * float(expected.max()):
            assert torch.equal(found.argsort(), expected.argsort())


def test_only_differences_count() -> None:
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(9, 4, 3, 3, generator=draw).double()
    moved = weight + torch.randn(4, 3, 3, generator=draw).double()
    torch.testing.assert_close(sum_of_distances(moved), sum_of_distances(weight))
    torch.testing.assert_close(sum_of_distances(-2 * weight), 2 * sum_of_distances(weight))


def test_selects_what_the_published_rule_selects(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    """METHODS 16.4 and pruning_cifar10.py: in every layer, int(rate C) filters with the smallest
    sums go."""
    net = tiny_network()
    scores = FPGM().score(net, tiny_trainer())  # type: ignore[arg-type]
    rates = dict.fromkeys(net.convs, 0.4)
    plan = FPGM().select(net, scores, Budget(0.0, 0.0, "listed", rates))  # type: ignore[arg-type]
    for group in net.groups:
        sums = by_loops(net.weight(group.layers[0]))
        gone = sorted(range(len(sums)), key=sums.__getitem__)[: int(0.4 * len(sums))]
        assert plan.keep[group.name] == tuple(i for i in range(len(sums)) if i not in gone)
