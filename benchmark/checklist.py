"""The fairness protocol as a checklist that code ticks, from records alone: one list per table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from benchmark import fairness, frames, soundness
from benchmark.block import Block
from benchmark.columns import Column
from benchmark.frames import MOST_FLOOR, SATURATED
from benchmark.ledger import FORWARD_SHARE
from benchmark.paired import CROSSED_SEEDS, MARGIN
from benchmark.select import TOLERANCE
from benchmark.summaries import LEAST_SEEDS
from benchmark.tableview import Found, View, views

Rule = Callable[[View], Found]


@dataclass(frozen=True)
class Check:
    """`holds` None: the rule does not apply, or the records cannot tell."""

    rule: str
    table: str
    holds: bool | None
    evidence: str


RULES: tuple[tuple[str, Rule], ...] = (
    ("One protocol, track, precision, scope, thread count, network and data", fairness.one_setting),
    ("All methods at one seed start from the same dense network", fairness.same_start),
    (f"Training the dense network further gains at most {MARGIN} points", fairness.trained_out),
    ("Equal budgets, and nobody spends more", fairness.same_budget),
    ("Nobody trains less than the budget", fairness.budget_used),
    (f"No phase without gradients uses more than {100 * FORWARD_SHARE:.0f} % of the budget",
     fairness.forward_capped),
    ("What trains before it removes stands there charged and free", fairness.both_preparations),
    (f"FLOPs removed: at most {100 * TOLERANCE} points short of the target and "
     f"{fairness.MOST_EXCESS:g} beyond", fairness.target_met),
    ("FLOPs and parameters removed follow from what was counted", fairness.cost_adds_up),
    ("Controls and references at every target and allocation", fairness.controls_present),
    ("Reconstruction is added to the references too", fairness.reconstruction_controlled),
    (f"No more than {MOST_FLOOR:.0f} % of the layers at their minimum width",
     fairness.not_floor_bound),
    ("No run ends at chance", fairness.above_chance),
    (f"Not saturated: dense accuracy of at most {SATURATED:.0f} %", fairness.not_saturated),
    ("The same seeds in every row", soundness.same_seeds),
    (f"At least {LEAST_SEEDS} seeds in every row, for a rank", soundness.three_seeds),
    (f"At least {CROSSED_SEEDS} seeds in every row, for a claim about new seeds",
     soundness.five_seeds),
    (f"At least {soundness.OPERATING_POINTS} targets", soundness.operating_points),
    ("Every row at every target", soundness.every_target),
    ("Every run that was tried has a result", soundness.nothing_missing),
    ("Predictions per test image, in one order", soundness.predictions_present),
    ("Nothing is chosen on the test split", soundness.nothing_chosen_on_test),
    ("One kind of machine, for timings", soundness.one_hardware),
    ("Deterministic algorithms", soundness.deterministic),
    ("Code without uncommitted changes", soundness.committed),
    ("One version of the code", soundness.one_commit),
    ("Every record can be read and lies where its hash says", soundness.records_whole),
)  # fmt: skip

WORDS = {True: "yes", False: "no", None: "not applicable"}
COLUMNS = [
    Column("data", "name of the data set"),
    Column("arch", "architecture"),
    Column("table", "the table that the rule was checked for"),
    Column("rule", "rule of the protocol (docs/DECISIONS.md), in the order of the checklist"),
    Column("holds", "yes, no, or not applicable"),
    Column("evidence", "what the records show; where it does not hold, the first offending rows"),
]


def checklist(block: Block) -> list[Check]:
    """Every rule for every table of the block. Tables without a finished run have none."""
    return [
        Check(text, view.table, found.holds, found.evidence)
        for view in views(block)
        if view.records
        for text, rule in RULES
        if (found := rule(view))
    ]


def frame(block: Block) -> pd.DataFrame:
    """The same as rows."""
    place = {"data": block.data, "arch": block.arch}
    rows = [
        place | {"table": c.table, "rule": c.rule, "holds": WORDS[c.holds], "evidence": c.evidence}
        for c in checklist(block)
    ]
    return frames.typed(rows, COLUMNS)
