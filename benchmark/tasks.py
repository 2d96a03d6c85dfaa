"""One piece of work that any process can do from scratch; what goes wrong becomes an attempt."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from benchmark import archs, baseline, chosen, sharing, shifted
from benchmark.checkpoint import quiet
from benchmark.claims import Busy, take_for
from benchmark.command import command_of
from benchmark.context import Context, dense_stage, make_trainer, set_threads_and_determinism
from benchmark.data import Data, load_data
from benchmark.errors import BadInput, Stopped, never
from benchmark.execute import run_one
from benchmark.failures import EXPECTED, reason_of
from benchmark.options import Options
from benchmark.planning import scores_key
from benchmark.runlog import RunLog
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import Cell
from benchmark.team import ALONE, Team
from benchmark.wording import figure, run_name, top1
from methods import Entry, find
from methods import build as build_method
from methods.api import Unsupported

STOPPED_KEPT = "stopped before the end of its job; it goes on from its checkpoint"
STOPPED_ANEW = (
    "stopped before the end of its job, where no checkpoint is possible; that step begins anew"
)
DATA_FIELDS = (
    "dataset", "data_dir", "data_name", "image_size", "normalize", "track", "results", "workers",
    "device", "executor", "lane",
)  # fmt: skip

Report = Callable[[str, str, int, int], None]  # cell, phase, done, total


@dataclass(frozen=True)
class Task:
    """One piece of work that a worker process can do from scratch."""

    kind: str  # "dense" or "cell"
    spec: RunSpec
    label: str  # of the method, as typed: a path for a user's own file
    options: Options
    command: str
    key: str  # names its log
    makes: str = ""  # the dense network that a dense task trains
    needs: str = "-"  # the dense network that a cell starts from
    shares: tuple[str, str] = ("", "")  # kind and key of the scoring stage, which many cells use

    @property
    def name(self) -> str:
        """Shown in progress lines."""
        if self.kind == "dense":
            return f"dense {self.spec.arch.name} seed {self.spec.seeds.run}"
        return run_name(self.spec)


@dataclass(frozen=True)
class Ended:
    """How a task ended: done, failed, n/a, busy (another process is at work on it), or stopped as
    it was asked to. `kept`: a stopped one goes on from a checkpoint of its last moment."""

    status: str
    line: str
    seconds: float
    kind: str = "cell"
    reason: str = ""  # of what did not work out
    kept: bool = False


@lru_cache(maxsize=2)
def cached_data(key: str) -> Data:
    options = Options.model_validate_json(key)
    return data_of(options)


def data_of(options: Options, on_progress: Callable[[int, int], None] | None = None) -> Data:
    """The data set the options name; the paper track trains on all of train."""
    return load_data(
        options.dataset,
        data_dir=options.data_dir,
        data_name=options.data_name,
        image_size=options.image_size,
        normalize=options.normalize,
        cache_dir=options.home / "stages",
        validation=options.track != "paper",
        workers=options.decoders(),
        on_progress=on_progress,
    )


def do(
    task: Task,
    report: Report,
    wait: bool = True,
    stop: Callable[[], bool] = never,
    team: Team = ALONE,
) -> Ended:
    """Do the task; whatever goes wrong is an attempt on disk, never an exception. `stop` is asked
    after every step of training: from then on the task ends at the next checkpoint it can write."""
    started = time.monotonic()
    store = Store(task.options.results)
    log = RunLog(store.root / store.log_name(task.key))
    try:
        line = _do(task, store, report if team.first else _unheard, log, wait, stop, team)
        noted = f" ({len(log.warnings)} warnings in {log.path})" if log.warnings else ""
        return Ended("done", line + noted, time.monotonic() - started, task.kind)
    except Busy as reason:
        return Ended("busy", f"{task.name}: {reason}", 0.0)
    except Stopped as asked:
        status, text, kept = "stopped", STOPPED_KEPT if asked.kept else STOPPED_ANEW, asked.kept
    except Unsupported as reason:
        status, text, kept = "n/a", str(reason), False
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a cell must never take the grid down
        status, text, kept = "failed", _failed(task, error, store, log, team), False
    if team.first:
        log(f"{status}: {text}")
        if task.kind == "cell":
            became = "interrupted" if status == "stopped" else status
            note_attempt(store, task.spec, became, text, task.key)
    return replace(_ended(task, status, text, time.monotonic() - started), kept=kept)


def _unheard(cell: str, phase: str, done: int, total: int) -> None:
    """The first of a team speaks for all."""


def _failed(task: Task, error: BaseException, store: Store, log: RunLog, team: Team) -> str:
    """Why, with the traceback in the log where it is not a known reason."""
    text = reason_of(error, store.root)
    if not isinstance(error, EXPECTED):
        whose = "" if team.size == 1 else f"process {team.rank + 1} of {team.size}:\n"
        log(whose + traceback.format_exc())
        text += f" (see {store.log_name(task.key)})"
    return text if team.complete() else f"a process of its team was lost: {text}"


def _ended(task: Task, status: str, reason: str, seconds: float) -> Ended:
    return Ended(status, f"{task.name}: {status}: {reason}", seconds, task.kind, reason)


def without_dense(task: Task, dense: Ended, team: Team = ALONE) -> Ended:
    """The end of a cell whose dense network could not be made: it is not tried once per cell."""
    became = "failed" if dense.status == "failed" else f"is {dense.status}"
    reason = f"its dense network {became}: {dense.reason}"
    if team.first:
        note_attempt(Store(task.options.results), task.spec, dense.status, reason, task.key)
    return _ended(task, dense.status, reason, 0.0)


def note_attempt(store: Store, spec: RunSpec, status: str, reason: str, key: str) -> None:
    """An attempt on disk; if there is no room even for that, the line on the screen is all."""
    with contextlib.suppress(OSError):
        store.write_attempt(spec, status, reason, store.log_name(key))


def _do(
    task: Task,
    store: Store,
    report: Report,
    log: RunLog,
    wait: bool,
    stop: Callable[[], bool],
    team: Team,
) -> str:
    if task.kind == "dense":
        return _dense(task, _context(task, store, report, log, stop, team))
    said = log if team.first else quiet
    with take_for(team, store.claims, "run", task.spec.run_id, wait, said) as claim:
        if team.lead(lambda: is_finished(task.spec, task.options)):  # by others, meanwhile
            return f"{task.name}: done by another process"
        told = store.claims.news(claim)

        def tell(cell: str, phase: str, done: int, total: int) -> None:
            told(phase, done, total)
            report(cell, phase, done, total)

        said(f"{task.name}: {claim.holder} begins: {task.command}")
        context = _context(task, store, tell if team.first else report, log, stop, team)
        if team.lead(lambda: is_recorded(task.spec, task.options)):
            record = store.read(task.spec)
        else:
            record = run_one(task.spec, entry_of(task), context)
            accuracy = top1(task.spec, record.final.test_top1)
            said(f"done: {accuracy} in {record.seconds:.1f} s")
        team.lead(lambda: shifted.after_run(task.spec, task.options.extra_test, context))
    return f"{task.name}: {figure(record)}"


def entry_of(task: Task) -> Entry:
    """The method that the task names, if it is still the one that was planned.

    Raises:
        BadInput: its file or its revision changed since.
    """
    entry, planned = find(task.label), task.spec.method
    found = (entry.name, entry.variant, entry.source_hash, entry.cls.revision)
    if found != (planned.name, planned.variant, planned.source, planned.revision):
        raise BadInput(
            f"method {task.label} changed since the grid was planned: give the command again, it "
            "is another run now"
        )
    return entry


def _context(
    task: Task,
    store: Store,
    report: Report,
    log: RunLog,
    stop: Callable[[], bool],
    team: Team,
) -> Context:
    options, spec = task.options, task.spec
    data = cached_data(options.model_dump_json(include=set(DATA_FIELDS)))
    if archs.find(options.arch).source != spec.arch.source:
        raise BadInput(f"--arch {options.arch} changed since the grid was planned")
    if data.identity != spec.data:
        raise BadInput("the data changed since the grid was planned")
    return Context(
        store=store,
        data=data,
        device=options.torch_device(),
        progress=lambda phase, done, total: report(task.name, phase, done, total),
        checkpoint=options.checkpoint,
        compiled=options.compile,
        optimistic=wants_optimistic(options),
        command=task.command,
        log=log if team.first else quiet,
        checkpoint_seconds=60 * options.checkpoint_minutes,
        stop=stop,
        team=team,
        tuning=chosen.evidence(spec, options.home),
    ).seen_by(spec)


def _dense(task: Task, context: Context) -> str:
    spec = task.spec
    set_threads_and_determinism(spec.threads)
    trainer = make_trainer(spec, context)
    test = context.data.test.source(spec.data, context.device)
    method = build_method(entry_of(task), spec.method.params)
    stage = dense_stage(spec, method, trainer, test, context)
    made = f"{task.name}: {top1(spec, stage.facts['accuracy']['test_top1'])}"
    return made + sharing.warning(context.store, spec, method.own_dense, stage.facts["weights"])


def is_finished(spec: RunSpec, options: Options) -> bool:
    """Whether nothing is left to do: no run, and no measurement on an extra test set."""
    store = Store(options.results)
    return is_recorded(spec, options) and not shifted.missing(store, spec, options.extra_test)


def is_recorded(spec: RunSpec, options: Options) -> bool:
    """Whether the record is there, and the best-test-epoch figure if it was asked for."""
    store = Store(options.results)
    has_optimistic = not wants_optimistic(options) or store.measurements(spec, "optimistic")
    return store.has(spec) and bool(has_optimistic)


def wants_optimistic(options: Options) -> bool:
    """On in the paper track, off elsewhere, unless said (DECISIONS 19)."""
    return options.track == "paper" if options.optimistic is None else options.optimistic


def task_of(kind: str, cell: Cell, options: Options) -> Task:
    label = next(m for m in [*options.methods, cell.entry.label] if _same(m, cell))
    command, dense = command_of(cell, options, label), dense_key(cell)
    if kind == "dense":
        own = ("dense", dense)
        return Task(kind, cell.spec, label, options, command, f"dense-{dense}", dense, "-", own)
    method = build_method(cell.entry, cell.spec.method.params)
    scores = ("scores", scores_key(cell.spec, method.prepares))
    return Task(kind, cell.spec, label, options, command, cell.spec.run_id, "", dense, scores)


def dense_key(cell: Cell) -> str:
    """Of the dense network a cell starts from."""
    method = build_method(cell.entry, cell.spec.method.params)
    return baseline.stage_key(cell.spec, method.own_dense)


def _same(label: str, cell: Cell) -> bool:
    is_file = label.endswith(".py") and Path(label).stem == cell.entry.name
    return is_file if cell.entry.is_own_file else label == cell.entry.label
