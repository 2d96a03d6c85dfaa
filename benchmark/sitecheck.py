"""Whether a site's file fits its cluster, before anything is submitted: what SLURM would refuse,
and what it would accept and never start. What only a node can tell is in `sitetrial.py`."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable

from benchmark.clusterfacts import Facts, Node, Partition
from benchmark.errors import BadInput
from benchmark.record import one_line
from benchmark.site import Site
from benchmark.slurm import PATIENCE, plain

# A site is asked for from outside, whatever job may hold us; these are a user's own settings.
_MEANT_FOR_ALL = ("SLURM_CONF", "SLURM_ACCOUNT", "SLURM_QOS", "SLURM_PARTITION", "SLURM_CLUSTERS")


# ---- by what the cluster says --------------------------------------------------------------------


def check(site: Site, facts: Facts, threads: int, gpus_per_cell: int) -> None:
    """Raises BadInput if jobs of this site would be refused or would wait for ever."""
    partition = _partition(site, facts)
    if partition.minutes is not None and site.minutes > partition.minutes:
        raise BadInput(
            f"time = {site.time}: partition {partition.name} ends jobs after {partition.minutes} "
            "minutes, and a longer one would never start; lower time"
        )
    site.slots(threads)
    _one_node_is_enough(site, facts, partition, gpus_per_cell)
    count, per_node = site.layout(gpus_per_cell)
    if site.cpus < threads * per_node:
        raise BadInput(
            f"cpus = {site.cpus}: {per_node} processes of a cell on one node with {threads} "
            f"threads each need {threads * per_node}; raise cpus or lower --threads"
        )
    max_array(site, facts)
    _hardware(site, facts, partition, gpus_per_cell, count)


def max_array(site: Site, facts: Facts) -> int:
    """Members that one array may have.

    Raises:
        BadInput: the cluster takes no arrays.
    """
    if facts.max_array_size < 2:
        raise BadInput(
            f"cluster {facts.cluster} takes no job arrays (MaxArraySize = {facts.max_array_size}): "
            "ask its administrators, or use --executor local within a job of your own"
        )
    return min(site.max_array or facts.max_array_size, facts.max_array_size)


def _partition(site: Site, facts: Facts) -> Partition:
    found = facts.partition(site.partition)
    there = ", ".join(p.name for p in facts.partitions)
    if found is None and site.partition:
        raise BadInput(
            f"partition = {site.partition}: cluster {facts.cluster} has none of that name; it has "
            f"{there}"
        )
    if found is None:
        raise BadInput(
            f"partition is missing: cluster {facts.cluster} has no default; name {there}"
        )
    if found.state not in ("UP", ""):
        raise BadInput(
            f"partition {found.name} is {found.state}: it starts no jobs now; wait for it or name "
            f"another of {there}"
        )
    return found


def _one_node_is_enough(site: Site, facts: Facts, partition: Partition, processes: int) -> None:
    """A site that does not say what a node holds asks for all GPUs of a cell on one."""
    most = max((n.gpus_of(site.gpu_type) for n in facts.nodes_of(partition.name)), default=0)
    if site.gpus and not site.gpus_per_node and processes > most > 0:
        raise BadInput(
            f"--gpus-per-cell {processes}: nodes of partition {partition.name} have {most} GPUs; "
            f"set gpus_per_node = {most} in the site file, and such cells take several nodes"
        )


def _hardware(
    site: Site, facts: Facts, partition: Partition, gpus_per_cell: int, count: int
) -> None:
    """Nodes that have all of it, by themselves and together."""
    nodes, gpus = facts.nodes_of(partition.name), site.gpus_on_node(gpus_per_cell)
    kind, place = site.gpu_type, f"partition {partition.name}"
    if gpus and kind and not any(n.gpus_of(kind) for n in nodes):
        kinds = sorted({name for n in nodes for name, _ in n.gpus if name})
        raise BadInput(
            f"gpu_type = {kind}: no node of {place} has such GPUs; it has "
            f"{', '.join(kinds) or 'GPUs without a type: leave gpu_type out'}"
        )
    memory = round(1024 * site.memory_gb)
    needs: list[tuple[str, int, Callable[[Node], int]]] = [
        (f"{gpus} GPUs {kind}".strip(), gpus, lambda n: n.gpus_of(kind)),
        (f"{site.cpus} CPUs", site.cpus, lambda n: n.cpus),
        (f"{memory} MB of memory", memory, lambda n: n.memory_mb),
    ]
    for what, least, has in needs:
        most = max(map(has, nodes), default=0)
        if least > most:
            raise BadInput(
                f"a job of this site asks for {what} on one node, and no node of {place} has more "
                f"than {most}"
            )
    fit = [n for n in nodes if all(has(n) >= least for _, least, has in needs)]
    asked = " with ".join(
        [f"{count} node{'s' * (count > 1)}", ", ".join(w for w, n, _ in needs if n)]
    )
    if len(fit) < count:
        raise BadInput(f"a job of this site asks for {asked} each; {place} has {len(fit)} of them")


# ---- by a rehearsal ------------------------------------------------------------------------------


def words(site: Site, gpus_per_cell: int = 1) -> list[str]:
    """A job of this site on the command line of sbatch."""
    nodes, per_node = site.layout(gpus_per_cell)
    options = {
        "partition": site.partition, "account": site.account, "qos": site.qos,
        "constraint": site.constraint, "exclude": site.exclude, "mem": site.memory,
        "nodes": str(nodes), "ntasks-per-node": str(per_node),
        "cpus-per-task": str(site.cpus_per_process(gpus_per_cell)),
        "gpus-per-node": site.gpu_request(gpus_per_cell), "time": str(site.minutes),
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in (options | site.extra).items() if value]


def rehearse(site: Site, gpus_per_cell: int = 1) -> None:
    """Let sbatch judge a job of this site; nothing is submitted.

    Raises:
        BadInput: it would be refused, or never start; in SLURM's words.
    """
    asked = words(site, gpus_per_cell)
    try:
        done = subprocess.run(
            ["sbatch", "--test-only", *asked], input="#!/bin/sh\ntrue\n", capture_output=True,
            text=True, errors="replace", timeout=PATIENCE, env=from_outside(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"sbatch does not answer: {one_line(error)}") from error
    if done.returncode and "busy" not in done.stderr:
        raise BadInput(f"sbatch refuses {shlex.join(asked)}: {last_words(done.stderr)}")


def last_words(text: str) -> str:
    """The last line, without what every line of SLURM begins with."""
    lines = [line for line in text.splitlines() if line.strip() and "--help" not in line]
    line = one_line(lines[-1]) if lines else "without a word"
    for prefix in ("sbatch: ", "srun: ", "error: ", "allocation failure: "):
        line = line.removeprefix(prefix)
    return line


def from_outside() -> dict[str, str]:
    """The environment without the job that may hold us."""
    return {k: v for k, v in plain().items() if not k.startswith("SLURM_") or k in _MEANT_FOR_ALL}
