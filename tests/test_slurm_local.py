"""The one-machine SLURM that the cluster tests run on. Skipped where its packages are absent."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

SCRIPT = Path(__file__).parents[1] / "slurm" / "local" / "cluster.py"
FOLDER = Path("/var/lib/slurm-local")  # the script's default
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged")
pytestmark = pytest.mark.slurm


def cluster(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=180
    )


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(params=[[], ["--no-accounting"]], ids=["accounting", "no accounting"])
def up(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} here: apt-get install slurmctld slurmd slurmdbd …")
    with FileLock(Path(tempfile.gettempdir()) / "slurm-local.lock"):  # there is one per machine
        done = cluster("up", *request.param)
        assert done.returncode == 0, done.stderr
        yield request.param
        assert cluster("down").returncode == 0


def test_four_nodes_schedule_two_gpus_each_and_end_by_pid(up: list[str]) -> None:
    assert len(said("sinfo", "-hN", "-p", "main", "-t", "idle", "-o", "%N").split()) == 4
    shown = said("srun", "-N4", "--gres=gpu:2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert shown.split() == ["0,1"] * 4
    too_many = subprocess.run(
        ["srun", "--gres=gpu:3", "true"], capture_output=True, text=True, timeout=60
    )
    assert "Requested node configuration is not available" in too_many.stderr
    pids = {path.name: path.read_text() for path in FOLDER.glob("*.pid")}
    assert len(pids) >= 5
    assert cluster("up", *up).returncode == 0  # once more: nothing changes
    assert {path.name: path.read_text() for path in FOLDER.glob("*.pid")} == pids
    has_accounting = not said("sh", "-c", "sacct 2>&1").startswith("Slurm accounting storage is d")
    assert has_accounting == (not up)
