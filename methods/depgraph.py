"""DepGraph: groups of coupled weights with a small norm go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from methods.api import Allocation, Method, Network, Scores, Trainer

# learning rates of the published sparse training, summed over its steps: 100 epochs of 390 batches
# of 128, 0.01 for 60 of them, then 0.001 and 0.0001 for 20 each (METHODS 16.7)
PUBLISHED_RATE = 390 * (60 * 0.01 + 20 * 0.001 + 20 * 0.0001)
MOMENTUM = 0.9  # of the published recipe: a constant gradient moves a weight by rate / (1 - 0.9)
STEEP = 4.0  # the weakest unit is pulled 2^4 times as strongly as the strongest
INACTIVE = 0.05  # median relative change of the units' norms below this: sparsity did nothing

Parts = dict[tuple[str, int], Tensor]  # by layer or norm, and dimension of its weight


@dataclass(frozen=True)
class DepGraph(Method):
    """Mean squared norm over all weights that a unit is tied to, global (Fang et al., CVPR 2023,
    section 3.3), in one shot; `sparse` trains the norms apart first."""

    sparse: bool = False
    sparse_epochs: float = 0.0  # 0: half of the budget
    strength: float = 5e-4  # of the pull, for the published recipe
    normalise: Literal["mean", "max"] = "mean"  # what of its group a unit's score is divided by

    allocations: ClassVar[tuple[Allocation, ...]] = ("global", "uniform")
    comparable: ClassVar[bool] = True
    shares: ClassVar[dict[str, float]] = {"sparse_epochs": 0.5}
    labels: ClassVar[tuple[str, ...]] = ("DepGraph (sparsity inactive)",)

    @property
    def prepares(self) -> bool:
        return self.sparse

    def score(self, net: Network, trainer: Trainer) -> Scores:
        if self.sparse:
            self._train(net, trainer)
        return net.spread({name: u / self._scale(u) for name, u in _norms(net).items()})

    def _scale(self, units: Tensor) -> Tensor:
        scale = units.mean() if self.normalise == "mean" else units.max()
        return torch.where(scale > 0, scale, 1.0)

    def _train(self, net: Network, trainer: Trainer) -> None:
        before = torch.cat([u.sqrt() for u in _norms(net).values()])
        rates = trainer.learning_rates(self.sparse_epochs)
        strength = self._strength(rates)
        trainer.fit(net, self.sparse_epochs, penalty=pull(net, strength))
        after = torch.cat([u.sqrt() for u in _norms(net).values()])
        change = ((after - before).abs() / before.clamp(min=1e-12)).median()
        trainer.note("strength_used", strength)
        trainer.note("strength_matching_published", self._matching(rates))
        trainer.note("median_norm_change", float(change))
        if change < INACTIVE:
            trainer.note("label", *self.labels)

    def _matching(self, rates: list[float]) -> float:
        """Strength times the summed rate is that of the published recipe."""
        return self.strength * PUBLISHED_RATE / sum(rates)

    def _strength(self, rates: list[float]) -> float:
        """The matching strength, but (unless the published one is) never so large that the pull
        alone could take a unit half-way between the strongest and the weakest below 1/e of its norm
        within the phase (the card tells what was measured). At the published length it is the
        published one."""
        reach = (1 - MOMENTUM) / (2 ** (STEEP / 2) * sum(rates))
        return min(self._matching(rates), max(self.strength, reach))


def places(net: Network, group: str) -> Parts:
    """Where the weights are that go when a unit of the group goes: rows of its writers, depthwise
    layers and norms (dimension 0), columns of its readers (1). Biases are left out. In execution
    order: it decides how sums over them round."""
    sides = net.rows(group), net.columns(group)
    at = ((name, dim) for name in net.order for dim in (0, 1) if name in sides[dim])
    return {(n, dim): sides[dim][n] for n, dim in at if net.module(n).weight is not None}


def tied(net: Network, at: Parts) -> Parts:
    """The weights at these places, (units, values) each. Gradients reach the network."""
    found: Parts = {}
    for (name, dim), where in at.items():
        weight: Tensor = net.module(name).weight  # type: ignore[assignment]
        picked = weight.index_select(dim, where.flatten().to(weight.device))
        found[name, dim] = picked.movedim(dim, 0).reshape(len(where), -1)
    return found


def group_norm(weights: Parts) -> Tensor:
    """(units,) mean over the tensors of the squared norm of each unit's weights."""
    return torch.stack([w.square().sum(1) for w in weights.values()]).mean(0)


def pull(net: Network, strength: float) -> Callable[[], Tensor]:
    """A penalty with the gradient `strength * 2^(4 (s_max - s) / (s_max - s_min)) * w` for every
    weight w of a unit with group norm s: decay that is strongest for the weakest units."""
    found = [places(net, group.name) for group in net.groups]  # once: asked at every step

    def penalty() -> Tensor:
        parts = []
        for at in found:
            squares = torch.stack([w.square().sum(1) for w in tied(net, at).values()]).sum(0)
            size = squares.detach().sqrt()  # in proportion to s
            spread = (size.max() - size).div((size.max() - size.min()).clamp(min=1e-12))
            parts.append((2 ** (STEEP * spread) * squares).sum())
        return 0.5 * strength * torch.stack(parts).sum()

    return penalty


@torch.no_grad()
def _norms(net: Network) -> dict[str, Tensor]:
    return {g.name: group_norm(tied(net, places(net, g.name))) for g in net.groups}
