"""Files under one results directory: records (immutable), stages (shared, content-addressed),
attempts. Everything is written to a temporary name and renamed, so nothing half-written is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmark.checkpoint import EVERY, Checkpoints, quiet
from benchmark.claims import Claims
from benchmark.encoding import curve_csv
from benchmark.errors import BadInput, is_full
from benchmark.files import (
    DRAFT,
    dump_json,
    new_folder,
    write_bytes,
    write_numbered,
    write_text,
)
from benchmark.record import RECORD, RunRecord, one_line, parse_json, read_record
from benchmark.spec import RunSpec
from methods.api import Plan

BALLAST = 1 << 18  # bytes: room for some hundred attempts


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
    at: str = ""  # when it ended


@dataclass(frozen=True)
class Store:
    """Everything is derived from `root`."""

    root: Path

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def claims(self) -> Claims:
        return Claims(self.stages / "claims")

    def checkpoints(
        self, kind: str, key: str, every: float = EVERY, log: Callable[[str], None] = quiet
    ) -> Checkpoints:
        """Those of one piece of work."""
        return Checkpoints(self.stages / "checkpoints" / f"{kind}-{key}", every, log)

    def log_name(self, name: str) -> str:
        """Place of a cell's log under the root; `name` is a run id, or dense-KEY."""
        return f"logs/{name}.log"

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
        found = (self.root / "runs").glob(f"*/*/*/*/{RECORD}")
        return sorted(path for path in found if not path.parent.name.startswith(DRAFT))

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
        """All measurements of a kind, sorted by name.

        Raises:
            BadInput: one of them cannot be read.
        """
        folder = self.run_folder(spec) / "measurements"
        return [_read_measurement(path) for path in sorted(folder.glob(f"{kind}-*.json"))]

    # ---- attempts ------------------------------------------------------------------------------

    def write_attempt(self, spec: RunSpec, status: str, reason: str, log: str = "") -> None:
        """Write down why a try ended without a record. On a full disk the ballast makes room."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        attempt = Attempt(spec.run_id, status, reason, log, spec.model_dump(mode="json"), now)
        folder = self.root / "attempts" / spec.folder
        content = dump_json(asdict(attempt)).encode()
        try:
            write_numbered(folder, content)
        except OSError as error:
            if not is_full(error):
                raise
            self._ballast.unlink(missing_ok=True)
            write_numbered(folder, content)

    @property
    def _ballast(self) -> Path:
        return self.root / "attempts" / ".ballast"

    def take_ballast(self) -> None:
        """Room for attempts, kept for the moment when the disk is full."""
        if not self._ballast.exists():
            with contextlib.suppress(OSError):
                write_bytes(self._ballast, os.urandom(BALLAST))

    def attempts(self, spec: RunSpec) -> list[Attempt]:
        """All tries of a run that ended without a record, oldest first."""
        folder = self.root / "attempts" / spec.folder
        found = (_read_attempt(path) for path in sorted(folder.glob("*.json")))
        return [attempt for attempt in found if attempt is not None]

    def last_attempts(self) -> list[Attempt]:
        """The last attempt of every cell that has no record, sorted by place."""
        found = []
        for folder in sorted(
            {p.parent for p in (self.root / "attempts").glob("*/*/*/*/[0-9]*.json")}
        ):
            attempt = _read_attempt(max(folder.glob("*.json")))
            if attempt is not None and not self.has(RunSpec.model_validate(attempt.spec)):
                found.append(attempt)
        return found

    def attempted(self) -> list[RunSpec]:
        """Runs without a record that were tried."""
        return [RunSpec.model_validate(attempt.spec) for attempt in self.last_attempts()]

    # ---- stages --------------------------------------------------------------------------------

    def stage(self, kind: str, key: str, log: Callable[[str], None] = quiet) -> Stage | None:
        """A finished stage, or None. A damaged one is thrown away, with a warning."""
        folder = self._stage_folder(kind, key)
        if not folder.exists():
            return None
        try:
            content = (folder / "tensors.safetensors").read_bytes()
            whole = json.loads((folder / "facts.json").read_text("utf-8"))
            if whole["sha256"] != _stage_digest(content, whole["facts"]):
                raise ValueError("its content is not what was written")
            return Stage(load(content), whole["facts"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log(f"warning: stage {folder.name} is damaged ({error}); it is made again")
            with (
                tempfile.TemporaryDirectory(prefix=DRAFT, dir=self.stages) as bin_,
                contextlib.suppress(FileNotFoundError),
            ):  # somebody else was faster
                folder.rename(Path(bin_) / folder.name)
            return None

    def has_stage(self, kind: str, key: str) -> bool:
        """Whether it is there; its content is not looked at."""
        return (self._stage_folder(kind, key) / "facts.json").is_file()

    def publish_stage(self, kind: str, key: str, stage: Stage) -> None:
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in stage.tensors.items()}
        content = save(whole)
        facts = {"facts": stage.facts, "sha256": _stage_digest(content, stage.facts)}
        with new_folder(self._stage_folder(kind, key)) as draft:
            (draft / "tensors.safetensors").write_bytes(content)
            (draft / "facts.json").write_text(dump_json(facts), encoding="utf-8")

    def _stage_folder(self, kind: str, key: str) -> Path:
        return self.stages / f"{kind}-{key}"


def _read_measurement(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a measurement: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not a measurement")
    return content


def _stage_digest(content: bytes, facts: dict[str, Any]) -> str:
    return hashlib.sha256(content + dump_json(facts).encode()).hexdigest()


def _read_attempt(path: Path) -> Attempt | None:
    """None: not an attempt that this version understands. Attempts are evidence, not results."""
    try:
        attempt = Attempt(**json.loads(path.read_text("utf-8")))
        RunSpec.model_validate(attempt.spec)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return attempt


def check_writable(root: Path) -> None:
    """Raises BadInput if results cannot be written there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        if is_full(error):
            raise BadInput(full_disk(root)) from error
        raise BadInput(f"results directory {root} is not writable: {error.strerror}") from error


def full_disk(root: Path) -> str:
    """One line about it."""
    try:
        free = f"{shutil.disk_usage(root).free / 2**20:.0f} MB free"
    except OSError:
        free = "no room"
    return f"the disk under {root} is full ({free}): make room, or give another --results"
