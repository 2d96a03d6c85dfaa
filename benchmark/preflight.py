"""`python -m benchmark.preflight --arch NAME`: what of a network can be pruned, before it runs.

Every run prints the short form of this report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmark import archs, flops, select
from benchmark.cli import DONE, console, run_app
from benchmark.coupling import Share
from benchmark.errors import BadInput
from benchmark.groups import Candidate
from benchmark.network import Network, Scope
from benchmark.progress import counted
from benchmark.weights import load_weights, read_checkpoint
from methods.api import Budget, Unsupported

IMAGE_SIZE, CLASSES = 224, 1000  # where neither the architecture nor the user says


@dataclass(frozen=True)
class Row:
    """One set of channels; shares are of the dense network's MACs."""

    candidate: Candidate
    in_scope: bool
    channels: int  # of its first layer that carry its units
    touched: float  # of layers that write, filter or read it
    removable: float  # gone if it alone is cut to its floor


@dataclass(frozen=True)
class Report:
    """What may go, what stays and why."""

    name: str
    scope: Scope
    macs: int
    rows: tuple[Row, ...]
    left_out: Mapping[str, str]  # layer -> why its outputs stay
    largest: float  # reduction with every group in scope at its floor
    layers: Mapping[str, float]  # every layer -> its share of the MACs


def traced(model: nn.Module, example: torch.Tensor, scope: Scope, name: str) -> Network:
    """The network, ready to be pruned.

    Raises:
        BadInput: it cannot be followed; the text names the module.
    """
    try:
        return Network(model, example, scope)
    except Unsupported as reason:
        raise BadInput(f"architecture {name} cannot be pruned: {reason}") from reason


def report(net: Network, name: str, min_width: float) -> Report:
    """The report on a traced network."""
    dense = net.macs()
    limits = net.limits(Budget(0.5, min_width))
    own = {g.name for g in net.groups}
    floors = select.Widths.of(net.map.widths, min_width).floor
    shares = _shares(net)

    def row(candidate: Candidate) -> Row:
        group = candidate.group.name
        units = net.map.writes[candidate.group.layers[0]]
        first = net.map.first[group]
        inside = (units >= first) & (units < first + candidate.group.width)
        return Row(
            candidate,
            group in own,
            int(inside.sum()),
            sum(shares[n] for n in _layers_of(net, group)),
            1 - net.macs({group: floors[group]}) / dense,
        )

    rows = tuple(row(c) for c in net.candidates)
    largest = select.largest_cut(limits, net.macs) if own else 0.0
    return Report(name, net.scope, dense, rows, net.map.left_out, largest, shares)


def _shares(net: Network) -> dict[str, float]:
    """Every layer's share of the dense MACs."""
    width: dict[str | None, int] = {None: 1} | dict(net.map.widths)

    def size(side: Share) -> int:
        return sum(channels * width[group] for group, channels in side)

    macs = {t.layer: t.scale * size(t.outputs) * size(t.inputs) // t.groups for t in net.terms}
    return {layer: own / sum(macs.values()) for layer, own in macs.items()}


def _layers_of(net: Network, group: str) -> list[str]:
    """Layers whose cost depends on the group."""
    return [t.layer for t in net.terms if any(g == group for g, _ in (*t.outputs, *t.inputs))]


def summary(found: Report) -> list[str]:
    """A few lines for the start of every run."""
    inside = [r for r in found.rows if r.in_scope]
    units = sum(r.candidate.group.width for r in inside)
    lines = [
        f"{found.name}: {counted(len(inside), 'group')} of channels can be pruned "
        f"({units:,} units, scope {found.scope}), at most {100 * found.largest:.1f} % of "
        f"{found.macs / 1e6:,.1f} M MACs"
    ]
    outside = [r for r in found.rows if r.candidate.kind == "coupled" and not r.in_scope]
    if outside:
        written = [n for r in outside for n in r.candidate.group.layers]
        lines.append(
            f"left out: {counted(len(outside), 'group')} in residual streams, written by "
            f"{_held(found, written)} (--scope all prunes them)"
        )
    lines += [f"stays: {_held(found, layers)}: {why}" for why, layers in reasons(found).items()]
    return lines


def _held(found: Report, layers: list[str]) -> str:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"{layers[0]}{more} ({100 * sum(found.layers[n] for n in layers):.1f} % of the FLOPs)"


def reasons(found: Report) -> dict[str, list[str]]:
    """Why outputs stay -> the layers that write them."""
    grouped: dict[str, list[str]] = {}
    for r in (r for r in found.rows if r.candidate.kind == "fixed"):
        grouped.setdefault(r.candidate.why, []).extend(r.candidate.group.layers)
    for layer, why in found.left_out.items():
        grouped.setdefault(_without_name(why), []).append(layer)
    return grouped


def _without_name(why: str) -> str:
    """Like reasons fall together whichever module they are about."""
    kind, _, rest = why.partition(" ")
    return f"a {kind} averages over the channels" if rest.endswith("over the channels") else why


def table(found: Report) -> Table:
    """One line per group that could be pruned within some scope."""
    shown = Table(
        "group, by its first layer", "layers", "readers", "units", "share", "removable", "state",
        caption="Share of the FLOPs in layers that write, filter or read the group: shares overlap."
        "\nRemovable: the share that goes if this group alone is cut to its minimum width.",
    )  # fmt: skip
    for r in (r for r in found.rows if r.candidate.kind != "fixed"):
        group = r.candidate.group
        times = r.channels // group.width
        shown.add_row(
            group.layers[0],
            str(len(group.layers)),
            str(len(group.readers)),
            str(group.width) + (f" of {times} channels" if times > 1 else ""),
            f"{100 * r.touched:.1f} %",
            f"{100 * r.removable:.1f} %",
            f"prunable, {r.candidate.kind}" if r.in_scope else "left out, coupled",
        )
    return shown


def show(found: Report, screen: Console) -> None:
    """The whole report."""
    screen.print(table(found))
    for line in summary(found):
        screen.print(line, highlight=False, soft_wrap=True)


def main(
    arch: Annotated[str, typer.Option(help="A name, timm/NAME, torchvision/NAME, FILE.py:FUNC.")],
    scope: Annotated[str, typer.Option(help="inner, or all (residual streams too).")] = "inner",
    image_size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    classes: Annotated[int | None, typer.Option(help="Outputs of the network.")] = None,
    min_width: Annotated[float, typer.Option(help="Share of a group that stays.")] = 0.1,
    checkpoint: Annotated[Path | None, typer.Option(help="Do these weights fit?")] = None,
) -> int:
    """Which channels of a network can be pruned, which are left out and why, and their share of
    the FLOPs.

    Example: python -m benchmark.preflight --arch torchvision/resnet18
    """
    if scope not in ("inner", "all"):
        raise BadInput(f"--scope {scope}: give inner or all")
    if not 0 < min_width < 1:
        raise BadInput(f"--min-width {min_width:g}: give a share between 0 and 1, as 0.1")
    found = archs.find(arch)
    size = image_size or found.image_size or IMAGE_SIZE
    model = found.build(classes or (10 if found.image_size == 32 else CLASSES))
    if checkpoint is not None:
        load_weights(model, read_checkpoint(checkpoint), str(checkpoint))
    example = torch.zeros(1, 3, size, size)
    net = traced(model, example, scope, found.name)  # type: ignore[arg-type]
    screen = console()
    show(report(net, found.name, min_width), screen)
    price = flops.cost(model, example)
    screen.print(
        f"cost for one image of {size} x {size}: {price.macs / 1e6:,.3f} M MACs (conv + linear), "
        f"{price.params / 1e6:,.3f} M parameters; fvcore and torch agree",
        highlight=False,
        soft_wrap=True,
    )
    return DONE


if __name__ == "__main__":
    run_app(main)
