"""Losses that a phase of training can use beside plain cross-entropy: `--set recovery.loss=cc`.

Both need what the network's output layer reads, x (N, D), and leave the network what it was: an
ordinary one with a linear output layer.

`cc`: channel correlation (Song et al., ICPR 2020), a reconstruction: the paper's formula is not
established. Attention vectors of a class are pulled together, those of two classes apart; the
module that makes them is dropped when the phase ends.
`lgm`: large-margin Gaussian mixture (Wan et al., CVPR 2018) with unit covariances. The rows of the
output layer's weight are the class means; with the bias -|mu|^2 / 2, kept throughout, its largest
output is the nearest mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.spec import Recipe
from benchmark.tracing import output_layers, trace

HEAD = "loss_head"  # name of the module that a loss adds while it is used
CC_WEIGHT, CC_MARGIN, REDUCTION = 0.1, 1.0, 16
LGM_WEIGHT, LGM_MARGIN = 0.1, 0.3
TINY = 1e-12  # keeps the gradient of a root finite where two vectors are equal


class Criterion(Protocol):
    """The loss of a batch: logits (N, K), labels (N,)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor: ...


def channel_correlation(attention: Tensor, labels: Tensor, margin: float = CC_MARGIN) -> Tensor:
    """Mean distance of attention vectors (N, C) within classes, plus the mean of what distances
    between classes lack to `margin`. Zero where no two images share a class."""
    rows, columns = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    distance = ((attention[rows] - attention[columns]).square().sum(1) + TINY).sqrt()
    same = labels[rows] == labels[columns]
    if not bool(same.any()):
        return attention.sum() * 0.0
    apart = (margin - distance[~same]).clamp(min=0)
    return distance[same].mean() + (apart.mean() if len(apart) else 0.0)


def gaussian_mixture(
    features: Tensor, means: Tensor, labels: Tensor, margin: float, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Classification loss with margin, and mean likelihood term, of features (N, D) and class
    means (K, D) with unit covariances (Wan et al., equations 5, 9 and 12)."""
    half = 0.5 * torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    own = F.one_hot(labels, len(means)).to(half)
    logits = -half * (1 + margin * own)
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return loss, (half * own).sum(1).mean()


class Attention(nn.Module):
    """(N, D) -> (N, D) in (0, 1): squeeze and excitation of what the output layer reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // REDUCTION)
        self.squeeze, self.excite = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.excite(self.squeeze(features).relu()).sigmoid()


@contextlib.contextmanager
def attached(net: nn.Module, recipe: Recipe) -> Iterator[tuple[Criterion, dict[str, nn.Module]]]:
    """The recipe's loss for training `net` within the block, and modules that must learn with it.

    Raises:
        BadInput: the network's output is not that of one linear layer with a bias.
    """
    smoothing = recipe.label_smoothing
    if recipe.loss == "ce":
        yield lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=smoothing), {}
        return
    head, seen = output_of(net, recipe.loss), {}

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["x"] = inputs[0].float()
        if recipe.loss == "lgm":
            tie(head)

    hook = head.register_forward_pre_hook(look)
    extra: dict[str, nn.Module] = {}
    if recipe.loss == "cc":
        extra[HEAD] = Attention(head.in_features).to(head.weight.device)
        net.add_module(HEAD, extra[HEAD])
    try:
        yield _criterion(recipe, head, seen, extra), extra
    finally:
        hook.remove()
        if recipe.loss == "lgm":
            tie(head)
        if extra:
            delattr(net, HEAD)


def _criterion(
    recipe: Recipe, head: nn.Linear, seen: dict[str, Tensor], extra: dict[str, nn.Module]
) -> Criterion:
    def correlation(logits: Tensor, labels: Tensor) -> Tensor:
        own = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        weight = CC_WEIGHT if recipe.loss_weight is None else recipe.loss_weight
        margin = CC_MARGIN if recipe.loss_margin is None else recipe.loss_margin
        return own + weight * channel_correlation(extra[HEAD](seen["x"]), labels, margin)

    def mixture(logits: Tensor, labels: Tensor) -> Tensor:
        weight = LGM_WEIGHT if recipe.loss_weight is None else recipe.loss_weight
        margin = LGM_MARGIN if recipe.loss_margin is None else recipe.loss_margin
        found = gaussian_mixture(seen["x"], head.weight, labels, margin, recipe.label_smoothing)
        return found[0] + weight * found[1]

    return correlation if recipe.loss == "cc" else mixture


@torch.no_grad()
def tie(head: nn.Linear) -> None:
    """The bias with which the largest output is the nearest row of the weight."""
    head.bias.copy_(-0.5 * head.weight.square().sum(1))


def output_of(net: nn.Module, loss: str) -> nn.Linear:
    """The linear layer that gives the network's output.

    Raises:
        BadInput: there is no such layer, or it has no bias.
    """
    if isinstance(net, Network):
        names = [f"traced.{name}" for name in output_layers(net.traced)]
    else:
        names = output_layers(trace(net))
    found = net.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(found, nn.Linear) or found.bias is None:
        raise BadInput(
            f"loss {loss} needs a network whose output is that of one linear layer with a bias, "
            f"not of {', '.join(names) or 'none'}; use loss ce"
        )
    return found
