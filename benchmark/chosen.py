"""What trials chose for each method, as files in the trials' own results directory.

`DIR/trials/` is a results directory like any other (`runs/`, `stages/`, `logs/`, ...), so that no
stage or record of a trial can be taken for one of a board. Beside them `chosen/` has a file for
each method and number of trials: every setting that was tried, and the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.files import dump_json, write_text
from benchmark.phase import DIVERGED
from benchmark.record import one_line, parse_json
from benchmark.space import Space
from benchmark.spec import RATE, RunSpec, canonical, digest, identity
from benchmark.store import Store
from benchmark.tuning import Choice, Tried, Tuning, best_of

TRIALS, CHOSEN = "trials", "chosen"
# One choice serves all of these: values belong to a method on an architecture, a budget and a
# schedule, whose rounds share it.
SHARED = {
    "lane", "trials", "tuned", "allocation", "rates", "flops_reduction", "min_width", "round_to",
    "reconstruct", "preparation", "seeds", "threads", "replicas", "sync_bn",
}  # fmt: skip


def key_of(spec: RunSpec, names: Iterable[str]) -> str:
    """Everything that a choice of these values depends on, the same in every lane."""
    content = {k: v for k, v in identity(spec).items() if k not in SHARED}
    own = set(names)
    params = {k: v for k, v in spec.method.params.items() if k not in own}
    content["method"] = content["method"] | {"params": params}
    if RATE in own:
        content["recovery"] = {k: v for k, v in content["recovery"].items() if k != "lr"}
    return digest(content | {"names": sorted(own)}, 12)


def folder_of(home: Path, spec: RunSpec) -> Path:
    """Of all choices for a method on an architecture and a data set."""
    return home / TRIALS / CHOSEN / Path(spec.folder).parent


def place_of(home: Path, spec: RunSpec) -> Path:
    """Of the choice that a tuned run took its values from."""
    return folder_of(home, spec) / f"{key_of(spec, spec.tuned)}-{spec.trials}.json"


def write(home: Path, spec: RunSpec, choice: Choice) -> Path:
    """Put it down, in the place of an earlier one of as many trials."""
    path = folder_of(home, spec) / f"{choice.key}-{choice.trials}.json"
    write_text(path, dump_json(choice.model_dump(mode="json")))
    return path


def choices(home: Path, spec: RunSpec, space: Space) -> dict[int, Choice]:
    """What was chosen for this run's method and setting from this very space, by the number of
    trials.

    Raises:
        BadInput: a file cannot be read.
    """
    key = key_of(spec, space.values)
    found = [read(path) for path in sorted(folder_of(home, spec).glob(f"{key}-*.json"))]
    wanted = canonical(dict(space.values))
    return {c.trials: c for c in found if c.key == key and canonical(dict(c.space)) == wanted}


def read(path: Path) -> Choice:
    """Raises BadInput unless the file holds a choice."""
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError) as error:
        said = one_line(error)
        raise BadInput(f"{path}: {said}: python -m benchmark.tune writes it again") from error


def parse(raw: bytes) -> Choice:
    """The choice in these bytes.

    Raises:
        ValueError: there is none.
    """
    try:
        return Choice.model_validate(parse_json(raw))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{place}: {first['msg']}") from error


def evidence(spec: RunSpec, home: Path) -> Tuning | None:
    """For the record of a tuned run; None in other lanes.

    Raises:
        BadInput: the choice is gone, or another by now.
    """
    if spec.lane != "tuned":
        return None
    choice = read(place_of(home, spec))
    if canonical(choice.values) != canonical(spec.tuned_values):
        raise BadInput(
            f"{spec.method.label} was tuned again since the grid was planned: give the command "
            "again, it is another run now"
        )
    return choice.evidence()


# ---- choosing ------------------------------------------------------------------------------------


def has_diverged(store: Store, spec: RunSpec) -> bool:
    """Whether this is how the trial ended: a result, which trying again does not change."""
    tries = [] if store.has(spec) else store.attempts(spec)
    return bool(tries) and tries[-1].reason.startswith(DIVERGED)


def not_applicable(store: Store, spec: RunSpec) -> str:
    """Why the method could not be tried at all; empty: it could."""
    tries = [] if store.has(spec) else store.attempts(spec)
    return tries[-1].reason if tries and tries[-1].status == "n/a" else ""


def unfinished(store: Store, trials: Sequence[RunSpec]) -> list[RunSpec]:
    """Trials without a result."""
    return [s for s in trials if not store.has(s) and not has_diverged(store, s)]


def choose(store: Store, trials: Sequence[RunSpec], space: Space, train_images: int) -> Choice:
    """The setting with the highest final validation accuracy, of equal ones the first, from the
    trials of one method in their order. A diverged trial has none, and counts as a whole budget.
    """
    first = trials[0]
    reasons = [reason for spec in trials if (reason := not_applicable(store, spec))]
    if reasons:
        return _choice(first, space, len(trials), (), reasons[0], 0, 0.0)
    tried: dict[str, list[RunSpec]] = {}
    for spec in trials:
        tried.setdefault(canonical(spec.tuned_values), []).append(spec)
    records = {spec.run_id: store.read(spec) for spec in trials if store.has(spec)}
    images, seconds = 0, 0.0
    for spec in trials:
        record = records.get(spec.run_id)
        images += (
            round(spec.budget_epochs * train_images)
            if record is None
            else record.spent.charged + record.spent.free
        )
        seconds += 0.0 if record is None else record.seconds
    settings = tuple(
        Tried(
            values=part[0].tuned_values,
            runs=tuple(spec.run_id for spec in part),
            val_top1=tuple(
                records[s.run_id].final.val_top1 if s.run_id in records else None for s in part
            ),
        )
        for part in tried.values()
    )
    reason = "" if best_of(settings) is not None else f"all of its {len(trials)} trials diverged"
    return _choice(first, space, len(trials), settings, reason, images, round(seconds, 3))


def _choice(
    spec: RunSpec,
    space: Space,
    trials: int,
    tried: tuple[Tried, ...],
    reason: str,
    images: int,
    seconds: float,
) -> Choice:
    return Choice(
        key=key_of(spec, space.values),
        method=spec.method.label,
        data=spec.data.name,
        arch=spec.arch.name,
        trials=trials,
        target=spec.flops_reduction,
        allocation=spec.allocation,
        space=dict(space.values),
        tried=tried,
        best=best_of(tried),
        reason=reason,
        images=images,
        seconds=seconds,
    )
