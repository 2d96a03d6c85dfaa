"""VGG networks for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import kaiming

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


class CifarVgg(nn.Module):
    """VGG-16 with batch norm for 32 x 32 images and the 512-512-K head of the HRank family."""

    def __init__(self, num_classes: int, plan: tuple[int, ...] = VGG16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for step in plan:  # 0 = halve the map
            if step == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, step, 3, 1, 1), nn.BatchNorm2d(step), nn.ReLU()]
            width = step
        self.features = nn.Sequential(*layers)
        self.linear1 = nn.Linear(width, width)
        self.norm1 = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.fc(F.relu(self.norm1(self.linear1(out))))
