"""How bad input is met: one clear line, exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from benchmark.cli import BAD_INPUT, invoke


def refused(
    command: Callable[..., Any], words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """The line that a command refuses these words with."""
    capsys.readouterr()
    assert invoke(command, list(words)) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said
