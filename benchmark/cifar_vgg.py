"""VGG networks for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import kaiming

# widths of the convolutions in order; 0 = halve the map
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
VGG19 = (
    64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512,
)  # fmt: skip


def convolutions(plan: tuple[int, ...], bias: bool) -> nn.Sequential:
    """conv3x3-BN-ReLU for every width of the plan, 2x2 max pooling for every 0."""
    layers: list[nn.Module] = []
    width = 3
    for step in plan:
        if step == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(width, step, 3, 1, 1, bias=bias)
        layers += [conv, nn.BatchNorm2d(step), nn.ReLU()]
        width = step
    return nn.Sequential(*layers)


class CifarVgg(nn.Module):
    """VGG-16 with batch norm for 32 x 32 images and the 512-512-K head of the HRank family."""

    def __init__(self, num_classes: int, plan: tuple[int, ...] = VGG16) -> None:
        super().__init__()
        self.features = convolutions(plan, bias=True)
        width = plan[-1]
        self.linear1 = nn.Linear(width, width)
        self.norm1 = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.fc(F.relu(self.norm1(self.linear1(out))))


class LinearVgg(nn.Module):
    """VGG with batch norm for 32 x 32 images and one linear layer as its head.

    White-Box and CLR-RNF use depth 16 with biases in the convolutions, Network Slimming depth 19
    without them.
    """

    def __init__(self, num_classes: int, plan: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.features = convolutions(plan, bias)
        self.fc = nn.Linear(plan[-1], num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
