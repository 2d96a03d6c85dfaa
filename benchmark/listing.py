"""What `--list` and `--dry-run` print."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.table import Table

from benchmark import archs, archtable
from benchmark.data import NAMES, installed
from benchmark.errors import BadInput, NoProbe
from benchmark.estimate import Forecast, forecast, is_done
from benchmark.kinds import LANES
from benchmark.options import Options
from benchmark.probe import Seconds
from benchmark.progress import counted
from benchmark.sweep import Cell
from benchmark.tasks import dense_key
from benchmark.tuning import shown
from methods import Entry, all_names, docstring, find
from methods import installed as installed_methods

DATASETS = {
    "digits": "1,797 images of scikit-learn, 16 x 16; needs no download, saturates near 99 %",
    "cifar10": "60,000 images, 32 x 32, 10 classes; read or downloaded to --data-dir",
    "cifar100": "60,000 images, 32 x 32, 100 classes; read or downloaded to --data-dir",
    "imagenet": "DIR/train/<class>/* or DIR/train/*.tar, DIR/val/ alike; read from disk",
    "imagefolder": "DIR/train/<class>/*, DIR/test/<class>/*; give --data-dir and --data-name",
}


def show_list(what: str, console: Console) -> None:
    """Ours, then those of installed packages, then a warning for each of these that cannot be
    used. Raises BadInput for anything but methods, archs, datasets."""
    tables = {"methods": _methods, "archs": _archs, "datasets": _datasets}
    if what not in tables:
        raise BadInput(f"--list {what}: give one of {', '.join(tables)}")
    table, problems = tables[what]()
    console.print(table)
    for problem in problems:
        console.print(f"warning: {problem}", highlight=False, markup=False, soft_wrap=True)


def _methods() -> tuple[Table, list[str]]:
    table = Table("name", "kind", "tracks", "allocation", "what it does")
    theirs, problems = installed_methods()
    for entry in [*map(find, all_names()), *theirs]:
        words = (str(entry.card["card"].get("kind", "method")), LANES[entry.result])
        kind = ", ".join(word for word in words if word)
        allocations = "/".join(entry.cls.allocations)
        table.add_row(entry.label, kind, ",".join(entry.tracks), allocations, _what(entry))
    return table, problems


def _what(entry: Entry) -> str:
    summary = entry.card.get("variant", {}).get(entry.variant, {}).get("summary")
    return (summary or docstring(entry)) + (f" ({entry.package})" if entry.package else "")


def _archs() -> tuple[RenderableType, list[str]]:
    theirs, problems = archs.installed()
    table = Table("name", "package", title="of installed packages")
    for name, package in theirs:
        table.add_row(name, package)
    return Group(archtable.console_table(), *[table] * bool(theirs)), problems


def _datasets() -> tuple[Table, list[str]]:
    table, (theirs, problems) = Table("name", "what it is"), installed()
    for name in NAMES:
        table.add_row(name, DATASETS[name])
    for name, package in theirs:
        table.add_row(name, f"of package {package}")
    return table, problems


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
        if spec.start.kind == "checkpoint":  # by the hash that records and protocols name it by
            shared = f"checkpoint {spec.start.checkpoint[:8]}"
        elif spec.start.kind != "random":
            shared = f"{spec.start.kind} {dense_key(cell)[:8]}"
        target = f"{100 * spec.flops_reduction:.1f} %" if spec.flops_reduction else "-"
        table.add_row(
            f"{spec.name} {shown(spec.tuned_values)}".strip(), target, spec.allocation,
            str(spec.seeds.run), shared,
            spec.run_id, state, str(expected.tasks.get(spec.run_id, "-")),
        )  # fmt: skip
    console.print(table)
    for line in summary(cells, options, jobs, expected):
        console.print(line, highlight=False)


def added_line(cells: list[Cell]) -> str:
    """Which cells are there though nobody asked for them, and how to do without; empty: none."""
    names = Counter(cell.spec.name for cell in cells if cell.added)
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
        lines.append(f"{networks} to make first: {sum(each, Seconds())}")
    if expected.tasks:
        workers = f"{jobs} job{'s' if jobs > 1 else ''}"
        if options.executor == "slurm":
            workers = f"{jobs} cells at once on nodes like this machine"
        lines.append(f"in all {expected.total} with {workers}, {expected.basis}")
    return [line for line in lines if line]
