"""What `CARD.md` counts from records: what runs cost, how often they read the test split, and what
they cannot show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmark import expenses
from benchmark import openings as opened
from benchmark.archtable import markdown_table
from benchmark.cardtext import Places
from benchmark.described import SOURCES, Sources
from benchmark.expenses import Expense
from benchmark.holdings import Holding
from benchmark.progress import counted
from benchmark.record import RunRecord
from benchmark.store import Store
from benchmark.texts import md

# ---- compute -------------------------------------------------------------------------------------

EXPENSES = (
    "of", "hardware", "runs", "hours", "preparation", "recovery", "forward only",
    "images, gradient", "images, forward", "10^12 MACs",
)  # fmt: skip


def compute(places: Places, trials: Sequence[RunRecord], known: Sources) -> list[str]:
    groups = {name: own for name, (_, own) in places.items()} | {"tuning trials": tuple(trials)}
    rows = [
        (f"`{name}`" if name in places else name, hardware, *_figures(found))
        for name, own in groups.items()
        for hardware, found in expenses.by_hardware(own).items()
    ]
    whole = sum((expenses.of_run(r) for own in groups.values() for r in own), Expense())
    lines = [
        "Hours are wall time of runs with a record, their measurements among them; several runs "
        "may have shared a machine. Preparation (scores with gradients, masks, sparsity), recovery "
        "and forward passes (scores without gradients, refits, batch-norm recalibration) are hours "
        "too, as in the ledgers of the runs. What several runs shared stands in the ledger of "
        "each, so that phases can add up to more than the wall time.", "",
        markdown_table(EXPENSES, iter([*rows, ("sum", "", *_figures(whole))])), "",
    ]  # fmt: skip
    lines += [f"- {line}" for line in _dense(places)]
    is_tuned = any(r.spec.is_tuned for own in groups.values() for r in own)
    if not is_tuned:
        lines.append("- Tuning: there are no trials, and no run has tuned values.")
    failed = known.compute.failed
    lines.append(
        "- Failed runs, disclosed by hand, for attempts without a record stay on the machine that "
        f"made them: {'' if failed else f'nothing is said in `{SOURCES}`.'}".rstrip()
    )
    return [*lines, *[f"  - {sentence}" for sentence in failed], ""]


def _figures(found: Expense) -> tuple[str, ...]:
    hours = (found.seconds, found.preparation, found.recovery, found.forward)
    return (
        str(found.runs), *(f"{seconds / 3600:.2f}" for seconds in hours),
        f"{found.images:,}", f"{found.forward_images:,}", f"{found.macs / 1e12:,.1f}",
    )  # fmt: skip


def _dense(places: Places) -> Iterator[str]:
    for name, (_, records) in places.items():
        found = expenses.dense_training(records)
        if found.networks:
            adapts = any(r.spec.start.kind == "adapted" for r in records)
            what = "Adaptation of checkpoints" if adapts else "Dense training"
            yield (
                f"{what} of `{name}`: {counted(found.networks, 'network')}, "
                f"{found.images:,} images, {found.macs / 1e12:,.1f} x 10^12 MACs; records do not "
                "time it, and the table does not hold it."
            )
        starts = sorted({r.spec.start.checkpoint for r in records} - {""})
        if starts:
            hashes = ", ".join(f"`{start}`" for start in starts)
            what = "checkpoint" if len(starts) == 1 else "checkpoints"
            yield (
                f"`{name}` starts from {what} {hashes}, whose training is in the table only "
                "where it was a run of these boards or of the pilot."
            )


# ---- openings ------------------------------------------------------------------------------------


def openings(places: Places) -> list[str]:
    lines = [
        "How many networks were read on the whole test split, by row. Each run reads its dense "
        "network (where its predictions are kept), the pruned one before recovery, after "
        "batch-norm recalibration and at the end, and once more the weights of its best validation "
        "epoch, for the record. Optimistic figures are the best of all epochs and called so; "
        "nothing else is chosen by any of these readings. Tuning trials are judged on validation "
        "images and never open the test split. Runs that failed, reproductions, and dissections "
        "and ladders that make a dense network again leave no record of it: they are not counted.",
        "",
    ]  # fmt: skip
    for name, (store, records) in places.items():
        if records:
            lines += [*_openings(name, store, records), ""]
    return lines


def _openings(name: str, store: Store, records: Sequence[RunRecord]) -> list[str]:
    rows = opened.by_row(store, records)
    whole = opened.total(rows)
    shown = [
        key for key in opened.HEADS
        if key not in ("epochs", "counted", "later") or getattr(whole, key)
    ]  # fmt: skip

    def cells(label: str, allocation: str, found: opened.Openings) -> tuple[str, ...]:
        return (label, allocation, *(str(getattr(found, key)) for key in shown), str(found.total))

    table = [cells(md(row), allocation, found) for (row, allocation), found in rows.items()]
    table.append(cells("sum", "", whole))
    head = ("row", "allocation", *(opened.HEADS[key] for key in shown), "sum")
    dense = opened.dense_networks(records)
    return [
        f"### `{name}`", "",
        markdown_table(head, iter(table)), "",
        "Besides, the accuracy of each dense network is read when it is made or loaded, once where "
        f"its stage is kept: {counted(dense, 'network')} here.",
    ]  # fmt: skip


# ---- limits --------------------------------------------------------------------------------------


def limits(held: Iterable[Holding], known: Sources, records: Sequence[RunRecord]) -> list[str]:
    lines: list[str] = []
    for own in held:
        block = known.block.get(own.name)
        stated = own.board.limits if own.board else block.limits if block else ()
        who = "As declared" if own.board else f"As `{SOURCES}` says"
        found = [f"- {who}: {text}" for text in stated]
        found += [f"- From the records: {text}" for text in _of_records(own.records)]
        lines += [f"### `{own.name}`", "", *(found or ["No runs yet, and no limits declared."]), ""]
    return [*lines, "### All of them", "", *[f"- {text}" for text in _general(records)]]


def _of_records(records: Sequence[RunRecord]) -> Iterator[str]:
    if not records:
        return
    dense = opened.dense_networks(records)
    if dense == 1:
        yield (
            "whatever starts from a trained network starts from one and the same; results are "
            "conditional on it."
        )
    seeds = len({r.spec.seeds.run for r in records})
    if seeds < 5:
        yield f"{counted(seeds, 'seed')}: from 5 on there are intervals over seeds."


def _general(records: Sequence[RunRecord]) -> Iterator[str]:
    if not records:
        yield "There are no runs yet."
        return
    if not any(expenses.is_gpu(r) for r in records):
        yield "No run used a GPU: nothing is said about latency or training time on GPUs."
    size = max(r.spec.data.image_size for r in records)
    names = sorted({r.spec.data.name for r in records})
    yield (
        f"Data sets: {', '.join(names)}, at most {size} x {size} pixels. Nothing is said about "
        "other data, or larger images such as ImageNet's."
    )
    archs = sorted({r.spec.arch.name for r in records})
    yield f"Networks: {', '.join(archs)}. Nothing is said about others."
    missing = [t for t in ("common", "total", "paper") if t not in {r.spec.track for r in records}]
    if missing:
        yield f"Tracks without a run: {', '.join(missing)}."
    if not any(r.spec.scratch for r in records):
        yield "Networks of a method's choice trained anew from random weights: not run."
    if not any(r.spec.is_tuned for r in records):
        yield "No run is of the tuned lane: nothing is said about methods whose values were tuned."
