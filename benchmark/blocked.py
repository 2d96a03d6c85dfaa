"""Cells of a grid that cannot be: not applicable, or not run here, and why."""

from __future__ import annotations

from benchmark.options import Options
from benchmark.select import LISTS_ARE_NOT_ROUNDED
from benchmark.spec import LAYERWISE, RunSpec
from methods import Entry
from methods import build as build_method


def why_blocked(options: Options, entry: Entry, spec: RunSpec) -> tuple[str, str]:
    """The reason, and `n/a` or `not run`; empty and `planned`: it can run."""
    legal = entry.cls.allocations
    if options.track not in entry.tracks:
        return f"{entry.label} belongs to the tracks {', '.join(entry.tracks)}", "n/a"
    if options.track == "total" and options.kind_of_device() != "cuda":
        return "the total track needs a GPU: a shortened imitation would mislead", "not run"
    if spec.allocation not in (*legal, "listed"):
        return f"{entry.label} supports the allocation {' or '.join(legal)} only", "n/a"
    if spec.round_to > 1 and spec.result != "channels":
        return f"--round-to: {entry.label} makes no width smaller; leave it at 1", "n/a"
    if spec.round_to > 1 and spec.allocation == "listed":
        return LISTS_ARE_NOT_ROUNDED, "n/a"
    method = build_method(entry, spec.method.params)
    if options.track != "paper" and not method.targets_macs:
        return f"{entry.label}: with these parameters the FLOPs target sets no width", "n/a"
    if spec.round_to > 1 and not method.rounds:
        return f"--round-to: {entry.label} searches its widths itself; leave it at 1", "n/a"
    if reason := _not_in_rounds(entry, spec):
        return f"--schedule {spec.schedule}: {reason}", "n/a"
    if spec.start.kind == "random" and options.checkpoint and options.track == "common":
        return "how long the checkpoint was trained is not known, so neither is the budget", "n/a"
    return "", "planned"


def why_not_anew(entry: Entry, spec: RunSpec) -> tuple[str, str]:
    """The same of the network that the run chooses, with new weights."""
    if spec.result != "channels":
        return (
            f"--weights: {entry.label} makes no smaller network that could be trained anew",
            "n/a",
        )
    if spec.allocation == "none" or not entry.cls.trained_start:
        return f"--weights: {entry.label} chooses no channels of a trained network", "n/a"
    return "", "planned"


def _not_in_rounds(entry: Entry, spec: RunSpec) -> str:
    """Why the run cannot prune in rounds; empty: it can, or need not."""
    if not spec.in_rounds:
        return ""
    if spec.result != "channels":
        return f"{entry.label} makes no network smaller, so rounds have nothing to start from"
    if entry.cls.imported:
        return f"{entry.label}: a file speaks of the dense network, and each round chooses anew"
    if spec.schedule == LAYERWISE and spec.allocation == "global":
        return "widths must be known before the first layer is pruned: use --allocation uniform"
    if spec.schedule == LAYERWISE and entry.cls.shares:
        return f"{entry.label} trains before it chooses, which no budget pays for every layer"
    return ""
