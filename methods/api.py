"""What a method sees (network, trainer, budget) and what it gives back (scores or a plan).

Shapes: N batch, C channels of a layer, K classes, H W map size. Layers are convolutions, known by
their dotted module names and listed in execution order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

Scores = dict[str, Tensor]  # layer -> importance (C,), larger = keep
Allocation = Literal["global", "uniform", "listed", "none"]
Site = Literal["in", "conv", "norm", "act"]
Gate = nn.Module  # forward(x (N, C, H, W), labels (N,)) -> same shape
# What a plan makes of the network: a smaller one, one with single kernels at zero, or one that
# chooses its channels for every image. The last two keep their shape: docs/lanes.md.
Result = Literal["channels", "kernels", "dynamic"]


class Unsupported(Exception):
    """The method, network or target cannot be combined; the text is the reason shown as n/a."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be removed together."""

    name: str
    layers: tuple[str, ...]  # convolutions that write it
    readers: tuple[str, ...]  # convolutions and linear layers that read it
    width: int  # removable units
    coupled: bool = False  # several layers write it, or a shortcut does too: the residual stream


@dataclass(frozen=True)
class Plan:
    """Kept units per group, sorted; groups that are absent keep everything."""

    keep: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for group, kept in self.keep.items():
            if not kept or list(kept) != sorted(set(kept)):
                raise ValueError(f"plan for {group}: kept units must be non-empty, sorted, unique")

    def widths(self) -> dict[str, int]:
        """Kept units per group."""
        return {group: len(kept) for group, kept in self.keep.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a plan that removes no channels holds instead."""
        return {}


@dataclass(frozen=True, eq=False)
class KernelPlan(Plan):
    """No channel goes; single 2-D kernels are zero from now on. `kernels`: layer -> (C_out, C_in /
    groups) bool, True stays. Layers that are absent keep all."""

    kernels: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.kernels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelPlan) and _equal(self, other)


class ChannelGate(nn.Module):
    """Chooses, for every image, which channels of a convolution are computed."""

    active: Tensor  # (N, C) bool: the choice for the images that passed last

    @property
    def most(self) -> int:
        """The most channels that it lets through."""
        raise NotImplementedError

    def look(self, x: Tensor) -> None:
        """See what the convolution reads, (N, C_in, H, W), before `forward` is called."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the convolution's batch norm gives, (N, C, H, W) -> the same, where channels that
        are not active become 0 for good: no layer or activation up to the next readers may make
        something else of them."""
        raise NotImplementedError

    def macs(self, inputs: Tensor, positions: int) -> Tensor:
        """Multiply-accumulates of the gate itself, (N,), for images with so many (N,) active
        channels in what the convolution reads. `positions`: of its output map."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class GatePlan(Plan):
    """No channel goes; gates choose channels for every image. `gates`: by layer, as trained so
    far."""

    gates: Mapping[str, ChannelGate] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        parts = {layer: gate.state_dict() for layer, gate in self.gates.items()}
        return {f"{layer}|{k}": v for layer, part in parts.items() for k, v in part.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GatePlan) and _equal(self, other)


def _equal(one: Plan, other: Plan) -> bool:
    mine, yours = one.tensors(), other.tensors()
    same = one.keep == other.keep and mine.keys() == yours.keys()
    return same and all(torch.equal(mine[name], yours[name]) for name in mine)


@dataclass(frozen=True)
class Budget:
    """What must be reached: the fraction of dense MACs to remove, and how widths may be set."""

    macs_cut: float
    min_keep: float = 0.1  # share of every group that stays, at least one unit
    allocation: Allocation = "uniform"
    rates: Mapping[str, float] | None = None  # "listed": removed fraction per layer
    round_to: int = 1  # widths are multiples of it, or a group's full width (units, not channels)
    whole: tuple[str, ...] = ()  # groups that keep everything


class Network(Protocol):
    """A private, traced copy of the dense network. Train it, scale it, overwrite its weights:
    only the plan changes shapes."""

    layers: tuple[str, ...]  # prunable within the scope: convolutions, and linear layers on maps
    convs: tuple[str, ...]  # every convolution
    order: tuple[str, ...]  # every convolution, linear layer and norm, in execution order
    groups: tuple[ChannelGroup, ...]  # within the scope, in execution order

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) -> logits (N, K); labels (N,) are shown to gates only."""
        ...

    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...

    def module(self, layer: str) -> nn.Module: ...

    def weight(self, layer: str) -> Tensor:
        """(C_out, C_in, k, k), k = 1 for a linear layer in `layers`; (K, C_in) of a linear reader.
        Changes of it in place are changes of the network."""
        ...

    def bias(self, layer: str) -> nn.Parameter | None: ...

    def norm(self, layer: str) -> nn.BatchNorm2d:
        """The batch norm that follows; raises Unsupported where there is none."""
        ...

    def norms(self) -> dict[str, Any]:
        """Every normalisation layer by name."""
        ...

    def norm_scales(self, layer: str) -> Tensor:
        """(C,) |weight| of the layer's own batch norm; where it has none (pre-activation, dense
        connections), summed over the batch norms that its channels pass. Raises Unsupported where
        there is none."""
        ...

    def rows(self, group: str) -> dict[str, Tensor]:
        """Every layer and norm that puts out the group's channels -> (units, n): the n of its
        outputs that are each unit. Beside the group's own layers, depthwise convolutions and what
        squeeze-and-excitation writes go along."""
        ...

    def columns(self, group: str) -> dict[str, Tensor]:
        """Every layer that reads the group's channels -> (units, n): the n columns of its weight
        that see each unit; depthwise convolutions have none."""
        ...

    def has_site(self, layer: str, at: Site, through_add: bool = False) -> bool: ...

    def last_site(self, layer: str, through_add: bool = False) -> Site:
        """The last place before the layer's map joins others: `act`, or `norm` or `conv` where no
        activation of its own follows."""
        ...

    def gated(
        self, gates: Mapping[str, Gate], at: Site | Mapping[str, Site]
    ) -> AbstractContextManager[None]: ...

    def tapped(
        self,
        at: Site | Mapping[str, Site],
        layers: tuple[str, ...] | None = None,
        through_add: bool = False,
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """Maps (N, C, H, W) per layer, new at each forward pass; .grad after backward. A mapping
        gives each layer its own site."""
        ...

    def scale_readers(self, layer: str, factor: Tensor) -> None:
        """What the layers next to this one read of its channels *= factor (C,): their input
        columns, or the filters of a depthwise one."""
        ...

    def scale_writer(self, layer: str, factor: Tensor) -> None:
        """The layer's own filters and bias *= factor (C,)."""
        ...

    def scale_norm(self, layer: str, factor: Tensor) -> None:
        """Weight and bias of the following batch norm *= factor (C,)."""
        ...

    def spread(self, scores: Mapping[str, Tensor]) -> Scores:
        """Scores of units, group -> (units,), as scores of layers from which `rank` with
        `comparable` makes the same scores of units. Groups that are absent have 0."""
        ...

    def mask(self, group: str, keep: tuple[int, ...]) -> None:
        """From now on no reader sees the other units of the group."""
        ...

    def rank(self, scores: Scores, budget: Budget, comparable: bool = False) -> Plan:
        """Couple the scores, share out widths and meet the budget."""
        ...

    def allocate(self, budget: Budget) -> dict[str, int]:
        """Widths that meet the budget without scores (uniform or listed)."""
        ...

    def group_scores(self, scores: Scores, comparable: bool) -> dict[str, Tensor]:
        """Scores of units by group: mean over the layers that write it."""
        ...

    def macs(self, widths: Mapping[str, int] | None = None) -> int: ...

    def kernel_macs(self, layer: str) -> int:
        """Multiply-accumulates of one 2-D kernel of the layer for one image."""
        ...

    def copy(self) -> Network: ...


class Trainer(Protocol):
    """Data and training within the budget. The test split does not exist here."""

    num_classes: int
    device: torch.device
    epochs: float  # the whole budget of the run, in epochs of the training split
    train_images: int  # of the training split: one epoch
    imported: Mapping[str, Mapping[str, Tensor]]  # what files said, by `content`

    def batches(
        self,
        images: int | None = None,
        split: str = "train",
        *,
        augment: bool = False,
        phase: str = "scoring",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, 3, H, W), (N,) from a class-balanced list fixed by data and seed. Images drawn with
        gradients enabled are charged; forward-only ones are capped per phase (DECISIONS 12): the
        iterator then ends early."""
        ...

    def fit(
        self,
        net: Any,
        epochs: float,
        *,
        lr: float | None = None,
        penalty: Callable[[], Tensor] | None = None,
        only: Mapping[str, nn.Module] | None = None,
        constant_lr: bool = False,
    ) -> None:
        """Train by the run's recipe and charge it. `penalty()` is added to the loss; `only` trains
        these modules and freezes the rest, running statistics included. A killed run goes on inside
        this call: what must survive is a parameter or buffer of the network or its gates."""
        ...

    def learning_rates(self, epochs: float, lr: float | None = None) -> list[float]:
        """The rate of every step that `fit` would take."""
        ...

    def accuracy(self, net: Any, split: str = "val") -> float: ...

    def noise(self, columns: int, salt: int) -> Tensor:
        """(N, columns) uniform in [0, 1) for the images of the current batch, keyed by
        (seed, epoch, image, salt)."""
        ...

    def generator(self, salt: int = 0) -> torch.Generator: ...
    def note(self, name: str, value: Any) -> None:
        """Keep a fact in the record (numbers, text, tensors, or dicts of them)."""
        ...


@dataclass(frozen=True)
class Method:
    """One paper's way to choose channels. Fields are hyper-parameters: they appear in `--set`, in
    the run's identity and in the record. Override `score` (its result serves every target) and, if
    the ranking is special, `select`; or override `prune` alone and decide everything."""

    revision: ClassVar[int] = 1  # raise it when results change
    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform", "global")  # the first is its own
    comparable: ClassVar[bool] = False  # scores of different layers share one scale
    trained_start: ClassVar[bool] = True  # False: it trains a network from random initialisation
    shares: ClassVar[Mapping[str, float]] = {}  # epochs that, left at 0, take this share of budget
    stochastic: ClassVar[bool] = False  # scoring draws random numbers: a second seed is compared
    informed: ClassVar[bool] = True  # scores claim information: judged against their inverse
    refits: ClassVar[bool] = False  # updates the kept weights itself: `--reconstruct` adds nothing
    labels: ClassVar[tuple[str, ...]] = ()  # what `note("label", …)` may call its rows
    imported: ClassVar[bool] = False  # chosen elsewhere: `--set NAME.path=FILE` fills its `content`

    @property
    def prepares(self) -> bool:
        """Whether images are used for gradient steps before recovery: then it matters who pays."""
        return bool(self.shares)

    @property
    def scores_first(self) -> bool:
        """Whether the plan follows from scores alone (door 1)."""
        return type(self).prune is Method.prune

    @property
    def rounds(self) -> bool:
        """Whether its widths follow `Budget.round_to`, as those of `net.rank` and `allocate` do."""
        return True

    @property
    def targets_macs(self) -> bool:
        """Whether its widths are solved for the budget's reduction. False: a target of its own kind
        sets them, as a share of weights; then it belongs to the paper track, and what is reached is
        reported."""
        return True

    @property
    def result(self) -> Result:
        """What its plan makes of the network: other results than `channels` have tables of their
        own, and `prune` then returns a `KernelPlan` or a `GatePlan`."""
        return "channels"

    def gates(self, net: Any) -> Mapping[str, ChannelGate]:
        """`dynamic`: new gates, in the form of those in its plan, and the network made ready for
        them. Called again wherever the network is put together."""
        raise NotImplementedError

    def score(self, net: Any, trainer: Any) -> Scores:
        """Door 1: importance (C,) of every prunable layer."""
        raise NotImplementedError

    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        """Which channels stay, given the scores. Never trains, never sees data."""
        plan: Plan = net.rank(scores, budget, self.comparable)
        return plan

    def prune(self, net: Any, budget: Budget, trainer: Any) -> Plan:
        """Door 2: decide everything, widths included."""
        return self.select(net, self.score(net, trainer), budget)

    @property
    def own_dense(self) -> bool:
        """Whether it starts from a dense network of its own, trained with `dense_penalty`."""
        return False

    def dense_penalty(self, net: Any, rates: list[float]) -> Callable[[], Tensor]:
        """Added to the loss of its own dense network; `rates`: the rate of every step."""
        raise NotImplementedError
