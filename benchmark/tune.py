"""`python -m benchmark.tune`: the same number of validation-only trials for every method and
control, and what they choose (DECISIONS 20). `python -m benchmark.run --lane tuned` takes it up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmark import chosen
from benchmark import run as benchmark_run
from benchmark.cli import DONE, FAILED, console, run_app, warn_of_damage
from benchmark.command import NOT_FOR_TRIALS, words_of
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.flags import options_of
from benchmark.imported import with_imported
from benchmark.lanes import Subject, check, subjects, trial_count
from benchmark.launch import preflight, run_grid
from benchmark.listing import show_grid
from benchmark.options import Options
from benchmark.pool import worker_count
from benchmark.pretrained import with_pretrained
from benchmark.progress import counted, duration
from benchmark.store import Store
from benchmark.sweep import Cell, find_methods
from benchmark.tuning import Choice, shown


@dataclass(frozen=True)
class Outcome:
    """What became of a method's trials: a choice, or how many of them are still without an end."""

    subject: Subject
    choice: Choice | None
    missing: int = 0


# ---- the whole job -------------------------------------------------------------------------------


def tune(options: Options, dry_run: bool, screen: Console) -> int:
    """Run the trials that are missing, choose, and say what was chosen; the exit code.

    `options`: as for a board; the trials lie in `trials/` of its results directory.
    """
    if options.executor != "local" or options.site is not None:
        raise BadInput(
            "--executor slurm: trials run on the machine that they are started on; start them on a "
            "node, without --executor and --site"
        )
    board = options
    check_writable(board.results)
    trials = {"lane": "trial", "results": board.results / chosen.TRIALS}
    trials |= {"extra_test": {}, "optimistic": False}  # what the config of a board may ask for
    options = with_pretrained(board).model_copy(update=trials)
    check(options)
    data = benchmark_run.load(options, screen)
    options, remarks = with_imported(options, find_methods(options.methods), data.identity)
    for line in remarks:
        screen.print(line, highlight=False, soft_wrap=True)
    found = subjects(options, data)
    cells = [cell for subject in found for cell in subject.cells]
    runnable = [cell for cell in cells if not cell.blocked]
    for line in introduction(found, options):
        screen.print(line, highlight=False, soft_wrap=True)
    if runnable:
        preflight(runnable, options)
    if dry_run:
        show_grid(cells, options, worker_count(options), screen)
        return DONE
    run_grid(cells, options, screen, left(cells, options))
    outcomes = [judged(subject, options, len(data.train)) for subject in found]
    warn_of_damage(Store(options.results).damaged(), screen)
    screen.print(table(outcomes))
    for line in conclusion(outcomes, board):
        screen.print(line, highlight=False, soft_wrap=True)
    failed = any(o.choice is None and not o.subject.cells[0].blocked for o in outcomes)
    return FAILED if failed else DONE


def left(cells: list[Cell], options: Options) -> set[str]:
    """Run ids of all but what diverged: a seed diverges again."""
    store = Store(options.results)
    return {c.spec.run_id for c in cells if not chosen.has_diverged(store, c.spec)}


def judged(subject: Subject, options: Options, train_images: int) -> Outcome:
    """Choose, if every trial has an end, and put the choice down."""
    store = Store(options.results)
    never = any(chosen.not_applicable(store, spec) for spec in subject.trials)
    missing = [] if never else chosen.unfinished(store, subject.trials)
    if missing:
        return Outcome(subject, None, len(missing))
    choice = chosen.choose(store, subject.trials, subject.space, train_images)
    chosen.write(options.home, subject.trials[0], choice)
    return Outcome(subject, choice)


# ---- what is said --------------------------------------------------------------------------------


def introduction(found: list[Subject], options: Options) -> list[str]:
    """What is about to be done, and where a space is smaller than the number of trials."""
    count, spec = trial_count(options), found[0].trials[0]
    target = max(s.trials[0].flops_reduction for s in found)
    lines = [
        f"Tuning {counted(len(found), 'method')} on {spec.data.name}, {spec.arch.name} at "
        f"{100 * target:g} % FLOPs: {counted(count, 'trial')} of each, judged by validation "
        "accuracy after the last epoch. No trial reads the test split.",
    ]
    if len(options.flops_reduction) > 1:
        others = ", ".join(f"{100 * cut:g} %" for cut in options.flops_reduction[1:])
        lines.append(f"What is chosen there serves the other targets too: {others}.")
    small: dict[int, list[str]] = {}
    for subject in found:
        if len(subject.settings) < count and not subject.cells[0].blocked:
            small.setdefault(len(subject.settings), []).append(subject.label)
    for size, labels in sorted(small.items()):
        lines.append(
            f"{', '.join(labels)}: a space of {counted(size, 'setting')} with the default one, so "
            f"they are tried again with other seeds, and means are compared, up to {count} trials."
        )
    return lines


def table(outcomes: list[Outcome]) -> Table:
    """A line per method: what it cost, and what came out."""
    shows = Table(
        "method", "trials", "settings", "default", "chosen", "values", "images", "seconds",
        box=None, padding=(0, 2, 0, 0), header_style="bold",
        caption="default, chosen: validation top-1 in %, mean over the trials of a setting; "
        "images: for gradient steps of all trials, beside the dense network that they share",
        caption_justify="left",
    )  # fmt: skip
    for outcome in outcomes:
        shows.add_row(*_cells(outcome))
    return shows


def _cells(outcome: Outcome) -> list[str]:
    label, choice = outcome.subject.label, outcome.choice
    if choice is None:
        return [label, f"{outcome.missing} missing", *[""] * 6]
    if not choice.tried:
        return [label, "", "", "", "n/a", choice.reason, "", ""]
    evidence = choice.evidence()
    cost = [f"{choice.images:,}", duration(choice.seconds)]
    size = [str(choice.trials), str(len(choice.tried))]
    if evidence is None:
        return [label, *size, "", "", choice.reason, *cost]
    default = evidence.default_val_top1
    before = "diverged" if default is None else f"{100 * default:.2f}"
    after = f"{100 * evidence.val_top1:.2f}"
    kept = " (the default)" if choice.best == 0 else ""
    return [label, *size, before, after, shown(evidence.values) + kept, *cost]


def conclusion(outcomes: list[Outcome], board: Options) -> list[str]:
    """What diverged or is missing, and what to do next."""
    lines = []
    for outcome in (o for o in outcomes if o.choice is not None):
        assert outcome.choice is not None
        lost = sum(top1 is None for tried in outcome.choice.tried for top1 in tried.val_top1)
        if lost:
            lines.append(f"{outcome.subject.label}: {counted(lost, 'trial')} diverged")
    missing = [o.subject.label for o in outcomes if o.choice is None]
    if missing:
        place = board.results / chosen.TRIALS
        lines.append(
            f"Nothing is chosen for {', '.join(missing)}: python -m benchmark.status --results "
            f"{place} says why; the same command tries again what is missing"
        )
        return lines
    place = board.results / chosen.TRIALS / chosen.CHOSEN
    lines.append(f"What was tried and chosen: {place}/")
    return [*lines, f"Next: {words_of(board.model_copy(update={'lane': 'tuned'}), here=True)}"]


# ---- the command line ----------------------------------------------------------------------------


def with_flags_of_run(command: Callable[[dict[str, Any]], int]) -> Callable[..., int]:
    """The command with those flags of `benchmark.run` that mean something for trials."""
    known = inspect.signature(benchmark_run.main, eval_str=True).parameters
    left_out = NOT_FOR_TRIALS - {"executor", "site"} | {"wait", "list_", "lr"}
    flags = [flag for name, flag in known.items() if name not in left_out]

    @wraps(command)
    def called(**words: Any) -> int:
        return command(words)

    called.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    return called


@with_flags_of_run
def main(words: dict[str, Any]) -> int:
    """Try settings from the space in each method's card, the same number for all, on validation
    images alone, and choose the best.

    Example: python -m benchmark.tune --methods whitebox,hrank --arch resnet20 --dataset digits
    --preset demo
    """
    return tune(options_of(words), bool(words["dry_run"]), console())


if __name__ == "__main__":
    run_app(main)
