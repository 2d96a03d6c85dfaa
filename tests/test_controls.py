"""The controls: random channels, uniform widths from scratch, the dense network trained on."""

from __future__ import annotations

import pytest
import tiny
import torch

from methods.api import Budget, Plan
from methods.dense_continue import DenseContinue
from methods.random import Random
from methods.width_scaling import WidthScaling

HALF = Budget(0.5, 0.1, "uniform")


def test_random_follows_the_seed_and_nothing_else(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    def plan(seed: int, network_seed: int = 0) -> Plan:
        torch.rand(1)  # the global generator has no say
        return Random().prune(tiny_network(seed=network_seed), HALF, tiny_trainer(seed))

    assert plan(0) == plan(0)
    assert plan(0) == plan(0, network_seed=1)
    assert len({str(plan(seed)) for seed in range(6)}) == 6
    assert plan(0).widths() == plan(1).widths()


def test_random_is_uniform(tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer) -> None:
    """Every channel of the widest layer is kept about equally often."""
    net, kept, draws = tiny_network(), torch.zeros(32), 300
    for seed in range(draws):
        plan = Random().prune(net, HALF, tiny_trainer(seed))
        kept[list(plan.keep["layer3.0.conv1"])] += 1
    share = len(plan.keep["layer3.0.conv1"]) / 32
    assert (kept / draws - share).abs().max() < 4.5 * (share * (1 - share) / draws) ** 0.5


def test_random_scores_differ_between_layers(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    scores = Random().score(tiny_network(), tiny_trainer())  # type: ignore[arg-type]
    values = torch.cat(list(scores.values()))
    assert len(values.unique()) == len(values)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.7])
def test_width_scaling_keeps_a_uniform_prefix(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, cut: float
) -> None:
    net, run = tiny_network(trained=False), tiny_trainer()
    plan = WidthScaling().prune(net, Budget(cut, 0.1, "uniform"), run)  # type: ignore[arg-type]
    shares = []
    for group in net.groups:
        kept = plan.keep[group.name]
        assert kept == tuple(range(len(kept)))
        shares.append((len(kept), group.width))
    common = sum(k for k, _ in shares) / sum(w for _, w in shares)
    assert all(abs(kept - common * width) <= 1.01 for kept, width in shares)
    assert run.ledger.entries == []


def test_width_scaling_starts_from_random_weights_and_claims_nothing() -> None:
    assert not WidthScaling.trained_start
    assert WidthScaling.allocations == ("uniform",)
    assert not any(m.informed for m in (WidthScaling, Random, DenseContinue))


def test_dense_continue_removes_nothing(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    plan = DenseContinue().prune(net, Budget(0.5, 0.1, "none"), run)  # type: ignore[arg-type]
    assert net.macs(plan.widths()) == net.macs()
    x, _ = tiny.batch()
    torch.testing.assert_close(net.remove(plan).eval()(x), net(x))
    assert run.ledger.spent == 0
