"""Two records of one run: what is a result in them, where they differ, and on which machines.

Timings, evidence (environment, command) and labels are no results and are never compared.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.encoding import plan_digest, unpacked
from benchmark.errors import BadInput
from benchmark.record import (
    RECORD,
    RunRecord,
    SelectionCheck,
    one_line,
    parse_json,
    read_record,
)
from benchmark.spec import canonical

PLAN, CURVE, PREDICTIONS = "plan.json", "curve.csv", "predictions.npz"
NO_RESULTS = {
    "seconds", "latency", "environment", "command", "tuning",  # evidence of one machine
    "title", "control", "schema_version",  # labels
    "run_id", "spec",  # equal, or these are not two records of one run
}  # fmt: skip
# Predictions of the dense network: records of earlier versions have none.
ADDED_LATER = {f"{split}_dense_{kind}" for split in ("test", "val") for kind in ("class", "margin")}
# Figures that records of earlier versions do not have.
NOTED_LATER = {f"selection.{name}" for name in SelectionCheck.ADDED_LATER} | {"early"}
# Leaves that move with the last bit of a sum; all others are counts and shares of images.
ROUNDED = {"weights", "test_loss", "rank_correlation"}

Keep = dict[str, list[int]]


@dataclass(frozen=True)
class Run:
    """A finished run as it lies on disk."""

    folder: Path
    record: RunRecord
    keep: Keep
    curve: list[dict[str, str]]
    arrays: dict[str, np.ndarray]
    masks: dict[str, Tensor] = field(default_factory=dict)  # kept kernels by layer

    @property
    def fits_its_plan(self) -> bool:
        """Whether the plan is the one of the record. What gates hold is not in the folder: of
        those it is known that no channel goes."""
        if self.record.spec.result == "dynamic":
            full = self.record.dense_widths
            return all(len(kept) == full.get(g, -1) for g, kept in self.keep.items())
        return plan_digest(self.keep, self.masks) == self.record.plan


@dataclass(frozen=True)
class Difference:
    """A result that two records of one run do not share. `rounded`: it may come from the last bit
    of a sum, no figure of a table is touched."""

    field: str
    one: str
    other: str
    rounded: bool = False


# ---- reading -------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run:
    """All files of a run.

    Raises:
        BadInput: one of them is missing or cannot be read, or the record was edited.
    """
    record, (keep, masks) = read_record(folder / RECORD), plan_of(folder)
    return Run(folder, record, keep, curve_of(folder), arrays_of(folder), masks)


def whole_run(folder: Path) -> Run:
    """The run with all its files, which fit together.

    Raises:
        BadInput: as `read_run`, or its plan is another.
    """
    run = read_run(folder)
    if not run.fits_its_plan:
        raise BadInput(f"{folder / PLAN} is not the plan of its record")
    return run


def plan_of(folder: Path) -> tuple[Keep, dict[str, Tensor]]:
    """Kept units by group, and masks of kept kernels by layer.

    Raises:
        BadInput: there is no plan that can be read.
    """
    try:
        content = parse_json((folder / PLAN).read_bytes())
        kept = content["keep"].items()
        return {str(g): [int(unit) for unit in units] for g, units in kept}, unpacked(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{folder / PLAN} is not a pruning plan: {one_line(error)}") from error


def curve_of(folder: Path) -> list[dict[str, str]]:
    """Lines of curve.csv, as text."""
    try:
        with (folder / CURVE).open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"{folder / CURVE} is not a curve: {one_line(error)}") from error


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """Predictions by name.

    Raises:
        BadInput: there are none that can be read.
    """
    path = folder / PREDICTIONS
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # what damage raises depends on where it is: zip, header, memory
        raise BadInput(f"{path} does not hold predictions: {one_line(error)}") from error


# ---- differences ---------------------------------------------------------------------------------


def differences(one: Run, other: Run) -> list[Difference]:
    """Where the results of two records of one run differ; empty: equal to the bit."""
    found = _record_differences(one.record, other.record)
    if one.keep != other.keep:
        shared = f"{100 * kept_overlap(one.keep, other.keep):.1f} % of them"
        found.append(Difference(PLAN, f"{_units(one.keep)} units kept", shared))
    if one.masks.keys() != other.masks.keys() or any(
        not torch.equal(mask, other.masks[layer]) for layer, mask in one.masks.items()
    ):
        found.append(Difference(PLAN, _kernels(one.masks), _kernels(other.masks)))
    found += _curve_differences(one.curve, other.curve)
    alone = one.arrays.keys() ^ other.arrays.keys()
    names = sorted((one.arrays.keys() | other.arrays.keys()) - (alone & ADDED_LATER))
    return found + [d for n in names for d in _array_differences(n, one.arrays, other.arrays)]


def results(record: RunRecord) -> dict[str, Any]:
    """Every result in the record by its place, as `final.test_top1`."""
    content = record.model_dump(mode="json", exclude=NO_RESULTS)
    facts = content.pop("method_facts")
    for row in content["spent"]["rows"]:
        row.pop("seconds", None)
    found = leaves(content) | {f"method_facts.{name}": value for name, value in facts.items()}
    return {k: v for k, v in found.items() if k not in NOTED_LATER or v not in (None, [])}


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Every value in nested JSON by its place, as `final.test_top1`."""
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        parts = [(str(number), item) for number, item in enumerate(value)]
    else:
        return {place: value}
    inner = [leaves(item, f"{place}.{key}" if place else key) for key, item in parts]
    return {name: leaf for found in inner for name, leaf in found.items()}


def _record_differences(one: RunRecord, other: RunRecord) -> list[Difference]:
    ours, theirs = results(one), results(other)
    found = []
    for place in dict.fromkeys([*ours, *theirs]):
        is_fact = place.startswith("method_facts.")
        alone = place not in ours or place not in theirs
        if alone and (is_fact or place in NOTED_LATER):
            continue  # one version of the code noted more than the other: no other result
        mine, yours = ours.get(place), theirs.get(place)
        if canonical(mine) != canonical(yours):
            rounded = is_fact or place.rpartition(".")[2] in ROUNDED
            found.append(Difference(place, _short(mine), _short(yours), rounded))
    return found


def _curve_differences(one: list[dict[str, str]], other: list[dict[str, str]]) -> list[Difference]:
    if len(one) != len(other):
        return [Difference(CURVE, f"{len(one)} epochs", f"{len(other)} epochs")]
    found = []
    for column in dict.fromkeys(name for row in (*one, *other) for name in row):
        pairs = [(a.get(column), b.get(column)) for a, b in zip(one, other, strict=True)]
        changed = [(_short(a), _short(b)) for a, b in pairs if a != b]
        if changed:
            field = f"{CURVE} {column} ({len(changed)} of {len(one)} epochs, the first shown)"
            found.append(Difference(field, *changed[0], rounded=column == "loss"))
    return found


def _array_differences(
    name: str, one: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> list[Difference]:
    mine, yours = one.get(name), other.get(name)
    field = f"{PREDICTIONS} {name}"
    if mine is None or yours is None or (mine.shape, mine.dtype) != (yours.shape, yours.dtype):
        return [Difference(field, _kind_of_array(mine), _kind_of_array(yours))]
    if mine.tobytes() == yours.tobytes():
        return []
    changed = max(1, int((mine != yours).sum()))  # zeros may differ in their sign only
    size = f"{changed} of them differ"
    return [Difference(field, f"{mine.size} images", size, name.endswith("_margin"))]


def _kind_of_array(array: np.ndarray | None) -> str:
    return "absent" if array is None else f"{array.dtype} {array.shape}"


def _short(value: Any, most: int = 40) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else text[: most - 1] + "…"


# ---- kept units ----------------------------------------------------------------------------------


def _units(keep: Mapping[str, list[int]]) -> int:
    return sum(len(units) for units in keep.values())


def _kernels(masks: Mapping[str, Tensor]) -> str:
    return f"{sum(int(mask.sum()) for mask in masks.values())} kernels kept"


def kept_overlap(one: Mapping[str, list[int]], other: Mapping[str, list[int]]) -> float:
    """Share of the units kept by `one` that `other` keeps too."""
    both = sum(len(set(units) & set(other.get(group, []))) for group, units in one.items())
    return both / _units(one) if _units(one) else 1.0


# ---- machines ------------------------------------------------------------------------------------


def hardware_of(environment: Mapping[str, Any]) -> str:
    """The GPU that computed, or the processor; empty where the record does not say."""
    on_cpu = str(environment.get("device", "")).startswith("cpu")
    gpu = None if on_cpu else environment.get("gpu")
    return str(gpu or environment.get("cpu") or "")


def kind_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """What bits may depend on besides the spec: hardware, compilation and library versions."""
    packages = environment.get("packages") or {}
    facts = {
        "hardware": hardware_of(environment),
        "compiled": environment.get("compiled", False),
        "python": environment.get("python"),
    }
    return {n: str(value) for n, value in (facts | packages).items() if value is not None}


DECISIVE = ("hardware", "compiled", "torch")  # the same here: a run gives the same bits


def same_bits_expected(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two environments are machines of one kind."""
    first, second = kind_of(one), kind_of(other)
    return all(first.get(name) == second.get(name) for name in DECISIVE)


def evidence_differences(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Facts of two environments that differ, the git commit among them: name, one, other."""
    first, second = ({"commit": _commit(e)} | kind_of(e) for e in (one, other))
    names = [n for n in dict.fromkeys([*first, *second]) if first.get(n) != second.get(n)]
    return [(n, first.get(n) or "unknown", second.get(n) or "unknown") for n in names]


def _commit(environment: Mapping[str, Any]) -> str:
    git = environment.get("git") or {}
    commit = str(git.get("commit") or "unknown")[:12]
    return commit + (" with uncommitted changes" if git.get("dirty") else "")
