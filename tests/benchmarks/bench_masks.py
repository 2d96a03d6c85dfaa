"""Price of class-wise masks: a training step with them against a plain one, and against masks whose
class weights are made one image at a time. Goal: at most 1.08 times the plain step.

Weights train too, as in the official code, so that both steps do the same besides the masks. Speed
is reported, never asserted; what is asserted is that all three train.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from pairs import CLASSES, SIZE, Turns, trainer
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from benchmark import archs
from benchmark.network import Network
from benchmark.schedule import make_optimizer
from benchmark.trainer import Trainer
from methods.class_masks import ClassMask, Mixing

GOAL = 1.08
TURNS = 9
BATCH = {"resnet20": 128, "resnet56": 128}


class OneByOne(Mixing):
    """Class weights in the style of the official code: random numbers for the layer, then a loop
    over the images that puts a 1 where the label is, a number read from the device each time."""

    def of(self, labels: Tensor, position: int) -> Tensor:
        weights = torch.rand(len(labels), self.trainer.num_classes, device=labels.device)
        for image, label in zip(weights, labels, strict=True):
            image[label] = 1.0
        return weights


def network(arch: str, run: Trainer) -> Network:
    torch.manual_seed(0)
    return Network(archs.build(arch, CLASSES), torch.zeros(1, 3, SIZE, SIZE)).to(run.device)


def step(
    arch: str, run: Trainer, law: type[Mixing] | None, stack: ExitStack
) -> Callable[[], float]:
    """One forward and backward pass and one update; with masks where a law of mixing is given."""
    net, masks = network(arch, run).train(), dict[str, ClassMask]()
    if law is not None:
        mixing = law(run, len(net.layers))
        masks = {
            layer: ClassMask(len(net.weight(layer)), mixing, i, (CLASSES + 1) / 2).to(run.device)
            for i, layer in enumerate(net.layers)
        }
        stack.enter_context(net.gated(masks, at="act"))
    optimizer = make_optimizer(run.recipe, list(net.parameters()))
    rows = torch.arange(len(run.train))
    x, labels = run.train.batch(rows, channels_last=True)

    def once() -> float:
        run._now = (0, 0, rows.to(run.device))
        loss = F.cross_entropy(net(x, labels), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        assert all(m.mask.grad is not None for m in masks.values())
        return float(loss.detach())

    return once


@pytest.mark.benchmark(group="mask step")
@pytest.mark.parametrize("arch", BATCH)
def test_mask_step(benchmark: BenchmarkFixture, arch: str) -> None:
    run = trainer(BATCH[arch])
    works = {"plain": None, "masks": Mixing, "one_by_one": OneByOne}
    with ExitStack() as stack:
        steps = {name: step(arch, run, law, stack) for name, law in works.items()}
        before = {name: once() for name, once in steps.items()}
        turns = Turns(**steps)
        benchmark.pedantic(turns, rounds=TURNS)  # type: ignore[no-untyped-call, unused-ignore]
        assert all(once() < before[name] for name, once in steps.items())
    benchmark.extra_info["milliseconds"] = turns.milliseconds()
    benchmark.extra_info["masks_over_plain"] = turns.ratio("masks", "plain")
    benchmark.extra_info["one_by_one_over_plain"] = turns.ratio("one_by_one", "plain")
    benchmark.extra_info["one_by_one_over_masks"] = turns.ratio("one_by_one", "masks")
    benchmark.extra_info["goal_masks_over_plain"] = GOAL
    benchmark.extra_info["batch"] = BATCH[arch]
