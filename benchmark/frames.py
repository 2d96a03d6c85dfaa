"""Records as tidy frames: one row per run, and one leaderboard row per cell (a run without seed).

Text columns are plain strings and all others floats, so that plots and CSV files need no casts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark import boards, columns
from benchmark.attempts import Attempt
from benchmark.boards import Row
from benchmark.columns import (
    BEST_OF,
    LEADERBOARD,
    MEANS,
    MEDIANS,
    QUANTITIES,
    RECORD,
    RUNS,
    SPEC,
    STANDING,
    Column,
)
from benchmark.differences import kept_overlap
from benchmark.pooling import best_of
from benchmark.record import RunRecord, read_plan
from benchmark.spec import RunSpec, parts_of
from benchmark.store import Store
from benchmark.summaries import LEAST_SEEDS, mean, median, summary
from methods import UnknownMethod, find_ours

MOST_FLOOR = 50.0  # % of groups at their minimum width (DECISIONS 16)
SATURATED = 98.0  # % dense accuracy: differences are no ranking
MIXED = "timings of several machines"  # the mark of rows that have none


def load(root: Path) -> pd.DataFrame:
    """One row per run under a results directory, failed ones included."""
    store = Store(root)
    return runs_of(store, store.records(), store.last_attempts())


def runs_of(store: Store, records: list[RunRecord], attempts: list[Attempt]) -> pd.DataFrame:
    """One row per run and attempt, with what is measured beside the records. Trials have none."""
    records = [r for r in records if not r.spec.is_trial]
    attempts = [a for a in attempts if a.spec.get("lane") != "trial"]
    best = {r.run_id: _best_test(store, r.spec) for r in records}
    return runs_frame(records, attempts, best, _overlaps(store, records))


def runs_frame(
    records: Iterable[RunRecord],
    attempts: Iterable[Attempt] = (),
    best_test: Mapping[str, float | None] | None = None,
    overlaps: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Tidy rows, in an order that depends on content alone. `best_test` and `overlaps`: fractions
    by run id."""
    rows = [_record_row(r) for r in records] + [_attempt_row(a) for a in attempts]
    for row in rows:
        row["test_best_test"] = _percent((best_test or {}).get(row["run_id"]))
        row["kept_overlap"] = _percent((overlaps or {}).get(row["run_id"]))
    boards.refer_to_dense(rows)
    boards.assign_tables(rows)
    boards.name_entries(rows)
    frame = typed(rows, RUNS)
    key = [*columns.names([c for c, _ in SPEC]), "dense_seed", "seed", "run_id"]
    return frame.sort_values(key, kind="stable", ignore_index=True)


def leaderboard(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, with statistics over its seeds, marks and ranks."""
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows_of(runs):
        cells[row["cell"]].append(row)
    rows = [_cell_row(part) for part in cells.values()]
    _mark_against_scratch(rows)
    _rank(rows)
    frame = typed(rows, LEADERBOARD)
    key = [*boards.SETTING, "table", "target"]
    order = [*key, "final_mean", "entry", "cell"]
    ascending = [name != "final_mean" for name in order]
    return frame.sort_values(order, ascending=ascending, kind="stable", ignore_index=True)


def with_standings(board: pd.DataFrame, standings: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with what the predictions tell of who may be the best, by cell."""
    found = standings.set_index("cell").reindex(board["cell"])
    return board.assign(**{name: found[name].to_numpy() for name in STANDING})


# ---- runs ----------------------------------------------------------------------------------------


def _spec_row(spec: RunSpec) -> Row:
    seeds = {"seed": spec.seeds.run, "dense_seed": spec.seeds.dense, "run_id": spec.run_id}
    return _cell_facts(spec.cell().model_dump_json()) | seeds


@lru_cache(maxsize=1000)
def _cell_facts(cell: str) -> Row:
    """What all seeds of a cell share, from its spec as JSON. Rows are read one after another, and
    half of the time of reading a record went into the hashes among these."""
    spec = RunSpec.model_validate_json(cell)
    title, control = _card(spec)
    return {c.name: get(spec) for c, get in SPEC} | {"title": title, "control": control}


def _record_row(record: RunRecord) -> Row:
    row = _spec_row(record.spec) | {c.name: get(record) for c, get in RECORD}
    row |= {"status": "done", "reason": "", "title": record.title, "control": record.control}
    row["dense_weights"] = ""
    if record.dense.accuracy is not None:
        dense = 100 * record.dense.accuracy.test_top1
        row |= {"dense_top1": dense, "dense_weights": record.dense.weights}
        row["delta"] = row["test_final"] - dense
    return row


def _attempt_row(attempt: Attempt) -> Row:
    spec = RunSpec.model_validate(attempt.spec)
    reason = " ".join(attempt.reason.split())
    return _spec_row(spec) | {"status": attempt.status, "reason": reason}


def _card(spec: RunSpec) -> tuple[str, bool]:
    """Title and whether it is a control; a method that is not ours is known by its name only."""
    try:
        entry = None if spec.method.source else find_ours(spec.method.label)
    except UnknownMethod:
        entry = None
    title, control = (entry.title, entry.is_control) if entry else (spec.method.label, False)
    return spec.titled(title), control or spec.scratch is not None


# ---- cells ---------------------------------------------------------------------------------------


def _cell_row(part: list[Row]) -> Row:
    """From the rows of a cell's runs: plain dicts, since a frame of five rows is slow to cut."""
    done = [row for row in part if row["status"] == "done"]
    lost = [row for row in part if row["status"] != "done"]
    row: Row = {c.name: part[0][c.name] for c in LEADERBOARD if c.name in part[0]}
    row |= {"n": len(done), "missing": len(lost), "reason": _reasons(lost)}
    row["seeds"] = " ".join(f"{r['seed']:.0f}" for r in done)
    row["title"] = " / ".join(sorted({r["title"] for r in done or part}))
    row["status"] = "done" if done else _worst({r["status"] for r in lost})
    for name, source in QUANTITIES.items():
        row |= {f"{name}_{k}": v for k, v in summary([r[source] for r in done]).items()}
    networks: dict[str, float] = {}
    for run in done:
        if run["dense_weights"]:
            networks.setdefault(run["dense_weights"], run["dense_top1"])
    dense = summary([*networks.values()])
    row |= {"dense_mean": dense["mean"], "dense_sd": dense["sd"], "dense_n": len(networks)}
    row |= {name: mean([r[name] for r in done]) for name in MEANS}
    finals = [r["test_final"] for r in done]
    row["final_best_of"] = best_of(finals, BEST_OF) if len(finals) >= BEST_OF else math.nan
    row |= {name: median([r[name] for r in done]) for name in MEDIANS}
    kinds = {r["hardware"] for r in done}
    row["hardware"] = " / ".join(sorted(kinds - {""}))
    if len(kinds) > 1:
        row |= dict.fromkeys(columns.TIMINGS, math.nan)
    row["marks"] = "; ".join(_marks(row, done))
    return row


def _worst(statuses: set[str]) -> str:
    known = [s for s in ("failed", "interrupted", "not run", "n/a") if s in statuses]
    return known[0] if known else min(statuses)


def _reasons(lost: list[Row]) -> str:
    seeds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in lost:
        seeds[row["status"], row["reason"]].append(f"{row['seed']:.0f}")
    return "; ".join(
        f"seed {', '.join(numbers)} {status}: {reason}"
        for (status, reason), numbers in sorted(seeds.items())
    )


def _marks(row: Row, done: list[Row]) -> list[str]:
    found = ["control"] if row["control"] else []
    if row["floor_share"] > MOST_FLOOR:
        found.append("floor-bound")
    lost = int(sum(r["at_chance"] for r in done))
    if lost:
        found.append("at chance" + (f" ({lost} of {len(done)} seeds)" if len(done) > 1 else ""))
    if row["selection_score"] <= row["selection_inverse"]:
        found.append("selection uninformative")
    if row["selection_score"] <= row["selection_random"]:
        found.append("no better than random draws")
    if row["n"] and row["missing"]:
        found.append("incomplete")
    if len({r["hardware"] for r in done}) > 1:
        found.append(MIXED)
    return found


# What a row and its twin with new weights agree in.
TWINS = ("table", "target", "allocation", "min_width", "revision", "source", "params")
NOT_ABOVE_SCRATCH = "not above its network from scratch"


def _mark_against_scratch(rows: list[Row]) -> None:
    """In place: rows whose kept weights are worth nothing, by their means."""
    scratch: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        label, kind = parts_of(row["method"])
        if kind and row["n"]:
            scratch[(label, *(row[c] for c in TWINS))].append(row)
    for row in rows:
        twins = scratch.get((row["method"], *(row[c] for c in TWINS)), [])
        if any(row["final_mean"] <= twin["final_mean"] for twin in twins):
            row["marks"] = "; ".join([*filter(None, [row["marks"]]), NOT_ABOVE_SCRATCH])


def is_rankable(row: Mapping[Any, Any]) -> bool:
    """Whether a row of the leaderboard may stand in an order of methods, seeds aside."""
    marks = {"control", "floor-bound", "incomplete"} & set(row["marks"].split("; "))
    return not marks and not row["dense_mean"] > SATURATED


def _rank(rows: list[Row]) -> None:
    """Ranks within boards, in place; ties share the better rank."""
    ranked: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        row["rank"] = math.nan
        if row["n"] >= LEAST_SEEDS and is_rankable(row):
            ranked[row["board"]].append(row)
    for part in ranked.values():
        if len(part) > 1:
            for row in part:
                row["rank"] = 1 + sum(r["final_mean"] > row["final_mean"] for r in part)


# ---- plumbing ------------------------------------------------------------------------------------


def typed(rows: Sequence[Mapping[str, Any]], wanted: list[Column]) -> pd.DataFrame:
    """Text columns plain strings, all others float64; a cell that a row lacks is empty."""
    content: dict[str, pd.Series[Any]] = {}
    for column in wanted:
        values = [row.get(column.name) for row in rows]
        if column.decimals is None:
            content[column.name] = pd.Series([str(v or "") for v in values], dtype="str")
        else:
            numbers = [math.nan if v is None else float(v) for v in values]
            content[column.name] = pd.Series(numbers, dtype="float64")
    return pd.DataFrame(content)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """Each row by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _best_test(store: Store, spec: RunSpec) -> float | None:
    found = store.measurements(spec, "optimistic")
    return max((float(f["best_test_top1"]) for f in found), default=None)


def kept_units(store: Store, spec: RunSpec) -> dict[str, list[int]]:
    """Kept units per group of a finished run."""
    plan = read_plan(store.run_folder(spec) / "plan.json")
    return {group: list(kept) for group, kept in plan.keep.items()}


def _overlaps(store: Store, records: list[RunRecord]) -> dict[str, float]:
    """Share of kept units that the other seeds from the same checkpoint keep too, by run id."""
    cells: dict[str, dict[str, dict[str, list[int]]]] = defaultdict(dict)
    for record in records:
        if record.spec.start.checkpoint:
            cells[record.spec.cell().run_id][record.run_id] = kept_units(store, record.spec)
    return {
        run: float(np.mean([kept_overlap(own, p) for other, p in plans.items() if other != run]))
        for plans in cells.values()
        if len(plans) > 1
        for run, own in plans.items()
    }
