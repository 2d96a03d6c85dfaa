"""Where the images of a data set on disk lie: names, sizes and classes, before any is opened.

Two layouts: `train/<class>/*` with `val/<class>/*`, or WebDataset's tar shards `train/*.tar` with
`val/*.tar`, samples of `key.jpg` and `key.cls` (the class's number), which are read by offset. In
both an image's place in its split is that by class, then by name.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.readers import EXTENSIONS

EXPECTED = (
    "expected train/<class>/<image> and val/<class>/<image>, or train/*.tar and val/*.tar with "
    "samples of key.jpg and key.cls (test/ may stand for val/)"
)
CLASSES = "classes.txt"  # beside shards: a name per line, in the order of the numbers
SHOWN = 3  # bad files that are named
_FORMAT = 1  # raise when the index changes


def numbers(found: array[int]) -> Tensor:
    """(N,) int64, in the memory of a filled array."""
    return torch.frombuffer(found, dtype=torch.int64) if found else torch.tensor([]).long()


@dataclass(frozen=True, eq=False)
class Texts:
    """Many strings in one (bytes,) uint8 tensor; `ends` (N,) int64. Processes can share it."""

    content: Tensor
    ends: Tensor

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        content, ends = bytearray(), array("q")
        for text in texts:
            content += text.encode("utf-8", "surrogateescape")  # file names are bytes
            ends.append(len(content))
        whole = torch.frombuffer(content, dtype=torch.uint8) if content else torch.tensor([]).byte()
        return cls(whole, numbers(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        raw = self.content[start : int(self.ends[row])].numpy().tobytes()
        return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class Places:
    """Where the bytes of each image of a split are: `size` of them from `offset` in `files[file]`
    below `root`, each (N,) int64. `names` are those of the images, below `root` or in the shard."""

    root: Path
    files: Texts
    names: Texts
    file: Tensor
    offset: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.file)

    def name(self, row: int) -> str:
        """For people."""
        file, name = self.files[int(self.file[row])], self.names[row]
        return str(self.root / file) if file == name else f"{name} in {self.root / file}"

    def read(self, row: int) -> bytes:
        """Raises BadInput if the file is not as it was when it was indexed."""
        path, size = self.root / self.files[int(self.file[row])], int(self.size[row])
        try:
            with path.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, int(self.offset[row]))
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error
        if len(content) != size:
            raise BadInput(f"{path} is shorter than when it was indexed: give the command again")
        return content


class Listed(NamedTuple):
    """A file of the data set, and its class where a folder says it."""

    name: str
    size: int
    time: int
    label: int = -1


@dataclass(frozen=True, eq=False)
class Files:
    """Many of them, without an object for each: columns (N,) int64."""

    names: Texts
    sizes: Tensor
    times: Tensor
    labels: Tensor

    @classmethod
    def of(cls, listed: Iterable[Listed]) -> Files:
        columns = [array("q") for _ in range(3)]

        def names() -> Iterator[str]:
            for name, *own in listed:
                for column, value in zip(columns, own, strict=True):
                    column.append(value)
                yield name

        return cls(Texts.of(names()), *map(numbers, columns))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Layout:
    """Files of both splits; `class_names` is empty where shards have no file of names."""

    root: Path
    has_shards: bool
    class_names: tuple[str, ...]
    train: Files
    test: Files

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and times: says when to make the index anew."""
        digest = hashlib.sha256(f"{_FORMAT} {self.has_shards} {self.class_names}".encode())
        for files in (self.train, self.test):
            names = files.names
            for column in (names.content, names.ends, files.sizes, files.times, files.labels):
                digest.update(f"{len(column)}\0".encode())
                digest.update(column.numpy().data)
        return digest.hexdigest()[:16]


# ---- files ---------------------------------------------------------------------------------------


def layout_of(root: Path) -> Layout:
    """What is there.

    Raises:
        BadInput: neither layout, classes of train and test differ, files that are no images.
    """
    if not root.is_dir():
        raise BadInput(f"no such data directory: {root}")
    train, test = root / "train", root / ("val" if (root / "val").is_dir() else "test")
    missing = [folder.name for folder in (train, test) if not folder.is_dir()]
    if missing:
        raise BadInput(f"{root} has no {missing[0]}/ folder: {EXPECTED}")
    shards = [_shards(folder) for folder in (train, test)]
    if all(shards):
        return Layout(root, True, _names_beside(root), *map(Files.of, shards))
    if any(shards):
        raise BadInput(f"only one of {train} and {test} holds tar shards: {EXPECTED}")
    classes = [_class_folders(folder) for folder in (train, test)]
    if set(classes[0]) != set(classes[1]):
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise BadInput(
            f"{train.name} and {test.name} of {root} have different classes; only in one: "
            f"{some(odd)}"
        )
    if len(classes[0]) < 2:
        raise BadInput(f"{train} holds {len(classes[0])} class folders, two are needed: {EXPECTED}")
    strange: list[str] = []
    found = [Files.of(_images(folder, classes[0], strange)) for folder in (train, test)]
    if strange:
        raise BadInput(f"{_counted(strange)} no image by name: {some(strange)}")
    return Layout(root, False, tuple(classes[0]), *found)


def some(things: list[str]) -> str:
    """The first few by name, and how many more."""
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more


def _counted(things: list[str]) -> str:
    return "1 file is" if len(things) == 1 else f"{len(things)} files are"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _listed(entry: os.DirEntry[str], name: str, label: int = -1) -> Listed:
    status = entry.stat()
    return Listed(name, status.st_size, status.st_mtime_ns, label)


def _shards(folder: Path) -> list[Listed]:
    found = (e for e in _entries(folder) if e.name.endswith(".tar") and e.is_file())
    return [_listed(entry, f"{folder.name}/{entry.name}") for entry in found]


def _class_folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _images(folder: Path, classes: list[str], strange: list[str]) -> Iterator[Listed]:
    """Image files of a split by class and name; names of others are added to `strange`."""
    for label, name in enumerate(classes):
        entries = _entries(folder / name)
        if not entries:
            raise BadInput(f"class folder {folder / name} is empty")
        for entry in sorted(entries, key=lambda e: (stem_of(e.name), e.name)):
            if Path(entry.name).suffix.lower() in EXTENSIONS:
                yield _listed(entry, f"{folder.name}/{name}/{entry.name}", label)
            else:
                strange.append(entry.path)


def _names_beside(root: Path) -> tuple[str, ...]:
    path = root / CLASSES
    if not path.is_file():
        return ()
    names = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    if len(set(names)) != len(names):
        raise BadInput(f"{path} names a class twice")
    return names


def stem_of(name: str) -> str:
    """What a file and a sample of the same image share: the last part of the name, up to its first
    dot, as WebDataset cuts it."""
    return name.rpartition("/")[2].partition(".")[0]


def places_in_folder(root: Path, files: Files) -> tuple[Places, Tensor]:
    """Where the images of a split are, and their labels (N,)."""
    rows, names = torch.arange(len(files)), files.names
    return Places(root, names, names, rows, torch.zeros_like(rows), files.sizes), files.labels
