"""The cells of a lane: with the values of paper or card (default), with those that trials chose
(tuned), or the trials themselves (DECISIONS 20)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark import chosen, controls
from benchmark.command import words_of
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.options import Options
from benchmark.space import Setting, Space, of_round, space_of
from benchmark.spec import ONE_SHOT, RATE, RunSpec, Seeds
from benchmark.sweep import Cell, expand
from benchmark.tuning import Choice

TRIAL_SEED = 10_000  # and all above: trials never meet the seeds of a board
DEFAULT_TRIALS = 8

Row = tuple[str, str]  # label and schedule


@dataclass(frozen=True)
class Subject:
    """A method whose values are tuned: its trials in their order, and the settings among them."""

    space: Space
    settings: tuple[Setting, ...]
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        return self.cells[0].entry.label

    @property
    def trials(self) -> list[RunSpec]:
        return [cell.spec for cell in self.cells]


def grid(options: Options, data: Data) -> list[Cell]:
    """The cells of the options' lane, as `sweep.expand` gives them.

    Raises:
        BadInput: as there; a space is no space; nothing was chosen yet for a tuned row.
    """
    check(options)
    if options.lane == "default":
        return expand(options, data)
    if options.lane == "tuned":
        return _tuned(options, data)
    return [cell for subject in subjects(options, data) for cell in subject.cells]


def trial_count(options: Options) -> int:
    """Of each method."""
    return options.trials or DEFAULT_TRIALS


def check(options: Options) -> None:
    """Raises BadInput for options that have no sense in their lane."""
    if options.lane == "default":
        if options.trials is not None:
            raise BadInput("--trials belongs to --lane tuned, and to python -m benchmark.tune")
        return
    if options.track == "paper":
        raise BadInput(
            "--track paper has the values of each paper and no validation images: tune for the "
            "track common or total"
        )
    if options.lr is not None or RATE in options.set:
        raise BadInput(f"{RATE} is what trials choose: leave out {_flag_of_rate(options)}")
    late = [seed for seed in options.seeds if seed >= TRIAL_SEED]
    if options.lane == "tuned" and late:
        raise BadInput(f"--seeds {late[0]}: from {TRIAL_SEED} on they belong to trials")


def _flag_of_rate(options: Options) -> str:
    return f"--set {RATE}" if RATE in options.set else "--lr"


def _space(cell: Cell, options: Options) -> Space:
    entry, space = cell.entry, space_of(cell.entry)
    said = [f"{entry.name}.{name}" for name in space.values]
    both = [key for key in said if key in options.set]
    if both:
        raise BadInput(f"--set {both[0]}: it is what trials choose, leave it out")
    return space.resolved(entry, cell.spec.budget_epochs / (cell.spec.steps or 1))


def _in_lane(spec: RunSpec, **changes: Any) -> RunSpec:
    """The same run, validated anew."""
    return RunSpec(**{name: getattr(spec, name) for name in RunSpec.model_fields} | changes)


def _with(spec: RunSpec, values: Setting, **changes: Any) -> RunSpec:
    """With these values of what is tuned."""
    own = {name: value for name, value in values.items() if name != RATE}
    method = spec.method.model_copy(update={"params": spec.method.params | own})
    recovery = spec.recovery.model_copy(update={"lr": values.get(RATE, spec.recovery.lr)})
    return _in_lane(spec, method=method, recovery=recovery, tuned=tuple(values), **changes)


# ---- trials --------------------------------------------------------------------------------------


def subjects(options: Options, data: Data) -> list[Subject]:
    """Every method that was asked for, and every control, each with the same number of trials at
    the first target and by the first schedule. One that cannot run here has a single cell that says
    why."""
    asked = dict.fromkeys(options.methods)
    if options.controls:
        asked |= dict.fromkeys(entry.label for entry in controls.suite())
    plain = options.model_copy(
        update={
            "lane": "default", "methods": [*asked], "controls": False, "seeds": [TRIAL_SEED],
            "flops_reduction": options.flops_reduction[:1], "schedule": options.schedule[:1],
            "reconstruct": ["none"], "preparation": ["charged"],
        }
    )  # fmt: skip
    return [_subject(cell, options) for cell in expand(plain, data)]


def _subject(cell: Cell, options: Options) -> Subject:
    spec, count = cell.spec, trial_count(options)
    space = _space(cell, options)
    known = spec.method.params | {RATE: spec.recovery.lr}
    settings = space.settings({name: known[name] for name in space.values}, count)
    number = 1 if cell.blocked else count
    cells = []
    for trial in range(number):
        values, round_ = of_round(settings, trial)
        seeds = Seeds(dense=spec.seeds.dense, run=TRIAL_SEED + round_)
        own = _with(spec, values, lane="trial", seeds=seeds)
        cells.append(replace(cell, spec=own))
    return Subject(space, tuple(settings), tuple(cells))


# ---- tuned rows ----------------------------------------------------------------------------------


def _tuned(options: Options, data: Data) -> list[Cell]:
    cells = expand(options.model_copy(update={"lane": "default"}), data)
    spaces = {_row(cell): _space(cell, options) for cell in cells}
    found: dict[Row, dict[int, Choice]] = {}
    for cell in (c for c in cells if not c.blocked):
        row = _row(cell)
        if row not in found:
            found[row] = chosen.choices(options.home, cell.spec, spaces[row])
    trials = _common(found, options)
    return [
        _tuned_cell(cell, found.get(_row(cell), {}).get(trials), spaces[_row(cell)], trials)
        for cell in cells
    ]


def _row(cell: Cell) -> Row:
    return cell.entry.label, cell.spec.schedule


def _common(found: dict[Row, dict[int, Choice]], options: Options) -> int:
    """The largest number of trials that every method had: rows of a table are tuned alike."""
    wanted = {options.trials} if options.trials else {n for own in found.values() for n in own}
    shared = [n for n in wanted if all(n in own for own in found.values())]
    if shared or not found:
        return max(shared, default=trial_count(options))
    missing = [row for row, own in found.items() if not wanted & own.keys()]
    if missing:
        raise BadInput(
            f"--lane tuned: nothing is chosen for {', '.join(map(_named, missing))} in this "
            f"setting; first: {_tune_command(options, missing)}"
        )
    said = [f"{_named(row)} by {' and '.join(map(str, sorted(n)))}" for row, n in found.items()]
    raise BadInput(
        f"--lane tuned: rows of a table are tuned by equally many trials, but {', '.join(said)}; "
        f"first: {_tune_command(options, [*found])}"
    )


def _named(row: Row) -> str:
    return row[0] if row[1] == ONE_SHOT else " ".join(row)


def _tune_command(options: Options, rows: Sequence[Row]) -> str:
    """The words that choose what is missing, of the first schedule."""
    typed = {Path(m).stem if m.endswith(".py") else m: m for m in options.methods}
    schedule = rows[0][1]
    methods = [typed.get(label, label) for label, own in rows if own == schedule]
    said = {"lane": "trial", "methods": methods, "controls": False, "schedule": [schedule]}
    return words_of(options.model_copy(update=said), here=True)


def _tuned_cell(cell: Cell, choice: Choice | None, space: Space, trials: int) -> Cell:
    names = space.values
    if choice is not None and choice.values is not None:
        values: Setting = {name: choice.values[name] for name in names}
        return replace(cell, spec=_with(cell.spec, values, lane="tuned", trials=trials))
    spec = _in_lane(cell.spec, lane="tuned", trials=trials, tuned=tuple(names))
    if choice is None:
        return replace(cell, spec=spec)
    return replace(cell, spec=spec, blocked=f"not tuned: {choice.reason}", status="n/a")
