"""ResNets for small images, and the shortcut that may lose channels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def kaiming(model: nn.Module) -> None:
    """He initialisation of every convolution and linear layer; biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Shortcut(nn.Module):
    """Option-A shortcut (He et al., CVPR 2016): subsample, and zero-pad channels.

    `out[:, j] = x[:, source[j], ::stride, ::stride]`, or 0 where `source[j] < 0`. A gather says
    the same as zero padding and stays valid when either side loses channels.
    """

    source: Tensor

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.width_in, self.stride = width_in, stride
        low = (width_out - width_in) // 2
        source = [j - low if low <= j < low + width_in else -1 for j in range(width_out)]
        # not persistent: checkpoints of zero-padding networks have no such entry
        self.register_buffer("source", torch.tensor(source), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, len(source), H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 1))[:, self.source]  # -1 picks the added zero channel

    def slice(self, kept_in: Tensor, kept_out: Tensor) -> None:
        """Keep these input and output channels; inputs that are gone read as zero."""
        position = torch.full((self.width_in + 1,), -1)
        position[kept_in] = torch.arange(len(kept_in))
        self.source = position.to(self.source.device)[self.source[kept_out]]
        self.width_in = len(kept_in)


Option = Literal["A", "B"]  # He et al., CVPR 2016, section 4.1: zero padding, or projection


def make_shortcut(width_in: int, width: int, stride: int, option: Option) -> nn.Module:
    """What is added to a block's output: the input itself, or the input brought to its shape.

    Option B is a 1x1 convolution and a batch norm, `shortcut.0` and `shortcut.1` in checkpoints.
    """
    if stride == 1 and width_in == width:
        return nn.Identity()
    if option == "A":
        return Shortcut(width_in, width, stride)
    projection = nn.Conv2d(width_in, width, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN, plus the shortcut, then ReLU."""

    def __init__(self, width_in: int, width: int, stride: int, option: Option = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(width_in, width, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for small images, depth = 6 n + 2 (He et al., CVPR 2016, section 4.2)."""

    def __init__(self, depth: int, num_classes: int, width: int = 16, option: Option = "A") -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2, not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1, option)
        self.layer2 = self._stage(width, 2 * width, blocks, 2, option)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2, option)
        self.fc = nn.Linear(4 * width, num_classes)
        kaiming(self)

    @staticmethod
    def _stage(
        width_in: int, width: int, blocks: int, stride: int, option: Option
    ) -> nn.Sequential:
        first = BasicBlock(width_in, width, stride, option)
        return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
