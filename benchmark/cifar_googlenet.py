"""GoogLeNet for small images, as the HRank family of papers prunes it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import kaiming

# name: width of 1x1, inner and outer width of 3x3, inner and outer width of 5x5, width of pooling.
# A map is halved in front of every module whose name starts a new digit.
MODULES = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


def steps(*convs: tuple[int, int, int]) -> list[nn.Module]:
    """conv-BN-ReLU for every (width in, width out, kernel size); maps keep their size."""
    layers: list[nn.Module] = []
    for width_in, width, kernel in convs:
        conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return layers


class Inception(nn.Module):
    """Four branches side by side; the 5x5 branch is two 3x3 convolutions."""

    def __init__(self, width_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pool = widths
        self.branch1x1 = nn.Sequential(*steps((width_in, one, 1)))
        self.branch3x3 = nn.Sequential(*steps((width_in, three_in, 1), (three_in, three, 3)))
        self.branch5x5 = nn.Sequential(
            *steps((width_in, five_in, 1), (five_in, five, 3), (five, five, 3))
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *steps((width_in, pool, 1)))
        self.width = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch1x1, self.branch3x3, self.branch5x5, self.branch_pool)
        return torch.cat([branch(x) for branch in branches], 1)


class CifarGoogLeNet(nn.Module):
    """GoogLeNet (Szegedy et al., CVPR 2015) with batch norm, for 32 x 32 images: one 3x3
    convolution as stem, nine inception modules, one linear layer, no auxiliary heads."""

    def __init__(
        self, num_classes: int, modules: Mapping[str, tuple[int, ...]] = MODULES, width: int = 192
    ) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*steps((3, width, 3)))
        self.names = tuple(modules)
        for name, widths in modules.items():
            module = Inception(width, widths)
            self.add_module(f"inception_{name}", module)
            width = module.width
        self.fc = nn.Linear(width, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out, stage = self.pre_layers(x), self.names[0][-1]
        for name in self.names:
            if name[-1] != stage:
                out, stage = F.max_pool2d(out, 3, 2, 1), name[-1]
            out = self.get_submodule(f"inception_{name}")(out)
        return self.fc(out.mean((2, 3)))
