"""Tar shards as WebDataset writes them, read by offset: any image without those before it."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.layout import EXPECTED, Files, Places, Texts, some, stem_of
from benchmark.readers import EXTENSIONS, one_line

LABEL_BYTES = 32  # more is not the number of a class


@dataclass
class _Sample:
    image: tuple[str, int, int] | None = None  # name, offset, size
    label: int | None = None


def places_in_shards(root: Path, shards: Files) -> tuple[Places, Tensor]:
    """As `layout.places_in_folder`, from the headers in the shards.

    Raises:
        BadInput: a shard is damaged, or a sample is not one image with one class.
    """
    rows, bad = [], list[str]()
    for number in range(len(shards)):
        shard = shards.names[number]
        for key, sample in _samples(root / shard).items():
            if sample.image is None or sample.label is None:
                what = "image" if sample.image is None else ".cls"
                bad.append(f"{key} in {shard} has no {what}")
                continue
            name, offset, size = sample.image
            rows.append((sample.label, stem_of(name), name, number, offset, size))
    if bad or not rows:
        said = some(bad) if bad else f"no samples in {shards.names[0]}"
        raise BadInput(f"shards of {root} are not whole: {said}; {EXPECTED}")
    rows.sort()
    columns = torch.tensor([(r[0], *r[3:]) for r in rows])
    names = Texts.of(row[2] for row in rows)
    return Places(root, shards.names, names, *columns[:, 1:].unbind(1)), columns[:, 0]


def _samples(path: Path) -> dict[str, _Sample]:
    found: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, extension = _key(member.name)
                if not member.isreg() or not extension:
                    continue
                sample = found.setdefault(key, _Sample())
                if f".{extension}" in EXTENSIONS:
                    if sample.image is not None:
                        raise ValueError(f"sample {key} has two images")
                    sample.image = (member.name, member.offset_data, member.size)
                elif extension == "cls":
                    raw = tar.extractfile(member)
                    sample.label = int(raw.read(LABEL_BYTES)) if raw else None
    except (tarfile.TarError, OSError, ValueError) as error:
        raise BadInput(f"shard {path} cannot be read: {one_line(error)}") from error
    return found


def _key(name: str) -> tuple[str, str]:
    """WebDataset's: up to the first dot of the last part, and the rest in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()
