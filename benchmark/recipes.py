"""Budgets and recipes of the common track (DECISIONS 13), and what `--epochs` etc. override."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.spec import Recipe

Preset = Literal["demo", "quick", "full"]

BASELINE_EPOCHS: dict[str, float] = {"demo": 10, "quick": 30, "full": 200}
BUDGET_EPOCHS: dict[str, float] = {"demo": 6, "quick": 20, "full": 100}
BATCH_SIZE = {"digits": 64}  # 1,293 training images: 20 steps an epoch instead of 10


def baseline_recipe(preset: Preset, dataset: str) -> Recipe:
    """The dense network that all methods of a board start from."""
    return Recipe(
        epochs=BASELINE_EPOCHS[preset],
        lr=0.1,
        batch_size=BATCH_SIZE.get(dataset, 128),
        warmup=0.1,
    )


def recovery_recipe(preset: Preset, dataset: str) -> Recipe:
    """Training after removal; also the recipe of charged preparation phases."""
    return Recipe(
        epochs=BUDGET_EPOCHS[preset],
        lr=0.02,
        batch_size=BATCH_SIZE.get(dataset, 128),
        warmup=0.05,
    )


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
