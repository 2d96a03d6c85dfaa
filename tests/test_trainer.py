"""The one training loop: exact evaluation, schedules, the ledger, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.context import set_threads_and_determinism
from benchmark.evaluation import evaluate
from benchmark.images import BatchSource, Images
from benchmark.ledger import BudgetExceeded, Ledger
from benchmark.phase import Diverged, trained_only
from benchmark.schedule import Schedule, order_of, phase_seed, rate_at
from benchmark.spec import Recipe


class Oracle(nn.Module):
    """Answers from a table by the brightness code of an image: right for a known share."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers, self.seen = answers, 0

    def forward(self, x: Tensor) -> Tensor:
        guess = self.answers[self.seen : self.seen + len(x)]
        self.seen += len(x)
        return nn.functional.one_hot(guess, tiny.CLASSES).float()


@given(batch=st.integers(1, 80), wrong=st.integers(0, tiny.TEST))
@settings(max_examples=60, deadline=None)
def test_accuracy_is_exact_for_every_batch_size(batch: int, wrong: int) -> None:
    data = tiny.data()
    source = BatchSource(data.test, data.identity)
    answers = data.test.labels.clone()
    answers[:wrong] = (answers[:wrong] + 1) % tiny.CLASSES
    found = evaluate(Oracle(answers), source, batch)
    assert found.top1 == (tiny.TEST - wrong) / tiny.TEST
    assert torch.equal(found.predicted.long(), answers)
    right = found.predicted.long() == data.test.labels
    assert torch.equal(found.margin > 0, right)


def test_evaluation_leaves_the_network_as_it_was() -> None:
    net = tiny.model().train()
    before = tiny.state_of(net)
    evaluate(net, BatchSource(tiny.data().test, tiny.data().identity))
    assert net.training
    assert tiny.same(before, tiny.state_of(net))


@given(epochs=st.floats(0.01, 5), images=st.integers(1, 500), batch=st.integers(2, 128))
@settings(max_examples=200, deadline=None)
def test_a_schedule_uses_the_images_it_is_given(epochs: float, images: int, batch: int) -> None:
    schedule = Schedule.of(epochs, images, batch)
    assert schedule.images == max(1, round(epochs * images))
    for sizes in schedule.sizes:
        assert max(sizes) - min(sizes) <= 1  # no tiny batch
        assert sum(sizes) <= images


def test_rates_of_a_compressed_phase_are_the_same_curve() -> None:
    for schedule in ("cosine", "step", "constant"):
        recipe = Recipe(epochs=10, lr=0.1, schedule=schedule, milestones=(0.5, 0.75), warmup=0.1)  # type: ignore[arg-type]
        half = recipe.model_copy(update={"epochs": 5})
        points = [i / 20 for i in range(20)]
        assert [rate_at(recipe, p) for p in points] == [rate_at(half, p) for p in points]
    step = Recipe(epochs=8, lr=0.1, schedule="step", milestones=(0.5, 0.75))
    assert [round(rate_at(step, p), 6) for p in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [
        0.1, 0.1, 0.01, 0.01, 0.001, 0.001,
    ]  # fmt: skip


def test_orders_are_permutations_that_differ_by_epoch_and_seed() -> None:
    orders = [order_of(50, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(torch.equal(o.sort().values, torch.arange(50)) for o in orders)
    assert len({tuple(o.tolist()) for o in orders}) == 4


def run_twice(**changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    states = []
    for _ in range(2):
        net = tiny.model()
        tiny.trainer(**changes).run_phase(net, tiny.RECIPE, "recovery")
        states.append(tiny.state_of(net))
    return states[0], states[1]


def test_same_seed_same_bits_and_another_seed_others() -> None:
    one, two = run_twice(seed=3)
    assert tiny.same(one, two)
    other, _ = run_twice(seed=4)
    assert not tiny.same(one, other)


def test_bf16_learns_too() -> None:
    """Autocast is no silent loss of accuracy: both precisions learn the tiny task."""
    found = {}
    for precision in ("fp32", "bf16"):
        net = tiny.model()
        run = tiny.trainer(epochs=10.0, precision=precision)
        run.run_phase(net, tiny.BASELINE, "baseline")
        found[precision] = run.accuracy(net)
    assert min(found.values()) > 0.8
    assert abs(found["fp32"] - found["bf16"]) < 0.15


def test_recovery_draws_the_same_numbers_whatever_ran_before() -> None:
    """Methods with and without preparation are paired: same order, crops and flips afterwards."""
    seen: list[list[int]] = []
    for prepared in (False, True):
        run = tiny.trainer()
        net = tiny.network(trained=False)
        if prepared:
            run.fit(net, 1.0)
        assert phase_seed(run.seed, "recovery") == phase_seed(0, "recovery")
        rows: list[int] = []
        original = run.train.batch

        def spy(r: Tensor, *, _keep: list[int] = rows, _call: Any = original, **kw: Any) -> Any:
            _keep.extend(r.tolist())
            return _call(r, **kw)

        run.train.batch = spy  # type: ignore[method-assign]
        run.run_phase(tiny.model(), tiny.RECIPE.model_copy(update={"epochs": 1.0}), "recovery")
        seen.append(rows)
    assert seen[0] == seen[1]


def test_a_diverging_loss_is_reported() -> None:
    net = tiny.model()
    wild = tiny.RECIPE.model_copy(update={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(Diverged, match="not finite"):
        tiny.trainer().run_phase(net, wild, "recovery")


# ---- freezing ------------------------------------------------------------------------------------


def test_only_the_named_modules_learn() -> None:
    net = tiny.network()
    before = tiny.state_of(net)
    gate = nn.Conv2d(8, 8, 1)
    gate_before = gate.weight.detach().clone()

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = gate

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return x + 0.1 * self.conv(x)

    gates = {net.layers[0]: Gate()}
    with net.gated(gates, at="act"):
        tiny.trainer().fit(net, 1.0, only=gates)
    assert tiny.same(before, tiny.state_of(net))  # weights, BN affine, running statistics
    assert not torch.equal(gate_before, gate.weight)
    assert all(p.requires_grad for p in net.parameters())


def test_freezing_ends_with_an_exception() -> None:
    net = tiny.network()
    with pytest.raises(RuntimeError), trained_only(net, {}):
        raise RuntimeError
    norm = net.norm(net.layers[0])
    assert norm.momentum == 0.1
    assert norm.weight.requires_grad


# ---- the ledger ----------------------------------------------------------------------------------


def test_training_is_charged_and_overspending_is_an_error() -> None:
    run = tiny.trainer(epochs=2.0)
    net = tiny.network()
    run.use(net)
    run.fit(net, 1.5)
    assert run.ledger.spent == 300
    assert run.ledger.entries[0].macs == 3 * 300 * net.macs()
    before = tiny.state_of(net)
    with pytest.raises(BudgetExceeded, match="100 of 400"):
        run.fit(net, 1.0)
    assert tiny.same(before, tiny.state_of(net))  # refused before a single step


def test_free_preparation_is_recorded_but_not_charged() -> None:
    run = tiny.trainer(epochs=2.0, charged=False)
    run.fit(tiny.network(), 1.5)
    assert run.ledger.spent == 0
    assert [e.kind for e in run.ledger.entries] == ["free"]


def test_images_with_gradients_are_charged_and_forward_only_ones_are_capped() -> None:
    run = tiny.trainer(epochs=4.0)  # 800 images: 40 may be used forward only
    assert sum(len(y) for _, y in run.batches(images=100)) == 100
    assert run.ledger.spent == 100
    with torch.no_grad():
        assert sum(len(y) for _, y in run.batches(images=100)) == 40
        assert sum(len(y) for _, y in run.batches(images=100)) == 0
    last = run.ledger.entries[1]
    assert (last.kind, last.images, last.requested) == ("forward", 40, 100)
    assert run.ledger.spent == 100


def test_validation_images_cost_nothing_and_test_images_do_not_exist() -> None:
    run = tiny.trainer()
    assert sum(len(y) for _, y in run.batches(split="val")) == tiny.VAL
    assert run.ledger.entries == []
    with pytest.raises(ValueError, match="does not exist"):
        next(iter(run.batches(split="test")))


def test_image_lists_are_class_balanced_and_nested() -> None:
    run = tiny.trainer()
    rows = run.balanced(run.train, 60)
    counts = run.train.labels[rows].bincount(minlength=tiny.CLASSES)
    assert counts.tolist() == [15] * 4
    assert torch.equal(run.balanced(run.train, 20), rows[:20])
    assert not torch.equal(tiny.trainer(seed=1).balanced(run.train, 60), rows)


def test_recalibration_is_the_mean_over_unaugmented_images() -> None:
    run, net = tiny.trainer(epochs=100.0), tiny.model()
    run.recalibrate(net, 1)
    x, _ = run.train.batch(run.balanced(run.train, tiny.TRAIN))
    maps = net.conv1(x)  # type: ignore[operator]
    mean = net.bn1.running_mean  # type: ignore[union-attr]
    assert torch.allclose(mean, maps.mean((0, 2, 3)), atol=1e-4)
    assert not net.training
    assert net.bn1.momentum == 0.1  # type: ignore[union-attr]


def test_ledger_rows_survive_json() -> None:
    ledger = Ledger(100, 50)
    ledger.add("x", "charged", 20, 7, 0.5)
    assert Ledger.rows(ledger.as_rows()) == ledger.entries


def test_empty_splits_are_allowed() -> None:
    data = tiny.data()
    empty = Images(data.val.pixels[:0], data.val.labels[:0], data.val.index[:0])
    assert len(BatchSource(empty, data.identity)) == 0


def trained(fills: bool) -> tuple[dict[str, Tensor], int]:
    """Weights after training as runs do, and how often memory was filled meanwhile."""
    set_threads_and_determinism(1)
    assert not torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = fills
    net = tiny.model()
    with torch.profiler.profile() as seen:
        short = tiny.RECIPE.model_copy(update={"epochs": 1.0})
        tiny.trainer().run_phase(net, short, "recovery", validate=True, macs=1)
    calls = {event.key: event.count for event in seen.key_averages()}
    return tiny.state_of(net), calls.get("aten::fill_", 0)


def test_new_memory_is_not_filled_and_every_bit_stays() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    try:
        (filled, often), (plain, seldom) = trained(True), trained(False)
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling
    assert tiny.same(filled, plain)
    assert 10 * seldom < often
