"""One piece of work that any process can do from scratch; what goes wrong becomes an attempt."""

from __future__ import annotations

import contextlib
import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmark import baseline
from benchmark.claims import Busy
from benchmark.context import Context, dense_stage, make_trainer, set_threads_and_determinism
from benchmark.data import Data, load_data
from benchmark.errors import BadInput, is_full
from benchmark.execute import run_one
from benchmark.files import full_disk
from benchmark.images import BatchSource
from benchmark.ledger import BudgetExceeded
from benchmark.phase import Diverged
from benchmark.planning import BadMethod, scores_key
from benchmark.runlog import RunLog
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import Cell, Options, preset_of
from methods import Entry, find
from methods import build as build_method
from methods.api import Unsupported

ALWAYS_SAID = ("methods", "arch", "dataset", "preset", "seeds")  # defaults may change
EXPECTED = (
    BudgetExceeded,
    Diverged,
    BadInput,
    BadMethod,
)  # the reason says it all: no traceback is shown
DATA_FIELDS = (
    "dataset", "data_dir", "data_name", "image_size", "normalize", "track", "results",
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
        seed = f"seed {self.spec.seeds.run}"
        if self.kind == "dense":
            return f"dense {self.spec.arch.name} {seed}"
        cut = self.spec.flops_reduction
        target = f" at {100 * cut:g} %" if cut else ""
        ls = "+ls" if self.spec.reconstruct == "ls" else ""
        return f"{self.spec.method.label}{ls}{target} {seed}"


@dataclass(frozen=True)
class Ended:
    """How a task ended: done, failed, n/a, or busy (another process is at work on it)."""

    status: str
    line: str
    seconds: float
    kind: str = "cell"
    reason: str = ""  # of what did not work out


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
        cache_dir=options.results / "stages",
        validation=options.track != "paper",
        on_progress=on_progress,
    )


def do(task: Task, report: Report, wait: bool = True) -> Ended:
    """Do the task; whatever goes wrong is an attempt on disk, never an exception."""
    started = time.monotonic()
    store = Store(task.options.results)
    log = RunLog(store.root / store.log_name(task.key))
    try:
        line = _do(task, store, report, log, wait)
        noted = f" ({len(log.warnings)} warnings in {log.path})" if log.warnings else ""
        return Ended("done", line + noted, time.monotonic() - started, task.kind)
    except Busy as reason:
        return Ended("busy", f"{task.name}: {reason}", 0.0)
    except Unsupported as reason:
        status, text = "n/a", str(reason)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a cell must never take the grid down
        status, text = "failed", reason_of(error, store.root)
        if not isinstance(error, EXPECTED):
            log(traceback.format_exc())
            text += f" (see {store.log_name(task.key)})"
    log(f"{status}: {text}")
    if task.kind == "cell":
        note_attempt(store, task.spec, status, text, task.key)
    return _ended(task, status, text, time.monotonic() - started)


def _ended(task: Task, status: str, reason: str, seconds: float) -> Ended:
    return Ended(status, f"{task.name}: {status}: {reason}", seconds, task.kind, reason)


def without_dense(task: Task, dense: Ended) -> Ended:
    """The end of a cell whose dense network could not be made: it is not tried once per cell."""
    became = "failed" if dense.status == "failed" else f"is {dense.status}"
    reason = f"its dense network {became}: {dense.reason}"
    note_attempt(Store(task.options.results), task.spec, dense.status, reason, task.key)
    return _ended(task, dense.status, reason, 0.0)


def note_attempt(store: Store, spec: RunSpec, status: str, reason: str, key: str) -> None:
    """An attempt on disk; if there is no room even for that, the line on the screen is all."""
    with contextlib.suppress(OSError):
        store.write_attempt(spec, status, reason, store.log_name(key))


def reason_of(error: BaseException, root: Path) -> str:
    """One line that says what to do where that is known."""
    if isinstance(error, EXPECTED):
        return " ".join(str(error).split())
    if is_full(error):
        return full_disk(root)
    text = (str(error).splitlines() or [""])[0]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate" in text
    if memory:
        return f"out of memory: fewer --jobs, or a smaller --batch-size ({text or 'no details'})"
    return f"{type(error).__name__}: {text}"


def _do(task: Task, store: Store, report: Report, log: RunLog, wait: bool) -> str:
    if task.kind == "dense":
        return _dense(task, _context(task, store, report, log))
    with store.claims.take("run", task.spec.run_id, wait, log) as claim:
        if is_finished(task.spec, task.options):  # by somebody else, while we waited
            return f"{task.name}: done by another process"
        told = store.claims.news(claim)

        def tell(cell: str, phase: str, done: int, total: int) -> None:
            told(phase, done, total)
            report(cell, phase, done, total)

        log(f"{task.name}: {claim.holder} begins: {task.command}")
        record = run_one(task.spec, entry_of(task), _context(task, store, tell, log))
        log(f"done: {100 * record.final.test_top1:.2f} % test top-1 in {record.seconds:.1f} s")
    line = f"{task.name}: {100 * record.final.test_top1:.2f} % test top-1"
    cut = f" with {100 * record.flops_reduction:.1f} % of the FLOPs removed"
    return line + (cut if record.flops_reduction else "")


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


def _context(task: Task, store: Store, report: Report, log: RunLog) -> Context:
    options, spec = task.options, task.spec
    data = cached_data(options.model_dump_json(include=set(DATA_FIELDS)))
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
        log=log,
        checkpoint_seconds=60 * options.checkpoint_minutes,
    )


def _dense(task: Task, context: Context) -> str:
    spec = task.spec
    set_threads_and_determinism(spec.threads)
    trainer = make_trainer(spec, context)
    test = BatchSource(context.data.test, spec.data, context.device)
    method = build_method(entry_of(task), spec.method.params)
    stage = dense_stage(spec, method, trainer, test, context)
    return f"{task.name}: {100 * stage.facts['accuracy']['test_top1']:.2f} % test top-1"


def is_finished(spec: RunSpec, options: Options) -> bool:
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
    return is_file if cell.entry.source_hash else label == cell.entry.label


def command_of(cell: Cell, options: Options, label: str) -> str:
    """The command that makes this one record again. Places of this machine are left out: files
    are named without their folders, the data directory is DIR."""
    spec = cell.spec
    own: dict[str, Any] = {
        "methods": [Path(label).name],
        "preset": preset_of(options),
        "data_dir": None if options.data_dir is None else Path("DIR"),
        "checkpoint": None if options.checkpoint is None else Path(options.checkpoint.name),
        "seeds": [spec.seeds.run],
        "flops_reduction": [spec.flops_reduction] if spec.flops_reduction else [],
        "preparation": [spec.preparation],
        "reconstruct": [spec.reconstruct],
        "precision": spec.precision,
    }
    chosen = options.model_copy(update=own)
    words = ["python -m benchmark.run"]
    said = chosen.model_dump(mode="json", exclude_defaults=True)
    said |= {name: getattr(chosen, name) for name in ALWAYS_SAID}
    for name, value in said.items():
        if name in ("results", "jobs", "device", "checkpoint_minutes", "executor", "site"):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            words += [f"--set {shlex.quote(f'{k}={_word(v)}')}" for k, v in value.items()]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words.append(f"{flag} {shlex.quote(','.join(map(str, value)))}")
        else:
            words.append(f"{flag} {shlex.quote(str(value))}")
    return " ".join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
