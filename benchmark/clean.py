"""`python -m benchmark.clean`: give back disk space that no question needs any more."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmark import submissions
from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.files import DRAFT
from benchmark.store import Store

OLD = 3600.0  # seconds after which a draft belongs to nobody


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    weights: Annotated[
        bool, typer.Option("--weights", help="Also the weights of pruned networks.")
    ] = False,
    stages: Annotated[
        bool, typer.Option("--stages", help="Also dense networks and scores: made again if needed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> int:
    """Drop checkpoints of finished work and what killed processes left half-written. Records,
    plans, curves and predictions are never touched.

    Example: python -m benchmark.clean --results results-demo --dry-run
    """
    store = Store(results)
    if not results.is_dir():
        raise BadInput(f"there is no results directory {results}")
    found = {
        "checkpoints of finished work": list(finished_checkpoints(store)),
        "drafts of dead processes": list(drafts(store)),
        "code and files of ended cluster jobs": list(ended_jobs(store)),
    }
    if weights:
        found["weights of pruned networks"] = list(idle(store, ["final"]))
    if stages:
        found["shared stages"] = list(idle(store, ["dense", "scores", "plan"]))
    screen, total = console(), 0
    for what, paths in found.items():
        size = sum(size_of(path) for path in paths)
        total += size
        screen.print(f"{what}: {len(paths)}, {size / 2**20:.1f} MB", highlight=False)
        for path in paths if not dry_run else []:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
    verb = "would be freed" if dry_run else "freed"
    screen.print(f"{total / 2**20:.1f} MB {verb}", highlight=False)
    return DONE


def finished_checkpoints(store: Store) -> Iterator[Path]:
    """Of runs with a record and of stages that are there."""
    done = {record.run_id for record in store.records()}
    for folder in sorted((store.stages / "checkpoints").glob("*-*")):
        kind, _, key = folder.name.partition("-")
        key = key.removesuffix("-optimistic")
        over = key in done if kind == "recovery" else store.has_stage(kind, key)
        if over and not store.claims.is_held("run" if kind == "recovery" else kind, key):
            yield folder


def ended_jobs(store: Store) -> Iterator[Path]:
    """Snapshots of the code, pickles and logs of cluster jobs, once none of them lives. Which job
    had which work stays."""
    sent = submissions.coverage(store)
    if not sent.silent and not any(job in sent.live for job in sent.jobs.values()):
        yield from sorted(submissions.folder(store).glob("code-*"))
        yield from sorted(submissions.job_folder(store).glob("*"))


def drafts(store: Store) -> Iterator[Path]:
    """Half-written files and folders that nobody has touched for an hour."""
    for path in sorted(store.root.rglob(f"{DRAFT}*")):
        inside = any(part.startswith(DRAFT) for part in path.relative_to(store.root).parts[:-1])
        with contextlib.suppress(FileNotFoundError):  # its process is alive, and done with it
            if not inside and time.time() - path.stat().st_mtime > OLD:
                yield path


def idle(store: Store, kinds: list[str]) -> Iterator[Path]:
    """Stages of these kinds that nobody is at work on."""
    for kind in kinds:
        for folder in sorted(store.stages.glob(f"{kind}-*")):
            if folder.is_dir() and not store.claims.is_held(kind, folder.name.partition("-")[2]):
                yield folder


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    run_app(main)
