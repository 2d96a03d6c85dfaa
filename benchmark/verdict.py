"""Whether a run that was made again is the one in the record: by bits on a machine of the same
kind, elsewhere by accuracy on the same images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark import differences, vectors
from benchmark.cli import DONE, FAILED
from benchmark.data import Data
from benchmark.differences import Difference, Run
from benchmark.paired import MARGIN
from benchmark.progress import duration
from benchmark.record import RunRecord

NORMAL_95 = 1.959964
SHOWN = 30  # differing fields
POINTS = {  # name in the predictions: title, field of the record
    "before": ("before recovery", "before_recovery"),
    "recalibrated": ("after BN recalibration", "recalibrated"),
    "final": ("final", "final"),
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Paired:
    """Accuracy of a second run minus that of a first on the same images, in percentage points."""

    images: int
    lost: int  # right in the first run only
    gained: int  # right in the second run only

    @property
    def difference(self) -> float:
        return 100 * (self.gained - self.lost) / self.images

    @property
    def half(self) -> float:
        """Half a 95 % interval over images (Bonett and Price 2012: one image is added to each of
        lost and gained, so that a handful of differing images is not taken for certainty)."""
        images = self.images + 2
        mean = (self.gained - self.lost) / images
        spread = (self.gained + self.lost + 2) / images - mean**2
        return 100 * NORMAL_95 * math.sqrt(spread / images)

    @property
    def agrees(self) -> bool:
        """The interval holds zero, or lies within the margin of equivalence."""
        away = abs(self.difference)
        return away <= self.half or away + self.half <= MARGIN


def paired(one: np.ndarray, other: np.ndarray, labels: np.ndarray) -> Paired:
    """Compare predicted classes (N,) of two runs with the labels (N,)."""
    first, second = one == labels, other == labels
    return Paired(len(labels), int((first & ~second).sum()), int((second & ~first).sum()))


def introduce(record: RunRecord, here: Mapping[str, Any], say: Say) -> bool:
    """Say which run it is and how then and now differ; whether every bit has to be equal."""
    spec, same_kind = record.spec, differences.same_bits_expected(record.environment, here)
    say(
        f"run {record.run_id}: {spec.name} on {spec.data.name}, {spec.arch.name}, seed "
        f"{spec.seeds.run}, {100 * record.flops_reduction:.1f} % of the FLOPs removed; it took "
        f"{duration(record.seconds)} then"
    )
    for name, one, other in differences.evidence_differences(record.environment, here):
        say(f"  {name}: {one} in the record, {other} here")
    if same_kind:
        say("this machine is of the same kind: every bit is compared")
    else:
        said = "this machine is of another kind: accuracy on the same test images is compared"
        how = vectors.advice(differences.hardware_of(record.environment))
        say(f"{said} ({how})" if how else said)
    return same_kind


def points(recorded: Run, again: Run, labels: np.ndarray) -> dict[str, Paired]:
    """Both networks on the same test images, at the fixed points whose predictions both have."""
    found = {}
    for point in POINTS:
        one, other = (r.arrays.get(f"test_{point}_class") for r in (recorded, again))
        if one is not None and other is not None and one.shape == other.shape == labels.shape:
            found[point] = paired(one, other, labels)
    return found


def contradictions(run: Run, labels: np.ndarray, split: str = "test") -> list[Difference]:
    """Accuracies of the record on a split that its own predictions do not give."""
    found = []
    record, known = run.record, run.arrays
    told = {point: (field, getattr(record, field)) for point, (_, field) in POINTS.items()}
    if f"{split}_dense_class" in known and record.dense.accuracy is not None:
        told["dense"] = ("dense.accuracy", record.dense.accuracy)
    for point, (field, accuracy) in told.items():
        predicted, place = known.get(f"{split}_{point}_class"), f"{field}.{split}_top1"
        said = getattr(accuracy, f"{split}_top1")
        if said is None:  # there is no such split
            continue
        if predicted is None or predicted.shape != labels.shape:
            found.append(Difference(place, f"{said:.6g}", "nothing"))
        elif abs(said - (counted := float((predicted == labels).mean()))) > 1e-9:
            found.append(Difference(place, f"{said:.6g}", f"{counted:.6g}"))
    return found


def of_itself(run: Run, data: Data, has_test: bool) -> Iterator[str]:
    """Where a record contradicts its own predictions. `has_test`: whether the data's test split is
    the true one, and not that of a trial, to which validation images are test images."""
    is_trial, found = run.record.spec.is_trial, []
    labels = {"test": (data.val if is_trial else data.test).labels.numpy()}
    if not has_test and not is_trial:
        del labels["test"]
    elif run.record.predictions_order != order_of(labels["test"]):
        yield f"run {run.record.run_id}: its predictions are in another order than the images"
    labels["val"] = data.val.labels.numpy()
    for split, own in labels.items():
        found += contradictions(run, own, split)
    for d in found:
        yield (
            f"run {run.record.run_id}: {d.field} is {d.one} in its record, its own predictions "
            f"give {d.other}"
        )


def order_of(labels: np.ndarray) -> str:
    """As a record holds it."""
    return hashlib.sha256(labels.tobytes()).hexdigest()[:16]


def judge(recorded: Run, again: Run, labels: np.ndarray, same_kind: bool, say: Say) -> int:
    """Say what was found; the exit code."""
    found = differences.differences(recorded, again)
    if not same_kind:
        return _by_images(recorded, again, labels, not found, say)
    if found:
        for d in found[:SHOWN]:
            say(f"  {d.field}: {d.one} in the record, {d.other} here")
        if len(found) > SHOWN:
            say(f"  and {len(found) - SHOWN} more fields")
        show_figures(recorded, again, labels, say)
        fields = "1 field differs" if len(found) == 1 else f"{len(found)} fields differ"
        say(f"not reproduced: {fields} on a machine of the same kind")
        return FAILED
    say(
        f"reproduced: equal to the bit in {len(differences.results(recorded.record))} fields of "
        f"the record (plan, weights and every accuracy among them), in the curve and in "
        f"{len(recorded.arrays)} arrays of predictions"
    )
    return DONE


def _by_images(recorded: Run, again: Run, labels: np.ndarray, equal: bool, say: Say) -> int:
    show_figures(recorded, again, labels, say)
    if contradictions(recorded, labels):
        say("not reproduced: the record contradicts its own predictions")
        return FAILED
    final = points(recorded, again, labels)["final"]
    size = f"{final.difference:+.2f} ± {final.half:.2f} points"
    over = f"95 % interval over {final.images} test images, conditional on these two runs"
    if not final.agrees:
        say(f"not reproduced: final test accuracy differs by {size} ({over})")
        return FAILED
    bits = "; every bit is equal, though the machine is of another kind" if equal else ""
    say(f"reproduced: final test accuracy agrees within {size} ({over}){bits}")
    return DONE


def show_figures(recorded: Run, again: Run, labels: np.ndarray, say: Say) -> None:
    """How far apart the two runs are, for a reader."""
    there, here = recorded.record, again.record
    if there.dense.accuracy is not None and here.dense.accuracy is not None:
        dense = (there.dense.accuracy.test_top1, here.dense.accuracy.test_top1)
        say(f"  dense network: {100 * dense[0]:.2f} % in the record, {100 * dense[1]:.2f} % here")
    if recorded.keep:  # empty where no channel goes
        overlap = differences.kept_overlap(recorded.keep, again.keep)
        say(f"  kept units: {100 * overlap:.1f} % of those in the record are kept here too")
    for point, pair in points(recorded, again, labels).items():
        title, place = POINTS[point]
        one, other = (100 * getattr(r, place).test_top1 for r in (there, here))
        say(
            f"  {title}: {one:.2f} % in the record, {other:.2f} % here: "
            f"{pair.difference:+.2f} ± {pair.half:.2f} points"
        )
    for d in contradictions(recorded, labels):
        say(f"  {d.field}: {d.one} in the record, but its own predictions give {d.other}")
