"""What is left to do, and what it will cost: by earlier records, else by a short probe."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmark import baseline, tasks
from benchmark.data import Data
from benchmark.environment import hardware_kind
from benchmark.ledger import TRAIN_STEP, is_recovery
from benchmark.makespan import clock_time
from benchmark.options import Options
from benchmark.planning import scores_key
from benchmark.probe import Past, Probe, Seconds, Work, among, fitted, thinner
from benchmark.progress import duration
from benchmark.record import RunRecord
from benchmark.selection import networks_judged
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import Cell
from benchmark.tasks import DATA_FIELDS, Task, cached_data, task_of, wants_optimistic
from methods import build as build_method
from methods.api import Method

START = Seconds(4.0, 6.0, 15.0)  # of worker processes, once
# Images' worth of training steps that scoring takes where nothing is known of the method: per image
# that it may look at without gradients, and in all for one that decides on widths and weights too.
UNKNOWN_SCORES = Seconds(0.0, 0.5, 2.0)
UNKNOWN_PLAN = Seconds(0.0, 6000.0, 20000.0)
UNKNOWN_REFIT = Seconds(0.0, 1500.0, 6000.0)
MANY_ROUNDS = 20.0  # where there are as many as groups
OTHER_ARCH = Seconds(0.7, 1.0, 1.5)  # scoring per training step, from one architecture to another


@dataclass(frozen=True)
class Forecast:
    """Seconds for what is missing, and what they rest on."""

    tasks: dict[str, Seconds]  # by run id of a cell, by key of a dense network
    total: Seconds  # by the clock
    dense: tuple[str, ...] = ()  # keys of the dense networks that will be trained
    records: int = 0
    probed: bool = False

    @property
    def basis(self) -> str:
        """`from 12 earlier records`."""
        records = f"{self.records} earlier record{'s' if self.records > 1 else ''}"
        parts = [records] * bool(self.records) + ["a probe of one training step"] * self.probed
        return "from " + " and ".join(parts or ["nothing"])


def is_done(cell: Cell, options: Options) -> bool:
    """Whether nothing is left to do for the cell."""
    return tasks.is_finished(cell.spec, options)


def dense_tasks(cells: Iterable[Cell], options: Options) -> list[Task]:
    """One task per dense network that is not there yet."""
    return [task_of("dense", cell, options) for cell in _dense_cells(cells, options).values()]


def estimate_tasks(cells: list[Cell], options: Options) -> dict[str, Seconds]:
    """Seconds of what is missing: cells by run id, dense networks by stage key."""
    return forecast(cells, options, 1).tasks


def estimate(cells: list[Cell], options: Options, jobs: int) -> Seconds:
    """Seconds by the clock for what is missing."""
    return forecast(cells, options, jobs).total


def compare(estimated: Seconds, actual: float) -> str:
    """The sentence after a run."""
    return f"estimated {estimated}, took {duration(actual)}"


def forecast(cells: list[Cell], options: Options, jobs: int) -> Forecast:
    """Seconds of each task and of them all. Cells that share scores pay for them once."""
    waiting = [c for c in cells if not c.blocked and not tasks.is_recorded(c.spec, options)]
    if not waiting:
        return Forecast({}, Seconds())
    known = Known.gathered(waiting, options)
    dense = {key: known.dense(cell) for key, cell in _dense_cells(waiting, options).items()}
    found: dict[str, Seconds] = {}
    scored: set[str] = set()
    for cell in waiting:
        method = build_method(cell.entry, cell.spec.method.params)
        key = scores_key(cell.spec, method.prepares)
        there = key in scored or known.store.has_stage("scores", key)
        finds = there and method.scores_first and not cell.spec.in_rounds
        found[cell.spec.run_id] = known.cell(cell, method, not finds)
        scored.add(key)
    total = clock_time(list(dense.values()), jobs) + clock_time(list(found.values()), jobs)
    if jobs > 1 and len(dense) + len(found) > 1:
        total += START
    return Forecast(dense | found, total, tuple(dense), len(known.used), bool(known.probe.timed))


def _dense_cells(cells: Iterable[Cell], options: Options) -> dict[str, Cell]:
    """Of each dense network that is not there yet the first cell without a record that needs it."""
    found: dict[str, Cell] = {}
    for cell in (c for c in cells if c.spec.start.kind != "random"):
        method = build_method(cell.entry, cell.spec.method.params)
        key = baseline.stage_key(cell.spec, method.own_dense)
        there = key in found or Store(options.results).has_stage("dense", key)
        if not there and not tasks.is_recorded(cell.spec, options):
            found[key] = cell
    return found


# ---- what is known -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """Earlier runs like those of the grid on machines of this kind, and a probe for the rest."""

    store: Store
    data: Data
    past: tuple[Past, ...]  # of all architectures
    probe: Probe
    optimistic: bool  # the test split will be read every epoch
    used: set[str] = field(default_factory=set)  # run ids

    @classmethod
    def gathered(cls, waiting: list[Cell], options: Options) -> Known:
        spec, store = waiting[0].spec, Store(options.results)
        data = cached_data(options.model_dump_json(include=set(DATA_FIELDS)))
        records = [r for r in store.records() if _comparable(r, spec, options)]
        payers, past = _payers(records), []
        for record in records:
            optimistic = bool(store.measurements(record.spec, "optimistic"))
            work = Work.of(record.spec, data, optimistic, record.networks_judged)
            past.append(Past.of(record, record.run_id in payers, work))
        probe = Probe(spec, options.device_here(), data, options.decoders())
        return cls(store, data, tuple(past), probe, wants_optimistic(options))

    def take(self, past: list[Past], *likeness: Callable[[Past], bool]) -> list[Past]:
        """Those that are most alike: each condition holds if it can, the first before the next."""
        for alike in likeness:
            past = [p for p in past if alike(p)] or past
        self.used.update(p.record.run_id for p in past)
        return past

    def near(self, spec: RunSpec) -> list[Past]:
        return [p for p in self.past if p.record.spec.arch == spec.arch]

    def pace(self, spec: RunSpec, kept: float) -> Seconds:
        """Per image of a training step with this share of the MACs."""
        batch = spec.training.batch_size
        near = self.take(self.near(spec), lambda p: p.record.spec.training.batch_size == batch)
        if near:
            return among([thinner(p.work.kept, kept) * p.pace for p in near])
        return self.probe.step(batch, kept)

    def dense(self, cell: Cell) -> Seconds:
        """Of a dense network: its training, if it is trained here, and its figures."""
        spec = cell.spec
        figures = self.pace(spec, 1.0) * ((len(self.data.val) + len(self.data.test)) / TRAIN_STEP)
        if spec.baseline is None:
            return figures
        batch, images = spec.baseline.batch_size, len(self.data.train)
        paces = _dense_paces(self.near(spec), batch, self.store, images)
        known = among([Seconds.exactly(p) for p in paces]) if paces else None
        return (known or self.probe.step(batch, 1.0)) * (spec.baseline.epochs * images) + figures

    def cell(self, cell: Cell, method: Method, pays: bool) -> Seconds:
        """Of a run; `pays`: it makes its scores itself, rather than finding them made."""
        spec = cell.spec
        judged = method.informed and spec.result == "channels" and spec.allocation != "none"
        judged = judged and not (spec.in_rounds or spec.scratch)
        checked = judged and not spec.is_trial and bool(len(self.data.val))
        work = Work.of(spec, self.data, self.optimistic, checked * networks_judged(spec.allocation))
        own = [p for p in self.near(spec) if _label(p) == spec.row]
        if own:
            like = self.take(
                own,
                lambda p: p.record.spec.schedule == spec.schedule,
                lambda p: p.record.spec.reconstruct == spec.reconstruct,
                lambda p: p.work.kept == work.kept,
                lambda p: p.paid == pays,
                lambda p: p.record.spec.method == spec.method,
                lambda p: p.record.spec.training.batch_size == spec.training.batch_size,
            )
            found = among([p.again(spec, work, pays, method.shares) for p in like])
            return found + self.refit(spec, like)
        fit = fitted(spec, method.shares) * len(self.data.train) * method.prepares
        paid = spec.preparation == "charged" and not spec.scratch
        trained = work.allowed - (fit if paid else 0)
        passed = max(0.0, trained) + work.aside / TRAIN_STEP
        found = self.pace(spec, work.kept) * passed + self.rest(cell, method, checked)
        found += self.refit(spec, [])
        rounds = spec.steps or (MANY_ROUNDS if spec.in_rounds else 1)
        return found + self.decided(spec, method, work, fit) * rounds if pays else found

    def refit(self, spec: RunSpec, like: list[Past]) -> Seconds:
        """Of the update of all weights, where it is asked for and no run like it had it."""
        seen = {"none", *(p.record.spec.reconstruct for p in like)}
        known = spec.reconstruct in seen
        return Seconds() if known else UNKNOWN_REFIT * self.pace(spec, 1.0).middle

    def rest(self, cell: Cell, method: Method, checked: bool) -> Seconds:
        """Of a run besides all that passes images in proportion to its budget."""
        others = self.take(
            self.near(cell.spec),
            lambda p: (p.record.selection is not None) == checked,
            lambda p: p.record.control == (cell.entry.is_control or bool(cell.spec.scratch)),
        )
        if others:
            return among([Seconds.exactly(p.rest) for p in others])
        return self.probe.rest(len(self.data.val) + len(self.data.test), _compared(method))

    def decided(self, spec: RunSpec, method: Method, work: Work, fit: float) -> Seconds:
        """Of scoring, where no run of the method on this architecture tells."""
        if not method.informed:
            return Seconds()
        step = self.pace(spec, 1.0)
        known = step * (fit * (1 + _compared(method)))
        far = self.take([p for p in self.past if _label(p) == spec.row and p.paid])
        if far:
            shares = [Seconds.exactly(self.scoring_steps(p)) for p in far]
            return known + among(shares).within(OTHER_ARCH) * step.middle
        unknown = UNKNOWN_SCORES * work.forward if method.scores_first else UNKNOWN_PLAN
        return known + unknown * step.middle

    def scoring_steps(self, past: Past) -> float:
        """Images' worth of training that an earlier run spent on scoring, but for training."""
        near = [p for p in self.near(past.record.spec) if _label(p) != _label(past)]
        others = [p.rest for p in near if p.record.selection is None or past.record.selection]
        more = max(0.0, past.rest - statistics.median(others)) if others else 0.0
        rows = [r for r in past.deciding if not r["phase"].startswith("prepare")]
        seconds = more + past.times * sum(r["seconds"] for r in rows)
        return seconds / (past.pace * thinner(past.work.kept, 1.0).middle)


def _label(past: Past) -> str:
    return past.record.spec.row


def _compared(method: Method) -> bool:
    """Whether a second seed scores once more."""
    return method.stochastic and method.informed and method.scores_first


def _comparable(record: RunRecord, spec: RunSpec, options: Options) -> bool:
    """Whether its seconds say something about this grid on this machine."""
    facts, data = record.environment, record.spec.data
    elsewhere = options.executor == "slurm"  # its nodes are not known: any of the kind will do
    return (
        (elsewhere or str(facts.get("gpu") or facts.get("cpu")) == hardware_kind())
        and str(facts.get("device", "")).startswith(options.kind_of_device())
        and bool(facts.get("compiled")) == options.compile
        and not facts.get("resumed_from")  # its seconds are those of the last attempt
        and (data.name, data.image_size) == (spec.data.name, spec.data.image_size)
        and (record.spec.threads, record.spec.precision) == (spec.threads, spec.precision)
        and any(row["phase"] == "recovery" for row in record.spent.rows)
    )


def _payers(records: Iterable[RunRecord]) -> set[str]:
    """Run ids of those that made their scores: of those that share them, the one that took longest
    besides recovery."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for record in records:
        key = record.run_id if record.tied_share is None else scores_key(record.spec)
        recovery = sum(r["seconds"] for r in record.spent.rows if is_recovery(r["phase"]))
        groups.setdefault(key, []).append((record.seconds - recovery, record.run_id))
    return {max(group)[1] for group in groups.values()}


def _dense_paces(near: Iterable[Past], batch: int, store: Store, images: int) -> list[float]:
    """Seconds per image of the dense trainings that these runs started from and that are there."""
    epochs = {
        baseline.stage_key(past.record.spec, own): recipe.epochs
        for past in near
        for own in (False, True)
        if (recipe := past.record.spec.baseline) is not None and recipe.batch_size == batch
    }
    stages = [(count, store.stage("dense", key)) for key, count in epochs.items()]
    return [
        stage.facts["seconds"] / (count * images)
        for count, stage in stages
        if stage is not None and stage.facts.get("hardware", hardware_kind()) == hardware_kind()
    ]
