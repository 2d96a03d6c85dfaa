"""The budget ledger: images used for a gradient step bind, all else is recorded (DECISIONS 12)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FORWARD_SHARE = 0.05  # of the budget: forward-only scoring, and BN recalibration, each
TRAIN_STEP = 3  # MACs of forward, gradient of inputs and gradient of weights

Kind = Literal["charged", "free", "forward"]


def is_recovery(phase: str) -> bool:
    """Whether a phase trains what is left; a schedule has one after each round."""
    return re.fullmatch(r"recovery(-\d+)?", phase) is not None


class BudgetExceeded(Exception):
    """More images were used for gradient steps than the budget holds."""


@dataclass(frozen=True)
class Entry:
    """One phase. `free` phases are recorded but not held against the budget."""

    phase: str
    kind: Kind
    images: int
    epochs: float
    macs: int  # multiply-accumulates of the whole phase
    seconds: float
    requested: int  # images asked for: larger than `images` where the cap cut in


@dataclass
class Ledger:
    """What a run may spend, and what it spent."""

    allowed: int  # images
    train_images: int  # one epoch
    entries: list[Entry] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Images charged so far."""
        return sum(e.images for e in self.entries if e.kind == "charged")

    @property
    def left(self) -> int:
        return self.allowed - self.spent

    def forward_left(self, phase: str) -> int:
        """Forward-only training images this phase may still use."""
        used = sum(e.images for e in self.entries if e.kind == "forward" and e.phase == phase)
        return max(0, int(FORWARD_SHARE * self.allowed) - used)

    def check(self, images: int, phase: str) -> None:
        """Raises BudgetExceeded if the phase would overspend."""
        if images > self.left:
            raise BudgetExceeded(
                f"{phase} wants {images} images for gradient steps, {self.left} of "
                f"{self.allowed} are left"
            )

    def add(
        self,
        phase: str,
        kind: Kind,
        images: int,
        macs_per_image: int,
        seconds: float,
        requested: int | None = None,
    ) -> None:
        """Write a phase down.

        Raises:
            BudgetExceeded: a charged phase spends more than is left.
        """
        if kind == "charged":
            self.check(images, phase)
        steps = 1 if kind == "forward" else TRAIN_STEP
        self.entries.append(
            Entry(
                phase=phase,
                kind=kind,
                images=images,
                epochs=images / self.train_images,
                macs=steps * macs_per_image * images,
                seconds=seconds,
                requested=images if requested is None else requested,
            )
        )

    def as_rows(self) -> list[dict[str, Any]]:
        """JSON-ready rows in the order of spending."""
        return [asdict(e) for e in self.entries]

    @staticmethod
    def rows(rows: list[dict[str, Any]]) -> list[Entry]:
        """Entries of `as_rows`."""
        return [Entry(**row) for row in rows]
