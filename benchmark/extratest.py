"""Extra test sets: images of a run's own classes that were drawn or spoilt in another way.

Three forms are read, and nothing else:

- folders, `<class>/*`, `<corruption>/<class>/*` or `<corruption>/<severity>/<class>/*`, as
  ImageNet-V2 (Recht et al. 2019) and ImageNet-C (Hendrycks and Dietterich 2019) unpack;
- `labels.npy` (N,) beside one `<corruption>.npy` (N, S, S, 3) uint8 per corruption, five severities
  stacked, as CIFAR-10-C and CIFAR-100-C are published (Zenodo 2535967: 5 x 10,000 images);
- `<name>_data.npy` (N, S, S, 3) uint8 and `<name>_labels.npy` (N,), as CIFAR-10.1 is published
  (github.com/modestyachts/CIFAR-10.1, Recht et al. 2018: v4 has 2,021 images, v6 has 2,000).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark import decode, readers
from benchmark.decode import Geometry
from benchmark.errors import BadInput
from benchmark.files import write_text
from benchmark.images import LONGEST_NAME

SEVERITIES = 5  # of the published arrays
DEEPEST = 3  # corruption, severity, class
_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.+-]*")
Paths = tuple[str, ...]  # names of folders below the set's own


@dataclass(frozen=True, eq=False)
class Part:
    """One corruption at one severity; both are empty where the set knows none."""

    corruption: str
    severity: str
    labels: np.ndarray  # (N,) int64, classes of the run
    pixels: Callable[..., np.ndarray]  # side S, eval_resize of the data -> (N, 3, S, S) uint8


@dataclass(frozen=True)
class ExtraTest:
    """`content_hash`: of the names and bytes of all files, 16 hex digits."""

    name: str
    content_hash: str
    parts: tuple[Part, ...]

    @property
    def images(self) -> int:
        return sum(len(part.labels) for part in self.parts)


def check_names(wanted: Mapping[str, Path]) -> None:
    """Raises BadInput for a name that cannot stand in tables, or a folder that is not there."""
    for name, folder in wanted.items():
        if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise BadInput(
                f"--extra-test {name}={folder}: name the set by letters, digits and '_.+-', "
                f"{LONGEST_NAME} at most"
            )
        if not folder.is_dir():
            raise BadInput(f"--extra-test {name}={folder}: no such folder")


def named(texts: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR words by name.

    Raises:
        BadInput: another form, the same name twice, or as `check_names`.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise BadInput(f"--extra-test {text}: write NAME=DIR, as cifar10.1=data/cifar10.1")
        if name in found:
            raise BadInput(f"--extra-test {name} is there twice: give each set a name of its own")
        found[name] = Path(folder)
    check_names(found)
    return found


def read(name: str, folder: Path, class_names: Sequence[str], cache: Path) -> ExtraTest:
    """What lies in a folder; images are decoded part by part, when they are asked for.

    `cache`: the hash is remembered there, by names, sizes and times of the files.

    Raises:
        BadInput: the folder has none of the forms above, an unknown class, or a label that is none.
    """
    arrays = [path for path in readers._visible(folder) if path.suffix == ".npy"]
    try:
        parts = _of_arrays(folder, arrays, len(class_names)) if arrays else None
        parts = parts or list(_of_folders(name, folder, class_names))
        content_hash = hash_of(folder, cache)
    except OSError as error:
        raise BadInput(f"--extra-test {name}: {folder} cannot be read: {error}") from error
    return ExtraTest(name, content_hash, tuple(parts))


# ---- what identifies it --------------------------------------------------------------------------


def hash_of(folder: Path, cache: Path) -> str:
    """16 hex digits over names and bytes of all files; those of an unchanged folder are read once
    per process, and once per `cache`."""
    return _hash_of(folder.resolve(), cache)


@lru_cache(maxsize=64)
def _hash_of(folder: Path, cache: Path) -> str:
    files = list(_files(folder))
    seen = hashlib.sha256()
    for path in files:
        status = path.stat()
        line = f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        seen.update(line.encode())
    place = cache / f"extra-{seen.hexdigest()[:16]}"
    if place.is_file() and re.fullmatch("[0-9a-f]{16}", kept := place.read_text("utf-8")):
        return kept
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                content.update(block)
    write_text(place, content.hexdigest()[:16])
    return content.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for path in readers._visible(folder):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


# ---- folders -------------------------------------------------------------------------------------


def _of_folders(name: str, folder: Path, class_names: Sequence[str]) -> Iterator[Part]:
    found = dict(_class_folders(folder, ()))
    depths = {len(names) for names in found}
    if len(depths) > 1:
        first = [next(names for names in found if len(names) == depth) for depth in sorted(depths)]
        shown = " and ".join("/".join(names) for names in first)
        raise BadInput(f"--extra-test {name}: {folder} has images at several depths: {shown}")
    strange = sorted({names[-1] for names in found} - set(class_names))
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise BadInput(
            f"--extra-test {name}: folders that are no class of the data: "
            f"{', '.join(strange[:5])}{more}; its classes are {_few(class_names)}, and folders lie "
            "as <class>/, <corruption>/<class>/ or <corruption>/<severity>/<class>/"
        )
    for above in dict.fromkeys(names[:-1] for names in found):
        own = {names[-1]: files for names, files in found.items() if names[:-1] == above}
        files = [path for paths in own.values() for path in paths]
        numbers = [class_names.index(label) for label, paths in own.items() for _ in paths]
        corruption, severity = (*above, "", "")[:2]
        pixels = partial(_decoded, tuple(files))
        yield Part(corruption, severity, np.asarray(numbers, np.int64), pixels)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:10])}, …"


def _class_folders(folder: Path, above: Paths) -> Iterator[tuple[Paths, list[Path]]]:
    """Folders that hold images, by the names that lead there, sorted."""
    entries = readers._visible(folder)
    folders = [path for path in entries if path.is_dir()]
    images = [path for path in entries if path.suffix.lower() in readers.EXTENSIONS]
    if images and (folders or not above):
        raise BadInput(f"{images[0]} lies in no folder of a class")
    if images and len(images) < len(entries):
        strange = next(path for path in entries if path not in images)
        raise BadInput(f"not an image file: {strange}")
    if images:
        yield above, images
    elif not folders:
        raise BadInput(f"{folder} holds neither images nor folders of images")
    elif len(above) == DEEPEST:
        raise BadInput(f"{folder}: folders lie deeper than <corruption>/<severity>/<class>/")
    else:
        for path in folders:
            yield from _class_folders(path, (*above, path.name))


def _decoded(files: tuple[Path, ...], size: int, resize: int = 0) -> np.ndarray:
    if not resize:
        return readers._decode_all(files, size, None)
    shape = Geometry(size, resize)  # as the test images of data that is read as ImageNet is
    found = [decode.decoded(path.read_bytes(), str(path), shape, None) for path in files]
    return np.stack(found).transpose(0, 3, 1, 2)


# ---- arrays --------------------------------------------------------------------------------------


def _of_arrays(folder: Path, arrays: list[Path], classes: int) -> list[Part]:
    names = {path.name for path in arrays}
    if "labels.npy" in names:
        labels = _labels(folder / "labels.npy", classes)
        return [
            part
            for path in arrays
            if path.name != "labels.npy"
            for part in _severities(path, _checked(path, len(labels)), labels)
        ]
    pairs = sorted(n.removesuffix("_data.npy") for n in names if n.endswith("_data.npy"))
    if len(pairs) != 1 or names != {f"{pairs[0]}_data.npy", f"{pairs[0]}_labels.npy"}:
        raise BadInput(
            f"{folder} holds {', '.join(sorted(names))}: give a folder with labels.npy and one "
            "array per corruption, or with one pair NAME_data.npy and NAME_labels.npy"
        )
    path = folder / f"{pairs[0]}_data.npy"
    labels = _labels(folder / f"{pairs[0]}_labels.npy", classes)
    length = len(_checked(path, len(labels)))
    return [Part("", "", labels, partial(_rows, path, 0, length))]


def _severities(path: Path, pixels: np.ndarray, labels: np.ndarray) -> Iterator[Part]:
    """Parts of one array: five where its labels repeat five times, else one."""
    each = len(labels) // SEVERITIES
    fits = each > 0 and each * SEVERITIES == len(labels)
    is_stacked = fits and bool((labels.reshape(SEVERITIES, each) == labels[:each]).all())
    count = SEVERITIES if is_stacked else 1
    step = len(labels) // count
    for i in range(count):
        severity = str(i + 1) if count > 1 else ""
        own = labels[i * step : (i + 1) * step]
        yield Part(path.stem, severity, own, partial(_rows, path, i * step, (i + 1) * step))


def _load(path: Path) -> np.ndarray:
    """Without reading it: pages come when they are looked at. Nothing in it is executed."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path} is not an array: {readers.one_line(error)}") from error
    return found


def _labels(path: Path, classes: int) -> np.ndarray:
    found = _load(path)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise BadInput(f"{path} is {found.dtype}{list(found.shape)}: labels are whole numbers (N,)")
    if found.min() < 0 or found.max() >= classes:
        raise BadInput(
            f"{path} has labels {found.min()} to {found.max()}, the run has classes 0 to "
            f"{classes - 1}"
        )
    return found.astype(np.int64)


def _checked(path: Path, count: int) -> np.ndarray:
    found = _load(path)
    is_images = found.dtype == np.uint8 and found.ndim == 4 and found.shape[3] == 3
    if not is_images or len(found) != count:
        raise BadInput(
            f"{path} is {found.dtype}{list(found.shape)}: with {count} labels it must be "
            f"uint8[{count}, S, S, 3]"
        )
    return found


def _rows(path: Path, start: int, stop: int, size: int, resize: int = 0) -> np.ndarray:
    pixels = np.asarray(_load(path)[start:stop])
    if resize:
        images = (Image.fromarray(image) for image in pixels)
        pixels = np.stack([np.asarray(decode.centre(i, Geometry(size, resize))) for i in images])
    elif pixels.shape[1:3] != (size, size):
        pixels = np.stack([readers.resized(Image.fromarray(image), size) for image in pixels])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
