"""How far a grid is: bars with n/N and ETA on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `2.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def counted(number: int, thing: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@contextlib.contextmanager
def counting(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws a bar with n/N and ETA on a terminal, and writes a plain
    line at every quarter into a log. Nothing is shown for work that never calls it."""
    quarters = 0

    def say(done: int, total: int) -> None:
        nonlocal quarters
        if 4 * done // max(1, total) > quarters:
            quarters = 4 * done // max(1, total)
            console.print(f"{title}: {done}/{total}", highlight=False)

    if not console.is_terminal:
        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(title, total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


@dataclass
class GridProgress:
    """Shows the cells of one wave. `update` is fed by workers, `finish` by the launcher."""

    console: Console
    title: str
    total: int
    workers: int
    done: int = 0
    _started: float = field(default_factory=time.monotonic)
    _bars: Progress | None = None
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def __enter__(self) -> GridProgress:
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bars.start()
            self._tasks[""] = self._bars.add_task(self.title, total=self.total, note="")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, cell: str, phase: str, done: int, total: int) -> None:
        """A running cell has done this many images of a phase."""
        if self._bars is None:
            return
        if cell not in self._tasks:
            self._tasks[cell] = self._bars.add_task(f"  {cell}", total=total, note="")
        self._bars.update(self._tasks[cell], completed=done, total=total, note=f"{phase} (images)")

    def finish(self, cell: str, line: str) -> None:
        """A cell ended; `line` says how."""
        self.done += 1
        eta = self.eta()
        left = f", about {duration(eta)} left" if self.done < self.total and eta > 0 else ""
        if self._bars is not None and cell in self._tasks:
            self._bars.remove_task(self._tasks.pop(cell))
        if self._bars is not None:
            self._bars.update(self._tasks[""], completed=self.done, note=left.removeprefix(", "))
        self.console.print(
            f"[{self.done}/{self.total}] {line}{left}", highlight=False, markup=False
        )

    def say(self, line: str) -> None:
        """A line about a cell that goes on."""
        self.console.print(line, highlight=False, markup=False)

    def eta(self) -> float:
        """Seconds, from the pace so far; cells in work count as half done."""
        running = 0.5 * min(self.workers, self.total - self.done)
        elapsed = time.monotonic() - self._started
        return elapsed / (self.done + running) * (self.total - self.done - running)
