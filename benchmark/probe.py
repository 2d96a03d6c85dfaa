"""What work costs in seconds, with a range: told by an earlier run, or measured by a probe."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import baseline, flops
from benchmark.context import as_in_a_run
from benchmark.data import Data
from benchmark.errors import NoProbe
from benchmark.ledger import FORWARD_SHARE, TRAIN_STEP, is_recovery
from benchmark.network import Network
from benchmark.progress import duration
from benchmark.record import RunRecord
from benchmark.schedule import make_optimizer
from benchmark.scratch import longer
from benchmark.sources import seconds_per_image
from benchmark.spec import RunSpec
from benchmark.trainer import MOST_RECALIBRATION
from methods.api import Budget, Plan, Unsupported

CUT = 0.5  # share of MACs that the pruned network of a probe has lost
ROUNDS, LONGEST = 3, 0.1  # the median counts; seconds of a round, to which images are limited
WARM_UP = 8  # images of the first pass, which is not timed but tells how many to take
LATENCY = {1: 33, 128: 9}  # passes per batch size and network of `latency.latency`
ENOUGH = 3  # records whose spread says how much it varies; of fewer a wider range is given

# A training step of the dense or of a pruned network, a pass in eval mode, or tracing and counting.
Kind = Literal["train", "cut", "read", "setup"]


@dataclass(frozen=True)
class Seconds:
    """An estimate: the likely value within a range."""

    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0

    @classmethod
    def exactly(cls, value: float) -> Seconds:
        return cls(value, value, value)

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(self.low * factor, self.middle * factor, self.high * factor)

    def within(self, other: Seconds) -> Seconds:
        """Scaled by factors that are themselves a range."""
        return Seconds(self.low * other.low, self.middle * other.middle, self.high * other.high)

    def __str__(self) -> str:
        low, high = duration(self.low), duration(self.high)
        if low.split()[1] == high.split()[1]:
            low = low.split()[0]
        return f"{duration(self.middle)} ({low}-{high})"


def among(values: Sequence[Seconds]) -> Seconds:
    """What several earlier runs say: from the lowest to the highest and somewhat beyond."""
    lows, middles, highs = zip(*((v.low, v.middle, v.high) for v in values))
    seen = Seconds(min(lows), statistics.median(middles), max(highs))
    return seen.within(OF_MANY if len(values) >= ENOUGH else OF_FEW)


# Actual over predicted time of about 200 cells: ResNet-8 and -20, digits and 32 x 32 images, seven
# methods, two cores, one and two jobs. From a probe (idle seconds times how busy the machine was):
# 0.8-1.3 idle, 1.0-2.3 for a method that decides everything, 0.6-1.8 beside other work, 2.4 where
# that grew. From records: 0.8-1.3 to another seed, 0.6-1.3 to another target, 0.8-1.6 to six times
# the epochs, 0.9-1.4 from other methods, 1.0-1.8 from another architecture; 0.3-3.3 where other
# work came or went in between, which no range here covers.
PROBED = Seconds(0.7, 1.1, 2.0)  # from a probe to a run
OF_FEW = Seconds(0.7, 1.0, 1.5)  # from one or two earlier runs to the next
OF_MANY = Seconds(0.85, 1.0, 1.2)  # beyond the range of more of them


@dataclass(frozen=True)
class Work:
    """What a run does, in images."""

    kept: float  # share of the MACs that recovery trains
    allowed: int  # the budget
    forward: int  # of it, for a phase without gradients
    aside: float  # passed without training: recalibration, validation, the check of the choice

    @classmethod
    def of(cls, spec: RunSpec, data: Data, optimistic: bool, choices: int) -> Work:
        """`choices`: networks that the check of the choice judges."""
        epoch, cut = len(data.train), spec.flops_reduction * (spec.result == "channels")
        factor = longer(spec, 1 / (1 - cut))
        allowed = round(spec.own_epochs * factor * epoch)
        forward = int(FORWARD_SHARE * allowed)
        calibrated = min(epoch, forward, MOST_RECALIBRATION)
        read = spec.training.epochs * factor * (len(data.val) + optimistic * len(data.test))
        judged = choices * (calibrated + len(data.val))
        return cls(1 - cut, allowed, forward, calibrated + read + judged)


@dataclass(frozen=True)
class Past:
    """An earlier run taken apart."""

    record: RunRecord
    paid: bool  # it made its scores, rather than finding them made
    work: Work
    pace: float  # seconds per image of recovery
    deciding: tuple[dict[str, Any], ...]  # phases before recovery

    @classmethod
    def of(cls, record: RunRecord, paid: bool, work: Work) -> Past:
        rows = [r for r in record.spent.rows if r["phase"] != "recalibration"]
        recovery = next(r for r in rows if r["phase"] == "recovery")
        before = tuple(r for r in rows if not is_recovery(r["phase"]))
        return cls(record, paid, work, recovery["seconds"] / max(1, recovery["images"]), before)

    @property
    def times(self) -> int:
        """How often it scored: once more for the agreement of two seeds."""
        return 1 + (self.record.seed_agreement is not None)

    @property
    def rest(self) -> float:
        """Seconds that do not depend on the budget: tracing, fixed evaluations, latency, files."""
        recovered = sum(r["seconds"] for r in self.record.spent.rows if is_recovery(r["phase"]))
        decided = self.paid * self.times * sum(r["seconds"] for r in self.deciding)
        aside = self.work.aside * self.pace / TRAIN_STEP
        return max(0.0, self.record.seconds - recovered - decided - aside)

    def again(self, spec: RunSpec, work: Work, pays: bool, shares: Collection[str]) -> Seconds:
        """Seconds of the same method with other settings; `shares` names those of its settings
        that are epochs of preparation."""
        before = fitted(self.record.spec, shares)
        longer = fitted(spec, shares) / before if before else 1.0
        prepared = decided = 0.0
        for row in self.deciding:
            if row["kind"] == "forward":
                images = min(row["requested"], work.forward)
            else:
                images = row["images"] * longer
                prepared += images
            decided += row["seconds"] * images / max(1, row["images"])
        left = work.allowed - (prepared if spec.preparation == "charged" else 0)
        passed = max(0.0, left) + work.aside / TRAIN_STEP
        fixed = self.rest + pays * self.times * decided
        return thinner(self.work.kept, work.kept) * (self.pace * passed) + Seconds.exactly(fixed)


def fitted(spec: RunSpec, shares: Collection[str]) -> float:
    """Epochs of preparation that the settings of a method name."""
    return sum(float(spec.method.params.get(name, 0)) for name in shares)


def thinner(before: float, after: float) -> Seconds:
    """Factor of the pace from one share of MACs to another: between none and that of the MACs.
    On a CPU half of the MACs take 0.75 of the time in ResNets, 0.72 in VGG-16."""
    ratio = after / before
    return Seconds(min(1.0, ratio), (1 + after) / (1 + before), max(1.0, ratio))


@dataclass(frozen=True)
class Timed:
    """Seconds of the processor alone, as on an idle machine, and by the clock."""

    idle: float
    clock: float


@dataclass
class Probe:
    """Times each stage once, when its price is first asked for. `device` None: elsewhere. Images
    on disk are decoded by `workers` processes beside the work, or in turn with it."""

    spec: RunSpec
    device: torch.device | None
    data: Data | None = None
    workers: int = 0
    timed: dict[tuple[Kind, int], Timed] = field(default_factory=dict)  # by kind, batch size

    def price(self, kind: Kind, batch: int = 1) -> float:
        """Seconds per image, or of one setup, on an idle machine."""
        if self.device is None:
            raise NoProbe
        if (kind, batch) not in self.timed:
            with as_in_a_run(self.spec.threads):
                self.timed[kind, batch] = time_stage(self, kind, batch)
        found = self.timed[kind, batch].idle
        if kind == "setup":
            return found
        return max(found, self.reading / self.workers) if self.workers else found + self.reading

    @cached_property
    def reading(self) -> float:
        """Seconds to get one image from where it is."""
        return 0.0 if self.data is None else seconds_per_image(self.data.train)

    @property
    def range(self) -> Seconds:
        """Factors from a price to a run. What else the machine is doing now may go on, or end."""
        slow = [t.clock / t.idle for t in self.timed.values() if t.idle > 0]
        busy = max(1.0, statistics.median(slow)) if slow else 1.0
        return PROBED.within(Seconds(1.0, busy, busy))

    def step(self, batch: int, kept: float) -> Seconds:
        """Per image of a training step with this share of the MACs."""
        whole, cut = self.price("train", batch), 1 - self.kept
        if kept == 1 or not cut:
            return self.range * whole
        saved = min(max(0.0, whole - self.price("cut", batch)), whole * cut)
        return self.range * (whole - saved * (1 - kept) / cut)

    def rest(self, figures: int, compared: bool) -> Seconds:
        """Of a run besides what passes images in proportion to its budget. `figures`: images of
        the test and validation split, read at four points; `compared`: set up once more."""
        fixed = (2 + compared) * self.price("setup")
        fixed += sum(2 * n * size * self.price("read", size) for size, n in LATENCY.items())
        return self.range * (fixed + 4 * figures * self.price("read", max(LATENCY)))

    @cached_property
    def net(self) -> Network:
        return _traced(self.spec).to(self.device)

    @cached_property
    def plan(self) -> Plan:
        try:
            widths = self.net.allocate(Budget(CUT, self.spec.min_width))
        except Unsupported:  # so small a network is out of reach, and no cell will train it
            return Plan({})
        return Plan({group: tuple(range(width)) for group, width in widths.items()})

    @property
    def kept(self) -> float:
        """Share of MACs that the pruned network has left."""
        return self.net.macs(self.plan.widths()) / self.net.macs()


def time_stage(probe: Probe, kind: Kind, batch: int) -> Timed:
    """Seconds per image of a stage, or of one setup."""
    spec, device = probe.spec, probe.device
    if kind == "setup":
        return _timed(lambda: flops.cost(_traced(spec).dense(), baseline.example(spec)), probe)
    model = probe.net.remove(probe.plan if kind == "cut" else Plan({}))
    work = torch.no_grad()(model.eval()) if kind == "read" else _training(model, spec)
    shape, generator = baseline.example(spec).shape[1:], torch.Generator().manual_seed(0)

    def timed(images: int) -> Timed:
        x = torch.rand(images, *shape, generator=generator)
        x = x.to(device, memory_format=torch.channels_last)
        found = _timed(lambda: work(x), probe)
        return Timed(found.idle / images, found.clock / images)

    few = min(WARM_UP, batch)
    first = min(timed(few).clock for _ in range(2))
    images = min(batch, max(few, int(LONGEST / max(first, 1e-9))))
    rounds = [timed(images) for _ in range(1 + ROUNDS)][1:]  # the first finds memory of this size
    clock = statistics.mean(t.clock for t in rounds)
    return Timed(statistics.median(t.idle for t in rounds), clock)


def _traced(spec: RunSpec) -> Network:
    return Network(baseline.new_model(spec), baseline.example(spec), spec.scope)


def _training(model: nn.Module, spec: RunSpec) -> Callable[[Tensor], object]:
    """One step as the trainer makes it, but for its random images and labels."""
    optimizer = make_optimizer(spec.recovery, list(model.parameters()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    model.train()

    def step(batch: Tensor) -> None:
        labels = torch.arange(len(batch), device=batch.device) % spec.data.num_classes
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            logits = model(batch)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _timed(work: Callable[[], object], probe: Probe) -> Timed:
    started, used = time.perf_counter(), time.process_time()
    work()
    on_gpu = str(probe.device).startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
    clock, busy = time.perf_counter() - started, time.process_time() - used
    return Timed(clock if on_gpu else busy / probe.spec.threads, clock)
