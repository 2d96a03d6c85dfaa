"""Two runs on the same test images: A is the first, B the second, every difference is B minus A.

Accuracies are in % of test images, differences of them in percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmark import paired
from benchmark.answers import MISSING, OTHER_ACCURACY, OTHER_ORDER, SLACK
from benchmark.differences import Run
from benchmark.errors import BadInput
from benchmark.record import RunRecord

POINTS = ("before", "recalibrated", "final")
PLACES = dict(zip(POINTS, ("before_recovery", "recalibrated", "final"), strict=True))
SCOPE = "images only, conditional on these two runs"
CLASSES_SHOWN = 5
Correct = Mapping[str, np.ndarray]  # (2, N) booleans by fixed point: A, then B


@dataclass(frozen=True)
class Point:
    """Test accuracy at one fixed point; what is paired is None where images cannot be paired."""

    name: str
    a: float
    b: float
    only_a: int | None = None  # images that only this run has right
    only_b: int | None = None
    difference: float | None = None
    low: float | None = None  # 95 % interval
    high: float | None = None
    verdict: str | None = None  # of B; None where no verdict may be given


@dataclass(frozen=True)
class ClassChange:
    """Test images of one class whose label some prediction of the two runs reveals."""

    label: int
    images: int
    a: int  # right at the end
    b: int


def on_images(a: Run, b: Run) -> tuple[Correct, int | None, str]:
    """Which images are right at each point, their number, and why they cannot be paired."""
    names = [f"test_{p}_{kind}" for p in POINTS for kind in ("class", "margin")]
    without = [n for n, run in (("A", a), ("B", b)) if not set(names) <= run.arrays.keys()]
    if without:
        return {}, None, f"{MISSING} of {' and '.join(without)}"
    classes, margins = (_stacked(a, b, kind) for kind in ("class", "margin"))
    orders = {run.record.predictions_order for run in (a, b)}
    if len(orders) > 1 or classes is None or margins is None:
        return {}, None, OTHER_ORDER
    try:
        right = paired.correctness(classes, margins)  # rows: A and B at each point
    except BadInput as error:
        return {}, None, str(error)
    found = {p: right[2 * i : 2 * i + 2] for i, p in enumerate(POINTS)}
    wrong = [
        n for i, (n, run) in enumerate((("A", a), ("B", b))) if not _as_recorded(run, found, i)
    ]
    if wrong:
        return {}, None, f"{OTHER_ACCURACY} of {' and '.join(wrong)}"
    return found, right.shape[1], ""


def _as_recorded(run: Run, right: Correct, row: int) -> bool:
    """Within what rounded margins of ties can hide."""
    points, images = SLACK
    gaps = [
        (abs(100 * float(both[row].mean()) - _top1(run.record, point)), len(both[row]))
        for point, both in right.items()
    ]
    return all(gap <= max(points, 100 * images / size) for gap, size in gaps)


def _top1(record: RunRecord, point: str) -> float:
    return 100 * float(getattr(record, PLACES[point]).test_top1)


def _stacked(a: Run, b: Run, kind: str) -> np.ndarray | None:
    rows = [run.arrays[f"test_{p}_{kind}"] for p in POINTS for run in (a, b)]
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else None


def point(
    name: str, a: RunRecord, b: RunRecord, right: np.ndarray | None, may_judge: bool
) -> Point:
    one, other = (_top1(r, name) for r in (a, b))
    if right is None:
        return Point(name, one, other)
    found = paired.difference(right[1:], right[:1])
    wide = found.interval_95
    return Point(
        name, one, other,
        only_a=int((right[0] & ~right[1]).sum()),
        only_b=int((right[1] & ~right[0]).sum()),
        difference=found.mean,
        low=wide.low,
        high=wide.high,
        verdict=paired.verdict(wide, found.interval_90) if may_judge else None,
    )  # fmt: skip


def class_changes(a: Run, b: Run, right: Correct) -> tuple[ClassChange, ...]:
    """Classes in which the two differ most at the end, by number of images."""
    if not right:
        return ()
    rows = np.concatenate([right[p] for p in POINTS])
    classes = _stacked(a, b, "class")
    assert classes is not None
    labels = np.where(rows, classes.astype(np.int64), -1).max(axis=0)
    found = []
    for label in range(a.record.spec.data.num_classes):
        own = right["final"][:, labels == label].sum(axis=1)
        found.append(ClassChange(label, int((labels == label).sum()), int(own[0]), int(own[1])))
    found.sort(key=lambda c: (-abs(c.b - c.a), c.label))
    return tuple(c for c in found[:CLASSES_SHOWN] if c.a != c.b)
