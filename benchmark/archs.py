"""Network architectures by name, and what identifies one: its structure, not its name."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import BadInput


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


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN, plus the shortcut, then ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        same = stride == 1 and width_in == width
        self.shortcut = nn.Identity() if same else Shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for small images, depth = 6 n + 2 (He et al., CVPR 2016, section 4.2), option A."""

    def __init__(self, depth: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2, not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.fc = nn.Linear(4 * width, num_classes)
        _kaiming(self)

    @staticmethod
    def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(width_in, width, stride)
        return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))


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
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.fc(F.relu(self.norm1(self.linear1(out))))


def _kaiming(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Arch:
    """A named architecture; published figures as the papers print them (None: none printed)."""

    build: Callable[[int], nn.Module]  # num_classes -> network
    image_size: int
    published_macs: float | None = None  # conv + 2 x linear, in units
    published_params: float | None = None  # without batch-norm weights


ARCHS: dict[str, Arch] = {
    "resnet8": Arch(lambda k: CifarResNet(8, k), 32),
    "resnet20": Arch(lambda k: CifarResNet(20, k), 32),
    "resnet32": Arch(lambda k: CifarResNet(32, k), 32),
    "resnet56": Arch(lambda k: CifarResNet(56, k), 32, 125.49e6, 0.85e6),
    "resnet110": Arch(lambda k: CifarResNet(110, k), 32, 252.89e6, 1.72e6),
    "vgg16": Arch(lambda k: CifarVgg(k), 32, 313.73e6, 14.98e6),
}


def build(name: str, num_classes: int) -> nn.Module:
    """A new network with random weights from the global generator.

    Raises:
        BadInput: unknown name; the closest ones are in the text.
    """
    if name not in ARCHS:
        close = difflib.get_close_matches(name, ARCHS, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise BadInput(f"unknown architecture '{name}'{hint} (known: {', '.join(ARCHS)})")
    return ARCHS[name].build(num_classes)


_STRUCTURE = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "num_features", "eps", "momentum", "in_features", "out_features", "negative_slope", "p",
)  # fmt: skip


def structure_hash(model: nn.Module) -> str:
    """12 hex digits over module names, kinds, settings and parameter shapes."""
    rows = []
    for name, module in model.named_modules():
        settings = {k: vars(module)[k] for k in _STRUCTURE if k in vars(module)}
        shapes = {k: list(p.shape) for k, p in module.named_parameters(recurse=False)}
        source = module.source.tolist() if isinstance(module, Shortcut) else None
        rows.append([name, type(module).__name__, settings, shapes, source])
    text = json.dumps(rows, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint that circulates in the field, under our names.

    Accepts a bare state dict, or one under `state_dict`, `model` or `net`; drops `module.`
    prefixes. Safetensors files are read as such. Nothing in the file is executed.

    Raises:
        BadInput: missing, unreadable, or not a set of named tensors.
    """
    try:
        with path.open("rb") as file:
            return parse_checkpoint(file, path.suffix == ".safetensors", f"checkpoint {path}")
    except FileNotFoundError as error:
        raise BadInput(f"checkpoint {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"checkpoint {path} cannot be read: {type(error).__name__}") from error


def parse_checkpoint(file: BinaryIO, safetensors: bool, place: str) -> dict[str, Tensor]:
    """The tensors in an open file; `place` names it in errors.

    Raises:
        BadInput: as `read_checkpoint`.
    """
    try:
        content: object = _unpack(file, safetensors)
    except Exception as error:  # torch, pickle, zip and tar have errors of many types
        raise BadInput(
            f"{place} cannot be read as plain tensors: give a .safetensors file, or what "
            f"torch.save(model.state_dict(), ...) wrote ({type(error).__name__})"
        ) from error
    for key in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise BadInput(f"{place} holds a {type(content).__name__}, not named tensors")
    tensors = {str(k).removeprefix("module."): v for k, v in content.items() if torch.is_tensor(v)}
    if not tensors:
        raise BadInput(f"{place} holds no tensors")
    for name, tensor in tensors.items():
        if not name.isprintable() or len(name) > 200:
            raise BadInput(f"{place} holds a tensor whose name is not that of a weight")
        if tensor.layout != torch.strided or not tensor.is_cpu or tensor.dtype not in _PLAIN:
            raise BadInput(f"{place} holds tensors that are not plain numbers ({tensor.dtype})")
    return tensors


_PLAIN = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8,
    torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip


def _unpack(file: BinaryIO, safetensors: bool) -> object:
    if not safetensors:
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors.torch import load

    return load(file.read())


HEADS = ("fc", "linear", "classifier", "head")


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into the model by name; the head may be called fc, linear, classifier or head.

    Raises:
        BadInput: a name is missing or left over, or a shape or type differs; the first few are
            named. A head for another number of classes is called that.
    """
    own = model.state_dict()
    head = next((h for h in HEADS if f"{h}.weight" in own), "")
    renamed = dict(tensors)
    for other in HEADS:
        taken = f"{other}.weight" in own or f"{head}.weight" in renamed
        if head and f"{other}.weight" in renamed and not taken:
            renamed = {_rename(k, other, head): v for k, v in renamed.items()}
    missing = sorted(own.keys() - renamed.keys())
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    extra = sorted(renamed.keys() - own.keys())
    both = sorted(own.keys() & renamed.keys())
    wrong = [k for k in both if renamed[k].shape != own[k].shape]
    kinds = [k for k in both if own[k].is_floating_point() and not renamed[k].is_floating_point()]
    given, needed = ({k: tuple(s[k].shape) for k in wrong} for s in (renamed, own))
    if wrong and not (missing or extra or kinds) and _only_classes_differ(given, needed, head):
        raise BadInput(
            f"checkpoint {source} has {given[wrong[0]][0]} classes, the data has "
            f"{needed[wrong[0]][0]}"
        )
    problems = [
        f"{title}: {', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}"
        for title, found in (
            ("missing", missing),
            ("not used", extra),
            ("wrong shape", [f"{k} is {given[k]}, needs {needed[k]}" for k in wrong]),
            ("wrong type", [f"{k} is {renamed[k].dtype}" for k in kinds]),
        )
        if found
    ]
    if problems:
        raise BadInput(f"checkpoint {source} does not fit this architecture: {'; '.join(problems)}")
    model.load_state_dict(renamed, strict=False)


Shapes = dict[str, tuple[int, ...]]


def _only_classes_differ(given: Shapes, needed: Shapes, head: str) -> bool:
    """Whether it is all of the head that differs, by its number of outputs alone."""
    ours = {f"{head}.weight", f"{head}.bias"}
    return (
        given.keys() <= ours
        and f"{head}.weight" in given
        and all(s and s[0] > 0 and s[1:] == needed[k][1:] for k, s in given.items())
        and len({s[0] for s in given.values()}) == 1
    )


def _rename(key: str, old: str, new: str) -> str:
    return f"{new}{key.removeprefix(old)}" if key.startswith(f"{old}.") else key
