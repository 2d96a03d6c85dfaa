"""Kept widths against the multiples that kernels are written for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.network import Network

MULTIPLES = (4, 8, 16, 32)


def alignment(net: Network, widths: Mapping[str, int]) -> dict[str, Any]:
    """Of the groups in scope of the dense network `net`, with the kept widths of a run: for each
    multiple, how many groups are one, and the share of MACs that is added when every width is
    rounded up to the next one (never above the dense width, which counts as it is)."""
    full = {group.name: group.width for group in net.groups}
    kept = {name: widths.get(name, width) for name, width in full.items()}
    macs = net.macs(kept)
    found: dict[str, Any] = {"groups": len(full), "multiples": {}}
    for multiple in MULTIPLES:
        rounded = {n: min(full[n], -(-width // multiple) * multiple) for n, width in kept.items()}
        found["multiples"][str(multiple)] = {
            "groups": sum(width % multiple == 0 for width in kept.values()),
            "added_macs": round(net.macs(rounded) / macs - 1, 5),
        }
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """For the terminal."""
    total = found["groups"]
    return [
        f"widths       multiples of {multiple}: {each['groups']} of {total} groups; rounding up "
        f"would add {100 * each['added_macs']:.1f} % MACs"
        for multiple, each in found["multiples"].items()
    ]
