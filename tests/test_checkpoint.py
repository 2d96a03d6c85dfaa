"""Checkpoints: whole or passed over, and a phase that continues to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from benchmark import checkpoint
from benchmark.checkpoint import Checkpoints, Moment, Torn, read_moment
from benchmark.phase import Diverged, EpochRow
from benchmark.spec import Recipe


class Stop(Exception):
    """The kill, without the mess."""


class StopAt:
    """A penalty that ends the run at a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return torch.zeros(())


class WithDropout(nn.Module):
    """Draws from the global generator in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, tiny.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.norm(self.conv(x)).relu(), 0.3, self.training)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def trained(
    place: Path | None,
    recipe: Recipe,
    stops: tuple[int, ...],
    every: float,
    precision: Any = "fp32",
) -> tuple[dict[str, Tensor], list[EpochRow]]:
    """Weights and curve of a phase that is stopped at these steps of each try."""
    for stop in (*stops, 10**9):
        torch.manual_seed(5)
        model = WithDropout()
        run = tiny.trainer(precision=precision)
        if place is not None:
            run.checkpoints = Checkpoints(place, every)
        try:
            run.run_phase(model, recipe, "dense", penalty=StopAt(stop), validate=True)
        except Stop:
            continue
        return dict(model.state_dict()), run.curve
    raise AssertionError


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["every step", "every epoch"])
def test_a_phase_that_was_stopped_continues_to_the_bit(
    optimizer: Any, precision: Any, every: float, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=2.5, lr=0.05, batch_size=25, optimizer=optimizer, warmup=0.2)
    whole, curve = trained(None, recipe, (), every, precision)
    parts, again = trained(tmp_path, recipe, (3, 7, 9), every, precision)
    assert tiny.same(whole, parts)
    assert again == curve


def test_without_the_random_states_the_test_above_would_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=25)
    whole, _ = trained(None, recipe, (), 0.0)
    monkeypatch.setattr(checkpoint, "restore_random_states", lambda _: None)
    parts, _ = trained(tmp_path, recipe, (5,), 0.0)
    assert not tiny.same(whole, parts)


def test_a_finished_phase_is_not_trained_again(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=25)
    whole, _ = trained(tmp_path, recipe, (), 1e9)
    parts, _ = trained(tmp_path, recipe, (), 1e9)
    stopped_at_once, curve = trained(tmp_path, recipe, (0,), 1e9)
    assert tiny.same(whole, parts)
    assert tiny.same(whole, stopped_at_once)
    assert len(curve) == 2


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in range(5):
        kept.save("dense", step, Moment({"a": torch.full((2,), float(step))}, {"step": step}))
    kept.save("recovery", 1, Moment({}, {"step": 1}))
    assert len(list(tmp_path.iterdir())) == 3
    last, other = kept.last("dense"), kept.last("recovery")
    assert last is not None
    assert (last.facts["step"], last.tensors["a"].tolist()) == (4, [4.0, 4.0])
    assert other is not None
    assert kept.last("prepare-1") is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_torn_checkpoint_is_passed_over_with_a_warning(damage: str, tmp_path: Path) -> None:
    said = list[str]()
    kept = Checkpoints(tmp_path, log=said.append)
    for step in (1, 2):
        kept.save("dense", step, Moment({"a": torch.ones(50)}, {"step": step}))
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    newest.write_bytes({"truncate": content[:-7], "flip": flipped, "empty": b""}[damage])
    with pytest.raises(Torn):
        read_moment(newest)
    found = kept.last("dense")
    assert found is not None
    assert found.facts["step"] == 1
    assert [line.startswith("warning: ") for line in said] == [True]
    assert newest.name in said[0]


def test_torn_checkpoints_alone_mean_a_fresh_start(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=25)
    whole, _ = trained(tmp_path, recipe, (), 1e9)
    for path in tmp_path.iterdir():
        path.write_bytes(b"torn")
    again, _ = trained(tmp_path, recipe, (), 1e9)
    assert tiny.same(whole, again)


def test_foreign_files_in_the_folder_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.safetensors").write_text("mine")
    kept = Checkpoints(tmp_path)
    for step in range(4):
        kept.save("dense", step, Moment({}, {}))
    assert (tmp_path / "notes.safetensors").read_text() == "mine"
    with pytest.raises(Torn, match="not the name"):
        read_moment(tmp_path / "notes.safetensors")


def test_all_generators_continue() -> None:
    checkpoint.seed_everything(3)
    torch.rand(3), np.random.normal(size=3), random.gauss(0, 1)
    moment = checkpoint.random_states()
    first = torch.rand(4).tolist(), np.random.normal(size=4).tolist(), random.gauss(0, 1)
    checkpoint.seed_everything(99)
    checkpoint.restore_random_states(moment)
    again = torch.rand(4).tolist(), np.random.normal(size=4).tolist(), random.gauss(0, 1)
    assert first == again


def test_buffers_that_a_state_dict_leaves_out_are_kept() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("seen", torch.tensor([3.0]), persistent=False)
    tensors = {k: v.clone() for k, v in checkpoint.network_tensors(net).items()}
    assert isinstance(net.seen, Tensor)
    net.seen.zero_()
    checkpoint.restore_network(net, tensors)
    assert net.seen.item() == 3.0


def test_a_loss_that_is_not_finite_is_divergence() -> None:
    run = tiny.trainer()
    with pytest.raises(Diverged, match=r"diverged: the loss is not finite in epoch 1 of dense"):
        run.run_phase(
            WithDropout(), Recipe(epochs=1, lr=0.1, batch_size=50), "dense",
            penalty=lambda: torch.tensor(float("nan")),
        )  # fmt: skip


@pytest.mark.parametrize("change", ["tensor", "fact", "part"])
def test_a_whole_checkpoint_of_another_version_means_a_fresh_start_with_a_warning(
    change: str, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=25)
    whole, _ = trained(tmp_path, recipe, (), 1e9)
    moment = Checkpoints(tmp_path).last("dense")
    assert moment is not None
    if change == "tensor":
        del moment.tensors["net|conv.weight"]
    elif change == "fact":
        del moment.facts["phase"]["step"]
    else:
        del moment.facts["random"]
    for path in tmp_path.iterdir():
        path.unlink()
    Checkpoints(tmp_path).save("dense", 16, moment)
    again, curve = trained(tmp_path, recipe, (), 1e9)
    assert tiny.same(whole, again)
    assert len(curve) == 2
