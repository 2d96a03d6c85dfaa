"""Bytes that a training step moves between processor and memory, counted from the traced network.

Two bounds. *floor*: outputs of weighted layers (convolutions and linear layers) are written and
read once in the forward pass, their gradients once in the backward pass, and everything else is
fused into the layers on either side. *eager*: every operation of the forward graph is a pass of its
own that reads its inputs and writes its outputs, and moves the same twice in the backward pass.
Neither counts the optimizer, the making of batches, or what batch norm reads twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmark.spec import Precision
from benchmark.tracing import WEIGHTED, place_of, trace
from methods.api import Unsupported

BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2}
FLOOR_PASSES = 4  # an output is written and read; so is its gradient
EAGER_PASSES = 3  # the forward pass, and twice as much for gradients of inputs and of weights


@dataclass(frozen=True)
class Traffic:
    """Bytes of one training step on one batch."""

    floor: int
    eager: int


def traffic(model: nn.Module, batch: int, image_size: int, precision: Precision) -> Traffic:
    """Of a step of this network on `batch` images (batch, 3, image_size, image_size). Nothing is
    computed: the network runs without values. All floats have the size of the precision.

    Raises:
        Unsupported: the network cannot be traced, or does not take such images.
    """
    counted = _Passes(trace(model).train().to("meta"))
    with torch.no_grad():
        counted.run(torch.empty(batch, 3, image_size, image_size, device="meta"))
    size = BYTES[precision]
    return Traffic(FLOOR_PASSES * size * counted.written, EAGER_PASSES * size * counted.moved)


class _Passes(fx.Interpreter):
    """Adds up numbers while the network runs on tensors without values."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # it would be added to the text of our own errors
        self.written = 0  # by weighted layers
        self.moved = 0  # read and written by all operations

    def run_node(self, n: fx.Node) -> Any:
        inputs = list(_tensors(self.env[node] for node in n.all_input_nodes))
        try:
            found = super().run_node(n)
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise Unsupported(f"the forward pass fails at {place_of(n)}: {said}") from error
        if n.op.startswith("call_"):
            module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
            self._count(inputs, list(_tensors([found])), module)
        return found

    def _count(self, inputs: list[Tensor], outputs: list[Tensor], module: Any) -> None:
        places = {_place(tensor) for tensor in inputs}
        made = [tensor for tensor in outputs if _place(tensor) not in places]
        if not made:
            return  # a view, or a number such as a shape: nothing moves
        if isinstance(module, nn.Module):
            inputs = [*inputs, *module.parameters()]
        self.moved += sum(tensor.numel() for tensor in (*inputs, *made))
        if isinstance(module, WEIGHTED):
            self.written += sum(tensor.numel() for tensor in made)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _place(tensor: Tensor) -> int:
    """Which memory it is in: the same for a tensor and its views, also without values."""
    return tensor.untyped_storage()._cdata
