"""`python -m benchmark.prepare DIR`: looks at images on disk before a grid does.

For `--dataset imagenet`. Checks the layout, the classes, and that every file is an image, hashes
all of it, and writes the index that runs find again. Runs on a login node: no GPU, one pass over
the files. A run makes the index itself where it is missing.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmark.cli import DONE, console, run_app
from benchmark.data import Data, check_data_name, load_data
from benchmark.files import check_writable
from benchmark.images import IMAGENET
from benchmark.index import Index, index_of
from benchmark.options import options_from
from benchmark.progress import counted, counting, duration


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds train/ and val/.")],
    data_name: Annotated[str | None, typer.Option(help="As of benchmark.run.")] = None,
    image_size: Annotated[int | None, typer.Option(help="As of benchmark.run.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image, not its header alone.")
    ] = False,
    results: Annotated[Path, typer.Option(help="The index is kept there.")] = Path("results"),
) -> int:
    """Check images on disk, hash them, and write down where each is.

    Example: python -m benchmark.prepare /data/imagenet --results results
    """
    words = {
        "dataset": IMAGENET, "data_dir": folder, "data_name": data_name, "image_size": image_size,
        "results": results,
    }  # fmt: skip
    options = options_from(words)
    check_data_name(IMAGENET, data_name)
    check_writable(results)
    screen, started, cache = console(), time.monotonic(), results / "stages"
    with counting(screen, "reading files") as on_progress:
        index = index_of(folder, cache, on_progress, decode)
    data = load_data(
        IMAGENET, data_dir=folder, data_name=data_name, image_size=options.image_size,
        cache_dir=cache,
    )  # fmt: skip
    seconds = time.monotonic() - started
    for line in (*facts_of(index, data), f"time          {duration(seconds)}", *next_lines(words)):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    return DONE


def facts_of(index: Index, data: Data) -> list[str]:
    """What there is to know about the data, a line each."""
    kind = "tar shards" if index.has_shards else "a folder per class"
    held = index.test.places.files[0].partition("/")[0]
    size = index.train.size + index.test.size
    identity = data.identity
    return [
        f"data          {identity.name}: {kind}, {len(index.class_names)} classes",
        f"train         {_balance(index.train.labels, index)}",
        f"test          {_balance(index.test.labels, index)}: those of {held}/",
        f"validation    {counted(len(data.val), 'image')} held out of train, "
        f"{len(data.train)} left; the paper track trains on all",
        f"on disk       {f'{size / 1e9:.1f} GB' if size > 1e9 else f'{size / 1e6:.1f} MB'}",
        f"network sees  {identity.image_size} x {identity.image_size}; for evaluation the shorter "
        f"side is {identity.eval_resize}, then the centre",
        f"content hash  {identity.content_hash}",
        f"split hash    {identity.split_hash}",
    ]


def _balance(labels: torch.Tensor, index: Index) -> str:
    """How many images, and of which classes least and most."""
    counts = torch.bincount(labels, minlength=len(index.class_names))
    few, many = int(counts.argmin()), int(counts.argmax())
    total = counted(len(labels), "image")
    if counts[few] == counts[many]:
        return f"{total}, {int(counts[few])} of each class"
    names = index.class_names
    return f"{total}, from {int(counts[few])} ({names[few]}) to {int(counts[many])} ({names[many]})"


def next_lines(words: dict[str, Any]) -> list[str]:
    """The words that a run needs."""
    said = [f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in words.items() if v]
    return [f"Next: python -m benchmark.run {' '.join(said)} …"]


if __name__ == "__main__":
    run_app(main)
