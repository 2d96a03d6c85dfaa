"""Does the network that a plan made do what is counted? It is set against a twin that is made
another way, and its cost against a count by other means.

A smaller network has the masked dense one as its twin. One with masked kernels has the plain
network whose kernels were set to zero by hand. One with gates has, image by image, itself with the
channels that the image does not use taken from all who read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import evaluation, flops
from benchmark.became import Became, Gated, Sparse, macs_per_image
from benchmark.sources import Source
from benchmark.tracing import WEIGHTED
from methods.api import Plan
from methods.gates import attached

FEW = 4
SMALL = 0.1  # largest parameter of a gate in a network of random weights


class Miscounted(Exception):
    """The cost is another one when it is counted by other means."""


@torch.no_grad()
def outputs(made: Became, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of the network and of its twin for images (N, 3, H, W), both in eval mode; of
    gated networks for the first few.

    Raises:
        CostMismatch, Miscounted: what it costs is not what was said.
    """
    if isinstance(made, Sparse):
        return made.model.eval()(x), _zeroed(made, x[:1])(x)
    if isinstance(made, Gated):
        return _with_channels_taken(made, x)
    small = made.model.eval()
    made.price(flops.cost(small, x[:1]))
    net = made.net.eval()
    with net.gated(net.masks(made.plan), at="in"):
        masked = net(x)
    return small(x), masked


def error(ours: Tensor, twin: Tensor) -> float:
    """Largest difference, relative to the largest logit."""
    return float((twin - ours).abs().max() / ours.abs().max().clamp(min=1e-12))


@torch.no_grad()
def settle(made: Became, images: Source) -> None:
    """After weights were drawn at random: gates multiply what they see, so that values would grow
    beyond all bounds from layer to layer. They get small parameters, and the network batch-norm
    statistics that fit."""
    if isinstance(made, Gated):
        for parameter in (p for gate in made.plan.gates.values() for p in gate.parameters()):
            parameter.mul_(SMALL / parameter.abs().max().clamp(min=SMALL))
        half = len(images) // 2
        with attached(made.net, made.plan.gates):
            evaluation.recalibrate(made.net, images, torch.arange(2 * half), (half, half))


def check_trained(made: Became) -> None:
    """After the model was trained: what was zero still is.

    Raises:
        Miscounted: a kernel came back.
    """
    for layer, keep in made.plan.kernels.items() if isinstance(made, Sparse) else ():
        weight: Any = made.model.get_submodule(layer).weight
        if bool(weight[~keep.to(weight.device)].any()):
            raise Miscounted(f"a masked kernel of {layer} is no longer 0")


def _zeroed(made: Sparse, example: Tensor) -> nn.Module:
    """The plain network; its kernels that are not zero are counted as it runs. Among 10^8 weights
    drawn at random a few are zero by chance, which no plan asked for."""
    model, counted = made.net.dense().eval(), [0]
    watched = []
    for layer, module in model.named_modules():
        if not isinstance(module, WEIGHTED):
            continue
        weight: Any = module.weight
        alive = torch.ones_like(_any(weight))
        if layer in made.plan.kernels:
            by_chance = ~_any(weight)
            weight[~made.plan.kernels[layer].to(weight.device)] = 0
            alive = _any(weight) | by_chance & made.plan.kernels[layer].to(weight.device)
        watched.append(module.register_forward_hook(_adding_to(counted, int(alive.sum()))))
    model(example)
    for watch in watched:
        watch.remove()
    if counted[0] != made.macs:
        raise Miscounted(f"{made.macs} MACs are said, {counted[0]} are those of other kernels")
    return model


def _any(weight: Tensor) -> Tensor:
    """(C_out, C_in / groups): which kernels are not zero."""
    return weight.flatten(2).any(2) if weight.dim() == 4 else weight != 0


def _adding_to(counted: list[int], alive: int) -> Callable[..., None]:
    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Any = module.weight
        counted[0] += alive * weight[0, 0].numel() * (output.numel() // weight.shape[0])

    return count


def _with_channels_taken(made: Gated, x: Tensor) -> tuple[Tensor, Tensor]:
    """One image at a time: batches of two sizes round differently, which may turn a choice. A few
    images, since a network is built for each."""
    own, ours, twins = made.net.copy().eval(), [], []
    gates = dict(made.plan.gates)
    with attached(own, gates):
        for image in x[:FEW].split(1):
            ours.append(own(image))
            active = {layer: gate.active.cpu() for layer, gate in gates.items()}
            used = {layer: a[0].nonzero()[:, 0].tolist() for layer, a in active.items()}
            plan = Plan({own.group_of(n).name: tuple(u) for n, u in used.items() if u})
            said, counted = int(macs_per_image(own, gates, active)[0]), None
            if all(used.values()):
                counted = flops.cost(made.net.remove(plan), image).macs
            if counted not in (said, None):
                raise Miscounted(f"{said} MACs are said for an image, fvcore counts {counted}")
            with own.gated(own.masks(plan), at="in"):
                twins.append(own(image))
    return torch.cat(ours), torch.cat(twins)
