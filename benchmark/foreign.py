"""Networks that other code pruned, from their tensors alone: widths from shapes, and channels that
are there but zero."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmark import fits
from benchmark.choices import Choice
from benchmark.cifar_resnet import Shortcut
from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.preflight import traced
from benchmark.tracing import NORMS, WEIGHTED, is_depthwise
from benchmark.weights import HEADS, load_weights
from methods.api import Plan, Unsupported

PROFILERS = ("total_ops", "total_params")  # thop leaves these buffers in checkpoints
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Zeros:
    """Filters that are exactly zero, and units whose channels put out exactly nothing."""

    filters: int = 0
    of: int = 0
    silent: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # group -> units

    @property
    def units(self) -> int:
        return sum(map(len, self.silent.values()))


@dataclass(frozen=True)
class Foreign:
    """A network with its weights, in eval mode. `widths`: units of groups that lost some;
    `dense_widths`: what they had."""

    model: nn.Module
    widths: Mapping[str, int]
    dense_widths: Mapping[str, int]


def plain(tensors: Tensors) -> Tensors:
    """Without what profilers leave behind; masks of torch.nn.utils.prune are multiplied in."""
    found = {k: v for k, v in tensors.items() if k.rpartition(".")[2] not in PROFILERS}
    for name in [k.removesuffix("_orig") for k in found if k.endswith("_orig")]:
        if f"{name}_mask" in found:
            found[name] = found.pop(f"{name}_orig") * found.pop(f"{name}_mask")
    return found


def rebuild(
    model: nn.Module, tensors: Tensors, example: Tensor, arch: str, place: str,
    kept: Choice | None = None,
) -> Foreign:  # fmt: skip
    """The network of these tensors: `model` itself, or `model` with as many channels removed as
    they lack. `kept`: which channels stay, where shapes cannot tell.

    Raises:
        BadInput: they fit no network that pruning this one can give.
    """
    own = model.state_dict()
    other = {k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape}
    if {k.partition(".")[0] for k in other} <= set(HEADS):  # as it is, or for other classes
        load_weights(model, tensors, place)
        return Foreign(model.eval(), {}, {})
    net = traced(model, example, "all", arch)
    widths = widths_of(net, tensors, arch, place)
    keep = {g: tuple(range(w)) for g, w in widths.items()}
    if kept is not None:
        keep |= _keep_of(net, kept, widths, arch)
    elif moved := _through_shortcuts(net, widths):
        raise BadInput(
            f"checkpoint {place}: {moved} channels pass a shortcut that pads with zeros, so their "
            "numbers matter and shapes do not tell them: give the kept ones by --kept FILE"
        )
    small = net.remove(Plan(keep))
    load_weights(small, tensors, f"{place} (pruned: {len(widths)} groups of channels are narrower)")
    return Foreign(small.eval(), widths, {g: net.map.widths[g] for g in widths})


def widths_of(net: Network, tensors: Tensors, arch: str, place: str) -> dict[str, int]:
    """Units of every group that is narrower than in `net`, from the shapes of its layers.

    Raises:
        BadInput: a layer is wider, or layers that lose channels together have not.
    """
    found: dict[str, tuple[str, int]] = {}
    for layer, units in net.map.writes.items():
        weight = tensors.get(f"{layer}.weight")
        if not isinstance(net.module(layer), WEIGHTED) or weight is None or not weight.dim():
            continue
        touched = [g for g in net.map.widths if bool(_of(net, g, units).any())]
        if len(touched) != 1:  # nothing that may go, or several groups side by side
            continue
        (group,) = touched
        full = net.map.widths[group]
        each = int(_of(net, group, units).sum()) // full  # channels of a unit
        kept, rest = divmod(len(weight) - int((units < 0).sum()), each)
        if rest or not 1 <= kept <= full:
            raise BadInput(
                f"checkpoint {place}: {layer} has {len(weight)} output channels; pruned from "
                f"{arch} it has 1 to {len(units)}" + (f", in steps of {each}" if each > 1 else "")
            )
        first, width = found.setdefault(group, (layer, kept))
        if width != kept:
            raise BadInput(
                f"checkpoint {place}: {first} and {layer} lose channels together in {arch}, and "
                f"have {width} and {kept} left"
            )
    return {g: w for g, (_, w) in found.items() if w < net.map.widths[g]}


def _of(net: Network, group: str, units: Tensor) -> Tensor:
    first = net.map.first[group]
    return (units >= first) & (units < first + net.map.widths[group])


def _through_shortcuts(net: Network, widths: Mapping[str, int]) -> str:
    """A group whose channels are matched by number; empty: none."""
    for name, units in net.map.writes.items():
        if isinstance(net.module(name), Shortcut):
            for side in (units, net.map.reads[name]):
                for group in widths:
                    if bool(_of(net, group, side).any()):
                        return group
    return ""


def _keep_of(
    net: Network, kept: Choice, widths: Mapping[str, int], arch: str
) -> dict[str, tuple[int, ...]]:
    if kept.kind != "kept":
        raise BadInput(f"--kept: the file holds {kept.kind}, not kept channels")
    floor = dict.fromkeys(net.map.widths, 1)
    found = fits.widths_of(net, kept.kind, kept.values, floor, arch)
    keep: dict[str, tuple[int, ...]] = {}
    for group in net.groups:
        names = [n for n in (group.name, *group.layers) if n in kept.values]
        has = widths.get(group.name, group.width)
        if names and found[group.name] != has:
            raise BadInput(
                f"--kept: {names[0]} keeps {found[group.name]}, the checkpoint has {has}"
            )
        if names:
            keep[group.name] = tuple(kept.values[names[0]].tolist())
    return keep


# ---- zeros ---------------------------------------------------------------------------------------


def zeros_of(model: nn.Module, example: Tensor, arch: str) -> Zeros:
    """What of the network is exactly zero. Channels are followed only if some filter or scale is,
    and where they cannot be followed none counts as silent."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    filters = sum(int(_is_zero(m).sum()) for m in convs)
    of = sum(len(m.weight) for m in convs)
    scales = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not filters and not any(m.affine and bool((m.weight == 0).any()) for m in scales):
        return Zeros(filters, of)
    with contextlib.suppress(BadInput):
        return Zeros(filters, of, _silent(traced(model, example, "all", arch)))
    return Zeros(filters, of)


def without(model: nn.Module, example: Tensor, silent: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The network without its silent units."""
    net = Network(model, example, "all")
    return net.remove(
        Plan({g: tuple(sorted(set(range(net.map.widths[g])) - {*u})) for g, u in silent.items()})
    ).eval()


def _is_zero(module: nn.Module) -> Tensor:
    """(C,) output channels whose weights are all exactly zero, the bias too."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    rows = (weight == 0).flatten(1).all(1)
    return rows if bias is None else rows & (bias == 0)


@torch.no_grad()
def _silent(net: Network) -> dict[str, tuple[int, ...]]:
    """Units that put out exactly nothing, whatever comes in: their filters are zero, or the scale
    and shift of the norm behind, and no norm that sees them makes something of nothing. A group
    keeps one."""
    quiet = torch.ones(net.map.total + 1, dtype=torch.bool)  # the last one: fixed channels
    for name, units in net.map.writes.items():
        module = net.module(name)
        if isinstance(module, Shortcut) or (
            isinstance(module, NORMS) and not isinstance(module, nn.modules.batchnorm._BatchNorm)
        ):
            quiet[units] = False
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            _all(quiet, units, _stays_nothing(module))
        elif is_depthwise(module):
            _all(quiet, units, module.bias == 0 if module.bias is not None else None)
        elif isinstance(module, WEIGHTED):
            _all(quiet, units, _is_zero(module) | _is_muted(net, name, len(units)))
    found = {}
    for group in net.groups:
        first = net.map.first[group.name]
        own = quiet[first : first + group.width].nonzero()[:, 0].tolist()
        if own:
            found[group.name] = tuple(own[1:] if len(own) == group.width else own)
    return {group: units for group, units in found.items() if units}


def _all(quiet: Tensor, units: Tensor, holds: object) -> None:
    """Units stay quiet if it holds for all their channels; None: it does."""
    if isinstance(holds, Tensor):
        quiet[units[~holds.cpu()]] = False


def _stays_nothing(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """(C,) channels for which nothing in is nothing out, in eval mode."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return torch.zeros(norm.num_features, dtype=torch.bool)
    shift = -mean / (var + norm.eps).sqrt()
    return (shift * norm.weight + norm.bias if norm.affine else shift) == 0


def _is_muted(net: Network, layer: str, width: int) -> Tensor:
    """(C,) channels whose own norm multiplies by zero and adds nothing."""
    try:
        norm = net.norm(layer)
    except Unsupported:
        return torch.zeros(width, dtype=torch.bool)
    return (norm.weight == 0) & (norm.bias == 0) if norm.affine else torch.zeros(width) > 0
