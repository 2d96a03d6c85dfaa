"""Multiply-accumulates by the rules under which papers count them.

`physical` is what the smaller network does. `outputs only` is the rule of a counter that many
papers share: a layer's cost falls with its own removed outputs, and its inputs are counted as in
the dense network, although the layers before it write fewer. So it reports less than was removed.
Both count convolutions and linear layers, one per multiply-accumulate, without biases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.coupling import Share
from benchmark.network import Network

PHYSICAL, OUTPUTS_ONLY = "physical", "outputs only"
RULES = (PHYSICAL, OUTPUTS_ONLY)
SLACK = 1e-9  # 0.29 * 100 is 28.999999999999996 in floating point, and means 29


@dataclass(frozen=True)
class Counted:
    """Multiply-accumulates of one image: of the dense network, and after pruning by each rule."""

    dense: int
    physical: int
    outputs_only: int

    def macs(self, rule: str) -> int:
        return {PHYSICAL: self.physical, OUTPUTS_ONLY: self.outputs_only}[rule]

    def reduction(self, rule: str) -> float:
        """Percent of the dense network."""
        return 100 * (1 - self.macs(rule) / self.dense)

    def reductions(self) -> dict[str, float]:
        return {rule: self.reduction(rule) for rule in RULES}


def by_widths(net: Network, widths: Mapping[str, int]) -> Counted:
    """What a plan leaves, from kept units per group; groups that are not named keep all."""
    kept = {**net.map.widths, **widths}
    outputs = {t.layer: _channels(t.outputs, kept.__getitem__) for t in net.terms}
    return _count(net, outputs, kept.__getitem__)


def by_layers(net: Network, kept: Mapping[str, int]) -> Counted:
    """What a paper's list leaves, from kept outputs per layer; layers that are not named keep all.

    Such a list prunes the writers of one residual stream independently of each other. There a
    stream has to stay as wide as it was, and a layer that reads it keeps its inputs: only a layer
    that reads the channels of a single writer loses some.

    Raises:
        ValueError: the network's scope is not `inner`, so single writers cannot be told apart.
    """
    if net.scope != "inner":
        raise ValueError(f"lists per layer need scope 'inner', not '{net.scope}'")
    writer = {g.name: g.layers[0] for g in net.groups}
    dense = net.map.widths

    def inputs(group: str) -> int:
        return kept.get(writer[group], dense[group]) if group in writer else dense[group]

    outputs = {
        t.layer: kept.get(t.layer, _channels(t.outputs, dense.__getitem__)) for t in net.terms
    }
    return _count(net, outputs, inputs)


def kept_outputs(net: Network, rates: Sequence[float]) -> dict[str, int]:
    """Kept outputs per convolution from removed fractions in forward order: C - int(rate C).

    Raises:
        ValueError: not one rate per convolution.
    """
    if len(rates) != len(net.convs):
        raise ValueError(f"{len(rates)} rates for {len(net.convs)} convolutions")
    full = {layer: len(net.map.writes[layer]) for layer in net.convs}
    return {
        layer: full[layer] - int(rate * full[layer] + SLACK)
        for layer, rate in zip(net.convs, rates, strict=True)
    }


def _channels(share: Share, kept: Callable[[str], int]) -> int:
    return sum(n if group is None else n * kept(group) for group, n in share)


def _count(net: Network, outputs: Mapping[str, int], inputs: Callable[[str], int]) -> Counted:
    """`outputs`: kept outputs per layer; `inputs`: kept units of a group as its readers see it."""
    dense = physical = outputs_only = 0
    for term in net.terms:
        full_out = _channels(term.outputs, net.map.widths.__getitem__)
        full_in = _channels(term.inputs, net.map.widths.__getitem__)
        kept_in = _channels(term.inputs, inputs)
        dense += term.scale * full_out * full_in // term.groups
        physical += term.scale * outputs[term.layer] * kept_in // term.groups
        outputs_only += term.scale * outputs[term.layer] * full_in // term.groups
    return Counted(dense, physical, outputs_only)
