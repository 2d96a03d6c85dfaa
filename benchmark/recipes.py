"""Budgets and recipes of the common track (DECISIONS 13), and what `--epochs` etc. override."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.spec import Recipe

Preset = Literal["demo", "quick", "full"]

BASELINE_EPOCHS: dict[str, float] = {"demo": 10, "quick": 30, "full": 200}
BUDGET_EPOCHS: dict[str, float] = {"demo": 6, "quick": 20, "full": 100}
# Few images make few steps: with the settings of CIFAR, ten epochs of the 1,294 training digits
# leave ResNet-110 at chance; with these it reaches 99 %.
SMALL_BASELINE = {"digits": {"batch_size": 32, "lr": 0.05, "warmup": 0.3}}
SMALL_RECOVERY = {"digits": {"batch_size": 64}}


def baseline_recipe(preset: Preset, dataset: str) -> Recipe:
    """The dense network that all methods of a board start from."""
    recipe = Recipe(epochs=BASELINE_EPOCHS[preset], lr=0.1, batch_size=128, warmup=0.1)
    return recipe.model_copy(update=SMALL_BASELINE.get(dataset, {}))


def recovery_recipe(preset: Preset, dataset: str) -> Recipe:
    """Training after removal; also the recipe of charged preparation phases."""
    recipe = Recipe(epochs=BUDGET_EPOCHS[preset], lr=0.02, batch_size=128, warmup=0.05)
    return recipe.model_copy(update=SMALL_RECOVERY.get(dataset, {}))


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
