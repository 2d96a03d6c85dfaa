"""Cells of the support matrix, and the file that keeps them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmark.files import write_text


@dataclass(frozen=True)
class Cell:
    """One pair. `supported` is `yes`, `no` (n/a, with its reason) or `broken`."""

    arch: str
    structure: str
    method: str
    revision: int
    supported: str
    reason: str = ""
    reduction: float | None = None  # reached, of TARGET
    twin: float | None = None  # largest relative difference of masked and smaller network
    first_loss: float | None = None
    last_loss: float | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """A cell of another structure or revision must be run again."""
        return self.arch, self.structure, self.method, self.revision


def read_cells(path: Path) -> list[Cell]:
    """Cells of a file; none where there is no file."""
    if not path.is_file():
        return []

    def number(text: str) -> float | None:
        return float(text) if text else None

    with path.open(newline="") as file:
        return [
            Cell(
                row["arch"], row["structure"], row["method"], int(row["revision"]),
                row["supported"], row["reason"],
                *(number(row[n]) for n in ("reduction", "twin", "first_loss", "last_loss")),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    """All cells, sorted."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [f.name for f in fields(Cell)], lineterminator="\n")
    writer.writeheader()
    for cell in sorted(cells, key=lambda c: (c.arch, c.method)):
        writer.writerow({k: "" if v is None else v for k, v in asdict(cell).items()})
    write_text(path, file.getvalue())
