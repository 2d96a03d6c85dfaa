"""When training does what: batches, orders, learning rates, and the seeds of phases."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.spec import Recipe


def phase_seed(seed: int, phase: str) -> int:
    """31-bit seed of a phase: the same phase of two methods draws the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{phase}".encode()).digest()[:4], "big") >> 1


def rate_at(recipe: Recipe, progress: float) -> float:
    """Learning rate at a fraction 0 <= progress < 1 of the phase."""
    if progress < recipe.warmup:
        return recipe.lr * max(progress / recipe.warmup, 0.01)
    if recipe.schedule == "cosine":
        through = (progress - recipe.warmup) / (1 - recipe.warmup)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * through))
    if recipe.schedule == "step":
        passed = sum(progress >= m for m in recipe.milestones)
        return float(recipe.lr * recipe.gamma**passed)
    return recipe.lr


@dataclass(frozen=True)
class Schedule:
    """Epochs cut into batches: `sizes[e]` are the batch sizes of epoch e."""

    sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, epochs: float, images: int, batch_size: int) -> Schedule:
        """`round(epochs * images)` images; the last epoch may be a part. Batches of an epoch have
        equal sizes to within one image, so that no tiny batch upsets the batch norms."""
        total = max(1, round(epochs * images))
        full, rest = divmod(total, images)
        lengths = [images] * full + ([rest] if rest else [])
        return cls(tuple(even(n, batch_size) for n in lengths))

    @property
    def steps(self) -> int:
        return sum(len(epoch) for epoch in self.sizes)

    @property
    def images(self) -> int:
        return sum(map(sum, self.sizes))


def even(images: int, batch_size: int) -> tuple[int, ...]:
    """Batch sizes equal to within one image."""
    parts = max(1, round(images / batch_size))
    return tuple(images // parts + (i < images % parts) for i in range(parts))


def order_of(images: int, seed: int, epoch: int) -> Tensor:
    """(images,) permutation of an epoch."""
    generator = torch.Generator().manual_seed(phase_seed(seed, f"order-{epoch}"))
    return torch.randperm(images, generator=generator)


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD or AdamW; the rate is set at every step."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
