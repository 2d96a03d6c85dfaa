"""How a run and its figures are called in lines for people."""

from __future__ import annotations

from benchmark.record import RunRecord
from benchmark.spec import RunSpec
from benchmark.tuning import shown


def run_name(spec: RunSpec) -> str:
    """`whitebox at 50 % seed 0`; of a trial also the values it tries."""
    cut = spec.flops_reduction
    target = f" at {100 * cut:g} %" if cut else ""
    lane = {"default": "", "tuned": " tuned", "trial": f" {shown(spec.tuned_values)}"}[spec.lane]
    return f"{spec.name}{target}{lane} seed {spec.seeds.run}"


def top1(spec: RunSpec, share: float) -> str:
    """`97.22 % test top-1`; a trial has validation images in the place of the test split."""
    return f"{100 * share:.2f} % {'validation' if spec.is_trial else 'test'} top-1"


def figure(record: RunRecord) -> str:
    """`97.22 % test top-1 with 50.1 % of the FLOPs removed`"""
    cut = f" with {100 * record.flops_reduction:.1f} % of the FLOPs removed"
    found = top1(record.spec, record.final.test_top1)
    return found + (cut if record.flops_reduction else "")
