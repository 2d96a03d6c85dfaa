"""WSP: the numbers of METHODS 12, one pass against one per image, and the official code's sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.network import Network
from methods import build, find
from methods.api import Scores, Unsupported
from methods.wsp import WSP, combine, contributions, read_sizes, sums, unit


def test_worked_example() -> None:
    """A = [1, 0, 3], D = [.2, .1, 0]."""
    a, d = torch.tensor([1.0, 0, 3]), torch.tensor([0.2, 0.1, 0])
    means = sums(a.view(3, 1, 1, 1), d.view(3, 1, 1, 1)) / 3
    torch.testing.assert_close(
        means[:, 0].float(), torch.tensor([4 / 3, 2 / 3, 0.1, 2 / 3, 1 / 15])
    )
    assert float(combine(means, "product")) == pytest.approx(0.1333, abs=5e-5)
    assert float(combine(means, "sparsity")) == pytest.approx(0.444, abs=5e-4)
    assert float(combine(means, "taylor")) == pytest.approx(0.0667, abs=5e-5)
    assert float(combine(means, "sum")) == pytest.approx(2)  # a layer of one channel


def test_gradients_count_from_1e_12_on() -> None:
    d = torch.tensor([0, 1e-13, -1e-11, 1.0]).view(4, 1, 1, 1)
    assert float(sums(torch.ones(4, 1, 1, 1), d)[3]) == 2


def test_scores_have_unit_norm_in_each_layer() -> None:
    torch.testing.assert_close(unit(torch.tensor([3.0, 4])), torch.tensor([0.6, 0.8]))
    assert unit(torch.zeros(3)).tolist() == [0, 0, 0]


def image_by_image(net: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """(5, C) means from a pass per image, one channel at a time."""
    found = {n: torch.zeros(5, len(net.weight(n)), dtype=torch.float64) for n in net.layers}
    for image, label in zip(x, y, strict=True):
        with net.tapped({n: net.last_site(n) for n in net.layers}) as maps:
            F.cross_entropy(net(image[None]), label[None]).backward()
            for layer, total in found.items():
                for channel in range(total.shape[1]):
                    a = maps[layer][0, channel].detach().double()
                    grad = maps[layer].grad
                    assert grad is not None
                    d = grad[0, channel].double()
                    values = (a.abs(), (a > 0).double(), d.abs(), (d.abs() > 1e-12).double(), a * d)
                    total[:, channel] += torch.stack([v.mean() for v in values]) / len(x)
    return found


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_equals_a_pass_per_image(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind).train(), tiny_trainer()
    x, y = run.train.batch(run.balanced(run.train, 20))
    found = contributions(net, run, 20)  # type: ignore[arg-type]
    for layer, means in image_by_image(net.eval(), x, y).items():
        torch.testing.assert_close(found[layer], means, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("saliency", ["product", "sparsity", "sum", "taylor"])
def test_scores_and_their_agreement_with_taylor(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, saliency: str
) -> None:
    net, run = tiny_network(), tiny_trainer()
    scores = WSP(num_images=40, saliency=saliency).score(net, run)  # type: ignore[arg-type]
    means = contributions(net, tiny_trainer(), 40)  # type: ignore[arg-type]
    agreement = run.notes["rank_correlation_with_taylor"]
    assert tuple(scores) == tuple(agreement) == net.layers
    for layer, (a, z, d, u, t) in means.items():
        raw = {"product": a * d, "sparsity": z * u, "taylor": t.abs()}
        raw["sum"] = a / a.norm() + d / d.norm()
        expected = raw[saliency] / raw[saliency].norm()
        torch.testing.assert_close(scores[layer], expected)
        ranks = np.argsort(np.argsort([raw[saliency].numpy(), t.abs().numpy()]))
        if len(raw[saliency].unique()) == len(a):  # no ties
            assert agreement[layer] == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert (min(agreement.values()) > 1 - 1e-9) == (saliency == "taylor")


def test_gradient_images_are_charged_once_and_nothing_changes(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    before, seen = tiny.state_of(net), list[int]()
    watch = net.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    with torch.no_grad():  # whatever is around it
        WSP(num_images=150).score(net, run)  # type: ignore[arg-type]
    watch.remove()
    assert seen == [128, 22]
    assert (run.ledger.spent, len(run.ledger.entries)) == (150, 1)
    assert tiny.same(tiny.state_of(net), before)
    assert WSP().prepares
    with pytest.raises(Unsupported, match="at least 1"):
        WSP(num_images=0).score(net, run)  # type: ignore[arg-type]


# ---- the official code's selection ---------------------------------------------------------------


def official_sets(filters: Tensor, reader: Tensor, percentile: float) -> set[int]:
    """Filters (C, C_in, k, k) and their reader (C_out, C, k, k): what is below the percentile of
    its layer by both L1 norms."""
    own = [float(f.abs().sum()) for f in filters]
    read = [float(reader[:, c].abs().sum()) for c in range(len(filters))]
    threshold_own, threshold_read = np.percentile(own, percentile), np.percentile(read, percentile)
    return {c for c, v in enumerate(own) if v < threshold_own} & {
        c for c, v in enumerate(read) if v < threshold_read
    }


def official(net: Any, run: Any) -> Scores:
    entry = find("wsp:official")
    found: Scores = build(entry, entry.params()).score(net, run)
    return found


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_official_removes_what_the_code_removes(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind), tiny_trainer()
    scores = official(net, run)
    removed = 0
    for percentile in (11.0, 20.1, 37.0, 50.5, 73.0, 95.0):  # one for all layers
        for group in net.groups:
            ((layer,), (reader,)) = group.layers, group.readers
            expected = official_sets(
                net.weight(layer).detach(), net.weight(reader).detach(), percentile
            )
            assert set((scores[layer] < percentile / 100).nonzero()[:, 0].tolist()) == expected
            removed += len(expected)
    assert removed > 20
    assert run.ledger.entries == []  # weights only
    assert run.notes == {}
    assert not WSP(saliency="weights").prepares


def test_equal_norms_go_together_or_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)
            with torch.no_grad():
                self.a.weight.copy_(torch.tensor([1.0, 1, 2, 3, 3])[:, None, None, None])
                self.b.weight.copy_(
                    torch.tensor([1.0, 1, 1, 1, 2])[:, None, None].expand(2, 5, 1, 1)
                )

        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(self.b(F.relu(self.a(x))), 1).flatten(1)

    net = Network(Tied(), torch.zeros(1, 3, 4, 4))
    scores = official(net, None)["a"]
    assert scores.tolist() == [0.75, 0.75, 0.75, 1, 1]
    for percentile in (20, 30, 60, 76, 99):
        expected = official_sets(net.weight("a").detach(), net.weight("b").detach(), percentile)
        assert set((scores < percentile / 100).nonzero()[:, 0].tolist()) == expected


class Branches(nn.Module):
    """`a` is read by a depthwise layer; `b` and `c`, side by side, by `d`; `d`, at every position,
    by `fc`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.each = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.b, self.c = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1)
        self.d, self.fc = nn.Conv2d(5, 4, 3), nn.Linear(4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.each(F.relu(self.a(x)))
        x = torch.cat([F.relu(self.b(x)), F.relu(self.c(x))], 1)
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.d(x)), 2).flatten(1))


def test_every_weight_is_credited_to_the_channel_it_reads() -> None:
    torch.manual_seed(0)
    net = Network(Branches(), torch.zeros(1, 3, 8, 8))
    before, read = tiny.state_of(net), read_sizes(net)  # type: ignore[arg-type]
    columns = net.weight("d").detach().abs().sum((0, 2, 3))
    expected = {
        "a": net.weight("each").detach().abs().sum((1, 2, 3)),
        "b": columns[:3],
        "c": columns[3:],
        "d": net.weight("fc").detach().abs().sum(0).view(4, 4).sum(1),
    }
    assert read.keys() == expected.keys()
    for layer, sizes in expected.items():
        torch.testing.assert_close(read[layer].float(), sizes)
    assert tiny.same(tiny.state_of(net), before)


def test_official_does_not_judge_residual_streams(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    with pytest.raises(Unsupported, match="shares its channels"):
        official(tiny_network(scope="all"), tiny_trainer())
