"""Channels that somebody else's code chose, read from a file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from methods.api import Budget, ChannelGroup, Method, Network, Plan, Scores, Trainer, Unsupported


@dataclass(frozen=True)
class FromFile(Method):
    """Scores obey the budget; widths and kept channels are taken as they are. Of given widths the
    filters with the largest L1 norms stay, as `l1norm` keeps them.

    `--set from_file.path=FILE` reads the file when the grid is planned: what it says is kept beside
    the results under `content`, its kind and hash, so that neither its place nor its name matters.
    """

    imported: ClassVar[bool] = True

    content: str = ""  # scores-HASH, widths-HASH or kept-HASH
    name: str = ""  # of the row; what the file calls itself, unless said
    one_scale: bool = False  # scores of different layers share one scale

    @property
    def comparable(self) -> bool:  # type: ignore[override]
        return self.one_scale

    @property
    def kind(self) -> str:
        """`scores`, `widths` or `kept`; empty: no file was given."""
        return self.content.rpartition("-")[0]

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"{self.name} ({self.kind} from a file)",) if self.name else ()

    @property
    def scores_first(self) -> bool:
        return self.kind == "scores"

    @property
    def rounds(self) -> bool:
        return self.scores_first

    def score(self, net: Network, trainer: Trainer) -> Scores:
        found = self._read(trainer)
        return {layer: found[layer] for layer in net.layers}

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        if self.scores_first:
            return super().prune(net, budget, trainer)
        found = self._read(trainer)
        own = {g: v for g in net.groups if (v := _of(g, found)) is not None}
        if self.kind == "kept":
            return Plan({g.name: tuple(kept.tolist()) for g, kept in own.items()})
        rates = {n: 0.0 for g in net.groups for n in g.layers}
        rates |= {n: 1 - int(w) / g.width for g, w in own.items() for n in g.layers}
        norms = {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}
        return net.rank(norms, replace(budget, allocation="listed", rates=rates, round_to=1))

    def _read(self, trainer: Trainer) -> Mapping[str, Tensor]:
        if not self.content:
            raise Unsupported("it needs a file: --set from_file.path=FILE")
        if self.name:
            trainer.note("label", *self.labels)
        return trainer.imported[self.content]


def _of(group: ChannelGroup, found: Mapping[str, Tensor]) -> Tensor | None:
    """What the file says of the group, under its own name or that of a layer that writes it."""
    return next((found[n] for n in (group.name, *group.layers) if n in found), None)
