"""DenseNets for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import kaiming


class DenseLayer(nn.Module):
    """BN-ReLU-conv3x3; its maps are put behind those it has read."""

    def __init__(self, width_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)


class Transition(nn.Module):
    """BN-ReLU-conv1x1 of as many channels, then 2x2 average pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class CifarDenseNet(nn.Module):
    """DenseNet for small images, depth = 3 n + 4 (Huang et al., CVPR 2017, section 3): three
    blocks of n layers, no bottlenecks, no compression."""

    def __init__(self, depth: int, num_classes: int, growth: int = 12) -> None:
        super().__init__()
        if (depth - 4) % 3:
            raise ValueError(f"depth must be 3 n + 4, not {depth}")
        layers = (depth - 4) // 3
        width, added = 2 * growth, layers * growth
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.dense1 = self._block(width, layers, growth)
        self.trans1 = Transition(width + added)
        self.dense2 = self._block(width + added, layers, growth)
        self.trans2 = Transition(width + 2 * added)
        self.dense3 = self._block(width + 2 * added, layers, growth)
        self.bn = nn.BatchNorm2d(width + 3 * added)
        self.fc = nn.Linear(width + 3 * added, num_classes)
        kaiming(self)

    @staticmethod
    def _block(width: int, layers: int, growth: int) -> nn.Sequential:
        return nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.trans1(self.dense1(self.conv1(x)))
        out = self.dense3(self.trans2(self.dense2(out)))
        return self.fc(F.relu(self.bn(out)).mean((2, 3)))
