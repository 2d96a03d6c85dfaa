"""LAMP: the worked example of METHODS 16.8, the definition as loops, ties, ranking over layers."""

from __future__ import annotations

import pytest
import tiny
import torch
import torch_pruning
from torch import Tensor

from benchmark import select
from methods.api import Budget
from methods.lamp import LAMP, lamp


def by_loops(u: list[float]) -> list[float]:
    """Each over the sum of itself and those that come after it in ascending order; of equal ones
    the lower index comes later."""
    order = sorted(range(len(u)), key=lambda i: (u[i], -i))
    scores = [0.0] * len(u)
    for place, i in enumerate(order):
        left = sum(u[j] for j in order[place:])
        scores[i] = u[i] / left if left else 0.0
    return scores


def random_energy(count: int, seed: int, ties: bool = False) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(0, 4, (count,), generator=draw).double()
    return torch.rand(count, generator=draw).double()


def test_worked_example() -> None:
    found = lamp(torch.tensor([1.0, 4.0, 5.0]).double())
    torch.testing.assert_close(found, torch.tensor([0.1, 4 / 9, 1.0]).double())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_loops(seed: int, ties: bool) -> None:
    u = random_energy(17, seed, ties)
    found = lamp(u)
    torch.testing.assert_close(found, torch.tensor(by_loops(u.tolist())).double())
    assert float(found.max()) == 1.0
    assert float(found.min()) >= 0.0
    higher = [found[i] > found[j] for i in range(17) for j in range(17) if u[i] > u[j]]
    assert all(higher)  # the order within a layer is that of the norms


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_it_is_the_sum_over_those_no_smaller(seed: int) -> None:
    u = random_energy(11, seed)
    by_definition = torch.stack([one / u[u >= one].sum() for one in u])
    torch.testing.assert_close(lamp(u), by_definition)
    theirs = torch_pruning.importance.LAMPImportance()._lamp(u.float())
    torch.testing.assert_close(lamp(u).float(), theirs, rtol=1e-4, atol=0)


def test_equal_filters_keep_the_lower_index() -> None:
    assert lamp(torch.tensor([2.0, 2.0, 2.0]).double()).tolist() == [1.0, 1 / 2, 1 / 3]
    assert lamp(torch.tensor([2.0, 0.0, 2.0]).double()).tolist() == [1.0, 0.0, 1 / 2]


def test_a_layer_of_zeros_scores_zero() -> None:
    assert lamp(torch.zeros(4).double()).tolist() == [0.0] * 4


def test_scores_are_of_squared_filter_norms(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(scope="all"), tiny_trainer()
    scores = LAMP().score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    for layer, score in scores.items():
        energy = [sum(w * w for w in f.flatten().tolist()) for f in net.weight(layer)]
        torch.testing.assert_close(score, torch.tensor(by_loops(energy)).double())
    assert run.ledger.entries == []  # weights only


def test_the_scale_of_a_layer_does_not_matter_and_is_not_removed_again(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    """Scores share one scale: they are ranked over layers as they are, not by a layer's mean."""
    net = tiny_network()
    before = LAMP().score(net, tiny_trainer())  # type: ignore[arg-type]
    with torch.no_grad():
        net.weight(net.layers[0]).mul_(100.0)
    after = LAMP().score(net, tiny_trainer())  # type: ignore[arg-type]
    assert all(torch.allclose(after[n], before[n]) for n in net.layers)
    budget = Budget(0.5, 0.1, "global")
    plan = LAMP().select(net, before, budget)  # type: ignore[arg-type]
    raw = {g.name: before[g.layers[0]] for g in net.groups}
    widths = select.global_widths(net.limits(budget), raw, budget, net.macs)
    assert plan == select.best(raw, widths)
    assert plan != net.rank(before, budget)


def test_no_layer_goes_completely(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    """One score of 1 in each layer: its last channel outlives all others."""
    net = tiny_network()
    scores = LAMP().score(net, tiny_trainer())  # type: ignore[arg-type]
    assert [int((s == 1).sum()) for s in scores.values()] == [1] * len(net.layers)
