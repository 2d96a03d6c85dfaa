"""What a finished run is on disk: `record.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.measure import Cost
from benchmark.spec import SCHEMA, Frozen, RunSpec

RECORD = "record.json"


class Accuracy(Frozen):
    """Fractions of images; None where there is no such split or figure."""

    test_top1: float
    test_top5: float | None = None
    test_loss: float
    val_top1: float | None = None


class Dense(Frozen):
    """The network before pruning."""

    weights: str  # digest
    accuracy: Accuracy | None  # None: random initialisation
    cost: Cost


class BestVal(Frozen):
    """The recovery epoch with the highest validation accuracy."""

    epoch: float
    accuracy: Accuracy


class SelectionCheck(Frozen):
    """Validation accuracy after BN recalibration, without recovery, at the method's own widths:
    of its choice, of its inverse, and of random draws."""

    score: float
    inverse: float | None
    random: list[float]
    percentile: float  # share of random draws that the choice beats; ties count half
    informative: bool | None  # None: no inverse


class SeedAgreement(Frozen):
    """The same scoring with a second method seed."""

    rank_correlation: float  # Spearman, mean over layers
    kept_overlap: float  # share of kept units that both keep


class Spent(Frozen):
    """Images used for gradient steps after the start state."""

    allowed: int
    charged: int
    free: int
    rows: list[dict[str, Any]]  # the ledger, phase by phase


class RunRecord(Frozen):
    schema_version: int = SCHEMA
    run_id: str
    spec: RunSpec
    title: str
    control: bool
    dense: Dense
    pruned: Cost
    flops_reduction: float  # achieved
    params_reduction: float
    floor_share: float  # of groups that are at their minimum width
    largest_reduction: float  # with every group at its minimum width
    groups: list[str]  # within the scope, in execution order
    widths: dict[str, int]
    dense_widths: dict[str, int]
    plan: str  # digest
    weights: str  # digest of the final network
    before_recovery: Accuracy
    recalibrated: Accuracy
    final: Accuracy  # last epoch: the headline
    best_val: BestVal | None
    at_chance: bool  # final accuracy is that of guessing: diverged
    selection: SelectionCheck | None
    seed_agreement: SeedAgreement | None
    tied_share: float | None  # of channels whose score occurs twice in a layer
    method_facts: dict[str, Any]
    spent: Spent
    latency: dict[str, Any]
    predictions_order: str  # hash of the test split's labels in their order
    environment: dict[str, Any]
    seconds: float
    command: str


def read_record(path: Path) -> RunRecord:
    """A record from disk.

    Raises:
        BadInput: not a record, or of a newer schema than this version reads.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a run record: {error}") from error
    if not isinstance(version, int) or version > SCHEMA:
        raise BadInput(
            f"{path} has schema version {version}, this version reads up to {SCHEMA}: "
            "update the suite"
        )
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path} is not a run record: {place}: {first['msg']}") from error
