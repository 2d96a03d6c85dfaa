"""The traced network that methods work on: gates, taps, masks, cost, ranking and removal."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, fx, nn

from benchmark import select
from benchmark.cifar_resnet import Shortcut
from benchmark.coupling import (
    NORMS,
    WEIGHTED,
    alive,
    cost_terms,
    couple,
    insert_after,
    is_depthwise,
    output_layers,
    propagate_shapes,
    remove,
    trace,
)
from methods.api import Budget, ChannelGroup, Gate, Plan, Scores, Site, Unsupported

Scope = Literal["inner", "all"]
ACTIVATIONS = {
    "relu", "relu6", "silu", "gelu", "hardswish", "hardtanh", "leakyrelu", "leaky_relu", "elu",
    "mish",
}  # fmt: skip


class Mask(nn.Module):
    """Multiplies a reader's input by 0 or 1 per channel."""

    keep: Tensor

    def __init__(self, keep: Tensor, reader: nn.Module) -> None:
        super().__init__()
        shaped = keep if isinstance(reader, nn.Linear) else keep[:, None, None]
        self.register_buffer("keep", shaped)

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


class Network(nn.Module):
    """See `methods.api.Network`. `example` is one image (1, 3, H, W); `scope` decides which groups
    may lose channels: `inner` = one writer outside the residual stream, `all` = coupled too."""

    def __init__(self, model: nn.Module, example: Tensor, scope: Scope = "inner") -> None:
        super().__init__()
        self._skeleton = (copy.deepcopy(model).cpu(),)  # in a tuple: not a submodule of this one
        self.traced = trace(copy.deepcopy(model).cpu())
        self.scope = scope
        self._gates = 0
        example = example.cpu()
        propagate_shapes(self.traced, example)
        self.map = couple(self.traced, example, output_layers(self.traced))
        self.terms = list(cost_terms(self.traced, self.map))
        self.convs = tuple(
            n for n in self._modules_in_order() if isinstance(self.module(n), nn.Conv2d)
        )
        groups = sorted(self._all_groups(), key=lambda g: self.convs.index(g.layers[0]))
        self.groups = tuple(g for g in groups if scope == "all" or self._is_inner(g))
        self.layers = tuple(n for n in self.convs if any(n in g.layers for g in self.groups))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.traced(x, labels)

    # ---- layers --------------------------------------------------------------------------------

    def module(self, layer: str) -> nn.Module:
        """The module of that name."""
        return self.traced.get_submodule(layer)

    def weight(self, layer: str) -> nn.Parameter:
        return self.module(layer).weight  # type: ignore[return-value]

    def bias(self, layer: str) -> nn.Parameter | None:
        return self.module(layer).bias  # type: ignore[return-value]

    def norm(self, layer: str) -> nn.BatchNorm2d:
        node = self.site(layer, "norm")
        while str(node.target).startswith("gate_"):
            node = node.all_input_nodes[0]
        module = self.module(str(node.target))
        if not isinstance(module, nn.BatchNorm2d):
            raise Unsupported(f"{layer} is followed by {type(module).__name__}, not BatchNorm2d")
        return module

    def norms(self) -> dict[str, nn.Module]:
        found = {n: self.module(n) for n in self._modules_in_order()}
        return {n: m for n, m in found.items() if isinstance(m, NORMS)}

    def group_of(self, layer: str) -> ChannelGroup:
        """The group that the layer writes."""
        for group in self.groups:
            if layer in group.layers:
                return group
        raise KeyError(f"{layer} writes no group within scope '{self.scope}'")

    def _is_inner(self, group: ChannelGroup) -> bool:
        """One writer, and no shortcut that writes the same channels: outside the stream."""
        shortcuts = [n for n in self.map.writes if isinstance(self.module(n), Shortcut)]
        units = set(self.map.writes[group.layers[0]].tolist())
        joined = any(units & set(self.map.writes[n].tolist()) for n in shortcuts)
        return len(group.layers) == 1 and not joined

    def _modules_in_order(self) -> list[str]:
        return [str(n.target) for n in self.traced.graph.nodes if n.op == "call_module"]

    def _all_groups(self) -> Iterator[ChannelGroup]:
        names = self._modules_in_order()
        for group, first in self.map.first.items():
            end = first + self.map.widths[group]

            def touches(units: Tensor, first: int = first, end: int = end) -> bool:
                return bool(((units >= first) & (units < end)).any())

            weighted = [n for n in names if isinstance(self.module(n), WEIGHTED)]
            whole = [n for n in weighted if not is_depthwise(self.module(n))]
            writers = tuple(n for n in whole if touches(self.map.writes[n]))
            readers = tuple(n for n in whole if touches(self.map.reads[n]))
            if writers and all(isinstance(self.module(n), nn.Conv2d) for n in writers):
                yield ChannelGroup(group, writers, readers, self.map.widths[group])

    # ---- sites: gates and taps -----------------------------------------------------------------

    def site(self, layer: str, at: Site, through_add: bool = False) -> fx.Node:
        """The node whose output (for `in`: whose input) is the site.

        Raises:
            Unsupported: the layer has no such site of its own.
        """
        calls = [n for n in self.traced.graph.nodes if n.op == "call_module" and n.target == layer]
        if not calls:
            raise KeyError(f"the network has no layer {layer}")
        node = calls[0]
        if at == "in":
            return node
        found = node if at == "conv" else None
        while len(node.users) == 1:
            node = next(iter(node.users))
            module = self.module(str(node.target)) if node.op == "call_module" else None
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

    def has_site(self, layer: str, at: Site) -> bool:
        try:
            self.site(layer, at)
        except Unsupported:
            return False
        return True

    @contextlib.contextmanager
    def gated(
        self, gates: Mapping[str, Gate], at: Site, through_add: bool = False
    ) -> Iterator[None]:
        """Within the block the gates are part of the network; its code is the same before and
        after."""
        added: list[fx.Node] = []
        try:
            for layer, gate in gates.items():
                added.append(self._insert(layer, gate, at, through_add))
            self.traced.recompile()
            yield
        finally:
            self._take_out(added)

    def _take_out(self, gates: list[fx.Node]) -> None:
        for node in reversed(gates):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            self.traced.graph.erase_node(node)
            self.traced.delete_submodule(str(node.target))
        self.traced.recompile()

    def unmask(self) -> None:
        """Undo every `mask`."""
        self._take_out([n for n in self.traced.graph.nodes if str(n.target).startswith("gate_")])

    def _insert(self, layer: str, gate: Gate, at: Site, through_add: bool) -> fx.Node:
        graph = self.traced.graph
        labels = next(n for n in graph.nodes if n.target == "labels")
        node, name = self.site(layer, at, through_add), f"gate_{self._gates}_{at}"
        self._gates += 1  # a counter: names must not be used twice while others live
        self.traced.add_submodule(name, gate)
        if at != "in":
            return insert_after(graph, node, name, (node, labels))
        source = node.args[0]
        with graph.inserting_before(node):
            call = graph.call_module(name, (source, labels))
        node.replace_input_with(source, call)  # type: ignore[arg-type]
        return call

    @contextlib.contextmanager
    def tapped(
        self, at: Site, layers: tuple[str, ...] | None = None, through_add: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        store: dict[str, Tensor] = {}
        taps = {n: Tap(store, n) for n in (self.layers if layers is None else layers)}
        with self.gated(taps, at, through_add):
            yield store

    # ---- changes to weights --------------------------------------------------------------------

    @torch.no_grad()
    def scale_readers(self, layer: str, factor: Tensor) -> None:
        if not self._is_inner(self.group_of(layer)):
            raise Unsupported(f"{layer} shares its channels with other layers")
        own = self.map.writes[layer]
        factor = factor.detach().cpu()
        per_unit = torch.ones(self.map.total, dtype=factor.dtype)
        per_unit[own] = factor
        if not torch.equal(per_unit[own], factor):
            raise Unsupported(f"{layer}: channels that go together need one factor")
        for name in self.group_of(layer).readers:
            units = self.map.reads[name]
            column = torch.where(units < 0, 1.0, per_unit[units.clamp(min=0)])
            weight = self.weight(name)
            column = column[: weight.shape[1]]  # grouped: every group holds the same units
            shape = (1, -1, *[1] * (weight.dim() - 2))
            weight.mul_(column.to(weight).reshape(shape))

    @torch.no_grad()
    def scale_norm(self, layer: str, factor: Tensor) -> None:
        norm = self.norm(layer)
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)

    def masks(self, plan: Plan) -> dict[str, Mask]:
        """Gates for `gated(..., "in")` that make this network the exact twin of `remove(plan)`."""
        kept = self.map.kept(plan.keep)
        device = next(self.traced.parameters()).device
        found = {}
        for name, units in self.map.reads.items():
            module = self.module(name)
            is_reader = isinstance(module, (*WEIGHTED, Shortcut)) and not is_depthwise(module)
            if is_reader and bool((units >= 0).any()):
                found[name] = Mask(alive(units, kept).to(device), module)
        return found

    def mask(self, group: str, keep: tuple[int, ...]) -> None:
        gates = self.masks(Plan({group: keep}))
        touched = {n: m for n, m in gates.items() if not bool(m.keep.all())}
        for layer, gate in touched.items():
            self._insert(layer, gate, "in", False)
        self.traced.recompile()

    # ---- cost, ranking, removal ----------------------------------------------------------------

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """Multiply-accumulates of convolutions and linear layers, as fvcore counts them."""
        width: dict[str | None, int] = {None: 1}
        width.update(self.map.widths)
        width.update(widths or {})
        total = 0
        for term in self.terms:
            outputs = sum(n * width[g] for g, n in term.outputs)
            inputs = sum(n * width[g] for g, n in term.inputs)
            total += term.scale * outputs * inputs // term.groups
        return total

    def limits(self, budget: Budget) -> select.Widths:
        """Full and smallest widths of the groups in scope."""
        return select.Widths.of(
            {g.name: g.width for g in self.groups}, budget.min_keep, budget.round_to
        )

    def group_scores(self, scores: Scores, comparable: bool) -> dict[str, Tensor]:
        """Scores of units: mean over the layers that write the group. Layers are put on one scale
        first unless they are comparable by construction."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            total, writers = torch.zeros(group.width, dtype=torch.float64), 0
            for layer in (n for n in group.layers if n in scores):
                score = scores[layer].detach().double().cpu()
                _check_score(layer, score, len(self.map.writes[layer]))
                score = score if comparable else select.normalise(score)
                units = self.map.writes[layer]
                own = units >= 0
                total.index_add_(0, units[own] - self.map.first[group.name], score[own])
                writers += 1
            if writers:
                found[group.name] = total / writers
        return found

    def rank(self, scores: Scores, budget: Budget, comparable: bool = False) -> Plan:
        grouped = self.group_scores(scores, comparable)
        if budget.allocation == "global":
            widths = select.global_widths(self.limits(budget), grouped, budget, self.macs)
        else:
            widths = self.allocate(budget)
        return select.best(grouped, widths)

    def allocate(self, budget: Budget) -> dict[str, int]:
        limits = self.limits(budget)
        if budget.allocation == "listed":
            rates = select.shared_rates(self.groups, budget.rates or {})
            return select.listed_widths(limits, rates)
        if budget.allocation == "uniform":
            return select.uniform_widths(limits, budget, self.macs)
        raise Unsupported(f"allocation '{budget.allocation}' needs scores first")

    def dense(self) -> nn.Module:
        """The plain network of the original class with the present weights."""
        return self.remove(Plan({}))

    def remove(self, plan: Plan) -> nn.Module:
        """The physically smaller network, of the original class."""
        model = copy.deepcopy(self._skeleton[0])
        state = {k: v for k, v in self.traced.state_dict().items() if not k.startswith("gate_")}
        model.load_state_dict(state)
        device = next(self.traced.parameters()).device
        return remove(model, self.map, self.map.kept(plan.keep)).to(device)

    def copy(self) -> Network:
        return copy.deepcopy(self)


def _check_score(layer: str, score: Tensor, width: int) -> None:
    if score.shape != (width,):
        raise ValueError(f"score of {layer} has shape {tuple(score.shape)}, needs ({width},)")
    if not bool(torch.isfinite(score).all()):
        raise ValueError(f"score of {layer} is not finite")
