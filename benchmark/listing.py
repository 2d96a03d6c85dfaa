"""What `--list` and `--dry-run` print."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from benchmark import archtable
from benchmark.data import NAMES
from benchmark.errors import BadInput, NoProbe
from benchmark.estimate import Forecast, forecast, is_done
from benchmark.lanes import LANES
from benchmark.options import Options
from benchmark.probe import Seconds
from benchmark.progress import counted
from benchmark.sweep import Cell
from benchmark.tasks import dense_key
from methods import all_names, docstring, find

DATASETS = {
    "digits": "1,797 images of scikit-learn, 16 x 16; needs no download, saturates near 99 %",
    "cifar10": "60,000 images, 32 x 32, 10 classes; read or downloaded to --data-dir",
    "cifar100": "60,000 images, 32 x 32, 100 classes; read or downloaded to --data-dir",
    "imagenet": "DIR/train/<class>/* or DIR/train/*.tar, DIR/val/ alike; read from disk",
    "imagefolder": "DIR/train/<class>/*, DIR/test/<class>/*; give --data-dir and --data-name",
}


def show_list(what: str, console: Console) -> None:
    """Raises BadInput for anything but methods, archs, datasets."""
    tables = {"methods": _methods, "archs": archtable.console_table, "datasets": _datasets}
    if what not in tables:
        raise BadInput(f"--list {what}: give one of {', '.join(tables)}")
    console.print(tables[what]())


def _methods() -> Table:
    table = Table("name", "kind", "tracks", "allocation", "what it does")
    for label in all_names():
        entry = find(label)
        kind = ", ".join(
            word for word in (entry.card["card"].get("kind", "method"), LANES[entry.result]) if word
        )
        allocations = "/".join(entry.cls.allocations)
        summary = entry.card.get("variant", {}).get(entry.variant, {}).get("summary")
        table.add_row(label, kind, ",".join(entry.tracks), allocations, summary or docstring(entry))
    return table


def _datasets() -> Table:
    table = Table("name", "what it is")
    for name in NAMES:
        table.add_row(name, DATASETS[name])
    return table


def show_grid(cells: list[Cell], options: Options, jobs: int, console: Console) -> None:
    """Cells, which are done, which dense network they share, what the rest will cost."""
    try:
        expected = forecast(cells, options, jobs)
    except NoProbe:  # the machines that will do it are not here
        expected = Forecast({}, Seconds())
    table = Table(
        "method", "target", "allocation", "seed", "starts from", "run id", "state", "estimate"
    )
    for cell in cells:
        spec = cell.spec
        done = is_done(cell, options)
        state = f"{cell.status}: {cell.blocked}" if cell.blocked else "done" if done else "to do"
        shared: str = spec.start.kind
        if spec.start.kind != "random":
            shared = f"{spec.start.kind} {dense_key(cell)[:8]}"
        target = f"{100 * spec.flops_reduction:.1f} %" if spec.flops_reduction else "-"
        table.add_row(
            _name(cell), target, spec.allocation, str(spec.seeds.run), shared,
            spec.run_id, state, str(expected.tasks.get(spec.run_id, "-")),
        )  # fmt: skip
    console.print(table)
    for line in summary(cells, options, jobs, expected):
        console.print(line, highlight=False)


def _name(cell: Cell) -> str:
    spec = cell.spec
    ls = " + ls" if spec.reconstruct == "ls" else ""
    free = " (preparation free)" if spec.preparation == "free" else ""
    return f"{spec.method.label}{ls}{free}"


def added_line(cells: list[Cell]) -> str:
    """Which cells are there though nobody asked for them, and how to do without; empty: none."""
    names = Counter(_name(cell) for cell in cells if cell.added)
    if not names:
        return ""
    each = ", ".join(name + (f" x{n}" if n > 1 else "") for name, n in names.items())
    counts = counted(names.total(), "cell")
    return f"{counts} added as controls and references: {each}; --no-controls leaves them out"


def summary(cells: list[Cell], options: Options, jobs: int, expected: Forecast) -> list[str]:
    """What is left to do, and what it will cost."""
    done = sum(is_done(c, options) for c in cells)
    blocked = sum(bool(c.blocked) for c in cells)
    counts = f"{len(cells)} cells: {done} done, {len(cells) - done - blocked} to run, "
    lines = [f"{counts}{blocked} not applicable", added_line(cells)]
    if expected.dense:
        each = [expected.tasks[key] for key in expected.dense]
        networks = f"{len(each)} dense network{'s' if len(each) > 1 else ''}"
        lines.append(f"{networks} to train first: {sum(each, Seconds())}")
    if expected.tasks:
        workers = f"{jobs} job{'s' if jobs > 1 else ''}"
        if options.executor == "slurm":
            workers = f"{jobs} cells at once on nodes like this machine"
        lines.append(f"in all {expected.total} with {workers}, {expected.basis}")
    return [line for line in lines if line]
