"""The words that make one record again, or begin a grid."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from benchmark.options import Options
from benchmark.sweep import Cell, preset_of

ELSEWHERE = {  # where and how a grid runs: no result depends on it
    "results", "jobs", "workers", "device", "checkpoint_minutes", "executor", "site", "extra_test",
}  # fmt: skip
ALWAYS_SAID = ("methods", "arch", "dataset", "preset", "seeds")  # defaults may change
# Trials have seeds of their own and run on this machine, charged and without refits.
NOT_FOR_TRIALS = {
    "lane", "seeds", "reconstruct", "preparation", "optimistic", "extra_test", "executor", "site",
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
        "weights": [spec.scratch.kind if spec.scratch else "inherited"],
        "precision": spec.precision,
        "round_to": spec.round_to,
        "schedule": [spec.schedule],
        "allocation": _allocation(cell),
        "controls": False,
        "trials": spec.trials or options.trials,
    }
    return words_of(options.model_copy(update=own))


def words_of(options: Options, here: bool = False) -> str:
    """The command of a grid, or of trials; `here`: as it is typed on this machine."""
    is_trial = options.lane == "trial"
    words = ["python -m benchmark.tune" if is_trial else "python -m benchmark.run"]
    said = options.model_dump(mode="json", exclude_defaults=True)
    said |= {n: value for n in ALWAYS_SAID if (value := getattr(options, n)) is not None}
    if is_trial:  # at the first of them
        said |= {n: said[n][:1] for n in ("flops_reduction", "schedule") if n in said}
    silent = (NOT_FOR_TRIALS if is_trial else set()) | (set() if here else ELSEWHERE)
    for name, value in said.items():
        if name in silent:
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
