"""The four-stage ResNets of ImageNet with a stem for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import BasicBlock, kaiming, make_shortcut


class Bottleneck(nn.Module):
    """conv1x1-BN-ReLU, conv3x3-BN-ReLU, conv1x1-BN, plus the shortcut, then ReLU.

    The 3x3 convolution has the stride; the block's output is four times as wide as its inside.
    """

    def __init__(self, width_in: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.shortcut = make_shortcut(width_in, 4 * inner, stride, "B")

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class CifarResNet4(nn.Module):
    """ResNet with four stages (He et al., CVPR 2016, table 1) for 32 x 32 images: the stem is one
    3x3 convolution of stride 1 without pooling, shortcuts are of option B.

    `blocks`: blocks per stage. `bottleneck`: three convolutions in a block, not two.
    """

    def __init__(
        self, blocks: tuple[int, ...], bottleneck: bool, num_classes: int, width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        width_in = width
        for stage, count in enumerate(blocks):
            inner = width << stage
            layers: list[nn.Module] = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                if bottleneck:
                    layers.append(Bottleneck(width_in, inner, stride))
                else:
                    layers.append(BasicBlock(width_in, inner, stride, "B"))
                width_in = 4 * inner if bottleneck else inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.fc = nn.Linear(width_in, num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
