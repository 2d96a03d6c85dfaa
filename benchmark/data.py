"""Small images held in memory: reading, identity, splits, and augmented batches.

Every data set becomes uint8 pixels (N,3,S,S) with int64 labels. What a run's identity needs to know
about them is `DataIdentity`; it never holds a path, a device or a thread count.
"""

import difflib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.noise import keyed_integers

Triple = tuple[float, float, float]
Progress = Callable[[int, int], None]

NAMES = ("digits", "cifar10", "cifar100", "imagefolder")
NO_SPLIT = "none"
VALIDATION_SHARE = 0.1
# Mean and standard deviation of the training pixels on the 0..1 scale; the only such constants.
PUBLISHED: dict[str, tuple[Triple, Triple]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Changing one of these changes every split or every augmented image: raise PROTOCOL with it.
_SPLIT_SEED = 2024
_VALIDATION_SALT = 1
_DIGITS_TEST_SALT = 2
_AUGMENTATION_SALT = 0x63726F70
_DIGITS_TEST_PER_CLASS = 36
_NATIVE_SIZE = {"digits": 16, "cifar10": 32, "cifar100": 32}
_CACHE_FORMAT = 1  # raise when the decoding of folders changes
_EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
_FILES_PER_TASK = 64  # a small file decodes faster than a task is handed to a thread
_DATA_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels (N,3,S,S) uint8, labels (N,) int64 and index (N,) int64: each image's position in the
    original training or test set, which keys its augmentation."""

    pixels: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> "Images":
        """The images at rows (M,) int64, in that order."""
        return Images(self.pixels[rows], self.labels[rows], self.index[rows])


@dataclass(frozen=True)
class Augmentation:
    """Random crop after `pad` black pixels on each side, then a horizontal flip with chance 1/2."""

    pad: int
    flip: bool


class DataIdentity(BaseModel):
    """What a run's id knows about its data (DECISIONS 3). Plain JSON values, no path.

    `content_hash` covers decoded pixels and labels of train and test at `image_size`, before the
    validation split; `split_hash` covers the validation indices ("none" without validation); `mean`
    and `std` are on the 0..1 pixel scale, per channel; `pad` is in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    content_hash: str
    image_size: int
    num_classes: int
    mean: Triple
    std: Triple
    pad: int
    flip: bool
    split_hash: str

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.pad, self.flip)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for use; `val` is empty when no validation split was asked for."""

    identity: DataIdentity
    class_names: tuple[str, ...]
    train: Images
    val: Images
    test: Images


@dataclass(frozen=True, eq=False)
class _Decoded:
    class_names: tuple[str, ...]
    train: Images
    test: Images


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    data_name: str | None = None,
    image_size: int | None = None,
    normalize: str = "dataset",
    cache_dir: Path,
    validation: bool = True,
    on_progress: Progress | None = None,
) -> Data:
    """Read a data set into memory and say what it is.

    `name` is one of NAMES. `data_dir` holds the files of CIFAR (default: `cache_dir/downloads`) or
    of an image folder (`train/<class>/*`, `test/<class>/*`), whose results carry `data_name`.
    Images are resized bilinearly to `image_size` pixels square, after a centred crop where they are
    not square. `normalize` is "dataset", "imagenet" or "m1,m2,m3;s1,s2,s3" on the 0..1 scale.
    With `validation`, a fixed class-balanced 10 % of train becomes `val`, and its indices are kept
    as `cache_dir/split-<hash>.npy`. `on_progress(done, total)` counts decoded files of a folder.
    Raises BadInput for every mistake of the user.
    """
    cache_dir = Path(cache_dir)
    folder = None if data_dir is None else Path(data_dir)
    _check_request(name, folder, data_name, image_size)
    decoded = _read(name, folder, image_size, cache_dir, on_progress)
    mean, std = _normalisation(normalize, name, decoded.train.pixels)
    size = decoded.train.pixels.shape[-1]
    train, val, split_hash = decoded.train, decoded.train.select(torch.arange(0)), NO_SPLIT
    if validation:
        train, val, split_hash = _hold_out(decoded, cache_dir)
    augmentation = Augmentation(1, False) if name == "digits" else Augmentation(size // 8, True)
    identity = DataIdentity(
        name=data_name or name,
        content_hash=_content_hash(decoded),
        image_size=size,
        num_classes=len(decoded.class_names),
        mean=mean,
        std=std,
        pad=augmentation.pad,
        flip=augmentation.flip,
        split_hash=split_hash,
    )
    return Data(identity, decoded.class_names, train, val, decoded.test)


class BatchSource:
    """One split on one device, cut into normalised batches without a loop over images."""

    def __init__(
        self, images: Images, identity: DataIdentity, device: str | torch.device = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.augmentation = identity.augmentation
        pad, self._size = self.augmentation.pad, identity.image_size
        self._stride = self._size + 2 * pad
        padded = torch.nn.functional.pad(images.pixels.to(self.device), (pad,) * 4).view(-1)
        # Every run of S neighbouring bytes, overlapping: a crop is 3 * S whole rows of this view,
        # and index_select copies rows an order of magnitude faster than pixel-wise indexing.
        starts = max(padded.numel() - self._size + 1, 0)
        self._lines = padded.as_strided((starts, self._size), (1, 1))
        plane = torch.arange(3, device=self.device)[:, None] * self._stride**2
        line = torch.arange(self._size, device=self.device) * self._stride
        self._offsets = (plane + line).view(-1)
        self.labels = images.labels.to(self.device)
        self.index = images.index.to(self.device)
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (identity.mean, identity.std))
        # One factor per pixel, not per channel: broadcasting over images alone keeps loops long.
        image = (1, 3, self._size, self._size)
        factors = [v.float().to(self.device) for v in (1 / (255 * std), -mean / std)]
        self._scale, self._shift = (v.view(1, 3, 1, 1).expand(image).contiguous() for v in factors)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self,
        rows: Tensor,
        *,
        augment: tuple[int, int] | None = None,
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Images and labels at rows (B,) int64 of this split: x (B,3,S,S) float32, y (B,) int64.

        `augment=(seed, epoch)` crops and flips; what happens to an image depends on these two
        numbers and its index alone. Raises IndexError for a row outside the split (CPU).
        """
        rows = rows.to(self.device)
        labels = self.labels.index_select(0, rows)
        if augment is None:
            pixels = self._cropped(rows, self.augmentation.pad, self.augmentation.pad)
        else:
            index = self.index.index_select(0, rows)
            top, left, flipped = crop_and_flip(self.augmentation, index, *augment)
            pixels = self._cropped(rows, top, left)
            if self.augmentation.flip:
                pixels = _flip_where(flipped, pixels)
        scale, shift = self._scale, self._shift
        if channels_last:
            pixels, scale, shift = (_channels_last(t) for t in (pixels, scale, shift))
        return pixels.to(torch.float32).mul_(scale).add_(shift), labels

    def _cropped(self, rows: Tensor, top: Tensor | int, left: Tensor | int) -> Tensor:
        """(B,3,S,S) uint8: windows of the padded images whose corners lie at (top, left)."""
        corners = (rows * (3 * self._stride) + top) * self._stride + left
        lines = (corners[:, None] + self._offsets).view(-1)
        return self._lines.index_select(0, lines).view(-1, 3, self._size, self._size)


def crop_and_flip(
    augmentation: Augmentation, index: Tensor, seed: int, epoch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each image of index (N,) int64 is cropped, and whether it is then mirrored.

    Returns top and left (N,) int64 in 0..2*pad, measured in the padded image, and flipped (N,)
    bool. Each value depends on seed, epoch and that image's index only.
    """
    side = 2 * augmentation.pad + 1
    outcomes = side**2 * (2 if augmentation.flip else 1)
    draw = keyed_integers(seed, epoch, index, 1, outcomes, salt=_AUGMENTATION_SALT)[:, 0]
    corner = draw % side**2
    return corner // side, corner % side, draw >= side**2


def _flip_where(flipped: Tensor, pixels: Tensor) -> Tensor:
    """Mirror the images of (B,3,S,S) uint8 whose flag (B,) is set."""
    # pixels ^ (difference & mask) does what torch.where does, six times faster on bytes.
    mask = flipped.to(torch.uint8).neg()[:, None, None, None]
    difference = pixels.flip(-1).bitwise_xor_(pixels)
    return difference.bitwise_and_(mask).bitwise_xor_(pixels)


def _channels_last(pixels: Tensor) -> Tensor:
    """The same (B,3,S,S) in channels-last memory: plane by plane, which beats one strided copy."""
    result = torch.empty_like(pixels, memory_format=torch.channels_last)
    for channel in range(3):
        result[:, channel].copy_(pixels[:, channel])
    return result


# --- reading ----------------------------------------------------------------------------------


def _check_request(
    name: str, folder: Path | None, data_name: str | None, image_size: int | None
) -> None:
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadInput(f"unknown data set {name!r}: known are {', '.join(NAMES)}{hint}")
    if image_size is not None and image_size < 1:
        raise BadInput(f"the image size must be at least 1 pixel, got {image_size}")
    if name == "digits" and folder is not None:
        raise BadInput("digits comes with scikit-learn and reads no data directory")
    if name != "imagefolder":
        if data_name is not None:
            raise BadInput(f"a data name is for imagefolder only; {name} already has its name")
        return
    if folder is None:
        raise BadInput("imagefolder needs --data-dir DIR with DIR/train/<class>/ and DIR/test/")
    if data_name is None:
        raise BadInput("imagefolder needs --data-name NAME: results are filed under it")
    if not _DATA_NAME.fullmatch(data_name):
        raise BadInput(f"invalid data name {data_name!r}: use a-z, 0-9, '.', '_' and '-'")
    if data_name in NAMES:
        raise BadInput(f"the data name {data_name!r} is a built-in data set: choose another")


def _read(
    name: str,
    folder: Path | None,
    image_size: int | None,
    cache_dir: Path,
    on_progress: Progress | None,
) -> _Decoded:
    if name == "imagefolder":
        assert folder is not None
        return _read_folder(folder, image_size, cache_dir, on_progress)
    size = image_size or _NATIVE_SIZE[name]
    if name == "digits":
        return _read_digits(size)
    return _read_cifar(name, folder or cache_dir / "downloads", size)


def _read_digits(size: int) -> _Decoded:
    # Slow to import, and needed by this set only; so is torchvision below.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    source = load_digits()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    grey = np.stack([_resized(Image.fromarray(image), size) for image in pixels])
    everything = _images(
        np.repeat(grey[:, None], 3, axis=1), source.target, range(len(source.target))
    )
    counts = [_DIGITS_TEST_PER_CLASS] * 10
    test = _draw_per_class(everything.labels, counts, _DIGITS_TEST_SALT)
    train = _others(len(everything), test)
    names = tuple(str(label) for label in source.target_names)
    return _Decoded(names, _renumbered(everything, train), _renumbered(everything, test))


def _read_cifar(name: str, folder: Path, size: int) -> _Decoded:
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
            f"{name} is not in {folder} and cannot be downloaded ({_one_line(error)}): put its "
            "files under --data-dir, or use --dataset digits, or --dataset imagefolder "
            "--data-dir DIR"
        ) from error

    def images(part: CIFAR10) -> Images:
        pixels = part.data  # (N,32,32,3)
        if size != pixels.shape[1]:
            pixels = np.stack([_resized(Image.fromarray(image), size) for image in pixels])
        return _images(pixels.transpose(0, 3, 1, 2), part.targets, range(len(pixels)))

    return _Decoded(tuple(train.classes), images(train), images(test))


def _read_folder(
    folder: Path, image_size: int | None, cache_dir: Path, on_progress: Progress | None
) -> _Decoded:
    if not folder.is_dir():
        raise BadInput(f"no such data directory: {folder}")
    train, test = _files_by_class(folder, "train"), _files_by_class(folder, "test")
    names = tuple(train)
    if set(names) != set(test):
        only = ", ".join(sorted(set(names) ^ set(test)))
        raise BadInput(f"train and test of {folder} have different classes; only in one: {only}")
    files = [path for part in (train, test) for paths in part.values() for path in paths]
    target = cache_dir / f"data-{_fingerprint(files, image_size)}"
    if not target.is_dir():
        pixels = _decode_all(files, image_size, on_progress)
        with _published(target) as scratch:
            scratch.mkdir()
            np.save(scratch / "pixels.npy", pixels)
    pixels = np.load(target / "pixels.npy")
    parts, start = [], 0
    for part in (train, test):
        counts = [len(paths) for paths in part.values()]
        labels = np.repeat(np.arange(len(names)), counts)
        parts.append(_images(pixels[start : start + len(labels)], labels, range(len(labels))))
        start += len(labels)
    return _Decoded(names, *parts)


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
        strange = [file for file in files if file.suffix.lower() not in _EXTENSIONS]
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
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
            rgb = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read image {file}: {_one_line(error)}") from error
    pixels = np.asarray(rgb) if image_size is None else _resized(rgb, image_size)
    return pixels.transpose(2, 0, 1)


def _resized(image: Image.Image, size: int) -> np.ndarray:
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


def _images(pixels: np.ndarray, labels: Sequence[int] | np.ndarray, index: range) -> Images:
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.as_tensor(labels, dtype=torch.int64),
        torch.tensor(index, dtype=torch.int64),
    )


def _renumbered(images: Images, rows: Tensor) -> Images:
    chosen = images.select(rows)
    return Images(chosen.pixels, chosen.labels, torch.arange(len(rows)))


# --- identity and splits ----------------------------------------------------------------------


def _content_hash(decoded: _Decoded) -> str:
    digest = hashlib.sha256()
    for images in (decoded.train, decoded.test):
        for array in (images.pixels.numpy(), images.labels.numpy().astype("<i8")):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _normalisation(text: str, name: str, pixels: Tensor) -> tuple[Triple, Triple]:
    key = name if text == "dataset" else text
    if key in PUBLISHED and text in ("dataset", "imagenet"):
        return PUBLISHED[key]
    if text == "dataset":
        return _measured(pixels)
    numbers = [part.split(",") for part in text.split(";")]
    try:
        (m1, m2, m3), (s1, s2, s3) = ([float(n) for n in part] for part in numbers)
    except ValueError as error:
        raise BadInput(
            f"unknown normalisation {text!r}: use dataset, imagenet or 'm1,m2,m3;s1,s2,s3'"
        ) from error
    if not all(0 <= m <= 1 for m in (m1, m2, m3)) or not all(0 < s <= 1 for s in (s1, s2, s3)):
        raise BadInput(f"normalisation {text!r} must be on the 0..1 pixel scale, with std above 0")
    return (m1, m2, m3), (s1, s2, s3)


def _measured(pixels: Tensor) -> tuple[Triple, Triple]:
    """Mean and standard deviation per channel, 4 decimals, from exact counts of the 256 values."""
    value = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(3):
        share = torch.bincount(pixels[:, channel].reshape(-1), minlength=256) / (
            pixels[:, channel].numel()
        )
        mean = (share * value).sum()
        means.append(round(mean.item(), 4))
        stds.append(round((share * (value - mean) ** 2).sum().sqrt().item(), 4))
    if min(stds) == 0:
        raise BadInput("a colour channel has the same value in all training images")
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _hold_out(decoded: _Decoded, cache_dir: Path) -> tuple[Images, Images, str]:
    """Train without validation, validation, and the hash of the validation indices."""
    labels = decoded.train.labels
    sizes = torch.bincount(labels, minlength=len(decoded.class_names)).tolist()
    counts = [round(VALIDATION_SHARE * size) for size in sizes]
    if 0 in counts:
        poor = counts.index(0)
        raise BadInput(
            f"class {decoded.class_names[poor]!r} has {sizes[poor]} training images: too few to "
            "hold out a tenth for validation, at least 6 are needed"
        )
    rows = _draw_per_class(labels, counts, _VALIDATION_SALT)
    indices = rows.numpy().astype("<i8")
    split_hash = hashlib.sha256(indices.tobytes()).hexdigest()[:16]
    with _published(cache_dir / f"split-{split_hash}.npy") as scratch:
        np.save(scratch, indices)
    return decoded.train.select(_others(len(labels), rows)), decoded.train.select(rows), split_hash


def _draw_per_class(labels: Tensor, counts: Sequence[int], salt: int) -> Tensor:
    """Sorted rows of a fixed random draw of counts[k] images of each class k from labels (N,)."""
    # Our own noise, not a library's generator: those may change their streams between versions.
    order = keyed_integers(_SPLIT_SEED, 0, torch.arange(len(labels)), 1, 1 << 31, salt)[:, 0]
    chosen = []
    for label, count in enumerate(counts):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[order[members].argsort(stable=True)[:count]])
    return torch.cat(chosen).sort().values


def _others(length: int, rows: Tensor) -> Tensor:
    free = torch.ones(length, dtype=torch.bool)
    free[rows] = False
    return free.nonzero()[:, 0]


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A scratch path beside target that becomes target in one rename, unless someone was faster."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{uuid4().hex}-{target.name}")
    try:
        yield scratch
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch)
        scratch.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _shape(image: np.ndarray) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
