"""Processors with and without AVX-512 compute the same (DECISIONS F)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark import cli, environment, vectors
from benchmark.cli import DONE

TRAINS = """
import json, torch
from benchmark import archs, environment, vectors
from benchmark.context import set_threads_and_determinism
from benchmark.encoding import weights_digest
set_threads_and_determinism(1)
torch.manual_seed(0)
model = archs.build("resnet8", 10)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    x, y = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(json.dumps([environment.hardware_kind(), weights_digest(model.state_dict())]))
"""


def trained(**settings: str) -> list[str]:
    """Hardware kind, and digest of weights after three steps, in a process with these variables."""
    kept = {k: v for k, v in os.environ.items() if k not in (vectors.TORCH, vectors.ONEDNN)}
    done = subprocess.run(
        [sys.executable, "-c", TRAINS], env=kept | settings, capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout)
    return found


def has_avx512() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and " avx512f " in cpuinfo.read_text().replace("\n", " \n")


@pytest.mark.skipif(not has_avx512(), reason="a processor without AVX-512 has nothing to hold back")
def test_who_calls_from_python_is_held_too_and_one_variable_lifts_it() -> None:
    """And the bits are those of a processor that was told what to use from outside."""
    held = trained()
    outside = trained(**{vectors.TORCH: "avx2", vectors.ONEDNN: "AVX2"})
    lifted = trained(**{vectors.TORCH: "avx512"})
    assert held == outside
    assert held[0].endswith("(AVX2)")
    assert lifted[0].endswith("(AVX512)")
    assert lifted[1] != held[1]


def test_tests_and_commands_use_what_every_processor_has() -> None:
    assert "AVX512" not in environment.hardware_kind()


@pytest.mark.parametrize(
    ("flags", "torch_has", "variable", "said"),
    [
        ({"avx2"}, "AVX2", None, "AVX2"),
        ({"avx2", "avx512f"}, "AVX512", None, "AVX512"),
        ({"avx2", "avx512f"}, "AVX512", "AVX512_CORE_VNNI", "AVX512"),
        ({"avx2", "avx512f"}, "AVX2", "AVX2", "AVX2"),
        ({"avx2", "avx512f"}, "AVX2", None, "AVX2, oneDNN AVX512"),
        ({"avx2", "avx512f"}, "AVX2", "default", "AVX2, oneDNN AVX512"),
        ({"avx2", "avx512f"}, "AVX512", "AVX2", "AVX512, oneDNN AVX2"),
        (set(), "NEON", None, "NEON"),
    ],
)
def test_what_is_in_use_is_named(
    flags: set[str],
    torch_has: str,
    variable: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vectors, "_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_has)
    if variable is None:
        monkeypatch.delenv(vectors.ONEDNN, raising=False)
    else:
        monkeypatch.setenv(vectors.ONEDNN, variable)
    assert vectors.in_use() == said


@pytest.mark.parametrize("same_bits", [True, False])
def test_commands_are_held_unless_they_measure_speed(
    same_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[bool]()
    monkeypatch.setattr(vectors, "hold", lambda: held.append(True))
    monkeypatch.setattr(sys, "argv", ["command"])

    def command() -> int:
        return DONE

    with pytest.raises(SystemExit, match="0"):
        cli.run_app(command, same_bits)
    assert held == [True] * same_bits


@pytest.mark.parametrize(
    ("flags", "torch_has", "recorded", "advised"),
    [
        ({"avx512f"}, "AVX2", "AMD EPYC (AVX512)", True),
        ({"avx512f"}, "AVX512", "AMD EPYC (AVX512)", False),  # it does already
        ({"avx2"}, "AVX2", "AMD EPYC (AVX512)", False),  # it cannot
        ({"avx512f"}, "AVX2", "AMD EPYC (AVX2)", False),
        ({"avx512f"}, "AVX2", "None", False),
    ],
)
def test_how_to_compute_as_another_machine_did_is_said_where_it_is_possible(
    flags: set[str],
    torch_has: str,
    recorded: str,
    advised: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vectors, "_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_has)
    monkeypatch.delenv(vectors.ONEDNN, raising=False)
    if torch_has == "AVX2":
        monkeypatch.setenv(vectors.ONEDNN, "AVX2")
    assert bool(vectors.advice(recorded)) == advised


@pytest.mark.parametrize("computed_before", [False, True])
def test_what_computed_before_is_not_held_by_halves(
    computed_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch has decided then; oneDNN would go on alone with other vector units."""
    monkeypatch.setattr(vectors, "_flags", lambda: frozenset({"avx512f"}))
    monkeypatch.delenv(vectors.TORCH, raising=False)
    monkeypatch.delenv(vectors.ONEDNN, raising=False)
    decided = "AVX512" if computed_before else "AVX2"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: decided)
    vectors.hold()
    assert (os.environ.get(vectors.ONEDNN) is None) == computed_before
