"""Network architectures by name, and what identifies one: its structure, not its name."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from benchmark import ownmodel, zoo
from benchmark.cifar_resnet import CifarResNet, Shortcut
from benchmark.cifar_vgg import CifarVgg
from benchmark.errors import BadInput
from benchmark.spec import ArchIdentity


@dataclass(frozen=True)
class Arch:
    """A named architecture; published figures as the papers print them (None: none printed)."""

    build: Callable[[int], nn.Module]  # num_classes -> network
    image_size: int
    published_macs: float | None = None  # conv + 2 x linear, in units
    published_params: float | None = None  # without batch-norm weights
    name: str = ""  # in records
    source: str = ""  # hash of a user's own file


ARCHS: dict[str, Arch] = {
    "resnet8": Arch(lambda k: CifarResNet(8, k), 32),
    "resnet20": Arch(lambda k: CifarResNet(20, k), 32),
    "resnet32": Arch(lambda k: CifarResNet(32, k), 32),
    "resnet56": Arch(lambda k: CifarResNet(56, k), 32, 125.49e6, 0.85e6),
    "resnet110": Arch(lambda k: CifarResNet(110, k), 32, 252.89e6, 1.72e6),
    "vgg16": Arch(lambda k: CifarVgg(k), 32, 313.73e6, 14.98e6),
}


def find(label: str) -> Arch:
    """The architecture of that label: a name of ours, `timm/NAME`, `torchvision/NAME`, or
    `FILE.py:FUNCTION`, a function num_classes -> network of the user's own.

    Raises:
        BadInput: unknown name, with the closest ones in the text, or a file that cannot be used.
    """
    if ownmodel.is_file(label):
        name, source, own = ownmodel.read(label)
        if name in ARCHS:
            raise BadInput(f"--arch {label}: {name} is the name of one of ours: rename the file")
        return Arch(own, 0, name=name, source=source)
    elsewhere = zoo.split(label)
    if elsewhere is not None:
        return Arch(zoo.builder(*elsewhere), zoo.IMAGE_SIZE, name="-".join(elsewhere))
    if label not in ARCHS:
        close = difflib.get_close_matches(label, ARCHS, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise BadInput(
            f"unknown architecture '{label}'{hint} (known: {', '.join(ARCHS)}, timm/NAME, "
            "torchvision/NAME, FILE.py:FUNCTION)"
        )
    return replace(ARCHS[label], name=label)


def build(label: str, num_classes: int) -> nn.Module:
    """A new network with random weights from the global generator.

    Raises:
        BadInput: as `find`.
    """
    return find(label).build(num_classes)


def identity_of(label: str, num_classes: int) -> ArchIdentity:
    """What a run's id knows about its network."""
    arch = find(label)
    structure = structure_hash(arch.build(num_classes))
    return ArchIdentity(name=arch.name, structure=structure, source=arch.source)


def build_again(identity: ArchIdentity, num_classes: int) -> nn.Module:
    """The network of a run, with random weights from the global generator.

    Raises:
        BadInput: the structure is not the one of the run, or its file was not named.
    """
    if identity.source:
        model = ownmodel.known(identity.name, identity.source)(num_classes)
    else:
        model = build(identity.name, num_classes)
    found = structure_hash(model)
    if found != identity.structure:
        raise BadInput(
            f"architecture {identity.name} has structure {found}, the run has "
            f"{identity.structure}: it was made with another version of the network"
        )
    return model


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
