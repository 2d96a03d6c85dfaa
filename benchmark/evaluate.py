"""`python -m benchmark.evaluate CKPT`: accuracy, FLOPs, parameters and latency of a checkpoint.

The network may be dense, masked, or pruned by other code: its widths are read off its tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmark import archs, artefacts, choices, environment, evaluation, flops, foreign
from benchmark.artefacts import Artefact, Zero
from benchmark.cli import DONE, console, run_app
from benchmark.data import Data
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.foreign import Foreign
from benchmark.latency import latency
from benchmark.options import Options, options_from
from benchmark.progress import counting
from benchmark.record import Accuracy
from benchmark.schedule import even
from benchmark.spec import ArchIdentity
from benchmark.tasks import data_of
from benchmark.trainer import MOST_RECALIBRATION, SCORE_BATCH
from benchmark.weights import read_checkpoint

OWN = ("checkpoint", "kept", "recalibrate", "val", "timed", "entry", "source")  # flags
SEED = 0  # of the order of images for recalibration


@dataclass(frozen=True)
class How:
    """What is measured beside accuracy and cost, and the words of an entry; no title: none."""

    val: bool = True
    recalibrate: bool = False
    timed: bool = True
    title: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Measured:
    """What there is to say about a network and the dense one it was pruned from."""

    price: flops.Cost
    dense: flops.Cost
    zero: Zero
    accuracy: Accuracy
    recalibrated: Accuracy | None = None
    images: int = 0  # that recalibration saw


def measure(
    model: nn.Module, dense: nn.Module, data: Data, device: torch.device, arch: str,
    how: How,
) -> Measured:  # fmt: skip
    """Leaves `model` as it is, on the device, in eval mode."""
    size = data.identity.image_size
    example = torch.zeros(1, 3, size, size)
    price, before = flops.cost(model, example), flops.cost(dense, example)
    zero = _zero(model, example, arch, data)
    model.to(device).eval()
    found = Measured(price, before, zero, _accuracy(model, data, device, how.val))
    if not how.recalibrate:
        return found
    rows = evaluation.balanced(data.train.labels, data.identity.num_classes, SEED)
    rows = rows[:MOST_RECALIBRATION]
    again = copy.deepcopy(model)
    train = data.train.source(data.identity, device)
    evaluation.recalibrate(again, train, rows, even(len(rows), SCORE_BATCH))
    repeated = _accuracy(again, data, device, how.val)
    return Measured(price, before, zero, found.accuracy, repeated, len(rows))


def _accuracy(model: nn.Module, data: Data, device: torch.device, val: bool) -> Accuracy:
    test = evaluation.evaluate(model, data.test.source(data.identity, device))
    held = None
    if val and len(data.val):
        held = evaluation.evaluate(model, data.val.source(data.identity, device)).top1
    return Accuracy(test_top1=test.top1, test_top5=test.top5, test_loss=test.loss, val_top1=held)


def _zero(model: nn.Module, example: Tensor, arch: str, data: Data) -> Zero:
    found = foreign.zeros_of(model, example, arch)
    if not found.units:
        return Zero(filters=found.filters, of=found.of, silent=0)
    small = foreign.without(model, example, found.silent)
    rows = torch.arange(min(16, len(data.test)))
    x, _ = data.test.source(data.identity).batch(rows)
    with torch.no_grad():
        logits, others = model(x), small(x)
    apart = float((others - logits).abs().max() / logits.abs().max().clamp(min=1e-12))
    macs = flops.cost(small, example).macs
    return Zero(
        filters=found.filters, of=found.of, silent=found.units, macs_without=macs,
        logits_apart=float(f"{apart:.1e}"),
    )  # fmt: skip


# ---- for reading ---------------------------------------------------------------------------------


def lines(found: Measured, net: Foreign) -> Iterator[str]:
    """What was measured, one line each."""
    first, again = found.accuracy, found.recalibrated
    yield f"top-1        {100 * first.test_top1:.2f} %   loss {first.test_loss:.4f}"
    if first.test_top5 is not None:
        yield f"top-5        {100 * first.test_top5:.2f} %"
    if first.val_top1 is not None:
        yield (
            f"held out     {100 * first.val_top1:.2f} % top-1 on images of train that runs here do "
            "not train on; this network may have been"
        )
    if again is not None:
        yield (
            f"BN recal.    {100 * again.test_top1:.2f} % top-1 after batch-norm statistics were "
            f"taken anew from {found.images} training images"
        )
    price, dense = found.price, found.dense
    yield (
        f"MACs         {price.macs / 1e6:.3f} M (conv + linear), papers' convention "
        f"{price.macs_paper / 1e6:.3f} M{_cut(price.macs, dense.macs)}"
    )
    yield (
        f"parameters   {price.params / 1e6:.4f} M, without batch norm "
        f"{price.params_paper / 1e6:.4f} M{_cut(price.params, dense.params)}"
    )
    if net.widths:
        gone = sum(net.dense_widths.values()) - sum(net.widths.values())
        yield (
            f"widths       {len(net.widths)} groups of channels are narrower than in the dense "
            f"network, by {gone} channels in all: {_widths(net)}"
        )
    yield from _zero_lines(found)


def _cut(now: int, before: int) -> str:
    return f", {100 * (1 - now / before):.2f} % removed" if now != before else ""


def _widths(net: Foreign) -> str:
    shown = [f"{g} {w}/{net.dense_widths[g]}" for g, w in net.widths.items()]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _zero_lines(found: Measured) -> Iterator[str]:
    zero = found.zero
    if zero.filters:
        share = f"{zero.filters} of {zero.of} filters are exactly zero"
        yield f"zeros        {share}: they are there, and cost what they cost"
    if zero.macs_without is not None:
        yield (
            f"silent       {zero.silent} channels put out exactly nothing: without them "
            f"{zero.macs_without / 1e6:.3f} M MACs{_cut(zero.macs_without, found.dense.macs)}; "
            f"logits then differ by {zero.logits_apart:g} of the largest"
        )


def latency_lines(dense: nn.Module, net: Foreign, example: Tensor) -> Iterator[str]:
    """Of the network beside the dense one, on the example's device."""
    for batch, times in latency(dense, net.model, example).items():
        name = batch.replace("_", " ")
        speedup = f", {times['speedup']:.2f} times as fast as dense" if net.widths else ""
        yield (
            f"latency      {times['pruned_ms']:.2f} ms at {name} "
            f"(quartiles {times['pruned_q1_ms']:.2f}-{times['pruned_q3_ms']:.2f}, "
            f"{example.device}){speedup}"
        )


# ---- the command ---------------------------------------------------------------------------------


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .th, .pt or .safetensors.")],
    arch: Annotated[str, typer.Option(help="See python -m benchmark.run --list archs.")],
    dataset: Annotated[str, typer.Option()] = "cifar10",
    data_dir: Annotated[Path | None, typer.Option()] = None,
    data_name: Annotated[str | None, typer.Option()] = None,
    image_size: Annotated[int | None, typer.Option()] = None,
    normalize: Annotated[str, typer.Option(help="As of benchmark.run.")] = "dataset",
    threads: Annotated[int, typer.Option()] = 1,
    workers: Annotated[int | None, typer.Option(help="As of benchmark.run.")] = None,
    device: Annotated[str, typer.Option()] = "auto",
    results: Annotated[
        Path, typer.Option(help="Decoded images are cached there, and entries written.")
    ] = Path("results"),
    kept: Annotated[
        Path | None, typer.Option(help="Kept channels, where shapes do not tell: as plan.json.")
    ] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Also with new batch-norm statistics.")
    ] = False,
    val: Annotated[bool, typer.Option(help="Also on what is held out of train.")] = True,
    timed: Annotated[bool, typer.Option("--latency/--no-latency", help="Time it here.")] = True,
    entry: Annotated[
        str | None, typer.Option(help="Title: keep it under RESULTS/imported, for the report.")
    ] = None,
    source: Annotated[str, typer.Option(help="Of the entry: address, paper, commit.")] = "",
) -> int:
    """Measure any checkpoint of a known architecture on the whole test split, also a network that
    other code has pruned.

    Example: python -m benchmark.evaluate FILE --arch resnet56 --dataset cifar10 --entry "HRank,
    authors' checkpoint"
    """
    given = {k: v for k, v in locals().items() if v is not None and k not in OWN}
    if entry is not None:
        artefacts.check_words(entry, source)
    elif source:
        raise BadInput("--source belongs to an entry: give it a title by --entry")
    how = How(val, recalibrate, timed, entry, source)
    return evaluated(checkpoint, kept, options_from(given), how)


def evaluated(checkpoint: Path, kept: Path | None, options: Options, how: How) -> int:
    """The whole job; returns the exit code."""
    check_writable(options.results)
    tensors = read_checkpoint(checkpoint)
    chosen = None if kept is None else choices.read(kept)
    torch.set_num_threads(options.threads)
    known = archs.find(options.arch)  # an unknown name is answered before images are read
    screen = console()
    with counting(screen, "reading images") as on_progress:
        data = data_of(options, on_progress)
    dense = known.build(data.identity.num_classes)
    size, target = data.identity.image_size, options.torch_device()
    example = torch.zeros(1, 3, size, size)
    own = foreign.plain(tensors)
    net = foreign.rebuild(copy.deepcopy(dense), own, example, known.name, str(checkpoint), chosen)
    found = measure(net.model, dense, data, target, known.name, how)

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    say(
        f"{checkpoint.name} as {options.arch} on {data.identity.name}, {len(data.test)} test images"
    )
    for line in lines(found, net):
        say(line)
    if how.timed:
        for line in latency_lines(dense.to(target), net, example.to(target)):
            say(line)
    digest = weights_digest(tensors)
    say(f"weights      {digest}")
    if how.title is not None:
        structure = archs.structure_hash(dense)
        arch = ArchIdentity(name=known.name, structure=structure, source=known.source)
        made = artefact(found, net, how, arch, data, digest, str(target))
        path, is_new = artefacts.write(options.results, made)
        say(f"entry        {path}" + ("" if is_new else " is there already"))
    return DONE


def artefact(
    found: Measured, net: Foreign, how: How, arch: ArchIdentity, data: Data, weights: str,
    device: str,
) -> Artefact:  # fmt: skip
    """The entry of a measured network."""
    assert how.title is not None
    facts: dict[str, Any] = environment.describe() | {"device": device}
    return Artefact(
        title=how.title, source=how.source, arch=arch, data=data.identity, weights=weights,
        dense=found.dense, pruned=found.price, widths=dict(net.widths),
        dense_widths=dict(net.dense_widths), zero=found.zero, measured=found.accuracy,
        recalibrated=found.recalibrated, recalibration_images=found.images, environment=facts,
    )  # fmt: skip


if __name__ == "__main__":
    run_app(main)
