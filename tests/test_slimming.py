"""Network Slimming: the worked example of METHODS 4.6, the sub-gradient, lambda and its limit."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from benchmark import select
from benchmark.schedule import make_optimizer
from benchmark.spec import Recipe
from methods import build, find
from methods.api import Budget
from methods.slimming import PUBLISHED_RATE, Slimming, _gammas, _l1


def test_worked_example() -> None:
    """p = 0.5 of 8 removes 5, as the published comparison is strict: so three stay."""
    gamma = {
        "layer1": torch.tensor([0.9, 0.02, 0.4, -0.3]),
        "layer2": torch.tensor([0.05, 0.6, 0.01, 0.2]),
    }
    scores = {n: g.abs() for n, g in gamma.items()}
    ranked = torch.cat(list(scores.values())).sort().values
    assert float(ranked[int(8 * 0.5)]) == pytest.approx(0.3)
    full = {"layer1": 4, "layer2": 4}

    def macs(left: dict[str, int]) -> int:
        return 1000 * sum((full | left).values())

    budget = Budget(5 / 8, 0.1, "global")
    widths = select.global_widths(select.Widths.of(full, 0.1), scores, budget, macs)  # type: ignore[arg-type]
    assert select.best(scores, widths).keep == {"layer1": (0, 2), "layer2": (1,)}


def test_worked_example_of_one_step(tiny_network: tiny.MakeNetwork) -> None:
    """lr 0.1, lambda 1e-4, no momentum, no loss, weight decay 1e-4: 0.9 becomes 0.899981."""
    net = tiny_network()
    gammas = [m.weight for m in net.norms().values() if isinstance(m, nn.BatchNorm2d)]
    for gamma in gammas:
        nn.init.constant_(gamma, 0.9)
    recipe = Recipe(epochs=1, lr=0.1, momentum=0.0, nesterov=False, weight_decay=1e-4)
    optimizer = make_optimizer(recipe, gammas)
    (1e-4 * _l1(net)).backward()  # type: ignore[arg-type]
    optimizer.step()
    for gamma in gammas:
        torch.testing.assert_close(gamma.detach(), torch.full_like(gamma, 0.899981))


def test_one_step_of_the_trainer_moves_a_scale_by_the_penalty(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    """The penalty of two runs that differ in it alone: their difference is rate x lambda x sign."""
    recipe = Recipe(
        epochs=1, lr=0.1, momentum=0.0, nesterov=False, weight_decay=1e-4, schedule="constant",
        batch_size=100,
    )  # fmt: skip
    found = []
    for strength in (0.0, 1e-2):
        net = tiny_network()
        with torch.no_grad():
            for gamma in _gammas(net):  # type: ignore[arg-type]
                gamma[::2] *= -1
        before = torch.cat([g.detach().clone() for g in _gammas(net)])  # type: ignore[arg-type]
        run = tiny_trainer(recipe=recipe)
        penalty = lambda net=net, strength=strength: strength * _l1(net)  # noqa: E731
        run.fit(net, 0.5, penalty=penalty)
        found.append(torch.cat([g.detach() for g in _gammas(net)]))  # type: ignore[arg-type]
    expected = -0.1 * 1e-2 * before.sign()
    torch.testing.assert_close(found[1] - found[0], expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("scope", ["inner", "all"])
def test_the_penalty_is_lambda_sign_of_every_batch_norm(
    tiny_network: tiny.MakeNetwork, scope: str
) -> None:
    net = tiny_network(scope=scope)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[0], norm.weight[1] = 0.0, -0.7
    method, rates = Slimming(start="sparse"), [0.1] * 10
    strength = method._strength(net, rates)  # type: ignore[arg-type]
    method.dense_penalty(net, rates)().backward()  # type: ignore[arg-type]
    assert len(norms) == 7
    for norm in norms:
        assert norm.weight.grad is not None
        torch.testing.assert_close(norm.weight.grad, strength * norm.weight.detach().sign())
        assert float(norm.weight.grad[0]) == 0  # sign(0) = 0
    assert all(p.grad is None for n, p in net.named_parameters() if "bn" not in n)


def test_the_head_of_vgg_is_not_penalised(tiny_network: tiny.MakeNetwork) -> None:
    net = tiny_network("vgg")
    assert len(_gammas(net)) == 3  # type: ignore[arg-type]
    _l1(net).backward()  # type: ignore[arg-type]
    heads = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [m.weight.grad for m in heads] == [None]


def test_lambda_matches_the_published_product_until_its_limit(
    tiny_network: tiny.MakeNetwork,
) -> None:
    net = tiny_network()
    scales = torch.cat([g.detach() for g in _gammas(net)]).abs()  # type: ignore[arg-type]
    steps = 160 * 782
    assert pytest.approx(1e-4 * 782 * 8.44) == 1e-4 * PUBLISHED_RATE
    long = [PUBLISHED_RATE / steps] * steps
    assert Slimming()._strength(net, long) == pytest.approx(1e-4)  # type: ignore[arg-type]
    short = [0.05] * 16  # matched, lambda would be 0.8
    strength = Slimming()._strength(net, short)  # type: ignore[arg-type]
    assert Slimming()._matching(short) == pytest.approx(1e-4 * PUBLISHED_RATE / 0.8)
    assert strength < Slimming()._matching(short)
    long_enough = [0.05] * 40_000  # a third of the published product: still not below the paper's
    assert Slimming()._strength(net, long_enough) == pytest.approx(1e-4)  # type: ignore[arg-type]
    # a constant gradient moves a weight by rate / (1 - momentum): the median scale to zero at most
    assert strength * sum(short) / 0.1 == pytest.approx(float(scales.median()), rel=1e-5)


def facts(run: Any, net: Any, **changes: Any) -> dict[str, Any]:
    Slimming(**{"sparse_epochs": 1.0} | changes).score(net, run)
    notes: dict[str, Any] = run.notes
    return notes


def test_the_charged_phase_is_recorded(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    before = torch.cat([g.detach().clone() for g in _gammas(net)])  # type: ignore[arg-type]
    notes = facts(run, net)
    after = torch.cat([g.detach() for g in _gammas(net)])  # type: ignore[arg-type]
    change = ((after - before).abs() / before.abs()).median()
    assert notes["median_gamma_change"] == pytest.approx(float(change))
    assert notes["lambda_used"] <= notes["lambda_matching_published"]
    assert change > 0.05
    assert "label" not in notes
    assert run.ledger.spent == tiny.TRAIN


def test_an_inactive_penalty_is_named(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    slow = tiny.RECIPE.model_copy(update={"lr": 1e-5})
    notes = facts(tiny_trainer(recipe=slow), tiny_network(), sparsity=1e-9)
    assert notes["median_gamma_change"] < 0.05
    assert notes["label"] == "BN-scale (sparsity inactive)"


def test_scores_are_scales_of_the_network_as_it_now_is(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network()
    scores = Slimming(sparse_epochs=1.0).score(net, tiny_trainer())  # type: ignore[arg-type]
    for layer, score in scores.items():
        assert torch.equal(score, net.norm(layer).weight.detach().abs())
        assert score.data_ptr() != net.norm(layer).weight.data_ptr()


def test_scores_are_sizes_whatever_the_sign(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network()
    layer = net.layers[0]
    nn.init.constant_(net.norm(layer).weight, -0.7)
    scores = Slimming(start="sparse").score(net, tiny_trainer())  # type: ignore[arg-type]
    assert torch.equal(scores[layer], torch.full_like(scores[layer], 0.7))


def test_the_sparse_variant_trains_nothing_here(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    entry = find("slimming:sparse")
    method, net, run = build(entry, entry.params()), tiny_network(), tiny_trainer()
    before = tiny.state_of(net)
    method.score(net, run)
    assert tiny.same(tiny.state_of(net), before)
    assert run.ledger.entries == []
    assert method.own_dense
    assert not method.prepares
    plain = build(find("slimming"), {})
    assert plain.prepares
    assert not plain.own_dense


def test_a_stronger_penalty_gives_smaller_scales(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    def total(sparsity: float) -> Tensor:
        net = tiny_network()
        facts(tiny_trainer(), net, sparsity=sparsity)
        return torch.cat([g.detach() for g in _gammas(net)]).abs().sum()  # type: ignore[arg-type]

    assert total(1e-4) < 0.9 * total(1e-9)
