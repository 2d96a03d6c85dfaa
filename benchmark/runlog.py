"""The log of one cell: what happened when, in plain lines, appended by every attempt."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

WARNING = "warning: "


@dataclass
class RunLog:
    """Call it with a line. A log is evidence, not a result: it never stops a run."""

    path: Path
    warnings: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        """Append a line (or several) with the time in front."""
        if text.startswith(WARNING):
            self.warnings.append(text.removeprefix(WARNING))
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{now} {line}\n" for line in text.splitlines()))


def last_line(path: Path, whole: bool = False) -> str:
    """The newest line without its time (`whole`: as it is); empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    if whole:
        return next((line for line in reversed(lines) if line.strip()), "")
    return lines[-1][20:] if lines else ""
