"""Files under one results directory: records (immutable), stages (shared, content-addressed),
attempts. Everything is written to a temporary name and renamed, so nothing half-written is read.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.attempts import Attempt, read_attempts
from benchmark.checkpoint import EVERY, Checkpoints, quiet
from benchmark.claims import Claims
from benchmark.encoding import curve_csv, packed
from benchmark.errors import BadInput, is_full
from benchmark.files import (
    DRAFT,
    dump_json,
    new_folder,
    write_bytes,
    write_numbered,
    write_text,
)
from benchmark.record import (
    RECORD,
    Newer,
    RunRecord,
    one_line,
    parse_json,
    read_record,
    readable,
)
from benchmark.spec import RunSpec
from benchmark.stages import DAMAGED, is_stage, read_stage, write_stage
from benchmark.stages import Stage as Stage
from methods.api import Plan

ASIDE = ".damaged-"  # begins the name of what could not be read
BALLAST = 1 << 18  # bytes: room for some hundred attempts


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
        """Whether the run is finished and its record can be read."""
        path = self.run_folder(spec) / RECORD
        return path.is_file() and not damage_of(path)

    def damage(self, spec: RunSpec) -> str:
        """Why the run's folder holds no record that can be read; empty: all is well, or it is not
        there."""
        folder = self.run_folder(spec)
        return damage_of(folder / RECORD) if folder.exists() else ""

    def read(self, spec: RunSpec) -> RunRecord:
        return read_record(self.run_folder(spec) / RECORD)

    def records(self, block: str = "") -> list[RunRecord]:
        """All that can be read, of one block (DATA/ARCH) or of all, sorted by place; `damaged`
        tells of the others.

        Raises:
            Newer: one is of a newer schema.
        """
        return list(readable(self.record_paths(block)))

    def damaged(self, block: str = "", fine: Container[str] = ()) -> list[str]:
        """A line for each record that cannot be read, of one block or of all. `fine`: run ids of
        those that were read already."""
        paths = [path for path in self.record_paths(block) if path.parent.name not in fine]
        return [reason for path in paths if (reason := damage_of(path))]

    def record_paths(self, block: str = "") -> list[Path]:
        """Of finished runs; not of drafts, nor of what was set aside."""
        runs = self.root / "runs"
        found = (runs / block).glob(f"*/*/{RECORD}") if block else runs.glob(f"*/*/*/*/{RECORD}")
        return sorted(path for path in found if not path.parent.name.startswith("."))

    def write(
        self,
        record: RunRecord,
        plan: Plan,
        curve: list[dict[str, Any]],
        arrays: dict[str, np.ndarray],
    ) -> Path:
        """Publish a finished run as one folder. A run that exists already is left alone; a damaged
        one is set aside."""
        folder = self.run_folder(record.spec)
        if self.damage(record.spec):
            _set_aside(folder)
        with new_folder(folder) as draft:
            kept = {g: list(k) for g, k in plan.keep.items()}
            write_text(draft / RECORD, dump_json(record.model_dump(mode="json")))
            content = {"run_id": record.run_id, "keep": kept} | packed(plan.tensors())
            write_text(draft / "plan.json", dump_json(content))
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
            os.utime(self.run_folder(spec))  # for `block.stamp`
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
        content = spec.model_dump(mode="json")
        attempt = Attempt(spec.run_id, status, reason, log, content, time.time())
        folder = self.root / "attempts" / spec.folder
        text = dump_json(asdict(attempt)).encode()
        try:
            write_numbered(folder, text)
        except OSError as error:
            if not is_full(error):
                raise
            self._ballast.unlink(missing_ok=True)
            write_numbered(folder, text)

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
        return read_attempts(self.root / "attempts" / spec.folder)

    def last_attempts(self, block: str = "*/*") -> list[Attempt]:
        """The last attempt of every cell of a block, or of all, that has no record, sorted by
        place."""
        found = []
        attempts = self.root / "attempts"
        for folder in sorted({p.parent for p in attempts.glob(f"{block}/*/*/[0-9]*.json")}):
            tries = read_attempts(folder)
            if tries and not self.has(RunSpec.model_validate(tries[-1].spec)):
                found.append(tries[-1])
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
            return read_stage(folder)
        except DAMAGED as error:
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
        content, sha256 = stage.content()
        folder = self._stage_folder(kind, key)
        if folder.exists() and not is_stage(folder, sha256):
            _set_aside(folder)  # of another try, on another machine, or damaged
        with new_folder(folder) as draft:
            write_stage(draft, content, sha256, stage.facts)

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


def damage_of(path: Path) -> str:
    """Why a record cannot be read; empty: it can, or is of a newer schema."""
    try:
        read_record(path)
    except Newer:
        return ""
    except BadInput as error:
        return str(error)
    return ""


def _set_aside(folder: Path) -> None:
    """Out of the way, but not lost."""
    for number in itertools.count():
        place = folder.with_name(f"{ASIDE}{folder.name}-{number}")
        if not place.exists():
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                folder.rename(place)
            return
