"""How fast this machine is: steps of the suite's own training loop, a large copy, a large product.

Times are seconds, by the device's own clock on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.images import DataIdentity, Images
from benchmark.latency import milliseconds
from benchmark.ledger import Ledger
from benchmark.spec import Precision, Recipe
from benchmark.trainer import Trainer

WARM_UP = 5  # steps that are not timed; the first of them compiles, where that is asked for
ROUNDS = 7  # copies and products that are timed, after one that is not
# Far beyond any cache, and enough work that starting it does not count.
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes
SIDE = {"cpu": 2048, "cuda": 8192}  # of square matrices
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """How a training step is made. Images are (3, image_size, image_size)."""

    precision: Precision
    compiled: bool
    batch_size: int
    steps: int  # timed ones
    image_size: int
    classes: int
    device: torch.device


class Clock:
    """Called after every step; says afterwards how long each took. A GPU is not waited for in
    between, so that it works as it does in a run."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._moments: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def __call__(self, phase: str, done: int, total: int) -> None:
        """As `trainer.Progress`."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._moments.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From each call to the next."""
        if self._on_gpu:
            torch.cuda.synchronize()
            pairs = zip(self._events, self._events[1:], strict=False)
            return [float(before.elapsed_time(after)) / 1e3 for before, after in pairs]
        return [b - a for a, b in zip(self._moments, self._moments[1:], strict=False)]


def step_times(model: nn.Module, setting: Setting) -> list[float]:
    """Of each timed step of the suite's training loop on random images in the device's memory.
    Trains the model."""
    clock = Clock(setting.device)
    trainer, recipe = random_trainer(setting, clock)
    trainer.run_phase(model.to(setting.device), recipe, "timing", charged=False)
    return clock.seconds()[-setting.steps :]


def random_trainer(
    setting: Setting, progress: Callable[[str, int, int], None]
) -> tuple[Trainer, Recipe]:
    """A trainer without files, and one epoch of full batches: warm-up, then the timed steps."""
    images, side = (WARM_UP + setting.steps) * setting.batch_size, setting.image_size
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, side, side), generator=draw, dtype=torch.uint8)
    labels = torch.randint(setting.classes, (images,), generator=draw)
    identity = DataIdentity(
        name="random", content_hash="none", image_size=side, num_classes=setting.classes,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), pad=4, flip=True, split_hash="none",
    )  # fmt: skip
    source = Images(pixels, labels, torch.arange(images)).source(identity, setting.device)
    # So low a rate cannot diverge on random labels, and the rate does not change the time.
    recipe = Recipe(epochs=1.0, lr=1e-4, batch_size=setting.batch_size)
    trainer = Trainer(
        train=source,
        val=source,
        num_classes=setting.classes,
        recipe=recipe,
        seed=0,
        data_hash=identity.content_hash,
        ledger=Ledger(0, images),
        precision=setting.precision,
        device=setting.device,
        progress=progress,
        compiled=setting.compiled,
    )
    return trainer, recipe


# ---- what the machine can do ---------------------------------------------------------------------


def copy_speed(device: torch.device) -> float:
    """Bytes per second of a large copy; what is read and what is written both count."""
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median(target.copy_, source)


def matmul_speed(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second of a large matrix product; a multiply-accumulate is
    two."""
    side = SIDE[device.type]
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(side, side, generator=draw).to(device, DTYPES[precision])
    return 2 * side**3 / _median(lambda x: x @ x, matrix)


def _median(work: Callable[[Tensor], object], x: Tensor) -> float:
    return statistics.median([milliseconds(work, x) for _ in range(1 + ROUNDS)][1:]) / 1e3
