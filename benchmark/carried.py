"""What is packed beside runs because they rest on it: the trials by which values were chosen, and
what files of other code said."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark import choices, chosen, imported, trialcheck
from benchmark.archive import FILES_OF_A_RUN
from benchmark.choices import Choice as Said
from benchmark.differences import whole_run
from benchmark.errors import BadInput
from benchmark.record import RunRecord
from benchmark.tuning import Choice


def trials_of(root: Path, records: Iterable[RunRecord]) -> tuple[dict[str, bytes], list[RunRecord]]:
    """Trials and choices that tuned runs of a results directory rest on, by place, and the records
    of these trials.

    Raises:
        BadInput: one is not there or cannot be read, or a run says of it what it does not.
    """
    records, files = list(records), dict[str, bytes]()
    trials: list[RunRecord] = []
    made: dict[str, Choice] = {}
    for place, spec in trialcheck.needed(records).items():
        path = root / place
        if not path.is_file():
            raise BadInput(
                f"run {spec.run_id} was tuned, and {path} is not there: submit the directory where "
                "it was tuned, or merge that one"
            )
        made[place], files[place] = chosen.read(path), path.read_bytes()
        own = {}
        for run in trialcheck.trials_of(made[place]):
            folder = f"{chosen.TRIALS}/runs/{Path(spec.folder).parent.as_posix()}/{run}"
            own[run] = whole_run(root / folder).record
            files |= {f"{folder}/{n}": (root / folder / n).read_bytes() for n in FILES_OF_A_RUN}
        if why := trialcheck.problem(made[place], own):
            raise BadInput(f"{path}: {why}: give the command of benchmark.tune once more")
        trials += own.values()
    for record in records:
        choice = made.get(trialcheck.place_of(record.spec))
        if why := trialcheck.problem_of_row(record, choice):
            raise BadInput(
                f"run {record.run_id}: {why}: it was tuned again since; submit what "
                "python -m benchmark.run --lane tuned makes now"
            )
    return files, trials


def said_by_files(
    roots: list[Path], records: Iterable[RunRecord], given: list[Path]
) -> dict[str, bytes]:
    """What runs prune by, by place in an archive: as kept in these results directories, or as files
    that were given say it.

    Raises:
        BadInput: neither has it.
    """
    offered = {found.content: found for found in map(choices.read, given)}
    wanted = {content: r.run_id for r in records if (content := choices.content_of(r.spec))}
    files = {}
    for content, run in sorted(wanted.items()):
        found = offered.get(content) or _kept(roots, content)
        if found is None:
            place = imported.place(roots[0], content)
            raise BadInput(
                f"run {run} prunes by what should be in {place}: give its file by --pruned-by FILE"
            )
        files[f"pruned-by/{content}.json"] = choices.as_json(found)
    return files


def _kept(roots: list[Path], content: str) -> Said | None:
    return next((c for root in roots if (c := imported.read(root, content)) is not None), None)
