"""A network in the forms it can be run in: memory layouts, folded batch norm, torch.compile."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.latency import milliseconds
from benchmark.record import one_line

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = 1e-3  # largest difference of outputs, relative to the largest output


class Impossible(Exception):
    """A form that this network or machine does not have; the text says why."""


@dataclass(frozen=True)
class Form:
    """How a network is run, apart from its memory layout."""

    runtime: str  # eager, compiled or onnx
    folded: bool = False  # batch norm is part of the convolutions

    @property
    def label(self) -> str:
        return f"{self.runtime}, BN folded" if self.folded else self.runtime


def torch_clocks(model: nn.Module, batch: Tensor, form: Form) -> dict[str, Callable[[], float]]:
    """Milliseconds of one forward pass, by memory layout.

    Raises:
        Impossible: it cannot be folded, or not compiled.
    """
    ready = folded(model, batch) if form.folded else model
    return {name: _clock(ready, batch, form, layout) for name, layout in LAYOUTS.items()}


def _clock(
    model: nn.Module, batch: Tensor, form: Form, layout: torch.memory_format
) -> Callable[[], float]:
    own = copy.deepcopy(model).to(memory_format=layout).eval()
    x = batch.contiguous(memory_format=layout)
    call: Callable[[Tensor], Tensor] = own
    if form.runtime == "compiled":
        call = torch.compile(own, dynamic=False)
        _first_call(call, x)

    @torch.no_grad()
    def clock() -> float:
        return milliseconds(call, x)

    return clock


@torch.no_grad()
def _first_call(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compiles."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(x)
    except Exception as error:  # of the tracer, the compiler or the linker
        raise Impossible(f"torch.compile: {one_line(error)[:200]}") from error


@torch.no_grad()
def folded(model: nn.Module, batch: Tensor) -> nn.Module:
    """A copy in eval mode whose batch norms are part of the convolutions before them.

    Raises:
        Impossible: its forward pass cannot be traced, or the copy's outputs are not those of the
            network.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        found: nn.Module = fuse(model.eval())
        difference = apart(model(batch), found(batch))
    except Exception as error:  # of the tracer, which meets any code
        raise Impossible(f"folding batch norm: {one_line(error)[:200]}") from error
    if difference > TOLERANCE:
        raise Impossible(f"folding batch norm changes outputs by {difference:.1e} of the largest")
    return found


def apart(wanted: Tensor, found: Tensor) -> float:
    """Largest difference, relative to the largest absolute value that is wanted."""
    largest = float(wanted.abs().max())
    return float((wanted - found).abs().max()) / max(largest, 1e-12)
