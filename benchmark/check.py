"""`python -m benchmark.check METHOD…`: does a method keep its promises?

The conformance suite that the suite's own methods pass, on tiny images and a network trained in a
second, then the rules of its card. Nothing is written.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from rich.console import Console

from benchmark import cardlint, conformance, docstrings, tinybench
from benchmark.cli import DONE, FAILED, console, run_app
from benchmark.conformance import Result
from benchmark.context import set_threads_and_determinism
from benchmark.progress import counted, duration
from benchmark.sweep import find_methods
from benchmark.trial import Bench
from methods import Entry

GUIDE = "docs/add-your-method.md"
# What usually has to be done where a promise is broken.
HINTS: dict[str, str] = {
    "scores_are_sound": "score() returns one finite number per output channel, shape (C,), for "
    "each of net.layers",
    "plan_is_valid": "use net.rank in select(), or keep within group.width and the floor of "
    "budget.min_keep",
    "target_is_reached": "remove budget.macs_cut of net.macs(): net.rank and net.allocate do",
    "budget_is_respected": "train by trainer.fit and draw images from trainer.batches: they count "
    "them",
    "masked_equals_removed": "mask only what the plan removes: net.mask(group, keep) with the "
    "plan's keep",
    "only_the_plan_changes_shapes": "change weights in place and return a plan; the suite removes",
    "same_seed_same_plan": "draw from trainer.generator(salt) or trainer.noise, never from torch's "
    "own generator",
    "negated_scores_change_the_plan": "select() has to use the scores it is given",
    "permuted_channels_permute_the_kept_set": "judge a channel by its weights or maps, not by its "
    "number; a method of random draws says stochastic = True",
    "networks_give_different_scores": "compute the scores from the network; a method that claims "
    "no information says informed = False",
    "the_test_split_is_out_of_reach": "take images from the trainer alone",
    "a_killed_fit_goes_on_the_same": "keep what changes from step to step in a parameter or buffer",
    "keys_are_known": "compare the card with the one that python -m benchmark.new writes",
    "words_are_there": "say it in a sentence; readers of the leaderboard see it",
    "space_is_small_and_legal": '[space] lists "recovery.lr" and at most two fields of the method',
    "parameters_are_fields": "params name fields of the method, with values of their type",
    "recipes_can_be_followed": "a phase has epochs, lr, batch_size, schedule and more, as the "
    "class Recipe in benchmark/spec.py",
}
Say = Callable[[str], None]


def promises() -> dict[str, str]:
    """Every promise with its sentence, in the order of checking."""
    checks: tuple[Callable[..., None], ...] = (*conformance.CHECKS, *cardlint.RULES)
    return {c.__name__: " ".join((c.__doc__ or "").split()) for c in checks}


def check(entry: Entry) -> list[Result]:
    """What became of each promise of the method and of its card."""
    return conformance.check(entry, bench_for(entry)) + cardlint.check(entry)


def bench_for(entry: Entry) -> Bench:
    """The tiny bench. What takes a share of the budget takes that here too, whatever number of
    epochs its paper has."""
    bench = tinybench.bench()
    short = {field: share * tinybench.EPOCHS for field, share in entry.cls.shares.items()}
    return dataclasses.replace(bench, params=short)


def show(label: str, entry: Entry, found: list[Result], seconds: float, say: Say) -> None:
    """A line for each promise, then remarks, then the counts."""
    sentences, width = promises(), max(map(len, promises()))
    say(f"{label}: {entry.title}")
    for result in found:
        text = result.reason if result.status != "kept" else sentences[result.check]
        name = result.check.replace("_", " ")
        say(f"  {result.status:6}  {name:{width}}  {' '.join(text.split())}")
        if result.status == "broken":
            say(f"          {'':{width}}  do: {HINTS[result.check]}")
    for line in docstrings.remarks(entry):
        say(f"  warning: {line}")
    counts = Counter(r.status for r in found)
    said = ", ".join(f"{counts[status]} {status}" for status in ("kept", "n/a", "broken"))
    say(f"{label}: {said}, in {duration(seconds)}")


def next_steps(found: Mapping[str, tuple[Entry, list[Result]]], say: Say) -> None:
    """What to do now."""
    broken = [label for label, (_, rs) in found.items() if any(r.status == "broken" for r in rs)]
    if broken:
        again = " ".join(map(shlex.quote, broken))
        say(f"Next: mend what is broken ({GUIDE} helps), then python -m benchmark.check {again}")
        return
    bare = [label for label, (entry, _) in found.items() if not cardlint.has_card(entry)]
    if bare:
        say(
            "Next: a card says what the paper says; python -m benchmark.new method NAME writes one "
            f"to copy, for {', '.join(bare)}"
        )
    methods = shlex.quote(",".join(dict.fromkeys([*found, "l1norm"])))
    say(
        f"Next: python -m benchmark.run --methods {methods} --arch resnet20 --dataset digits "
        "--preset demo"
    )


def _entries(labels: list[str]) -> dict[str, Entry]:
    """By what was typed; `all` stands for many."""
    found: dict[str, Entry] = {}
    for label in labels:
        entries = find_methods([label])
        found |= {label: entries[0]} if len(entries) == 1 else {e.label: e for e in entries}
    return found


def main(
    methods: Annotated[
        list[str], typer.Argument(help="Files FILE.py, or names as NAME or NAME:VARIANT.")
    ],
) -> int:
    """Run the conformance suite on methods, and look at their cards. Exit code 0: all promises are
    kept, 1: something is broken, 2: no such method.

    Example: python -m benchmark.check ./mine.py
    """
    screen: Console = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    entries = _entries(methods)
    set_threads_and_determinism(1)
    found = {}
    for label, entry in entries.items():
        started = time.perf_counter()
        found[label] = entry, check(entry)
        show(label, entry, found[label][1], time.perf_counter() - started, say)
    if len(found) > 1:
        say(counted(len(found), "method") + " checked")
    next_steps(found, say)
    broken = any(r.status == "broken" for _, results in found.values() for r in results)
    return FAILED if broken else DONE


if __name__ == "__main__":
    run_app(main)
