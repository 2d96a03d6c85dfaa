"""A data set ready for use: read, normalised, identified, and split for validation.

What a run's identity needs to know about it is `DataIdentity`; that never holds a path, a device
or a thread count.
"""

import difflib
import hashlib
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark import owndata
from benchmark.decode import Geometry
from benchmark.errors import BadInput
from benchmark.files import write_bytes
from benchmark.images import IMAGENET, LONGEST_NAME, Augmentation, DataIdentity, Triple
from benchmark.readers import Decoded, Progress, draw_per_class, others, read
from benchmark.sources import Split
from benchmark.stream import OnDisk, on_disk

NAMES = ("digits", "cifar10", "cifar100", "imagefolder", IMAGENET)
NO_SPLIT = "none"
VALIDATION_SHARE = 0.1
VALIDATION_MOST = 50  # images of a class, where many do not fit in memory: 50,000 of ImageNet
IMAGENET_SIZE = 224
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
    train: Split
    val: Split
    test: Split

    def without_test(self) -> "Data":
        """For trials: nothing reaches the test split, validation images stand in its place."""
        return replace(self, test=self.val)


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    data_name: str | None = None,
    image_size: int | None = None,
    normalize: str = "dataset",
    cache_dir: Path,
    validation: bool = True,
    workers: int = 0,
    on_progress: Progress | None = None,
) -> Data:
    """Read a data set and say what it is: into memory, but for `imagenet`, of which the files are
    listed and read when their images are needed, by so many `workers` (`stream.py`).

    `name` is one of NAMES, or of an installed package (`owndata.py`). `data_dir` holds the files of
    CIFAR (default: `cache_dir/downloads`) or of an image folder (`train/<class>/*`,
    `test/<class>/*`), whose results carry `data_name`, or those of ImageNet or a set like it
    (`layout.py`), which may have a `data_name` too.
    Images are resized bilinearly to `image_size` pixels square, after a centred crop where they are
    not square. `normalize` is "dataset", "imagenet" or "m1,m2,m3;s1,s2,s3" on the 0..1 scale.
    With `validation`, a fixed class-balanced 10 % of train (of `imagenet` at most 50 images per
    class) becomes `val`, and its indices are kept as `cache_dir/split-<hash>.npy`.
    `on_progress(done, total)` counts files that are read.
    Raises BadInput for every mistake of the user.
    """
    cache_dir = Path(cache_dir)
    folder = None if data_dir is None else Path(data_dir)
    _check_request(name, folder, data_name, image_size)
    if name == IMAGENET:
        assert folder is not None
        size = image_size or IMAGENET_SIZE
        found = on_disk(folder, size, cache_dir, workers, on_progress)
        mean, std = _normalisation(normalize, name, None)
        return _streamed(found, data_name or name, size, (mean, std), cache_dir, validation)
    if name in NAMES:
        decoded = read(name, folder, image_size, cache_dir, on_progress)
    else:
        decoded = owndata.read_provided(name, is_taken, folder, image_size, cache_dir, on_progress)
    mean, std = _normalisation(normalize, name, decoded.train.pixels)
    size = decoded.train.pixels.shape[-1]
    train, val, split_hash = _splits(decoded.train, decoded.class_names, cache_dir, validation)
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


def dataset_of(identity: DataIdentity) -> str:
    """The `name` that `load_data` reads this data by."""
    if identity.pipeline == "resized-crop":
        return IMAGENET
    own = identity.name in NAMES or identity.name in owndata.names(is_taken)
    return identity.name if own else "imagefolder"


def installed() -> tuple[list[tuple[str, str]], list[str]]:
    """As `owndata.listed`."""
    return owndata.listed(is_taken)


def is_taken(name: str) -> bool:
    """Whether a name is one of ours."""
    return name in NAMES


def check_name(name: str) -> None:
    """Raises BadInput unless it is that of a data set of ours or of an installed package."""
    if name in NAMES:
        return
    names = [*NAMES, *owndata.names(is_taken)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadInput(f"unknown data set {name!r}: known are {', '.join(names)}{hint}")
    if not _DATA_NAME.fullmatch(name):
        raise BadInput(f"the data set {name!r} of a package needs a name of a-z, 0-9, '_' and '-'")


def _streamed(
    found: OnDisk,
    name: str,
    size: int,
    scale: tuple[Triple, Triple],
    cache_dir: Path,
    validation: bool,
) -> Data:
    splits = _splits(found.train, found.class_names, cache_dir, validation, VALIDATION_MOST)
    train, val, split_hash = splits
    identity = DataIdentity(
        name=name,
        content_hash=found.content_hash,
        image_size=size,
        num_classes=len(found.class_names),
        mean=scale[0],
        std=scale[1],
        pad=0,
        flip=True,
        split_hash=split_hash,
        pipeline="resized-crop",
        eval_resize=Geometry.of(size).resize,
    )
    return Data(identity, found.class_names, train, val, found.test)


def _check_request(
    name: str, folder: Path | None, data_name: str | None, image_size: int | None
) -> None:
    check_name(name)
    if image_size is not None and image_size < 1:
        raise BadInput(f"the image size must be at least 1 pixel, got {image_size}")
    if name == "digits" and folder is not None:
        raise BadInput("digits comes with scikit-learn and reads no data directory")
    if name not in ("imagefolder", IMAGENET):
        if data_name is not None:
            raise BadInput(
                f"a data name is for imagefolder and {IMAGENET} only; {name} already has its name"
            )
        return
    if folder is None:
        other = "test" if name == "imagefolder" else "val"
        raise BadInput(f"{name} needs --data-dir DIR with DIR/train/<class>/ and DIR/{other}/")
    check_data_name(name, data_name)


def check_data_name(name: str, data_name: str | None) -> None:
    """Raises BadInput unless results of this data set can be filed under this name."""
    if data_name is None or data_name == name == IMAGENET:
        if name != IMAGENET:
            raise BadInput(f"{name} needs --data-name NAME: results are filed under it")
        return
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


def _normalisation(text: str, name: str, pixels: Tensor | None) -> tuple[Triple, Triple]:
    key = name if text == "dataset" else text
    if key in PUBLISHED and text in ("dataset", "imagenet"):
        return PUBLISHED[key]
    if text == "dataset":
        assert pixels is not None
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


def _splits(
    train: Split,
    class_names: tuple[str, ...],
    cache_dir: Path,
    validation: bool,
    most: int | None = None,
) -> tuple[Split, Split, str]:
    """Train without validation, validation (empty unless it is wanted), and the hash of the
    validation indices; at most so many images of a class."""
    if not validation:
        return train, train.select(torch.arange(0)), NO_SPLIT
    labels = train.labels
    sizes = torch.bincount(labels, minlength=len(class_names)).tolist()
    counts = [round(VALIDATION_SHARE * size) for size in sizes]
    if 0 in counts:
        poor = counts.index(0)
        raise BadInput(
            f"class {class_names[poor]!r} has {sizes[poor]} training images: too few to "
            "hold out a tenth for validation, at least 6 are needed"
        )
    counts = [min(count, most or count) for count in counts]
    rows = draw_per_class(labels, counts, _VALIDATION_SALT)
    indices = rows.numpy().astype("<i8")
    split_hash = hashlib.sha256(indices.tobytes()).hexdigest()[:16]
    _keep(cache_dir / f"split-{split_hash}.npy", indices)
    return train.select(others(len(labels), rows)), train.select(rows), split_hash


def _keep(path: Path, indices: np.ndarray) -> None:
    """Write the array for people to look up, unless it is there as it should be."""
    content = io.BytesIO()
    np.save(content, indices)
    if not path.is_file() or path.read_bytes() != content.getvalue():
        write_bytes(path, content.getvalue())
