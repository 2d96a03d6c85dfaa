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
from benchmark.coupling import alive, cost_terms, couple, remove
from benchmark.groups import candidates
from benchmark.sites import (
    ChannelsFirst,
    Mask,
    Tap,
    direct_readers,
    find_site,
    is_channels_last,
)
from benchmark.tracing import (
    NORMS,
    WEIGHTED,
    insert_after,
    is_depthwise,
    output_layers,
    propagate_shapes,
    trace,
)
from methods.api import Budget, ChannelGroup, Gate, Plan, Scores, Site, Unsupported

Scope = Literal["inner", "all"]


class Network(nn.Module):
    """See `methods.api.Network`. `example` is one image (1, 3, H, W); `scope` decides which groups
    may lose channels: `inner` = one writer outside the residual stream, `all` = coupled too.
    `dense`: widths that minimum widths are shares of, where the model was pruned before."""

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        scope: Scope = "inner",
        dense: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self._skeleton = (copy.deepcopy(model).cpu(),)  # in a tuple: not a submodule of this one
        self.traced = trace(copy.deepcopy(model).cpu())
        self.scope = scope
        self._gates = 0
        example = example.cpu()
        propagate_shapes(self.traced, example)
        self.map = couple(self.traced, example, output_layers(self.traced))
        self.terms = list(cost_terms(self.traced, self.map))
        called = [str(n.target) for n in self.traced.graph.nodes if n.op == "call_module"]
        self.order = tuple(n for n in called if isinstance(self.module(n), (*WEIGHTED, *NORMS)))
        self.convs = tuple(n for n in self.order if isinstance(self.module(n), nn.Conv2d))
        self.candidates = candidates(self.traced, self.map)
        kinds = ("inner",) if scope == "inner" else ("inner", "coupled")
        self.groups = tuple(c.group for c in self.candidates if c.kind in kinds)
        written = {n for g in self.groups for n in g.layers}
        self.layers = tuple(n for n in self.order if n in written)
        self._dense = dict(dense or {g.name: g.width for g in self.groups})

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.traced(x, labels)

    # ---- layers --------------------------------------------------------------------------------

    def module(self, layer: str) -> nn.Module:
        """The module of that name."""
        return self.traced.get_submodule(layer)

    def weight(self, layer: str) -> Tensor:
        weight: nn.Parameter = self.module(layer).weight  # type: ignore[assignment]
        on_maps = weight.dim() == 2 and layer in self.layers
        return weight[:, :, None, None] if on_maps else weight

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

    def norm_scales(self, layer: str) -> Tensor:
        if self.has_site(layer, "norm"):
            return self.norm(layer).weight.detach().abs()
        units, norms = self.map.writes[layer], self.norms().items()
        scales = {n: m for n, m in norms if isinstance(m, nn.BatchNorm2d) and m.affine}
        total = torch.zeros(self.map.total + 1, dtype=torch.float64)  # the last one: fixed channels
        seen = torch.zeros(self.map.total + 1, dtype=torch.bool)
        for name, norm in scales.items():
            total.index_add_(0, self.map.writes[name], norm.weight.detach().abs().double().cpu())
            seen[self.map.writes[name]] = True
        if not bool(seen[units].all()):
            raise Unsupported(f"no batch norm sees the channels of {layer}")
        return total[units].float().to(self.weight(layer).device)

    def norms(self) -> dict[str, nn.Module]:
        found = {n: self.module(n) for n in self.order}
        return {n: m for n, m in found.items() if isinstance(m, NORMS)}

    def rows(self, group: str) -> dict[str, Tensor]:
        kinds, found = (*WEIGHTED, *NORMS), self.map.writes
        return self._units_of(
            {n: u for n, u in found.items() if isinstance(self.module(n), kinds)}, group
        )

    def columns(self, group: str) -> dict[str, Tensor]:
        found = {}
        for name, units in self.map.reads.items():
            module = self.module(name)
            if isinstance(module, WEIGHTED) and not is_depthwise(module):
                found[name] = units[: module.weight.shape[1]]  # grouped: offsets of its first group
        return self._units_of(found, group)

    def _units_of(self, channels: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
        """Where the units of a group are among the channels of layers that have any."""
        found, first, width = {}, self.map.first[group], self.map.widths[group]
        for name, units in channels.items():
            own = ((units >= first) & (units < first + width)).nonzero()[:, 0]
            if len(own) % width:
                raise Unsupported(
                    f"{name} has more channels of some units of {group} than of others"
                )
            if len(own):
                order = torch.sort(units[own], stable=True).indices
                found[name] = own[order].reshape(width, -1)
        return found

    def group_of(self, layer: str) -> ChannelGroup:
        """The group that the layer writes."""
        for group in self.groups:
            if layer in group.layers:
                return group
        raise KeyError(f"{layer} writes no group within scope '{self.scope}'")

    def _is_inner(self, group: ChannelGroup) -> bool:
        return any(c.group == group and c.kind == "inner" for c in self.candidates)

    # ---- sites: gates and taps -----------------------------------------------------------------

    def site(self, layer: str, at: Site, through_add: bool = False) -> fx.Node:
        """See `sites.find_site`."""
        return find_site(self.traced, layer, at, through_add)

    def has_site(self, layer: str, at: Site, through_add: bool = False) -> bool:
        try:
            self.site(layer, at, through_add)
        except Unsupported:
            return False
        return True

    def last_site(self, layer: str, through_add: bool = False) -> Site:
        found: tuple[Site, ...] = ("act", "norm")
        return next((s for s in found if self.has_site(layer, s, through_add)), "conv")

    @contextlib.contextmanager
    def gated(
        self, gates: Mapping[str, Gate], at: Site | Mapping[str, Site], through_add: bool = False
    ) -> Iterator[None]:
        """Within the block the gates are part of the network; its code is the same before and
        after."""
        added: list[fx.Node] = []
        try:
            for layer, gate in gates.items():
                site = at if isinstance(at, str) else at[layer]
                added.append(self._insert(layer, gate, site, through_add))
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
        self._gates = 0  # names of later gates do not tell what was there before

    def _insert(self, layer: str, gate: Gate, at: Site, through_add: bool) -> fx.Node:
        graph = self.traced.graph
        labels = next(n for n in graph.nodes if n.target == "labels")
        node, name = self.site(layer, at, through_add), f"gate_{self._gates}_{at}"
        self._gates += 1  # a counter: names must not be used twice while others live
        if is_channels_last(self.traced, layer):
            gate = ChannelsFirst(gate)
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
        self,
        at: Site | Mapping[str, Site],
        layers: tuple[str, ...] | None = None,
        through_add: bool = False,
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
        for name in direct_readers(self.traced, layer):
            units = self.map.reads[name]
            column = torch.where(units < 0, 1.0, per_unit[units.clamp(min=0)])
            weight: nn.Parameter = self.module(name).weight  # type: ignore[assignment]
            if is_depthwise(self.module(name)):  # one filter per channel, next to the gate
                weight.mul_(column.to(weight).reshape(-1, 1, 1, 1))
                continue
            column = column[: weight.shape[1]]  # grouped: every group holds the same units
            shape = (1, -1, *[1] * (weight.dim() - 2))
            weight.mul_(column.to(weight).reshape(shape))

    @torch.no_grad()
    def scale_writer(self, layer: str, factor: Tensor) -> None:
        weight, bias = self.weight(layer), self.bias(layer)
        weight.mul_(factor.to(weight).reshape(-1, *[1] * (weight.dim() - 1)))
        if bias is not None:
            bias.mul_(factor.to(bias))

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
                flat = isinstance(module, nn.Linear) and not is_channels_last(self.traced, name)
                found[name] = Mask(alive(units, kept).to(device), flat)
        return found

    def mask(self, group: str, keep: tuple[int, ...]) -> None:
        gates = self.masks(Plan({group: keep}))
        touched = {n: m for n, m in gates.items() if not bool(m.keep.all())}
        for layer, gate in touched.items():
            self._insert(layer, gate, "in", False)
        self.traced.recompile()

    # ---- groups --------------------------------------------------------------------------------

    def spread(self, scores: Mapping[str, Tensor]) -> Scores:
        units = torch.zeros(self.map.total, dtype=torch.float64)
        for group, score in scores.items():
            _check_score(group, score, self.map.widths[group])
            first = self.map.first[group]
            units[first : first + len(score)] = score.detach().double().cpu()
        found = {}
        for layer in self.layers:
            own = self.map.writes[layer]
            times = torch.bincount(own[own >= 0], minlength=len(units)).clamp(min=1)
            found[layer] = torch.where(own < 0, 0.0, (units / times)[own.clamp(min=0)])
        return found

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

    def kernel_macs(self, layer: str) -> int:
        """Multiply-accumulates of one 2-D kernel, of one weight of a linear layer on maps."""
        return next(term.scale for term in self.terms if term.layer == layer)

    def limits(self, budget: Budget) -> select.Widths:
        """Full and smallest widths of the groups in scope."""
        full = {g.name: g.width for g in self.groups}
        return select.Widths.of(full, budget.min_keep, budget.round_to, budget.whole, self._dense)

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
