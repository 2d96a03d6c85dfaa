"""`python -m benchmark.submit DIR`: the finished runs of a results directory as one file to send.

It holds what is committed of each run (record, plan, curve, predictions, measurements that tables
are made from), the source of the methods and networks that are not ours, what runs rest on (trials,
choices of other code), and the hash of it all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import archs, artefacts, carried, chosen, origin
from benchmark.archive import FILES_OF_A_RUN, KINDS, pack
from benchmark.cli import DONE, console, run_app
from benchmark.differences import whole_run
from benchmark.errors import BadInput
from benchmark.files import write_new
from benchmark.grid import read_grids
from benchmark.progress import counted
from benchmark.record import RunRecord
from benchmark.store import Store
from methods import is_ours, plugins

SUITE = "prunebench"
NO_NETWORKS = "what benchmark.evaluate measured is not submitted, send the file of the weights"


@dataclass(frozen=True)
class Foreign:
    """A method or network of a run that is not ours."""

    what: str  # method or network
    name: str
    source: str  # hash

    def __str__(self) -> str:
        return f"{self.what} {self.name} with source hash {self.source}"


def foreign(records: Iterable[RunRecord]) -> list[Foreign]:
    """What the runs use that is not ours, once each."""
    found: dict[Foreign, None] = {}
    for spec in (record.spec for record in records):
        for what, part in (("method", spec.method), ("network", spec.arch)):
            if part.source:
                found[Foreign(what, part.name, part.source)] = None
    return list(found)


# ---- what is packed ------------------------------------------------------------------------------


def files_of(root: Path, given: list[Path], pruned_by: list[Path]) -> dict[str, bytes]:
    """Everything that goes into the archive, by place. Given files: sources of methods and
    networks, and choices of other code.

    Raises:
        BadInput: no runs, one that is not whole, runs that others submitted, or a source, a trial
            or a choice that is not known.
    """
    store = Store(root)
    if not root.is_dir() or not store.record_paths():
        why = NO_NETWORKS if artefacts.paths(root) else "run a benchmark first, or give another DIR"
        raise BadInput(f"no finished runs under {root}: {why}")
    if origin.read_marks(root):
        raise BadInput(
            f"{root / origin.FOLDER} says that others submitted runs of it: give the directory "
            "that yours were made in"
        )
    files: dict[str, bytes] = {}
    records = []
    for path in store.record_paths():
        run = whole_run(path.parent)
        if run.record.spec.is_trial:
            raise BadInput(f"{path.parent} is a trial: give the directory of the tuned rows; their "
                           f"trials, in its {chosen.TRIALS}/, go along")  # fmt: skip
        place = f"runs/{run.record.spec.folder}"
        if (root / place).resolve() != path.parent.resolve():
            raise BadInput(f"{path.parent} is not where its record belongs: that is {root / place}")
        files |= {f"{place}/{name}": (path.parent / name).read_bytes() for name in FILES_OF_A_RUN}
        for kind in KINDS:
            for measured in sorted((path.parent / "measurements").glob(f"{kind}-*.json")):
                files[f"{place}/measurements/{measured.name}"] = measured.read_bytes()
        records.append(run.record)
    tried, trials = carried.trials_of(root, records)
    records += trials
    files |= tried | carried.said_by_files([root, root / chosen.TRIALS], records, pruned_by)
    for wanted in foreign(records):
        found = source_of(wanted, store, given)
        files |= {f"sources/{wanted.source}/{place}": raw for place, raw in found.items()}
    return files


def source_of(wanted: Foreign, store: Store, given: list[Path]) -> dict[str, bytes]:
    """Its files by place: those given, those that grids of this directory name, or those of an
    installed package; the card along with a method.

    Raises:
        BadInput: none of them has that hash.
    """
    for path in (*given, *_of_grids(wanted, store)):
        if path.is_file() and path.suffix == ".py" and _hash(path) == wanted.source:
            return _with_card({path.name: path.read_bytes()}, path)
    offered = _of_packages(wanted)
    if offered is not None:
        return offered
    raise BadInput(
        f"the source of the {wanted} is not known: give its file by --source FILE.py, as it was "
        "when the run was made, or install its package"
    )


def _of_grids(wanted: Foreign, store: Store) -> Iterator[Path]:
    for grid in read_grids(store):
        named = grid.options.methods if wanted.what == "method" else [grid.options.arch]
        yield from (Path(n.partition(".py")[0] + ".py") for n in named if ".py" in n)


def _of_packages(wanted: Foreign) -> dict[str, bytes] | None:
    group = plugins.METHODS if wanted.what == "method" else plugins.ARCHITECTURES
    taken = is_ours if wanted.what == "method" else archs.is_taken
    try:
        provided = plugins.find(group, wanted.name, taken)
    except plugins.Unusable:
        return None
    if provided is None or provided.sources.digest != wanted.source:
        return None
    own, content = provided.sources.file, dict(provided.sources.content)
    return _with_card(content, own) if wanted.what == "method" else content


def _with_card(content: dict[str, bytes], file: Path) -> dict[str, bytes]:
    card = file.with_suffix(".toml")
    beside = next(place for place in content if place.rpartition("/")[2] == file.name)
    if not card.is_file():
        return content
    return content | {str(Path(beside).with_suffix(".toml")): card.read_bytes()}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# ---- the command ---------------------------------------------------------------------------------


def show(files: dict[str, bytes], packed: bytes, out: Path, left: int, screen: Console) -> None:
    """`left`: networks that other code made, which do not go along."""
    runs = sum(name.endswith(FILES_OF_A_RUN[0]) for name in files)
    sources = sorted(n for n in files if n.startswith("sources/") and n.endswith(".py"))
    place = shlex.quote(str(out))
    trials = sum(name.startswith(f"{chosen.TRIALS}/runs/") for name in files) // len(FILES_OF_A_RUN)
    tried = f" and {counted(trials, 'trial')}" if trials else ""
    lines = [
        f"{out}: {counted(runs - trials, 'run')}{tried}, {len(packed) / 2**20:.1f} MB, sha256 "
        f"{hashlib.sha256(packed).hexdigest()}",
        *(
            f"  with the source {name.split('/', 2)[2]} ({len(files[name])} bytes)"
            for name in sources
        ),
        *(f"  with {n}, which runs prune by" for n in sorted(files) if n.startswith("pruned-by/")),
        *([f"  without {counted(left, 'imported network')}: {NO_NETWORKS}"] if left else []),
        "Everything in it can be read by whoever gets it, records with the names of machines too.",
        f"Next: python -m benchmark.verify {place} says what whoever gets it will see",
    ]
    for line in lines:
        screen.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def main(
    directory: Annotated[Path, typer.Argument(help="Results directory.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("submission.tar.gz"),
    by: Annotated[str, typer.Option(help="Whose results these are, for the leaderboard.")] = "",
    source: Annotated[
        list[Path] | None, typer.Option(help="FILE.py of a method or network; may be repeated.")
    ] = None,
    pruned_by: Annotated[
        list[Path] | None,
        typer.Option(help="FILE that from-file pruned by, where it is not kept; may be repeated."),
    ] = None,
) -> int:
    """Pack the finished runs of a results directory into one file, to be sent and verified.

    Example: python -m benchmark.submit results-mine --by "Jo Doe, Lab"
    """
    for path in source or []:
        if not path.is_file() or path.suffix != ".py":
            raise BadInput(f"--source {path}: no such file, or no .py")
    files = files_of(directory, source or [], pruned_by or [])
    packed = pack(files, f"{SUITE} {importlib.metadata.version(SUITE)}", by)
    if not write_new(out, packed) and out.read_bytes() != packed:
        raise BadInput(f"--out {out} is there already, with other content: give another name")
    show(files, packed, out, len(artefacts.paths(directory)), console())
    return DONE


if __name__ == "__main__":
    run_app(main)
