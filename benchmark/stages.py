"""The result of a shared piece of work as it lies in a folder: tensors, facts, a hash of both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmark.files import dump_json

TENSORS, FACTS = "tensors.safetensors", "facts.json"
DAMAGED = (OSError, ValueError, KeyError, TypeError, SafetensorError)  # what reading raises


@dataclass(frozen=True)
class Stage:
    """Tensors, and facts as JSON."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def content(self) -> tuple[bytes, str]:
        """The bytes of its tensors, and the hash of them and the facts."""
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in self.tensors.items()}
        raw = save(whole)
        return raw, _digest(raw, self.facts)


def read_stage(folder: Path) -> Stage:
    """Raises one of `DAMAGED` unless it is there and whole; the folder stays as it is."""
    raw, whole = _whole(folder)
    return Stage(load(raw), whole["facts"])


def is_stage(folder: Path, sha256: str) -> bool:
    """Whether the folder holds the stage of this hash."""
    try:
        return bool(_whole(folder)[1]["sha256"] == sha256)
    except DAMAGED:
        return False


def write_stage(draft: Path, raw: bytes, sha256: str, facts: dict[str, Any]) -> None:
    """`raw` and `sha256`: of its `content`."""
    (draft / TENSORS).write_bytes(raw)
    whole = dump_json({"facts": facts, "sha256": sha256})
    (draft / FACTS).write_text(whole, encoding="utf-8")


def _whole(folder: Path) -> tuple[bytes, dict[str, Any]]:
    raw = (folder / TENSORS).read_bytes()
    whole = json.loads((folder / FACTS).read_text("utf-8"))
    if whole["sha256"] != _digest(raw, whole["facts"]):
        raise ValueError("its content is not what was written")
    return raw, whole


def _digest(content: bytes, facts: dict[str, Any]) -> str:
    return hashlib.sha256(content + dump_json(facts).encode()).hexdigest()
