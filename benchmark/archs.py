"""Network architectures by name, and what identifies one: its structure, not its name."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from benchmark import ownmodel, zoo
from benchmark.cifar_densenet import CifarDenseNet
from benchmark.cifar_googlenet import CifarGoogLeNet
from benchmark.cifar_mobilenet import CifarMobileNetV2
from benchmark.cifar_resnet import CifarResNet, Option, Shortcut
from benchmark.cifar_resnet4 import CifarResNet4
from benchmark.cifar_vgg import VGG16, VGG19, CifarVgg, LinearVgg
from benchmark.conventions import Printed
from benchmark.errors import BadInput
from benchmark.spec import ArchIdentity
from methods import plugins


@dataclass(frozen=True)
class Paper:
    """What the table of architectures says about a network beside its counts."""

    defined: str  # in one line, with where the definition is from
    printed: str = ""  # what papers call it, and methods/published.csv with them
    classes: int = 10  # of the table's row
    note: str = ""  # why a printed figure differs, where no rule explains it
    figures: tuple[Printed, ...] = ()  # dense figures that methods/published.csv has not


@dataclass(frozen=True)
class Arch:
    """A named architecture."""

    build: Callable[[int], nn.Module]  # num_classes -> network
    image_size: int
    name: str = ""  # in records
    source: str = ""  # hash of a user's own file, or of a package's
    paper: Paper | None = None  # ours only


def _resnet(depth: int, option: Option = "A") -> Arch:
    said = {
        "A": "shortcuts that pad with zeros on both sides (option A); He et al., CVPR 2016, "
        "section 4.2",
        "B": "shortcuts of 1x1 convolution and batch norm (option B), shortcut.0 and shortcut.1 in "
        "checkpoints, as in the CIFAR code that circulates; He et al., CVPR 2016, section 4.1",
    }
    paper = Paper(f"{depth} layers, widths 16, 32, 64, {said[option]}", f"ResNet-{depth}")
    return Arch(lambda k: CifarResNet(depth, k, option=option), 32, paper=paper)


_MOBILENET_PRINTS = Printed("94.54e6", "2.24e6", "github pvti/CORING README.md @0247c26")
_MOBILENET = "stride 1 in the stem and at width 24, ReLU6; Sandler et al., CVPR 2018, table 2; "

ARCHS: dict[str, Arch] = {
    "resnet8": _resnet(8),
    "resnet20": _resnet(20),
    "resnet32": _resnet(32),
    "resnet44": _resnet(44),
    "resnet56": _resnet(56),
    "resnet110": _resnet(110),
    "resnet20b": _resnet(20, "B"),
    "resnet32b": _resnet(32, "B"),
    "resnet44b": _resnet(44, "B"),
    "resnet56b": _resnet(56, "B"),
    "resnet110b": _resnet(110, "B"),
    "vgg16": Arch(CifarVgg, 32, paper=Paper(
        "13 convolutions with bias and batch norm, head 512-512-K with BatchNorm1d; HRank "
        "(github lmbxmu/HRankPlus models/cifar10/vgg.py)",
        "VGG-16",
    )),
    "vgg16-linear": Arch(lambda k: LinearVgg(k, VGG16, bias=True), 32, paper=Paper(
        "as vgg16 with one linear layer as head; White-Box (github zyxxmu/White-Box "
        "model/vgg_cifar.py)",
        "VGG-16",
    )),
    "vgg19": Arch(lambda k: LinearVgg(k, VGG19, bias=False), 32, paper=Paper(
        "16 convolutions without bias, with batch norm, one linear layer as head; Network Slimming "
        "(github Eric-mingjie/network-slimming models/vgg.py)",
        "VGG-19",
        note="398.44 M is conv + bias + linear of the same network with biases in its convolutions",
    )),
    "googlenet": Arch(CifarGoogLeNet, 32, paper=Paper(
        "stem of one 3x3 convolution of width 192, nine inception modules with batch norm, 5x5 as "
        "two 3x3, no auxiliary heads; HRank (github lmbxmu/HRankPlus models/cifar10/googlenet.py)",
        "GoogLeNet",
    )),
    "densenet40": Arch(lambda k: CifarDenseNet(40, k), 32, paper=Paper(
        "growth 12, three blocks of 12 layers, no bottleneck, no compression; Huang et al., CVPR "
        "2017, section 3 (github lmbxmu/HRankPlus models/cifar10/densenet.py)",
        "DenseNet-40",
        note="282.00 M is perhaps 282.92 M, conv + 2 linear, without its decimals",
    )),
    "mobilenetv2": Arch(CifarMobileNetV2, 32, paper=Paper(
        _MOBILENET + "blocks of stride 1 that change the width have a 1x1 projection as shortcut, "
        "and the first block expands by 1x1: the CIFAR code that circulates (github "
        "kuangliu/pytorch-cifar, there with ReLU), whose blocks White-Box uses",
        "MobileNet-V2",
        note="94.54 M and 2.24 M are those of mobilenetv2-torchvision, whose layers the code of "
        "their source has; that fvcore's total of this network is near is chance. White-Box's own "
        "dense network has stride 1 at width 32, which makes it 304.08 M by conv + linear",
        figures=(_MOBILENET_PRINTS,),
    )),
    "mobilenetv2-identity": Arch(lambda k: CifarMobileNetV2(k, project=False), 32, paper=Paper(
        _MOBILENET + "as mobilenetv2, but shortcuts only where the width stays, as in the paper",
        "MobileNet-V2",
        figures=(_MOBILENET_PRINTS,),
    )),
    "mobilenetv2-torchvision": Arch(
        lambda k: CifarMobileNetV2(k, project=False, expand_first=False), 32, paper=Paper(
            _MOBILENET + "as mobilenetv2-identity, and the first block has no 1x1 expansion: the "
            "layers of torchvision.models.mobilenet_v2 (github pvti/CORING "
            "main/models/cifar10/mobilenetv2.py)",
            "MobileNet-V2",
            figures=(_MOBILENET_PRINTS,),
        ),
    ),
    "resnet18-cifar": Arch(lambda k: CifarResNet4((2, 2, 2, 2), False, k), 32, paper=Paper(
        "He et al., CVPR 2016, table 1, with a 3x3 stem of stride 1 and no max pooling (github "
        "kuangliu/pytorch-cifar models/resnet.py)",
        "ResNet-18",
        classes=100,
    )),
    "resnet50-cifar": Arch(lambda k: CifarResNet4((3, 4, 6, 3), True, k), 32, paper=Paper(
        "as resnet18-cifar with bottlenecks, stride in the 3x3 convolution",
        "ResNet-50",
        classes=100,
    )),
}  # fmt: skip

# Networks of torchvision that papers on ImageNet prune; the table of architectures shows them.
IMAGENET: dict[str, Paper] = {
    f"torchvision/{name}": Paper(f"torchvision.models.{name}", printed, 1000)
    for name, printed in (
        ("resnet18", "ResNet-18"),
        ("resnet34", "ResNet-34"),
        ("resnet50", "ResNet-50"),
        ("vgg16_bn", "VGG-16"),
        ("mobilenet_v2", "MobileNet-V2"),
    )
}


def find(label: str) -> Arch:
    """The architecture of that label: a name of ours or of an installed package, `timm/NAME`,
    `torchvision/NAME`, or `FILE.py:FUNCTION`, a function num_classes -> network of the user's own.

    Raises:
        BadInput: unknown name, with the closest ones in the text, or a file or package that cannot
            be used.
    """
    if ownmodel.is_file(label):
        name, source, own = ownmodel.read(label)
        if name in ARCHS:
            raise BadInput(f"--arch {label}: {name} is the name of one of ours: rename the file")
        return Arch(own, 0, name=name, source=source)
    elsewhere = zoo.split(label)
    if elsewhere is not None:
        return Arch(zoo.builder(*elsewhere), zoo.IMAGE_SIZE, name="-".join(elsewhere))
    if label in ARCHS:
        return replace(ARCHS[label], name=label)
    found = ownmodel.installed(label, is_taken)
    if found is not None:
        return Arch(found[1], 0, name=label, source=found[0])
    names = [*ARCHS, *plugins.offers(plugins.ARCHITECTURES, is_taken)[0]]
    close = difflib.get_close_matches(label, names, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise BadInput(
        f"unknown architecture '{label}'{hint} (known: {', '.join(names)}, timm/NAME, "
        "torchvision/NAME, FILE.py:FUNCTION)"
    )


def is_taken(name: str) -> bool:
    """Whether a name is one of ours, or stands for a network of timm or torchvision."""
    return name in ARCHS or zoo.split(name) is not None


def installed() -> tuple[list[tuple[str, str]], list[str]]:
    """Name and package of each architecture of installed packages, and a line for each that cannot
    be used."""
    offered, problems = plugins.offers(plugins.ARCHITECTURES, is_taken)
    found = []
    for name, offer in offered.items():
        try:
            find(name)
            found.append((name, offer.package))
        except BadInput as error:
            problems.append(str(error))
    return found, problems


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
        model = ownmodel.known(identity.name, identity.source, is_taken)(num_classes)
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
