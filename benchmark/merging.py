"""What is to be copied into a results directory, and what lies beside runs there and comes along:
measurements, attempts, marks, networks and choices of other code, and what trials chose.

All is found by reading alone, so that it can be shown before anything is written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import artefacts, chosen, imported, origin
from benchmark.choices import Choice
from benchmark.cli import DONE, FAILED
from benchmark.errors import BadInput
from benchmark.record import one_line, parse_json
from benchmark.spec import RunSpec, canonical
from benchmark.store import Store
from benchmark.tuning import Choice as Tuned


@dataclass
class Merging:
    """What is to be copied and what was found; filled by reading alone, so that it can be shown
    before anything is written."""

    store: Store  # where everything goes
    folders: dict[Path, Path] = field(default_factory=dict)  # runs: to, from
    files: dict[Path, bytes] = field(default_factory=dict)  # measurements, entries
    marks: dict[Path, bytes] = field(default_factory=dict)  # of runs that others submitted
    said: dict[str, Choice] = field(default_factory=dict)  # by files of other code, by content
    attempts: list[tuple[Path, bytes]] = field(default_factory=list)  # folder, content
    there: int = 0  # runs that are equal in both
    rounded: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    differing: set[str] = field(default_factory=set)  # run ids: not copied, other results there
    trials: Merging | None = None  # of the same directories

    @property
    def all(self) -> list[Merging]:
        """This, and that of trials."""
        return [self] if self.trials is None else [self, self.trials]

    @property
    def code(self) -> int:
        return FAILED if any(part.conflicts or part.broken for part in self.all) else DONE

    @property
    def remarks(self) -> list[str]:
        """A line for everything that was not simply copied."""
        lines = [line for part in self.all for line in (*part.broken, *part.rounded)]
        return lines + [f"conflict: {line}" for part in self.all for line in part.conflicts]


def add_measurements(merging: Merging, target: Path, known: Path, folder: Path) -> None:
    """Measurements belong to the weights they were made on: only equal runs share them."""
    for path in sorted((folder / "measurements").glob("*.json")):
        if path.name.startswith("."):
            continue
        place, ours = (where / "measurements" / path.name for where in (target, known))
        _offer(merging, merging.files, path, place, ours)


def _offer(merging: Merging, files: dict[Path, bytes], path: Path, place: Path, ours: Path) -> None:
    """The file at `path` for `place`, unless another is there or on its way: ours is kept."""
    content = path.read_bytes()
    present = files.get(place) or (ours.read_bytes() if ours.is_file() else None)
    if present is None:
        files[place] = content
    elif present != content:
        merging.conflicts.append(f"{path}: other content than {ours}; kept: {ours}")


def add_attempts(merging: Merging, source: Path) -> None:
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


def add_marks(merging: Merging, source: Path) -> None:
    """What says which runs others submitted goes along with them, and their trials beside it."""
    home = source / origin.FOLDER
    trials = (path for path in home.glob(f"*/{chosen.TRIALS}/**/[!.]*") if path.is_file())
    for path in (*sorted(home.glob("[!.]*.json")), *sorted(trials)):
        place = merging.store.root / path.relative_to(source)
        _offer(merging, merging.marks, path, place, place)


def add_entries(merging: Merging, source: Path) -> None:
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


def add_said(merging: Merging, source: Path) -> None:
    """What files of other code said, which runs prune by; it is called by its hash."""
    for content in imported.kept(source):
        if content in merging.said or imported.read(merging.store.root, content) is not None:
            continue
        found = imported.read(source, content)
        if found is None:
            place = imported.place(source, content)
            merging.broken.append(f"not merged: {place} is damaged: its runs need their file again")
        else:
            merging.said[content] = found


def add_choices(merging: Merging, source: Path) -> None:
    """What trials chose. Seconds are of one machine: choices that differ in them are the same."""
    for path in sorted((source / chosen.CHOSEN).glob("*/*/*/[!.]*.json")):
        place = merging.store.root / path.relative_to(source)
        try:
            found = chosen.read(path)
            known = merging.files.get(place)
            if known is None and place.is_file():
                known = place.read_bytes()
            ours = None if known is None else chosen.parse(known)
        except (BadInput, ValueError) as error:
            merging.broken.append(f"not merged: {path} or {place}: {one_line(error)}")
            continue
        other = sorted(merging.differing & {run for tried in found.tried for run in tried.runs})
        if ours is not None and _without_seconds(ours) == _without_seconds(found):
            continue
        if ours is not None:
            merging.conflicts.append(f"{path}: other content than {place}; kept: {place}")
        elif other:
            merging.conflicts.append(
                f"{path}: not merged, for its trial {other[0]} is another here: give the command "
                "of benchmark.tune once more"
            )
        else:
            merging.files[place] = path.read_bytes()


def _without_seconds(choice: Tuned) -> str:
    return canonical(choice.model_dump(mode="json", exclude={"seconds"}))
