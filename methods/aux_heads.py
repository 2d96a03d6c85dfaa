"""Classifiers inside a network, as gates that look at a map and let it pass unchanged."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORGET = 0.1  # of the running statistics per step, as in torch; the first ten are averaged


class Head(nn.Module):
    """Batch norm, ReLU, global average, linear classifier. `loss` is the cross-entropy of the last
    images; `share` of its gradient goes on into the network.

    The statistics are buffers of its own and no `nn.BatchNorm2d`: where only the heads train, those
    of all batch norms of the network stand still. The classifier starts at zero: channels are known
    by what they are, not by their number.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, width: int, classes: int, share: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.weight = nn.Parameter(torch.zeros(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("steps", torch.tensor(0))
        self.share = share
        self.loss = torch.zeros(())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> the same (N, C, H, W)"""
        fixed = x.detach()
        seen = (fixed + self.share * (x - fixed)).float()  # equal to x, but for its gradient
        rate = 0.0
        if self.training:
            self.steps += 1
            rate = max(FORGET, 1 / int(self.steps))
        z = F.batch_norm(
            seen, self.mean, self.variance, self.scale, self.shift, self.training, rate
        )
        logits = F.linear(z.relu().mean((2, 3)), self.weight, self.bias)
        self.loss = F.cross_entropy(logits, labels)
        return x

    def settled(self) -> "Head":
        """From now on it judges and learns no more: in eval mode, its whole gradient goes on."""
        self.share = 1.0
        return self.eval().requires_grad_(False)


def places(blocks: int, heads: int) -> list[int]:
    """Blocks in front of which heads stand, counted from 0, evenly spaced: METHODS 7.1. Fewer than
    `heads` where the network is too short for them."""
    length = blocks // (max(heads, 0) + 1) + 1
    return sorted({min(length * (i + 1), blocks - 1) for i in range(heads)} - {0})


def gradient_shares(at: list[int]) -> list[float]:
    """What each head's gradient counts in the network if that trains too (official code): gamma_k =
    max(0.01, (depth_k / depth_last)^2) over the sum of gamma of it and of the deeper heads."""
    gamma = [max(0.01, ((2 * p + 1) / (2 * at[-1] + 1)) ** 2) for p in at]
    return [g / sum(gamma[k:]) for k, g in enumerate(gamma)]
