"""`python -m benchmark.evaluate CKPT`: accuracy, FLOPs, parameters and latency of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmark import archs, baseline, flops
from benchmark.cli import DONE, console, run_app
from benchmark.evaluation import evaluate
from benchmark.files import check_writable
from benchmark.latency import latency
from benchmark.options import options_from
from benchmark.progress import counting
from benchmark.tasks import data_of
from benchmark.weights import load_weights, read_checkpoint


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .th, .pt or .safetensors.")],
    arch: Annotated[str, typer.Option(help="See python -m benchmark.run --list archs.")],
    dataset: Annotated[str, typer.Option()] = "cifar10",
    data_dir: Annotated[Path | None, typer.Option()] = None,
    data_name: Annotated[str | None, typer.Option()] = None,
    image_size: Annotated[int | None, typer.Option()] = None,
    normalize: Annotated[str, typer.Option()] = "dataset",
    threads: Annotated[int, typer.Option()] = 1,
    workers: Annotated[int | None, typer.Option(help="As of benchmark.run.")] = None,
    device: Annotated[str, typer.Option()] = "auto",
    results: Annotated[Path, typer.Option(help="Decoded images are cached there.")] = Path(
        "results"
    ),
) -> int:
    """Measure any checkpoint of a known architecture on the whole test split."""
    given = {k: v for k, v in locals().items() if v is not None and k != "checkpoint"}
    options = options_from(given)
    check_writable(options.results)
    tensors = read_checkpoint(checkpoint)
    torch.set_num_threads(threads)
    archs.build(arch, 10)  # an unknown name is answered before images are read
    screen = console()
    with counting(screen, "reading images") as on_progress:
        data = data_of(options, on_progress)
    model = archs.build(arch, data.identity.num_classes)
    load_weights(model, tensors, str(checkpoint))
    target = options.torch_device()
    size = data.identity.image_size
    example = torch.zeros(1, 3, size, size)
    price = flops.cost(model, example)
    model = model.to(target).eval()
    found = evaluate(model, data.test.source(data.identity, target))
    speed = latency(model, model, example.to(target))
    images = len(data.test)
    screen.print(f"{checkpoint.name} as {arch} on {data.identity.name}, {images} test images")
    screen.print(f"top-1        {100 * found.top1:.2f} %   loss {found.loss:.4f}")
    if found.top5 is not None:
        screen.print(f"top-5        {100 * found.top5:.2f} %")
    screen.print(
        f"MACs         {price.macs / 1e6:.3f} M (conv + linear), papers' convention "
        f"{price.macs_paper / 1e6:.3f} M"
    )
    screen.print(
        f"parameters   {price.params / 1e6:.4f} M, without batch norm "
        f"{price.params_paper / 1e6:.4f} M"
    )
    for batch, times in speed.items():
        name = batch.replace("_", " ")
        screen.print(
            f"latency      {times['dense_ms']:.2f} ms at {name} "
            f"(quartiles {times['dense_q1_ms']:.2f}-{times['dense_q3_ms']:.2f}, {target})"
        )
    screen.print(f"weights      {baseline.checkpoint_hash(checkpoint)}")
    return DONE


if __name__ == "__main__":
    run_app(main)
