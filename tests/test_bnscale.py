"""BN-scale: |gamma| of the network as it is, one threshold over all layers, no training."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.network import Network
from methods.api import Budget, Unsupported
from methods.bnscale import BNScale
from methods.slimming import Slimming

GAMMA = {"a": [0.9, 0.02, 0.4, -0.3], "b": [0.05, 0.6, 0.01, 0.2]}  # METHODS 4.6


class TwoLayers(nn.Module):
    """Both layers cost the same per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.a, self.norm_a = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        for name, values in GAMMA.items():
            self.get_submodule(f"norm_{name}").weight.data = torch.tensor(values)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.a(self.stem(x))))
        x = F.relu(self.norm_b(self.b(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Bare(nn.Module):
    """No batch norm anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.b(F.relu(self.a(x)))), 1).flatten(1))


def test_one_threshold_over_all_layers() -> None:
    """Of the 8 scales 0.9, 0.6, 0.4, 0.3 are the highest: three of one layer, one of the other."""
    found = Network(TwoLayers(), torch.zeros(1, 3, 8, 8))
    for layer in ("a", "b"):
        assert found.norm_scales(layer).tolist() == pytest.approx([abs(g) for g in GAMMA[layer]])
    scores = {n: found.norm_scales(n) for n in ("a", "b")}
    kept = {}
    for cut in range(1, 61):
        plan = found.rank(scores, Budget(cut / 100, 0.0, "global"), BNScale.comparable)
        kept[len(plan.keep["a"]) + len(plan.keep["b"])] = (plan.keep["a"], plan.keep["b"])
    assert kept[4] == ((0, 2, 3), (1,))
    assert kept[3] == ((0, 2), (1,))
    assert kept[7] == ((0, 1, 2, 3), (0, 1, 3))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_scores_are_absolute_scales(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind, scope="all"), tiny_trainer()
    with torch.no_grad():
        net.norm(net.layers[0]).weight[::2] *= -1
    before = tiny.state_of(net)
    scores = BNScale().score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    for layer, score in scores.items():
        assert score.tolist() == [abs(g) for g in net.norm(layer).weight.tolist()]
    assert run.ledger.entries == []
    assert tiny.same(tiny.state_of(net), before)
    assert not BNScale().prepares


def test_it_is_slimming_without_its_training(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, budget = tiny_network(), Budget(0.5, 0.1, "global")
    plain = Slimming(sparse_epochs=1.0, start="sparse")  # trains nothing of its own here
    a, b = (m.score(net, tiny_trainer()) for m in (BNScale(), plain))  # type: ignore[arg-type]
    assert all(torch.equal(a[n], b[n]) for n in net.layers)
    assert BNScale().select(net, a, budget) == plain.select(net, b, budget)  # type: ignore[arg-type]


def test_scores_are_a_copy(tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer) -> None:
    net = tiny_network()
    scores = BNScale().score(net, tiny_trainer())  # type: ignore[arg-type]
    scores[net.layers[0]].zero_()
    assert net.norm_scales(net.layers[0]).sum() > 0


def test_a_network_without_norms_is_unsupported(tiny_trainer: tiny.MakeTrainer) -> None:
    net = Network(Bare(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(Unsupported, match="no batch norm sees the channels"):
        BNScale().score(net, tiny_trainer())  # type: ignore[arg-type]
