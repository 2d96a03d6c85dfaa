"""One piece of work that any process can do from scratch; what goes wrong becomes an attempt."""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark import baseline
from benchmark.context import Context, make_trainer, set_threads_and_determinism
from benchmark.data import Data, load_data
from benchmark.errors import BadInput
from benchmark.execute import run_one
from benchmark.files import write_text
from benchmark.images import BatchSource
from benchmark.ledger import BudgetExceeded
from benchmark.planning import BadMethod
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import Cell, Options, preset_of
from benchmark.trainer import Diverged
from methods import build as build_method
from methods import find
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
    """How a task ended: done, failed or n/a."""

    status: str
    line: str
    seconds: float


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


def do(task: Task, report: Report) -> Ended:
    """Do the task; whatever goes wrong is an attempt on disk, never an exception."""
    started, log = time.monotonic(), ""
    store = Store(task.options.results)
    try:
        line = _do(task, store, report)
        return Ended("done", line, time.monotonic() - started)
    except Unsupported as reason:
        status, text = "n/a", str(reason)
    except EXPECTED as reason:
        status, text = "failed", str(reason)
    except (Exception, SystemExit) as error:  # a cell must never take the grid down
        log = f"logs/{task.spec.run_id}.log"
        write_text(store.root / log, traceback.format_exc())
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        status, text = "failed", f"{what} (see {log})"
    if task.kind == "cell":
        store.write_attempt(task.spec, status, text, log)
    return Ended(status, f"{task.name}: {status}: {text}", time.monotonic() - started)


def _do(task: Task, store: Store, report: Report) -> str:
    options, spec = task.options, task.spec
    keyed = options.model_dump_json(include=set(DATA_FIELDS))
    data = cached_data(keyed)
    if data.identity != spec.data:
        raise BadInput("the data changed since the grid was planned")
    entry = find(task.label)
    context = Context(
        store=store,
        data=data,
        device=options.torch_device(),
        progress=lambda phase, done, total: report(task.name, phase, done, total),
        checkpoint=options.checkpoint,
        compiled=options.compile,
        optimistic=wants_optimistic(options),
        command=task.command,
    )
    if task.kind == "dense":
        set_threads_and_determinism(spec.threads)
        trainer = make_trainer(spec, context)
        test = BatchSource(data.test, spec.data, context.device)
        method = build_method(entry, spec.method.params)
        stage = baseline.dense_stage(spec, method, trainer, test, store, options.checkpoint)
        return f"{task.name}: {100 * stage.facts['accuracy']['test_top1']:.2f} % test top-1"
    record = run_one(spec, entry, context)
    line = f"{task.name}: {100 * record.final.test_top1:.2f} % test top-1"
    cut = f" with {100 * record.flops_reduction:.1f} % of the FLOPs removed"
    return line + (cut if record.flops_reduction else "")


def wants_optimistic(options: Options) -> bool:
    """On in the paper track, off elsewhere, unless said (DECISIONS 19)."""
    return options.track == "paper" if options.optimistic is None else options.optimistic


def task_of(kind: str, cell: Cell, options: Options) -> Task:
    label = next(m for m in [*options.methods, cell.entry.label] if _same(m, cell))
    return Task(kind, cell.spec, label, options, command_of(cell, options, label))


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
        if name in ("results", "jobs", "device"):
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
