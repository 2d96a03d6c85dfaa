"""What a cluster says of itself: partitions, nodes and their GPUs, limits."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from benchmark.errors import BadInput
from benchmark.site import minutes_of
from benchmark.slurm import NoAnswer, ask, fields, has_store

# States of a node in which it takes no jobs; powered down is not one, SLURM wakes it.
_OUT = frozenset({"DOWN", "ERROR", "FAIL", "FAILING", "DRAIN", "DRAINED", "DRAINING", "FUTURE",
                  "UNKNOWN", "NOT_RESPONDING", "INVAL", "INVALID_REG"})  # fmt: skip
_GPU = re.compile(r"gpu(?::(?!\d+$)([^:]+))?(?::(\d+))?")
_ABOUT = (("config",), ("partition", "-o"), ("node", "-o"))


@dataclass(frozen=True)
class Partition:
    name: str
    state: str  # UP; or DOWN, DRAIN, INACTIVE
    minutes: int | None  # longest time limit; None: any
    default: bool = False


@dataclass(frozen=True)
class Node:
    name: str
    cpus: int
    memory_mb: int
    gpus: tuple[tuple[str, int], ...]  # type ("" if it has none) and number
    state: str
    partitions: tuple[str, ...]

    @property
    def available(self) -> bool:
        """Whether it takes jobs, now or when it is free."""
        return not ({*self.state.rstrip("*~#!%$@^-").split("+")} & _OUT) and "*" not in self.state

    def gpus_of(self, kind: str) -> int:
        """GPUs of this type; of any for an empty one."""
        return sum(count for name, count in self.gpus if not kind or name == kind)


@dataclass(frozen=True)
class Facts:
    """What a cluster says of itself."""

    cluster: str
    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]
    max_array_size: int  # members of an array; 0: it takes none
    max_jobs: int  # that the controller keeps, of all users
    accounting: bool

    def partition(self, name: str) -> Partition | None:
        """By name; the cluster's default for an empty one."""
        found = (p for p in self.partitions if (p.name == name if name else p.default))
        return next(found, None)

    def nodes_of(self, partition: str) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if partition in n.partitions)


def facts() -> Facts:
    """Of the cluster that we are on.

    Raises:
        BadInput: there is no SLURM here, or its controller does not answer.
    """
    if shutil.which("sbatch") is None:
        raise BadInput(
            "no sbatch here: --executor slurm works on a login node of the cluster; --executor "
            "local runs here"
        )
    try:
        said = [ask("scontrol", "show", *what) for what in _ABOUT]
    except NoAnswer as error:
        raise BadInput(f"SLURM does not answer ({error}): try again later") from error
    return parse_facts(*said)


def parse_facts(config: str, partitions: str, nodes: str) -> Facts:
    """From the texts of `scontrol show`."""
    pairs = (line.partition("=") for line in config.splitlines())
    said = {name.strip(): value.strip() for name, _, value in pairs}
    return Facts(
        cluster=said.get("ClusterName", ""),
        partitions=tuple(_partition(fields(line)) for line in _lines(partitions, "PartitionName")),
        nodes=tuple(_node(fields(line)) for line in _lines(nodes, "NodeName")),
        max_array_size=_number(said.get("MaxArraySize", "")),
        max_jobs=_number(said.get("MaxJobCount", "")),
        accounting=has_store(config),
    )


def _lines(text: str, first: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"{first}=")]


def _partition(said: dict[str, str]) -> Partition:
    return Partition(
        said["PartitionName"],
        said.get("State", ""),
        minutes_of(said.get("MaxTime", "")),
        said.get("Default") == "YES",
    )


def _node(said: dict[str, str]) -> Node:
    return Node(
        name=said["NodeName"],
        cpus=_number(said.get("CPUEfctv") or said.get("CPUTot", "")),
        memory_mb=_number(said.get("RealMemory", "")),
        gpus=gpus_in(said.get("Gres", "")),
        state=said.get("State", ""),
        partitions=tuple(said.get("Partitions", "").split(",")),
    )


def gpus_in(gres: str) -> tuple[tuple[str, int], ...]:
    """Types and numbers of `gpu:a100:4(S:0-1),gpu:v100:2`; a GPU without number is one."""
    parts = re.sub(r"\([^)]*\)", "", gres).split(",")
    found = (_GPU.fullmatch(part.strip()) for part in parts)
    return tuple((m[1] or "", int(m[2] or 1)) for m in found if m)


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0
