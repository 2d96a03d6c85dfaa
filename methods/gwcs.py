"""GWCS (Chen et al., Front. Comput. Neurosci. 2021), a reconstruction: METHODS 14."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.api import Allocation, Budget, ChannelGroup, Method, Plan, Unsupported
from methods.genetic import Traits, search
from methods.wavelets import describe


@dataclass(frozen=True)
class GWCS(Method):
    """Stage by stage, shallow to deep, a genetic search for channels whose maps have large wavelet
    energies, differ from each other, and tell classes apart."""

    num_images: int = 500
    population: int = 30
    generations: int = 30  # per stage
    representative: float = 0.25  # weights of the three parts of the fitness
    diverse: float = 0.25
    discriminative: float = 0.25

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform", "listed")
    stochastic: ClassVar[bool] = True

    @torch.no_grad()
    def prune(self, net: Any, budget: Budget, trainer: Any) -> Plan:
        widths, history = net.allocate(budget), {}
        keep = {g.name: tuple(range(g.width)) for g in net.groups}
        net.eval()
        batches = list(trainer.batches(images=self.num_images))
        if not batches:
            raise Unsupported("no images left in the forward-only share of the budget")
        for number, groups in enumerate(stages(net, batches[0][0][:1])):
            share = {n: widths[g.name] / g.width for g in groups for n in g.layers}
            described = describe(net, batches, tuple(share), trainer.num_classes)
            layers = [
                self.traits(*described[n], max(1, round(part * len(described[n][1]))))
                for n, part in share.items()
            ]
            draw = trainer.generator(number)
            best, history[groups[0].name] = search(layers, self.population, self.generations, draw)
            votes = dict(zip(share, best, strict=True))  # of all writers, where several are coupled
            keep |= net.rank(votes, budget, comparable=True).keep
            for group in groups:
                net.mask(group.name, keep[group.name])
        trainer.note("best_fitness", history)
        return Plan(keep)

    def traits(self, energy: Tensor, fisher: Tensor, keep: int) -> Traits:
        """From energies (C, 4) and Fisher ratios (C,); each part is divided by its mean over the
        layer, so that a random choice has the sum of the weights as fitness on average. A channel
        that is always zero differs from none."""
        size = energy.norm(dim=1)
        alive = (size > 0).to(energy)
        unit = energy / torch.where(size > 0, size, 1.0)[:, None]
        apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
        apart = apart * alive * alive[:, None]
        pairs = max(1, len(size) * (len(size) - 1))
        alone = self.representative * _scaled(size, len(size))
        alone = alone + self.discriminative * _scaled(fisher, len(size))
        return Traits(alone, self.diverse * _scaled(apart, pairs), keep)


def _scaled(values: Tensor, count: int) -> Tensor:
    mean = values.sum() / count
    return values / torch.where(mean > 0, mean, 1.0)


def stages(net: Any, x: Tensor) -> list[list[ChannelGroup]]:
    """Groups whose first writers have maps of one size for the image x (1, 3, H, W), in order of
    first appearance."""
    writers = tuple(g.layers[0] for g in net.groups)
    found: dict[torch.Size, list[ChannelGroup]] = {}
    with net.tapped("conv", writers) as maps:
        net(x)
        for group in net.groups:
            found.setdefault(maps[group.layers[0]].shape[2:], []).append(group)
    return list(found.values())
