"""Every flag of `python -m benchmark.run`, from words or a TOML file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from benchmark.data import check_name
from benchmark.errors import BadInput
from benchmark.frozen import refuse_truth
from benchmark.record import check_plain, one_line, refuse_unknown
from benchmark.spec import ONE_SHOT, SCHEDULES, Anew, Lane, Track
from methods.cards import parse_toml

MOST_DECODERS = 8  # unless --workers says so


class Options(BaseModel):
    """Every flag of `python -m benchmark.run`, and every key of a `--config` file."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    methods: list[str] = Field(["whitebox", "hrank", "l1norm"], min_length=1)
    arch: str = "resnet20"
    dataset: str = "cifar10"
    data_dir: Path | None = None
    data_name: str | None = None
    image_size: int | None = Field(None, ge=8, le=1024)
    normalize: str = "dataset"
    flops_reduction: list[float] = []
    seeds: list[int] = Field([0], min_length=1)
    allocation: Literal["method", "global", "uniform"] = "method"
    scope: Literal["inner", "all"] = "inner"
    track: Track = "common"
    lane: Lane = "default"
    trials: int | None = Field(None, ge=1, le=64)
    preset: Literal["demo", "quick", "full"] | None = None
    reconstruct: list[Literal["none", "ls"]] = Field(["none"], min_length=1)
    preparation: list[Literal["charged", "free"]] = Field(["charged"], min_length=1)
    weights: list[Literal["inherited"] | Anew] = Field(["inherited"], min_length=1)
    min_width: float = Field(0.1, gt=0, lt=1)
    round_to: int = Field(1, ge=1, le=1024)
    schedule: list[str] = Field([ONE_SHOT], min_length=1)
    controls: bool = True
    optimistic: bool | None = None
    epochs: float | None = Field(None, gt=0)
    lr: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=2)
    set: dict[str, Any] = {}
    checkpoint: Path | None = None
    adapt_epochs: float | None = Field(None, gt=0)
    pretrained: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    threads: int = Field(1, ge=1, le=1024)
    gpus_per_cell: int = Field(1, ge=1, le=1024)
    sync_bn: bool = False
    executor: Literal["local", "slurm"] = "local"
    site: Path | None = None
    jobs: int | None = Field(None, ge=0, le=1024)
    workers: int | None = Field(None, ge=0, le=256)
    checkpoint_minutes: float = Field(10.0, ge=0)
    compile: bool = False
    extra_test: dict[str, Path] = {}  # name of an extra test set: its folder
    results: Path = Path("results")

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            value = {k: str(v) if isinstance(v, Path) else v for k, v in value.items()}
        check_plain(str(value) if isinstance(value, Path) else value)
        return refuse_truth(value, cls.model_fields[str(info.field_name)].annotation)

    @field_validator("schedule")
    @classmethod
    def _known_schedules(cls, value: list[str]) -> list[str]:
        for word in value:
            if not re.match(SCHEDULES, word):
                raise ValueError(f"'{word}' is none of one-shot, iterative:K (2 to 99), layerwise")
        return value

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            check_name(value)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def home(self) -> Path:
        """The results directory that trials belong to; they have one of their own inside."""
        return self.results.parent if self.lane == "trial" else self.results

    def torch_device(self) -> torch.device:
        """Raises BadInput if CUDA is asked for and absent."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise BadInput("--device cuda: no CUDA device is visible; use --device cpu or auto")
        has_cuda = torch.cuda.is_available() and self.device != "cpu"
        return torch.device("cuda" if has_cuda else "cpu")

    def kind_of_device(self) -> str:
        """`cuda` or `cpu`, of the machine that will do the work: a cluster's nodes are what its
        site file says, whatever this machine has."""
        elsewhere = self.executor == "slurm" and self.device != "auto"
        return self.device if elsewhere else self.torch_device().type

    def decoders(self) -> int:
        """Processes beside a cell that decode images: on a GPU the cores that are left, for cells
        on a CPU use them all."""
        if self.workers is not None:
            return self.workers
        has_gpu = self.kind_of_device() == "cuda"
        return min(MOST_DECODERS, len(os.sched_getaffinity(0)) - 1) if has_gpu else 0

    def device_here(self) -> torch.device | None:
        """One like that of the work, to measure on; None: this machine has none."""
        kind = self.kind_of_device()
        return torch.device(kind) if kind == "cpu" or torch.cuda.is_available() else None


def options_from(words: dict[str, Any], config: Path | None = None) -> Options:
    """Flags over a TOML file over defaults.

    Raises:
        BadInput: unreadable file, unknown key, or a value that does not fit.
    """
    if config is None:
        return parse_options(b"", words, "options")
    try:
        return parse_options(config.read_bytes(), words, f"--config {config}")
    except OSError as error:
        raise BadInput(f"--config {config}: {one_line(error)}") from error


def parse_options(raw: bytes, words: dict[str, Any], place: str) -> Options:
    """As `options_from`, from the TOML in these bytes; `place` names them in errors."""
    try:
        content = parse_toml(raw)
    except ValueError as error:
        raise BadInput(f"{place}: {one_line(error)}") from error
    merged = content | words
    if "set" in content and "set" in words:
        both = isinstance(content["set"], dict)
        merged["set"] = content["set"] | words["set"] if both else content["set"]
    refuse_unknown(merged, Options.model_fields, place)
    try:
        return Options.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        given = one_line(first["input"], quoted=True)
        said = one_line(first["msg"]).removeprefix("Value error, ")
        raise BadInput(f"{flag}: {said} (given: {given})") from error
