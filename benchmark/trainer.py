"""One training loop for baselines, preparation and recovery; exact evaluation; BN recalibration.

Everything random is keyed by (seed, phase, epoch, image), so results do not depend on batch
order, on the number of workers, or on what ran before.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import checkpoint, evaluation, losses, parts
from benchmark.checkpoint import Checkpoints, Torn, quiet
from benchmark.errors import Stopped, never
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.noise import keyed_uniform
from benchmark.phase import DIVERGED, Diverged, EpochRow, Maker, Phase, Watch, trained_only
from benchmark.schedule import Schedule, even, make_optimizer, order_of, phase_seed, rate_at
from benchmark.sources import Source
from benchmark.spec import Precision, Recipe
from benchmark.team import ALONE, Team

SCORE_BATCH = 128
LOOK = 8  # steps after which a team asks its first whether to stop or to write a checkpoint

Progress = Callable[[str, int, int], None]  # phase, done, total


def silent(phase: str, done: int, total: int) -> None:
    """No progress display."""


@dataclass
class Trainer:
    """See `methods.api.Trainer`. Holds the training and validation split; no test split."""

    train: Source
    val: Source
    num_classes: int
    recipe: Recipe
    seed: int
    data_hash: str
    ledger: Ledger
    precision: Precision = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    charged: bool = True  # False: preparation is granted free
    compiled: bool = False
    checkpoints: Checkpoints | None = None  # of the piece of work at hand; None: nothing is kept
    log: Callable[[str], None] = quiet
    stop: Callable[[], bool] = never  # asked after each step: end at a checkpoint
    replicas: int = 1  # parts of each batch
    sync_bn: bool = False
    team: Team = ALONE
    resumed: list[Maker] = field(default_factory=list)  # who made the checkpoints it went on from
    notes: dict[str, Any] = field(default_factory=dict)
    imported: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    curve: list[EpochRow] = field(default_factory=list)
    _round: str = ""  # of a schedule; added to the names of phases, and so to their seeds
    _phase: int = 0
    _now: tuple[int, int, Tensor] | None = None  # seed, epoch, image index of the current batch

    def __post_init__(self) -> None:
        parts.check_team(self.replicas, self.sync_bn, self.team, self.device)

    @property
    def epochs(self) -> float:
        return self.ledger.allowed / self.ledger.train_images

    @property
    def train_images(self) -> int:
        return self.ledger.train_images

    # ---- what methods use ----------------------------------------------------------------------

    def note(self, name: str, value: Any) -> None:
        self.notes[name] = value

    def generator(self, salt: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(phase_seed(self.seed, f"method-{salt}"))

    def noise(self, columns: int, salt: int) -> Tensor:
        if self._now is None:
            raise RuntimeError("noise belongs to a batch: call it while batches are drawn")
        seed, epoch, index = self._now
        return keyed_uniform(seed, epoch, index, columns, salt).to(self.device)

    def batches(
        self,
        images: int | None = None,
        split: str = "train",
        *,
        augment: bool = False,
        phase: str = "scoring",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        source, phase = self._source(split), phase + self._round
        wanted = len(source) if images is None else min(images, len(source))
        rows = self.balanced(source, wanted)
        gradient = torch.is_grad_enabled()
        kind = "free" if split == "val" else "forward"
        if split == "train" and gradient:
            kind = "charged" if self.charged else "free"
            if kind == "charged":
                self.ledger.check(len(rows), phase)
        elif split == "train":
            rows = rows[: self.ledger.forward_left(phase)]
        started, used = time.perf_counter(), 0
        key = (phase_seed(self.seed, phase), 0)
        chunks = rows.split(SCORE_BATCH) if len(rows) else ()
        source.ahead(chunks, key if augment else None)
        try:
            for number, chunk in enumerate(chunks):
                if self._asked(number)[0]:
                    raise Stopped(kept=False)  # scoring is done again
                self._now = (*key, source.index[chunk].to(self.device))
                used += len(chunk)
                yield source.batch(chunk, augment=key if augment else None)
        finally:
            self._now = None
            if split == "train":
                seconds = time.perf_counter() - started
                self.ledger.add(phase, kind, used, self._macs, seconds, wanted)  # type: ignore[arg-type]

    def fit(
        self,
        net: Any,
        epochs: float,
        *,
        lr: float | None = None,
        penalty: Callable[[], Tensor] | None = None,
        only: Mapping[str, nn.Module] | None = None,
        constant_lr: bool = False,
    ) -> None:
        changes: dict[str, Any] = {"epochs": epochs}
        if lr is not None:
            changes["lr"] = lr
        if constant_lr:
            changes |= {"schedule": "constant", "warmup": 0.0}
        self._phase += 1
        self.run_phase(
            net,
            self.recipe.model_copy(update=changes),
            f"prepare-{self._phase}{self._round}",
            penalty=penalty,
            only=only,
        )

    def learning_rates(self, epochs: float, lr: float | None = None) -> list[float]:
        recipe = self.recipe.model_copy(update={"lr": lr or self.recipe.lr})
        steps = Schedule.of(epochs, len(self.train), recipe.batch_size).steps
        return [rate_at(recipe, step / steps) for step in range(steps)]

    def accuracy(self, net: Any, split: str = "val") -> float:
        return evaluation.evaluate(net, self._source(split), team=self.team).top1

    # ---- what the runner uses ------------------------------------------------------------------

    def begin_round(self, number: int) -> None:
        """What the method does from now on belongs to this round of a schedule, from 1."""
        self._round, self._phase = f"-round-{number}" if number > 1 else "", 0

    def run_phase(
        self,
        net: nn.Module,
        recipe: Recipe,
        phase: str,
        *,
        penalty: Callable[[], Tensor] | None = None,
        only: Mapping[str, nn.Module] | None = None,
        memory: Watch | None = None,
        validate: bool = False,
        charged: bool | None = None,
        macs: int | None = None,
    ) -> None:
        """Train by the recipe, charge the images, add to the curve; leaves `net` in train mode.
        Goes on from the last checkpoint of the phase, if there is one."""
        schedule = Schedule.of(recipe.epochs, len(self.train), recipe.batch_size)
        is_charged = self.charged if charged is None else charged
        if is_charged:
            self.ledger.check(schedule.images, phase)
        checkpoint.seed_everything(phase_seed(self.seed, phase))
        with (
            losses.attached(net, recipe) as (criterion, extra),
            trained_only(net, None if only is None else {**only, **extra}),
            parts.synced(net, self.sync_bn and self.team.size > 1),
        ):
            optimizer = make_optimizer(recipe, [p for p in net.parameters() if p.requires_grad])
            run = Phase(phase, net, recipe, schedule, optimizer, penalty, memory, validate)
            run.loss = torch.zeros(() if self.replicas == 1 else self.replicas, device=self.device)
            self._restore(run)
            self._epochs(run, criterion)
        if self.replicas > 1:  # each part drew numbers of its own
            checkpoint.seed_everything(phase_seed(self.seed, f"after-{phase}"))
        kind = "charged" if is_charged else "free"
        per_image = self._macs if macs is None else macs
        self.ledger.add(phase, kind, schedule.images, per_image, run.seconds)  # type: ignore[arg-type]

    def _epochs(self, run: Phase, criterion: losses.Criterion) -> None:
        seed = phase_seed(self.seed, run.name)
        made = parts.Objective(run, criterion, self.precision == "bf16", self.compiled)
        objective = parts.distributed(made, self.team)
        last = 0
        for epoch, sizes in enumerate(run.schedule.sizes):
            first, last = last, last + len(sizes)
            if run.step >= last:
                continue  # done before a kill
            run.net.train()
            run.since = time.perf_counter()
            rows = order_of(len(self.train), seed, epoch)[: sum(sizes)].split(list(sizes))
            left = rows[run.step - first :]
            self.train.ahead([p.rows for c in left for p in self._parts(c)], (seed, epoch))
            for chunk in left:
                rate = rate_at(run.recipe, run.step / run.schedule.steps)
                self._step(objective, run, rate, chunk, (seed, epoch))
                run.step, run.images = run.step + 1, run.images + len(chunk)
                if run.memory is not None:
                    run.memory.after_step(run.step)
                self.progress(run.name, run.images, run.schedule.images)
                if run.step < last:
                    self._look(run)
            self._end_epoch(run, epoch, sum(sizes), rate)
            if self._asked()[0]:  # the epoch was kept just now
                raise Stopped(kept=self.checkpoints is not None)
        run.net.train()

    def _asked(self, turn: int = 0) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due: the word of the first. A team asks now
        and then, for it costs a message to all."""
        if self.team.size > 1 and turn % LOOK:
            return False, False
        due = self.checkpoints is not None and self.checkpoints.due()
        return self.team.agree((self.stop(), due))

    def _look(self, run: Phase) -> None:
        stop, due = self._asked(run.step)
        if stop or due:
            run.clock()
            self._keep(run)
        if stop:
            raise Stopped(kept=self.checkpoints is not None)

    def _end_epoch(self, run: Phase, epoch: int, images: int, rate: float) -> None:
        parts.share_buffers(run.net, self.team)
        # waits for the device, so the clock below is right
        mean = float(self.team.sum(run.loss).sum()) / images
        run.clock()
        if not math.isfinite(mean):
            raise Diverged(f"{DIVERGED}the loss is not finite in epoch {epoch + 1} of {run.name}")
        val = self.accuracy(run.net) if run.validate and len(self.val) else None
        done = run.images / len(self.train)
        row = EpochRow(run.name, done, run.images, rate, mean, val)
        self.curve.append(row)
        self.log(str(row))
        if run.memory is not None:
            run.memory.after_epoch(row)
        run.loss.zero_()
        self._keep(run)

    def _keep(self, run: Phase) -> None:
        if self.checkpoints is None:
            return
        loss, checkpoints = self.team.sum(run.loss), self.checkpoints
        self.team.lead(lambda: run.keep(checkpoints, self.curve, self.resumed, loss))

    def _restore(self, run: Phase) -> None:
        """Go on from the last whole checkpoint of the phase, if there is one."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return
        found = self.team.lead(lambda: checkpoints.last(run.name))
        if found is not None:
            try:
                curve, self.resumed = run.restore(found)
            except Torn as error:
                self.log(f"warning: {error}; {run.name} begins anew")
                return
            parts.keep_own(run.loss, self.team)
            self.curve += curve
            self.log(f"{run.name} goes on after step {run.step} of {run.schedule.steps}")

    def _step(
        self, objective: nn.Module, run: Phase, rate: float, rows: Tensor, key: tuple[int, int]
    ) -> None:
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.optimizer.zero_grad(set_to_none=True)
        losses = run.loss.view(-1)
        for part in parts.in_turn(run.net, self._parts(rows)):
            loss = self._loss(objective, run, part, key)
            (loss if self.team.size == 1 else loss * self.team.size).backward()  # it is averaged
            losses[part.number] += loss.detach() * len(rows)
        run.optimizer.step()

    def _parts(self, rows: Tensor) -> list[parts.Part]:
        """What this process runs of a batch."""
        return parts.parts_of(rows, self.replicas, self.sync_bn, self.team)

    def _loss(
        self, objective: nn.Module, run: Phase, part: parts.Part, key: tuple[int, int]
    ) -> Tensor:
        if self.replicas > 1:  # whoever runs the part, dropout draws the same
            turn = f"{run.name}-{run.step}-{part.number}"
            checkpoint.seed_everything(phase_seed(self.seed, turn))
        x, y = self.train.batch(part.rows, augment=key, channels_last=True)
        self._now = (*key, self.train.index[part.rows].to(self.device))
        loss: Tensor = objective(x, y, part)
        self._now = None
        return loss

    @torch.no_grad()
    def recalibrate(self, net: nn.Module, macs: int, note: bool = True) -> None:
        """Replace BN running statistics by those of un-augmented, class-balanced training images,
        at most 5 % of the budget; leaves `net` in eval mode."""
        limit = self.ledger.forward_left("recalibration") if note else self._recalibration_images()
        rows = self.balanced(self.train, min(len(self.train), limit, MOST_RECALIBRATION))
        started = time.perf_counter()
        sizes = even(len(rows), SCORE_BATCH) if len(rows) > 1 else ()
        evaluation.recalibrate(net, self.train, rows, sizes)
        if note:
            seconds = time.perf_counter() - started
            self.ledger.add("recalibration", "forward", len(rows), macs, seconds)

    def _recalibration_images(self) -> int:
        done = [e.images for e in self.ledger.entries if e.phase == "recalibration"]
        return done[0] if done else self.ledger.forward_left("recalibration")

    def balanced(self, source: Source, images: int) -> Tensor:
        """(images,) rows of a split: classes in turn, order fixed by data hash and seed."""
        seed = phase_seed(self.seed, f"list-{self.data_hash}")
        return evaluation.balanced(source.labels.cpu(), self.num_classes, seed)[:images]

    @contextlib.contextmanager
    def telling(self, progress: Progress) -> Iterator[None]:
        """Within the block this callback hears of progress too, from the first of a team."""
        before = self.progress
        if not self.team.first:
            progress = silent

        def tell(phase: str, done: int, total: int) -> None:
            before(phase, done, total)
            progress(phase, done, total)

        self.progress = tell
        try:
            yield
        finally:
            self.progress = before

    def use(self, net: Network) -> None:
        """Price of one image from now on."""
        self._macs = net.macs()

    _macs: int = 0

    def _source(self, split: str) -> Source:
        if split not in ("train", "val"):
            raise ValueError(f"split '{split}' does not exist here (train, val)")
        return self.train if split == "train" else self.val


MOST_RECALIBRATION = 50 * SCORE_BATCH  # more changes nothing
