"""The page `hardware.md`: a section per machine, of which one is written and the others stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.archtable import markdown_table
from benchmark.errors import BadInput
from benchmark.ledger import TRAIN_STEP
from benchmark.spec import Precision
from benchmark.traffic import Traffic

PAGE = "hardware.md"
TITLE = "# How long an epoch takes, by machine"
INTRO = f"""{TITLE}

Written by `python -m benchmark.hardware`, which replaces the section of the machine it runs on and
leaves the others. Timings: they differ from run to run, and mean nothing where other work went on.

- *step*: median time of a step of the suite's own training loop on random images in the device's
  memory, augmentation and optimizer included. *epoch*: that pace for as many images.
- *floor*: bytes of an epoch if outputs of convolutions and linear layers are written and read
  once, so are their gradients, and everything else is fused. *eager*: if every operation of the
  forward graph is a pass of its own that reads its inputs and writes its outputs, and moves the
  same twice in the backward pass. Both are counted from the traced network, not measured; all
  floats have the size of the precision; the optimizer is left out.
- *of floor*, *of eager*: the time that a large copy takes for as many bytes, over the time of the
  step. Above 100 %, caches keep what the bound sends to memory, or operations are fused.
- *of matmul*: the time that a large matrix product takes for the arithmetic of the step (three
  times that of the forward pass), over the time of the step.
"""
COLUMNS = (
    "network", "precision", "mode", "batch", "step (ms)", "images/s", "epoch (s)", "floor (GB)",
    "of floor", "eager (GB)", "of eager", "MACs (T)", "of matmul",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What was found of a machine. Speeds per second: bytes read and written by a large copy,
    floating-point operations of a large product by precision. Load: before and after."""

    name: str
    device: str
    torch: str
    threads: int
    copy: float
    matmul: dict[Precision, float]
    load: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One network at one setting. `step`: seconds; `traffic`: of a step; `macs`: of the forward
    pass of one image."""

    arch: str
    precision: Precision
    compiled: bool
    batch_size: int
    images: int  # of an epoch
    step: float
    traffic: Traffic
    macs: int

    @property
    def steps(self) -> float:
        """Of an epoch; the last one may be a part."""
        return self.images / self.batch_size


def cells(row: Row, machine: Machine) -> tuple[str, ...]:
    """Of the row, in the order of `COLUMNS`."""

    def share(work: float, speed: float) -> str:
        return f"{100 * work / speed / row.step:.1f} %"

    floor, eager = row.traffic.floor, row.traffic.eager
    macs = TRAIN_STEP * row.macs * row.batch_size
    return (
        row.arch,
        row.precision,
        "compiled" if row.compiled else "eager",
        str(row.batch_size),
        f"{1e3 * row.step:.2f}",
        f"{row.batch_size / row.step:.0f}",
        f"{row.steps * row.step:.2f}",
        f"{row.steps * floor / 1e9:,.1f}",
        share(floor, machine.copy),
        f"{row.steps * eager / 1e9:,.1f}",
        share(eager, machine.copy),
        f"{row.steps * macs / 1e12:.2f}",
        share(2 * macs, machine.matmul[row.precision]),
    )


def section(machine: Machine, rows: list[Row], command: str) -> str:
    """The section of a machine, without its heading."""
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    products = ", ".join(
        f"{precision} {speed / 1e12:.3g} TFLOP/s" for precision, speed in machine.matmul.items()
    )
    before, after = machine.load
    return f"""{machine.device}, torch {machine.torch}, {threads}. A large copy reads and writes \
{machine.copy / 1e9:.1f} GB/s; a large product computes {products}. Load of the machine: \
{before:.1f} before, {after:.1f} after. An epoch has {rows[0].images:,} images. Made by

    {command}

{markdown_table(COLUMNS, iter([cells(row, machine) for row in rows]))}"""


def read_sections(path: Path) -> dict[str, str]:
    """Text of each section by its heading; empty where there is no page yet.

    Raises:
        BadInput: the file is not a page of this command.
    """
    if not path.exists():
        return {}
    text = path.read_text("utf-8", errors="replace")
    if not text.startswith(f"{TITLE}\n"):
        raise BadInput(f"{path} is not a page of this command: move it elsewhere")
    parts = (part.partition("\n") for part in text.split("\n## ")[1:])
    return {name: body.strip("\n") for name, _, body in parts}


def page(sections: dict[str, str]) -> str:
    """The whole page; sections in the order of their first writing."""
    parts = [f"## {name}\n\n{body}\n" for name, body in sections.items()]
    return "\n".join([INTRO, *parts])
