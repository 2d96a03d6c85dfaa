"""`python -m benchmark.ladder RUN...`: what the choice of a finished run is worth at many targets.

Writes `measurements/ladder-<hash>.json` beside the record: accuracy on validation images after
removal, after BN recalibration, and of the inverse of the choice, without any recovery. All else
is as in the run. The dense network and the scores come from `stages/`, or are made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmark import baseline, environment, flops
from benchmark.cli import DONE, console, run_app
from benchmark.context import (
    Context,
    checkpoints_of,
    make_trainer,
    set_threads_and_determinism,
    start,
)
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.flags import DataDir, Device, OwnArch, OwnMethod, Records, Weights
from benchmark.laddertable import KIND, VERSION, shared
from benchmark.measure import EVERY, folders_of
from benchmark.planning import BadMethod
from benchmark.progress import GridProgress
from benchmark.record import RECORD, readable
from benchmark.reproduce import Job, job_of, read_data
from benchmark.rounds import choose
from benchmark.selection import inverse_accuracy
from benchmark.spec import RunSpec, digest
from benchmark.store import Store
from benchmark.verdict import Say
from methods import build
from methods.api import Method, Unsupported

# FLOPs reductions from 5 to 80 %, evenly spaced in their logarithm.
TARGETS = tuple(round(0.05 * 16 ** (step / 9), 4) for step in range(10))
Row = dict[str, Any]


@dataclass(frozen=True)
class Ladder:
    """Runs that differ in their target alone, the smallest first: beside it the ladder is
    written."""

    jobs: tuple[Job, ...]

    @property
    def home(self) -> Job:
        return self.jobs[0]


# ---- which runs ----------------------------------------------------------------------------------


def unfit(job: Job) -> str:
    """Why the run's choice cannot be made at other targets, or not be judged; empty: it can."""
    spec, method = job.spec, build(job.entry, job.spec.method.params)
    if spec.is_trial:
        return "it is a trial, which stands in no table"
    if spec.flops_reduction == 0 or spec.allocation == "none":
        return "it keeps everything"
    if spec.result != "channels":
        return f"its result is {spec.result}: no network gets smaller"
    if spec.in_rounds:
        return f"its schedule is {spec.schedule}: it trains between its choices"
    if spec.scratch is not None:
        return "its weights are new: there is nothing to read before they are trained"
    if spec.track == "paper":
        return "the paper track has no validation images"
    if spec.allocation == "listed" or not method.targets_macs:
        return "its widths do not follow a FLOPs target"
    if job.entry.cls.imported and not method.scores_first:
        return "its widths come from a file"
    if spec.start.kind == "random" and not method.prepares:
        return "it starts from random weights: there is nothing to read before they are trained"
    return ""


def jobs_of(
    texts: list[str], results: Path, words: dict[str, Any], method_file: Path | None, say: Say
) -> list[Job]:
    """The runs that are meant. `all` stands for those of the common track that can have a ladder;
    of the others of the track a line says why they have none.

    Raises:
        BadInput: a run that was named cannot have one, or none is left.
    """
    found, is_all = [], EVERY in texts
    for folder in folders_of(texts, results):
        try:
            job = job_of(folder, words, method_file, False)
            if is_all and job.spec.track != "common":
                continue
            if reason := unfit(job):
                raise BadInput(f"run {job.spec.run_id} can have no ladder: {reason}")
        except BadInput as error:
            if not is_all:
                raise
            say(f"skipped: {error}")
            continue
        found.append(job)
    if not found:
        raise BadInput(f"no run under {results} can have a ladder")
    return found


def ladders(jobs: Sequence[Job]) -> list[Ladder]:
    """In the order of the first run of each."""
    found: dict[tuple[Path, str], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.root.resolve(), shared(job.spec)), []).append(job)
    return [Ladder(tuple(sorted(p, key=lambda j: j.spec.flops_reduction))) for p in found.values()]


def holder(job: Job, targets: Sequence[float]) -> str:
    """The run beside which a ladder of this version with all these targets lies that the run
    shares, by id; empty: there is none."""
    store = Store(job.root)
    paths = store.run_folder(job.spec).parent.glob(f"*/{RECORD}")
    for record in readable(sorted(p for p in paths if not p.parent.name.startswith("."))):
        if shared(record.spec) != shared(job.spec):
            continue
        for facts in store.measurements(record.spec, KIND):
            is_ours = facts.get("version") == VERSION
            if is_ours and set(targets) <= {row["target"] for row in facts["rows"]}:
                return record.run_id
    return ""


# ---- one ladder ----------------------------------------------------------------------------------


def climb(
    job: Job, data: Data, targets: Sequence[float], screen: Console, say: Say
) -> dict[str, Any]:
    """All facts of the measurement. The results directory gets the stages that are made again."""
    spec, record = job.spec, job.recorded.record
    method = build(job.entry, spec.method.params)
    rows, same = [], True
    with GridProgress(screen, "measuring", total=len(targets), workers=1) as bars:

        def show(phase: str, done: int, total: int) -> None:
            bars.update(spec.run_id, phase, done, total)

        context = Context(
            store=Store(job.root),
            data=data,
            device=job.options.torch_device(),
            progress=show,
            checkpoint=job.options.checkpoint,
            compiled=bool(record.environment.get("compiled", False)),
        )
        for target in targets:
            own = spec.model_copy(update={"flops_reduction": target})
            row, weights = rung(own, method, context)
            rows.append(row)
            same = same and weights == record.dense.weights
            bars.finish(spec.run_id, in_words(row))
    if not same:
        say("  the dense network made here is not that of the record: another kind of machine")
    return {
        "run_id": spec.run_id,
        "kind": KIND,
        "version": VERSION,
        "hardware": environment.hardware_kind(),
        "same_dense": same,
        "images": len(data.val),
        "rows": rows,
    }


def rung(spec: RunSpec, method: Method, context: Context) -> tuple[Row, str]:
    """Facts at the target of the spec, and the digest of the dense network's weights. Accuracies
    are shares of all validation images, on the scoring weights: what the method or a refit did to
    them counts, as in a run. The inverse is judged on the weights that the choice was made on, as
    in the check of a choice."""
    test = context.data.test.source(spec.data, context.device)
    dense, net = start(spec, method, test, context)
    trainer = make_trainer(spec, context)
    trainer.use(net)
    row: Row = {"target": spec.flops_reduction}
    row |= dict.fromkeys(("reduction", "before", "recalibrated", "inverse"))
    kept = checkpoints_of(context, "recovery", spec.run_id)  # of rounds, which it has none of
    try:
        chosen = choose(spec, method, net, trainer, kept, context)
    except (Unsupported, BadMethod) as error:
        return row | {"reason": " ".join(str(error).split())}, dense.weights
    pruned = chosen.made.model
    price = chosen.made.price(flops.cost(pruned, baseline.example(spec)))
    row["reduction"] = 1 - price.macs / dense.cost.macs
    row["before"] = trainer.accuracy(pruned)
    trainer.recalibrate(pruned, price.macs)
    row["recalibrated"] = trainer.accuracy(pruned)
    row["inverse"] = inverse_accuracy(method, chosen.judged, chosen.scores, chosen.plan, trainer)
    return row | {"reason": ""}, dense.weights


def in_words(row: Row) -> str:
    """One line about a target."""
    asked = f"target {100 * row['target']:.1f} %"
    if row["reason"]:
        return f"{asked}: {row['reason']}"
    inverse = "" if row["inverse"] is None else f", its inverse {100 * row['inverse']:.1f} %"
    return (
        f"{asked}: {100 * row['before']:.1f} % of validation images after removal, "
        f"{100 * row['recalibrated']:.1f} % after BN recalibration{inverse}"
    )


# ---- the command ---------------------------------------------------------------------------------


def targets_of(text: str | None) -> tuple[float, ...]:
    """Fractions of FLOPs, ascending, each once.

    Raises:
        BadInput: not fractions.
    """
    if text is None:
        return TARGETS
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError as error:
        raise BadInput(f"--targets {text}: give fractions, as 0.1,0.3,0.5") from error
    if not all(0 < target < 1 for target in found):
        raise BadInput(f"--targets {text}: a target lies between 0 and 1")
    return tuple(found)


def measure(
    found: Iterable[Ladder], targets: Sequence[float], screen: Console, say: Say
) -> Iterator[Path]:
    """Files that were written, one after another."""
    data: dict[str, Data] = {}
    for ladder in found:
        home, beside = ladder.home, holder(ladder.home, targets)
        if not beside:
            spec, beside = home.spec, home.spec.run_id
            say(f"run {spec.run_id}: {spec.name} on {spec.data.name}, {spec.arch.name}")
            key = spec.data.model_dump_json()
            data[key] = data.get(key) or read_data(home, home.root, screen)
            set_threads_and_determinism(spec.threads)
            facts = climb(home, data[key], targets, screen, say)
            path = Store(home.root).write_measurement(spec, KIND, digest(facts, 12), facts)
            say(f"run {spec.run_id}: written to {path}")
            yield path
            ladder = Ladder(ladder.jobs[1:])
        for job in ladder.jobs:
            where = "" if job.spec.run_id == beside else f", beside run {beside}"
            say(f"run {job.spec.run_id}: its ladder is there already{where}")


def main(
    runs: Annotated[list[str], typer.Argument(help="Run ids, their starts, folders, or all.")],
    results: Records = Path("results"),
    data_dir: DataDir = None,
    checkpoint: Weights = None,
    arch: OwnArch = None,
    method_file: OwnMethod = None,
    device: Device = None,
    targets: Annotated[
        str | None, typer.Option(help="Fractions of MACs to remove. Default: ten, 0.05 to 0.8.")
    ] = None,
) -> int:
    """Measure what the choices of finished runs keep at many targets, without recovery.

    Example: python -m benchmark.ladder all --results results-demo
    """
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    wanted = targets_of(targets)
    words = {"data_dir": data_dir, "checkpoint": checkpoint, "device": device, "arch": arch}
    jobs = jobs_of(runs, results, words, method_file, say)
    for root in {job.root for job in jobs}:
        check_writable(root)
    if list(measure(ladders(jobs), wanted, screen, say)):
        say("Next: python -m benchmark.report makes leaderboard/ladder.csv and its figures")
    return DONE


if __name__ == "__main__":
    run_app(main)
