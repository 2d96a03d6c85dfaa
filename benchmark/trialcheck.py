"""Whether tuned rows say of their trials what these say themselves: a choice follows from the
records of its trials, and what a tuned record holds follows from the choice.

Seconds are left out: they are of one machine, and trials may have been made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmark import chosen
from benchmark.lanes import TRIAL_SEED
from benchmark.record import RunRecord
from benchmark.space import MOST, Space, of_round
from benchmark.spec import RunSpec, canonical
from benchmark.tuning import Choice, Tuning, best_of

LARGEST = 10_000  # settings of a space


def place_of(spec: RunSpec) -> str:
    """Of the choice of a tuned run, below its results directory."""
    return chosen.place_of(Path(), spec).as_posix()


def trials_of(choice: Choice) -> list[str]:
    """Run ids of the trials that have an accuracy, in their order within a setting."""
    return [run for run, top1 in _tried(choice) if top1 is not None]


def _tried(choice: Choice) -> Iterator[tuple[str, float | None]]:
    for tried in choice.tried:
        yield from zip(tried.runs, tried.val_top1, strict=True)


def problem(choice: Choice, trials: Mapping[str, RunRecord]) -> str:
    """Why a choice does not follow from its trials, by run id; empty: it does."""
    if any(len(tried.runs) != len(tried.val_top1) for tried in choice.tried):
        return "it has not one accuracy for each trial"
    if not choice.tried or choice.best is None:
        return "nothing was chosen"
    runs = [run for run, _ in _tried(choice)]
    if len(set(runs)) != len(runs) or len(runs) != choice.trials:
        return f"it names {len(set(runs))} trials, not {choice.trials}"
    if len(choice.space) > MOST or math.prod(map(len, choice.space.values())) > LARGEST:
        return "its space is too large"  # before all of it is listed
    settings = Space(choice.space).settings(choice.tried[0].values, choice.trials)
    if [canonical(s) for s in settings] != [canonical(t.values) for t in choice.tried]:
        return "its settings are not those that so many trials of its space try"
    if choice.best != best_of(choice.tried):
        return "its best setting is not the one with the highest accuracy"
    return _problem_of_records(choice, settings, trials)


def _problem_of_records(
    choice: Choice, settings: list[dict[str, object]], trials: Mapping[str, RunRecord]
) -> str:
    images = 0
    for number in range(choice.trials):
        values, round_ = of_round(settings, number)
        tried = choice.tried[number % len(settings)]
        if round_ >= len(tried.runs):
            return "settings were not tried equally often"
        run, top1 = tried.runs[round_], tried.val_top1[round_]
        record = trials.get(run)
        if (record is None) != (top1 is None):
            there = "no record" if record is None else "a record, and no accuracy there"
            return f"its trial {run} has {there}"
        if record is None:
            continue
        if not _belongs(record.spec, choice, values, TRIAL_SEED + round_):
            return f"run {run} is not the trial that it is said to be"
        if record.final.val_top1 != top1:
            return f"its trial {run} has another validation accuracy"
        images += record.spent.charged + record.spent.free
    ended = all(top1 is not None for _, top1 in _tried(choice))
    if choice.images < images or (ended and choice.images != images):
        return f"its trials used {images:,} images, not {choice.images:,}"
    return ""


def _belongs(spec: RunSpec, choice: Choice, values: dict[str, object], seed: int) -> bool:
    names = (spec.method.label, spec.data.name, spec.arch.name)
    return (
        spec.is_trial
        and names == (choice.method, choice.data, choice.arch)
        and (spec.flops_reduction, spec.allocation) == (choice.target, choice.allocation)
        and canonical(spec.tuned_values) == canonical(values)
        and spec.seeds.run == seed
        and chosen.key_of(spec, choice.space) == choice.key
    )


def problem_of_row(record: RunRecord, choice: Choice | None) -> str:
    """Why a record is not that of a run with these chosen values; empty: it is, or is not tuned."""
    spec = record.spec
    if spec.lane != "tuned":
        return "it says what it was tuned by, and was not" if record.tuning is not None else ""
    if choice is None:
        return "it was tuned, and what its values were chosen from is not there"
    if (choice.key, choice.trials) != (chosen.key_of(spec, spec.tuned), spec.trials):
        return "its values were chosen for other settings"
    if canonical(choice.values) != canonical(spec.tuned_values):
        return "its values are not those that trials chose"
    found = choice.evidence()
    if record.tuning is None or found is None or _told(record.tuning) != _told(found):
        return "what it says of its trials is not what they say"
    return ""


def _told(tuning: Tuning) -> str:
    return canonical(tuning.model_dump(mode="json", exclude={"seconds"}))


def needed(records: Iterable[RunRecord]) -> dict[str, RunSpec]:
    """A tuned run for each choice that these rest on, by the place of the choice."""
    return {place_of(r.spec): r.spec for r in records if r.spec.lane == "tuned"}
