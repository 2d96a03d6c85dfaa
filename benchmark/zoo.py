"""Architectures of torchvision and timm by name, without weights unless they are asked for."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from benchmark.data import PUBLISHED
from benchmark.errors import BadInput
from benchmark.images import Triple

SOURCES = ("torchvision", "timm")
IMAGE_SIZE = 224
HALVES: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Auxiliary heads train the inner layers of these two; they are no part of the network that is used.
# Their weights are ports that expect images on -1..1, which the libraries' pipelines convert to.
_TORCHVISION: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def split(label: str) -> tuple[str, str] | None:
    """(`timm`, `resnet50`) of `timm/resnet50`, and of `timm-resnet50`, as records have it; None:
    not a name of this kind."""
    for source in SOURCES:
        if label.startswith((f"{source}/", f"{source}-")):
            return source, label[len(source) + 1 :]
    return None


def builder(source: str, name: str) -> Callable[[int], nn.Module]:
    """num_classes -> network with random weights.

    Raises:
        BadInput: the library has no such classification network; the closest names are in the text.
    """
    if name not in names(source):
        close = difflib.get_close_matches(name, names(source), n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(f'{source}/{c}' for c in close)}?" if close else ""
        raise BadInput(f"{source} has no classification network '{name}'{hint}")

    def build(num_classes: int) -> nn.Module:
        return _create(source, name, num_classes)

    return build


def names(source: str) -> list[str]:
    """Classification networks of one library."""
    if source == "timm":
        import timm

        found: list[str] = timm.list_models() + timm.list_pretrained()
        return found
    import torchvision

    listed: list[str] = torchvision.models.list_models(module=torchvision.models)
    return listed


def pretrained(source: str, name: str) -> dict[str, Tensor]:
    """The library's own weights for ImageNet, from its cache or the network.

    Raises:
        BadInput: there are none, or they cannot be had here.
    """
    try:
        if source == "timm":
            import timm

            model: nn.Module = timm.create_model(name, pretrained=True)
        else:
            import torchvision

            model = torchvision.models.get_model(name, weights="DEFAULT")
    except Exception as error:  # downloads fail in many ways: hub, URL, certificate, no weights
        said = " ".join(str(error).split())[:200]
        raise BadInput(
            f"the pretrained weights of {source}/{name} cannot be had ({type(error).__name__}: "
            f"{said}): download them where there is a network, and give the file by --checkpoint"
        ) from error
    return dict(model.state_dict())


def normalisation(source: str, name: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation, on the 0..1 scale, of the images its weights were trained on."""
    if source == "timm":
        import timm

        found = timm.get_pretrained_cfg(name)
        if found is not None:
            mean, std = (tuple(float(v) for v in part) for part in (found.mean, found.std))
            return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    return HALVES if name in _TORCHVISION else PUBLISHED["imagenet"]


def _create(source: str, name: str, num_classes: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        if source == "timm":
            import timm

            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
            return model
        import torchvision

        options = _TORCHVISION.get(name, {})
        found: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes, **options
        )
        return found
