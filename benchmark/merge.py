"""`python -m benchmark.merge DIR…`: unites the results of several machines. Nothing that is there
is changed: what one directory has more is copied, and what differs is listed.
"""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import artefacts, differences, origin
from benchmark.cli import DONE, FAILED, console, run_app
from benchmark.differences import Difference, Run
from benchmark.errors import BadInput
from benchmark.files import DRAFT, check_writable, new_folder, write_new, write_numbered
from benchmark.progress import counted, counting
from benchmark.record import RECORD, one_line, parse_json
from benchmark.spec import RunSpec, digest
from benchmark.store import Store

SHOWN = 4  # differing fields in one line
MANY = 200  # records: from here on progress is shown

OnProgress = Callable[[int, int], None]


@dataclass
class Merging:
    """What is to be copied and what was found; filled by reading alone, so that it can be shown
    before anything is written."""

    store: Store  # where everything goes
    folders: dict[Path, Path] = field(default_factory=dict)  # runs: to, from
    files: dict[Path, bytes] = field(default_factory=dict)  # measurements, entries
    marks: dict[Path, bytes] = field(default_factory=dict)  # of runs that others submitted
    attempts: list[tuple[Path, bytes]] = field(default_factory=list)  # folder, content
    there: int = 0  # runs that are equal in both
    rounded: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        return FAILED if self.conflicts or self.broken else DONE


# ---- what is to be done --------------------------------------------------------------------------


def plan(sources: list[Path], into: Path, on_progress: OnProgress | None = None) -> Merging:
    """Read all sources and decide; writes nothing.

    Raises:
        BadInput: a source is no results directory, or the target itself.
    """
    sources = list({source.resolve(): source for source in sources}.values())
    for source in sources:
        _check_source(source, into)
    merging = Merging(Store(into))
    folders = [path.parent for source in sources for path in Store(source).record_paths()]
    for number, folder in enumerate(folders, 1):
        _add_run(merging, folder)
        if on_progress is not None and len(folders) >= MANY:
            on_progress(number, len(folders))
    for source in sources:  # after all records: attempts behind a record are of no interest
        _add_attempts(merging, source)
        _add_marks(merging, source)
        _add_entries(merging, source)
    return merging


def _check_source(source: Path, into: Path) -> None:
    if not source.is_dir():
        raise BadInput(f"no such directory: {source}")
    if source.resolve() == into.resolve():
        raise BadInput(f"{source} is the directory to merge into: name others, or --results OUT")
    if not any((source / name).is_dir() for name in ("runs", artefacts.FOLDER)):
        raise BadInput(f"{source} has no runs/: give a results directory")


def _add_run(merging: Merging, folder: Path) -> None:
    try:
        run = whole_run(folder)
        target = merging.store.run_folder(run.record.spec)  # never by the name it was found under
        known = merging.folders.get(target, target)
        if not (known / RECORD).is_file():
            if target.exists():
                raise BadInput(f"{target} is in the way: it has no {RECORD}")
            merging.folders[target] = folder
            return
        ours = whole_run(known)
    except BadInput as error:
        merging.broken.append(f"not merged: {error}")
        return
    found = differences.differences(ours, run)
    if not found:
        merging.there += 1
        _add_measurements(merging, target, known, folder)
    elif all(d.rounded for d in found) and _other_kind(ours, run):
        fields = _fields(found)
        line = f"{_name(run)}: differs in bits (other machine kind): {fields}; ours is kept"
        merging.rounded.append(line)
    else:
        kind = " (other machine kind)" if _other_kind(ours, run) else ""
        line = f"{_name(run)}{kind}: {_fields(found)} (here: {known}, kept; there: {folder})"
        merging.conflicts.append(line)


def whole_run(folder: Path) -> Run:
    """The run with all its files, which fit together."""
    run = differences.read_run(folder)
    if digest(run.keep) != run.record.plan:
        raise BadInput(f"{folder / differences.PLAN} is not the plan of its record")
    return run


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


def _add_measurements(merging: Merging, target: Path, known: Path, folder: Path) -> None:
    """Measurements belong to the weights they were made on: only equal runs share them."""
    for path in sorted((folder / "measurements").glob("*.json")):
        if path.name.startswith("."):
            continue
        place = target / "measurements" / path.name
        ours, content = known / "measurements" / path.name, path.read_bytes()
        present = merging.files.get(place) or (ours.read_bytes() if ours.is_file() else None)
        if present is None:
            merging.files[place] = content
        elif present != content:
            merging.conflicts.append(f"{path}: other content than {ours}; kept: {ours}")


def _add_attempts(merging: Merging, source: Path) -> None:
    """Those of cells without a record; the same ones are copied once."""
    theirs: dict[Path, Counter[bytes]] = {}
    for path in sorted((source / "attempts").glob("*/*/*/*/*.json")):
        try:
            raw = path.read_bytes()
            spec = RunSpec.model_validate(parse_json(raw)["spec"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            merging.broken.append(f"not merged: {path} is not an attempt: {one_line(error)}")
            continue
        if not merging.store.has(spec) and merging.store.run_folder(spec) not in merging.folders:
            folder = merging.store.root / "attempts" / spec.folder
            theirs.setdefault(folder, Counter())[raw] += 1
    for folder, contents in theirs.items():
        ours = Counter(p.read_bytes() for p in folder.glob("*.json"))
        ours.update(raw for place, raw in merging.attempts if place == folder)
        merging.attempts += [(folder, raw) for raw in (contents - ours).elements()]


def _add_marks(merging: Merging, source: Path) -> None:
    """What says which runs others submitted goes along with them."""
    for path in sorted((source / origin.FOLDER).glob("[!.]*.json")):
        place, raw = merging.store.root / origin.FOLDER / path.name, path.read_bytes()
        present = merging.marks.get(place) or (place.read_bytes() if place.is_file() else None)
        if present is None:
            merging.marks[place] = raw
        elif present != raw:
            merging.conflicts.append(f"{path}: other content than {place}; kept: {place}")


def _add_entries(merging: Merging, source: Path) -> None:
    """Networks made elsewhere; a file is named after its content."""
    for path in artefacts.paths(source):
        place, content = merging.store.root / path.relative_to(source), path.read_bytes()
        try:
            artefacts.read(path)
        except BadInput as error:
            merging.broken.append(f"not merged: {error}")
            continue
        if not place.is_file():
            merging.files.setdefault(place, content)


# ---- doing it ------------------------------------------------------------------------------------


def apply(merging: Merging) -> None:
    """Copy what was planned. A run that another process published meanwhile stays as it is.

    Raises:
        BadInput: a file cannot be read or written; what was copied so far is whole.
    """
    check_writable(merging.store.root)
    try:
        for place, content in merging.marks.items():  # first: no run is ever there without its own
            write_new(place, content)
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

    for line in (*merging.broken, *merging.rounded, *(f"conflict: {c}" for c in merging.conflicts)):
        say(line)
    into, verb = merging.store.root, "would be copied" if dry_run else "copied"
    entries = sum(path.is_relative_to(into / artefacts.FOLDER) for path in merging.files)
    extras = [
        (len(merging.files) - entries, "measurement"),
        (entries, "imported network"),
        (len(merging.attempts), "attempt"),
    ]
    also = "".join(f", {counted(n, what)}" for n, what in extras if n)
    counts = [
        f"{counted(len(merging.folders), 'run')}{also} {verb}",
        f"{merging.there} already there",
    ]
    counts += [f"{len(merging.rounded)} with other bits"] if merging.rounded else []
    counts += [counted(len(merging.conflicts), "conflict")]
    counts += [f"{len(merging.broken)} not readable"] if merging.broken else []
    say(f"{into}: {'; '.join(counts)}")
    if merging.folders and not dry_run:
        place = shlex.quote(str(into))
        say(f"Next: python -m benchmark.report --results {place} draws tables and figures again")


def main(
    directories: Annotated[list[Path], typer.Argument(help="Results of other machines.")],
    results: Annotated[Path, typer.Option(help="Where all of them are united.")] = Path("results"),
    dry_run: Annotated[bool, typer.Option(help="Show what would be done, write nothing.")] = False,
) -> int:
    """Unite results directories: records, measurements, and attempts of cells without a record.
    Nothing is overwritten. Exit code 1: there were conflicts or unreadable records."""
    screen = console()
    with counting(screen, "reading records") as on_progress:
        merging = plan(directories, results, on_progress)
    if not dry_run:
        apply(merging)
    show(merging, dry_run, screen)
    return merging.code


if __name__ == "__main__":
    run_app(main)
