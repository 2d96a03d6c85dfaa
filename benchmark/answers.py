"""Which test images each run got right, for the runs of one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmark.block import Block
from benchmark.errors import BadInput
from benchmark.paired import correctness

CLASS, MARGIN = "test_final_class", "test_final_margin"
SLACK = 0.1, 2  # recorded and recounted accuracy: percentage points, images

MISSING = "no predictions"
DAMAGED = "predictions cannot be read"
OTHER_ORDER = "predictions of other images or in another order"
OTHER_LABELS = "predictions contradict those of other runs about the labels"
OTHER_ACCURACY = "predictions do not give the recorded accuracy"


@dataclass(frozen=True)
class Answers:
    """By run id. All arrays are of the same images."""

    right: dict[str, np.ndarray]  # (N,) booleans
    left_out: dict[str, str]  # why


def answers(block: Block, run_ids: Iterable[str]) -> Answers:
    """Final answers of these runs, which must share a test set, since labels are told from all of
    them. Records may come from anywhere: a run whose predictions are not to be used is left out
    with the reason, whatever is wrong with it."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    left_out: dict[str, str] = {}
    for run_id in sorted(run_ids):
        read = _read(block, run_id)
        if isinstance(read, str):
            left_out[run_id] = read
        else:
            found[run_id] = read
    for run_id in _strangers(block, found):
        left_out[run_id] = OTHER_ORDER
        del found[run_id]
    if not found:
        return Answers({}, left_out)
    ids = list(found)
    classes, margins = (np.stack([found[i][part] for i in ids]) for part in (0, 1))
    try:
        right = correctness(classes, margins)
    except BadInput:
        odd = contradicting(classes, margins)
        left_out |= {i: OTHER_LABELS for i, wrong in zip(ids, odd, strict=True) if wrong}
        if odd.all():
            return Answers({}, left_out)
        ids = [i for i in ids if i not in left_out]
        right = correctness(classes[~odd], margins[~odd])
    counted = dict(zip(ids, right, strict=True))
    wrong = {i: OTHER_ACCURACY for i, row in counted.items() if not _as_recorded(block, i, row)}
    return Answers({i: row for i, row in counted.items() if i not in wrong}, left_out | wrong)


def contradicting(classes: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(R,) booleans: runs to leave out so that the positive margins of the others agree about every
    label. The worst go first: those that most often tell another label than most runs do; where
    none has most of the votes, all that have a say there are as bad as each other."""
    told = np.where(margins > 0, classes.astype(np.int16), -1)
    out = np.zeros(len(told), dtype=bool)
    while not out.all():
        counts = _contradictions(told[~out])
        if not counts.any():
            break
        out[np.flatnonzero(~out)[counts > counts.max() / 2]] = True
    return out


def _contradictions(told: np.ndarray) -> np.ndarray:
    """(R,) images at which a run contradicts the majority; without any, at which there is none.
    told: (R, N) labels, -1 where a run tells nothing."""
    kinds = np.append(np.unique(told[told >= 0]), -1)
    votes = np.stack([(told == kind).sum(axis=0) for kind in kinds[:-1]] + [0 * told[0]])
    tied = ((votes == votes.max(axis=0)) & (votes > 0)).sum(axis=0) > 1
    against = (told >= 0) & (told != kinds[votes.argmax(axis=0)])
    clear = (against & ~tied).sum(axis=1)
    return np.asarray(clear if clear.any() else (against | ((told >= 0) & tied)).sum(axis=1))


def _read(block: Block, run_id: str) -> tuple[np.ndarray, np.ndarray] | str:
    """Classes and margins, or why not."""
    arrays = block.arrays(run_id, CLASS, MARGIN)
    if len(arrays) < 2:
        return DAMAGED if block.has_predictions(run_id) else MISSING
    classes, margins = arrays[CLASS], arrays[MARGIN]
    fits = classes.ndim == 1 and classes.shape == margins.shape and classes.size
    if not fits or classes.dtype != np.uint8 or margins.dtype.kind != "f":
        return DAMAGED
    return classes, margins


def _strangers(block: Block, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """Runs on another list of images than most."""
    lists = {i: (block.records[i].predictions_order, len(c)) for i, (c, _) in found.items()}
    if not lists:
        return []
    most = max(sorted(Counter(lists.values()).items()), key=lambda item: item[1])[0]
    return [i for i, own in lists.items() if own != most]


def _as_recorded(block: Block, run_id: str, right: np.ndarray) -> bool:
    points, images = SLACK
    gap = abs(100 * float(right.mean()) - 100 * block.records[run_id].final.test_top1)
    return gap <= max(points, 100 * images / len(right))
