"""The words that make one record again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from benchmark.options import Options
from benchmark.sweep import Cell, preset_of

# Where and how a grid runs, not what it is.
ELSEWHERE = {
    "results", "jobs", "workers", "device", "checkpoint_minutes", "executor", "site",
}  # fmt: skip
ALWAYS_SAID = ("methods", "arch", "dataset", "preset", "seeds")  # defaults may change

ELSEWHERE = {  # what no result depends on
    "results", "jobs", "device", "checkpoint_minutes", "executor", "site", "extra_test",
}  # fmt: skip


def command_of(cell: Cell, options: Options, label: str) -> str:
    """The command that makes this one record again. Places of this machine are left out: files
    are named without their folders, the data directory is DIR."""
    spec = cell.spec
    own: dict[str, Any] = {
        "methods": [Path(label).name],
        "preset": preset_of(options),
        "data_dir": None if options.data_dir is None else Path("DIR"),
        "checkpoint": None if options.checkpoint is None else Path(options.checkpoint.name),
        "seeds": [spec.seeds.run],
        "flops_reduction": [spec.flops_reduction] if spec.flops_reduction else [],
        "preparation": [spec.preparation],
        "reconstruct": [spec.reconstruct],
        "precision": spec.precision,
        "round_to": spec.round_to,
        "schedule": [spec.schedule],
        "allocation": _allocation(cell),
        "controls": False,
    }
    chosen = options.model_copy(update=own)
    words = ["python -m benchmark.run"]
    said = chosen.model_dump(mode="json", exclude_defaults=True)
    said |= {name: getattr(chosen, name) for name in ALWAYS_SAID}
    for name, value in said.items():
        if name in ELSEWHERE:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            words += [f"--set {shlex.quote(f'{k}={_word(v)}')}" for k, v in value.items()]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words.append(f"{flag} {shlex.quote(','.join(map(str, value)))}")
        else:
            words.append(f"{flag} {shlex.quote(str(value))}")
    return " ".join(words)


def _allocation(cell: Cell) -> str:
    """As it has to be said: a control stands at that of the rows it was added to."""
    resolved = cell.spec.allocation
    said = resolved in ("global", "uniform") and resolved != cell.entry.cls.allocations[0]
    return resolved if said else "method"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
