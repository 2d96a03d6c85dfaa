"""The one-machine SLURM that the cluster tests run on. Skipped where its packages are absent."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import FOLDER, NODES, Cluster, has_accounting, is_up, said, script, start

pytestmark = pytest.mark.slurm
cluster = slurm_cluster.cluster


def pids() -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in FOLDER.glob("*.pid")}


@pytest.mark.parametrize(
    "cluster", [True, False], ids=["accounting", "no accounting"], indirect=True
)
def test_four_nodes_schedule_two_gpus_each(cluster: Cluster) -> None:
    assert said("sinfo", "-hNr", "-p", "main", "-o", "%N").split() == [
        f"node{number}" for number in range(1, NODES + 1)
    ]
    shown = said("srun", "-N4", "--gres=gpu:2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert shown.split() == ["0,1"] * NODES
    too_many = subprocess.run(
        ["srun", "--gres=gpu:3", "true"], capture_output=True, text=True, timeout=60
    )
    assert "Requested node configuration is not available" in too_many.stderr
    off = said("sh", "-c", "sacct 2>&1").startswith("Slurm accounting storage is disabled")
    assert off != cluster.accounting == has_accounting()


def test_up_twice_is_up_once(cluster: Cluster) -> None:
    before = pids()
    assert len(before) >= NODES + 1
    assert script("up", *([] if cluster.accounting else ["--no-accounting"])).returncode == 0
    assert pids() == before


def test_nodes_see_all_files_but_those_of_one_folder(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "seen").touch()
    (cluster.unshared / "unseen").touch()
    try:
        listed = said("srun", "-N4", "ls", str(tmp_path), str(cluster.unshared)).split()
    finally:
        (cluster.unshared / "unseen").unlink()
    assert listed.count("seen") == NODES
    assert "unseen" not in listed


def test_down_ends_all_by_pid(cluster: Cluster) -> None:
    before = pids()
    assert all(Path(f"/proc/{pid}").exists() for pid in before.values())
    try:
        assert script("down").returncode == 0
        assert not [name for name, pid in before.items() if pid and Path(f"/proc/{pid}").exists()]
        assert not is_up()
    finally:
        start(cluster.accounting)
