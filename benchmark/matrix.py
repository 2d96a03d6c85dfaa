"""`python -m benchmark.matrix`: every method on every architecture, each pair really run.

A pair is supported if the method chooses channels within its budget, the masked network equals the
smaller one, the analytic cost equals fvcore's, and the smaller network learns (DECISIONS 35).
"""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from benchmark import archs, twins
from benchmark.archs import structure_hash
from benchmark.became import became
from benchmark.checkpoint import seed_everything
from benchmark.cli import DONE, FAILED, console, run_app
from benchmark.conformance import TWIN
from benchmark.errors import BadInput
from benchmark.files import write_text
from benchmark.images import BatchSource, DataIdentity, Images
from benchmark.ledger import Ledger
from benchmark.matrixcells import Cell, read_cells, write_cells
from benchmark.matrixpage import ELSEWHERE, readme_with, render
from benchmark.network import Network
from benchmark.phase import Diverged
from benchmark.progress import counted
from benchmark.randomise import randomise
from benchmark.spec import Recipe
from benchmark.sweep import find_methods
from benchmark.trainer import Trainer
from benchmark.trial import Bench, NotApplicable, prune
from methods import Entry, all_names, find
from methods.api import Plan, Unsupported

CLASSES, TRAIN, VAL, BATCH = 10, 64, 32, 16
EPOCHS = 4.0  # 256 images: 64 train masks, 128 train scales, 12 are looked at
TARGET = 0.3
SIZE = 32  # of images, for networks that are made for 224 too
STEPS, RATES = 5, (1e-3, 1e-4)
OFFICIAL = "official"  # variants that do what the authors' code does
MINUTES = 0.5
LOST = 1e6  # a loss from which no step leads back
EFFECT = 1e-3  # what pruning must change at least, relative to the largest logit


class Broken(Exception):
    """A pair that should work and does not."""


class TooSlow(Exception):
    """A method that does not come to an end soon."""


@contextlib.contextmanager
def at_most(minutes: float) -> Iterator[None]:
    """Raises TooSlow in the block after so much CPU time."""

    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def synthetic(size: int) -> tuple[DataIdentity, Images, Images]:
    """Noise with a pattern per class: 64 images to train on, 32 to validate."""
    draw = torch.Generator().manual_seed(1)
    pattern = F.interpolate(torch.randn(CLASSES, 3, 4, 4, generator=draw), size, mode="bilinear")

    def images(count: int, first: int) -> Images:
        labels = torch.arange(count) % CLASSES
        noise = torch.randn(count, 3, size, size, generator=draw)
        pixels = (128 + 40 * pattern[labels] + 40 * noise).clamp(0, 255).to(torch.uint8)
        return Images(pixels, labels, torch.arange(first, first + count))

    identity = DataIdentity(
        name="synthetic", content_hash="synthetic", image_size=size, num_classes=CLASSES,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), pad=2, flip=True, split_hash="synthetic",
    )  # fmt: skip
    return identity, images(TRAIN, 0), images(VAL, TRAIN)


def bench_of(label: str) -> Bench:
    """A new network of the architecture, and trainers on synthetic images.

    Raises:
        BadInput, Unsupported: there is none, or it cannot be followed.
    """
    arch = archs.find(label)
    torch.manual_seed(0)
    net = Network(arch.build(CLASSES), torch.zeros(1, 3, SIZE, SIZE))
    identity, train, val = synthetic(SIZE)

    def trainer(seed: int) -> Trainer:
        return Trainer(
            train=BatchSource(train, identity),
            val=BatchSource(val, identity),
            num_classes=CLASSES,
            recipe=Recipe(epochs=EPOCHS, lr=0.01, batch_size=BATCH),
            seed=seed,
            data_hash=identity.content_hash,
            ledger=Ledger(round(EPOCHS * TRAIN), TRAIN),
        )

    return Bench(lambda seed: net.copy(), trainer, val, macs_cut=TARGET)


def run_cell(label: str, entry: Entry, bench: Bench) -> Cell:
    """The method on the architecture."""
    dense = bench.network(0)
    structure, name = structure_hash(dense.dense()), archs.find(label).name
    start = (name, structure, entry.label, entry.cls.revision)
    short = {field: share * EPOCHS for field, share in entry.cls.shares.items()}
    try:
        with at_most(MINUTES):
            done = prune(entry, bench, params=short)
        done.net.unmask()
        made = became(done.net, done.plan)
        losses = learn(made.model, bench.trainer(0))
        twins.check_trained(made)
        twin = twin_error(done.net, done.plan, bench.trainer(0))
    except (NotApplicable, Unsupported, Diverged) as reason:
        return Cell(*start, "no", str(reason))
    except TooSlow:
        return Cell(*start, "no", f"takes more than {MINUTES} min of CPU on these few images")
    except Exception as error:
        return Cell(*start, "broken", " ".join(f"{type(error).__name__}: {error}".split())[:300])
    reached = 1 - made.macs / done.net.macs()
    return Cell(*start, "yes", "", round(reached, 4), float(f"{twin:.1e}"), *losses)


def learn(model: nn.Module, trainer: Trainer) -> tuple[float, float]:
    """Loss of one batch before and after a few steps on it, at the first rate at which it falls:
    networks whose gates choose anew after every step bear small ones only.

    Raises:
        Broken: it is not finite, or does not fall.
        Diverged: it is lost before the first step: that is the method's own doing.
    """
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for rate in RATES:
        model.load_state_dict(start)
        losses = _losses(model, trainer, rate)
        if not losses[0] < LOST:
            raise Diverged(f"its preparation makes the network diverge: a loss of {losses[0]:.0e}")
        if all(map(math.isfinite, losses)) and losses[-1] < losses[0]:
            return round(losses[0], 4), round(losses[-1], 4)
    raise Broken(f"the pruned network does not learn: losses {losses[0]:g} to {losses[-1]:g}")


def _losses(model: nn.Module, trainer: Trainer, rate: float) -> list[float]:
    x, y = trainer.train.batch(torch.arange(BATCH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    model.train()
    for _ in range(STEPS + 1):
        seed_everything(0)  # dropout: the same loss is compared
        loss = F.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@torch.no_grad()
def twin_error(net: Network, plan: Plan, trainer: Trainer) -> float:
    """Largest difference of the network and its twin (benchmark.twins), with random weights
    everywhere, relative to the largest logit.

    Raises:
        Broken: it is too large, or pruning changes nothing, so that it says nothing.
        CostMismatch, Miscounted: its cost is not what was said.
    """
    randomise(net.traced)
    net.eval()
    x, _ = trainer.train.batch(torch.arange(4))
    dense, made = net(x), became(net, plan)
    twins.settle(made, trainer.train)
    small, other = twins.outputs(made, x)
    error = twins.error(small, other)
    if not error <= TWIN:
        raise Broken(f"masked and smaller network differ by {error:.1e} of the largest logit")
    if twins.error(small, dense) < EFFECT:
        raise Broken("pruning changes nothing")
    return error


def labels_of(words: str | None) -> list[str]:
    """Architectures of a comma list; all of ours and those of other libraries that are tested."""
    if words is None:
        return [*archs.ARCHS, *ELSEWHERE]
    return [w.strip() for w in words.split(",") if w.strip()]


def entries_of(words: str | None) -> list[Entry]:
    """Methods of a comma list; all that remove channels, and the official variants."""
    if words is not None:
        return find_methods(w.strip() for w in words.split(","))
    found = [find(label) for label in all_names()]
    found = [e for e in found if e.cls.allocations != ("none",) and not e.cls.imported]
    return [e for e in found if e.variant in ("", OFFICIAL)]


def run_all(
    labels: list[str], entries: list[Entry], known: list[Cell], out: Path, screen: Console
) -> list[Cell]:
    """What is not known yet, kept after each architecture."""
    cells = {cell.key: cell for cell in known}
    for number, label in enumerate(labels):
        started = time.perf_counter()
        name = archs.find(label).name
        structure = structure_hash(archs.find(label).build(CLASSES))
        wanted = [e for e in entries if (name, structure, e.label, e.cls.revision) not in cells]
        if not wanted:
            continue
        bench = bench_of(label)
        done = []
        for entry in wanted:
            done.append(run_cell(label, entry, bench))
            gc.collect()  # networks hold themselves in cycles, of few objects and much memory
        cells = {
            k: c for k, c in cells.items()
            if not any((c.arch, c.method) == (d.arch, d.method) for d in done)
        }  # fmt: skip
        cells |= {cell.key: cell for cell in done}
        write_cells(out, cells.values())
        bad = [c for c in done if c.supported == "broken"]
        said = "; ".join(f"{c.method} broken: {c.reason}" for c in bad) or "nothing broken"
        screen.print(
            f"{number + 1}/{len(labels)} {label}: {counted(len(done), 'pair')} in "
            f"{time.perf_counter() - started:.0f} s, {said}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return list(cells.values())


def main(
    arch: Annotated[str | None, typer.Option(help="Comma list; default: all.")] = None,
    methods: Annotated[str | None, typer.Option(help="Comma list; default: all.")] = None,
    out: Annotated[Path, typer.Option(help="The results, as CSV.")] = Path("docs/support.csv"),
    again: Annotated[bool, typer.Option("--again", help="Also what is known.")] = False,
    readme: Annotated[Path | None, typer.Option(help="File that shows the table.")] = None,
) -> int:
    """Run every method on every architecture, and write which pairs work and why others do not.

    Example: python -m benchmark.matrix --arch resnet20 --methods l1norm,hrank --out support.csv
    """
    torch.set_num_threads(1)
    if out.suffix != ".csv":
        raise BadInput(f"--out {out}: give a .csv file")
    labels, entries = labels_of(arch), entries_of(methods)
    for label in labels:
        archs.find(label)  # unknown names are answered at once
    screen = console()
    known = [] if again else read_cells(out)
    cells = run_all(labels, entries, known, out, screen)
    write_cells(out, cells)
    write_text(out.with_suffix(".md"), render(cells))
    if readme is not None:
        write_text(readme, readme_with(readme.read_text(), cells))
    broken = sum(c.supported == "broken" for c in cells)
    screen.print(
        f"{len(cells)} pairs: {sum(c.supported == 'yes' for c in cells)} supported, "
        f"{sum(c.supported == 'no' for c in cells)} not applicable, {broken} broken; see "
        f"{out.with_suffix('.md')}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return FAILED if broken else DONE


if __name__ == "__main__":
    run_app(main)
