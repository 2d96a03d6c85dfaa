"""Places in a traced network where a gate may stand, and what stands there."""

from __future__ import annotations

from torch import Tensor, fx, nn

from benchmark.tracing import NORMS, WEIGHTED, shape_of
from methods.api import Gate, Site, Unsupported

ACTIVATIONS = {
    "relu", "relu6", "silu", "gelu", "hardswish", "hardtanh", "leakyrelu", "leaky_relu", "elu",
    "mish",
}  # fmt: skip


def call_of(traced: fx.GraphModule, layer: str) -> fx.Node:
    """The node that calls the layer.

    Raises:
        KeyError: there is no such layer.
    """
    for node in traced.graph.nodes:
        if node.op == "call_module" and node.target == layer:
            found: fx.Node = node
            return found
    raise KeyError(f"the network has no layer {layer}")


def find_site(traced: fx.GraphModule, layer: str, at: Site, through_add: bool = False) -> fx.Node:
    """The node whose output (for `in`: whose input) is the site.

    Raises:
        Unsupported: the layer has no such site of its own.
    """
    node = call_of(traced, layer)
    if at == "in":
        return node
    found = node if at == "conv" else None
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        target_name = getattr(node.target, "__name__", str(node.target))
        kind = type(module).__name__.lower() if module is not None else target_name
        if str(node.target).startswith("gate_"):
            if str(node.target).endswith(f"_{at}"):
                found = node  # a later gate sees what an earlier one made
            continue
        if found is not None:
            break
        is_norm = isinstance(module, NORMS)
        if (kind in ACTIVATIONS and at == "act") or (is_norm and at == "norm"):
            found = node
            continue
        passes = is_norm or isinstance(module, nn.Identity | nn.Dropout)
        if not passes and not (through_add and kind == "add"):
            break
    if found is None:
        raise Unsupported(f"{layer} has no site '{at}' of its own")
    return found


def direct_readers(traced: fx.GraphModule, layer: str) -> list[str]:
    """The first weighted layers on every way from this one, depthwise ones included."""
    todo, seen, found = [call_of(traced, layer)], set(), []
    while todo:
        for node in todo.pop().users:
            if node in seen:
                continue
            seen.add(node)
            module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, WEIGHTED):
                found.append(str(node.target))
            else:
                todo.append(node)
    return sorted(found)


def is_channels_last(traced: fx.GraphModule, layer: str) -> bool:
    """Whether it is a linear layer on every position of maps (N, H, W, C)."""
    call = call_of(traced, layer)
    linear = isinstance(traced.get_submodule(layer), nn.Linear)
    return linear and len(shape_of(call)) == 4


class Mask(nn.Module):
    """Multiplies a reader's input, (N, C) if `flat` or (N, C, H, W), by 0 or 1 per channel."""

    keep: Tensor

    def __init__(self, keep: Tensor, flat: bool) -> None:
        super().__init__()
        self.register_buffer("keep", keep if flat else keep[:, None, None])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x * self.keep


class Tap(nn.Module):
    """Keeps the map that passes, and its gradient after backward."""

    def __init__(self, store: dict[str, Tensor], layer: str) -> None:
        super().__init__()
        self.store, self.layer = store, layer

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.requires_grad:
            x.retain_grad()
        self.store[self.layer] = x
        return x


class ChannelsFirst(nn.Module):
    """Shows maps (N, H, W, C) to a gate as (N, C, H, W)."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        found: Tensor = self.gate(x.movedim(-1, 1), labels).movedim(1, -1)
        return found
