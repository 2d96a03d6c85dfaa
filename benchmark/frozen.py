"""What every model of ours is: immutable, and unknown keys are errors."""

from __future__ import annotations

from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

HARMLESS = {str, int, float, type(None)}  # most of what a record holds: the quick way out


class Frozen(BaseModel):
    """Immutable, and unknown keys are errors.

    `ADDED_LATER` names fields that a later version of the suite added. While they hold their
    default, which must mean what was done before, they are left out of the run id: old ids stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if type(value) in HARMLESS:
            return value
        return refuse_truth(value, cls.model_fields[str(info.field_name)].annotation)


def refuse_truth(value: Any, annotation: Any) -> Any:
    """The value, unless it is or lists true or false and the field takes none: Python counts them
    as 1 and 0, nobody who writes `epochs = true` does."""
    if _takes_truth(annotation):
        return value
    held = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, dict) and get_origin(annotation) is dict:  # a model judges its own fields
        held = list(value.values())
    for item in held:
        if isinstance(item, bool):
            raise ValueError(f"needs a number or a word, not {str(item).lower()}")
    return value


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(a) for a in get_args(annotation))
