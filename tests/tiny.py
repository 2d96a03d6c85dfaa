"""The tiny bench of the package, and what only tests want of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.images import BatchSource
from benchmark.network import Network
from benchmark.tinybench import (
    BASELINE,
    CLASSES,
    EPOCHS,
    FLAT,
    RECIPE,
    SIZE,
    TEST,
    TRAIN,
    VAL,
    Kind,
    bench,
    data,
    model,
    network,
    traced,
    trained_state,
    trainer,
)
from benchmark.trainer import Trainer

__all__ = [
    "BASELINE", "CLASSES", "EPOCHS", "FLAT", "RECIPE", "SIZE", "TEST", "TRAIN", "VAL",
    "BatchSource", "Kind", "MakeNetwork", "MakeTrainer", "batch", "bench", "data", "model",
    "network", "same", "state_of", "traced", "trained_state", "trainer",
]  # fmt: skip

MakeNetwork = Callable[..., Network]  # the arguments of `network`
MakeTrainer = Callable[..., Trainer]  # the arguments of `trainer`


def batch(count: int = 32, start: int = 0) -> tuple[Tensor, Tensor]:
    """Training images as a network sees them, and their labels."""
    source = data().train.source(data().identity)
    return source.batch(torch.arange(start, start + count))


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and statistics but those of gates."""
    return {k: v.clone() for k, v in net.state_dict().items() if "gate_" not in k}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
