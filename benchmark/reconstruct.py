"""`--reconstruct ls`: the least-squares refit of CPLI for any kept set (DECISIONS 18)."""

from __future__ import annotations

import torch

from benchmark.network import Network
from benchmark.trainer import Trainer
from methods.api import Plan, Unsupported
from methods.refit import IMAGES, POSITIONS, RIDGE, Probe, inputs, refit, relative_error, responses


@torch.no_grad()
def reconstruct(
    net: Network,
    plan: Plan,
    trainer: Trainer,
    images: int = IMAGES,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
) -> None:
    """Mask the plan in `net`, and refit every layer that loses inputs to the responses it had
    before, shallow to deep, so that each sees what the layers before it have become. All errors
    count alike. Forward passes only; leaves `net` in eval mode.

    Raises:
        Unsupported: a grouped convolution loses inputs, or no image is left in the budget.
    """
    net.eval()
    readers = _readers(net, plan)
    if not readers:
        return
    probe = Probe.draw(trainer, images, positions, phase="reconstruction")
    target, _ = responses(net, probe, tuple(readers))
    for group, keep in plan.keep.items():
        net.mask(group, keep)
    errors = {}
    for layer, alive in readers.items():
        x = inputs(net, probe, layer)[:, alive].flatten(1)
        columns = net.weight(layer)[:, alive]
        new = refit(x, target[layer], ridge)
        net.weight(layer)[:, alive] = new.reshape(columns.shape).to(columns)
        errors[layer] = relative_error(x, new, target[layer])
    trainer.note("ls_images", sum(len(y) for _, y in probe.batches))
    trainer.note("ls_error", errors)


def _readers(net: Network, plan: Plan) -> dict[str, torch.Tensor]:
    """Layers that lose inputs, in execution order, with the (C_in,) inputs that stay."""
    found = {}
    masks = net.masks(plan)
    for layer in (term.layer for term in net.terms):
        alive = masks[layer].keep.flatten().bool() if layer in masks else None
        if alive is None or bool(alive.all()):
            continue
        if getattr(net.module(layer), "groups", 1) > 1:
            raise Unsupported(f"--reconstruct ls does not refit the grouped convolution {layer}")
        found[layer] = alive
    return found
