"""The index of a data set on disk: where each image is, its class, and what all of it hashes to.

Made once by reading every file, kept as one file beside other caches, and found again by names,
sizes and times of the files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.files import write_bytes
from benchmark.layout import (
    CLASSES,
    Layout,
    Places,
    Texts,
    layout_of,
    places_in_folder,
    some,
    stem_of,
)
from benchmark.readers import Progress, decoded_rgb, one_line
from benchmark.shards import places_in_shards

CHUNK = 64  # files of one task for a thread
COLUMNS = ("file", "offset", "size")


@dataclass(frozen=True, eq=False)
class Part:
    """One split: where its images are, and their classes (N,) int64."""

    places: Places
    labels: Tensor

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return int(self.places.size.sum())


@dataclass(frozen=True, eq=False)
class Index:
    """`content_hash` covers names, labels and bytes of all images: of a folder and of shards with
    the same files it is the same."""

    class_names: tuple[str, ...]
    content_hash: str
    has_shards: bool
    train: Part
    test: Part


def index_of(
    root: Path, cache_dir: Path, on_progress: Progress | None = None, decode: bool = False
) -> Index:
    """The index of the data set under `root`, made on first use. `decode`: every image is decoded
    whether or not there is an index.

    Raises:
        BadInput: the layout is wrong, or files are no images; the first of them are named.
    """
    layout = layout_of(root)
    path = cache_dir / f"index-{layout.fingerprint}.safetensors"
    found = None if decode else read_index(path, layout)
    if found is None:
        found = make_index(layout, on_progress, decode)
        write_index(path, found)
    return found


# ---- making it -----------------------------------------------------------------------------------


def make_index(layout: Layout, on_progress: Progress | None, decode: bool) -> Index:
    """Read every file. Raises BadInput as `index_of` does."""
    train, test = (
        Part(*(places_in_shards if layout.has_shards else places_in_folder)(layout.root, files))
        for files in (layout.train, layout.test)
    )
    names = _class_names(layout, train.labels, test.labels)
    digest, bad, done = hashlib.sha256(), list[str](), 0
    total = len(train.labels) + len(test.labels)
    for word, part in (("train", train), ("test", test)):
        for row, said in enumerate(_looked_at(part.places, decode)):
            if isinstance(said, str):
                bad.append(said)
            else:
                name = f"{word}\0{int(part.labels[row])}\0{stem_of(part.places.names[row])}\0"
                digest.update(name.encode("utf-8", "surrogateescape") + said)
            done += 1
            if on_progress is not None and (done % CHUNK == 0 or done == total):
                on_progress(done, total)
    if bad:
        raise BadInput(f"{len(bad)} of {total} images cannot be read: {some(bad)}")
    return Index(names, digest.hexdigest()[:16], layout.has_shards, train, test)


def _looked_at(places: Places, decode: bool) -> Iterator[bytes | str]:
    """Of every image in turn the hash of its bytes, or what is wrong with it."""

    def look(start: int) -> list[bytes | str]:
        return [_look(places, row, decode) for row in range(start, min(start + CHUNK, len(places)))]

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for found in pool.map(look, range(0, len(places), CHUNK)):
            yield from found
    finally:  # an interrupt must not wait for what was queued
        pool.shutdown(cancel_futures=True)


def _look(places: Places, row: int, decode: bool) -> bytes | str:
    try:
        content = places.read(row)
        if decode:
            decoded_rgb(io.BytesIO(content), places.name(row))
        else:
            _check_header(content, places.name(row))
    except BadInput as error:
        return str(error).removeprefix("cannot read image ")
    return hashlib.sha256(content).digest()


def _check_header(content: bytes, name: str) -> None:
    try:
        with Image.open(io.BytesIO(content)):
            return
    except Exception as error:  # as in `decoded_rgb`
        raise BadInput(f"{name} ({one_line(error).partition(' <')[0]})") from error


def _class_names(layout: Layout, train: Tensor, test: Tensor) -> tuple[str, ...]:
    """Raises BadInput unless both splits hold every class."""
    wanted = len(layout.class_names) or int(train.max()) + 1
    for name, labels in (("train", train), ("val", test)):
        strange = sorted({*labels.unique().tolist()} ^ {*range(wanted)})
        if strange:
            known = f"{CLASSES} names" if layout.class_names else "train has"
            raise BadInput(
                f"classes of {layout.root} do not agree: {known} {wanted}, and of {name} these are "
                f"missing or too many: {some([str(label) for label in strange])}"
            )
    if wanted < 2:
        raise BadInput(f"{layout.root} holds one class; two are needed")
    return layout.class_names or tuple(str(label) for label in range(wanted))


# ---- keeping it ----------------------------------------------------------------------------------


def write_index(path: Path, index: Index) -> None:
    """Whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for word, part in (("train", index.train), ("test", index.test)):
        tensors[f"{word}.labels"] = part.labels
        tensors |= {f"{word}.{name}": getattr(part.places, name) for name in COLUMNS}
        for name in ("files", "names") if index.has_shards else ("files",):
            texts: Texts = getattr(part.places, name)
            tensors |= {f"{word}.{name}": texts.content, f"{word}.{name}.ends": texts.ends}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    facts = {"classes": index.class_names, "content": index.content_hash, "sum": _checksum(whole)}
    write_bytes(path, save(whole, {"facts": json.dumps(facts)}))


def read_index(path: Path, layout: Layout) -> Index | None:
    """None if it is not there as it was written. Its tensors are pages of the file, so that
    processes share them."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["sum"] != _checksum(tensors):
            return None
        parts = [_part(tensors, word, layout) for word in ("train", "test")]
        return Index(tuple(facts["classes"]), facts["content"], layout.has_shards, *parts)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _part(tensors: dict[str, Tensor], word: str, layout: Layout) -> Part:
    def texts(name: str) -> Texts:
        return Texts(tensors[f"{word}.{name}"], tensors[f"{word}.{name}.ends"])

    files = texts("files")
    names = texts("names") if layout.has_shards else files
    columns = (tensors[f"{word}.{name}"] for name in COLUMNS)
    return Part(Places(layout.root, files, names, *columns), tensors[f"{word}.labels"])


def _checksum(tensors: dict[str, Tensor]) -> int:
    """Fast, and enough against damage by accident."""
    found = 0
    for name in sorted(tensors):
        raw = tensors[name].numpy()
        found = zlib.crc32(raw.data, zlib.crc32(f"{name} {raw.shape}".encode(), found))
    return found
