"""Milliseconds of a dense and a pruned network, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def latency(dense: nn.Module, pruned: nn.Module, example: Tensor) -> dict[str, Any]:
    """Milliseconds per batch of 1 and 128, both networks in turn in one process: median and
    quartiles, and the median of the pairwise ratios."""
    return {
        f"batch_{size}": _interleaved(dense, pruned, example.expand(size, -1, -1, -1), rounds)
        for size, rounds in ((1, 31), (128, 7))
    }


@torch.no_grad()
def _interleaved(
    dense: nn.Module, pruned: nn.Module, batch: Tensor, rounds: int
) -> dict[str, float]:
    batch = batch.contiguous(memory_format=torch.channels_last)
    dense.eval(), pruned.eval()  # type: ignore[unused-ignore]
    times: dict[str, list[float]] = {"dense": [], "pruned": []}
    for turn in range(rounds + 2):
        for name, model in (("dense", dense), ("pruned", pruned)):
            elapsed = milliseconds(model, batch)
            if turn >= 2:  # the first two warm up
                times[name].append(elapsed)
    ratios = [a / b for a, b in zip(times["dense"], times["pruned"], strict=True)]
    found: dict[str, float] = {"speedup": statistics.median(ratios)}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found |= {f"{name}_ms": middle, f"{name}_q1_ms": low, f"{name}_q3_ms": high}
    return {k: round(v, 4) for k, v in found.items()}


def milliseconds(model: Callable[[Tensor], Any], batch: Tensor) -> float:
    """Of one forward pass: by the device's own clock on a GPU, else by the wall."""
    if batch.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        model(batch)
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))
    started = time.perf_counter()
    model(batch)
    return 1e3 * (time.perf_counter() - started)
