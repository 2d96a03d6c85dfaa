"""What stands below a table: all that a reader must know of its rows."""

from __future__ import annotations

import pandas as pd

from benchmark import findings, lanecolumns, origin
from benchmark.columns import BEST_OF
from benchmark.frames import MIXED, MOST_FLOOR, NOT_ABOVE_SCRATCH, SATURATED
from benchmark.kinds import NOTES, lane_of
from benchmark.summaries import LEAST_SEEDS

NO_SCRATCH = (
    "How long the checkpoint was trained is not known, so no budget from random weights equals "
    "its; networks trained anew at a method's own widths belong to the tracks total and paper."
)


def notes(frame: pd.DataFrame, in_full: bool = True) -> list[str]:
    """What a reader must know of these rows; each note is derived from their figures. `in_full`:
    there are columns for interval and the best."""
    found = [
        "Target, FLOPs and parameters: % removed. Accuracy: test top-1 in %, before recovery, "
        "after BN recalibration and after the last recovery epoch (final). ± is the sample "
        "standard deviation over n seeds, not a confidence interval. Δ dense: mean "
        "difference to the dense network of the same seed, in percentage points."
    ]
    if in_full:
        found += [
            "95 % interval: t-interval of the mean over seeds; it covers the spread between seeds, "
            "not that of the test images.",
            f"Best of {BEST_OF}: what the best of {BEST_OF} such runs is expected to have.",
            *findings.best_notes(frame),
        ]
    found += [NOTES[lane] for lane in NOTES if lane in set(frame["scope"].map(lane_of))]
    marks, status = "; ".join(frame["marks"]), set(frame["status"])
    conditional: list[tuple[bool, str]] = [
        (bool((frame["dense_mean"] > SATURATED).any()),
         f"Dense accuracy above {SATURATED:.0f} %: the board is saturated, differences are not a "
         "ranking, and none is given; this shows that the machinery works."),
        (bool(frame["n"].between(1, LEAST_SEEDS - 1).any()), f"Rows with fewer than {LEAST_SEEDS} "
         "seeds have no rank in the CSV file."),
        ("control" in marks, "Controls are there to be compared with and are not ranked."),
        ("floor-bound" in marks,
         f"Floor-bound: more than {MOST_FLOOR:.0f} % of the groups are at their minimum width, so "
         "the floor decided, not the method; not ranked."),
        ("at chance" in marks, "At chance: final accuracy is that of guessing."),
        ("no better than random draws" in marks, "No better than random draws: after BN "
         "recalibration the chosen channels are no better than random ones at the same widths."),
        ("selection uninformative" in marks,
         "Selection uninformative: after BN recalibration the chosen channels are no better than "
         "those of the negated score; without scores, than those it removes."),
        (NOT_ABOVE_SCRATCH in marks, "Not above its network from scratch: with new weights it ends "
         "as well or better on average; the kept weights are worth nothing here."),
        ("incomplete" in marks, "Incomplete: some seeds have no result; not ranked."),
        (MIXED in marks, "Timings of several machines: the runs of the row come from several kinds "
         "of hardware, so it has no seconds and no speedups."),
        ("checkpoint" in set(frame["start"]), "Conditional on one dense network: all seeds start "
         "from one checkpoint" + _overlap(frame) + "."),
        (any(start.startswith("adapted") for start in set(frame["start"])),
         "Conditional on one checkpoint: each seed starts from it after training it on these "
         "images itself" + _overlap(frame) + "."),
        ("" not in set(frame["checkpoint"]),
         "Controls from scratch: not run. " + NO_SCRATCH),
        ("free" in set(frame["preparation"]), "Preparation free: masks and sparsity training were "
         "not charged; a difference counts only if its sign agrees with the charged row."),
        ("tuned" in set(frame["lane"]), lanecolumns.NOTE),
        (bool(status - {"done"}), "Cells without a result are listed with their reason."),
    ]  # fmt: skip
    said = [text for holds, text in conditional if holds]
    return found + said + origin.notes(frame) + _hardware(frame)


def _hardware(frame: pd.DataFrame) -> list[str]:
    """What computed these rows, and that speeds are compared within one kind of it only."""
    kinds = sorted({kind for text in frame["hardware"] if text for kind in text.split(" / ")})
    if len(kinds) < 2:
        return [f"Hardware: {kind}." for kind in kinds]
    rule = "Compare seconds and speedups only between rows of one kind (CSV column hardware)."
    return [f"Hardware: {'; '.join(kinds)}. {rule}"]


def _overlap(frame: pd.DataFrame) -> str:
    known = frame[frame["kept_overlap"].notna()]
    if not len(known):
        return ""
    shares = [f"{e} at {t:g}: {o:.1f} %" for e, t, o in
              zip(known["entry"], known["target"], known["kept_overlap"], strict=True)]  # fmt: skip
    return "; kept units that two seeds share: " + ", ".join(shares)
