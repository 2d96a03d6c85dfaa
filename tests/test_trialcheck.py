"""A choice is held against its trials, and a tuned row against its choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import synthetic as made

from benchmark import chosen, trialcheck
from benchmark.lanes import TRIAL_SEED
from benchmark.record import RunRecord
from benchmark.space import Space, of_round
from benchmark.spec import RATE, RunSpec, Seeds
from benchmark.tuning import Choice, Tried, best_of

SPACE = Space({RATE: (0.1, 0.03, 0.01)})
DEFAULT = {RATE: 0.02}
Trials = dict[str, RunRecord]


def tuned(rate: float, **changes: Any) -> RunSpec:
    return made.spec(
        tuned=(RATE,), recovery=made.RECOVERY.model_copy(update={"lr": rate}), **changes
    )


def of(count: int, vals: list[float | None]) -> tuple[Choice, Trials]:
    """A choice and its trials, as they should be; None: that one diverged."""
    settings = SPACE.settings(DEFAULT, count)
    runs: list[list[str]] = [[] for _ in settings]
    tops: list[list[float | None]] = [[] for _ in settings]
    trials, images = {}, 0
    for number, val in enumerate(vals):
        values, round_ = of_round(settings, number)
        seeds = Seeds(dense=TRIAL_SEED, run=TRIAL_SEED + round_)
        spec = tuned(values[RATE], lane="trial", seeds=seeds)
        runs[number % len(settings)].append(spec.run_id)
        tops[number % len(settings)].append(val)
        images += 20_000
        if val is not None:
            trials[spec.run_id] = made.record(spec, val).model_copy(
                update={"final": made.point(val, val)}
            )
    tried = tuple(
        Tried(values=s, runs=tuple(r), val_top1=tuple(t))
        for s, r, t in zip(settings, runs, tops, strict=True)
    )
    choice = Choice(
        key=chosen.key_of(spec, SPACE.values), method="l1norm", data="images", arch="net20",
        trials=count, target=0.5, allocation="uniform", space=dict(SPACE.values), tried=tried,
        best=best_of(tried), images=images, seconds=3.0,
    )  # fmt: skip
    return choice, trials


@pytest.mark.parametrize(
    "vals", [[0.7, 0.9, 0.8], [0.7, None, 0.8], [0.7, 0.9, 0.8, 0.6, 0.9, 0.7], [0.5]]
)
def test_what_was_chosen_by_the_rules_has_no_problem(vals: list[float | None]) -> None:
    choice, trials = of(len(vals), vals)
    assert trialcheck.problem(choice, trials) == ""
    assert sorted(trialcheck.trials_of(choice)) == sorted(trials)


def respec(name: str, value: Any) -> Callable[[RunSpec], RunSpec]:
    return lambda spec: spec.model_copy(update={name: value})


@pytest.mark.parametrize(
    "change",
    [
        respec("seeds", Seeds(dense=TRIAL_SEED, run=TRIAL_SEED + 1)),
        respec("recovery", made.RECOVERY.model_copy(update={"lr": 0.5})),
        respec("lane", "default"),
        respec("budget_epochs", 40),  # longer than the rows that take its values
        respec("flops_reduction", 0.1),
        respec("allocation", "global"),
    ],
)
def test_a_trial_is_the_one_that_the_choice_names(change: Callable[[RunSpec], RunSpec]) -> None:
    choice, trials = of(3, [0.7, 0.9, 0.8])
    for name, record in trials.items():
        other = trials | {name: record.model_copy(update={"spec": change(record.spec)})}
        said = trialcheck.problem(choice, other)
        assert said == f"run {name} is not the trial that it is said to be"


def test_settings_are_tried_equally_often() -> None:
    choice, trials = of(5, [0.7, 0.9, 0.8, 0.8, 0.6])
    first, second, *rest = choice.tried
    moved = (
        first.model_copy(update={"runs": first.runs[:1], "val_top1": first.val_top1[:1]}),
        second.model_copy(
            update={
                "runs": second.runs + first.runs[1:],
                "val_top1": second.val_top1 + first.val_top1[1:],
            }
        ),
        *rest,
    )
    other = choice.model_copy(update={"tried": moved, "best": best_of(moved)})
    assert trialcheck.problem(other, trials) == "settings were not tried equally often"


def test_images_of_trials_that_diverged_are_at_least_those_of_the_others() -> None:
    choice, trials = of(3, [0.7, None, 0.8])
    assert trialcheck.problem(choice.model_copy(update={"images": 50_000}), trials) == ""
    less = choice.model_copy(update={"images": 39_999})
    assert trialcheck.problem(less, trials) == "its trials used 40,000 images, not 39,999"
    choice, trials = of(3, [0.7, 0.9, 0.8])
    more = choice.model_copy(update={"images": 60_001})
    assert trialcheck.problem(more, trials) == "its trials used 60,000 images, not 60,001"


def test_a_row_has_the_values_that_were_chosen_for_it() -> None:
    choice, _ = of(3, [0.7, 0.9, 0.8])
    assert choice.values is not None
    rate = choice.values[RATE]
    row = made.record(tuned(rate, lane="tuned", trials=3), tuning=choice.evidence())
    assert trialcheck.problem_of_row(row, choice) == ""
    assert trialcheck.problem_of_row(made.record(made.spec()), None) == ""
    seconds = choice.model_copy(update={"seconds": 9.0})  # trials were made again
    assert trialcheck.problem_of_row(row, seconds) == ""
    for said, spec in (
        ("its values were chosen for other settings", tuned(rate, lane="tuned", trials=4)),
        ("its values were chosen for other settings",
         tuned(rate, lane="tuned", trials=3, budget_epochs=30)),
        ("its values are not those that trials chose", tuned(0.5, lane="tuned", trials=3)),
    ):  # fmt: skip
        other = made.record(spec, tuning=choice.evidence())
        assert trialcheck.problem_of_row(other, choice) == said
    (place,) = trialcheck.needed([row, made.record(made.spec())])
    assert place == f"trials/chosen/images/net20/l1norm/{choice.key}-3.json"
