"""A genetic search for fixed numbers of channels of several layers at once.

Shapes: P individuals, C channels of a layer, of which n stay. An individual is one row of 0 and 1
per layer, with n ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TOURNAMENT, CROSSOVER, SWAPS, ELITE = 3, 0.8, 2.0, 2  # METHODS 14


@dataclass(frozen=True, eq=False)
class Traits:
    """What counts in one layer, in float64: `alone` (C,) of each channel, `apart` (C, C) of each
    pair, symmetric with zeros on the diagonal."""

    alone: Tensor
    apart: Tensor
    keep: int

    def fitness(self, herd: Tensor) -> Tensor:
        """(P, C) -> (P,): mean over kept channels plus mean over pairs of them."""
        pairs = max(1, self.keep * (self.keep - 1))
        return herd @ self.alone / self.keep + ((herd @ self.apart) * herd).sum(1) / pairs


def search(
    layers: list[Traits], population: int, generations: int, draw: torch.Generator
) -> tuple[list[Tensor], list[float]]:
    """The fittest individual, one (C,) of 0 and 1 per layer, and the best fitness (mean over
    layers) of the first and of every later generation."""
    size = max(population, ELITE + 1)
    swap = SWAPS / sum(len(t.alone) for t in layers)
    herd = [_fill(torch.zeros(size, len(t.alone)).double(), t.keep, draw) for t in layers]
    fitness = _fitness(layers, herd)
    history = [float(fitness.max())]
    for _ in range(generations):
        order = fitness.argsort(descending=True, stable=True)
        father, mother = (_winners(fitness, size - ELITE, draw) for _ in range(2))
        mixed = torch.rand(size - ELITE, 1, generator=draw) < CROSSOVER
        for i, (traits, old) in enumerate(zip(layers, herd, strict=True)):
            mates = torch.where(mixed, old[mother], old[father])
            young = cross(old[father], mates, traits.keep, draw)
            young = mutate(young, traits.keep, swap, draw)
            herd[i] = torch.cat([old[order[:ELITE]], young])
        fitness = _fitness(layers, herd)
        history.append(float(fitness.max()))
    best = int(fitness.argmax())
    return [h[best] for h in herd], history


def cross(a: Tensor, b: Tensor, keep: int, draw: torch.Generator) -> Tensor:
    """Children (P, C) of parents with `keep` ones each: what both have stays, and the rest comes at
    random from what one of them has."""
    return _fill(a + b, keep, draw)


def mutate(herd: Tensor, keep: int, rate: float, draw: torch.Generator) -> Tensor:
    """Each kept channel gives way with this probability to one that is not kept."""
    lost = torch.rand(herd.shape, generator=draw, dtype=torch.float64) < rate
    return _fill(herd * (2.0 - 3.0 * lost), keep, draw)


def _fill(wanted: Tensor, keep: int, draw: torch.Generator) -> Tensor:
    """(P, C) whole numbers -> 1 at the `keep` largest of each row, ties by lot."""
    lot = torch.rand(wanted.shape, generator=draw, dtype=torch.float64)
    best = (wanted + lot).topk(keep, dim=1).indices
    return torch.zeros_like(wanted).scatter(1, best, 1.0)


def _winners(fitness: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """(count,) individuals, each the fittest of TOURNAMENT drawn ones."""
    drawn = torch.randint(len(fitness), (count, TOURNAMENT), generator=draw)
    return drawn.gather(1, fitness[drawn].argmax(1, keepdim=True))[:, 0]


def _fitness(layers: list[Traits], herd: list[Tensor]) -> Tensor:
    return torch.stack([t.fitness(h) for t, h in zip(layers, herd, strict=True)]).mean(0)
