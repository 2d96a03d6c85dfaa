"""Evidence kept with every record: code, libraries, hardware. Never part of the identity."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmark import vectors

PACKAGES = ("torch", "torchvision", "fvcore", "torch-pruning", "numpy", "scikit-learn")

FROZEN = "frozen.json"  # beside code that was copied for a cluster: which code it is


def describe() -> dict[str, Any]:
    """Git commit and dirty flag, versions, processor, GPU; whether torch is deterministic now."""
    return _machine() | {"deterministic": torch.are_deterministic_algorithms_enabled()}


@cache
def _machine() -> dict[str, Any]:
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def hardware_kind() -> str:
    """Machines of one kind give the same bits: processor, or GPU where there is one."""
    facts = describe()
    return str(facts["gpu"] or facts["cpu"])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    folder = Path(__file__).resolve().parent
    frozen = folder.parent / FROZEN
    if frozen.is_file():
        facts: dict[str, Any] = json.loads(frozen.read_text("utf-8"))
        return facts["git"] | {"snapshot": facts["digest"]}

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    status = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _cpu() -> str:
    """With the vector units in use: virtual machines call processors with and without AVX-512 by
    one name, and their bits differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({vectors.in_use()})"
