"""Which channels must go together, and what every width costs.

The dense network is traced once with torch.fx. torch-pruning's DependencyGraph is built on the
traced network, read once into index maps and dropped: scores, MACs, masks and removal all follow
from the maps.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from benchmark.cifar_resnet import Shortcut
from methods.api import Unsupported

WEIGHTED = (nn.Conv2d, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
# operations that move channels and that DependencyGraph follows; others it takes for element-wise
FOLLOWED = {"cat", "concat", "flatten", "view", "reshape", "permute", "mean"}
FOLLOWED_MODULES = (*WEIGHTED, Shortcut, nn.Flatten)
IN_PLACE: dict[object, Callable[..., object]] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
}
IN_PLACE_METHODS = ("relu_", "add_", "mul_")

Share = list[tuple[str | None, int]]  # (group, channels per unit); None = channels that never go


@dataclass(frozen=True)
class ChannelMap:
    """Index maps between channels and removable units; -1 marks channels that are fixed."""

    widths: Mapping[str, int]  # group -> units
    first: Mapping[str, int]  # group -> its first unit
    writes: Mapping[str, Tensor]  # layer -> unit of every output channel
    reads: Mapping[str, Tensor]  # layer -> unit of every input channel

    @property
    def total(self) -> int:
        """Removable units of the whole network."""
        return sum(self.widths.values())

    def kept(self, keep: Mapping[str, tuple[int, ...]]) -> Tensor:
        """(units,) bool from kept units per group; absent groups keep all."""
        kept = torch.ones(self.total, dtype=torch.bool)
        for group, units in keep.items():
            start, width = self.first[group], self.widths[group]
            if not all(0 <= unit < width for unit in units):
                raise ValueError(f"plan for {group}: it has the units 0 to {width - 1} only")
            kept[start : start + width] = False
            kept[start + torch.tensor(units)] = True
        return kept


class LayerTracer(fx.Tracer):
    """Opens every container; weighted layers, norms and childless modules stay whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WEIGHTED + NORMS) or next(m.children(), None) is None


def trace(model: nn.Module) -> fx.GraphModule:
    """A private GraphModule forward(x, labels=None): same parameter names, nothing in place,
    norm and activation apart.

    Raises:
        Unsupported: the forward pass depends on values, or on `self.training` outside a leaf
            module.
    """
    model = copy.deepcopy(model)
    try:
        graph, other = (LayerTracer().trace(model.train(mode)) for mode in (True, False))
    except fx.proxy.TraceError as error:
        raise Unsupported(f"the forward pass cannot be traced: {error}") from error
    if graph.python_code("self").src != other.python_code("self").src:
        where = _first_difference(graph, other)
        raise Unsupported(
            f"the forward pass reads self.training outside a leaf module, first seen at {where}"
        )
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    for node in graph.nodes:
        _make_functional(node)
    _split_norm_and_activation(model, graph)
    with graph.inserting_after(next(iter(graph.nodes))):
        graph.placeholder("labels", default_value=None)
    return fx.GraphModule(model, graph)


def _first_difference(graph: fx.Graph, other: fx.Graph) -> str:
    pairs = itertools.zip_longest(graph.nodes, other.nodes)
    return next(
        str(a or b) for a, b in pairs if not (a and b and a.format_node() == b.format_node())
    )


def _make_functional(node: fx.Node) -> None:
    if node.op == "call_function":
        node.target = IN_PLACE.get(node.target, node.target)
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    if node.op == "call_method" and node.target in IN_PLACE_METHODS:
        node.target = str(node.target)[:-1]


def _split_norm_and_activation(model: nn.Module, graph: fx.Graph) -> None:
    """timm's BatchNormAct2d becomes norm, drop, act: a pass over the graph, not the tracer, since
    unpickling traces again and would apply the activation twice."""
    for node in [n for n in graph.nodes if n.op == "call_module"]:
        module = model.get_submodule(node.target)
        if isinstance(module, nn.BatchNorm2d) and hasattr(module, "act"):
            module.__class__ = nn.BatchNorm2d
            for part in ("act", "drop"):
                insert_after(graph, node, f"{node.target}.{part}", (node,))


def insert_after(graph: fx.Graph, node: fx.Node, target: str, args: tuple[Any, ...]) -> fx.Node:
    """A module call after the node; every other user of the node reads the call instead."""
    with graph.inserting_after(node):
        new = graph.call_module(target, args)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return new


def shape_of(node: fx.Node) -> torch.Size:
    """Output shape found by `propagate_shapes`; empty for anything but a tensor."""
    return getattr(node.meta.get("tensor_meta"), "shape", torch.Size())


def propagate_shapes(traced: fx.GraphModule, example: Tensor) -> None:
    """Store every node's output shape, and refuse operations that move channels unseen.

    Raises:
        Unsupported: an operation changes the channels and is not one that can be followed.
    """
    with torch.no_grad():
        ShapeProp(traced.eval()).propagate(example)
    for node in traced.graph.nodes:
        out = shape_of(node)
        name = _operation(traced, node)
        if not name or len(out) < 2 or name in FOLLOWED:
            continue
        sources = [s for s in map(shape_of, node.all_input_nodes) if len(s) != 1]
        if any(s[1:2] != out[1:2] for s in sources):
            raise Unsupported(
                f"operation {name} moves channels at {node.name}: "
                "make it a module with a registered pruner"
            )


def _operation(traced: fx.GraphModule, node: fx.Node) -> str:
    """Name of what the node does; empty for inputs, outputs, and modules that can be followed."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return "" if isinstance(module, FOLLOWED_MODULES) else type(module).__name__
    if node.op not in ("call_function", "call_method"):
        return ""
    return getattr(node.target, "__name__", str(node.target))


def output_layers(traced: fx.GraphModule) -> list[str]:
    """The weighted layers nearest to the output; their outputs are never pruned."""
    todo = [n for n in traced.graph.nodes if n.op == "output"]
    heads: list[str] = []
    while todo:
        for node in todo.pop().all_input_nodes:
            if node.op == "call_module" and isinstance(
                traced.get_submodule(str(node.target)), WEIGHTED
            ):
                heads.append(str(node.target))
            else:
                todo.append(node)
    return heads


class _ShortcutPruner(torch_pruning.pruner.function.BasePruningFunc):
    """Tells DependencyGraph that a Shortcut's two sides are separate; never asked to prune."""

    def prune_out_channels(self, layer: Shortcut, idxs: list[int]) -> Shortcut:
        return layer

    def prune_in_channels(self, layer: Shortcut, idxs: list[int]) -> Shortcut:
        return layer

    def get_out_channels(self, layer: Shortcut) -> int:
        return len(layer.source)

    def get_in_channels(self, layer: Shortcut) -> int:
        return layer.width_in


def is_depthwise(module: nn.Module) -> bool:
    """One filter per input channel: such a layer belongs to its input's group."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def couple(model: nn.Module, example: Tensor, heads: list[str]) -> ChannelMap:
    """Index maps of the traced model.

    Raises:
        Unsupported: grouped convolutions with different group counts in one coupled set.
    """
    # frozen parameters hide groups silently, and building leaves the model in eval mode
    model = copy.deepcopy(model).requires_grad_(True)
    names = {module: name for name, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(
        model, (example,), customized_pruners={Shortcut: _ShortcutPruner()}, verbose=False
    )

    def fixed(size: Any) -> dict[str, Tensor]:
        return {names[m]: torch.full((size(m),), -1) for m in graph.module2node if m in names}

    writes, reads = fixed(graph.get_out_channels), fixed(graph.get_in_channels)
    widths: dict[str, int] = {}
    first: dict[str, int] = {}
    total = 0
    for group in graph.get_all_groups(ignored_layers=[model.get_submodule(h) for h in heads]):
        parts = [(i.dep.target.module, i.dep.handler, i.idxs, i.root_idxs) for i in group.items]
        if any(isinstance(m, nn.LayerNorm | nn.GroupNorm | nn.Parameter) for m, *_ in parts):
            continue  # their statistics change when channels go: these channels stay
        convs = [m for m, *_ in parts if isinstance(m, nn.Conv2d)]
        counts = {m.groups for m in convs if 1 < m.groups < m.in_channels}
        width, name = len(parts[0][2]) // max(counts, default=1), names[parts[0][0]]
        if len(counts) > 1 or width == 0:
            raise Unsupported(f"grouped convolutions around {name} cannot be pruned together")
        for module, handler, channels, roots in parts:
            if module not in names:
                continue  # an operation, not a module
            side = writes if graph.is_out_channel_pruning_fn(handler) else reads
            # grouped convolution: one unit = the same offset in every convolution group
            side[names[module]][torch.tensor(channels)] = torch.tensor(roots) % width + total
            if is_depthwise(module) or isinstance(module, NORMS):
                reads[names[module]] = writes[names[module]]
        widths[name], first[name], total = width, total, total + width
    return ChannelMap(widths, first, writes, reads)


@dataclass(frozen=True)
class CostTerm:
    """MACs of one layer = scale * outputs * inputs // groups, sides counted in kept channels."""

    layer: str
    scale: int
    groups: int
    outputs: Share
    inputs: Share


def cost_terms(traced: fx.GraphModule, cmap: ChannelMap) -> Iterator[CostTerm]:
    """One term per convolution and linear layer, from the shapes of `propagate_shapes`."""
    for node in traced.graph.nodes:
        if node.op != "call_module":
            continue
        module = traced.get_submodule(node.target)
        if not isinstance(module, WEIGHTED):
            continue
        positions = shape_of(node).numel() // len(cmap.writes[node.target])
        depthwise = is_depthwise(module)
        yield CostTerm(
            layer=node.target,
            scale=positions * module.weight[0, 0].numel(),
            groups=1 if depthwise else getattr(module, "groups", 1),
            outputs=_share(cmap, cmap.writes[node.target]),
            inputs=[(None, 1)] if depthwise else _share(cmap, cmap.reads[node.target]),
        )


def _share(cmap: ChannelMap, units: Tensor) -> Share:
    shares: Share = []
    for group, first in cmap.first.items():
        count = int(((units >= first) & (units < first + cmap.widths[group])).sum())
        if count:
            shares.append((group, count // cmap.widths[group]))
    return [*shares, (None, int((units < 0).sum()))]


def alive(units: Tensor, kept: Tensor) -> Tensor:
    """(C,) bool: channels whose unit is kept, or that are fixed."""
    return (units < 0) | kept[units.clamp(min=0)]


def remove(model: nn.Module, cmap: ChannelMap, kept: Tensor) -> nn.Module:
    """A smaller copy of any module with these layer names; kept: (units,) bool."""
    model = copy.deepcopy(model)
    for name, units in cmap.writes.items():
        module = model.get_submodule(name)
        kept_out = alive(units, kept).nonzero()[:, 0]
        kept_in = alive(cmap.reads[name], kept).nonzero()[:, 0]
        if isinstance(module, Shortcut):
            module.slice(kept_in, kept_out)
        else:
            _slice(module, kept_in, kept_out)
    return model


def _slice(module: nn.Module, kept_in: Tensor, kept_out: Tensor) -> None:
    depthwise = is_depthwise(module)
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for key, old in tensors:
        new = old.detach()[kept_out] if old.dim() else old  # num_batches_tracked has no channels
        if key == "weight" and isinstance(module, WEIGHTED) and not depthwise:
            new = new[:, kept_in[kept_in < old.shape[1]]]  # grouped: offsets of its first group
        is_parameter = isinstance(old, nn.Parameter)
        setattr(module, key, nn.Parameter(new, old.requires_grad) if is_parameter else new)
    sizes = {
        "in_channels": len(kept_in),
        "in_features": len(kept_in),
        "out_channels": len(kept_out),
        "out_features": len(kept_out),
        "num_features": len(kept_out),
    }
    if depthwise:
        sizes["groups"] = len(kept_out)
    for key in sizes.keys() & vars(module).keys():
        setattr(module, key, sizes[key])
