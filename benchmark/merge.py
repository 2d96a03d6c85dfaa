"""`python -m benchmark.merge DIR…`: unites the results of several machines. Nothing that is there
is changed: what one directory has more is copied, and what differs is listed.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import artefacts, chosen, differences, imported
from benchmark.cli import console, run_app
from benchmark.differences import Difference, Run
from benchmark.errors import BadInput
from benchmark.files import DRAFT, check_writable, new_folder, write_new, write_numbered
from benchmark.merging import (
    Merging,
    add_attempts,
    add_choices,
    add_entries,
    add_marks,
    add_measurements,
    add_said,
)
from benchmark.progress import counted, counting
from benchmark.record import RECORD
from benchmark.store import Store

SHOWN = 4  # differing fields in one line
MANY = 200  # records: from here on progress is shown

OnProgress = Callable[[int, int], None]


# ---- what is to be done --------------------------------------------------------------------------


def plan(
    sources: list[Path], into: Path, on_progress: OnProgress | None = None, trials: bool = True
) -> Merging:
    """Read all sources and decide; writes nothing. `trials`: those too.

    Raises:
        BadInput: a source is no results directory, or the target itself.
    """
    sources = list({source.resolve(): source for source in sources}.values())
    for source in sources:
        _check_source(source, into)
    merging = _planned(sources, into, on_progress)
    homes = [home for source in sources if (home := source / chosen.TRIALS).is_dir()]
    if trials and homes:
        merging.trials = _planned(homes, into / chosen.TRIALS, on_progress)
    return merging


def _planned(sources: list[Path], into: Path, on_progress: OnProgress | None) -> Merging:
    merging = Merging(Store(into))
    folders = [path.parent for source in sources for path in Store(source).record_paths()]
    for number, folder in enumerate(folders, 1):
        _add_run(merging, folder)
        if on_progress is not None and len(folders) >= MANY:
            on_progress(number, len(folders))
    for source in sources:  # after all records: attempts behind a record are of no interest
        for add in (add_attempts, add_marks, add_entries, add_said, add_choices):
            add(merging, source)
    return merging


def _check_source(source: Path, into: Path) -> None:
    if not source.is_dir():
        raise BadInput(f"no such directory: {source}")
    if source.resolve() == into.resolve():
        raise BadInput(f"{source} is the directory to merge into: name others, or --results OUT")
    known = ("runs", artefacts.FOLDER, chosen.TRIALS)
    if not any((source / name).is_dir() for name in known):
        raise BadInput(f"{source} has no runs/: give a results directory")


def _add_run(merging: Merging, folder: Path) -> None:
    try:
        run = differences.whole_run(folder)
        target = merging.store.run_folder(run.record.spec)  # never by the name it was found under
        known = merging.folders.get(target, target)
        if not (known / RECORD).is_file():
            if target.exists():
                raise BadInput(f"{target} is in the way: it has no {RECORD}")
            merging.folders[target] = folder
            return
        ours = differences.whole_run(known)
    except BadInput as error:
        merging.broken.append(f"not merged: {error}")
        merging.differing.add(folder.name)
        return
    found = differences.differences(ours, run)
    if not found:
        merging.there += 1
        add_measurements(merging, target, known, folder)
    elif all(d.rounded for d in found) and _other_kind(ours, run):
        fields = _fields(found)
        line = f"{_name(run)}: differs in bits (other machine kind): {fields}; ours is kept"
        merging.rounded.append(line)
    else:
        kind = " (other machine kind)" if _other_kind(ours, run) else ""
        line = f"{_name(run)}{kind}: {_fields(found)} (here: {known}, kept; there: {folder})"
        merging.conflicts.append(line)
        merging.differing.add(run.record.run_id)


def _other_kind(one: Run, other: Run) -> bool:
    first, second = (differences.kind_of(r.record.environment) for r in (one, other))
    return first != second


def _name(run: Run) -> str:
    return run.record.spec.folder


def _fields(found: list[Difference]) -> str:
    """The figures first: they matter more than last bits."""
    ordered = sorted(found, key=lambda d: d.rounded)
    shown = [f"{d.field} {d.one} here, {d.other} there" for d in ordered[:SHOWN]]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join(shown + more)


# ---- doing it ------------------------------------------------------------------------------------


def apply(merging: Merging) -> None:
    """Copy what was planned. A run that another process published meanwhile stays as it is.

    Raises:
        BadInput: a file cannot be read or written; what was copied so far is whole.
    """
    if merging.trials is not None:  # first: rows rest on them
        apply(merging.trials)
    check_writable(merging.store.root)
    try:
        for place, content in merging.marks.items():  # first: no run is ever there without its own
            write_new(place, content)
        for choice in merging.said.values():
            imported.keep(merging.store, choice)
        for target, source in merging.folders.items():
            _copy_run(merging, source, target)
        for place, content in merging.files.items():
            if not write_new(place, content) and place.read_bytes() != content:
                merging.conflicts.append(f"{place} was written meanwhile with other content")
        for folder, content in merging.attempts:
            write_numbered(folder, content)
    except OSError as error:
        reason = f"{error.filename or merging.store.root}: {error.strerror or error}"
        raise BadInput(f"stopped, and what was copied so far is whole: {reason}") from error


def _copy_run(merging: Merging, source: Path, target: Path) -> None:
    with new_folder(target) as draft:
        for path in sorted(source.rglob("*")):
            place = path.relative_to(source)
            if (
                path.is_file()
                and not path.is_symlink()
                and not any(part.startswith(DRAFT) for part in place.parts)
            ):
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, draft / place)
    record = target / RECORD
    if not record.is_file() or record.read_bytes() != (source / RECORD).read_bytes():
        merging.conflicts.append(f"{target} was written meanwhile by another run; merge again")


# ---- the command ---------------------------------------------------------------------------------


def show(merging: Merging, dry_run: bool, screen: Console) -> None:
    """One line per thing that was not simply copied, then the counts."""

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    for line in merging.remarks:
        say(line)
    into, verb = merging.store.root, "would be copied" if dry_run else "copied"
    also = "".join(f", {counted(n, what)}" for n, what in _beside(merging) if n)
    counts = [
        f"{counted(len(merging.folders), 'run')}{also} {verb}",
        f"{merging.there} already there",
    ]
    rounded, conflicts, broken = (
        sum(len(lines) for lines in found)
        for found in zip(*((m.rounded, m.conflicts, m.broken) for m in merging.all), strict=True)
    )
    counts += [f"{rounded} with other bits"] if rounded else []
    counts += [counted(conflicts, "conflict")]
    counts += [f"{broken} not readable"] if broken else []
    say(f"{into}: {'; '.join(counts)}")
    if merging.folders and not dry_run:
        place = shlex.quote(str(into))
        say(f"Next: python -m benchmark.report --results {place} draws tables and figures again")


def _beside(merging: Merging) -> list[tuple[int, str]]:
    """What is copied beside runs: numbers, and of what."""
    into, trials = merging.store.root, merging.trials
    entries = sum(path.is_relative_to(into / artefacts.FOLDER) for path in merging.files)
    made = 0 if trials is None else len(trials.folders)
    files = [place for part in merging.all for place in part.files]
    tuned = sum(chosen.CHOSEN in p.relative_to(into).parts[:2] for p in files)
    return [
        (made, "trial"),
        (tuned, "tuning choice"),
        (sum(len(part.said) for part in merging.all), "imported choice"),
        (len(files) - entries - tuned, "measurement"),
        (entries, "imported network"),
        (sum(len(part.attempts) for part in merging.all), "attempt"),
    ]


def main(
    directories: Annotated[list[Path], typer.Argument(help="Results of other machines.")],
    results: Annotated[Path, typer.Option(help="Where all of them are united.")] = Path("results"),
    dry_run: Annotated[bool, typer.Option(help="Show what would be done, write nothing.")] = False,
) -> int:
    """Unite results directories: records, measurements, trials and what they chose, networks and
    choices of other code, and attempts of cells without a record. Nothing is overwritten. Exit
    code 1: there were conflicts or unreadable records."""
    screen = console()
    with counting(screen, "reading records") as on_progress:
        merging = plan(directories, results, on_progress)
    if not dry_run:
        apply(merging)
    show(merging, dry_run, screen)
    return merging.code


if __name__ == "__main__":
    run_app(main)
