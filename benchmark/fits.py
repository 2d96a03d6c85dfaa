"""Whether what other code says of channels fits a traced network, and what it means there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.preflight import reasons, report
from benchmark.record import one_line
from benchmark.tracing import WEIGHTED
from methods.api import ChannelGroup


def check_scores(net: Network, scores: Mapping[str, Tensor], arch: str) -> None:
    """Scores (C,) for every layer that may lose channels; those of others rank nothing.

    Raises:
        BadInput: a layer is unknown or has none, or the number of channels differs.
    """
    known = list(dict.fromkeys([*net.layers, *net.convs]))
    for name in scores:
        if name not in known:
            raise BadInput(_unknown("layer", name, known, arch))
    missing = [n for n in net.layers if n not in scores]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(
            f"the file has no scores for {missing[0]}{more}: each of the {len(net.layers)} layers "
            f"of {arch} that may lose channels (scope {net.scope}) needs them"
        )
    for name in net.layers:
        width = len(net.weight(name))
        if len(scores[name]) != width:
            raise BadInput(f"scores of {name}: {len(scores[name])} numbers for {width} channels")


def widths_of(
    net: Network, kind: str, values: Mapping[str, Tensor], floor: Mapping[str, int], arch: str
) -> dict[str, int]:
    """Kept units per group of the network in scope, from widths or kept units by group or by a
    layer that writes it.

    Raises:
        BadInput: a name is unknown, may not lose channels or stands for a group that was named
            before, a number is beyond the group, or the group would fall below its floor.
    """
    owners = {name: _owner(net, name, arch) for name in values}
    found: dict[str, int] = {}
    for name, group in owners.items():
        value = values[name]
        if group is None:  # may not lose channels
            width = len(net.map.writes[name])
            if (int(value) if kind == "widths" else len(value)) != width:
                raise BadInput(_stays(net, name, arch))
            continue
        if group.name in found:
            other = next(n for n in owners if owners[n] == group)
            raise BadInput(f"{name} and {other} lose channels together: name one of them")
        largest = int(value) if kind == "widths" else int(value[-1]) + 1
        if largest > group.width:
            what = f"a width of {largest}" if kind == "widths" else f"channel {largest - 1}"
            raise BadInput(f"{name}: {what} is beyond its {group.width} channels")
        kept = int(value) if kind == "widths" else len(value)
        if kept < floor[group.name]:
            raise BadInput(
                f"{name} keeps {kept} of {group.width} channels, the minimum width that holds for "
                f"all is {floor[group.name]}: lower --min-width"
            )
        found[group.name] = kept
    return found


def _owner(net: Network, name: str, arch: str) -> ChannelGroup | None:
    """The group in scope; None: a layer that is there and may not lose channels."""
    for group in net.groups:
        if name == group.name:
            return group
        if name in group.layers:
            units = net.map.writes[name] - net.map.first[group.name]
            if not torch.equal(units, torch.arange(group.width)):
                raise BadInput(f"{name} has other channels than its group: name {group.name}")
            return group
    layers = (n for n in net.map.writes if isinstance(net.module(n), WEIGHTED))
    if name not in {*layers, *net.map.widths}:
        groups = [n for g in net.groups for n in (g.name, *g.layers)]
        raise BadInput(_unknown("layer or group", name, list(dict.fromkeys(groups)), arch))
    return None


def _stays(net: Network, name: str, arch: str) -> str:
    """Why a layer that is there may not lose channels."""
    outside = [c for c in net.candidates if name in (c.group.name, *c.group.layers)]
    why = next((c.why for c in outside if c.kind == "fixed"), "")
    if not why and outside:
        return f"{name} of {arch} loses channels with --scope all only"
    why = why or next((w for w, names in _left_out(net, arch) if name in names), "not prunable")
    return f"{name} of {arch} keeps all its channels: {why}"


def _left_out(net: Network, arch: str) -> Iterable[tuple[str, list[str]]]:
    return reasons(report(net, arch, 0.1)).items()


def _unknown(what: str, name: str, known: list[str], arch: str) -> str:
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    named = ", ".join(known[:4]) + (f", … {len(known) - 4} more" if len(known) > 4 else "")
    return f"{arch} has no {what} '{one_line(name)}'{hint} (it has {named})"
