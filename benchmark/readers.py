"""Data sets as they lie on disk: digits, CIFAR, image folders; decoded once and cached."""

import hashlib
import io
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.files import new_folder
from benchmark.images import Images
from benchmark.noise import keyed_integers

Progress = Callable[[int, int], None]

# Changing one of these changes every split or every augmented image: raise PROTOCOL with it.
_SPLIT_SEED = 2024
_DIGITS_TEST_SALT = 2
_DIGITS_TEST_PER_CLASS = 36
_NATIVE_SIZE = {"digits": 16, "cifar10": 32, "cifar100": 32}
_CACHE_FORMAT = 2  # raise when the decoding of folders changes
EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
_FILES_PER_TASK = 64  # a small file decodes faster than a task is handed to a thread


@dataclass(frozen=True, eq=False)
class Decoded:
    class_names: tuple[str, ...]
    train: Images
    test: Images


def read(
    name: str,
    folder: Path | None,
    image_size: int | None,
    cache_dir: Path,
    on_progress: Progress | None,
) -> Decoded:
    if name == "imagefolder":
        assert folder is not None
        return _read_folder(folder, image_size, cache_dir, on_progress)
    size = image_size or _NATIVE_SIZE[name]
    if name == "digits":
        return _read_digits(size)
    return _read_cifar(name, folder or cache_dir / "downloads", size)


def _read_digits(size: int) -> Decoded:
    # Slow to import, and needed by this set only; so is torchvision below.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    source = load_digits()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    grey = np.stack([resized(Image.fromarray(image), size) for image in pixels])
    everything = images_of(
        np.repeat(grey[:, None], 3, axis=1), source.target, range(len(source.target))
    )
    counts = [_DIGITS_TEST_PER_CLASS] * 10
    test = draw_per_class(everything.labels, counts, _DIGITS_TEST_SALT)
    train = others(len(everything), test)
    names = tuple(str(label) for label in source.target_names)
    return Decoded(names, _renumbered(everything, train), _renumbered(everything, test))


def _read_cifar(name: str, folder: Path, size: int) -> Decoded:
    from torchvision.datasets import (  # type: ignore[import-untyped, unused-ignore]
        CIFAR10,
        CIFAR100,
    )

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        try:
            train, test = reader(folder, train=True), reader(folder, train=False)
        except RuntimeError:  # not there: the reader's own words for it
            train, test = reader(folder, train=True, download=True), reader(folder, train=False)
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{name} is not in {folder} and cannot be downloaded ({one_line(error)}): put its "
            "files under --data-dir, or use --dataset digits, or --dataset imagefolder "
            "--data-dir DIR"
        ) from error

    def images(part: CIFAR10) -> Images:
        pixels = part.data  # (N,32,32,3)
        if size != pixels.shape[1]:
            pixels = np.stack([resized(Image.fromarray(image), size) for image in pixels])
        return images_of(pixels.transpose(0, 3, 1, 2), part.targets, range(len(pixels)))

    return Decoded(tuple(train.classes), images(train), images(test))


def _read_folder(
    folder: Path, image_size: int | None, cache_dir: Path, on_progress: Progress | None
) -> Decoded:
    if not folder.is_dir():
        raise BadInput(f"no such data directory: {folder}")
    train, test = _files_by_class(folder, "train"), _files_by_class(folder, "test")
    names = tuple(train)
    if set(names) != set(test):
        only = ", ".join(sorted(set(names) ^ set(test)))
        raise BadInput(f"train and test of {folder} have different classes; only in one: {only}")
    files = [path for part in (train, test) for paths in part.values() for path in paths]
    target = cache_dir / f"data-{_fingerprint(files, image_size)}"
    pixels = _cached(target)
    if pixels is None:
        shutil.rmtree(target, ignore_errors=True)  # damaged, if it is there at all
        pixels = _decode_all(files, image_size, on_progress)
        with new_folder(target) as draft:
            np.save(draft / "pixels.npy", pixels)
            (draft / "checksum").write_text(_checksum(pixels))
    parts, start = [], 0
    for part in (train, test):
        counts = [len(paths) for paths in part.values()]
        labels = np.repeat(np.arange(len(names)), counts)
        parts.append(images_of(pixels[start : start + len(labels)], labels, range(len(labels))))
        start += len(labels)
    return Decoded(names, *parts)


def _files_by_class(folder: Path, split: str) -> dict[str, list[Path]]:
    """Sorted image files of each class of one split, classes sorted by name."""
    root = folder / split
    if not root.is_dir():
        raise BadInput(f"{folder} has no {split}/ folder: expected {split}/<class>/<image>")
    classes = [path for path in _visible(root) if path.is_dir()]
    if len(classes) < 2:
        raise BadInput(f"{root} holds {len(classes)} class folders; at least two are needed")
    found = {}
    for path in classes:
        files = _visible(path)
        strange = [file for file in files if file.suffix.lower() not in EXTENSIONS]
        if strange:
            raise BadInput(f"not an image file: {strange[0]}")
        if not files:
            raise BadInput(f"class folder {path} is empty")
        found[path.name] = files
    return found


def _visible(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entries, key=lambda entry: entry.name)


def _fingerprint(files: Sequence[Path], image_size: int | None) -> str:
    """Of names below the data directory, sizes, times and target size: says when to decode anew."""
    digest = hashlib.sha256(f"{_CACHE_FORMAT} {image_size}".encode())
    for file in files:
        status = file.stat()
        name = "/".join(file.parts[-3:])  # split, class, file
        digest.update(f"\n{name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _cached(folder: Path) -> np.ndarray | None:
    """The pixels that were decoded before; None if they are not there as they were written."""
    try:
        pixels: np.ndarray = np.load(folder / "pixels.npy", allow_pickle=False)
        whole = _checksum(pixels) == (folder / "checksum").read_text()
    except Exception:  # what damage raises depends on where it is: end of file, shape, memory
        return None
    return pixels if whole else None


def _checksum(pixels: np.ndarray) -> str:
    """Of type, shape and bytes: fast, and enough against damage by accident."""
    return f"{pixels.dtype.str} {pixels.shape} {zlib.crc32(np.ascontiguousarray(pixels).data):08x}"


def _decode_all(
    files: Sequence[Path], image_size: int | None, on_progress: Progress | None
) -> np.ndarray:
    """Decode files on a thread pool into (N,3,S,S) uint8, in their order."""
    first = _decode(files[0], image_size)
    if first.shape[1] != first.shape[2]:
        raise BadInput(f"{files[0]} is not square ({_shape(first)}): pass --image-size")
    pixels = np.empty((len(files), *first.shape), np.uint8)

    def decode_from(start: int) -> int:
        stop = min(start + _FILES_PER_TASK, len(files))
        for row in range(start, stop):
            image = _decode(files[row], image_size)
            if image.shape != first.shape:
                raise BadInput(
                    f"images differ in size ({files[0]} is {_shape(first)}, {files[row]} is "
                    f"{_shape(image)}): pass --image-size"
                )
            pixels[row] = image
        return stop

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done in pool.map(decode_from, range(0, len(files), _FILES_PER_TASK)):
            if on_progress is not None:
                on_progress(done, len(files))
    return pixels


def _decode(file: Path, image_size: int | None) -> np.ndarray:
    """One file as (3,H,W) uint8, at its own size when image_size is None."""
    rgb = decoded_rgb(file, str(file))
    pixels = np.asarray(rgb) if image_size is None else resized(rgb, image_size)
    return pixels.transpose(2, 0, 1)


def decoded_rgb(file: Path | io.BytesIO, name: str) -> Image.Image:
    """The image as RGB at its own size; `name` says which it is in errors.

    Raises:
        BadInput: it cannot be read, or holds more than 8 bits per channel.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
            return image.convert("RGB")
    except Exception as error:  # every format has its own errors for what it cannot read
        raise BadInput(f"cannot read image {name}: {one_line(error)}") from error


def resized(image: Image.Image, size: int) -> np.ndarray:
    """The centred square as (S,S) or (S,S,3) uint8. PIL resizes bytes in integer arithmetic, so
    the result has the same bits on every machine."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if width != height:
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def images_of(pixels: np.ndarray, labels: Sequence[int] | np.ndarray, index: range) -> Images:
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.as_tensor(labels, dtype=torch.int64),
        torch.tensor(index, dtype=torch.int64),
    )


def _renumbered(images: Images, rows: Tensor) -> Images:
    chosen = images.select(rows)
    return Images(chosen.pixels, chosen.labels, torch.arange(len(rows)))


def draw_per_class(labels: Tensor, counts: Sequence[int], salt: int) -> Tensor:
    """Sorted rows of a fixed random draw of counts[k] images of each class k from labels (N,)."""
    # Our own noise, not a library's generator: those may change their streams between versions.
    order = keyed_integers(_SPLIT_SEED, 0, torch.arange(len(labels)), 1, 1 << 31, salt)[:, 0]
    chosen = []
    for label, count in enumerate(counts):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[order[members].argsort(stable=True)[:count]])
    return torch.cat(chosen).sort().values


def others(length: int, rows: Tensor) -> Tensor:
    free = torch.ones(length, dtype=torch.bool)
    free[rows] = False
    return free.nonzero()[:, 0]


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _shape(image: np.ndarray) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
