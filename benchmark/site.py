"""One cluster as a file says it: `slurm/sites/<cluster>.toml`, and what a job of a grid takes of
it. Nothing here asks SLURM: see `slurm.py` and `sitecheck.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from benchmark.errors import BadInput
from benchmark.frozen import Frozen
from benchmark.record import check_plain, one_line, refuse_unknown
from methods.cards import parse_toml

START_UP = 60  # seconds: imports and data, before a job can do anything useful
LONGEST_SIGNAL = 65535  # seconds, SLURM's own limit

_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,6})(?::([0-5]\d))?(?::([0-5]\d))?", re.ASCII)
_WORD = re.compile(r"[^\s\-][^\s]*")  # one word of a command line that is no option
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
# Options that have a key here, or that the launcher decides by itself.
_OWN_KEYS = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "exclude": "exclude", "gres": "gpus and gpu_type", "gpus": "gpus", "gpus-per-node": "gpus",
    "gpus-per-task": "gpus", "cpus-per-task": "cpus", "mem": "memory_gb", "time": "time",
    "signal": "signal_seconds",
}  # fmt: skip
_DECIDED = {
    "array", "nodes", "ntasks", "ntasks-per-node", "job-name", "output", "error", "open-mode",
    "requeue", "no-requeue", "dependency", "wrap", "parsable", "test-only", "chdir", "export",
}  # fmt: skip


class Site(Frozen):
    """One cluster. Figures are of one job, those of hardware of one node of it; the keys are
    explained in `slurm/sites/template.toml`."""

    device: Literal["cuda", "cpu"]
    time: str
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    gpu_type: str = ""
    gpus: int = Field(ge=0, le=64)
    gpus_per_node: int = Field(0, ge=0, le=64)
    cpus: int = Field(1, ge=1, le=1024)
    memory_gb: float = Field(0.0, ge=0, le=100_000)
    signal_seconds: int = Field(120, ge=1, le=LONGEST_SIGNAL)
    cells_per_gpu: int = Field(1, ge=1, le=64)
    cells_per_job: int = Field(0, ge=0, le=1024)
    array_parallelism: int = Field(16, ge=1, le=100_000)
    max_array: int = Field(0, ge=0)
    max_submit: int = Field(0, ge=0)
    fill_minutes: float = Field(30.0, ge=0)
    setup: tuple[str, ...] = ()
    python: str = ""
    extra: dict[str, str] = Field({})
    probe: bool = True
    master_address: str = ""

    WORDS: ClassVar[tuple[str, ...]] = (
        "partition", "account", "qos", "constraint", "exclude", "gpu_type", "master_address",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _one_gpu_where_there_are_gpus(cls, content: Any) -> Any:
        if isinstance(content, dict) and "gpus" not in content:
            return content | {"gpus": 1 if content.get("device") == "cuda" else 0}
        return content

    @field_validator("time", mode="before")
    @classmethod
    def _number_of_minutes(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value

    @field_validator("time")
    @classmethod
    def _has_an_end(cls, value: str) -> str:
        if not minutes_of(value):
            raise ValueError('needs "H:MM:SS", "D-HH:MM:SS" or minutes, more than none')
        return value

    @field_validator(*WORDS)
    @classmethod
    def _one_word(cls, value: str, info: ValidationInfo) -> str:
        if value and not _WORD.fullmatch(value):
            raise ValueError("needs one word: no spaces, no '-' in front")
        if "," in value and info.field_name == "partition":
            raise ValueError("needs one partition, not a list: write a file for each")
        return value

    @field_validator("memory_gb")
    @classmethod
    def _some_memory(cls, value: float) -> float:
        if 0 < value < 0.05:
            raise ValueError("needs 0.05 or more; 0 takes what the cluster gives by itself")
        return value

    @field_validator("python")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if "\n" in value:
            raise ValueError("needs a single line")
        return value

    @field_validator("setup")
    @classmethod
    def _lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\n" in line for line in value):
            raise ValueError("needs a list of single lines")
        return value

    @field_validator("extra", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        numbers = {k: str(v) for k, v in value.items() if type(v) in (int, float)}
        return value | numbers

    @field_validator("extra")
    @classmethod
    def _other_options(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not _OPTION.fullmatch(key):
                raise ValueError(f"'{one_line(key)}' is no long option of sbatch without its '--'")
            if key in _OWN_KEYS:
                raise ValueError(f"'{key}' has a key of its own: {_OWN_KEYS[key]}")
            if key in _DECIDED:
                raise ValueError(f"'{key}' is set by the launcher")
            if "\n" in text:
                raise ValueError(f"'{key}' needs a single line")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Site:
        if self.device == "cuda" and self.gpus == 0:
            raise ValueError('device = "cuda" needs gpus = 1 or more; without GPUs say "cpu"')
        least = self.signal_seconds + START_UP
        if self.minutes * 60 <= least:
            raise ValueError(
                f"time limit shorter than the signal delay: time = {self.time} must exceed "
                f"signal_seconds + {START_UP} s of start-up, {least} s here: raise time or lower "
                "signal_seconds"
            )
        if self.gpus_per_node and self.gpus > self.gpus_per_node:
            raise ValueError(
                f"gpus = {self.gpus} does not fit on one node: gpus_per_node = {self.gpus_per_node}"
            )
        return self

    @property
    def minutes(self) -> int:
        """The time limit of a job, rounded up as SLURM does."""
        return minutes_of(self.time) or 0

    @property
    def memory(self) -> str:
        """Value of sbatch's --mem; empty: what the cluster gives by itself."""
        return f"{round(1024 * self.memory_gb)}M" if self.memory_gb else ""

    def slots(self, threads: int) -> int:
        """Cells that a job runs at once, each in a process of its own.

        Raises:
            BadInput: not one of them fits.
        """
        if threads > self.cpus:
            raise BadInput(
                f"cpus = {self.cpus}: a cell with --threads {threads} needs as many; raise cpus in "
                "the site file or lower --threads"
            )
        if self.device == "cpu":
            return self.cpus // threads
        return self.gpus * self.cells_per_gpu

    def layout(self, processes: int) -> tuple[int, int]:
        """Nodes of a job and processes on each of them, for a cell that is worked on by so many.
        More than a node holds take whole nodes.

        Raises:
            BadInput: they are no whole nodes.
        """
        per_node = min(processes, self.gpus_per_node or processes)
        if processes % per_node:
            raise BadInput(
                f"--gpus-per-cell {processes}: a node holds {per_node} (gpus_per_node of the site "
                f"file) and larger cells take whole nodes; give {per_node} or a multiple of it"
            )
        return processes // per_node, per_node

    def cpus_per_process(self, processes: int) -> int:
        """The CPUs of a job on one node, shared out among the processes there."""
        return max(1, self.cpus // self.layout(processes)[1])

    def gpus_on_node(self, processes: int) -> int:
        """GPUs that a job holds on each of its nodes."""
        return self.layout(processes)[1] if self.gpus and processes > 1 else self.gpus

    def gpu_request(self, processes: int) -> str:
        """Value of sbatch's --gpus-per-node; empty: none."""
        count = self.gpus_on_node(processes)
        kind = f"{self.gpu_type}:" if self.gpu_type else ""
        return f"{kind}{count}" if count else ""


# ---- reading -------------------------------------------------------------------------------------


def read_site(path: Path) -> Site:
    """The cluster that this file describes.

    Raises:
        BadInput: no such file, not TOML, an unknown key, or a value that does not fit.
    """
    try:
        return parse_site(path.read_bytes(), str(path))
    except OSError as error:
        there = sorted(str(p) for p in path.parent.glob("*.toml"))
        hint = f"; there are {', '.join(there)}" if there else ""
        raise BadInput(f"--site {one_line(path)}: {error.strerror}{hint}") from error
    except ValueError as error:  # a zero byte in the path
        raise BadInput(f"--site {one_line(path)}: {one_line(error)}") from error


def parse_site(raw: bytes, place: str) -> Site:
    """As `read_site`, from the TOML in these bytes; `place` names them in errors."""
    try:
        content = parse_toml(raw)
        check_plain(content)
    except ValueError as error:
        raise BadInput(f"{place}: {one_line(error)}") from error
    refuse_unknown(content, Site.model_fields, place)
    try:
        return Site.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        said = one_line(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            raise BadInput(f"{place}: {said}") from error
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise BadInput(f"{place}: {key} is missing: every site says it") from error
        given = one_line(first["input"], quoted=True)
        raise BadInput(f"{place}: {key}: {said} (given: {given})") from error


def minutes_of(text: str) -> int | None:
    """Minutes of a time as SLURM writes it, rounded up; None if it has no end or is not a time.
    "1:30" is refused: SLURM means one and a half minutes by it, most people do not."""
    found = _CLOCK.fullmatch(text.strip())
    if not found:
        return None
    days, first, second, third = found.groups()
    if days is None and second is None:
        return int(first)
    if days is None and third is None:
        return None
    seconds = int(days or 0) * 86400 + int(first) * 3600 + int(second or 0) * 60 + int(third or 0)
    return -(-seconds // 60)
