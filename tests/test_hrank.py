"""HRank: the worked example of METHODS 3.6, ranks against a loop over maps, one pass per batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.trainer import Trainer
from methods.api import Budget, Unsupported
from methods.hrank import HRank


class Maps(nn.Module):
    """Hands its input to the second convolution as it is, where it is not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.after = nn.Conv2d(3, 2, 1)
        nn.init.eye_(self.conv.weight[:, :, 0, 0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(F.relu(self.norm(self.conv(x))))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class TwoImages:
    """A trainer that has the images of the worked example only."""

    def batches(self, images: int) -> Iterator[tuple[Tensor, Tensor]]:
        a = torch.tensor([[1.0, 2, 3], [2, 4, 6], [1, 2, 3]])
        e = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
        zero = torch.zeros(3, 3)
        x = torch.stack([torch.stack([a, torch.eye(3), zero]), torch.stack([e, torch.eye(3), a])])
        yield x[:1], torch.zeros(1, dtype=torch.int64)
        yield x[1:], torch.zeros(1, dtype=torch.int64)


def test_worked_example() -> None:
    net = Network(Maps(), torch.zeros(1, 3, 3, 3))
    scores = HRank().score(net, TwoImages())  # type: ignore[arg-type]
    assert scores["conv"].tolist() == [1.5, 3.0, 0.5]
    group = net.group_of("conv").name
    plan = HRank().select(net, scores, Budget(0, 0.1, "listed", dict.fromkeys(net.layers, 0.34)))
    assert plan.keep[group] == (0, 1)


def maps_after_activation(net: Network, images: Tensor) -> dict[str, Tensor]:
    """By hooks on the batch norms, and the additions of residual blocks where scope is `all`."""
    found: dict[str, Tensor] = {}
    hooks = []
    for layer in net.layers:

        def keep(module: nn.Module, inputs: Any, out: Tensor, layer: str = layer) -> None:
            found[layer] = F.relu(out)

        hooks.append(net.norm(layer).register_forward_hook(keep))
    with torch.no_grad():
        net.eval()(images)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_equals_a_loop_over_single_maps(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind), tiny_trainer(epochs=2.0)
    rows = run.balanced(run.train, 20)
    expected = maps_after_activation(net, run.train.batch(rows)[0])
    scores = HRank(num_images=20).score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    for layer, maps in expected.items():
        ranks = [
            [int(torch.linalg.matrix_rank(one)) for one in image] for image in maps
        ]  # fmt: skip
        assert torch.equal(scores[layer], torch.tensor(ranks).float().mean(0))
    assert len(torch.cat(list(scores.values())).unique()) > 3  # something to tell apart


def test_a_blocks_last_convolution_is_judged_by_the_blocks_output(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(scope="all"), tiny_trainer()
    block = net.copy()
    scores = HRank(num_images=8).score(net, run)  # type: ignore[arg-type]
    with torch.no_grad(), block.tapped("in", ("layer2.0.conv1",)) as stored:
        block.eval()(run.train.batch(run.balanced(run.train, 8))[0])
    ranks = torch.linalg.matrix_rank(stored["layer2.0.conv1"]).float().mean(0)
    assert torch.equal(scores["layer1.0.conv2"], ranks)


def scored(run: Trainer, net: Network, images: int) -> list[tuple[Tensor, bool]]:
    """Inputs of every forward pass, and whether it was in training mode."""
    passes: list[tuple[Tensor, bool]] = []
    net.register_forward_pre_hook(lambda m, given: passes.append((given[0], m.training)))
    HRank(num_images=images).score(net, run)  # type: ignore[arg-type]
    return passes


@pytest.mark.parametrize(("images", "passes"), [(100, 1), (128, 1), (129, 2), (200, 2)])
def test_one_pass_per_batch_serves_all_layers(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, images: int, passes: int
) -> None:
    run = tiny_trainer(ledger=Ledger(100 * tiny.TRAIN, tiny.TRAIN))
    seen = scored(run, tiny_network().train(), images)
    assert len(seen) == passes
    assert sum(len(x) for x, _ in seen) == images
    assert not any(training for _, training in seen)
    (entry,) = run.ledger.entries
    assert (entry.kind, entry.images, run.ledger.spent) == ("forward", images, 0)


def test_images_are_balanced_plain_and_fixed(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    run = tiny_trainer()
    (seen, _), *_ = scored(run, tiny_network(), 40)
    rows = run.balanced(run.train, 40)
    plain, labels = run.train.batch(rows)
    assert torch.equal(seen, plain)
    assert not torch.equal(seen, run.train.batch(rows, augment=(0, 0))[0])
    assert torch.bincount(labels).tolist() == [10] * tiny.CLASSES
    (again, _), *_ = scored(tiny_trainer(), tiny_network(), 40)
    (other, _), *_ = scored(tiny_trainer(seed=1), tiny_network(), 40)
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)


def test_the_cap_on_forward_images_is_recorded(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    run = tiny_trainer()
    HRank().score(tiny_network(), run)  # type: ignore[arg-type]
    (entry,) = run.ledger.entries
    assert entry.images == 0.05 * run.ledger.allowed
    assert entry.requested == tiny.TRAIN  # 500 were asked for, that many exist


def test_a_budget_without_a_single_image_is_unsupported(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    with pytest.raises(Unsupported, match="no images left"):
        HRank().score(tiny_network(), tiny_trainer(epochs=0.05))  # type: ignore[arg-type]


def test_scoring_changes_no_weight(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network()
    before = tiny.state_of(net)
    HRank().score(net, tiny_trainer())  # type: ignore[arg-type]
    assert tiny.same(tiny.state_of(net), before)
