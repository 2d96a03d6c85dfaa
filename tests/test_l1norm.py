"""L1-norm: the worked example of METHODS 2, and scores of a whole network."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor

from benchmark import select
from methods.api import Budget
from methods.l1norm import L1Norm

FILTERS = torch.tensor(
    [
        [[[1, -2], [0, 1]], [[0.5, 0], [0, -0.5]]],
        [[[0.1, 0.1], [0.1, 0.1]], [[0, 0], [0, 0.2]]],
        [[[2, 0], [0, 2]], [[-1, 1], [1, -1]]],
    ]
)
FIRST, SECOND = [5.0, 0.6, 8.0], [10.0, 11.0, 30.0]


class Weights:
    """A network of which only the weights are asked for."""

    layers = ("first",)

    def weight(self, layer: str) -> Tensor:
        return FILTERS


def test_worked_example() -> None:
    score = L1Norm().score(Weights(), None)["first"]  # type: ignore[arg-type]
    torch.testing.assert_close(score, torch.tensor(FIRST))
    normalised = select.normalise(score)
    expected = torch.tensor([1.1029, 0.1324, 1.7647]).double()
    torch.testing.assert_close(normalised, expected, atol=1e-4, rtol=0)


def test_worked_example_across_layers() -> None:
    """By the layer's mean the order is F2, second[0], second[1], F1; raw, the whole first layer
    would go before anything of the second."""
    scores = {"first": torch.tensor(FIRST), "second": torch.tensor(SECOND)}
    normalised = {n: select.normalise(s) for n, s in scores.items()}
    order = sorted((float(v), f"{n}[{i}]") for n, s in normalised.items() for i, v in enumerate(s))
    names = ["first[1]", "second[0]", "second[1]", "first[0]"]
    assert [name for _, name in order[:4]] == names
    assert [v for v, _ in order[:4]] == pytest.approx([0.132, 0.588, 0.647, 1.103], abs=5e-4)
    widths = select.Widths.of({"first": 3, "second": 3}, 0.1)

    def macs(left: dict[str, int]) -> int:
        return 1000 * sum(({"first": 3, "second": 3} | left).values())

    def removed(found: dict[str, Tensor], count: int) -> dict[str, int]:
        budget = Budget(count / 6, 0.1, "global")
        return select.global_widths(widths, found, budget, macs)  # type: ignore[arg-type]

    assert removed(normalised, 3) == {"first": 2, "second": 1}
    assert removed(scores, 2) == {"first": 1, "second": 3}


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_scores_are_absolute_sums(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind), tiny_trainer()
    scores = L1Norm().score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    for layer, score in scores.items():
        by_hand = [sum(abs(w) for w in filters.flatten().tolist()) for filters in net.weight(layer)]
        torch.testing.assert_close(score, torch.tensor(by_hand))
    assert run.ledger.entries == []  # weights only


def test_the_sign_of_a_weight_does_not_matter(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, other = tiny_network(), tiny_network()
    with torch.no_grad():
        for layer in other.layers:
            other.weight(layer).neg_()
    a, b = (L1Norm().score(n, tiny_trainer()) for n in (net, other))  # type: ignore[arg-type]
    assert all(torch.equal(a[n], b[n]) for n in a)
