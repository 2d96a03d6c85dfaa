"""`python -m benchmark.hardware --arch NAME,NAME`: how long an epoch takes on this machine, beside
what memory bandwidth and matrix products allow. Writes `hardware.md` under `--results`.
"""

from __future__ import annotations

import copy
import os
import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from benchmark import archs, environment, flops, ownmodel, pace
from benchmark.archs import Arch
from benchmark.cli import DONE, console, run_app
from benchmark.context import as_in_a_run, set_threads_and_determinism
from benchmark.errors import BadInput
from benchmark.files import check_writable, write_text
from benchmark.hardwarepage import PAGE, Machine, Row, page, read_sections, section
from benchmark.options import options_from
from benchmark.pace import Setting
from benchmark.preflight import CLASSES, IMAGE_SIZE
from benchmark.record import one_line
from benchmark.spec import Precision
from benchmark.sweep import precision_of
from benchmark.traffic import Traffic, traffic
from methods.api import Unsupported

Say = Callable[[str], None]
SMALL, FEW = 32, 10  # pixels a side and classes of CIFAR, for which such networks are made
PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Request:
    """What is timed. `labels`: architectures, with what they stand for."""

    labels: dict[str, Arch]
    precisions: tuple[Precision, ...]
    modes: tuple[bool, ...]  # compiled or not
    batch_size: int
    images: int  # of an epoch
    steps: int
    device: torch.device
    threads: int


def request_of(
    arch: str, precision: str, compiled: bool, batch_size: int, images: int, steps: int,
    device: str, threads: int,
) -> Request:  # fmt: skip
    """From the words of the command line.

    Raises:
        BadInput: unknown architecture, a precision or a device that is not here.
    """
    where = options_from({"device": device}).torch_device()
    labels = {label: archs.find(label) for label in _words("--arch", arch)}
    chosen = _words("--precision", precision)
    for word in chosen:
        if word not in PRECISIONS:
            raise BadInput(f"--precision {word}: give {' or '.join(PRECISIONS)}, or both")
    best = precision_of(options_from({"device": where.type, "precision": "auto"}))
    if "bf16" in chosen and best != "bf16":
        raise BadInput(f"--precision bf16: {machine_name(where)} does not compute in bfloat16")
    return Request(
        labels, tuple(PRECISIONS[word] for word in chosen), (False, True)[: 1 + compiled],
        batch_size, images, steps, where, threads,
    )  # fmt: skip


def _words(flag: str, text: str) -> list[str]:
    found = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise BadInput(f"{flag}: nothing is named")
    return found


def machine_name(device: torch.device) -> str:
    """Of the GPU or the processor that computes; machines of that name share a section."""
    return str(environment.describe()["gpu" if device.type == "cuda" else "cpu"])


def command_of(request: Request) -> str:
    """The command, but for where results are; files are named without their folders."""
    labels = [Path(n).name if ownmodel.is_file(n) else n for n in request.labels]
    words = ["--arch", ",".join(labels), "--precision", ",".join(request.precisions)]
    words += ["--compile"] * any(request.modes)
    words += ["--batch-size", str(request.batch_size), "--images", str(request.images)]
    words += ["--steps", str(request.steps), "--device", request.device.type]
    words += ["--threads", str(request.threads)]
    return shlex.join(["python", "-m", "benchmark.hardware", *words])


# ---- measuring -----------------------------------------------------------------------------------


def measure(request: Request, say: Say) -> tuple[Machine, list[Row]]:
    """What this machine can do, and a row per network, precision and mode.

    Raises:
        BadInput: a network cannot be traced or compiled, or there is no memory for its batch.
    """
    before = os.getloadavg()[0]
    set_threads_and_determinism(request.threads)  # as in a run
    with as_in_a_run(request.threads):
        copied = pace.copy_speed(request.device)
        products = {p: pace.matmul_speed(request.device, p) for p in request.precisions}
        own = [rows_of(label, arch, request, say) for label, arch in request.labels.items()]
    machine = Machine(
        machine_name(request.device), request.device.type, torch.__version__, request.threads,
        copied, products, (before, os.getloadavg()[0]),
    )  # fmt: skip
    return machine, [row for rows in own for row in rows]


def rows_of(label: str, arch: Arch, request: Request, say: Say) -> list[Row]:
    """A row per precision and mode of one network.

    Raises:
        BadInput: as `measure`.
    """
    side = arch.image_size or IMAGE_SIZE
    classes = FEW if arch.image_size == SMALL else CLASSES
    model = arch.build(classes)
    macs = flops.cost(model, torch.zeros(1, 3, side, side)).macs
    rows = []
    for precision in request.precisions:
        moved = _traffic(label, model, request.batch_size, side, precision)
        for compiled in request.modes:
            setting = Setting(
                precision, compiled, request.batch_size, request.steps, side, classes,
                request.device,
            )  # fmt: skip
            step = statistics.median(_timed(label, model, setting))
            row = Row(
                arch.name, precision, compiled, request.batch_size, request.images, step, moved,
                macs,
            )  # fmt: skip
            say(in_words(row))
            rows.append(row)
    return rows


def _traffic(label: str, model: nn.Module, batch: int, side: int, precision: Precision) -> Traffic:
    try:
        return traffic(model, batch, side, precision)
    except Unsupported as reason:
        raise BadInput(f"--arch {label}: its traffic cannot be counted: {reason}") from reason


def _timed(label: str, model: nn.Module, setting: Setting) -> list[float]:
    """Seconds of each step, of a copy of the network."""
    try:
        return pace.step_times(copy.deepcopy(model), setting)
    except torch.OutOfMemoryError as error:
        said = f"no memory for a batch of {setting.batch_size} of {label}"
        raise BadInput(f"--batch-size: {said}") from error
    except Exception as error:  # of the tracer, the compiler or the linker
        if not setting.compiled:
            raise
        raise BadInput(f"--compile: {label}: {one_line(error)[:200]}") from error


def in_words(row: Row) -> str:
    """One line about a row, for the terminal."""
    mode = "compiled" if row.compiled else "eager"
    return (
        f"{row.arch}, {row.precision}, {mode}: {1e3 * row.step:.2f} ms a step of "
        f"{row.batch_size}, {row.steps * row.step:.2f} s an epoch of {row.images:,}"
    )


# ---- the command ---------------------------------------------------------------------------------


def main(
    arch: Annotated[str, typer.Option(help="One or more, with commas: as of benchmark.run.")],
    precision: Annotated[str, typer.Option(help="fp32, bf16, or both with a comma.")] = "fp32",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Also with torch.compile: minutes.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 128,
    images: Annotated[int, typer.Option(min=1, help="Of an epoch.")] = 50_000,
    steps: Annotated[int, typer.Option(min=1, help="Timed, after a few that are not.")] = 30,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Of the processor.")] = 1,
    results: Annotated[Path, typer.Option(help="Where hardware.md is.")] = Path("results"),
) -> int:
    """How long an epoch of training takes on this machine, beside what memory bandwidth allows.

    Example: python -m benchmark.hardware --arch resnet56,resnet110 --precision fp32,bf16
    """
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    request = request_of(
        arch, precision, compile_, batch_size, images, steps, device, threads
    )  # fmt: skip
    check_writable(results)
    path = results / PAGE
    read_sections(path)  # a file that is no page of ours is refused before the work
    machine, rows = measure(request, say)
    own = section(machine, rows, command_of(request))
    write_text(path, page(read_sections(path) | {machine.name: own}))
    say(f"written to {path}")
    return DONE


if __name__ == "__main__":
    run_app(main)
