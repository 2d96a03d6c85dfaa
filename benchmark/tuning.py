"""What trials were made of a method and what they chose, as it is kept in files and records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from benchmark.frozen import Frozen


class Tuning(Frozen):
    """Evidence in a tuned run's record: what its values were chosen from, and what that cost."""

    trials: int
    settings: int  # different ones among the trials
    values: dict[str, Any]  # chosen, by name
    val_top1: float  # of the chosen setting, mean over its trials
    default_val_top1: float | None  # of the default setting; None: it diverged
    target: float  # FLOPs reduction of the trials
    allocation: str
    images: int  # for gradient steps of all trials
    seconds: float  # of all finished trials


class Tried(Frozen):
    """One setting, and its trials in their order; accuracy None: that trial diverged."""

    values: dict[str, Any]
    runs: tuple[str, ...]
    val_top1: tuple[float | None, ...]

    @property
    def score(self) -> float | None:
        """Final validation accuracy, mean over its trials; None: one of them diverged."""
        known = [top1 for top1 in self.val_top1 if top1 is not None]
        return sum(known) / len(known) if known and len(known) == len(self.val_top1) else None


class Choice(Frozen):
    """Of one method on one architecture. `best` is a place in `tried`, whose first is the default
    setting; None: nothing could be chosen, and `reason` says why."""

    key: str
    method: str
    data: str
    arch: str
    trials: int = Field(ge=1)
    target: float
    allocation: str
    space: dict[str, tuple[Any, ...]]
    tried: tuple[Tried, ...]
    best: int | None
    reason: str = ""
    images: int
    seconds: float

    @model_validator(mode="after")
    def _consistent(self) -> Choice:
        if self.best is not None and not 0 <= self.best < len(self.tried):
            raise ValueError("the best setting is none of those that were tried")
        if self.best is not None and self.tried[self.best].score is None:
            raise ValueError("the best setting has no accuracy")
        return self

    @property
    def values(self) -> Mapping[str, Any] | None:
        return None if self.best is None else self.tried[self.best].values

    def evidence(self) -> Tuning | None:
        """For the records of runs with these values."""
        if self.best is None:
            return None
        chosen = self.tried[self.best]
        assert chosen.score is not None
        return Tuning(
            trials=self.trials,
            settings=len(self.tried),
            values=chosen.values,
            val_top1=chosen.score,
            default_val_top1=self.tried[0].score,
            target=self.target,
            allocation=self.allocation,
            images=self.images,
            seconds=self.seconds,
        )


def best_of(tried: tuple[Tried, ...]) -> int | None:
    """The setting with the highest accuracy, of equal ones the first; None: all diverged."""
    scores = [setting.score for setting in tried]
    known = [score for score in scores if score is not None]
    return scores.index(max(known)) if known else None


def shown(values: Mapping[str, Any]) -> str:
    """`recovery.lr=0.03 mask_lr=0.1`"""
    return " ".join(f"{name}={_word(value)}" for name, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
