"""What a finished run is on disk: `record.json`. Records come from strangers too: whatever the
bytes are, reading ends in a record or in one line that says what is wrong."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from benchmark.errors import BadInput
from benchmark.flops import Cost
from benchmark.frozen import Frozen
from benchmark.migrate import migrated
from benchmark.spec import SCHEMA, RunSpec
from benchmark.tuning import Tuning
from methods.api import Plan

RECORD = "record.json"
DEEPEST = 64  # levels of JSON; Python's own functions fail at a thousand, each in its way
# What `check_plain` looks for, seen in bytes: only JSON where one of these occurs can hold it.
SUSPECT = re.compile(rb"\\u|\x00|NaN|Infinity|(?:^|[\s:,\[])-?\d+(?:\.\d+)?[eE]\+?\d{3}|\d{200}")


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
    """Validation accuracy after BN recalibration, without recovery: at the method's own widths of
    its choice, of its inverse and of random draws, and of random draws at uniform widths."""

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"uniform", "uniform_percentile"})

    score: float
    inverse: float | None
    random: list[float]
    percentile: float  # share of random draws that the choice beats; ties count half
    informative: bool | None  # None: no inverse
    uniform: list[float] | None = None  # equal to `random` where its own widths are uniform
    uniform_percentile: float | None = None


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
    run_id: str = Field(pattern="^[0-9a-f]{12}$")
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
    # Of recovery: step, validation accuracy; of 5,000 images at most (see `recovery.EARLY`).
    early: list[tuple[int, float]] = Field(default_factory=list)
    at_chance: bool  # final accuracy is that of guessing: diverged
    selection: SelectionCheck | None
    seed_agreement: SeedAgreement | None
    tied_share: float | None  # of channels whose score occurs twice in a layer
    method_facts: dict[str, Any]
    counted: dict[str, Any] = Field(default_factory=dict)  # where nothing is smaller: its cost
    spent: Spent
    latency: dict[str, Any]
    predictions_order: str  # hash of the test split's labels in their order
    environment: dict[str, Any]
    seconds: float
    command: str
    tuning: Tuning | None = None  # of a tuned run

    @property
    def networks_judged(self) -> int:
        """By the check of the choice, each recalibrated once."""
        if (check := self.selection) is None:
            return 0
        more = [] if check.uniform in (None, check.random) else check.uniform or []
        return 1 + (check.inverse is not None) + len(check.random) + len(more)


class Newer(BadInput):
    """A record of a schema that this version does not know: not damaged, only ahead of us."""


def read_record(path: Path) -> RunRecord:
    """A record from disk; one of an older schema is migrated.

    Raises:
        BadInput: not a record, edited, or of a newer schema than this version reads.
    """
    try:
        return parse_record(path.read_bytes(), str(path))
    except OSError as error:
        raise BadInput(f"{path} is not a run record: {one_line(error)}") from error


def readable(paths: Iterable[Path]) -> Iterator[RunRecord]:
    """The records at these places, without those that are damaged.

    Raises:
        Newer: one is of a newer schema.
    """
    for path in paths:
        try:
            yield read_record(path)
        except Newer:
            raise
        except BadInput:  # `store.damage_of` says why
            continue


def parse_record(raw: bytes, place: str) -> RunRecord:
    """The record in these bytes; `place` names them in errors.

    Raises:
        BadInput: as `read_record`.
    """
    try:
        content = parse_json(raw)
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{place} is not a run record: {one_line(error)}") from error
    if type(version) is not int or not 1 <= version <= SCHEMA:
        problem = Newer if type(version) is int and version > SCHEMA else BadInput
        raise problem(
            f"{place} has schema version {one_line(version)}, this version reads 1 to {SCHEMA}: "
            "a newer record needs a newer suite"
        )
    try:
        record = RunRecord.model_validate(migrated(content, version, SCHEMA))
    except ValidationError as error:
        first = error.errors()[0]
        where = one_line(".".join(map(str, first["loc"])))
        raise BadInput(f"{place} is not a run record: {where}: {first['msg']}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{place} cannot be migrated from schema version {version}: {one_line(error)}"
        ) from error
    if record.run_id != record.spec.run_id:
        raise BadInput(
            f"{place} was edited: its run id is {record.run_id}, its settings are those of run "
            f"{record.spec.run_id}"
        )
    return record


def parse_json(raw: bytes) -> Any:
    """JSON that everything here can handle and write again.

    Raises:
        ValueError: not UTF-8, not JSON, or not plain (`check_plain`).
    """
    try:
        content = json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if SUSPECT.search(raw) or _is_deep(content):
        check_plain(content)
    return content


def _is_deep(content: Any) -> bool:
    """Whether containers nest so deeply that what they hold could be a level too deep."""
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(DEEPEST - 1):
        values = (v for c in level for v in (c.values() if isinstance(c, dict) else c))
        level = [v for v in values if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def check_plain(content: Any) -> None:
    """Python's parser accepts more than JSON has: NaN, infinities, halves of characters.

    Raises:
        ValueError: such a value, a number beyond floats, a zero byte, something that is not JSON,
            or more than `DEEPEST` levels.
    """
    level = [content]
    for _ in range(DEEPEST):
        for item in level:
            if isinstance(item, str):
                if b"\0" in item.encode("utf-8"):
                    raise ValueError("a text holds a zero byte")
            elif isinstance(item, int | float):
                if not abs(item) <= sys.float_info.max:
                    raise ValueError("a number is not finite, or too large")
            elif not isinstance(item, dict | list | tuple | None):
                raise ValueError(f"{type(item).__name__} is not a value that JSON has")
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _inside(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    return list(item) if isinstance(item, list | tuple) else []


def one_line(said: object, quoted: bool = False) -> str:
    """Text of unknown origin for an error message: one short line of printable characters."""
    try:
        line = " ".join((repr(said) if quoted else str(said)).split())
    except ValueError:  # an integer of thousands of digits
        line = "what cannot be shown"
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= 200 else f"{line[:200]}..."


def refuse_unknown(keys: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raises BadInput for a key that is not known, with the nearest that is."""
    legal = sorted(known)
    for key in sorted(set(keys) - set(legal)):
        close = difflib.get_close_matches(key.replace("-", "_"), legal, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BadInput(f"{place}: unknown key '{one_line(key)}'{hint} (known: {', '.join(legal)})")


def read_plan(path: Path) -> Plan:
    """Kept channels from `plan.json`.

    Raises:
        BadInput: not a plan.
    """
    try:
        return parse_plan(path.read_bytes(), str(path))
    except OSError as error:
        raise BadInput(f"{path} is not a pruning plan: {one_line(error)}") from error


def parse_plan(raw: bytes, place: str) -> Plan:
    """The plan in these bytes; `place` names them in errors.

    Raises:
        BadInput: not a plan.
    """
    try:
        keep = parse_json(raw)["keep"]
        return Plan({group: tuple(map(_unit, kept)) for group, kept in keep.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{place} is not a pruning plan: {one_line(error)}") from error


def _unit(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("kept units are numbers from 0")
    return value
