"""`python -m benchmark.status`: how far the grids of a results directory are, from disk alone."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.cli import DONE, console, run_app, warn_of_damage
from benchmark.grid import Grid, known_grids, read_grids
from benchmark.progress import counted, duration
from benchmark.state import ALIVE, OPEN, STATES, Now, pace, remaining, states
from benchmark.store import Store
from benchmark.submissions import Coverage, coverage

COLOURS = {
    "running": "bold blue", "waiting": "cyan", "queued": "yellow",
    "interrupted": "magenta", "failed": "bold red", "damaged": "bold red",
    "to do": "default", "done": "green", "n/a": "bright_black", "not run": "bright_black",
}  # fmt: skip
MARKS = {
    "running": "R", "waiting": "W", "queued": "Q", "interrupted": "I", "failed": "F",
    "to do": ".", "done": "D", "damaged": "X", "n/a": "-", "not run": "-",
}  # fmt: skip
PAUSE = 2.0  # seconds between two looks
WIDE = 500
NOBODY = "no launcher is at work on it"


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    watch: Annotated[bool, typer.Option("--watch", help="Look again until all is done.")] = False,
) -> int:
    """Every grid launched on these results: a map of its cells, what runs, what failed and why.

    Example: python -m benchmark.status --results results-demo --watch
    """
    screen, store = console(), Store(results)
    if not screen.is_terminal:
        screen = Console(width=WIDE)  # one line per cell, for grep
    known_grids(store)
    warn_of_damage(store.damaged(), screen)
    if not watch:
        screen.print(picture(store))
        return DONE
    try:
        _watch(store, screen)
    except KeyboardInterrupt:
        screen.print("stopped looking; the grid is not touched")
    return DONE


def _watch(store: Store, screen: Console) -> None:
    """On a terminal the picture changes in place; in a log one line is added when it changed."""
    said = ""
    with Live(console=screen, auto_refresh=False, transient=False) as live:
        while True:
            cluster = coverage(store)
            rows = states(store, cluster=cluster)
            line = summary(rows)
            if screen.is_terminal:
                live.update(picture(store, cluster), refresh=True)
            elif line != said:
                screen.print(line, highlight=False)
            said = line
            if not any(row.state in OPEN for row in rows):
                return
            if abandoned(rows, store, cluster):
                screen.print("nobody is at work on the rest: python -m benchmark.retry goes on")
                return
            time.sleep(PAUSE)


def abandoned(rows: list[Now], store: Store, cluster: Coverage) -> bool:
    """Whether nothing will change by itself: no launcher, no process at work, no job."""
    held = any(store.claims.is_held("grid", grid.key) for grid in read_grids(store))
    return not (held or cluster.live or cluster.silent or any(r.state in ALIVE for r in rows))


def picture(store: Store, cluster: Coverage | None = None) -> RenderableType:
    """All that there is to see."""
    jobs = coverage(store) if cluster is None else cluster
    parts: list[RenderableType] = []
    for grid in read_grids(store):
        parts += grid_picture(grid, store, jobs)
    if jobs.silent:
        parts.append(Text(f"{jobs.silent}: all of this is from disk alone", COLOURS["queued"]))
    return Group(*parts)


def launcher(grid: Grid, rows: list[Now], store: Store, cluster: Coverage) -> str:
    """Who is at work on the grid."""
    claim = store.claims.read("grid", grid.key)
    if claim is not None and store.claims.is_held("grid", grid.key):
        return f"launched by {claim.holder}"
    jobs = {job.id: job.state for row in rows if (job := cluster.alive(row.work.key))}
    if jobs:
        counts = Counter(state.lower() for state in jobs.values())
        said = ", ".join(f"{n} {state}" for state, n in counts.items())
        return f"on the cluster: {counted(len(jobs), 'job')} ({said})"
    return NOBODY


def grid_picture(grid: Grid, store: Store, cluster: Coverage) -> list[RenderableType]:
    """A line about the launcher, the map, and what deserves a line of its own."""
    rows = states(store, [grid], cluster)
    who = launcher(grid, rows, store, cluster)
    held = who != NOBODY
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(grid.started))
    options = grid.options
    data = options.data_name or options.dataset
    parts: list[RenderableType] = [
        Text(f"{options.arch} on {data}, {options.track} track, started {started}; {who}"),
        map_of(rows),
        Text(summary(rows) + forecast_line(rows, grid.jobs, held)),
    ]
    notable = [r for r in rows if r.state not in ("done", "to do", "n/a", "not run")]
    if notable:
        parts.append(details(notable, pace(rows)))
    blocked = Counter(r.reason for r in rows if r.state in ("n/a", "not run"))
    parts += [
        Text(f"  - {counted(n, 'cell')}: {reason}", COLOURS["n/a"]) for reason, n in blocked.items()
    ]
    return parts


def map_of(rows: list[Now]) -> Table:
    """One row per method, one letter per target and seed, coloured by state."""
    table = Table(box=None, pad_edge=False, show_header=True)
    table.add_column("")
    cells: dict[str, dict[str, Text]] = {}
    shown = [row for row in rows if row.work.kind == "cell"]
    several = len({row.work.spec.allocation for row in shown} - {"none"}) > 1
    for row in shown:
        spec = row.work.spec
        where = f" {spec.allocation}" if several and spec.allocation != "none" else ""
        name = f"{spec.name}{where}"
        target = f"{100 * spec.flops_reduction:g} %" if spec.flops_reduction else "dense"
        letters = cells.setdefault(name, {}).setdefault(target, Text())
        letters.append(MARKS[row.state], COLOURS[row.state])
    targets = list(dict.fromkeys(t for line in cells.values() for t in line))
    for target in targets:
        table.add_column(target)
    for name, line in cells.items():
        table.add_row(name, *(line.get(target, Text()) for target in targets))
    return table


def summary(rows: list[Now]) -> str:
    """`12 cells: 8 done (D), 2 running (R), 2 to do (.)`"""
    cells = [row for row in rows if row.work.kind == "cell"]
    counts = Counter(row.state for row in cells)
    said = [f"{counts[s]} {s} ({MARKS[s]})" for s in reversed(STATES) if counts[s]]
    dense = [row for row in rows if row.work.kind == "dense"]
    ready = sum(row.state == "done" for row in dense)
    networks = f"; {ready} of {counted(len(dense), 'dense network')} trained" if dense else ""
    return f"{counted(len(cells), 'cell')}: {', '.join(said)}{networks}"


def forecast_line(rows: list[Now], jobs: int, held: bool) -> str:
    """What is left, and estimate beside actual for what is done."""
    left = remaining(rows, jobs)
    text = ""
    if left is not None and left.high > 0:
        text += f"; about {left} left" + ("" if held else " once somebody goes on")
    known = [(r.took, r.work.seconds.middle) for r in rows if r.took and r.work.seconds]
    if known:
        expected, took = sum(e for _, e in known), sum(t for t, _ in known)
        text += f"; finished cells took {duration(took)}, estimated {duration(expected)}"
    return text


def details(rows: list[Now], scale: float) -> Table:
    """State, cell, where it is, how long yet, and the last line of its log."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in sorted(rows, key=lambda r: (STATES.index(r.state), r.work.name)):
        told = row.line if row.state == "running" else row.reason
        if row.state == "running" and row.since:
            told = f"{row.age}: {told}"
        table.add_row(
            Text(row.state, COLOURS[row.state]), row.work.key.partition("-")[2] or row.work.key,
            row.work.name, row.share, _left(row, scale), Text(told, overflow="fold"),
        )  # fmt: skip
    return table


def _left(row: Now, scale: float) -> str:
    if row.state != "running" or row.work.seconds is None or not row.since:
        return ""
    seconds = row.work.seconds.middle * scale - (time.time() - row.since)
    return f"{duration(seconds)} left" if seconds > 0 else "soon"


if __name__ == "__main__":
    run_app(main)
