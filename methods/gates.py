"""Gates that choose the channels of a convolution for every image: feature boosting and suppression
(FBS: Gao et al., ICLR 2019), and how they are put into a network and trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Budget, ChannelGate, ChannelGroup, Gate, Network, Trainer, Unsupported

SPREAD = 0.05  # standard deviation of the new weights P, cut at twice that
GRID = 1000  # steps in which densities are tried


class Look(nn.Module):
    """Shows a gate what its convolution reads."""

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        self.gate = (gate,)  # in a tuple: the gate is a module elsewhere

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        self.gate[0].look(x)
        return x


class SaliencyGate(ChannelGate):
    """Lets the `channels` most salient channels of each image through and scales them by their
    saliency g = ReLU(P pool(x) + c): METHODS 6.1."""

    channels: Tensor  # how many may pass
    order: Tensor  # of channels, where the choice is fixed; else empty
    passed: Tensor  # (N, C): saliency of what was let through, for the images that passed last

    def __init__(self, inputs: int, width: int, beta_first: bool, fixed: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, inputs))  # P
        self.bias = nn.Parameter(torch.ones(width))  # c
        self.beta = nn.Parameter(torch.full((width,), 0.1))
        self.register_buffer("channels", torch.tensor(width))
        self.register_buffer("order", torch.arange(width) if fixed else torch.empty(0))
        self.beta_first = beta_first
        self._pooled: Tensor | None = None

    @property
    def most(self) -> int:
        return int(self.channels)

    def look(self, x: Tensor) -> None:
        self._pooled = x.mean((2, 3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        pooled, self._pooled = self._pooled, None  # a tensor of a graph cannot be copied
        assert pooled is not None
        saliency = F.relu(F.linear(pooled, self.weight, self.bias))  # (N, C)
        self.active = self.chosen(saliency.detach())
        self.passed = saliency.detach() * self.active
        a, g = self.active.to(x.dtype)[:, :, None, None], saliency.to(x.dtype)[:, :, None, None]
        beta = self.beta.to(x.dtype)[:, None, None]
        return a * g * (x + beta) if self.beta_first else a * g * x + a * beta

    def chosen(self, saliency: Tensor) -> Tensor:
        """(N, C) -> (N, C) bool. A gate whose channels are fixed does not look."""
        if len(self.order):
            return (self.order < self.channels).expand(saliency.shape)
        return most_salient(saliency, self.most)

    def macs(self, inputs: Tensor, positions: int) -> Tensor:
        """The saliencies, and one multiplication per value of the map."""
        width = len(self.beta)
        return inputs * width + width * positions


def most_salient(saliency: Tensor, channels: int) -> Tensor:
    """(N, C) -> (N, C) bool: above the (channels + 1)-th largest of the image, so that ties, as at
    0, let fewer through; all where all may pass."""
    if channels >= saliency.shape[1]:
        return torch.ones_like(saliency, dtype=torch.bool)
    return saliency > saliency.topk(channels + 1, dim=1).values[:, -1:]


# ---- which layers, and how dense -----------------------------------------------------------------


def gated_layers(net: Network) -> dict[str, ChannelGroup]:
    """The layers that can be gated, each with the group that it alone writes.

    Raises:
        Unsupported: a suppressed channel would not stay 0 up to its readers, or shares its fate.
    """
    grouped = [n for n in net.convs if getattr(net.module(n), "groups", 1) > 1]
    if grouped:
        raise Unsupported(f"{grouped[0]} is a grouped convolution: what it makes of 0 is not 0")
    found = {}
    for group in net.groups:
        layer = group.layers[0]
        if len(group.layers) > 1:
            raise Unsupported(f"{layer} shares its channels with other layers: use --scope inner")
        if not isinstance(net.module(layer), nn.Conv2d):
            raise Unsupported(f"{layer} is no convolution: it cannot be gated")
        net.norm(layer)  # says why where there is none
        found[layer] = group
    return found


def new_gates(net: Network, beta_first: bool, fixed: bool = False) -> dict[str, SaliencyGate]:
    """A gate for each layer. It takes the place of weight and bias of the batch norm, which stay 1
    and 0 from now on: what they were is in the gate's `bias` and `beta`, for the same function at
    density 1 and P = 0 (`beta_first`) or nearly so.

    Raises:
        Unsupported: as `gated_layers`.
    """
    gates = {}
    for layer in gated_layers(net):
        norm = net.norm(layer)
        width, inputs = net.weight(layer).shape[:2]
        gate = SaliencyGate(inputs, width, beta_first, fixed).to(net.weight(layer).device)
        if not norm.affine:
            raise Unsupported(f"the batch norm of {layer} has no weight for a gate to replace")
        with torch.no_grad():
            # a saliency is not negative: the sign goes to the convolution
            sign = torch.where(norm.weight < 0, -1.0, 1.0)
            net.scale_writer(layer, sign)
            if norm.running_mean is not None:
                norm.running_mean.mul_(sign)
            gamma = norm.weight.abs()
            gate.bias.copy_(gamma)
            gate.beta.copy_(norm.bias / gamma.clamp(min=1e-3) if beta_first else norm.bias)
            norm.weight.fill_(1)
            norm.bias.fill_(0)
        norm.weight.requires_grad_(False)
        norm.bias.requires_grad_(False)
        gates[layer] = gate
    return gates


@contextmanager
def attached(net: Network, gates: Mapping[str, ChannelGate]) -> Iterator[None]:
    """Within the block the gates are part of the network."""
    looks: dict[str, Gate] = {layer: Look(gate) for layer, gate in gates.items()}
    with net.gated(looks, at="in"), net.gated(dict(gates), at="norm"):
        yield


def channels_at(groups: Mapping[str, ChannelGroup], density: float) -> dict[str, int]:
    """ceil(density x C) for each gated layer."""
    return {layer: math.ceil(round(density * g.width, 6)) for layer, g in groups.items()}


def density_for(net: Network, gates: Mapping[str, ChannelGate], budget: Budget) -> float:
    """The largest density whose multiply-accumulates per image, gates included, meet the target.

    Raises:
        Unsupported: the minimum width allows none.
    """
    groups, price, dense = gated_layers(net), _prices(net, gates), net.macs()

    def cut(density: int) -> float:
        return 1 - price(channels_at(groups, density / GRID)) / dense

    least = [max(1, int(budget.min_keep * g.width)) / g.width for g in groups.values()]
    low, high = math.ceil(max(least, default=1.0) * GRID), GRID
    if cut(low) < budget.macs_cut:
        raise Unsupported(
            f"FLOPs reduction {100 * budget.macs_cut:.1f} % is out of reach: with the minimum width"
            f" gates can save at most {100 * cut(low):.1f} %; ask for less, or use --min-width"
        )
    while low < high:  # cut falls with the density
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cut(middle) >= budget.macs_cut else (low, middle - 1)
    return low / GRID


def _prices(net: Network, gates: Mapping[str, ChannelGate]) -> Callable[[Mapping[str, int]], float]:
    """What an image costs that uses so many channels of each gated layer, gates included."""
    groups = gated_layers(net)
    shapes = {n: (net.weight(n).shape, net.kernel_macs(n)) for n in gates}

    def price(channels: Mapping[str, int]) -> float:
        total = float(net.macs({g.name: channels[n] for n, g in groups.items()}))
        for layer, gate in gates.items():
            shape, scale = shapes[layer]
            off = sum(g.width - channels[n] for n, g in groups.items() if layer in g.readers)
            positions = scale // shape[2:].numel()
            total += float(gate.macs(torch.tensor(shape[1] - off), positions))
        return total

    return price


# ---- training ------------------------------------------------------------------------------------


def start(gates: Mapping[str, SaliencyGate], draw: torch.Generator, plain: bool = False) -> None:
    """New weights P; `plain`: saliency around 1 and beta 0.1, whatever the batch norm was."""
    for gate in gates.values():
        with torch.no_grad():
            drawn = torch.empty(gate.weight.shape)
            nn.init.trunc_normal_(drawn, std=SPREAD, a=-2 * SPREAD, b=2 * SPREAD, generator=draw)
            gate.weight.copy_(drawn)
            if plain:
                gate.bias.fill_(1)
                gate.beta.fill_(0.1)
            if len(gate.order):
                gate.order.copy_(torch.randperm(len(gate.order), generator=draw))


def train(
    net: Network,
    gates: Mapping[str, SaliencyGate],
    density: float,
    step: float,
    epochs: float,
    trainer: Trainer,
) -> None:
    """Network and gates together, at densities that fall from 1 by `step`, for equal shares of the
    epochs; the last is the density that is wanted."""
    falling = [round(1 - step * i, 6) for i in range(math.ceil((1 - density) / step - 1e-9))]
    ladder, groups = [*falling, density], gated_layers(net)
    with attached(net, gates):
        for own in ladder:
            for layer, channels in channels_at(groups, own).items():
                gates[layer].channels.fill_(channels)
            trainer.fit(net, epochs / len(ladder))
