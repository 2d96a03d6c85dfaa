"""Data sets of installed packages: an entry point of the group `prunebench.datasets`.

It names a function `read(data_dir)`. `data_dir` is what `--data-dir` says, a `Path` or None. It
returns four arrays, or the folder of images that it has made ready:

    train_images, train_labels, test_images, test_labels
        images (N, H, W, 3) uint8, labels (N,) whole numbers from 0, every class in both
    Path
        of a folder with train/<class>/<image> and test/<class>/<image>, as `--dataset imagefolder`

The name of the entry point is that of the data set. Its content is hashed, so that another content
is another data set, wherever it came from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.errors import BadInput
from benchmark.images import Images
from benchmark.readers import Decoded, Progress, images_of, read, resized
from methods import plugins


def names(taken: plugins.Taken) -> list[str]:
    """Of data sets that installed packages provide."""
    return sorted(plugins.offers(plugins.DATASETS, taken)[0])


def listed(taken: plugins.Taken) -> tuple[list[tuple[str, str]], list[str]]:
    """Name and package of each, and a line for each that cannot be used. Nothing is read."""
    offered, problems = plugins.offers(plugins.DATASETS, taken)
    found = []
    for name, offer in offered.items():
        try:
            plugins.load(offer)
            found.append((name, offer.package))
        except plugins.Unusable as error:
            problems.append(str(error))
    return found, problems


def read_provided(
    name: str,
    taken: plugins.Taken,
    folder: Path | None,
    image_size: int | None,
    cache_dir: Path,
    on_progress: Progress | None,
) -> Decoded:
    """The images of the data set of that name.

    Raises:
        BadInput: no package has it, or what it gives is not what this module's text says.
    """
    try:
        provided = plugins.find(plugins.DATASETS, name, taken)
    except plugins.Unusable as error:
        raise BadInput(str(error)) from error
    assert provided is not None, "names were checked"
    try:
        found = provided.thing(folder)
    except BadInput:
        raise
    except Exception as error:  # the package's own code
        said = f"{type(error).__name__}: {plugins.one_line(error)}"
        raise BadInput(f"{provided.offer}: reading {name} ended with {said}") from error
    if isinstance(found, Path):
        return read("imagefolder", found, image_size, cache_dir, on_progress)
    try:
        return _decoded(found, image_size)
    except ValueError as problem:
        raise BadInput(f"{provided.offer}: {plugins.one_line(problem)}") from problem


def _decoded(found: Any, image_size: int | None) -> Decoded:
    """Raises ValueError with what is wrong."""
    if not isinstance(found, tuple | list) or len(found) != 4:
        raise ValueError(
            "a data set is (train images, train labels, test images, test labels), or the Path of "
            f"a folder, not {type(found).__name__}"
        )
    train, test = (
        _split(which, np.asarray(images), np.asarray(labels), image_size)
        for which, images, labels in (("train", *found[:2]), ("test", *found[2:]))
    )
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise ValueError("images of train and test differ in size: pass --image-size")
    classes = int(train.labels.max()) + 1
    for which, split in (("train", train), ("test", test)):
        there = set(split.labels.tolist())
        if there != set(range(classes)):
            odd = min(there ^ set(range(classes)))
            raise ValueError(
                f"{which} labels are not 0 to {classes - 1}, each at least once: look at {odd}"
            )
    if classes < 2:
        raise ValueError("two classes are needed")
    return Decoded(tuple(map(str, range(classes))), train, test)


def _split(which: str, images: np.ndarray, labels: np.ndarray, size: int | None) -> Images:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise ValueError(
            f"{which} images are {images.dtype} {images.shape}, needed is uint8 (N, H, W, 3)"
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{which} labels are {labels.dtype} {labels.shape}, needed are {len(images)} whole "
            "numbers"
        )
    height, width = images.shape[1:3]
    if size is None and height != width:
        raise ValueError(f"{which} images are {width}x{height}, not square: pass --image-size")
    if size not in (None, height) or height != width:
        assert size is not None
        images = np.stack([resized(Image.fromarray(image), size) for image in images])
    return images_of(images.transpose(0, 3, 1, 2), labels.astype(np.int64), range(len(images)))
