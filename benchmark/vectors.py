"""Vector units: with AVX-512 sums are taken in another order than with AVX2, and bits differ.

Runs are held to AVX2, so that processors with and without AVX-512 give the same bits. It is set
before the first kernel runs, for torch and oneDNN read it then, once.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

TORCH, ONEDNN = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"
WIDER, HELD, FULL = "avx512f", "AVX2", "AVX512"
NO_LIMIT = ("", "ALL", "DEFAULT")  # of oneDNN


def hold() -> None:
    """Hold torch and oneDNN to AVX2 in this process and those it starts. Does nothing where the
    processor has no more, where the user set `ATEN_CPU_CAPABILITY` (to `avx512`, say), or where
    something was computed before."""
    if WIDER not in _flags():
        return
    os.environ.setdefault(TORCH, HELD.lower())
    if torch.backends.cpu.get_cpu_capability() == HELD:
        os.environ.setdefault(ONEDNN, HELD)


def in_use() -> str:
    """What torch computes with; where oneDNN's convolutions use something else, that as well."""
    ours = torch.backends.cpu.get_cpu_capability()
    wider = WIDER in _flags()
    theirs = os.environ.get(ONEDNN, "").upper()
    if theirs in NO_LIMIT:
        theirs = FULL
    if not wider or theirs.startswith(ours):
        return ours
    return f"{ours}, oneDNN {theirs}"


def advice(recorded: str) -> str:
    """How this process would compute as hardware of that name did; empty: it does, or it cannot."""
    if WIDER in _flags() and FULL in recorded and FULL not in in_use():
        return f"{TORCH}={FULL.lower()} lets this processor use AVX-512, as it was used there"
    return ""


@cache
def _flags() -> frozenset[str]:
    """What this processor can do; empty where nobody says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((x for x in lines if x.startswith("flags")), "").split())
