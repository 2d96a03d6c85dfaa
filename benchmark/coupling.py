"""Which channels must go together, and what every width costs.

torch-pruning's DependencyGraph is built on the traced network, read once into index maps and
dropped: scores, MACs, masks and removal all follow from the maps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import Tensor, fx, nn

from benchmark.cifar_resnet import Shortcut
from benchmark.tracing import NORMS, WEIGHTED, is_depthwise, shape_of
from methods.api import Unsupported

Share = list[tuple[str | None, int]]  # (group, channels per unit); None = channels that never go


@dataclass(frozen=True)
class ChannelMap:
    """Index maps between channels and removable units; -1 marks channels that are fixed."""

    widths: Mapping[str, int]  # group -> units
    first: Mapping[str, int]  # group -> its first unit
    writes: Mapping[str, Tensor]  # layer -> unit of every output channel
    reads: Mapping[str, Tensor]  # layer -> unit of every input channel
    left_out: Mapping[str, str] = field(default_factory=dict)  # layer whose outputs stay -> why

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


def couple(model: fx.GraphModule, example: Tensor, heads: list[str]) -> ChannelMap:
    """Index maps of the traced model. A group has the name of the layer that writes it first.

    Raises:
        Unsupported: grouped convolutions with different group counts in one coupled set, or a
            network that the library cannot follow.
    """
    # frozen parameters hide groups silently, and building leaves the model in eval mode
    model = copy.deepcopy(model).requires_grad_(True)
    names = {module: name for name, module in model.named_modules()}
    parameters = {id(p): name for name, p in model.named_parameters()}
    order = {str(n.target): place for place, n in enumerate(model.graph.nodes)}
    graph = _library_graph(model, example)

    def fixed(size: Any) -> dict[str, Tensor]:
        return {names[m]: torch.full((size(m),), -1) for m in graph.module2node if m in names}

    writes, reads = fixed(graph.get_out_channels), fixed(graph.get_in_channels)
    widths: dict[str, int] = {}
    first: dict[str, int] = {}
    left_out = dict.fromkeys(heads, "output of the network")
    total = 0
    for group in graph.get_all_groups(ignored_layers=[model.get_submodule(h) for h in heads]):
        parts = [(i.dep.target.module, i.dep.handler, i.idxs, i.root_idxs) for i in group.items]
        modules = [m for m, *_ in parts]
        reason = _why_fixed(modules, names, parameters)
        if reason:
            written = [m for m, handler, *_ in parts if graph.is_out_channel_pruning_fn(handler)]
            left_out |= {names[m]: reason for m in written if isinstance(m, WEIGHTED)}
            continue
        convs = [m for m, *_ in parts if isinstance(m, nn.Conv2d)]
        counts = {m.groups for m in convs if 1 < m.groups < m.in_channels}
        width = len(parts[0][2]) // max(counts, default=1)
        outputs = [m for m, handler, *_ in parts if graph.is_out_channel_pruning_fn(handler)]
        writers = [m for m in outputs if isinstance(m, WEIGHTED) and not is_depthwise(m)]
        name = min((names[m] for m in writers), key=order.__getitem__, default=names[parts[0][0]])
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
    return ChannelMap(widths, first, writes, reads, left_out)


def _library_graph(model: nn.Module, example: Tensor) -> Any:
    try:
        return torch_pruning.DependencyGraph().build_dependency(
            model, (example,), customized_pruners={Shortcut: _ShortcutPruner()}, verbose=False
        )
    except Exception as error:  # of whatever type the library fails with
        said = " ".join(str(error).split())[:200]
        raise Unsupported(
            f"its channels cannot be followed ({type(error).__name__}: {said})"
        ) from error


def _why_fixed(
    modules: list[Any], names: Mapping[nn.Module, str], parameters: Mapping[int, str]
) -> str:
    """Why these channels must stay; empty: they may go."""
    for module in modules:
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            # their statistics change when channels go
            return f"{type(module).__name__} {names.get(module, '')} averages over the channels"
        if isinstance(module, nn.Parameter):
            name = parameters.get(id(module), "a parameter")
            return f"{name} is a parameter outside any layer that can be cut"
    return ""


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
