"""Answers to questions about a board, each by a rule that was fixed before the board was run.

An answer is a sentence and the figures it rests on. Where the data do not decide, it says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import pandas as pd
from scipy.stats import kendalltau

from benchmark.asked import (
    NOT_RUN,
    OPEN,
    Answer,
    Found,
    Kind,
    Question,
    decided,
    interval,
    named,
    points,
)
from benchmark.findings import verdict_of
from benchmark.progress import counted
from benchmark.summaries import LEAST_SEEDS, summary
from benchmark.texts import number, signed

SIDES = {1: "ahead", -1: "behind", 0: "undecided"}
FEWEST = 4  # rows for an order that says anything
POINTS_OF_A_RUN = {
    "test_before": "after removal",
    "test_recalibrated": "after BN recalibration",
    "test_final": "after recovery",
}
ROW = ("target", "allocation", "name")  # of one row of a board, in the order of sorting


def compared(question: Question, found: Found) -> Answer:
    """The verdicts of the board's own comparisons, by crossed bootstrap, with the declared margin
    and with preparation granted for free (see `comparisons.py`)."""
    called = dict(zip(found.leaderboard["cell"], found.leaderboard["name"], strict=True))
    frame = found.comparisons
    frame = frame[
        frame["cell"].map(called).isin(question.entries)
        & frame["reference_cell"].map(called).isin(question.against)
    ]
    rows = [
        (
            number(row["target"], 0),
            str(row["entry"]),
            str(row["reference"]),
            number(row["n"], 0),
            points(row["mean"], row["low_95"], row["high_95"]),
            verdict_of(row) or "no seed in common",
            str(row["note"]),
        )
        for row in frame.sort_values(["target", "entry", "reference"]).to_dict("records")
    ]
    verdicts = [(row[5], f"{row[1]} against {row[2]}, {row[0]} %") for row in rows]
    sentence = f"Of {counted(len(rows), 'comparison')}: {named(verdicts)}." if rows else NOT_RUN
    if rows and {word for word, _ in verdicts} <= OPEN:
        sentence += " The data do not decide."
    head = ("target %", "row", "against", "n", "points [95 %]", "verdict", "limits")
    return Answer((sentence,), head, tuple(rows), "leaderboard/comparisons.csv")


def informative(question: Question, found: Found) -> Answer:
    """Whether a choice beats its inverse and random draws at its own widths, on validation images
    after BN recalibration, paired by seed."""
    runs = _of(found.runs, question.entries)
    runs = runs[runs["selection_score"].notna()]
    rows, verdicts = [], list[tuple[str, str]]()
    for place, part in runs.groupby(list(ROW), sort=True):
        inverse = (part["selection_score"] - part["selection_inverse"]).dropna().tolist()
        random = (part["selection_score"] - part["selection_random"]).dropna().tolist()
        signs = decided(inverse), decided(random)
        word = "informative" if signs == (1, 1) else "uninformative" if -1 in signs else "undecided"
        verdicts.append((word, f"{place[2]}, {place[1]} {number(place[0], 0)} %"))
        agreement = summary(part["agreement_rank"].tolist())["mean"]
        kept = summary(part["agreement_kept"].tolist())["mean"]
        rows.append(
            (*_place(place), str(len(part)), interval(inverse), interval(random),
             number(agreement, 2), number(kept, 1), word)
        )  # fmt: skip
    sentence = f"Of {counted(len(rows), 'row')}: {named(verdicts)}." if rows else NOT_RUN
    head = ("target %", "allocation", "row", "n", "choice less inverse", "choice less random",
            "rank agreement of two seeds", "kept by both %", "verdict")  # fmt: skip
    return Answer((sentence,), head, tuple(rows), "leaderboard/runs.csv")


def order(question: Question, found: Found) -> Answer:
    """Kendall's tau between the orders of the rows under two allocations, on the seeds that a row
    has under both."""
    runs = _of(found.runs, question.entries)
    rows: list[tuple[str, ...]] = []
    for target, part in runs.groupby("target", sort=True):
        finals = part.pivot_table(index=["name", "seed"], columns="allocation", values="test_final")
        for one, other in combinations(sorted({*map(str, finals)} - {"none"}), 2):
            by_row = finals[[one, other]].dropna().groupby("name")
            both, seeds = by_row.mean(), by_row.size().min() if len(by_row) else 0
            tau = kendalltau(both[one], both[other]).statistic if len(both) > 1 else math.nan
            best = [str(both[a].idxmax()) for a in (one, other)] if len(both) else ["", ""]
            rows.append(
                (number(target, 0), one, other, str(len(both)), str(seeds), number(tau, 2), *best)
            )
    changed = sum(row[6] != row[7] for row in rows)
    few = any(int(row[3]) < FEWEST or int(row[4]) < LEAST_SEEDS for row in rows)
    sentence = (
        "Not run yet with two allocations."
        if not rows
        else f"The first row changes in {changed} of {counted(len(rows), 'target')}."
        + (" Too few rows or seeds were run with both: the data do not decide." if few else "")
    )
    head = ("target %", "one", "other", "rows", "seeds", "tau", "first by one", "by the other")
    return Answer((sentence,), head, tuple(rows), "leaderboard.csv")


def paired(question: Question, found: Found) -> Answer:
    """Test accuracy of each row less that of each other, at the three points of a run, paired by
    seed, at the same target and allocation."""
    rows: list[tuple[str, ...]] = []
    verdicts: list[tuple[str, str]] = []
    for place, one, other in _pairs(question, found.runs):
        both = one.merge(other, on="seed", suffixes=("", "_other"))
        gaps = [(both[column] - both[f"{column}_other"]).tolist() for column in POINTS_OF_A_RUN]
        if not gaps[0]:
            continue
        word = SIDES[decided(gaps[-1])]
        verdicts.append((word, f"{place[2]} against {place[3]}, {place[1]} {place[0]} %"))
        rows.append((*place, str(len(both)), *map(interval, gaps)))
    total = counted(len(rows), "pair")
    sentence = f"After recovery, of {total}: {named(verdicts)}." if rows else NOT_RUN
    head = ("target %", "allocation", "row", "less", "n", *POINTS_OF_A_RUN.values())
    return Answer((sentence,), head, tuple(rows), "leaderboard/runs.csv")


def _pairs(
    question: Question, runs: pd.DataFrame
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame, pd.DataFrame]]:
    kept = ["seed", *POINTS_OF_A_RUN]
    for (target, allocation), part in _done(runs).groupby(["target", "allocation"], sort=True):
        for name in question.entries:
            for other in question.against:
                place = (number(target, 0), str(allocation), name, other)
                own = (part.loc[part["name"] == n, kept] for n in (name, other))
                one, two = own
                yield place, one, two


def optimism(question: Question, found: Found) -> Answer:
    """What the best test epoch adds to the last one of the same runs."""
    frame = found.selection[found.selection["test_over_last_n"] > 0]
    rows = [
        (
            str(row["entry"]),
            number(row["test_over_last_n"], 0),
            number(row["epochs"], 0),
            points(*(row[f"test_over_last_{part}"] for part in ("mean", "low", "high"))),
        )
        for row in frame.sort_values("test_over_last_mean").to_dict("records")
    ]
    means = frame["test_over_last_mean"]
    sentence = (
        f"Between {signed(means.min())} and {signed(means.max())} points by row."
        if rows
        else "Not run yet with the test split read every epoch."
    )
    head = ("row", "n", "test epochs", "best test epoch less last [95 %]")
    return Answer((sentence,), head, tuple(rows), "leaderboard/selection.csv")


def continued(question: Question, found: Found) -> Answer:
    """Rows above the dense network, and whether they are above the dense network trained on."""
    board = found.leaderboard
    board = board[(board["n"] > 0) & (board["target"] > 0)]
    compared = found.comparisons
    compared = compared[compared["reference_method"].isin(question.against)]
    own = {
        (row["cell"], row["target"]): (row["mean"], verdict_of(row))
        for row in compared.to_dict("records")
    }
    rows = []
    for row in board.sort_values(["target", "delta_mean"]).to_dict("records"):
        gap, verdict = own.get((row["cell"], row["target"]), (math.nan, ""))
        rows.append((number(row["target"], 0), str(row["entry"]), number(row["n"], 0),
                     signed(row["delta_mean"]), signed(gap), str(verdict)))  # fmt: skip
    above = [r for r in rows if r[3].startswith("+")]
    known = [r for r in above if r[5]]
    also = sum(r[5].startswith("better") for r in known)
    sentence = f"None of {counted(len(rows), 'row')} lies above the dense network it starts from."
    if above:
        sentence = (
            f"{counted(len(above), 'row')} of {len(rows)} lie above the dense network they start "
            f"from; of the {len(known)} of these that are compared with that network trained "
            f"further for the same budget, {also} are better."
        )
    if rows and not own:
        sentence += " The dense network trained further has not been run yet."
    head = ("target %", "row", "n", "over the dense network", "over it trained further", "verdict")
    return Answer((sentence if rows else NOT_RUN,), head, tuple(rows), "leaderboard.csv")


def label(question: Question, found: Found) -> Answer:
    """The leakage diagnostics of methods that see the label: mean over seeds, and the widest
    interval over images of any seed. A seed's masks are trained once for all targets."""
    facts: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for record in found.records:
        for what, figures in (record.method_facts.get("leakage") or {}).items():
            own = facts.setdefault((record.spec.row, what), {})
            own.setdefault(record.spec.seeds.run, figures)
    rows = []
    for (name, what), by_seed in sorted(facts.items()):
        mean = 100 * sum(f["mean"] for f in by_seed.values()) / len(by_seed)
        low = 100 * min(f["low"] for f in by_seed.values())
        high = 100 * max(f["high"] for f in by_seed.values())
        text = points(mean, low, high)
        word = "apart from zero" if low > 0 or high < 0 else "zero is possible"
        rows.append((name, what.replace("_", " "), str(len(by_seed)), text, word))
    apart = sum(row[4] == "apart from zero" for row in rows)
    sentence = (
        f"{apart} of {counted(len(rows), 'figure')} are apart from zero for every seed."
        if rows
        else NOT_RUN
    )
    head = ("row", "figure", "n", "points [widest of the seeds]", "verdict")
    return Answer((sentence,), head, tuple(rows), "leaderboard/runs.csv")


def chosen(question: Question, found: Found) -> Answer:
    """What methods keep by their papers' recipes beside what rows of the board keep. No accuracy:
    nothing was trained after these choices."""
    rows = []
    for record, facts in found.choices:
        noise = facts["leakage"].get("noise_minus_chance")
        rows.append(
            (
                number(100 * record.spec.flops_reduction, 0),
                str(facts["by"]),
                number(100 * facts["reached"], 1),
                str(record.spec.seeds.run),
                f"{record.spec.name} ({record.spec.allocation})",
                number(100 * facts["overlap"], 1),
                number(100 * facts["overlap_by_chance"], 1),
                "" if noise is None else points(*(100 * noise[p] for p in ("mean", "low", "high"))),
            )
        )  # fmt: skip
    rows.sort()
    sentence = (
        f"{counted(len(rows), 'choice')} made in full; none has an accuracy." if rows else NOT_RUN
    )
    head = ("target %", "method", "removed %", "seed", "row", "of the row's units it keeps %",
            "by chance %", "noise minus chance [95 %]")  # fmt: skip
    return Answer((sentence,), head, tuple(rows), "runs")


def published(question: Question, found: Found) -> Answer:
    """Verdicts on published figures for this network, as `leaderboard/published.md` gives them."""
    verdicts = Counter(found.published["verdict"].astype(str))
    rows = tuple((word, str(n)) for word, n in sorted(verdicts.items()))
    run = sum(n for word, n in verdicts.items() if word != "not yet run")
    sentence = (
        f"Of {counted(len(found.published), 'published figure')} for this network {run} have a run "
        "of ours beside them."
        if len(found.published)
        else "No published figure is of this network on these images."
    )
    return Answer((sentence,), ("verdict", "figures"), rows, "leaderboard/published.md")


ANSWERS: dict[Kind, Callable[[Question, Found], Answer]] = {
    "compared": compared,
    "informative": informative,
    "order": order,
    "paired": paired,
    "optimism": optimism,
    "continued": continued,
    "label": label,
    "chosen": chosen,
    "published": published,
}


def _of(runs: pd.DataFrame, entries: Sequence[str]) -> pd.DataFrame:
    done = _done(runs)
    return done[done["name"].isin(entries)] if entries else done


def _done(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"] == "done"]


def _place(place: object) -> tuple[str, ...]:
    assert isinstance(place, tuple)
    target, allocation, name = place
    return number(target, 0), str(allocation), str(name)
