"""Images in memory: pixels with labels, what identifies them, and augmented batches.

Shapes: N images, B of a batch, S the side in pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from torch import Tensor

from benchmark.noise import keyed_integers

Triple = tuple[float, float, float]
# A name becomes a folder, and records may come from strangers: no separator, no leading dot, no
# "..", and short enough for any file system.
LONGEST_NAME = 64
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)*$"
Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=LONGEST_NAME)]
# Changing it changes every augmented image: raise PROTOCOL with it.
_AUGMENTATION_SALT = 0x63726F70
_FORMATS = {True: torch.channels_last, False: torch.contiguous_format}
IMAGENET = "imagenet"


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

    def pictures(self, rows: Tensor) -> Tensor:
        """(M,3,S,S) uint8: the images at rows (M,), not augmented."""
        return self.pixels[rows]

    def source(self, identity: "DataIdentity", device: str | torch.device = "cpu") -> "BatchSource":
        """Batches of these images on a device."""
        return BatchSource(self, identity, device)


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

    `pipeline` says how an image becomes a square: `pad-crop` shifts images of one size by up to
    `pad` pixels; `resized-crop` is that of ImageNet (`decode.py`), where `eval_resize` is the
    shorter side before the centre crop of evaluation, and `content_hash` covers names, labels and
    bytes of the files. Left out of hashes while they mean what was done before them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"pipeline", "eval_resize"})

    name: Name
    content_hash: str
    image_size: int = Field(ge=1, le=1 << 16)
    num_classes: int = Field(ge=1, le=1 << 24)
    mean: Triple
    std: Triple
    pad: int = Field(ge=0, le=1 << 16)
    flip: bool
    split_hash: str
    pipeline: Literal["pad-crop", "resized-crop"] = "pad-crop"
    eval_resize: int = Field(0, ge=0, le=1 << 17)

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.pad, self.flip)

    @property
    def recipes(self) -> str:
        """Whose recipes it is trained by: data sets of one's own that are read as ImageNet is are
        trained as ImageNet is."""
        return IMAGENET if self.pipeline == "resized-crop" else self.name


class Normaliser:
    """From bytes to what a network sees, on one device."""

    def __init__(self, identity: DataIdentity, device: torch.device) -> None:
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (identity.mean, identity.std))
        # One factor per pixel, not per channel: broadcasting over images alone keeps loops long.
        image = (1, 3, identity.image_size, identity.image_size)
        factors = [v.float().to(device) for v in (1 / (255 * std), -mean / std)]
        self._scale, self._shift = (v.view(1, 3, 1, 1).expand(image).contiguous() for v in factors)

    def __call__(self, pixels: Tensor, channels_last: bool) -> Tensor:
        """(B,3,S,S) uint8 -> (B,3,S,S) float32 in the memory format asked for."""
        scale, shift = self._scale, self._shift
        if channels_last:
            pixels, scale, shift = (_channels_last(t) for t in (pixels, scale, shift))
        return (
            pixels.contiguous(memory_format=_FORMATS[channels_last])
            .to(torch.float32)
            .mul_(scale)
            .add_(shift)
        )


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
        self._normalised = Normaliser(identity, self.device)

    def __len__(self) -> int:
        return len(self.labels)

    def ahead(self, rows: Iterable[Tensor], augment: tuple[int, int] | None = None) -> None:
        """Nothing: any batch is a moment away."""

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
        return self._normalised(pixels, channels_last), labels

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
    if pixels.is_contiguous(memory_format=torch.channels_last):
        return pixels
    result = torch.empty_like(pixels, memory_format=torch.channels_last)
    for channel in range(3):
        result[:, channel].copy_(pixels[:, channel])
    return result
