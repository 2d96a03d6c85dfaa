"""Files under one results directory: records (immutable), stages (shared, content-addressed),
attempts. Everything is written to a temporary name and renamed, so nothing half-written is read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.files import dump_json, new_folder, write_text
from benchmark.record import RECORD, RunRecord, read_record
from benchmark.spec import RunSpec
from methods.api import Plan


@dataclass(frozen=True)
class Stage:
    """Result of a shared piece of work: tensors, and facts as JSON."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """Why a cell has no record."""

    run_id: str
    status: str  # failed, n/a, not run
    reason: str
    log: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Store:
    """Everything is derived from `root`."""

    root: Path

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    def run_folder(self, spec: RunSpec) -> Path:
        """Place of a run's record."""
        return self.root / "runs" / spec.folder

    # ---- records -------------------------------------------------------------------------------

    def has(self, spec: RunSpec) -> bool:
        return (self.run_folder(spec) / RECORD).is_file()

    def read(self, spec: RunSpec) -> RunRecord:
        return read_record(self.run_folder(spec) / RECORD)

    def records(self) -> list[RunRecord]:
        """All records, sorted by place."""
        return [read_record(path) for path in self.record_paths()]

    def record_paths(self) -> list[Path]:
        return sorted((self.root / "runs").glob(f"*/*/*/*/{RECORD}"))

    def write(
        self,
        record: RunRecord,
        plan: Plan,
        curve: list[dict[str, Any]],
        arrays: dict[str, np.ndarray],
    ) -> Path:
        """Publish a finished run as one folder. A run that exists already is left alone."""
        folder = self.run_folder(record.spec)
        with new_folder(folder) as draft:
            kept = {g: list(k) for g, k in plan.keep.items()}
            write_text(draft / RECORD, dump_json(record.model_dump(mode="json")))
            write_text(draft / "plan.json", dump_json({"run_id": record.run_id, "keep": kept}))
            write_text(draft / "curve.csv", curve_csv(curve))
            with (draft / "predictions.npz").open("wb") as handle:
                np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
        return folder

    def write_measurement(self, spec: RunSpec, kind: str, key: str, facts: dict[str, Any]) -> Path:
        """A later measurement beside the record: a new immutable file."""
        path = self.run_folder(spec) / "measurements" / f"{kind}-{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, dump_json(facts))
        return path

    def measurements(self, spec: RunSpec, kind: str) -> list[dict[str, Any]]:
        """All measurements of a kind, sorted by name."""
        folder = self.run_folder(spec) / "measurements"
        return [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob(f"{kind}-*.json"))]

    # ---- attempts ------------------------------------------------------------------------------

    def write_attempt(self, spec: RunSpec, status: str, reason: str, log: str = "") -> None:
        attempt = Attempt(spec.run_id, status, reason, log, spec.model_dump(mode="json"))
        folder = self.root / "attempts" / spec.folder
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder)) / "attempt"
        write_text(draft, dump_json(asdict(attempt)))
        for number in itertools.count():  # a link fails where another worker took the number
            with contextlib.suppress(FileExistsError):
                (folder / f"{number:03d}.json").hardlink_to(draft)
                break
        shutil.rmtree(draft.parent, ignore_errors=True)

    def last_attempts(self) -> list[Attempt]:
        """The last attempt of every cell that has no record, sorted by place."""
        found = []
        for folder in sorted({p.parent for p in (self.root / "attempts").glob("*/*/*/*/*.json")}):
            attempt = Attempt(**json.loads(max(folder.glob("*.json")).read_text("utf-8")))
            spec = RunSpec.model_validate(attempt.spec)
            if not self.has(spec):
                found.append(attempt)
        return found

    # ---- stages --------------------------------------------------------------------------------

    def stage(self, kind: str, key: str) -> Stage | None:
        """A finished stage, or None."""
        folder = self.stages / f"{kind}-{key}"
        if not (folder / "facts.json").is_file():
            return None
        tensors = load_file(folder / "tensors.safetensors")
        return Stage(tensors, json.loads((folder / "facts.json").read_text("utf-8")))

    def publish_stage(self, kind: str, key: str, stage: Stage) -> None:
        with new_folder(self.stages / f"{kind}-{key}") as draft:
            whole = {k: v.detach().cpu().contiguous() for k, v in stage.tensors.items()}
            save_file(whole, draft / "tensors.safetensors")
            write_text(draft / "facts.json", dump_json(stage.facts))

    @contextlib.contextmanager
    def only_one(self, kind: str, key: str) -> Iterator[None]:
        """One process at a time; the operating system frees the claim of a dead one."""
        self.stages.mkdir(parents=True, exist_ok=True)
        with FileLock(self.stages / f"{kind}-{key}.lock"):
            yield


def check_writable(root: Path) -> None:
    """Raises BadInput if results cannot be written there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root):
            pass
    except OSError as error:
        raise BadInput(f"results directory {root} is not writable: {error.strerror}") from error


def encode(value: Any) -> Any:
    """JSON for facts: tensors become float16 in base64 (masks: 40 kB for ResNet-110)."""
    if isinstance(value, Tensor):
        half = value.detach().cpu().half()
        data = base64.b64encode(half.numpy().tobytes()).decode()
        return {"float16": data, "shape": list(half.shape)}
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def decode(value: Any) -> np.ndarray:
    """Array of an encoded tensor."""
    raw = np.frombuffer(base64.b64decode(value["float16"]), dtype=np.float16)
    return raw.reshape(value["shape"]).astype(np.float32)


def curve_csv(rows: list[dict[str, Any]]) -> str:
    """One line per epoch; numbers as Python prints them."""
    columns = ["phase", "epoch", "images", "lr", "loss", "val_top1"]
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    for row in rows:
        text.write(",".join("" if row[c] is None else str(row[c]) for c in columns) + "\n")
    return text.getvalue()


def weights_digest(state: dict[str, Tensor]) -> str:
    """16 hex digits over names, types, shapes and bits."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
        hasher.update(repr(tensor.item()).encode() if not tensor.dim() else b"")
    return hasher.hexdigest()[:16]
