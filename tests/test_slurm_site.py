"""Sites that are wrong, on a real SLURM: each is refused before anything is submitted, in one line
that says what is wrong. And jobs, as SLURM tells of them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_cluster import CONF, NODES, Cluster
from test_site import SLURM, site

from benchmark import slurm
from benchmark.clusterfacts import facts
from benchmark.errors import BadInput
from benchmark.site import Site, read_site
from benchmark.sitecheck import check, max_array, rehearse
from benchmark.sitetrial import TOKEN, probe

pytestmark = pytest.mark.slurm
cluster = slurm_cluster.cluster

CODE = Path(__file__).parents[1]
NAME = "sitetest"
PATIENCE = 60.0


def local(**keys: Any) -> Site:
    """`slurm/sites/local.toml`, changed."""
    own = read_site(SLURM / "sites" / "local.toml").model_dump(exclude={"setup", "extra"})
    return site(**{k: v for k, v in own.items() if v != ""} | keys)


def sent(*options: str) -> str:
    """Id of a job."""
    words = ("sbatch", "--parsable", f"--job-name={NAME}", "--output=/dev/null", *options)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait(ready: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


def over(job: str) -> slurm.Job:
    """How it ended, once it has."""
    wait(lambda: job not in slurm.queue())
    found = slurm.ended(job)
    assert found is not None
    return found


@contextmanager
def changed(*words: str, back: tuple[str, ...]) -> Iterator[None]:
    """Within the block the cluster is set otherwise."""
    subprocess.run(["scontrol", "update", *words], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(["scontrol", "update", words[0], *back], check=True, timeout=60)


# ---- sites ---------------------------------------------------------------------------------------


def test_the_site_of_this_cluster_fits_and_its_trial_passes(
    cluster: Cluster, tmp_path: Path
) -> None:
    found = facts()
    assert [(n.cpus, n.memory_mb, n.gpus_of("")) for n in found.nodes] == [(2, 4000, 2)] * NODES
    assert [p.name for p in found.partitions] == ["main", "low", "high"]
    assert found.accounting == cluster.accounting
    assert max_array(local(), found) == 1001
    for processes in (1, 2, 4, 8):
        check(local(), found, 1, processes)
        rehearse(local(), processes)
    assert probe(local(), tmp_path, CODE) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "processes", "ours", "slurms"),
    [
        ({"partition": "nosuch"}, 1, "cluster local has none of that name; it has main, low, high",
         "Invalid partition name"),
        ({"gpus": 3, "gpus_per_node": 4}, 1, "3 GPUs on one node, and no node .* more than 2",
         "configuration is not available"),
        ({"gpu_type": "a100"}, 1, "gpu_type = a100: .* GPUs without a type: leave gpu_type out",
         "configuration is not available"),
        ({"cpus": 64}, 1, "64 CPUs on one node, and no node .* more than 2", "not available"),
        ({"memory_gb": 8}, 1, "8192 MB of memory on one node, .* more than 4000", "not available"),
        ({}, 16, "8 nodes with 2 GPUs, 2 CPUs, 3072 MB of memory each; .* has 4", "not available"),
        ({"gpus_per_node": 0}, 4, "--gpus-per-cell 4: .* set gpus_per_node = 2", "not available"),
        ({"constraint": "nosuch"}, 1, "", "Invalid feature specification"),
        ({"exclude": "node99"}, 1, "", "Invalid node name specified"),
        ({"exclude": "node[1-4]"}, 1, "", "configuration is not available"),
        ({"extra": {"reservation": "x"}}, 1, "", "Requested reservation is invalid"),
        ({"extra": {"nosuch": "x"}}, 1, "", "unrecognized option '--nosuch=x'"),
    ],
)  # fmt: skip
def test_what_slurm_would_refuse_is_refused_before(
    cluster: Cluster, keys: dict[str, Any], processes: int, ours: str, slurms: str
) -> None:
    if ours:
        with pytest.raises(BadInput, match=ours):
            check(local(**keys), facts(), 1, processes)
    with pytest.raises(BadInput, match=f"^sbatch refuses .*{slurms}") as caught:
        rehearse(local(**keys), processes)
    assert str(caught.value).isprintable()


def test_what_slurm_would_leave_waiting_for_ever_is_refused(cluster: Cluster) -> None:
    with changed("PartitionName=low", "MaxTime=0:05:00", back=("MaxTime=INFINITE",)):
        with pytest.raises(BadInput, match=r"time = 0:10:00: partition low ends jobs after 5 min"):
            check(local(partition="low"), facts(), 1, 1)
        job = sent("--partition=low", "--time=10", "--wrap", "true")  # accepted, alas
        wait(lambda: slurm.queue()[job].reason in ("PartitionConfig", "PartitionTimeLimit"))
        slurm.cancel([job])
    with (
        changed("PartitionName=low", "State=DOWN", back=("State=UP",)),
        pytest.raises(BadInput, match="partition low is DOWN: it starts no jobs now"),
    ):
        check(local(partition="low"), facts(), 1, 1)


def test_a_drained_node_is_known_and_waited_for(cluster: Cluster) -> None:
    with changed("NodeName=node4", "State=DRAIN", "Reason=a fan: x=1", back=("State=RESUME",)):
        found = facts()
        assert [n.available for n in found.nodes] == [True] * (NODES - 1) + [False]
        check(local(), found, 1, 8)  # it comes back: SLURM makes jobs wait for it


def test_a_controller_that_is_away_is_one_line(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text(CONF.read_text().replace("SlurmctldPort=6817", "SlurmctldPort=6999"))
    (tmp_path / "gres.conf").write_text("")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(BadInput, match=r"SLURM does not answer \(.*Unable to contact"):
        facts()
    monkeypatch.setattr(slurm, "PATIENCE", 1.0)
    with pytest.raises(slurm.NoAnswer, match="squeue did not answer within 1 s"):
        slurm.queue()


# ---- trials --------------------------------------------------------------------------------------


def test_results_that_nodes_do_not_see_are_refused(cluster: Cluster) -> None:
    results = cluster.unshared / "results"
    with pytest.raises(BadInput, match=rf"{results} is not shared: node\d does not see it; choose"):
        probe(local(), results, CODE)
    assert list(results.iterdir()) == []
    results.rmdir()


@pytest.mark.parametrize(
    ("keys", "code", "match"),
    [
        ({"python": "/nosuch/python"}, CODE, r"interpreter /nosuch/python is not there on node\d"),
        ({"python": "false"}, CODE, r"interpreter false does not start on node\d"),
        ({}, Path("/nosuch"), r"code in /nosuch is not there on node\d"),
        ({"setup": ["module load nosuch || exit 3"]}, CODE, r"ends the shell on node\d: .*module"),
    ],
)
def test_what_is_missing_on_a_node_is_named(
    cluster: Cluster, tmp_path: Path, keys: dict[str, Any], code: Path, match: str
) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        probe(local(**keys), tmp_path, code)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_setup_lines_come_before_the_interpreter_is_looked_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    own = tmp_path / "bin"
    own.mkdir()
    (own / "our-python").symlink_to(os.path.realpath("/bin/true"))
    found = local(python="our-python", setup=["echo hello", f"export PATH={own}:$PATH"])
    assert probe(found, tmp_path, CODE) == []


def test_where_all_nodes_are_busy_there_is_a_note_and_no_waiting(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sent("--nodes=4", "--exclusive", "--wrap", "sleep 60")
    try:
        wait(lambda: slurm.queue()[job].state == "RUNNING")
        monkeypatch.setattr("benchmark.sitetrial.IMMEDIATE", 2)
        begun = time.monotonic()
        notes = probe(local(), tmp_path, CODE)
        assert time.monotonic() - begun < 10
        assert "not tried (Unable to allocate resources: Requested nodes are busy)" in notes[0]
        assert set(slurm.queue()) == {job}
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(TOKEN)]
    finally:
        slurm.cancel([job])


# ---- jobs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cluster", [True, False], ids=["accounting", "no accounting"], indirect=True
)
def test_members_of_an_array_are_told_apart(cluster: Cluster) -> None:
    job = sent("--array=0-3%2", "--wrap", "sleep 2; exit $SLURM_ARRAY_TASK_ID")
    waiting = slurm.queue()
    assert {f"{job}_{i}" for i in range(4)} <= waiting.keys()
    assert slurm.ended(f"{job}_3").live  # type: ignore[union-attr]
    slurm.cancel([f"{job}_3"])
    ends = [over(f"{job}_{i}") for i in range(3)]
    assert [(e.state, e.exit) for e in ends] == [
        ("COMPLETED", "0:0"), ("FAILED", "1:0"), ("FAILED", "2:0"),
    ]  # fmt: skip
    assert all(e.node.startswith("node") for e in ends)
    # one that never started is forgotten at once, even where there is accounting
    assert slurm.ended(f"{job}_3") is None
    assert slurm.ended("999999") is None
    slurm.cancel([job, "999999"])  # nothing to end is no mistake


def test_a_job_goes_back_into_the_queue(cluster: Cluster) -> None:
    job = sent("--wrap", "sleep 60")
    try:
        wait(lambda: slurm.queue()[job].state == "RUNNING")
        assert slurm.requeue(job)
        assert slurm.queue()[job].live
        wait(lambda: slurm.queue()[job].state == "RUNNING")
    finally:
        slurm.cancel([job])
    assert over(job).state == "CANCELLED"
    assert not slurm.requeue("999999")
