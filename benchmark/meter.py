"""What passes through a network with gradients enabled, whoever sends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def metered(net: nn.Module) -> Iterator[list[int]]:
    """Batch sizes of all forward passes within the block in which gradients could flow, copies of
    the network included."""
    seen: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            seen.append(len(inputs[0]))

    watch = net.register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        watch.remove()
