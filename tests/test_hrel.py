"""HRel: the numbers of METHODS 8, batched eigenvalues against one matrix at a time, the code's
rules for kernel widths and sites."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.ledger import Ledger
from benchmark.network import Network
from methods import build, find
from methods.api import Scores, Unsupported
from methods.hrel import HRel, aligned_width, distances, entropy, kernel, relevance

# ---- what the official code computes, one matrix at a time (METHODS 8) ---------------------------


def official_distances(x: Tensor) -> Tensor:
    """(N, D) -> (N, N)"""
    return torch.stack([torch.stack([(a - b).norm() for b in x]) for a in x])


def official_entropy(matrix: Tensor) -> float:
    """(N, N), any trace."""
    values = torch.linalg.eigvalsh(matrix / matrix.trace()).abs().tolist()
    return -sum(v * math.log2(v) for v in values if v)


def label_kernel(y: Tensor) -> Tensor:
    hot = F.one_hot(y).double()
    return torch.exp(-(official_distances(hot) ** 2) / 0.1**2)


def official_information(t: Tensor, y: Tensor, sigma: float) -> float:
    """Activations (N, D) of one filter."""
    k_t, k_y = torch.exp(-(official_distances(t) ** 2) / sigma**2), label_kernel(y)
    return official_entropy(k_t) + official_entropy(k_y) - official_entropy(k_t * k_y)


def official_width(x: Tensor, y: Tensor, iteration: int) -> float:
    """The best width for a whole layer (N, D) in one iteration."""
    d, k_y = official_distances(x), label_kernel(y)
    best, width = -math.inf, math.nan
    count = 100 if iteration > 20 else 300
    for sigma in torch.linspace(0.3, 10 * float(d.mean()), count, dtype=torch.float64).tolist():
        k = torch.exp(-(d**2) / sigma**2) / len(d)
        fit = 2 * math.log2(float((k @ k_y).trace()) / float(k.norm() * k_y.norm()))
        if fit > best:
            best, width = fit, sigma
    return width


def official_scores(
    maps: list[dict[str, Tensor]], labels: list[Tensor]
) -> tuple[Scores, dict[str, float]]:
    """Maps (N, C, H, W) per batch and layer: widths by the running average, the last one serves."""
    scores, widths = {}, {}
    for layer in maps[0]:
        for i, (batch, y) in enumerate(zip(maps, labels, strict=True)):
            new = official_width(batch[layer].flatten(1).double(), y, i)
            widths[layer] = 0.9 * widths[layer] + 0.1 * new if i else new
        rows = [
            [
                official_information(one.flatten(1).double(), y, widths[layer])
                for one in batch[layer].unbind(1)
            ]
            for batch, y in zip(maps, labels, strict=True)
        ]
        scores[layer] = torch.tensor(rows, dtype=torch.float64).mean(0)
    return scores, widths


# ---- numbers -------------------------------------------------------------------------------------

X, Y = torch.tensor([0, 0.1, 2, 2.2]), torch.tensor([0, 0, 1, 1])
ONE = torch.ones(1).double()


def test_worked_example() -> None:
    """Sigma 1: S(T) = 1.0918, S(Y) = 1, S(T, Y) = 1.0922, I = 0.9996 bits; permuted 0.0920."""
    matrix = kernel(distances(X.view(1, 4, 1)), ONE) / 4
    joint = torch.where(Y[:, None] == Y, matrix, 0)
    found = [float(entropy(m)) for m in (matrix, joint)]
    assert found == pytest.approx([1.0918, 1.0922], abs=5e-5)
    for order, information in (([0, 1, 2, 3], 0.9996), ([0, 2, 1, 3], 0.0920)):
        maps = X[order].view(4, 1, 1, 1)
        assert float(relevance(maps, Y, ONE)) == pytest.approx(information, abs=5e-5)
        assert official_information(X[order, None].double(), Y, 1.0) == pytest.approx(
            information, abs=5e-5
        )


def test_entropies_that_are_known() -> None:
    far = torch.arange(8.0).view(8, 1, 1, 1) * 100
    labels = torch.arange(8) // 4
    assert float(relevance(far, labels, ONE)) == pytest.approx(3 + 1 - 3)  # every image its own
    same = torch.zeros(8, 1, 1, 1)
    assert float(relevance(same, labels, ONE)) == pytest.approx(0)
    classes = labels.float().view(8, 1, 1, 1) * 100
    assert float(relevance(classes, labels, ONE)) == pytest.approx(1)  # the label, and no more
    assert float(relevance(classes, torch.arange(8) % 2, ONE)) == pytest.approx(0)


@pytest.mark.parametrize("classes", [1, 3, 20])
def test_batched_blocks_equal_one_hadamard_product_at_a_time(classes: int) -> None:
    draw = torch.Generator().manual_seed(classes)
    maps = torch.randn(20, 40, 3, 3, generator=draw)  # more filters than are worked on at once
    labels = torch.randint(0, classes, (20,), generator=draw)
    widths = torch.linspace(0.5, 6, 40, dtype=torch.float64)
    expected = [
        official_information(maps[:, c].flatten(1).double(), labels, float(widths[c]))
        for c in range(40)
    ]
    assert relevance(maps, labels, widths).tolist() == pytest.approx(expected, abs=1e-9)
    one = [official_information(m.flatten(1).double(), labels, 2.0) for m in maps[:, :5].unbind(1)]
    assert relevance(maps[:, :5], labels, 2 * ONE).tolist() == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("iteration", [0, 20, 21])
def test_width_of_a_layer_is_that_of_the_code(iteration: int) -> None:
    draw = torch.Generator().manual_seed(iteration)
    labels = torch.arange(18) % 3
    maps = torch.randn(18, 4, 2, 2, generator=draw) + labels[:, None, None, None]
    found = HRel().best_width(maps, labels, iteration)
    assert found.shape == (1,)
    expected = official_width(maps.flatten(1).double(), labels, iteration)
    assert float(found) == pytest.approx(expected)
    assert 0.3 < expected < 10 * float(official_distances(maps.flatten(1)).mean())


def test_width_of_each_filter() -> None:
    """From a tenth to ten times its own mean distance; in chunks as in one piece."""
    draw = torch.Generator().manual_seed(5)
    labels = torch.arange(12) % 3
    maps = torch.randn(12, 35, 2, 2, generator=draw) + labels[:, None, None, None]
    maps = maps * torch.logspace(-4, 1, 35)[:, None, None]
    method = HRel(per_filter_sigma=True)
    found = method.best_width(maps, labels, 0)
    same = labels[:, None] == labels
    for c in (0, 10, 34):
        d = official_distances(maps[:, c].flatten(1).double())
        tried = torch.linspace(0.1, 10, 75, dtype=torch.float64) * d.mean()
        kernels = [torch.exp(-(d**2) / s**2) for s in tried]
        fits = torch.stack([(k * same).sum() / k.norm() for k in kernels])
        assert float(found[c]) == pytest.approx(float(tried[fits.argmax()]), rel=1e-4)
    assert len(method.best_width(maps, labels, 21)) == 35


def test_a_layer_of_zeros_has_a_width_and_no_information() -> None:
    maps, labels = torch.zeros(6, 3, 2, 2), torch.arange(6) % 2
    for own in (False, True):
        width = HRel(per_filter_sigma=own).best_width(maps, labels, 0)
        assert width.isfinite().all()
        assert relevance(maps, labels, width).tolist() == pytest.approx([0, 0, 0])
    one = aligned_width(torch.zeros(1, 1, 1).double(), torch.ones(1, 1).bool(), 0.3, 5)
    assert one.tolist() == [0.3]


# ---- whole networks ------------------------------------------------------------------------------


def plenty(tiny_trainer: tiny.MakeTrainer) -> Any:
    """A trainer whose budget lets all images be looked at."""
    return tiny_trainer(ledger=Ledger(100 * tiny.TRAIN, tiny.TRAIN))


def hooked(net: Any, layers: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """What these modules give out, rectified if they are batch norms."""
    found: dict[str, Tensor] = {}

    def keep(layer: str) -> Any:
        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            norm = isinstance(module, nn.BatchNorm2d)
            found[layer] = F.relu(out) if norm else out.clone()

        return hook

    hooks = [m.register_forward_hook(keep(n)) for n, m in layers.items()]
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("kind", "site"), [("resnet", "conv"), ("vgg", "norm")])
def test_official_scores_what_the_code_scores(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str, site: str
) -> None:
    """Raw outputs of convolutions in the residual network, what is behind the ReLU in the other."""
    entry, net, run = find("hrel:official"), tiny_network(kind), plenty(tiny_trainer)
    method = build(entry, entry.params() | {"num_images": 45, "batch_size": 15})
    scores = method.score(net, run)
    assert tuple(scores) == net.layers
    x, y = run.train.batch(run.balanced(run.train, 45))
    modules = {n: net.module(n) if site == "conv" else net.norm(n) for n in net.layers}
    maps = [hooked(net, modules, part) for part in x.split(15)]
    expected, widths = official_scores(maps, list(y.split(15)))
    for layer, score in scores.items():
        torch.testing.assert_close(score, expected[layer], atol=1e-5, rtol=1e-5)
        assert len(score.unique()) > 3
        assert run.notes["kernel_width"][layer].tolist() == pytest.approx([widths[layer]], rel=1e-4)
        kept = set(score.argsort()[2:].tolist())  # the code removes the smallest of each layer
        assert kept == set(sorted(range(len(score)), key=lambda i: expected[layer][i])[2:])


def test_sites(tiny_network: tiny.MakeNetwork) -> None:
    resnet, vgg = tiny_network("resnet", scope="all"), tiny_network("vgg")
    last = {n: resnet.last_site(n) for n in resnet.layers}
    assert set(last.values()) == {
        "act",
        "norm",
    }  # a block's last convolution has no ReLU of its own
    assert HRel().sites(resnet) == last  # type: ignore[arg-type]
    assert set(HRel(at="code").sites(resnet).values()) == {"conv"}  # type: ignore[arg-type]
    for at, site in (("act", "act"), ("code", "act"), ("conv", "conv")):
        assert HRel(at=at).sites(vgg) == dict.fromkeys(vgg.layers, site)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [False, True])
def test_scores_are_means_over_full_batches(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, own: bool
) -> None:
    net, run = tiny_network().train(), plenty(tiny_trainer)
    before, grown = tiny.state_of(net), list[bool]()
    watch = net.register_forward_pre_hook(lambda m, args: grown.append(torch.is_grad_enabled()))
    method = HRel(num_images=70, batch_size=30, per_filter_sigma=own)
    scores = method.score(net, run)  # type: ignore[arg-type]
    watch.remove()
    assert grown == [False] * 4  # two batches, once for the widths and once for the scores
    (entry,) = run.ledger.entries
    assert (entry.kind, entry.images, run.ledger.spent) == ("forward", 70, 0)
    assert tiny.same(tiny.state_of(net), before)
    assert not HRel().prepares
    x, y = run.train.batch(run.balanced(run.train, 60))
    maps = [hooked(net, {n: net.norm(n) for n in net.layers}, part) for part in x.split(30)]
    for layer, score in scores.items():
        width = run.notes["kernel_width"][layer]
        assert width.shape == ((len(score),) if own else (1,))
        pairs = [(m[layer], part) for m, part in zip(maps, y.split(30), strict=True)]
        both = [relevance(m, part, width) for m, part in pairs]
        torch.testing.assert_close(score, torch.stack(both).mean(0), atol=1e-5, rtol=1e-5)
        if own:  # the first batch's width, averaged with the second one's
            first, second = (method.best_width(*pair, i) for i, pair in enumerate(pairs))
            torch.testing.assert_close(width, 0.9 * first + 0.1 * second, rtol=1e-4, atol=1e-9)
    assert run.notes["images_of_a_class_per_batch"] == 30 / tiny.CLASSES


def test_few_images_are_one_batch_and_none_are_unsupported(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    run = tiny_trainer()
    HRel().score(tiny_network(), run)  # type: ignore[arg-type]
    (entry,) = run.ledger.entries
    assert (entry.images, entry.requested) == (40, tiny.TRAIN)  # 5 % of the budget
    with pytest.raises(Unsupported, match="no images left"):
        HRel().score(tiny_network(), tiny_trainer(epochs=0.05))  # type: ignore[arg-type]
    for field in ("num_images", "batch_size"):
        with pytest.raises(Unsupported, match="at least 1"):
            HRel(**{field: 0}).score(tiny_network(), run)  # type: ignore[arg-type]


def test_a_channel_that_tells_the_class_is_kept_before_noise(
    tiny_trainer: tiny.MakeTrainer,
) -> None:
    class Telling(nn.Module):
        """Channel 0 sees the image's class, the others noise of the same size."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, 4)
            with torch.no_grad():
                self.conv.weight.copy_(torch.eye(4, 3)[:, :, None, None])
                self.conv.weight[3, 2] = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).flatten(1))

    class Images:
        def batches(self, images: int) -> Any:
            draw = torch.Generator().manual_seed(0)
            y = torch.arange(80) % 4
            x = torch.rand(80, 3, 2, 2, generator=draw) * 3
            x[:, 0] = y[:, None, None] + 0.1 * torch.rand(80, 2, 2, generator=draw)
            yield x, y

        def note(self, name: str, value: Any) -> None: ...

    net = Network(Telling(), torch.zeros(1, 3, 2, 2))
    for own in (False, True):
        score = HRel(batch_size=40, per_filter_sigma=own).score(net, Images())["conv"]  # type: ignore[arg-type]
        assert int(score.argmax()) == 0
        assert float(score[0]) > 2 * float(score[1:].max())
