"""MobileNet-V2 for small images, in the variants that papers on pruning have used."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import kaiming

# expansion, width, blocks, stride of the first block (Sandler et al., CVPR 2018, table 2, with
# stride 1 instead of 2 in the stem and at width 24: images are 32 x 32)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """conv1x1-BN-ReLU6, depthwise conv3x3-BN-ReLU6, conv1x1-BN, plus the shortcut.

    A block of stride 1 has a shortcut: the identity where the width stays; where it changes a 1x1
    convolution with batch norm (`project`) or none. `expand` False: without the first convolution.
    """

    def __init__(
        self, width_in: int, inner: int, width: int, stride: int, *, project: bool, expand: bool
    ) -> None:
        super().__init__()
        self.expand = expand
        if expand:
            self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.residual = stride == 1 and (width_in == width or project)
        self.shortcut = nn.Sequential()
        if self.residual and width_in != width:
            projection = nn.Conv2d(width_in, width, 1, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self.bn1(self.conv1(x))) if self.expand else x
        out = F.relu6(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.residual else out


class CifarMobileNetV2(nn.Module):
    """MobileNet-V2 for 32 x 32 images (Sandler et al., CVPR 2018).

    `project`: blocks of stride 1 that change the width have a 1x1 projection as shortcut.
    `expand_first`: the first block, which does not widen, has its 1x1 convolution all the same.
    The CIFAR code that circulates has both; the paper has neither.
    """

    def __init__(
        self,
        num_classes: int,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        *,
        project: bool = True,
        expand_first: bool = True,
    ) -> None:
        super().__init__()
        width = 32
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        for expansion, width_out, count, stride in stages:
            for i in range(count):
                blocks.append(
                    InvertedResidual(
                        width, expansion * width, width_out, stride if i == 0 else 1,
                        project=project, expand=expand_first or expansion > 1,
                    )
                )  # fmt: skip
                width = width_out
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(F.relu6(self.bn1(self.conv1(x))))
        out = F.relu6(self.bn2(self.conv2(out)))
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
