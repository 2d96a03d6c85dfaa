"""What a plan makes of the network, and what that costs: a smaller network, one whose single
kernels are zero, or one whose gates choose channels for every image (docs/lanes.md).

The last two keep their dense shape. fvcore sees none of what they save, so each kind counts its own
cost: `price` before it is trained on, `measured` at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark import flops
from benchmark.evaluation import EVAL_BATCH
from benchmark.flops import Cost
from benchmark.kinds import LANES
from benchmark.network import Network
from benchmark.sources import Source
from benchmark.tracing import is_depthwise
from methods.api import ChannelGate, GatePlan, KernelPlan, Method, Plan, Result
from methods.gates import attached

Facts = dict[str, Any]
ORIGINAL = ".parametrizations.weight.original"  # ends the name of a weight behind a mask


@dataclass(frozen=True)
class Became:
    """A smaller network: fvcore counts it as it is."""

    net: Network
    plan: Plan
    result: Result = "channels"

    @cached_property
    def model(self) -> nn.Module:
        """Ready to be trained and run; always the same one."""
        return self.net.remove(self.plan)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates per image, from the plan alone."""
        return self.net.macs(self.plan.widths())

    def price(self, executed: Cost) -> Cost:
        """What an image is known to cost. `executed`: what fvcore counts in the model.

        Raises:
            CostMismatch: the two counters disagree.
        """
        if self.macs != executed.macs:
            raise flops.CostMismatch(f"cost model says {self.macs} MACs, fvcore {executed.macs}")
        return executed

    def measured(self, executed: Cost, images: Source) -> tuple[Cost, Facts]:
        """What images do cost in the trained model, and facts about it for the record."""
        return self.price(executed), {}


class KernelMask(nn.Module):
    """A weight (C_out, C_in, k, k) or (C_out, C_in) whose other 2-D kernels are zero, however it is
    trained: a parametrisation."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep.view(*self.keep.shape, *[1] * (weight.dim() - 2))


@dataclass(frozen=True)
class Sparse(Became):
    """The dense network with kernels at zero. What counts is each kernel that is not."""

    plan: KernelPlan
    result: Result = "kernels"

    @cached_property
    def model(self) -> nn.Module:
        model = self.net.dense()
        for layer, keep in self.plan.kernels.items():
            module = model.get_submodule(layer)
            mask = KernelMask(keep.to(module.weight.device))  # type: ignore[arg-type]
            parametrize.register_parametrization(module, "weight", mask)
        return model

    @cached_property
    def macs(self) -> int:
        gone = {n: int((~keep).sum()) for n, keep in self.plan.kernels.items()}
        return self.net.macs() - sum(self.net.kernel_macs(n) * k for n, k in gone.items())

    def price(self, executed: Cost) -> Cost:
        saved = self.net.macs() - self.macs
        paper = executed.macs_paper - saved
        return executed.model_copy(update={"macs": self.macs, "macs_paper": paper, "operators": {}})

    def measured(self, executed: Cost, images: Source) -> tuple[Cost, Facts]:
        kept = sum(int(keep.sum()) for keep in self.plan.kernels.values())
        total = sum(keep.numel() for keep in self.plan.kernels.values())
        zeros = sum(
            int((~keep).sum()) * self.net.weight(n)[0, 0].numel()
            for n, keep in self.plan.kernels.items()
        )
        return self.price(executed), {
            "lane": LANES[self.result],
            "kernels": total,
            "kernels_kept": kept,
            "params_not_zero": executed.params - zeros,
            "outputs_only_reduction": 1 - self._outputs_only() / self.net.macs(),
        }

    def _outputs_only(self) -> int:
        """As the official code of EXP counts (METHODS 13): the fraction of kernels stands for that
        many whole filters, rounded down, of a layer that keeps all its inputs."""
        saved = 0
        for layer, keep in self.plan.kernels.items():
            gone, (outputs, inputs) = int((~keep).sum()), keep.shape
            saved += self.net.kernel_macs(layer) * inputs * (gone * outputs // keep.numel())
        return self.net.macs() - saved


@dataclass(frozen=True)
class Gated(Became):
    """The traced dense network with its gates in place. An image costs what its own channels do."""

    plan: GatePlan
    result: Result = "dynamic"

    @cached_property
    def _copies(self) -> tuple[nn.Module, dict[str, ChannelGate]]:
        """The network, and the gates in it."""
        with attached(self.net, self.plan.gates):
            return copy.deepcopy((self.net.traced, dict(self.plan.gates)))

    @cached_property
    def model(self) -> nn.Module:
        return self._copies[0]

    @cached_property
    def macs(self) -> int:
        """Of an image for which every gate lets as many channels through as it may."""
        widths = {n: len(self.net.weight(n)) for n in self.plan.gates}
        active = {n: torch.arange(w)[None] < self.plan.gates[n].most for n, w in widths.items()}
        return int(sum(macs_per_image(self.net, self.plan.gates, active)))

    def price(self, executed: Cost) -> Cost:
        return self._cost(executed, self.macs)

    def _cost(self, executed: Cost, macs: int) -> Cost:
        """Parameters as they are stored: constants where gates replaced something are not."""
        constants = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)
        return Cost(
            macs=macs,
            macs_paper=macs + executed.macs_paper - executed.macs,  # linear layers count twice
            params=executed.params - constants,
            params_paper=executed.params_paper,
            operators={},
        )

    def measured(self, executed: Cost, images: Source) -> tuple[Cost, Facts]:
        gates = self._copies[1]
        used = used_channels(self.model, gates, images)
        own, extra = macs_per_image(self.net, gates, used)
        whole = (own + extra).double()
        return self._cost(executed, round(float(whole.mean()))), {
            "lane": LANES[self.result],
            "images": len(whole),
            "macs_mean": round(float(whole.mean()), 3),
            "macs_sd": round(float(whole.std(correction=0)), 3),
            "macs_p95": int(whole.quantile(0.95, interpolation="higher")),
            "macs_max": int(whole.max()),
            "gate_macs_mean": round(float(extra.double().mean()), 3),
            "channels": {n: u.shape[1] for n, u in used.items()},
            "channels_most": {n: gate.most for n, gate in gates.items()},
            "channels_mean": {n: round(float(u.sum(1).double().mean()), 4)
                              for n, u in used.items()},
            "channels_ever": {n: int(u.any(0).sum()) for n, u in used.items()},
        }  # fmt: skip


def became(net: Network, plan: Plan) -> Became:
    """What the plan makes of the network, which stays as it is."""
    if isinstance(plan, KernelPlan):
        return Sparse(net, plan)
    return Gated(net, plan) if isinstance(plan, GatePlan) else Became(net, plan)


@torch.no_grad()
def used_channels(
    model: nn.Module, gates: Mapping[str, ChannelGate], images: Source
) -> dict[str, Tensor]:
    """(N, C) bool per gated layer, of all images of a split in its order; leaves `model` in eval
    mode."""
    model.eval()
    found: dict[str, list[Tensor]] = {layer: [] for layer in gates}
    batches = torch.arange(len(images)).split(EVAL_BATCH)
    images.ahead(batches)
    for rows in batches:
        model(images.batch(rows)[0])
        for layer, gate in gates.items():
            found[layer].append(gate.active.cpu())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def macs_per_image(
    net: Network, gates: Mapping[str, ChannelGate], active: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """(N,) multiply-accumulates of convolutions and linear layers, and (N,) of the gates, for
    images that use these channels of the gated layers, (N, C) bool each, and all of the others."""
    count = len(next(iter(active.values())))
    units = torch.ones(count, net.map.total + 1, dtype=torch.bool)  # the last one: fixed channels
    for layer, own in active.items():
        units[:, net.map.writes[layer]] = own
    own, extra = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
    for term in net.terms:
        inputs = units[:, net.map.reads[term.layer]].sum(1)
        outputs = units[:, net.map.writes[term.layer]].sum(1)
        if term.layer in gates:
            positions = term.scale // net.weight(term.layer)[0, 0].numel()
            extra += gates[term.layer].macs(inputs, positions)
        paired = 1 if is_depthwise(net.module(term.layer)) else inputs
        own += term.scale * outputs * paired // term.groups
    return own, extra


# ---- from and to disk ----------------------------------------------------------------------------


def plan_of(
    method: Method, net: Network, keep: Mapping[str, tuple[int, ...]], tensors: dict[str, Tensor]
) -> Plan:
    """The plan that had these kept units and tensors; `net`: as the method left it."""
    if method.result == "channels":
        return Plan(keep)
    if method.result == "kernels":
        return KernelPlan(keep, tensors)
    gates = method.gates(net)
    for layer, gate in gates.items():
        start = f"{layer}|"
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        gate.load_state_dict(own)
    return GatePlan(keep, gates)


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a `Sparse` model as the plain network holds them: masked kernels are zeros."""
    found = dict(weights)
    for name in [n for n in weights if n.endswith(ORIGINAL)]:
        layer = name.removesuffix(ORIGINAL)
        mask = KernelMask(found.pop(f"{layer}.parametrizations.weight.0.keep"))
        found[f"{layer}.weight"] = mask(found.pop(name))
    return found
