"""Rules of sound evidence, as far as records can show them: seeds, gaps, predictions, the test
split, machines, code and files. Each looks at one table and can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmark.block import PREDICTIONS
from benchmark.differences import CURVE, curve_of, hardware_of
from benchmark.errors import BadInput
from benchmark.paired import CROSSED_SEEDS
from benchmark.progress import counted
from benchmark.record import RECORD, RunRecord
from benchmark.store import damage_of
from benchmark.summaries import LEAST_SEEDS
from benchmark.tableview import Found, View, judged, place, runs_of

OPERATING_POINTS = 5
EXACT = 1e-9


def same_seeds(view: View) -> Found:
    rows = view.board[view.board["status"] == "done"]
    seeds = {
        cell: set(text.split()) for cell, text in zip(rows["cell"], rows["seeds"], strict=True)
    }
    every = set().union(*seeds.values())
    offenders = [
        f"{place(entry, target)}: without {' '.join(sorted(every - seeds[cell], key=int))}"
        for cell, entry, target in zip(rows["cell"], rows["entry"], rows["target"], strict=True)
        if seeds[cell] != every
    ]
    return judged(offenders, f"seeds {' '.join(sorted(every, key=int))} in every row")


def three_seeds(view: View) -> Found:
    return _at_least(view, LEAST_SEEDS)


def five_seeds(view: View) -> Found:
    return _at_least(view, CROSSED_SEEDS)


def _at_least(view: View, seeds: int) -> Found:
    board = view.board[view.board["status"] != "n/a"]
    offenders = [
        f"{place(entry, target)}: {n:.0f}"
        for entry, target, n in zip(board["entry"], board["target"], board["n"], strict=True)
        if n < seeds
    ]
    return judged(offenders, f"{counted(len(board), 'row')} with {board['n'].min():.0f} or more")


def nothing_missing(view: View) -> Found:
    """What does not apply is no gap: it stands there with its reason."""
    lost = view.runs[~view.runs["status"].isin(["done", "n/a"])]
    offenders = [
        f"{place(entry, target)}, seed {seed:g} {status}: {reason}"
        for entry, target, seed, status, reason in zip(
            lost["entry"], lost["target"], lost["seed"], lost["status"], lost["reason"], strict=True
        )
    ]
    aside = int((view.runs["status"] == "n/a").sum())
    return judged(offenders, f"{runs_of(view.records)} finished, {aside} n/a with the reason")


def every_target(view: View) -> Found:
    pruning = view.board[view.board["target"] > 0]
    targets = set(pruning["target"])
    offenders = []
    for entry, part in pruning.groupby("entry", sort=True):
        gaps = sorted(targets - set(part["target"]))
        offenders += [f"{entry}: not at {' '.join(f'{t:g}' for t in gaps)} %"] if gaps else []
    return judged(offenders, f"all rows at {' '.join(f'{t:g}' for t in sorted(targets))} %")


def operating_points(view: View) -> Found:
    targets = sorted(set(view.board.loc[view.board["target"] > 0, "target"]))
    said = f"{len(targets)}: {' '.join(f'{t:g}' for t in targets)} %"
    return Found(len(targets) >= OPERATING_POINTS, said)


def predictions_present(view: View) -> Found:
    records = view.records
    orders = Counter(r.predictions_order for r in records)
    usual = orders.most_common(1)[0][0] if orders else ""
    offenders = [
        f"{view.name(r)} has none" for r in records if not (view.folder(r) / PREDICTIONS).is_file()
    ]
    offenders += [
        f"{view.name(r)} in another order" for r in records if r.predictions_order != usual
    ]
    return judged(offenders, f"for {runs_of(records)}, in one order")


def nothing_chosen_on_test(view: View) -> Found:
    """The figures are those of the last epoch by the run's own curve and test readings, the epoch
    that validation chose is best on validation, and a best test epoch, which is kept in a column of
    its own, is no worse than the last."""
    offenders = []
    for record in view.records:
        offenders += [f"{view.name(record)}: {why}" for why in _not_the_last(view, record)]
        best, last = record.best_val, record.final.val_top1
        if best and last is not None and (best.accuracy.val_top1 or 0.0) < last - EXACT:
            offenders.append(f"{view.name(record)}: the epoch chosen is not the best on validation")
    done = view.runs[view.runs["status"] == "done"]
    optimistic = done[done["test_best_test"].notna()]
    names = {r.run_id: view.name(r) for r in view.records}
    offenders += [
        f"{names[i]}: its best test epoch is worse than its last"
        for i, best, last in zip(
            optimistic["run_id"],
            optimistic["test_best_test"],
            optimistic["test_final"],
            strict=True,
        )
        if best < last - EXACT
    ]
    marked = f"{counted(len(optimistic), 'run')} with a best test epoch, marked optimistic"
    return judged(offenders, f"figures are those of the last epoch; {marked}")


def _not_the_last(view: View, record: RunRecord) -> Iterator[str]:
    """What else was written while the run went on tells its last epoch."""
    folder = view.folder(record)
    if (folder / CURVE).is_file():
        try:
            curve = curve_of(folder)
            rows = [row for row in curve if row.get("phase") == "recovery"]
            last = [float(row["val_top1"]) for row in rows if row.get("val_top1")][-1:]
        except (BadInput, ValueError):
            yield "its curve cannot be read"
            return
        final = record.final.val_top1
        if last and final is not None and abs(last[0] - final) > EXACT:
            yield "its final validation accuracy is not that of the last epoch"
    for measured in view.block.store.measurements(record.spec, "optimistic"):
        tested = measured.get("test_top1") or []
        if tested and abs(float(tested[-1]) - record.final.test_top1) > EXACT:
            yield "its final test accuracy is not that of the last epoch"


def one_hardware(view: View) -> Found:
    kinds = Counter(hardware_of(r.environment) or "unknown" for r in view.records)
    said = "; ".join(f"{kind}: {counted(n, 'run')}" for kind, n in sorted(kinds.items()))
    return Found(len(kinds) == 1 and "unknown" not in kinds, said)


def committed(view: View) -> Found:
    offenders = []
    for record in view.records:
        git = record.environment.get("git") or {}
        if not git.get("commit"):
            offenders.append(f"{view.name(record)}: commit unknown")
        elif git.get("dirty"):
            offenders.append(f"{view.name(record)}: uncommitted changes")
    return judged(offenders, f"{runs_of(view.records)} from committed code")


def one_commit(view: View) -> Found:
    """Several may be right: what changes results raises a revision. It is said all the same."""
    gits = [r.environment.get("git") or {} for r in view.records]
    commits = Counter(str(g.get("commit") or "unknown")[:12] for g in gits)
    said = "; ".join(f"{c}: {counted(n, 'run')}" for c, n in commits.most_common(3))
    more = f"; and {len(commits) - 3} more" if len(commits) > 3 else ""
    return Found(len(commits) == 1 and "unknown" not in commits, said + more)


def deterministic(view: View) -> Found:
    offenders = [
        view.name(r) for r in view.records if r.environment.get("deterministic") is not True
    ]
    return judged(offenders, f"{runs_of(view.records)} with deterministic algorithms")


def records_whole(view: View) -> Found:
    """Of the whole block: where a damaged record belongs is not known."""
    block = view.block
    home = block.store.root / "runs"
    paths = set(block.store.record_paths(f"{block.data}/{block.arch}"))
    expected = {view.folder(r) / RECORD for r in block.records.values()}
    offenders = [
        f"{path.parent.relative_to(home)}: {_why(path)}" for path in sorted(paths - expected)
    ]
    offenders += [
        f"{path.parent.relative_to(home)} is not where it belongs"
        for path in sorted(expected - paths)
    ]
    return judged(offenders, f"{counted(len(expected), 'record')}, each where its hash says")


def _why(path: Path) -> str:
    reason = damage_of(path)
    return "cannot be read" if reason else "the folder of another run"
