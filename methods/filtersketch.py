"""FilterSketch: fewer new filters that keep the second-order statistics of the old ones.

METHODS 9. Shapes: n old and l new units of a group, d weights of a unit in one layer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from methods.api import Allocation, Budget, ChannelGroup, Method, Plan, Unsupported
from methods.kit import filters, renew_norms


@dataclass(frozen=True)
class FilterSketch(Method):
    """Filters give way to their Frequent Directions sketch, and so do the columns of the layers
    that read them, each by itself (Lin et al., TNNLS 2021).

    New filters match neither old ones of the same number nor the new columns: an initialisation, as
    in the paper. Where units have no more than l weights there is no sketch; the l strongest stay.
    """

    weight_norm: Literal["none", "l2"] = "none"  # l2: a sketch is divided by its own norm
    transpose: bool = (
        True  # False: columns are read from memory as if they were rows, as officially
    )

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform", "listed")
    informed: ClassVar[bool] = False  # no channel is chosen
    refits: ClassVar[bool] = True

    @torch.no_grad()
    def prune(self, net: Any, budget: Budget, trainer: Any) -> Plan:
        widths = net.allocate(budget)
        groups = [g for g in net.groups if widths[g.name] < g.width]
        keep, as_they_are = {}, []
        for group in groups:
            _check(net, group)
        for group in groups:  # before the columns: a reader may have lost filters itself
            layer, width = group.layers[0], widths[group.name]
            old, rows = filters(net, group, layer), net.rows(group.name)[layer][:width]
            keep[group.name] = tuple(range(width))
            if width < old.shape[1]:
                new = self._sketched(old, width).reshape(*rows.shape, *net.weight(layer).shape[1:])
                net.weight(layer)[rows] = new.to(old)
                renew_norms(net, group)
            else:
                keep[group.name] = strongest(old, width)
                as_they_are.append(layer)
        for group in (g for g in groups if g.layers[0] not in as_they_are):
            for reader in group.readers:
                if not self._new_columns(net, group, reader, keep):
                    as_they_are.append(reader)
        trainer.note("not_sketched", as_they_are)
        return Plan(keep)

    def _new_columns(
        self, net: Any, group: ChannelGroup, reader: str, keep: dict[str, tuple[int, ...]]
    ) -> bool:
        """Writes a sketch of the reader's columns into the first units' ones, if there is one."""
        weight, columns = net.weight(reader), net.columns(group.name)[reader]  # (n, of a unit)
        width, outputs = len(keep[group.name]), torch.arange(len(weight))
        for own in (g for g in net.groups if reader in g.layers and g.name in keep):
            outputs = net.rows(own.name)[reader][list(keep[own.name])].flatten().sort().values
        old = weight[outputs][:, columns]  # (outputs, n, of a unit, ...)
        units = old.transpose(0, 1).flatten(1)
        if width < units.shape[1]:
            rows = units if self.transpose else old.reshape(units.shape)
            new = self._sketched(rows, width)
            if self.transpose:
                new = new.reshape(width, len(outputs), -1).transpose(0, 1)
        else:
            new = old[:, list(strongest(units, width))]
        place = (outputs[:, None], columns[:width].flatten())
        weight[place] = new.reshape(len(outputs), -1, *weight.shape[2:]).to(weight)
        return width < units.shape[1]

    def _sketched(self, rows: Tensor, size: int) -> Tensor:
        new = sketch(rows.double(), size)
        return new / new.norm().clamp_min(1e-300) if self.weight_norm == "l2" else new


def _check(net: Any, group: ChannelGroup) -> None:
    if len(group.layers) > 1:
        raise Unsupported(
            "filtersketch makes the filters of one layer at a time: use --scope inner"
        )
    bound = sorted(set(net.rows(group.name)) - {group.layers[0], *net.norms()})
    if bound:
        raise Unsupported(
            f"{bound[0]} is bound to single filters of {group.name}, which are no more"
        )


def strongest(rows: Tensor, count: int) -> tuple[int, ...]:
    """The rows with the largest L2 norm, sorted; ties keep the lower index."""
    order = torch.sort(rows.double().norm(dim=1), descending=True, stable=True).indices
    return tuple(sorted(order[:count].tolist()))


def sketch(rows: Tensor, size: int) -> Tensor:
    """Frequent Directions: A (n, d) -> B (size, d), size <= d, so that 0 <= A^T A - B^T B <=
    2 / size ||A||_F^2. The last rows are left out where they are fewer than half of the size, as in
    the official code. The entry of the largest magnitude of a singular vector is positive."""
    half, filled = size // 2, 0
    found = rows.new_zeros(size, rows.shape[1])
    for number, row in enumerate(rows):
        if filled == size:
            if len(rows) - number < half:
                break
            _, values, axes = torch.linalg.svd(found, full_matrices=False)
            sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
            shrunk = (values.square() - values[half].square()).clamp_min(0).sqrt()
            found, filled = shrunk[:, None] * sign * axes, half
        found[filled] = row
        filled += 1
    return found
