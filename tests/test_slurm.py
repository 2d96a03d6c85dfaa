"""What is read from SLURM's own commands, on texts recorded from SLURM 22.05, and what a site is
refused for, on clusters that are made up. With a real one: `test_slurm_site.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_site import site

from benchmark import slurm
from benchmark.clusterfacts import Facts, Node, Partition, facts, gpus_in, parse_facts
from benchmark.errors import BadInput
from benchmark.sitecheck import check, last_words, max_array, words
from benchmark.sitetrial import file_system, probe
from benchmark.slurm import Job, NoAnswer, parse_accounting, parse_job, parse_queue

REST = (
    "Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={exit} RunTime=00:00:04 "
    "TimeLimit=UNLIMITED Partition=main AllocNode:Sid=localhost:5970 ReqNodeList=(null) "
    "ExcNodeList=(null) NodeList={node} NumNodes=1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,node=1,billing=1 "
    "Command=(null) WorkDir=/tmp/a JobState=B StdOut=/dev/null Power= "
)
SHOWN = "\n".join(
    head + REST.format(exit=exit_code, node=node)
    for head, exit_code, node in [
        ("JobId=57 ArrayJobId=57 ArrayTaskId=1,3,5-7,9-13:2%2 ArrayTaskThrottle=2 JobName=a b "
         "UserId=root(0) JobState=PENDING Reason=JobArrayTaskLimit ", "0:0", ""),
        ("JobId=58 ArrayJobId=57 ArrayTaskId=0 JobName=a UserId=root(0) JobState=FAILED "
         "Reason=NonZeroExitCode ", "3:0", "node1"),
        ("JobId=59 JobName=a UserId=root(0) JobState=COMPLETED Reason=None ", "0:0", "node2"),
    ]
)  # fmt: skip


# ---- jobs ----------------------------------------------------------------------------------------


def test_a_queue_is_read_with_the_members_of_arrays() -> None:
    text = (
        "19_2|PENDING||JobArrayTaskLimit\n"
        "20|PENDING||Nodes required for job are DOWN, DRAINED or reserved|x\n"
        "19_0|RUNNING|node1|None\n"
        "51|COMPLETING|node[1-4]|None\n"
        "slurm says something else\n"
    )
    assert list(parse_queue(text)) == [
        Job("19_2", "PENDING", "JobArrayTaskLimit"),
        Job("20", "PENDING", "Nodes required for job are DOWN, DRAINED or reserved|x"),
        Job("19_0", "RUNNING", "", "node1"),
        Job("51", "COMPLETING", "", "node[1-4]"),
    ]
    assert all(job.live for job in parse_queue(text))


@pytest.mark.parametrize(
    ("job", "found"),
    [
        ("57_0", Job("57_0", "FAILED", "NonZeroExitCode", "node1", "3:0")),
        ("57_3", Job("57_3", "PENDING", "JobArrayTaskLimit", "", "0:0")),
        ("57_6", Job("57_6", "PENDING", "JobArrayTaskLimit", "", "0:0")),
        ("57_4", None),
        ("57_57", None),
        ("57_10", None),
        ("57_11", Job("57_11", "PENDING", "JobArrayTaskLimit", "", "0:0")),
        ("59", Job("59", "COMPLETED", "", "node2", "0:0")),
        ("58", None),  # a member's own number is not its id
        ("5", None),
    ],
)
def test_a_job_is_found_among_those_of_its_array(job: str, found: Job | None) -> None:
    assert parse_job(SHOWN, job) == found


@pytest.mark.parametrize(
    ("job", "found"),
    [
        ("57_0", Job("57_0", "FAILED", "FAILED", "node1", "3:0")),
        ("57_3", Job("57_3", "CANCELLED", "CANCELLED by 0", "", "0:0")),
        ("57_4", None),
        ("20", Job("20", "CANCELLED", "CANCELLED by 0", "", "0:0")),
        ("21", Job("21", "OUT_OF_MEMORY", "OUT_OF_MEMORY", "node2", "0:125")),
    ],
)
def test_accounting_remembers_jobs(job: str, found: Job | None) -> None:
    text = (
        "57_0|FAILED|3:0|node1\n57_[1,3,5%1]|CANCELLED by 0|0:0|None assigned\n"
        "20|CANCELLED by 0|0:0|None assigned\n21|OUT_OF_MEMORY|0:125|node2\n"
    )
    assert parse_accounting(text, job) == found


@pytest.mark.parametrize(
    ("name", "there"),
    [("slurmdbd", True), ("accounting_storage/slurmdbd", True), ("(null)", False),
     ("accounting_storage/none", False)],
)  # fmt: skip
def test_accounting_is_known_from_the_configuration(name: str, there: bool) -> None:
    assert slurm.has_store(f"Foo = 1\nAccountingStorageType   = {name}\nBar = none\n") == there
    assert not slurm.has_store("")


# ---- commands that answer in their own way -------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for programs that stand in for SLURM's; there are no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/sbin:/bin-of-nobody")
    slurm.forget()
    yield folder
    slurm.forget()


def stand_in(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_controller_that_is_away_is_no_empty_queue(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "echo 'slurm_load_jobs error: Unable to contact slurm controller (x)' >&2; exit 1"
    for name in ("squeue", "scontrol", "scancel"):
        stand_in(commands, name, away)
    for ask in (slurm.queue, lambda: slurm.ended("3"), lambda: slurm.requeue("3"),
                lambda: slurm.cancel(["3"])):  # fmt: skip
        with pytest.raises(NoAnswer, match=r"Unable to contact slurm controller \(x\)$"):
            ask()
    stand_in(commands, "squeue", "exec /bin/sleep 20")
    monkeypatch.setattr(slurm, "PATIENCE", 0.2)
    with pytest.raises(NoAnswer, match="squeue did not answer within 0 s"):
        slurm.queue()
    (commands / "squeue").unlink()
    with pytest.raises(NoAnswer, match="squeue cannot be started: No such file"):
        slurm.queue()


def test_a_forgotten_job_is_looked_up_in_accounting_where_there_is_one(commands: Path) -> None:
    stand_in(
        commands,
        "scontrol",
        'if [ "$2" = config ]; then echo "AccountingStorageType = $STORE"; exit 0; fi\n'
        "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
    )
    calls = commands / "calls"
    stand_in(commands, "sacct", f"echo x >> {calls}; echo '7_2|TIMEOUT|0:0|node3'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE", "accounting_storage/none")
        assert slurm.ended("7_2") is None
        assert not calls.exists()
        slurm.forget()
        patch.setenv("STORE", "accounting_storage/slurmdbd")
        assert slurm.ended("7_2") == Job("7_2", "TIMEOUT", "TIMEOUT", "node3", "0:0")
        assert slurm.ended("8") is None


def test_no_slurm_here_is_one_line(commands: Path) -> None:
    with pytest.raises(BadInput, match=r"no sbatch here: .* works on a login node .* local runs"):
        facts()
    stand_in(commands, "sbatch", "exit 0")
    stand_in(commands, "scontrol", "echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(BadInput, match=r"SLURM does not answer \(scontrol: Unable to contact"):
        facts()


def test_a_trial_that_cannot_be_made_is_a_note_and_leaves_nothing(
    commands: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    code = Path(__file__).parents[1]
    note = r"what nodes see was not tried \({}\); jobs look when they start"
    assert probe(site(probe=False), results, code) == []
    assert not results.exists()
    with pytest.MonkeyPatch.context() as patch:
        found = probe(site(), results, code)[0]
        assert found == note.format("srun: No such file or directory").replace("\\", "")
        busy = "srun: error: Unable to allocate resources: Requested nodes are busy"
        stand_in(commands, "srun", f"echo '{busy}' >&2; exit 1")
        assert "(Unable to allocate resources: Requested nodes are busy)" in probe(
            site(), results, code
        )[0]  # fmt: skip
        stand_in(commands, "srun", "exec /bin/sleep 30")
        stand_in(commands, "scancel", f'echo "$@" > {commands}/cancelled')
        patch.setattr("benchmark.sitetrial.PATIENCE", 0.2)
        patch.setattr("benchmark.sitetrial.IMMEDIATE", 0)
        assert "srun did not end within 0 s" in probe(site(), results, code)[0]
    assert "--name=prunebench-trial-" in (commands / "cancelled").read_text()
    assert list(results.iterdir()) == []


# ---- facts ---------------------------------------------------------------------------------------

CONFIG = """Configuration data as of 2026-11-21T22:11:58
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = local
MaxArraySize            = 1001
MaxJobCount             = 10000
SchedulerParameters     = sched_interval=2,bf_interval=2
Slurmctld(primary) at vm is UP
"""
PARTITIONS = (
    "PartitionName=gpu AllowGroups=ALL Default=YES QoS=N/A MaxNodes=UNLIMITED MaxTime=2-00:00:00 "
    "Nodes=node[1-2] OverTimeLimit=NONE State=UP TotalCPUs=8\n"
    "PartitionName=old Default=NO MaxTime=UNLIMITED Nodes=node3 State=DRAIN JobDefaults=(null)\n"
)
NODES = (
    "NodeName=node1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 Gres=gpu:a100:4(S:0-1) "
    "OS=Linux 6.1 #1 SMP @0 RealMemory=515000 State=MIXED Partitions=gpu,all BootTime=x\n"
    "NodeName=node2 CPUTot=64 Gres=(null) RealMemory=257000 State=IDLE+DRAIN Partitions=gpu "
    "CfgTRES=cpu=2,mem=4000M Reason=fan State=IDLE x=1 [root@2026-11-21T22:17:17]\n"
)


def test_facts_are_read_from_what_scontrol_shows() -> None:
    found = parse_facts(CONFIG, PARTITIONS, NODES)
    assert found == Facts(
        cluster="local",
        partitions=(Partition("gpu", "UP", 2880, True), Partition("old", "DRAIN", None)),
        nodes=(
            Node("node1", 62, 515000, (("a100", 4),), "MIXED", ("gpu", "all")),
            Node("node2", 64, 257000, (), "IDLE+DRAIN", ("gpu",)),
        ),
        max_array_size=1001,
        max_jobs=10000,
        accounting=True,
    )
    assert [n.available for n in found.nodes] == [True, False]
    assert found.partition("") == found.partition("gpu") == found.partitions[0]
    assert found.partition("nosuch") is None


@pytest.mark.parametrize(
    ("gres", "found"),
    [
        ("(null)", ()),
        ("gpu:2", (("", 2),)),
        ("gpu", (("", 1),)),
        ("gpu:a100:4(S:0-1)", (("a100", 4),)),
        ("gpu:a100:2(IDX:0,1),gpu:v100:1", (("a100", 2), ("v100", 1))),
        ("gpu:1g.5gb:7,nvme:1", (("1g.5gb", 7),)),
        ("gpu:tesla:2,bandwidth:lustre:no_consume:4G", (("tesla", 2),)),
        ("craynetwork:4", ()),
    ],
)
def test_gpus_are_read_in_all_their_forms(gres: str, found: tuple[tuple[str, int], ...]) -> None:
    assert gpus_in(gres) == found


@pytest.mark.parametrize(
    ("state", "available"),
    [
        ("IDLE", True), ("ALLOCATED", True), ("MIXED+CLOUD", True), ("RESERVED", True),
        ("IDLE+CLOUD+POWERED_DOWN", True), ("IDLE+MAINTENANCE", True), ("DOWN", False),
        ("DOWN*+DRAIN", False), ("IDLE+DRAIN", False), ("MIXED+DRAIN", False), ("IDLE*", False),
        ("IDLE+NOT_RESPONDING", False), ("UNKNOWN", False), ("FUTURE", False),
        ("IDLE+FAIL", False),
    ],
)  # fmt: skip
def test_a_node_takes_jobs_or_not(state: str, available: bool) -> None:
    assert Node("n", 1, 1, (), state, ()).available == available


# ---- what a site is refused for ------------------------------------------------------------------

CLUSTER = Facts(
    cluster="made-up",
    partitions=(Partition("gpu", "UP", 120, True), Partition("off", "DOWN", None)),
    nodes=(
        *(Node(f"a{i}", 16, 64000, (("a100", 4),), "IDLE", ("gpu", "off")) for i in range(3)),
        Node("v0", 32, 32000, (("v100", 2),), "MIXED", ("gpu",)),
        Node("a3", 16, 64000, (("a100", 4),), "IDLE+DRAIN", ("gpu",)),
    ),
    max_array_size=1001,
    max_jobs=10000,
    accounting=False,
)


@pytest.mark.parametrize(
    ("keys", "threads", "gpus_per_cell", "match"),
    [
        ({"partition": "x"}, 1, 1, "partition = x: cluster made-up has none of .* has gpu, off"),
        ({"partition": "off"}, 1, 1, "partition off is DOWN: it starts no jobs now"),
        ({"time": "2:01:00"}, 1, 1, "time = 2:01:00: partition gpu ends jobs after 120 minutes"),
        ({"cpus": 4}, 5, 1, "cpus = 4: a cell with --threads 5 needs as many"),
        ({"gpus": 5}, 1, 1, "asks for 5 GPUs on one node, and no node of .* has more than 4"),
        ({"gpus": 3, "gpu_type": "v100"}, 1, 1, "3 GPUs v100 on one node, .* more than 2"),
        ({"gpu_type": "h100"}, 1, 1, "gpu_type = h100: no node .* has such .* has a100, v100"),
        ({"cpus": 33}, 1, 1, "33 CPUs on one node, and no node of partition gpu has more than 32"),
        ({"memory_gb": 63}, 1, 1, "64512 MB of memory on one node, and no node .* than 64000"),
        ({"cpus": 17, "memory_gb": 60}, 1, 1, "1 node with 1 GPUs, 17 CPUs, .* has 0 of them"),
        ({"cpus": 8}, 1, 8, "--gpus-per-cell 8: nodes of partition gpu have 4 GPUs; set"),
        ({"cpus": 8, "gpus_per_node": 4}, 1, 6, "--gpus-per-cell 6: a node holds 4"),
        ({"cpus": 4, "gpus_per_node": 4}, 2, 8, "cpus = 4: 4 processes .* 2 threads each need 8"),
        ({"cpus": 4, "gpus_per_node": 4}, 1, 20, "5 nodes with 4 GPUs, 4 CPUs each; .* has 4 of"),
    ],
)  # fmt: skip
def test_what_would_never_run_is_refused_in_one_line(
    keys: dict[str, object], threads: int, gpus_per_cell: int, match: str
) -> None:
    asked = site(**{"device": "cuda", "time": 60, "partition": "gpu", **keys})
    with pytest.raises(BadInput, match=match) as caught:
        check(asked, CLUSTER, threads, gpus_per_cell)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("keys", "gpus_per_cell"),
    [
        ({}, 1),
        ({"partition": ""}, 1),
        ({"time": 120}, 1),
        ({"gpus": 4, "gpu_type": "a100", "cpus": 16, "memory_gb": 62}, 1),
        ({"cpus": 4}, 4),
        ({"cpus": 4, "gpus_per_node": 4}, 12),
        ({"device": "cpu", "gpus": 0, "cpus": 32}, 1),
        ({"device": "cpu", "gpus": 0, "cpus": 4}, 4),
    ],
)
def test_what_fits_is_let_pass(keys: dict[str, object], gpus_per_cell: int) -> None:
    check(
        site(**{"device": "cuda", "time": 60, "partition": "gpu", **keys}),
        CLUSTER,
        1,
        gpus_per_cell,
    )


def test_arrays_are_as_long_as_site_and_cluster_allow() -> None:
    assert max_array(site(), CLUSTER) == 1001
    assert max_array(site(max_array=50), CLUSTER) == 50
    assert max_array(site(max_array=5000), CLUSTER) == 1001
    none = parse_facts(CONFIG.replace("1001", "1"), PARTITIONS, NODES)
    with pytest.raises(BadInput, match=r"takes no job arrays \(MaxArraySize = 1\)"):
        max_array(site(), none)


def test_a_default_partition_is_needed_where_none_is_named() -> None:
    none = parse_facts(CONFIG, PARTITIONS.replace("YES", "NO"), NODES)
    with pytest.raises(BadInput, match=r"partition is missing: .* no default; name gpu, old"):
        check(site(), none, 1, 1)


def test_a_job_is_put_in_the_words_of_sbatch() -> None:
    keys = {"account": "a", "gpus": 1, "gpus_per_node": 4, "cpus": 8, "memory_gb": 2}
    found = words(site(device="cuda", gpu_type="a100", extra={"nice": 5}, **keys), 8)
    assert found == [
        "--account=a", "--mem=2048M", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=2",
        "--gpus-per-node=a100:4", "--time=10", "--nice=5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sbatch: error: invalid partition\nallocation failure: Invalid partition name specified\n",
         "Invalid partition name specified"),
        ("sbatch: unrecognized option '--x=3'\nTry \"sbatch --help\" for more information\n",
         "unrecognized option '--x=3'"),
        ("", "without a word"),
    ],
)  # fmt: skip
def test_the_last_line_is_what_slurm_means(text: str, said: str) -> None:
    assert last_words(text) == said


def test_a_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    inner = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(
        f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\nnone {inner} tmpfs\n"
    )
    assert file_system(tmp_path / "results", mounts) == "nfs4"
    assert file_system(tmp_path / "a b" / "c", mounts) == "tmpfs"
    assert file_system(Path("/"), mounts) == "ext4"
    assert file_system(Path("/"), tmp_path / "nowhere") == ""
    assert sys.platform != "linux" or file_system(Path("/"), Path("/proc/mounts"))
