"""`--reconstruct ls`: refitting what is left of a network to the responses it had."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmark.cifar_resnet import CifarResNet
from benchmark.cifar_vgg import CifarVgg
from benchmark.images import BatchSource, DataIdentity, Images
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.reconstruct import reconstruct
from benchmark.spec import Recipe
from benchmark.trainer import Trainer
from methods.api import Budget, Plan, Unsupported
from methods.cpli import CPLI
from methods.refit import Probe, inputs, refit, relative_error, responses

Make = Callable[[], nn.Module]


def trainer(images: int = 128, allowed: int = 10_000) -> Trainer:
    g = torch.Generator().manual_seed(7)
    labels = torch.arange(images) % 4
    pixels = torch.randint(0, 256, (images, 3, 16, 16), generator=g).byte()
    flat = (0.5, 0.5, 0.5)
    identity = DataIdentity(
        name="noise", content_hash="x", image_size=16, num_classes=4, mean=flat, std=flat, pad=1,
        flip=False, split_hash="none",
    )  # fmt: skip
    source = BatchSource(Images(pixels, labels, torch.arange(images)), identity)
    ledger = Ledger(allowed, images)
    return Trainer(source, source, 4, Recipe(epochs=1, lr=0.1), 0, "x", ledger)


def network(make: Make, scope: str = "inner") -> Network:
    """With random statistics and affine parameters of the norms."""
    torch.manual_seed(0)
    model = make()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(m.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(m.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return Network(model, torch.zeros(1, 3, 16, 16), scope).eval()  # type: ignore[arg-type]


def random_plan(net: Network, cut: float = 0.4) -> Plan:
    g = torch.Generator().manual_seed(5)
    scores = {n: torch.rand(len(net.weight(n)), generator=g) for n in net.layers}
    return net.rank(scores, Budget(cut))


NETWORKS: list[tuple[Make, str]] = [
    (lambda: CifarResNet(8, 4, width=8), "inner"),
    (lambda: CifarResNet(20, 4, width=4), "inner"),
    (lambda: CifarResNet(8, 4, width=8), "all"),
    (lambda: CifarVgg(4, plan=(8, 0, 12, 12, 0, 16)), "inner"),
]


@pytest.mark.parametrize(("make", "scope"), NETWORKS)
def test_refit_is_closer_to_the_dense_network_than_removal(make: Make, scope: str) -> None:
    dense, plain, net = (network(make, scope) for _ in range(3))
    plan, run = random_plan(net), trainer()
    reconstruct(net, plan, run, images=128, positions=20)
    for group, keep in plan.keep.items():
        plain.mask(group, keep)
    x, _ = run.train.batch(torch.arange(128))
    with torch.no_grad():
        goal = dense(x)
        removed, refitted = ((n(x) - goal).square().mean() for n in (plain, net))
        assert refitted < 0.7 * removed
        assert (net(x) - net.remove(plan).eval()(x)).abs().max() <= 1e-4 * goal.abs().max()
    assert run.notes["ls_images"] == 128
    assert run.ledger.spent == 0


@pytest.mark.parametrize(("make", "scope"), NETWORKS)
def test_every_layer_fits_its_samples_best(make: Make, scope: str) -> None:
    net, run = network(make, scope), trainer()
    before, plan = net.copy(), random_plan(net)
    net.train()  # whatever mode it comes in
    reconstruct(net, plan, run, images=64, positions=20)
    masks = net.masks(plan)
    with torch.no_grad():
        probe = Probe.draw(trainer(), 64, 20)
        errors = run.notes["ls_error"]
        cut = {n for n, m in masks.items() if not m.keep.all()}
        assert errors.keys() == {n for n in cut if hasattr(net.module(n), "weight")}
        target, _ = responses(before, probe, tuple(errors))
        for layer, error in errors.items():
            x = inputs(net, probe, layer).flatten(1)
            new, old = (n.weight(layer).flatten(1) for n in (net, before))
            assert relative_error(x, new, target[layer]) == pytest.approx(error, rel=1e-3)
            assert error <= relative_error(x, old, target[layer])


def test_keeping_everything_changes_nothing() -> None:
    net, run = network(NETWORKS[0][0]), trainer()
    before = [p.clone() for p in net.parameters()]
    reconstruct(net, Plan({g.name: tuple(range(g.width)) for g in net.groups}), run)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not run.ledger.entries


def test_refit_of_all_channels_gives_the_weights_back() -> None:
    net = network(NETWORKS[0][0])
    layers = tuple(g.readers[0] for g in net.groups)
    with torch.no_grad():
        probe = Probe.draw(trainer(), 128, 20)
        target, _ = responses(net, probe, layers)
        for layer in layers:
            x, old = inputs(net, probe, layer).flatten(1), net.weight(layer).flatten(1)
            active = ((x != 0).double().mean(0) > 0.01).nonzero()[:, 0]
            assert len(active) > 0.7 * len(x.T)  # a channel that never fires has any weights
            wrong = (refit(x, target[layer], 1e-9) - old)[:, active].abs().max()
            assert wrong < 0.01 * old.abs().max()
            assert relative_error(x, refit(x, target[layer], 1e-6), target[layer]) < 1e-6


def test_equals_the_refit_of_cpli_without_gradient_weights() -> None:
    """Same images, positions and ridge: the two differ in the selection alone."""
    for make, scope in (NETWORKS[0], NETWORKS[3]):
        net, other = (network(make, scope) for _ in range(2))
        plan = CPLI(mix=0.0, num_images=100).prune(net, Budget(0.4), trainer())
        reconstruct(other, plan, trainer(), images=100)
        for group in net.groups:
            a, b = (n.weight(group.readers[0]) for n in (net, other))
            kept = list(plan.keep[group.name])
            torch.testing.assert_close(a[:, kept], b[:, kept], atol=1e-5, rtol=1e-4)


def test_cpli_weighs_its_errors_and_this_refit_does_not() -> None:
    net, other, run = network(NETWORKS[0][0]), network(NETWORKS[0][0]), trainer()
    reconstruct(other, CPLI(num_images=100).prune(net, Budget(0.4), run), run, images=100)
    first = net.groups[0].readers[0]
    assert run.notes["ls_error"][first] < 0.9 * run.notes["reconstruction_error"][first]


def test_fewer_images_are_the_first_of_the_same_samples() -> None:
    net = network(NETWORKS[0][0])
    layer = net.groups[1].readers[0]
    few, many = (
        responses(net, Probe.draw(trainer(images=300), n, 7), (layer,))[0][layer]
        for n in (150, 300)
    )
    torch.testing.assert_close(few, many[: len(few)], atol=1e-5, rtol=1e-5)


def test_images_are_capped_recorded_and_not_charged() -> None:
    net, run = network(NETWORKS[0][0]), trainer(allowed=1000)
    reconstruct(net, random_plan(net), run, images=100)
    assert run.notes["ls_images"] == 50
    (entry,) = run.ledger.entries
    assert (entry.kind, entry.images, entry.requested) == ("forward", 50, 100)
    with pytest.raises(Unsupported, match="forward-only"):
        reconstruct(network(NETWORKS[0][0]), random_plan(net), run)


def test_grouped_readers_are_refused() -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip

    net = network(make, "all")
    plan = Plan({g.name: tuple(range(g.width - 1)) for g in net.groups})
    with pytest.raises(Unsupported, match="grouped"):
        reconstruct(net, plan, trainer())
