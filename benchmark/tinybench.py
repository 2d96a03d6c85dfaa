"""A bench of its own: tiny images that can be learnt, networks trained on them in a second, and
trainers for both. What `python -m benchmark.check` and the tests let methods loose on."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.cifar_resnet import CifarResNet
from benchmark.cifar_vgg import CifarVgg
from benchmark.data import Data
from benchmark.images import DataIdentity, Images
from benchmark.ledger import Ledger
from benchmark.network import Network, Scope
from benchmark.spec import Recipe
from benchmark.trainer import Trainer
from benchmark.trial import Bench

CLASSES, SIZE = 4, 16
TRAIN, VAL, TEST = 200, 40, 60
EPOCHS = 4.0  # the budget
RECIPE = Recipe(epochs=EPOCHS, lr=0.05, batch_size=25)
BASELINE = Recipe(epochs=10, lr=0.1, batch_size=25)
FLAT = (0.5, 0.5, 0.5)

Kind = Literal["resnet", "vgg"]


def bench(kind: Kind = "resnet") -> Bench:
    """What the checks of a method run on."""
    test = data().test
    assert isinstance(test, Images)
    return Bench(lambda seed: network(kind, seed), trainer, test)


@functools.cache
def data() -> Data:
    """Four smooth patterns in noise: 200 training, 40 validation and 60 test images."""
    draw = torch.Generator().manual_seed(1)
    pattern = F.interpolate(torch.randn(CLASSES, 3, 4, 4, generator=draw), SIZE, mode="bilinear")

    def images(count: int, first: int) -> Images:
        labels = torch.arange(count)[torch.randperm(count, generator=draw)] % CLASSES
        noise = torch.randn(count, 3, SIZE, SIZE, generator=draw)
        pixels = (128 + 20 * pattern[labels] + 60 * noise).clamp(0, 255).to(torch.uint8)
        return Images(pixels, labels, torch.arange(first, first + count))

    identity = DataIdentity(
        name="tiny", content_hash="tiny", image_size=SIZE, num_classes=CLASSES, mean=FLAT,
        std=FLAT, pad=2, flip=True, split_hash="tiny",
    )  # fmt: skip
    names = tuple("abcd")
    return Data(identity, names, images(TRAIN, 0), images(VAL, TRAIN), images(TEST, 0))


def trainer(
    seed: int = 0, epochs: float = EPOCHS, recipe: Recipe = RECIPE, **changes: Any
) -> Trainer:
    """A trainer with a budget of `epochs`; other fields of `Trainer` by name."""
    found, identity = data(), data().identity
    fields: dict[str, Any] = {
        "train": found.train.source(identity),
        "val": found.val.source(identity),
        "num_classes": CLASSES,
        "recipe": recipe,
        "seed": seed,
        "data_hash": identity.content_hash,
        "ledger": Ledger(round(epochs * TRAIN), TRAIN),
    }
    return Trainer(**fields | changes)


def model(kind: Kind = "resnet", seed: int = 0) -> nn.Module:
    """A plain network with random weights; the random state of the caller is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "resnet":
            return CifarResNet(8, CLASSES, width=8)
        return CifarVgg(CLASSES, plan=(8, 0, 16, 0, 16))


@functools.cache
def trained_state(kind: Kind, seed: int) -> dict[str, Tensor]:
    """Weights after a short training: well above chance, not perfect."""
    found = model(kind, seed)
    run = trainer(seed, epochs=BASELINE.epochs)
    run.run_phase(found, BASELINE, "baseline")
    return {k: v.clone() for k, v in found.state_dict().items()}


def network(
    kind: Kind = "resnet", seed: int = 0, *, trained: bool = True, scope: Scope = "inner"
) -> Network:
    """A new traced network in eval mode."""
    return traced(kind, seed, trained, scope).copy()


@functools.cache
def traced(kind: Kind, seed: int, trained: bool, scope: Scope) -> Network:
    """Tracing takes a second, copying does not."""
    found = model(kind, seed)
    if trained:
        found.load_state_dict(trained_state(kind, seed))
    return Network(found, torch.zeros(1, 3, SIZE, SIZE), scope).eval()
