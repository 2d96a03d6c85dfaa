"""A real SLURM on one machine, for tests: `python slurm/local/cluster.py up` and `down`.

Debian's packages (slurmctld slurmd slurm-client munge, with accounting also slurmdbd and
mariadb-server), as root. Each node is a slurmd of its own with a port of its own. The GPUs are
character devices: scheduling and CUDA_VISIBLE_DEVICES are real, nothing computes on them. Nodes see
all files of this machine but those in <folder>/unshared, as where a file system is not shared.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
ACCOUNTING = ("slurmdbd", "mariadb-server")
PATIENCE = 30.0  # seconds for each daemon to answer

CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits this long before it starts again (default 120 s)
AuthInfo=cred_expire=5
StateSaveLocation={folder}/ctld
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmctldPort=6817
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
KillWait=5
MinJobAge=300
JobRequeue=1
InactiveLimit=0
JobAcctGatherType=jobacct_gather/none
{accounting}
# jobs of `low` are requeued when `high` needs their node; the job's own signal comes at once
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20 \\
  PreemptMode=requeue
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=20 PreemptMode=off
"""
WITH_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=6819
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment"""
WITHOUT_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
DBD = """\
AuthType=auth/munge
DbdHost=localhost
DbdPort=6819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""


@dataclass(frozen=True)
class Cluster:
    """What runs where."""

    folder: Path
    nodes: int = 4
    cpus: int = 2
    gpus: int = 2
    accounting: bool = True

    @property
    def names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]


class NotUp(Exception):
    """A daemon did not answer, or a program is missing; the text says which."""


# ---- up ------------------------------------------------------------------------------------------


def up(cluster: Cluster) -> None:
    """Start everything and wait until all nodes are idle."""
    missing = [name for name in _programs(cluster) if shutil.which(name) is None]
    if missing:
        packages = PACKAGES + (ACCOUNTING if cluster.accounting else ())
        raise NotUp(f"{missing[0]} is missing: apt-get install {' '.join(packages)}")
    (cluster.folder / "ctld").mkdir(parents=True, exist_ok=True)
    _munge()
    if cluster.accounting:
        _database(cluster)
    _configure(cluster)
    if cluster.accounting:
        _start(cluster, "slurmdbd")
        _wait("slurmdbd", lambda: _works("sacctmgr", "-n", "list", "cluster"))
        if not _said("sacctmgr", "-nP", "list", "cluster", "where", "cluster=local"):
            _run("sacctmgr", "-i", "add", "cluster", "local")
    _start(cluster, "slurmctld")
    _wait("slurmctld", lambda: "UP" in _said("scontrol", "ping"))
    for name in cluster.names:
        _start(cluster, name, *_apart(cluster), "slurmd", "-N", name)
    _wait("slurmd", lambda: _idle() == cluster.nodes)


def _start(cluster: Cluster, name: str, *words: str) -> None:
    """Start a daemon unless it lives: `up` twice is `up` once."""
    pid = _pid(cluster.folder / f"{name}.pid")
    if not pid or not Path(f"/proc/{pid}").exists():
        _run(*(words or (name,)))


def _apart(cluster: Cluster) -> list[str]:
    """Words that hide the unshared folder from a command; none where we may not mount."""
    hidden = cluster.folder / "unshared"
    hidden.mkdir(exist_ok=True)
    script = f"mount -t tmpfs -o size=1m none '{hidden}' && exec \"$@\""
    words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "apart"]
    return words if _works(*words, "true") else []


def _programs(cluster: Cluster) -> list[str]:
    found = ["munged", "slurmctld", "slurmd", "sinfo"]
    return found + (["slurmdbd", "mariadbd"] if cluster.accounting else [])


def _munge() -> None:
    if _works("munge", "-n"):
        return
    key, run = Path("/etc/munge/munge.key"), Path("/run/munge")
    if not key.is_file() or not key.stat().st_size:
        key.write_bytes(secrets.token_bytes(1024))
    run.mkdir(exist_ok=True)
    for path in (key, run):
        shutil.chown(path, "munge", "munge")
    key.chmod(0o400)
    run.chmod(0o755)
    _run("setpriv", "--reuid=munge", "--regid=munge", "--init-groups", "munged")
    _wait("munged", lambda: _works("munge", "-n"))


def _database(cluster: Cluster) -> None:
    """MariaDB on its socket alone; root is known by its socket, there is no password."""
    if not _works("mariadb-admin", "ping"):
        run = Path("/run/mysqld")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "mysql", "mysql")
        if not Path("/var/lib/mysql/mysql").is_dir():
            _run("mariadb-install-db", "--user=mysql", "--datadir=/var/lib/mysql")
        with (cluster.folder / "mariadbd.log").open("ab") as log:
            subprocess.Popen(
                ["mariadbd", "--user=mysql", "--skip-networking", f"--pid-file={run}/local.pid",
                 "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        _wait("mariadbd", lambda: _works("mariadb-admin", "ping"))
    _run("mariadb", "-e", "create database if not exists slurm_acct_db")


def _configure(cluster: Cluster) -> None:
    etc, host = Path("/etc/slurm"), socket.gethostname().partition(".")[0]
    etc.mkdir(exist_ok=True)
    nodes, gres = [], []
    for number, name in enumerate(cluster.names, 1):
        (cluster.folder / name).mkdir(exist_ok=True)
        has = f" Gres=gpu:{cluster.gpus}" if cluster.gpus else ""
        nodes.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={17000 + number} "
            f"CPUs={cluster.cpus} RealMemory=4000{has} State=UNKNOWN"
        )
        gres += [f"NodeName={name} Name=gpu File={path}" for path in _devices(cluster)]
    (etc / "gres.conf").write_text("\n".join(gres) + "\n")
    accounting = WITH_ACCOUNTING if cluster.accounting else WITHOUT_ACCOUNTING
    (etc / "slurm.conf").write_text(
        CONF.format(host=host, folder=cluster.folder, nodes="\n".join(nodes), accounting=accounting)
    )
    dbd = etc / "slurmdbd.conf"
    dbd.touch(mode=0o600)
    dbd.chmod(0o600)
    dbd.write_text(DBD.format(folder=cluster.folder))


def _devices(cluster: Cluster) -> list[Path]:
    """Character devices like /dev/null: GPUs that can be counted out and compute nothing."""
    folder = cluster.folder / "gpu"
    folder.mkdir(exist_ok=True)
    found = [folder / f"nvidia{number}" for number in range(cluster.gpus)]
    for path in found:
        if not path.exists():
            os.mknod(path, 0o20666, os.makedev(1, 3))
    return found


# ---- down ----------------------------------------------------------------------------------------


def down(cluster: Cluster) -> None:
    """End what `up` started, by pid: jobs, nodes, controller, accounting, database."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scancel", "-u", "root"], capture_output=True, timeout=5)
    nodes = [cluster.folder / f"{name}.pid" for name in cluster.names]
    daemons = [cluster.folder / f"{name}.pid" for name in ("slurmctld", "slurmdbd")]
    for pids in (nodes, *([path] for path in daemons), [Path("/run/mysqld/local.pid")]):
        _end([pid for pid in map(_pid, pids) if pid])


def _pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _wait("the end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


# ---- plumbing ------------------------------------------------------------------------------------


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NotUp(f"{' '.join(words)}: {' '.join((done.stderr or done.stdout).split())}")


def _works(*words: str) -> bool:
    return subprocess.run(words, capture_output=True).returncode == 0


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True).stdout


def _idle() -> int:
    return len(_said("sinfo", "-hN", "-p", "main", "-t", "idle", "-o", "%N").split())


def _wait(what: str, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > until:
            raise NotUp(f"{what}: no answer in {PATIENCE:.0f} s")
        time.sleep(0.2)


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--folder", type=Path, default=Path("/var/lib/slurm-local"))
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--no-accounting", action="store_true", help="as small clusters have it")
    asked = parser.parse_args()
    cluster = Cluster(asked.folder, asked.nodes, accounting=not asked.no_accounting)
    try:
        (up if asked.what == "up" else down)(cluster)
    except NotUp as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
