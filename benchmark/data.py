"""A data set ready for use: read, normalised, identified, and split for validation.

What a run's identity needs to know about it is `DataIdentity`; that never holds a path, a device
or a thread count.
"""

import difflib
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import BadInput
from benchmark.files import write_bytes
from benchmark.images import LONGEST_NAME, Augmentation, DataIdentity, Images, Triple
from benchmark.readers import Decoded, Progress, draw_per_class, others, read

NAMES = ("digits", "cifar10", "cifar100", "imagefolder")
NO_SPLIT = "none"
VALIDATION_SHARE = 0.1
# Mean and standard deviation of the training pixels on the 0..1 scale; the only such constants.
PUBLISHED: dict[str, tuple[Triple, Triple]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Changing it changes every split: raise PROTOCOL with it.
_VALIDATION_SALT = 1
_DATA_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")  # images.Name, in lower case


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for use; `val` is empty when no validation split was asked for."""

    identity: DataIdentity
    class_names: tuple[str, ...]
    train: Images
    val: Images
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
    decoded = read(name, folder, image_size, cache_dir, on_progress)
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
    if not _DATA_NAME.fullmatch(data_name) or len(data_name) > LONGEST_NAME:
        raise BadInput(
            f"invalid data name {data_name!r}: use a-z, 0-9, '_', '-' and single dots inside, "
            f"{LONGEST_NAME} characters at most"
        )
    if data_name in NAMES:
        raise BadInput(f"the data name {data_name!r} is a built-in data set: choose another")


def _content_hash(decoded: Decoded) -> str:
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


def _hold_out(decoded: Decoded, cache_dir: Path) -> tuple[Images, Images, str]:
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
    rows = draw_per_class(labels, counts, _VALIDATION_SALT)
    indices = rows.numpy().astype("<i8")
    split_hash = hashlib.sha256(indices.tobytes()).hexdigest()[:16]
    _keep(cache_dir / f"split-{split_hash}.npy", indices)
    return decoded.train.select(others(len(labels), rows)), decoded.train.select(rows), split_hash


def _keep(path: Path, indices: np.ndarray) -> None:
    """Write the array for people to look up, unless it is there as it should be."""
    content = io.BytesIO()
    np.save(content, indices)
    if not path.is_file() or path.read_bytes() != content.getvalue():
        write_bytes(path, content.getvalue())
