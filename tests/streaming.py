"""Small data sets in ImageNet's layout: JPEG files of many shapes in folders, and the same files as
tar shards. Imported by processes that are started, hence a module of its own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.data import Data, load_data

CLASSES = ("n01", "n02", "n03")
TRAIN, TEST = 20, 4  # of each class
SIDE = 16


def folder(root: Path, train: int = TRAIN, test: int = TEST, held: str = "val") -> Path:
    """Of three colours that can be told apart. As in ImageNet, a PNG is called JPEG, one image is
    CMYK and one grey."""
    draw = np.random.default_rng(1)
    for label, name in enumerate(CLASSES):
        for split, count in (("train", train), (held, test)):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                height, width = draw.integers(18, 48, 2)
                noise = draw.integers(0, 120, (height, width, 3))
                pixels = (noise + 135 * (np.arange(3) == label)).astype(np.uint8)
                image = Image.fromarray(pixels)
                path = place / f"{name}_{split}_{i}.JPEG"
                if i == 1:
                    image = image.convert("CMYK" if label else "L")
                image.save(path, "PNG" if (label, i) == (0, 2) else "JPEG")
    return root


def shards(source: Path, root: Path, of: int = 25, keys: str = "{stem}") -> Path:
    """The same files by turns of the classes, so many in a shard, with other members between."""
    for split in (source / "train", source / "val"):
        files = sorted(split.glob("*/*"), key=lambda p: (int(p.stem.split("_")[-1]), p.name))
        (root / split.name).mkdir(parents=True)
        for start in range(0, len(files), of):
            with tarfile.open(root / split.name / f"{start:06d}.tar", "w") as tar:
                for path in files[start : start + of]:
                    key = keys.format(stem=path.stem, folder=path.parent.name)
                    add(tar, f"{key}.json", b"{}")
                    add(tar, f"{key}.jpg", path.read_bytes())
                    add(tar, f"{key}.cls", str(CLASSES.index(path.parent.name)).encode())
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def data(root: Path, cache: Path, **words: Any) -> Data:
    return load_data(
        "imagenet", **{"data_dir": root, "cache_dir": cache, "image_size": SIDE} | words
    )
