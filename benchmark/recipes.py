"""Budgets and recipes of the common track (DECISIONS 13), and what `--epochs` etc. override."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.options import Options
from benchmark.spec import Recipe

Preset = Literal["demo", "quick", "full"]

BASELINE_EPOCHS: dict[str, float] = {"demo": 10, "quick": 30, "full": 200}
BUDGET_EPOCHS: dict[str, float] = {"demo": 6, "quick": 20, "full": 100}
# Few images make few steps: with the settings of CIFAR, ten epochs of the 1,294 training digits
# leave ResNet-110 at chance; with these it reaches 99 %.
SMALL_BASELINE = {"digits": {"batch_size": 32, "lr": 0.05, "warmup": 0.3}}
SMALL_RECOVERY = {"digits": {"batch_size": 64}}
# ImageNet: SGD at 0.1 and batch 256, a tenth of it after 30 and after 60 of 90 epochs, plain
# momentum 0.9, weight decay 1e-4. He et al., Deep Residual Learning (2016), section 3.4; epochs and
# steps are those of pytorch/examples, imagenet/main.py, and of torchvision's weights IMAGENET1K_V1.
# Recovery has half as many epochs, as on CIFAR, at a fifth of the rate.
LARGE = {"batch_size": 256, "weight_decay": 1e-4, "nesterov": False}
LARGE_STEPS = {"schedule": "step", "milestones": (1 / 3, 2 / 3), "gamma": 0.1, "warmup": 0.0}
LARGE_BASELINE = {"imagenet": LARGE | LARGE_STEPS}
LARGE_RECOVERY = {"imagenet": LARGE}
LARGE_BASELINE_EPOCHS = {"imagenet": {"demo": 2, "quick": 15, "full": 90}}
LARGE_BUDGET_EPOCHS = {"imagenet": {"demo": 1, "quick": 10, "full": 45}}


def baseline_recipe(preset: Preset, dataset: str) -> Recipe:
    """The dense network that all methods of a board start from."""
    epochs = LARGE_BASELINE_EPOCHS.get(dataset, BASELINE_EPOCHS)[preset]
    recipe = Recipe(epochs=epochs, lr=0.1, batch_size=128, warmup=0.1)
    return recipe.model_copy(update=(SMALL_BASELINE | LARGE_BASELINE).get(dataset, {}))


def recovery_recipe(preset: Preset, dataset: str) -> Recipe:
    """Training after removal; also the recipe of charged preparation phases."""
    epochs = LARGE_BUDGET_EPOCHS.get(dataset, BUDGET_EPOCHS)[preset]
    recipe = Recipe(epochs=epochs, lr=0.02, batch_size=128, warmup=0.05)
    return recipe.model_copy(update=(SMALL_RECOVERY | LARGE_RECOVERY).get(dataset, {}))


def override(recipe: Recipe, changes: dict[str, Any], prefix: str) -> Recipe:
    """The recipe with some fields changed.

    Raises:
        BadInput: unknown field or a value that does not fit; the legal fields are named.
    """
    unknown = sorted(changes.keys() - Recipe.model_fields.keys())
    if unknown:
        legal = ", ".join(sorted(Recipe.model_fields))
        raise BadInput(f"unknown setting {prefix}.{unknown[0]} (known: {legal})")
    try:
        return Recipe.model_validate(recipe.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{prefix}.{first['loc'][0]}: {first['msg']}") from error


def card_recipe(values: dict[str, Any], place: str) -> Recipe:
    """A recipe as a method's card states it.

    Raises:
        BadInput: a field is unknown, missing, or does not fit; `place` says where.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{place}.{first['loc'][0]}: {first['msg']}") from error


def recovery_changes(options: Options) -> dict[str, Any]:
    """What flags and `--set` say of recovery."""
    flags = {"epochs": options.epochs, "lr": options.lr, "batch_size": options.batch_size}
    return {k: v for k, v in flags.items() if v is not None} | settings(options, "recovery")


def settings(options: Options, prefix: str) -> dict[str, Any]:
    """What `--set PREFIX.FIELD=V` says, by field."""
    found = {}
    for key, value in options.set.items():
        owner, _, field = key.partition(".")
        if owner == prefix:
            found[field] = value
    return found
