"""Interleaved timing: what is compared takes turns; a busy machine then slows all sides alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmark.images import BatchSource, DataIdentity, Images
from benchmark.ledger import Ledger
from benchmark.spec import Recipe
from benchmark.trainer import Trainer

CLASSES, SIZE = 10, 32
Work = Callable[[], object]


def seconds(work: Work) -> float:
    """CPU seconds of one thread, which other processes do not add to; wall seconds on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    work()
    return time.process_time() - start


class Turns:
    """Each call times every piece of work once, beginning with another one than the last call."""

    def __init__(self, **works: Work) -> None:
        self.works = works
        self.taken: dict[str, list[float]] = {name: [] for name in works}

    def __call__(self) -> None:
        names, first = list(self.works), len(next(iter(self.taken.values()))) % len(self.works)
        for name in names[first:] + names[:first]:
            self.taken[name].append(seconds(self.works[name]))

    def ratio(self, above: str, below: str) -> dict[str, float]:
        """Median of the ratios turn by turn, with its 95 % bootstrap interval."""
        ratios = np.divide(self.taken[above], self.taken[below])
        drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}

    def milliseconds(self) -> dict[str, float]:
        """Median of each piece of work."""
        return {name: 1e3 * float(np.median(taken)) for name, taken in self.taken.items()}


def images(count: int) -> Images:
    """Smooth random images, so that convolutions see something like a picture."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=draw)
    smooth: Tensor = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic")
    noise = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=draw)
    pixels = (128 + 50 * (smooth + noise)).clamp(0, 255).to(torch.uint8)
    return Images(pixels, torch.arange(count) % CLASSES, torch.arange(count))


def trainer(count: int) -> Trainer:
    """A trainer on `count` images with a budget that never ends."""
    flat = (0.5, 0.5, 0.5)
    identity = DataIdentity(
        name="random", content_hash="0", image_size=SIZE, num_classes=CLASSES, mean=flat, std=flat,
        pad=4, flip=True, split_hash="none",
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = BatchSource(images(count), identity, device)
    recipe = Recipe(epochs=1, lr=0.01, batch_size=count)
    ledger = Ledger(10**9, count)
    return Trainer(source, source, CLASSES, recipe, 0, "0", ledger, device=device)
