"""Why a piece of work failed, in one line that says what to do where that is known."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.errors import BadInput, is_full
from benchmark.files import full_disk
from benchmark.ledger import BudgetExceeded
from benchmark.phase import Diverged
from benchmark.planning import BadMethod
from benchmark.team import Lost

EXPECTED = (
    BudgetExceeded,
    Diverged,
    BadInput,
    BadMethod,
    Lost,
)  # the reason says it all: no traceback is shown


def reason_of(error: BaseException, root: Path) -> str:
    """One line that says what to do where that is known."""
    if isinstance(error, EXPECTED):
        return " ".join(str(error).split())
    if is_full(error):
        return full_disk(root)
    text = (str(error).splitlines() or [""])[0]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate" in text
    if memory:
        return f"out of memory: fewer --jobs, or a smaller --batch-size ({text or 'no details'})"
    return f"{type(error).__name__}: {text}"
