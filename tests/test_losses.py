"""Losses beside plain cross-entropy: examples by hand, gradients, networks left as they were."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from test_execute import go, make_spec, without_times
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import losses
from benchmark.checkpoint import Checkpoints
from benchmark.errors import BadInput, Stopped
from benchmark.evaluation import evaluate
from benchmark.spec import RunSpec
from benchmark.store import Store

LOSSES = ["cc", "lgm"]


class Scale(nn.Module):
    """A gate of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x * self.scale


def test_channel_correlation_by_hand() -> None:
    """METHODS 17.2: one pair within a class at 0.6; between classes 0.8 and 1.0, lacking 0.2, 0."""
    a = torch.tensor([[0.0, 0.0], [0.0, 0.6], [0.8, 0.0]])
    y = torch.tensor([0, 0, 1])
    assert float(losses.channel_correlation(a, y)) == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 1, 1], [0]])
def test_channel_correlation_without_pairs_of_a_sort(labels: list[int]) -> None:
    a = torch.rand(len(labels), 4, requires_grad=True)
    found = losses.channel_correlation(a, torch.tensor(labels))
    found.backward()
    assert (float(found.detach()) > 0) == (labels == [1, 1, 1])
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())


def test_equal_attention_has_a_finite_gradient() -> None:
    a = torch.ones(4, 3, requires_grad=True)
    losses.channel_correlation(a, torch.tensor([0, 0, 1, 1])).backward()
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 1.5), (0.3, 1.35)])
def test_gaussian_mixture_by_hand(margin: float, expected: float) -> None:
    """METHODS 17.1: x = 1, means 0 and 3, class 0: halves of squared distances are 0.5 and 2."""
    found, likelihood = losses.gaussian_mixture(
        torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([0]), margin
    )
    assert float(found) == pytest.approx(math.log1p(math.exp(-expected)), abs=1e-6)
    assert float(likelihood) == 0.5


def slowly(x: Tensor, means: Tensor, y: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """One image and one class at a time."""
    total, likelihood = torch.zeros(()), torch.zeros(())
    for image, label in zip(x, y.tolist(), strict=True):
        d = [0.5 * (image - mean).square().sum() for mean in means]
        shifted = torch.stack(
            [torch.exp(-(1 + margin * (k == label)) * v) for k, v in enumerate(d)]
        )
        total = total - torch.log(shifted[label] / shifted.sum())
        likelihood = likelihood + d[label]
    return total / len(y), likelihood / len(y)


def test_gaussian_mixture_equals_loops_and_their_gradients() -> None:
    torch.manual_seed(0)
    x, means = torch.randn(6, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    pairs = zip(losses.gaussian_mixture(x, means, y, 0.3), slowly(x, means, y, 0.3), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)
        ours, theirs = (torch.autograd.grad(v, (x, means), retain_graph=True) for v in (a, b))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_leaves_an_ordinary_network(loss: str) -> None:
    net = tiny.model()
    names = list(net.state_dict())
    run = tiny.trainer(epochs=tiny.BASELINE.epochs)
    run.run_phase(net, tiny.BASELINE.model_copy(update={"loss": loss}), "recovery")
    assert list(net.state_dict()) == names
    assert not losses.output_of(net, loss)._forward_pre_hooks
    assert evaluate(net.eval(), run.val).top1 > 0.5  # it learns: chance is 0.25
    other = tiny.model()
    tiny.trainer(epochs=tiny.BASELINE.epochs).run_phase(other, tiny.BASELINE, "recovery")
    assert not tiny.same(net.state_dict(), other.state_dict())


def test_the_largest_output_is_the_nearest_mean() -> None:
    net = tiny.model()
    tiny.trainer().run_phase(net, tiny.RECIPE.model_copy(update={"loss": "lgm"}), "recovery")
    head, seen = losses.output_of(net, "lgm"), []
    assert torch.equal(head.bias, -0.5 * head.weight.square().sum(1))  # after the last step too
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = net.eval()(tiny.batch()[0])
    assert torch.equal(logits.argmax(1), torch.cdist(seen[0], head.weight).argmin(1))


def test_a_weight_of_zero_is_plain_cross_entropy() -> None:
    nets = []
    for changes in ({}, {"loss": "cc", "loss_weight": 0.0}):
        net = tiny.model()
        tiny.trainer().run_phase(net, tiny.RECIPE.model_copy(update=changes), "recovery")
        nets.append(net.state_dict())
    torch.testing.assert_close(nets[0], nets[1])


def test_masks_train_by_another_loss_and_weights_stay_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The module that the loss adds learns with the masks."""
    net, run, gate = tiny.network(), tiny.trainer(), Scale()
    run.recipe = run.recipe.model_copy(update={"loss": "cc"})
    made: list[tuple[nn.Module, Tensor]] = []

    class Watched(losses.Attention):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            made.append((self, self.excite.weight.detach().clone()))

    monkeypatch.setattr(losses, "Attention", Watched)
    before = tiny.state_of(net)
    with net.gated({net.layers[0]: gate}, "act"):
        run.fit(net, 0.5, only={"gate": gate})
    assert float(gate.scale.detach()) != 1.0
    ((attention, first),) = made
    assert not torch.equal(attention.get_parameter("excite.weight"), first)
    after = tiny.state_of(net)
    assert after.keys() == before.keys()
    weights = [n for n in before if n.endswith("weight")]
    assert tiny.same({n: before[n] for n in weights}, {n: after[n] for n in weights})


@pytest.mark.parametrize("loss", LOSSES)
def test_a_phase_that_was_stopped_ends_the_same(loss: str, tmp_path: Path) -> None:
    recipe = tiny.RECIPE.model_copy(update={"loss": loss})
    whole, begun, again = tiny.model(), tiny.model(), tiny.model()
    tiny.trainer().run_phase(whole, recipe, "recovery")
    kept, turns = Checkpoints(tmp_path, every=0.0), iter(range(1000))
    stopping = tiny.trainer(checkpoints=kept, stop=lambda: next(turns) >= 12)
    with pytest.raises(Stopped):
        stopping.run_phase(begun, recipe, "recovery")
    tiny.trainer(checkpoints=kept).run_phase(again, recipe, "recovery")
    assert tiny.same(whole.state_dict(), again.state_dict())


def with_loss(loss: str) -> RunSpec:
    spec = make_spec("l1norm")
    return spec.model_copy(update={"recovery": spec.recovery.model_copy(update={"loss": loss})})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("loss", LOSSES)
def test_a_whole_run(loss: str, root: Path) -> None:
    record = go(with_loss(loss), root)
    assert record.spec.recovery.loss == loss
    assert record.final.test_top1 > 0.5
    assert record.best_val is not None
    stage = Store(root).stage("final", record.run_id)
    assert stage is not None
    assert not [n for n in stage.tensors if n.startswith(losses.HEAD)]
    again = go(with_loss(loss), root / "again")
    assert without_times(again) == without_times(record)


def test_an_output_that_is_not_linear_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(BadInput, match="one linear layer with a bias, not of 0; use loss ce"):
        losses.output_of(net, "cc")
    bare = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    with pytest.raises(BadInput, match="with a bias"):
        losses.output_of(bare, "lgm")


def test_cross_entropy_is_what_it_was() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    recipe = tiny.RECIPE.model_copy(update={"label_smoothing": 0.1})
    with losses.attached(tiny.model(), recipe) as (criterion, extra):
        assert not extra
        expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
        assert torch.equal(criterion(logits, labels), expected)
