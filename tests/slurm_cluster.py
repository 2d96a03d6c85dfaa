"""The one-machine SLURM as a fixture, shared by all tests that need a cluster.

A module of tests takes it by `cluster = slurm_cluster.cluster`. Parametrised indirectly with True
or False it has accounting or not, else what is up already, or accounting. With SLURM_KEEP=1 it
stays up afterwards; with REQUIRE_SLURM=1 its absence is a failure and no skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from benchmark import slurm

SCRIPT = Path(__file__).parents[1] / "slurm" / "local" / "cluster.py"
FOLDER = Path("/var/lib/slurm-local")  # the script's default
CONF = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd", "munged")
NODES = 4


@dataclass(frozen=True)
class Cluster:
    """What is up."""

    accounting: bool
    folder: Path = FOLDER

    @property
    def unshared(self) -> Path:
        """A folder whose content no node sees."""
        return self.folder / "unshared"


def script(*words: str) -> subprocess.CompletedProcess[str]:
    """`up` or `down`."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=180
    )


def said(*words: str) -> str:
    """What a command prints."""
    return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout


def is_up() -> bool:
    """Whether the controller and all nodes answer."""
    if shutil.which("sinfo") is None or "is UP" not in said("scontrol", "ping"):
        return False
    return len(said("sinfo", "-hNr", "-p", "main", "-o", "%N").split()) == NODES


def has_accounting() -> bool:
    """Of the cluster that is up."""
    return slurm.has_store(said("scontrol", "show", "config"))


def start(accounting: bool) -> None:
    """Up in this mode, whatever was before; a skip, or a failure, where that cannot be."""
    if is_up() and has_accounting() != accounting:
        script("down")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        unable(f"no {missing[0]} here: make slurm-install")
    if os.getuid():
        unable("only root can start a SLURM of its own")
    if not is_up():
        done = script("up", *([] if accounting else ["--no-accounting"]))
        if done.returncode:
            unable(f"SLURM does not start: {done.stderr.strip()}")
    slurm.forget()


def unable(reason: str) -> None:
    """Ends the test."""
    (pytest.fail if os.environ.get("REQUIRE_SLURM") else pytest.skip)(reason)


@contextmanager
def alone() -> Iterator[None]:
    """There is one such cluster per machine: other test processes wait."""
    with FileLock(Path(tempfile.gettempdir()) / "slurm-local.lock"):
        yield


@contextmanager
def running(accounting: bool | None) -> Iterator[Cluster]:
    """Up during the block, and as it was before after it."""
    with alone():
        before = has_accounting() if is_up() else None
        wanted = accounting if accounting is not None else before is not False
        start(wanted)
        try:
            yield Cluster(wanted)
        finally:
            if before != wanted and not os.environ.get("SLURM_KEEP"):
                done = script("down")
                assert done.returncode == 0, done.stderr
            slurm.forget()


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Four nodes of two CPUs and two GPUs each."""
    with running(getattr(request, "param", None)) as found:
        yield found
