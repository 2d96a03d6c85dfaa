"""Tries of a run that ended without a record: evidence, not results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmark.record import parse_json
from benchmark.spec import RunSpec


@dataclass(frozen=True)
class Attempt:
    """Why a cell has no record."""

    run_id: str
    status: str  # failed, n/a, not run
    reason: str
    log: str
    spec: dict[str, Any]
    at: float = 0.0  # when it ended, seconds since 1970


ATTEMPT = TypeAdapter(Attempt)


def read_attempts(folder: Path) -> list[Attempt]:
    """By the time they ended; those that cannot be read are passed over."""
    read = [read_attempt(path) for path in sorted(folder.glob("[0-9]*.json"))]
    found = [attempt for attempt in read if attempt is not None]
    return sorted(found, key=lambda attempt: attempt.at)


def read_attempt(path: Path) -> Attempt | None:
    """None: not an attempt that this version understands. Attempts are evidence, not results."""
    try:
        content = parse_json(path.read_bytes())
        attempt = ATTEMPT.validate_python(content)
        RunSpec.model_validate(attempt.spec)
    except (OSError, ValueError):
        return None
    return attempt
