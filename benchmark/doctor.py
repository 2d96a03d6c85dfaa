"""`python -m benchmark.doctor`: is this machine ready, and is this results directory sound?"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.text import Text
from torchvision.datasets import CIFAR10, CIFAR100

from benchmark import environment
from benchmark.claims import Busy
from benchmark.cli import DONE, FAILED, console, run_app
from benchmark.differences import whole_run
from benchmark.environment import describe
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.grid import unreadable_grids
from benchmark.options import options_from
from benchmark.sender import facts_of
from benchmark.site import read_site
from benchmark.sitetrial import probe
from benchmark.store import Store

LEAST_FREE = 2.0  # GB
CIFAR_FOLDERS = {"cifar10": CIFAR10.base_folder, "cifar100": CIFAR100.base_folder}

Verdict = Literal["ok", "note", "PROBLEM"]
COLOURS = {"ok": "green", "note": "yellow", "PROBLEM": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    verdict: Verdict
    about: str
    text: str


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    data_dir: Annotated[Path | None, typer.Option(help="Where CIFAR's files are.")] = None,
    site: Annotated[
        Path | None, typer.Option(help="A cluster's file: would its jobs start?")
    ] = None,
) -> int:
    """Look at versions, processors, GPU, SLURM, data, disk, locks and records.

    Example: python -m benchmark.doctor --results results-demo
    """
    found = [*machine(), *place(results), *data(results, data_dir), *content(Store(results))]
    found += [] if site is None else cluster(results, site)
    screen = console()
    for finding in found:
        line = Text(f"{finding.verdict:8}", COLOURS[finding.verdict])
        screen.print(line + Text(f"{finding.about:12} {finding.text}", "default"), soft_wrap=True)
    return FAILED if any(f.verdict == "PROBLEM" for f in found) else DONE


def machine() -> Iterator[Finding]:
    """Versions and hardware."""
    facts = describe()
    versions = ", ".join(f"{k} {v}" for k, v in facts["packages"].items() if v)
    yield Finding("ok", "versions", f"Python {platform.python_version()}, {versions}")
    missing = [k for k, v in facts["packages"].items() if not v]
    if missing:
        yield Finding("PROBLEM", "versions", f"not installed: {', '.join(missing)}")
    cores = len(os.sched_getaffinity(0))
    yield Finding("ok", "processor", f"{facts['cpu']}, {cores} of {facts['cores']} cores for us")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("ok", "gpu", ", ".join(names))
    else:
        yield Finding("note", "gpu", "none: the total track will read 'not run'")
    yield _slurm()


def _slurm() -> Finding:
    if shutil.which("sinfo") is None:
        return Finding("note", "slurm", "no sinfo here: grids run on this machine")
    try:
        said = subprocess.run(["sinfo", "-h", "-o", "%P %D %t"], capture_output=True, text=True,
                              timeout=10)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return Finding(
            "note", "slurm", "sinfo is here, but does not answer: grids run on this machine"
        )
    if said.returncode:
        return Finding("note", "slurm", f"not in reach: {' '.join(said.stderr.split())}")
    return Finding("ok", "slurm", "; ".join(said.stdout.split("\n")).strip("; "))


def cluster(results: Path, path: Path) -> Iterator[Finding]:
    """Whether the cluster takes jobs of this site, and its nodes see what they need."""
    try:
        site = read_site(path)
        facts = facts_of(site, options_from({"executor": "slurm", "site": path}))
        notes = probe(site, results, Path(environment.__file__).resolve().parents[1])
    except BadInput as error:
        yield Finding("PROBLEM", "site", str(error))
        return
    where = site.partition or "the default partition"
    yield Finding("ok", "site", f"{facts.cluster} takes jobs of {path} in {where}")
    for note in notes:
        yield Finding("note", "site", note)
    if site.probe and not notes:
        yield Finding("ok", "nodes", f"see {results.resolve()}, the code and the interpreter")


def place(results: Path) -> Iterator[Finding]:
    """Write permission, free disk, and whether locks hold between processes."""
    try:
        check_writable(results)
    except BadInput as error:
        yield Finding("PROBLEM", "write", str(error))
        return
    yield Finding("ok", "write", f"{results.resolve()} can be written")
    free = shutil.disk_usage(results).free / 1e9
    verdict: Verdict = "ok" if free >= LEAST_FREE else "PROBLEM"
    yield Finding(verdict, "disk", f"{free:.1f} GB free")
    if locks_hold(results):
        yield Finding("ok", "locks", "a claim keeps other processes out")
    else:
        yield Finding(
            "PROBLEM", "locks", "this file system does not lock between processes: run one "
            "launcher with --jobs 1 here, or choose another --results",
        )  # fmt: skip


def locks_hold(results: Path) -> bool:
    """Try with a process of its own."""
    claims = Store(results).claims
    with claims.take("doctor", "lock"):
        process = multiprocessing.get_context("spawn").Process(target=_try, args=(results,))
        process.start()
        process.join(60)
    return process.exitcode == 0


def _try(results: Path) -> None:
    """Exit code 0 if the claim of the other process keeps us out."""
    try:
        with Store(results).claims.take("doctor", "lock", wait=False):
            os._exit(1)
    except Busy:
        os._exit(0)


def data(results: Path, data_dir: Path | None) -> Iterator[Finding]:
    """Which data sets are here."""
    yield Finding("ok", "data", "digits comes with scikit-learn")
    folder = data_dir or results / "stages" / "downloads"
    for name, inside in CIFAR_FOLDERS.items():
        there = (folder / inside).is_dir()
        text = f"{name} is in {folder}" if there else f"{name} is not in {folder}: give --data-dir"
        yield Finding("ok" if there else "note", "data", text)


def content(store: Store) -> Iterator[Finding]:
    """Whether every record can be read, and what was left behind."""
    paths, broken = store.record_paths(), []
    for path in paths:
        try:
            whole_run(path.parent)
        except BadInput as error:
            broken.append(f"{error}: remove {path.parent}, and retry makes it again")
    yield from (Finding("PROBLEM", "records", text) for text in broken)
    text = f"{len(paths) - len(broken)} are whole: record, plan, curve and predictions"
    yield Finding("ok", "records", text)
    for path in unreadable_grids(store):
        yield Finding("note", "grids", f"{path} cannot be read: status and retry pass it over")
    left = [c for c in store.claims.all() if not store.claims.is_held(c.kind, c.key)]
    for claim in left:
        text = f"{claim.kind} {claim.key}: {claim.holder} ended without a word; it is taken over"
        yield Finding("note", "claims", text)


if __name__ == "__main__":
    run_app(main)
