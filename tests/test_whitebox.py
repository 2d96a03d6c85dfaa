"""White-Box: the worked example of METHODS 1.9, the mixing law, frozen weights, fold, votes,
the official search and the leakage diagnostics."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import select
from benchmark.images import BatchSource
from benchmark.network import Network
from benchmark.schedule import make_optimizer
from benchmark.spec import Recipe
from benchmark.trainer import Trainer
from benchmark.trial import permute
from methods import build, find
from methods.api import Budget, Plan
from methods.class_masks import ClassMask, Mixing, leakage
from methods.whitebox import WhiteBox, _dead_vote, official_search

# METHODS 1.9: K = 3 classes, C = 4 channels, 2 images with 1 x 1 maps
M = torch.tensor([[1.0, 0.2, -0.5, 0.9], [0.8, -0.1, -0.7, 1.1], [1.2, 0.05, -0.6, 1.0]])
LABELS = torch.tensor([0, 2])
D = torch.tensor([[1, 0.5, 0.25], [0.1, 0.6, 1]])
X = torch.tensor([[2.0, 1, 1, 3], [1, 4, 2, 0.5]])
UPSTREAM = torch.tensor([[1, -1, 0.5, 0], [0.5, 0.25, -1, 2]])


class FixedMixing(Mixing):
    """Always the same weights of the classes."""

    def __init__(self, weights: Tensor) -> None:
        self.trainer = SimpleNamespace(num_classes=weights.shape[-1])  # type: ignore[assignment]
        self.weights, self.active = weights, True

    def of(self, labels: Tensor, position: int) -> Tensor:
        return self.weights.expand(len(labels), -1)


def class_mask(values: Tensor, weights: Tensor, divisor: float = 1.0) -> ClassMask:
    mask = ClassMask(values.shape[1], FixedMixing(weights), 0, divisor)
    mask.mask.data = values.clone()
    return mask


def random_masks(net: Network, mixing: Mixing, low: float, high: float) -> dict[str, ClassMask]:
    draw, divisor = torch.Generator().manual_seed(5), (tiny.CLASSES + 1) / 2
    masks = {}
    for i, layer in enumerate(net.layers):
        masks[layer] = ClassMask(len(net.weight(layer)), mixing, i, divisor)
        values = torch.rand(masks[layer].mask.shape, generator=draw)
        masks[layer].mask.data = low + (high - low) * values
    return masks


def at_step(run: Trainer, epoch: int, index: Tensor, seed: int = 9) -> None:
    """As if this batch were being trained on."""
    run._now = (seed, epoch, index)


# ---- worked example ------------------------------------------------------------------------------


def test_worked_example_forward_and_gradients() -> None:
    mask, x = class_mask(M, D), X[:, :, None, None].clone().requires_grad_()
    out = mask(x, LABELS)
    guide = torch.tensor([[1.70, 0.1625, -1.00, 1.70], [1.78, 0.01, -1.07, 1.75]])
    torch.testing.assert_close(out[:, :, 0, 0], X * guide)
    out.backward(UPSTREAM[:, :, None, None])
    by_mask = [[2.05, -0.90, 0.30, 0.10], [1.30, 0.10, -0.95, 0.60], [1.00, 0.75, -1.875, 1.00]]
    torch.testing.assert_close(mask.mask.grad, torch.tensor(by_mask))
    by_x = torch.tensor([[1.70, -0.1625, -0.50, 0], [0.89, 0.0025, 1.07, 3.50]])
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, :, 0, 0], by_x)


def test_worked_example_vote_norm_and_selection() -> None:
    vote = M.sum(0)
    torch.testing.assert_close(vote, torch.tensor([3.0, 0.15, -1.8, 3.0]))
    score = WhiteBox().count_votes(M, torch.ones(1))
    torch.testing.assert_close(score, torch.tensor([3.0, 0.15, 1.8, 3.0]))
    assert float(vote.norm()) == pytest.approx(4.6111, abs=1e-4)
    assert select.best({"g": score}, {"g": 3}).keep["g"] == (0, 2, 3)


def test_gradients_are_the_hand_written_ones() -> None:
    draw = torch.Generator().manual_seed(0)
    values, weights = (torch.rand(*s, generator=draw).double() for s in ((5, 7), (6, 5)))
    x = torch.randn(6, 7, 3, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 7, 3, 4, generator=draw, dtype=torch.float64)
    mask = class_mask(values, weights, divisor=3.0)
    mask(x, torch.zeros(6, dtype=torch.int64)).backward(upstream)
    per_channel = (upstream * x.detach()).sum((2, 3))  # g[n, c] = sum_hw dL/dout x
    torch.testing.assert_close(mask.mask.grad, weights.T @ per_channel / 3)
    guide = (weights @ values / 3)[:, :, None, None]
    torch.testing.assert_close(x.grad, upstream * guide)


# ---- mixing law ----------------------------------------------------------------------------------


def drawn(run: Trainer, labels: Tensor, layers: int = 3) -> Tensor:
    """(layers, N, K) of one step."""
    mixing = Mixing(run, layers)
    return torch.stack([mixing.of(labels, i) for i in range(layers)])


def test_own_class_has_weight_one_and_the_others_are_uniform(
    tiny_trainer: tiny.MakeTrainer,
) -> None:
    run, labels = tiny_trainer(num_classes=10), torch.arange(3000) % 10
    at_step(run, 0, torch.arange(3000))
    weights = drawn(run, labels)
    own = F.one_hot(labels, 10).bool().expand(3, -1, -1)
    assert (weights[own] == 1).all()
    others = weights[~own]
    assert others.min() >= 0
    assert others.max() < 1
    assert float(others.mean()) == pytest.approx(0.5, abs=5 / (12 * len(others)) ** 0.5)
    assert float(others.std()) == pytest.approx(12**-0.5, abs=0.005)


def test_weights_are_fresh_for_every_layer_image_and_step(tiny_trainer: tiny.MakeTrainer) -> None:
    run, labels = tiny_trainer(), torch.zeros(500, dtype=torch.int64)
    steps = []
    for epoch in (0, 1):
        at_step(run, epoch, torch.arange(500))
        steps.append(drawn(run, labels)[:, :, 1:])
    found = torch.stack(steps).flatten(0, 1)  # (6 draws, images, other classes)
    assert len(found.flatten().unique()) > 0.998 * found.numel()
    between = torch.corrcoef(found.flatten(1)) - torch.eye(6)
    assert between.abs().max() < 5 / 1500**0.5


def test_weights_belong_to_seed_epoch_and_image_not_to_the_batch(
    tiny_trainer: tiny.MakeTrainer,
) -> None:
    run, labels, order = tiny_trainer(), torch.arange(40) % 4, torch.arange(40).flip(0)
    at_step(run, 3, torch.arange(40))
    whole = drawn(run, labels)
    parts = []
    for rows in order.split([1, 25, 14]):
        at_step(tiny_trainer(seed=7), 3, rows)
        at_step(run, 3, rows)
        parts.append(drawn(run, labels[rows]))
    assert torch.equal(torch.cat(parts, dim=1), whole[:, order])
    at_step(run, 3, torch.arange(40), seed=10)
    assert not torch.equal(drawn(run, labels), whole)


def test_noise_outside_a_batch_is_an_error(tiny_trainer: tiny.MakeTrainer) -> None:
    with pytest.raises(RuntimeError, match="belongs to a batch"):
        drawn(tiny_trainer(), torch.zeros(2, dtype=torch.int64))


# ---- start at the dense function -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_masks_of_one_under_mean_noise_are_the_dense_network(
    tiny_network: tiny.MakeNetwork, kind: str
) -> None:
    net, (x, labels) = tiny_network(kind), tiny.batch()
    weights = torch.full((len(x), tiny.CLASSES), 0.5).scatter(1, labels[:, None], 1.0)
    dense = net(x)

    def gated(divisor: float) -> Tensor:
        masks = {
            n: class_mask(torch.ones(tiny.CLASSES, len(net.weight(n))), weights, divisor)
            for n in net.layers
        }
        with net.gated(masks, at="act"):
            return net(x, labels)

    torch.testing.assert_close(gated((tiny.CLASSES + 1) / 2), dense)
    assert (gated(1.0) - dense).abs().max() > 0.1  # the official start is another function


def test_the_guide_starts_at_one_in_expectation(tiny_trainer: tiny.MakeTrainer) -> None:
    run, labels = tiny_trainer(num_classes=10), torch.arange(20_000) % 10
    at_step(run, 0, torch.arange(20_000))
    mask = ClassMask(1, Mixing(run, 1), 0, 5.5)
    with torch.no_grad():
        guide = mask(torch.ones(20_000, 1, 1, 1), labels).flatten()
    sd = (9 / 12) ** 0.5 / 5.5
    assert float(guide.mean()) == pytest.approx(1, abs=5 * sd / 20_000**0.5)
    assert float(guide.std()) == pytest.approx(sd, rel=0.03)


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_frozen_training_moves_masks_and_nothing_else(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind), tiny_trainer()
    before = tiny.state_of(net)
    masks = WhiteBox(mask_epochs=2.0).train_masks(net, run)
    assert tiny.same(tiny.state_of(net), before)
    assert all((m.mask != 1).any() for m in masks.values())
    assert all(p.requires_grad for p in net.parameters())
    assert run.ledger.spent == 2 * tiny.TRAIN
    assert {row.lr for row in run.curve} == {WhiteBox.mask_lr}  # constant
    assert all(m.momentum == 0.1 for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_joint_training_moves_weights_affine_and_statistics(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network()
    before = tiny.state_of(net)
    method = build(find("whitebox:joint"), find("whitebox:joint").params() | {"mask_epochs": 1.0})
    assert isinstance(method, WhiteBox)
    method.train_masks(net, tiny_trainer())
    after = tiny.state_of(net)
    for part in ("conv1.weight", "bn1.weight", "bn1.bias", "running_mean", "running_var"):
        assert all(not torch.equal(after[k], before[k]) for k in before if k.endswith(part)), part


def test_same_seed_same_masks_and_another_seed_others(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    def masks(seed: int) -> Tensor:
        found = WhiteBox(mask_epochs=0.5).train_masks(tiny_network(), tiny_trainer(seed))
        return torch.cat([m.mask.detach() for m in found.values()], dim=1)

    assert torch.equal(masks(0), masks(0))
    assert not torch.equal(masks(0), masks(1))


def test_permuted_channels_get_permuted_votes(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    method, nets = WhiteBox(mask_epochs=1.0), [tiny_network("vgg"), tiny_network("vgg")]
    group = nets[0].groups[1]
    order = torch.randperm(group.width, generator=torch.Generator().manual_seed(2))
    permute(nets[1], group, order, tiny.batch()[0])
    a, b = (method.score(net, tiny_trainer())[group.layers[0]] for net in nets)
    assert (a[order] - a).abs().max() > 1e-3
    torch.testing.assert_close(b, a[order], atol=1e-5, rtol=0)


def test_the_sparsity_term_is_the_norm_of_each_vote(
    tiny_network: tiny.MakeNetwork,
    tiny_trainer: tiny.MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, net, given = tiny_trainer(), tiny_network(), dict[str, Any]()
    monkeypatch.setattr(run, "fit", lambda net, epochs, **words: given.update(words))
    masks = WhiteBox(mask_epochs=1.0, sparsity=0.3).train_masks(net, run)
    with torch.no_grad():
        for mask in masks.values():
            mask.mask.uniform_(-1, 1)
    found = given["penalty"]()
    votes = [m.mask.detach().sum(0) for m in masks.values()]
    assert float(found.detach()) == pytest.approx(0.3 * sum(float(v.norm()) for v in votes))
    found.backward()
    for mask, vote in zip(masks.values(), votes, strict=True):
        expected = (0.3 * vote / vote.norm()).expand_as(mask.mask)
        torch.testing.assert_close(mask.mask.grad, expected)
        assert mask.idle.grad is not None  # zero, so that weight decay acts
        assert float(mask.idle.grad) == 0


class Ops(TorchDispatchMode):
    """Counts aten operations, those of backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


class PerImage(Mixing):
    """The slow way: one image at a time, with a number read back for each."""

    def of(self, labels: Tensor, position: int) -> Tensor:
        weights = torch.rand(len(labels), self.trainer.num_classes)
        for n in range(len(labels)):
            weights[n, labels[n].item()] = 1.0
        return weights


def ops_of_a_step(run: Trainer, count: int, law: type[Mixing]) -> Counter[str]:
    net, (x, labels) = tiny.network().train(), tiny.batch(count)
    masks = random_masks(net, law(run, len(net.layers)), 0.5, 1.5)
    at_step(run, 0, torch.arange(count))
    with net.gated(masks, at="act"), Ops() as ops:
        F.cross_entropy(net(x, labels), labels).backward()
    return ops.seen


def test_ops_of_a_mask_step_do_not_grow_with_the_batch(tiny_trainer: tiny.MakeTrainer) -> None:
    small, large = (ops_of_a_step(tiny_trainer(), n, Mixing) for n in (8, 64))
    assert small == large
    assert large["aten.convolution_backward.default"] == 7
    assert not any("_local_scalar_dense" in name for name in large)  # .item()
    slow = [ops_of_a_step(tiny_trainer(), n, PerImage) for n in (8, 64)]
    assert slow[1].total() > slow[0].total() + 500  # the counter sees what it should
    assert slow[1]["aten._local_scalar_dense.default"] >= 64


# ---- fold ----------------------------------------------------------------------------------------


class Scale(nn.Module):
    """x * factor per channel, whatever the label."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x * self.factor[:, None, None]


@pytest.mark.parametrize(("kind", "low"), [("resnet", 0.2), ("resnet", -2.0), ("vgg", 0.2)])
def test_the_folded_network_is_the_one_gated_by_the_mean_guide(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str, low: float
) -> None:
    net, (x, _) = tiny_network(kind), tiny.batch()
    dense, gated = net(x), net.copy()
    masks = random_masks(net, Mixing(tiny_trainer(), len(net.layers)), low, 2.0)
    votes = {n: m.mask.detach().sum(0) for n, m in masks.items()}
    k = tiny.CLASSES
    guides = {n: Scale(v * (k + 1) / (2 * k) / ((k + 1) / 2)) for n, v in votes.items()}
    assert (min(float(g.factor.min()) for g in guides.values()) < 0) == (low < 0)
    WhiteBox()._fold(net, votes, masks)
    with gated.gated(guides, at="act"):
        expected = gated(x)
    error = (net(x) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5
    assert (expected - dense).abs().max() > 0.1


def test_the_mean_guide_is_the_mean_over_classes_and_noise(tiny_trainer: tiny.MakeTrainer) -> None:
    """g = v (K + 1) / (2 K) over the divisor (K + 1) / 2, which is the mean over classes."""
    run, count, k = tiny_trainer(), 40_000, tiny.CLASSES
    at_step(run, 0, torch.arange(count))
    mask = ClassMask(6, Mixing(run, 1), 0, (k + 1) / 2)
    mask.mask.data = torch.randn(k, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        guide = mask(torch.ones(count, 6, 1, 1), torch.arange(count) % k)[:, :, 0, 0]
    expected = mask.mask.detach().sum(0) / k
    assert ((guide.mean(0) - expected).abs() < 5 * guide.std(0) / count**0.5).all()


def test_a_negative_guide_does_not_pass_through_a_max_pool(
    tiny_network: tiny.MakeNetwork,
) -> None:
    """A limit of the clean fold, known: max(g x) is g min(x) for g < 0. Votes start at K."""
    net, (x, _) = tiny_network("vgg"), tiny.batch()
    gated, layer = net.copy(), net.layers[0]
    factor = -torch.ones(len(net.weight(layer)))
    net.scale_readers(layer, factor)
    with gated.gated({layer: Scale(factor)}, at="act"):
        assert (net(x) - gated(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("factor", "masked", "folded"), [(1.5, 1.125, 1.125), (-0.9, -0.675, 0)])
def test_official_fold_of_the_worked_example(
    factor: float, masked: float, folded: float, tiny_network: tiny.MakeNetwork
) -> None:
    """gamma 1.5, beta -0.3, normalised input 0.7: exact for a positive factor only."""
    net = tiny_network()
    norm = net.norm(net.layers[0])
    norm.eps = 0.0
    for tensor, value in ((norm.weight, 1.5), (norm.bias, -0.3), (norm.running_mean, 0.0),
                          (norm.running_var, 1.0)):  # fmt: skip
        nn.init.constant_(tensor, value)
    x = torch.full((1, len(norm.weight), 1, 1), 0.7)
    assert float((F.relu(norm(x)) * factor).detach().mean()) == pytest.approx(masked)
    net.scale_norm(net.layers[0], torch.full((len(norm.weight),), factor))
    assert float(F.relu(norm(x)).detach().mean()) == pytest.approx(folded)


# ---- votes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        ("sum", [3.5, 0.605, 3.0]),
        ("gain", [0.5, 0.005, 0.0]),
        ("count", [2.0, 0.0, 0.0]),
        ("spread", [0.15275, 0.69571, 0.0]),
    ],
)
def test_votes_on_a_hand_example(vote: str, expected: list[float]) -> None:
    mask = torch.tensor([[1.2, 1.005, 1.0], [1.0, -0.2, 1.0], [1.3, -0.2, 1.0]])
    method = build(find("whitebox"), {"vote": vote})
    assert isinstance(method, WhiteBox)
    found = method.count_votes(mask, torch.ones(1))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


def test_variants_vote_as_they_say(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    for vote in ("gain", "count", "spread"):
        entry = find(f"whitebox:{vote}")
        method = build(entry, entry.params() | {"mask_epochs": 1.0})
        run = tiny_trainer()
        scores = method.score(tiny_network(), run)
        for layer, mask in run.notes["class_masks"].items():
            idle = _decay(steps=8, lr=WhiteBox.mask_lr, nesterov=True)
            by_hand = {
                "gain": (mask - idle).clamp(min=0).sum(0),
                "count": (mask > idle + 0.01).sum(0).float(),
                "spread": mask.std(0),
            }
            torch.testing.assert_close(scores[layer], by_hand[vote], atol=1e-5, rtol=1e-5)


def _decay(steps: int, lr: float, nesterov: bool) -> float:
    """What weight decay leaves of an entry that no image uses."""
    entry = nn.Parameter(torch.ones(1))
    recipe = Recipe(epochs=1, lr=lr, nesterov=nesterov)
    optimizer = make_optimizer(recipe, [entry])
    entry.grad = torch.zeros(1)
    for _ in range(steps):
        optimizer.step()
    return float(entry.detach())


# ---- official ------------------------------------------------------------------------------------


def official(**changes: Any) -> WhiteBox:
    entry = find("whitebox:official")
    method = build(entry, entry.params() | {"at": "conv", "mask_epochs": 1.0} | changes)
    assert isinstance(method, WhiteBox)
    return method


def test_dead_masks_decay_as_derived() -> None:
    """30 epochs of 196 steps leave 0.0524 (METHODS 1.4)."""
    assert _decay(30 * 196, lr=0.1, nesterov=False) == pytest.approx(0.0524, abs=5e-5)


def test_dead_votes_enter_the_pool(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net = tiny_network(trained=False)
    scores = official().score(net, tiny_trainer())
    assert set(scores) == set(net.convs)
    dead = [n for n in net.convs if n not in net.layers]
    assert dead == ["conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"]
    expected = tiny.CLASSES * _decay(steps=8, lr=0.1, nesterov=True)
    for layer in dead:
        assert len(scores[layer]) == len(net.weight(layer))
        torch.testing.assert_close(
            scores[layer], torch.full_like(scores[layer], expected), atol=1e-5, rtol=0
        )
    assert set(WhiteBox(mask_epochs=0.5).score(tiny_network(), tiny_trainer())) == set(net.layers)


def test_dead_votes_stay_on_the_device_of_the_masks(tiny_network: tiny.MakeNetwork) -> None:
    net, masks = tiny_network(), {"a": class_mask(torch.ones(3, 4), D).to("meta")}
    assert _dead_vote(net, "conv1", masks, 3).device.type == "meta"


def test_official_fold_scales_every_norm_by_half_the_vote(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    before = {n: tiny.state_of(net.norm(n)) for n in net.convs}
    weights = {n: net.weight(n).clone() for n in (*net.convs, "fc")}
    official(train_weights=False).score(net, run)
    idle = _decay(steps=8, lr=0.1, nesterov=True)
    for layer in net.convs:
        mask = run.notes["class_masks"].get(layer)
        half = tiny.CLASSES * idle / 2 if mask is None else mask.sum(0) / 2
        after, old = net.norm(layer), before[layer]
        torch.testing.assert_close(after.weight.detach(), old["weight"] * half)
        torch.testing.assert_close(after.bias.detach(), old["bias"] * half)
        assert torch.equal(after.running_mean, old["running_mean"])
        assert torch.equal(after.running_var, old["running_var"])
    assert all(torch.equal(net.weight(n), w) for n, w in weights.items())


def restated(net: Network, scores: dict[str, Tensor], target: float, least: float) -> Plan:
    """METHODS 1.4 in plain loops."""
    pool = sorted((float(v) for s in scores.values() for v in s), reverse=True)
    keep: dict[str, tuple[int, ...]] = {}
    for percent in range(90, 0, -1):
        q = len(pool) * percent // 100
        threshold = pool[max(q, 1) - 1]
        for group in net.groups:
            values = [float(v) for v in scores[group.layers[0]]]
            kept = [c for c, v in enumerate(values) if v >= threshold]
            if len(kept) < len(values) * least:
                ranked = sorted(range(len(values)), key=lambda c: (-values[c], c))
                kept = sorted(ranked[: int(len(values) * least)])
            keep[group.name] = tuple(kept)
        if 1 - net.macs({g: len(c) for g, c in keep.items()}) / net.macs() >= target:
            break
    return Plan(keep)


@pytest.mark.parametrize("target", [0.1, 0.35, 0.5, 0.62])
@pytest.mark.parametrize("ties", [False, True])
def test_official_search_is_the_restated_one(
    tiny_network: tiny.MakeNetwork, target: float, ties: bool
) -> None:
    for seed in range(4):
        net, draw = tiny_network(), torch.Generator().manual_seed(seed)
        scores = {n: torch.rand(len(net.weight(n)), generator=draw) for n in net.convs}
        if ties:
            scores = {n: (4 * s).round() for n, s in scores.items()}
        plan = official_search(net, scores, Budget(target, 0.3))
        assert plan == restated(net, scores, target, 0.3)
        assert plan == official().select(net, scores, Budget(target, 0.3))


def test_official_minimum_widths_are_truncated(tiny_network: tiny.MakeNetwork) -> None:
    net = tiny_network()
    scores = {n: torch.rand(len(net.weight(n))) for n in net.convs}
    scores |= {n: 2 + s for n, s in scores.items() if n not in net.layers}  # dead ones on top
    widths = official_search(net, scores, Budget(0.99, 0.3)).widths()
    assert widths == {"layer1.0.conv1": 2, "layer2.0.conv1": 4, "layer3.0.conv1": 9}


def test_dead_votes_on_top_delay_and_below_hasten_nothing(tiny_network: tiny.MakeNetwork) -> None:
    """What `keep` means depends on where the tied block lies (METHODS 1.4)."""
    net, draw = tiny_network(), torch.Generator().manual_seed(0)
    live = {n: 1 + torch.rand(len(net.weight(n)), generator=draw) for n in net.layers}
    dead = {n: torch.zeros(len(net.weight(n))) for n in net.convs if n not in net.layers}
    first = Budget(0.0, 0.3)  # met at once: the widths of keep = 0.90
    below = official_search(net, live | dead, first).widths()
    above = official_search(net, live | {n: d + 9 for n, d in dead.items()}, first).widths()
    assert below == {g.name: g.width for g in net.groups}
    assert sum(above.values()) < sum(below.values())


# ---- leakage -------------------------------------------------------------------------------------


class Leaky(nn.Module):
    """Answers with the largest mean activation; activations do not depend on the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 1, bias=False)
        self.norm = nn.BatchNorm2d(classes)
        self.fc = nn.Linear(classes, classes, bias=False)
        nn.init.zeros_(self.conv.weight)
        nn.init.ones_(self.norm.bias)
        nn.init.eye_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.norm(self.conv(x))), 1).flatten(1))


KEYS = {"noise_minus_chance", "true_minus_wrong_label", "true_label_minus_unmasked"}


def test_masks_that_transmit_the_label_are_caught(tiny_trainer: tiny.MakeTrainer) -> None:
    run, k = tiny_trainer(), tiny.CLASSES
    net = Network(Leaky(k), torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).eval()
    mixing = Mixing(run, 1)
    mask = ClassMask(k, mixing, 0, 1.0)
    mask.mask.data = torch.eye(k)
    with net.gated({"conv": mask}, at="act"):
        found = leakage(net, mixing, run)
    assert found.keys() == KEYS
    assert found["noise_minus_chance"]["mean"] == pytest.approx(1 - 1 / k)
    assert found["true_minus_wrong_label"]["mean"] == pytest.approx(1)
    assert found["true_label_minus_unmasked"]["low"] > 0.5
    assert mixing.active


def test_masks_of_one_leak_nothing_and_intervals_hold_the_mean(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    mixing = Mixing(run, len(net.layers))
    masks = random_masks(net, mixing, 1.0, 1.0)
    with net.gated(masks, at="act"):
        found = leakage(net, mixing, run)
    for value in found.values():
        assert value["low"] <= value["mean"] <= value["high"]
    assert found["noise_minus_chance"]["low"] <= 0 <= found["noise_minus_chance"]["high"]
    assert found["true_minus_wrong_label"]["low"] <= 0 <= found["true_minus_wrong_label"]["high"]
    assert run.ledger.spent == 0


def test_no_validation_images_no_diagnostics(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    """The paper track trains on all of train."""
    empty = BatchSource(tiny.data().val.select(torch.arange(0)), tiny.data().identity)
    net, run = tiny_network(), tiny_trainer(val=empty)
    mixing = Mixing(run, len(net.layers))
    with net.gated(random_masks(net, mixing, 1.0, 1.0), at="act"):
        assert leakage(net, mixing, run) == {}


def test_the_score_leaves_facts_and_no_gates(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    code = net.traced.code
    WhiteBox(mask_epochs=0.5).score(net, run)
    assert net.traced.code == code
    assert run.notes["leakage"].keys() == KEYS
    for layer, mask in run.notes["class_masks"].items():
        assert mask.shape == (tiny.CLASSES, len(net.weight(layer)))
