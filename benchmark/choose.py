"""`python -m benchmark.choose RUN --by METHOD --recipe ARCH`: what another method would keep of a
run's network, by its paper's recipe, beside what the run keeps.

For methods whose recipe costs more than a board can pay: their choice is made in full, from random
weights where the recipe says so, and nothing is trained afterwards, so there is no accuracy. Writes
`measurements/choice-<hash>.json` beside the record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from torch import Tensor

from benchmark import environment
from benchmark.cli import DONE, console, run_app
from benchmark.context import Context, budget_of, make_trainer, set_threads_and_determinism, start
from benchmark.data import Data
from benchmark.differences import kept_overlap
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.flags import DataDir, Device, OwnArch, OwnMethod, Records, RunIds, Weights
from benchmark.load import find_run
from benchmark.planning import make_plan, scores_key
from benchmark.progress import GridProgress
from benchmark.recipes import card_recipe
from benchmark.reproduce import Job, job_of, read_data
from benchmark.spec import MethodIdentity, RunSpec, Start, digest
from benchmark.store import Store
from benchmark.verdict import Say
from methods import Entry, UnknownMethod, build, find
from methods.api import Unsupported

KIND, VERSION = "choice", 1
DIGITS = 4  # of a score in the file


def recipe_of(entry: Entry, arch: str) -> dict[str, Any]:
    """The paper's settings for a network.

    Raises:
        BadInput: the card has none that can be followed.
    """
    found = entry.recipe(arch)
    if not found or "recovery" not in found:
        known = ", ".join(entry.recipes) or "none"
        raise BadInput(f"{entry.label} has no recipe {arch}: pass --recipe, one of {known}")
    if "blocked" in found:
        raise BadInput(f"{entry.label}, recipe {arch}: {found['blocked']}")
    return found


def spec_of(run: RunSpec, entry: Entry, arch: str) -> RunSpec:
    """The same data, network, target and seed, by the recipe that a method's card has for `arch`.

    Raises:
        BadInput: there is no such recipe, or the run removes nothing.
    """
    if not run.flops_reduction or run.result != "channels" or run.in_rounds:
        raise BadInput(f"run {run.run_id} makes no single choice of channels to stand beside")
    recipe = recipe_of(entry, arch)
    recovery = card_recipe(recipe["recovery"], f"{entry.label}: recipe.{arch}.recovery")
    params = entry.resolved(entry.params() | recipe.get("params", {}), recovery.epochs)
    method = MethodIdentity(
        name=entry.name, variant=entry.variant, revision=entry.cls.revision,
        source=entry.source_hash, params=params,
    )  # fmt: skip
    if recipe.get("start") != "random":
        raise BadInput(
            f"{entry.label} starts from a trained network: give it a row of the board "
            f"(python -m benchmark.run --methods {entry.label})"
        )
    return run.model_copy(
        update={
            "method": method,
            "start": Start(kind="random"),
            "baseline": None,
            "allocation": recipe.get("allocation", entry.cls.allocations[0]),
            "min_width": recipe.get("minimum_width", run.min_width),
            "budget_epochs": recovery.epochs,
            "recovery": recovery,
            "preparation": "charged",
            "reconstruct": "none",
            "lane": "default",
            "trials": 0,
            "tuned": (),
            "scratch": None,
        }
    )


def by_chance(one: Mapping[str, int], other: Mapping[str, int], full: Mapping[str, int]) -> float:
    """Share of the units kept at widths `one` that a random choice at widths `other` keeps too."""
    kept = sum(one.values())
    return sum(one[g] * other.get(g, full[g]) / full[g] for g in one) / kept if kept else 1.0


def choose(job: Job, spec: RunSpec, entry: Entry, data: Data, screen: Console) -> dict[str, Any]:
    """All facts of the measurement. What is trained for it is kept under `stages/`: a choice that
    was interrupted goes on, and other targets of the seed share it."""
    started, method = time.perf_counter(), build(entry, spec.method.params)
    with GridProgress(screen, "choosing", total=1, workers=1) as bars:

        def show(phase: str, done: int, total: int) -> None:
            bars.update(entry.label, phase, done, total)

        context = Context(
            store=Store(job.root), data=data, device=job.options.torch_device(), progress=show
        )
        test = data.test.source(spec.data, context.device)  # read by nothing from random weights
        _, net = start(spec, method, test, context)
        trainer = make_trainer(spec, context)
        trainer.use(net)
        plan, scores = make_plan(spec, method, net, budget_of(spec, net), trainer, context)
    keep = {group: list(kept) for group, kept in sorted(plan.keep.items())}
    full = {group.name: group.width for group in net.groups}
    widths = {g: len(k) for g, k in job.recorded.keep.items()}
    return {
        "run_id": job.spec.run_id,
        "kind": KIND,
        "version": VERSION,
        "hardware": environment.hardware_kind(),
        "by": entry.label,
        "title": entry.title,
        "params": spec.method.params,
        "training": spec.recovery.model_dump(mode="json"),
        "min_width": spec.min_width,
        "allocation": spec.allocation,
        "stage": scores_key(spec, method.prepares),
        "target": spec.flops_reduction,
        "reached": 1 - net.macs(plan.widths()) / net.macs(),
        "keep": keep,
        "overlap": kept_overlap(job.recorded.keep, keep),
        "overlap_by_chance": by_chance(widths, plan.widths(), full),
        "scores": None if scores is None else {n: _short(s) for n, s in scores.items()},
        "leakage": trainer.notes.get("leakage") or {},
        "gradient_images": sum(e.images for e in trainer.ledger.entries if e.kind != "forward"),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _short(scores: Tensor) -> list[float]:
    return [float(f"{v:.{DIGITS}g}") for v in scores.detach().cpu().double().tolist()]


def paragraph(facts: Mapping[str, Any]) -> str:
    """What came of it, in a few sentences."""
    kept = sum(map(len, facts["keep"].values()))
    said = (
        f"{facts['by']} keeps {kept} units at {100 * facts['reached']:.1f} % of the FLOPs removed; "
        f"of the units that the run keeps it keeps {100 * facts['overlap']:.1f} %, a random choice "
        f"at its widths {100 * facts['overlap_by_chance']:.1f} %."
    )
    for what, figures in sorted(facts["leakage"].items()):
        low, high = 100 * figures["low"], 100 * figures["high"]
        said += f" {what.replace('_', ' ').capitalize()}: {100 * figures['mean']:+.1f} points "
        said += f"({low:+.1f} to {high:+.1f})."
    return said


def there(job: Job, spec: RunSpec) -> bool:
    """Whether this version of the code has made the choice already."""
    found = Store(job.root).measurements(job.spec, KIND)
    stage = scores_key(spec, build(find(spec.method.label), spec.method.params).prepares)
    return any((f.get("version"), f.get("stage")) == (VERSION, stage) for f in found)


def main(
    runs: RunIds,
    by: Annotated[str, typer.Option(help="The method that chooses, as in --methods.")],
    recipe: Annotated[str, typer.Option(help="Network whose recipe it follows.")] = "",
    results: Records = Path("results"),
    data_dir: DataDir = None,
    checkpoint: Weights = None,
    arch: OwnArch = None,
    method_file: OwnMethod = None,
    device: Device = None,
) -> int:
    """Let a method choose by its paper's recipe, beside what finished runs keep; trains no further.

    Example: python -m benchmark.choose 3f2a --by whitebox:official --recipe resnet56
    """
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        entry = find(by)
    except UnknownMethod as error:
        raise BadInput(str(error)) from error
    words = {"data_dir": data_dir, "checkpoint": checkpoint, "device": device, "arch": arch}
    jobs = [job_of(find_run(run, results), words, method_file, False) for run in runs]
    made = [(job, spec_of(job.spec, entry, recipe or job.spec.arch.name)) for job in jobs]
    for job, _ in made:
        check_writable(job.root)
    data: dict[str, Data] = {}
    for job, spec in made:
        _one(job, spec, entry, data, screen, say)
    return DONE


def _one(
    job: Job, spec: RunSpec, entry: Entry, data: dict[str, Data], screen: Console, say: Say
) -> None:
    if there(job, spec):
        say(f"run {job.spec.run_id}: this choice of {entry.label} is there already")
        return
    key = job.spec.data.model_dump_json()
    data[key] = data.get(key) or read_data(job, job.root, screen)
    set_threads_and_determinism(spec.threads)
    try:
        facts = choose(job, spec, entry, data[key], screen)
    except Unsupported as reason:
        raise BadInput(f"run {job.spec.run_id}: {entry.label}: {reason}") from reason
    path = Store(job.root).write_measurement(job.spec, KIND, digest(facts, 12), facts)
    say(f"run {job.spec.run_id}: {paragraph(facts)}")
    say(f"run {job.spec.run_id}: written to {path}")


if __name__ == "__main__":
    run_app(main)
