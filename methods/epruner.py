"""EPruner: affinity propagation says which filters stand for the others, and how many."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from methods.api import Allocation, Budget, Method, Network, Plan, Trainer
from methods.exemplars import exemplars, of_width, resized, similarity, solved
from methods.kit import per_layer, renew_head, renew_norms


@dataclass(frozen=True)
class EPruner(Method):
    """Exemplars stay: filters that affinity propagation lets stand for others. Its preference is
    beta times the median similarity, one beta is solved for the target (Lin et al., TNNLS 2021).

    The reduction jumps with beta. Layer after layer goes from the last beta above the target to the
    first below it; the layer in which the target is met alone keeps a number of filters of its own.
    """

    betas: str = ""  # one per layer, as `27*0.76`; 0: all stay. Empty: one beta is solved for
    renew: bool = False  # official: batch norms, biases and linear readers start anew

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")

    @property
    def targets_macs(self) -> bool:
        return not self.betas

    @property
    def rounds(self) -> bool:
        return False

    def prune(self, net: Network, budget: Budget, trainer: Trainer) -> Plan:
        given = per_layer(self.betas, net.layers, "epruner.betas") if self.betas else {}
        groups = [g for g in net.groups if not given or given[g.layers[0]]]
        similar = {g.name: similarity(net, g) for g in groups}
        floor = {n: max(1, math.floor(budget.min_keep * len(s) + 1e-9)) for n, s in similar.items()}
        if given:
            kept = {g.name: exemplars(similar[g.name], given[g.layers[0]]) for g in groups}
            widths = {n: max(len(k), floor[n]) for n, k in kept.items()}
        elif budget.allocation == "global":
            net.allocate(replace(budget, allocation="uniform"))  # says so where it is out of reach
            goal = (1 - budget.macs_cut) * net.macs()
            kept, widths, between = solved(similar, floor, net.macs, goal)
            trainer.note("beta", between)
        else:
            widths = net.allocate(budget)
            kept = {n: of_width(s, widths[n]) for n, s in similar.items()}
        trainer.note("exemplars", {n: len(k) for n, k in kept.items()})
        for group in groups if self.renew else ():
            renew_norms(net, group)
            renew_head(net, group, trainer.generator())
        return Plan({n: resized(s, kept[n], widths[n]) for n, s in similar.items()})
