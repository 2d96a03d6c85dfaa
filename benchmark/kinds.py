"""Lanes: results of different kinds never stand in one table (docs/lanes.md).

A spec says the kind by its field `result`. Tables are told apart by the text in their column
`scope`, which is that of the command line for everything that makes a network smaller.
"""

from __future__ import annotations

from benchmark.spec import RunSpec
from methods.api import Result

LANES: dict[Result, str] = {"channels": "", "kernels": "kernel sparsity", "dynamic": "dynamic"}
TITLES = {
    LANES["kernels"]: "Kernel sparsity (single kernels are zero, no network is smaller)",
    LANES["dynamic"]: "Dynamic (channels are chosen for every image, no network is smaller)",
}
NOTES = {
    LANES["kernels"]:
        "FLOPs removed: multiply-accumulates of kernels that are zero. Dense hardware computes "
        "them all the same; nothing here may be compared with rows of smaller networks but "
        "accuracy against multiply-accumulates.",
    LANES["dynamic"]:
        "FLOPs removed: the mean over all test images, gates included. All parameters are stored, "
        "those of the gates too; nothing here may be compared with rows of smaller networks but "
        "accuracy against mean multiply-accumulates.",
}  # fmt: skip


def scope_text(spec: RunSpec) -> str:
    """`inner`, or `inner, kernel sparsity`."""
    lane = LANES[spec.result]
    return f"{spec.scope}, {lane}" if lane else spec.scope


def lane_of(scope: str) -> str:
    """Of a row by that text; empty: its network is smaller."""
    return scope.partition(", ")[2]
