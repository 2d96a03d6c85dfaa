"""What a run is. The run id is the hash of exactly these fields: results depend on nothing else.

Paths, device, worker count, order of flags and the git commit are evidence kept in the record,
never identity (DECISIONS 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from benchmark.frozen import Frozen
from benchmark.images import DataIdentity, Name

PROTOCOL = 1  # raise it when any result changes for a reason outside one method: new tables start
SCHEMA = 1  # of record.json

Track = Literal["common", "total", "paper"]
Allocation = Literal["global", "uniform", "listed", "none"]
Precision = Literal["fp32", "bf16"]
ONE_SHOT, LAYERWISE = "one-shot", "layerwise"
SCHEDULES = r"^(one-shot|layerwise|iterative:([2-9]|[1-9][0-9]))$"
Lane = Literal["default", "tuned", "trial"]
Anew = Literal["scratch", "scratch-e", "scratch-b"]
RATE = "recovery.lr"  # the one value that is tuned and is not a method's own


class Recipe(Frozen):
    """How to train for a number of epochs. Milestones are fractions of the phase, so that a
    shorter phase has the same schedule compressed. For `loss` see `losses.py`."""

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"loss", "loss_weight", "loss_margin"})

    epochs: float = Field(gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = Field(0.1, gt=0, le=1)
    warmup: float = Field(0.0, ge=0, lt=1)  # share of the phase with a linearly growing rate
    batch_size: int = Field(128, ge=2)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    loss: Literal["ce", "cc", "lgm"] = "ce"
    loss_weight: float | None = Field(None, ge=0)  # None: the loss's own
    loss_margin: float | None = Field(None, ge=0)


class ArchIdentity(Frozen):
    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"source"})

    name: Name
    structure: str  # benchmark.archs.structure_hash of the dense network
    source: str = ""  # hash of a user's own file


StartKind = Literal["baseline", "checkpoint", "adapted", "random"]


class Start(Frozen):
    """Where the dense network comes from; `checkpoint` is the hash of the file's tensors. Adapted:
    trained on from there by the baseline's recipe, for each seed anew."""

    kind: StartKind
    checkpoint: str = ""

    @property
    def is_trained_here(self) -> bool:
        return self.kind in ("baseline", "adapted")


class MethodIdentity(Frozen):
    name: Name
    variant: Name | Literal[""] = ""
    revision: int
    source: str = ""  # hash of a user's own file; the suite's methods have a revision
    params: dict[str, Any] = Field({})

    @property
    def label(self) -> str:
        """As typed on the command line."""
        return f"{self.name}:{self.variant}" if self.variant else self.name


class Seeds(Frozen):
    """`dense` trains the baseline (None: not trained here), `run` drives order, augmentation and
    the method. Equal seeds pair the methods."""

    dense: int | None
    run: int


class Scratch(Frozen):
    """New weights for the network that a method chose, in place of the dense network's: the
    control that tells what weights are worth from what widths are (see `scratch.py`). `recipe`: by
    which they are trained; of `scratch-b`, before its epochs grow."""

    kind: Anew
    recipe: Recipe


class RunSpec(Frozen):
    """One cell at one seed.

    `result`: what becomes of the network; only `channels` makes it smaller. `round_to`: kept widths
    are multiples of it. `schedule`: in how many rounds channels go (see `rounds.py`). `replicas`:
    parts into which each training batch is
    cut, each with batch-norm statistics of its own unless `sync_bn`. As many processes, one per
    GPU, work on them at once, or one in turn.

    `lane`: values of the paper or card (default), or those that so many validation-only `trials`
    of each method chose (tuned), or one of these trials, which stands in no table. `tuned` names
    these values: `recovery.lr`, and fields of the method.

    `scratch`: all other fields are those of the run whose network is trained anew.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset(
        {"replicas", "sync_bn", "round_to", "schedule", "lane", "trials", "tuned", "result"}
        | {"scratch"}
    )

    protocol: int = PROTOCOL
    track: Track
    method: MethodIdentity
    arch: ArchIdentity
    data: DataIdentity
    start: Start
    allocation: Allocation
    rates: tuple[float, ...] = ()  # "listed": removed fraction per convolution, in forward order
    scope: Literal["inner", "all"]
    result: Literal["channels", "kernels", "dynamic"] = "channels"
    flops_reduction: float = Field(ge=0, lt=1)
    min_width: float = Field(ge=0, lt=1)
    round_to: int = Field(1, ge=1)
    schedule: str = Field(ONE_SHOT, pattern=SCHEDULES)
    budget_epochs: float = Field(gt=0)
    preparation: Literal["charged", "free"] = "charged"
    recovery: Recipe
    baseline: Recipe | None
    reconstruct: Literal["none", "ls"] = "none"
    precision: Precision = "fp32"
    threads: int = Field(1, ge=1)
    replicas: int = Field(1, ge=1)
    sync_bn: bool = False
    lane: Lane = "default"
    trials: int = Field(0, ge=0)
    tuned: tuple[str, ...] = ()
    scratch: Scratch | None = None
    seeds: Seeds

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        if self.start.is_trained_here != (self.baseline is not None):
            raise ValueError("a baseline recipe belongs to starts that are trained here")
        if (self.start.kind in ("checkpoint", "adapted")) != bool(self.start.checkpoint):
            raise ValueError("a hash belongs to starts from a checkpoint, and only there")
        if (self.allocation == "listed") != bool(self.rates):
            raise ValueError("rates belong to allocation = listed, and only there")
        if (self.lane != "default") != bool(self.tuned):
            raise ValueError("what is tuned belongs to the lanes tuned and trial, and only there")
        if (self.lane == "tuned") != bool(self.trials):
            raise ValueError("a number of trials belongs to lane = tuned, and only there")
        if not set(self.tuned) <= {RATE, *self.method.params}:
            raise ValueError("what is tuned must be values of the run")
        if self.scratch and (self.track == "common" or self.reconstruct != "none"):
            raise ValueError("new weights belong to the tracks total and paper, without refits")
        return self

    @cached_property
    def run_id(self) -> str:
        """12 hex digits over all fields."""
        return digest(identity(self), 12)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's, which copies what is cached too: other fields have another id."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("run_id", None)
        return copied

    @property
    def in_rounds(self) -> bool:
        """Whether channels go in several rounds."""
        return self.schedule != ONE_SHOT

    @property
    def steps(self) -> int:
        """Rounds of an iterative schedule; 0: another one."""
        return int(self.schedule.partition(":")[2] or 0)

    @property
    def name(self) -> str:
        """Of the row, as people read it: `whitebox + ls iterative:4 (preparation free)`."""
        ls = " + ls" if self.reconstruct == "ls" else ""
        rounds = f" {self.schedule}" if self.in_rounds else ""
        free = " (preparation free)" if self.preparation == "free" else ""
        return f"{self.row}{ls}{rounds}{free}"

    @property
    def row(self) -> str:
        """Method and variant as typed, and whether weights are new: `l1norm:a (scratch-b)`."""
        return f"{self.method.label} ({self.scratch.kind})" if self.scratch else self.method.label

    def titled(self, title: str) -> str:
        """The method's title, as a row of this kind has it."""
        return f"{title}, {self.scratch.kind.title()}" if self.scratch else title

    @property
    def chosen_by(self) -> RunSpec:
        """The run that chooses the channels: itself, unless its weights are new."""
        return self.model_copy(update={"scratch": None}) if self.scratch else self

    @property
    def weights_start(self) -> StartKind:
        """Where the weights come from that are trained in the end."""
        return "random" if self.scratch else self.start.kind

    @property
    def training(self) -> Recipe:
        """Of the network that is left."""
        return self.scratch.recipe if self.scratch else self.recovery

    @property
    def own_epochs(self) -> float:
        """What the run may spend on gradient steps after the start of its weights, as planned."""
        return self.scratch.recipe.epochs if self.scratch else self.budget_epochs

    @property
    def is_trial(self) -> bool:
        """Whether it is judged on validation images alone, and stands in no table."""
        return self.lane == "trial"

    @property
    def is_tuned(self) -> bool:
        """Whether trials chose its values, or it is one."""
        return self.lane != "default"

    @property
    def tuned_values(self) -> dict[str, Any]:
        """Of what is tuned, by name."""
        known = self.method.params | {RATE: self.recovery.lr}
        return {name: known[name] for name in self.tuned}

    @property
    def folder(self) -> str:
        """Place of the run under `runs/`."""
        method = self.method.label.replace(":", "-")
        return f"{self.data.name}/{self.arch.name}/{method}/{self.run_id}"

    def cell(self) -> RunSpec:
        """The same run without its seed: what one row of a leaderboard averages over."""
        dense = None if self.seeds.dense is None else 0
        return self.model_copy(update={"seeds": Seeds(dense=dense, run=0)})


def identity(model: BaseModel) -> dict[str, Any]:
    """JSON of a model, without the fields that were added later and hold their default."""
    fields = type(model).model_fields
    silent = {
        name
        for name in getattr(model, "ADDED_LATER", ())
        if getattr(model, name) == fields[name].get_default(call_default_factory=True)
    }
    content = model.model_dump(mode="json", exclude=silent)
    inner = {name: getattr(model, name) for name in content}
    return content | {k: identity(v) for k, v in inner.items() if isinstance(v, BaseModel)}


def parts_of(row: str) -> tuple[str, str]:
    """Method and kind of new weights of what `RunSpec.row` calls a row; empty: inherited ones."""
    label, _, kind = row.partition(" ")
    return label, kind.strip("()")


def canonical(value: Any) -> str:
    """JSON text that depends on content alone: sorted keys, no spaces, floats as Python prints
    them, and whole floats as integers so that 6 and 6.0 are one value."""

    def plain(item: Any) -> Any:
        if isinstance(item, float) and item.is_integer():
            return int(item)
        if isinstance(item, dict):
            return {str(k): plain(v) for k, v in item.items()}
        if isinstance(item, list | tuple):
            return [plain(v) for v in item]
        return item

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """SHA-256 of the canonical JSON, shortened to `length` hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]
