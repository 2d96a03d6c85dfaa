"""What a launcher set out to do, on disk: so that others can tell later, and go on without it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from benchmark.command import ELSEWHERE
from benchmark.errors import BadInput
from benchmark.files import dump_json, write_text
from benchmark.options import Options
from benchmark.ownmodel import is_file
from benchmark.probe import Seconds
from benchmark.record import parse_json
from benchmark.spec import RunSpec, digest
from benchmark.store import Store
from benchmark.sweep import Cell
from benchmark.tasks import Task, task_of


@dataclass(frozen=True)
class Planned:
    """One piece of work of a grid: a cell, or a dense network that cells share."""

    kind: str
    key: str  # of its claim and its log
    name: str
    spec: RunSpec
    dense: str  # key of the dense network it starts from; empty: none
    blocked: str  # why it cannot run; empty: it can
    seconds: Seconds | None  # estimated


WORK = TypeAdapter(Planned)


@dataclass(frozen=True)
class Grid:
    """A grid as it was launched last."""

    key: str
    options: Options
    started: float
    jobs: int
    work: tuple[Planned, ...]


def settled(options: Options) -> Options:
    """With full paths, so that it means the same from any working directory."""
    full = {
        name: None if path is None else path.resolve()
        for name in ("data_dir", "checkpoint", "site")
        for path in [getattr(options, name)]
    }
    full["extra_test"] = {name: path.resolve() for name, path in options.extra_test.items()}
    methods = [str(Path(m).resolve()) if m.endswith(".py") else m for m in options.methods]
    arch = str(Path(options.arch).resolve()) if is_file(options.arch) else options.arch
    return options.model_copy(update=full | {"methods": methods, "arch": arch})


def grid_key(options: Options) -> str:
    """The same grid whoever launches it, from wherever."""
    return digest(settled(options).model_dump(mode="json", exclude=ELSEWHERE), 12)


def write_grid(
    store: Store,
    options: Options,
    cells: list[Cell],
    tasks: list[Task],
    jobs: int,
    seconds: Mapping[str, Seconds],
) -> str:
    """Put it down; the key. A grid that is launched again replaces itself, and keeps the estimates
    of what it ended before."""
    key = grid_key(options)
    path = store.root / "grids" / f"{key}.json"
    before = read_grid(path)
    known = {w.key: w.seconds for w in before.work} if before else {}
    dense = [t for t in tasks if t.kind == "dense"]
    work = [_planned(t, "", seconds.get(t.makes)) for t in dense]
    for cell in cells:
        own = seconds.get(cell.spec.run_id) or known.get(cell.spec.run_id)
        work.append(planned_cell(cell, options, own))
    have = {w.key for w in work}
    work += [w for w in before.work if w.kind == "dense" and w.key not in have] if before else []
    content = {
        "options": settled(options).model_dump(mode="json"),
        "started": time.time(),
        "jobs": jobs,
        "work": [asdict(w) | {"spec": w.spec.model_dump(mode="json")} for w in work],
    }
    write_text(path, dump_json(content))
    return key


def planned_cell(cell: Cell, options: Options, seconds: Seconds | None = None) -> Planned:
    """The work that a cell of a grid is."""
    return _planned(task_of("cell", cell, options), cell.blocked, seconds)


def _planned(task: Task, blocked: str, seconds: Seconds | None) -> Planned:
    needs = task.needs if task.kind == "cell" and task.spec.start.kind != "random" else ""
    return Planned(task.kind, task.key, task.name, task.spec, needs, blocked, seconds)


def read_grids(store: Store) -> list[Grid]:
    """All grids launched on these results that this version understands, the newest first."""
    found = [read_grid(path) for path in (store.root / "grids").glob("*.json")]
    return sorted((g for g in found if g is not None), key=lambda g: (-g.started, g.key))


def read_grid(path: Path) -> Grid | None:
    """None: not there, or not a grid of this version. A grid is a convenience, not a result."""
    try:
        content = parse_json(path.read_bytes())
        work = tuple(WORK.validate_python(row) for row in content["work"])
        known = {"controls": False} | content["options"]  # grids of before controls were added
        options = Options.model_validate(known)
        return Grid(path.stem, options, float(content["started"]), int(content["jobs"]), work)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def unreadable_grids(store: Store) -> list[Path]:
    """Files that should be grids and are not, or not of this version."""
    return [p for p in sorted((store.root / "grids").glob("*.json")) if read_grid(p) is None]


def known_grids(store: Store) -> list[Grid]:
    """As `read_grids`.

    Raises:
        BadInput: there is none.
    """
    found, broken = read_grids(store), unreadable_grids(store)
    if not found and broken:
        raise BadInput(f"{broken[0]} cannot be read: give the command of the grid again")
    if not found:
        raise BadInput(f"no grid was launched on {store.root}: python -m benchmark.run makes one")
    return found
