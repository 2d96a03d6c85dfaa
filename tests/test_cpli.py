"""CPLI: the worked example of METHODS 5.8, the LASSO path, and whole networks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import CifarResNet
from benchmark.cifar_vgg import CifarVgg
from benchmark.images import BatchSource, DataIdentity, Images
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.spec import Recipe
from benchmark.trainer import Trainer
from methods.api import Budget, Unsupported
from methods.cpli import CPLI, loss_weight, normal_equations
from methods.refit import (
    Probe,
    inputs,
    lasso,
    lasso_select,
    least_squares,
    patches,
    refit,
    responses,
)

X = torch.tensor([[1, 0, 2], [0, 1, 1], [2, 1, 0], [1, 1, 1], [0, 2, 1], [1, 0, 0]]).double()
W = torch.tensor([[1, 0.5], [-1, 1], [0.2, 0.1]]).double()  # (C, n)
G = torch.tensor([[1, 0.1], [1, 0.1], [0.5, 0.2], [1, 0], [0.2, 0.1], [2, 0.1]]).double()
OMEGA2 = (G.abs() * torch.tensor([1, 0.1])).square()
ONES = torch.ones(6, 2).double()


def unnormalised(weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Equations of the worked example, which does not scale kernels to norm 1."""
    gram, cross = normal_equations(X[:, :, None], W.T, X @ W, weight)
    size = W.norm(dim=1).numpy()
    return gram * np.outer(size, size), cross * size


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (ONES, [[8.75, -1.5, 0.75], [-1.5, 14, -0.4], [0.75, -0.4, 0.35]]),
        (
            OMEGA2,
            [
                [7.00045, -1.4996, 0.60001],
                [-1.4996, 2.4109, -0.41597],
                [0.60001, -0.41597, 0.241606],
            ],
        ),
    ],
)
def test_gram_of_the_worked_example(weight: Tensor, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(unnormalised(weight)[0], expected, atol=1e-5)


def test_blocks_add_up() -> None:
    whole = normal_equations(X[:, :, None], W.T, X @ W, OMEGA2)
    parts = normal_equations(X[:, :, None], W.T, X @ W, OMEGA2, block=12)
    np.testing.assert_allclose(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1])


@pytest.mark.parametrize(
    ("weight", "penalty", "expected"),
    [
        (ONES, 0.2, [1.0293, 0.9697, 0.3313]),
        (OMEGA2, 0.2, [1.0028, 0.7462, 0]),
        (ONES, 2.0, [0.8245, 0.8098, 0]),
        (OMEGA2, 2.0, [0.5858, 0, 0]),
    ],
)
def test_lasso_of_the_worked_example(weight: Tensor, penalty: float, expected: list[float]) -> None:
    beta = lasso(*unnormalised(weight), penalty, np.zeros(3))
    np.testing.assert_allclose(beta, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (None, [[1.045, 0.5225], [-0.905, 1.0475]]),
        (ONES, [[1.045, 0.5225], [-0.905, 1.0475]]),
        (OMEGA2, [[1.0562, 0.4939], [-0.8624, 1.0388]]),
    ],
)
def test_refit_of_the_worked_example(weight: Tensor | None, expected: list[list[float]]) -> None:
    new = refit(X[:, :2], X @ W, 1e-9, weight)
    torch.testing.assert_close(new.T, torch.tensor(expected).double(), atol=1e-4, rtol=0)


def test_lasso_meets_its_optimality_conditions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 12)), rng.normal(size=50)
    a[:, 3] = 0
    beta = lasso(a.T @ a, a.T @ b, 3.0, np.ones(12))
    slope = a.T @ (b - a @ beta)
    used = beta != 0
    assert 0 < used.sum() < 11
    assert beta[3] == 0
    np.testing.assert_allclose(slope[used], 3.0 * np.sign(beta[used]), atol=1e-5)
    assert (abs(slope[~used]) <= 3.0 + 1e-5).all()


@pytest.mark.parametrize("keep", [1, 2, 5, 8, 9])
def test_selection_keeps_the_wanted_number_and_drops_silent_channels(keep: int) -> None:
    a = np.random.default_rng(1).normal(size=(60, 9))
    a[:, 4] = 0
    kept = lasso_select(a.T @ a, a.T @ a.sum(1), keep)
    assert len(kept) == keep
    assert list(kept) == sorted(set(kept))
    assert (4 in kept) == (keep == 9)


def test_selection_where_the_count_jumps_keeps_the_strongest() -> None:
    gram, cross = np.diag([4.0, 1.0, 1.0, 0.25]), np.array([1.0, 1.0, 1.0, 1.0])  # all leave at 1
    assert lasso_select(gram, cross, 2) == (1, 3)  # |beta| ||A|| = |cross| / ||A||: 1/2, 1, 1, 2
    gram, cross = np.diag([1.0, 1.0, 100.0]), np.array([1.0, 1e-15, 5e-14])
    assert lasso_select(gram, cross, 2) == (0, 2)  # |beta|: 1e-15 against 5e-16


def test_selection_ignores_the_scale_of_kernels() -> None:
    x, kernel = torch.randn(80, 6, 9), torch.randn(4, 6, 3, 3)
    y = torch.randn(80, 4).double()
    scaled = kernel * torch.tensor([1, 100, 0.01, 5, 1, 1]).reshape(1, 6, 1, 1)
    ones = torch.ones(80, 4).double()
    kept = [lasso_select(*normal_equations(x, k, y, ones), 3) for k in (kernel, scaled)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 4, 3, padding="same"),
    ],
)
def test_patches_are_the_columns_of_unfold(conv: nn.Conv2d) -> None:
    x = torch.randn(2, 3, 9, 7)
    out = conv(x)
    places = torch.stack([torch.randperm(out[0, 0].numel())[:5] for _ in x])
    found = patches(x, conv, places, out.shape[-1])
    padding = (1, 1) if conv.padding == "same" else conv.padding
    columns = F.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)
    expected = torch.stack([columns[n][:, place] for n, place in enumerate(places)])
    assert torch.equal(found.flatten(1), expected.transpose(1, 2).flatten(0, 1))
    assert torch.equal(patches(x[..., 0, 0], nn.Linear(3, 2), places, 1)[..., 0], x[..., 0, 0])


def test_dual_solves_the_same_problem() -> None:
    x, y = torch.randn(12, 30).double(), torch.randn(12, 2).double()
    rho = 0.1 * x.square().sum() / 30
    expected = torch.linalg.solve(x.T @ x + rho * torch.eye(30), x.T @ y)
    torch.testing.assert_close(least_squares(x, y, 0.1), expected)


def test_loss_weight_has_mean_one_and_a_floor() -> None:
    weight = loss_weight(torch.tensor([[0.0, 1.0], [3.0, 0.0]]), 0.9)
    torch.testing.assert_close(weight, torch.tensor([[0.1, 0.46], [3.34, 0.1]]).double())
    silent = loss_weight(torch.zeros(1, 2), 0.9)
    torch.testing.assert_close(silent, torch.full((1, 2), 0.1).double())


# ---- whole networks ------------------------------------------------------------------------------


def trainer(seed: int = 0, images: int = 96, allowed: int = 4000) -> Trainer:
    g = torch.Generator().manual_seed(7)
    labels = torch.arange(images) % 4
    pixels = torch.randint(0, 256, (images, 3, 16, 16), generator=g).byte()
    pixels[:, :, ::2] //= 1 + labels.byte()[:, None, None, None]
    flat = (0.5, 0.5, 0.5)
    identity = DataIdentity(
        name="noise", content_hash="x", image_size=16, num_classes=4, mean=flat, std=flat, pad=1,
        flip=False, split_hash="none",
    )  # fmt: skip
    source = BatchSource(Images(pixels, labels, torch.arange(images)), identity)
    ledger = Ledger(allowed, images)
    return Trainer(source, source, 4, Recipe(epochs=1, lr=0.1), seed, "x", ledger)


def network(model: nn.Module, scope: str = "inner") -> Network:
    g = torch.Generator().manual_seed(3)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in ((m.running_mean, -1, 1), (m.running_var, 0.5, 2)):
                tensor.uniform_(low, high, generator=g)
            nn.init.uniform_(m.weight, 0.5, 1.5, generator=g)
            nn.init.uniform_(m.bias, -0.5, 0.5, generator=g)
    return Network(model, torch.zeros(1, 3, 16, 16), scope).eval()  # type: ignore[arg-type]


def resnet() -> Network:
    torch.manual_seed(0)
    return network(CifarResNet(8, 4, width=8))


def vgg() -> Network:
    torch.manual_seed(0)
    return network(CifarVgg(4, plan=(8, 0, 12, 12, 0, 16)))


HALF = Budget(0.5)
SMALL = {"num_images": 64, "positions": 6}


@pytest.mark.parametrize("make", [resnet, vgg])
def test_masked_network_equals_the_removed_one_and_meets_the_budget(make) -> None:
    net, run = make(), trainer()
    dense = make()
    plan = CPLI(**SMALL).prune(net, HALF, run)
    x, _ = run.train.batch(torch.arange(8))
    with torch.no_grad():
        difference = (net(x) - net.remove(plan).eval()(x)).abs().max()
        assert difference <= 1e-4 * net(x).abs().max()
        assert (net(x) - dense(x)).abs().max() > 0.1
    assert abs(1 - net.macs(plan.widths()) / net.macs() - 0.5) < 0.03  # one channel of tiny layers
    assert plan.widths() == net.allocate(HALF)
    assert run.ledger.spent == 64  # one pass, charged once
    errors, before = run.notes["reconstruction_error"], run.notes["removal_error"]
    assert errors.keys() == {g.readers[0] for g in net.groups}
    assert all(0 <= errors[k] < 1 for k in errors)
    assert errors != before


@pytest.mark.parametrize("make", [resnet, vgg])
def test_same_seed_same_plan_and_weights(make) -> None:
    nets = [make(), make()]
    nets[1].train()  # whatever mode it comes in
    plans = [CPLI(**SMALL).prune(net, HALF, trainer()) for net in nets]
    assert plans[0] == plans[1]
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_silent_channels_go_first_and_nothing_is_lost() -> None:
    net, run = resnet(), trainer()
    with torch.no_grad():
        for group in net.groups:
            norm = net.norm(group.layers[0])
            norm.weight[::2], norm.bias[::2], norm.bias[1::2] = 0, -1, 5
    x, _ = run.train.batch(torch.arange(16))
    before = net(x).detach()
    plan = CPLI(**SMALL).prune(net, Budget(0.3), run)
    for group in net.groups:
        assert group.width / 2 <= len(plan.keep[group.name]) < group.width
        assert {i for i in range(group.width) if i % 2} <= set(plan.keep[group.name])
    torch.testing.assert_close(net(x), before, atol=2e-3, rtol=2e-3)


def test_gradients_and_importance_change_the_plan() -> None:
    settings = ((0.0, 0.05), (0.9, 0.05), (0.0, 1.0))
    methods = [CPLI(**SMALL, mix=mix, suppress=suppress) for mix, suppress in settings]
    own, *others = (m.prune(vgg(), HALF, trainer()).keep for m in methods)
    assert all(other != own for other in others)


def test_permuted_channels_permute_the_kept_set() -> None:
    net, other = resnet(), resnet()
    group = net.groups[0]
    order = torch.randperm(group.width, generator=torch.Generator().manual_seed(1))
    norm = other.norm(group.layers[0])
    with torch.no_grad():
        for t in (other.weight(group.layers[0]), norm.weight, norm.bias, norm.running_mean,
                  norm.running_var):  # fmt: skip
            t.copy_(t[order].clone())
        reader = other.weight(group.readers[0])
        reader.copy_(reader[:, order].clone())
    plan, permuted = (CPLI(**SMALL).prune(n, HALF, trainer()) for n in (net, other))
    assert {int(order[i]) for i in permuted.keep[group.name]} == set(plan.keep[group.name])


def test_coupled_groups_are_refused() -> None:
    with pytest.raises(Unsupported, match="--scope inner"):
        CPLI().prune(network(CifarResNet(8, 4, width=8), "all"), HALF, trainer())


def test_gradients_are_those_of_the_loss() -> None:
    net = vgg()
    layers = tuple(g.readers[0] for g in net.groups)
    probe = Probe.draw(trainer(), 40, 256)  # all positions: their sum is the gradient of the bias
    _, gradient = responses(net, probe, layers)
    loss = sum(F.cross_entropy(net(x), y, reduction="sum") for x, y in probe.batches)
    for layer in layers:
        (expected,) = torch.autograd.grad(loss, net.bias(layer), retain_graph=True)
        torch.testing.assert_close(gradient[layer].sum(0), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [resnet, vgg])
def test_inputs_and_responses_belong_to_the_same_positions(make) -> None:
    net = make()
    nn.init.normal_(net.bias("fc"))
    layers = (*(g.readers[0] for g in net.groups), "fc")
    probe = Probe.draw(trainer(), 40, 5)
    target, _ = responses(net, probe, layers)
    for layer in layers:
        x = inputs(net, probe, layer).flatten(1)
        expected = x @ net.weight(layer).detach().flatten(1).T
        torch.testing.assert_close(target[layer], expected, atol=1e-4, rtol=1e-4)
