"""Sets of channels that go together: which may go within a scope, and why others stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx, nn

from benchmark.cifar_resnet import Shortcut
from benchmark.coupling import ChannelMap
from benchmark.tracing import WEIGHTED, is_depthwise, pooled_nodes, shape_of
from methods.api import ChannelGroup

Kind = Literal["inner", "coupled", "fixed"]
SQUEEZE = "squeeze-and-excitation: not a feature map"
HIDDEN = "hidden layer of the classifier: not a feature map"


@dataclass(frozen=True)
class Candidate:
    """One set of channels. `inner`: one layer writes it, outside the residual stream; `coupled`:
    several do, or a shortcut does too; `fixed`: it stays, `why` says the reason."""

    group: ChannelGroup
    kind: Kind
    why: str = ""


def candidates(traced: fx.GraphModule, cmap: ChannelMap) -> list[Candidate]:
    """All sets of removable units, in the order in which they are first written.

    A group's layers are those that write a feature map: convolutions, and linear layers that work
    on every position of a map. What squeeze-and-excitation writes goes along with them.
    """
    calls = {str(n.target): n for n in traced.graph.nodes if n.op == "call_module"}
    modules = {name: traced.get_submodule(name) for name in calls}
    layers = [n for n, m in modules.items() if isinstance(m, WEIGHTED) and not is_depthwise(m)]
    shortcuts = [n for n in cmap.writes if isinstance(modules.get(n), Shortcut)]
    pooled, found = pooled_nodes(traced), []
    for name, first in cmap.first.items():
        end = first + cmap.widths[name]
        writers = [n for n in layers if _touches(cmap.writes[n], first, end)]
        readers = tuple(n for n in layers if _touches(cmap.reads[n], first, end))
        if not writers:
            continue
        maps = [n for n in writers if _writes_a_map(calls[n], pooled)]
        joined = any(_touches(cmap.writes[n], first, end) for n in shortcuts)
        coupled = len(maps) > 1 or joined
        group = ChannelGroup(name, tuple(maps or writers), readers, cmap.widths[name], coupled)
        if not maps:
            all_flat = all(isinstance(modules[n], nn.Linear) for n in writers)
            found.append(Candidate(group, "fixed", HIDDEN if all_flat else SQUEEZE))
        else:
            found.append(Candidate(group, "coupled" if coupled else "inner"))
    order = {name: place for place, name in enumerate(modules)}
    return sorted(found, key=lambda c: order[c.group.layers[0]])


def _touches(units: Tensor, first: int, end: int) -> bool:
    return bool(((units >= first) & (units < end)).any())


def _writes_a_map(call: fx.Node, pooled: set[fx.Node]) -> bool:
    """A map has positions, if only one in a small image; what follows a global average has none."""
    return len(shape_of(call)) == 4 and call not in pooled
