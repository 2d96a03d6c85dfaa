"""From the bytes of an image file to the square that a network sees, in the way of ImageNet.

Training: a random part of the image by area and aspect ratio, resized, mirrored with chance 1/2.
Evaluation: the shorter side resized, then the centre. The parts are drawn by the law of
`torchvision.transforms.v2.RandomResizedCrop` (Szegedy et al., Going deeper with convolutions, 2015,
section 6), but from numbers keyed by seed, epoch and image: whoever decodes an image, in whatever
batch, finds the same. Cutting and resizing are torchvision's; PIL does them in integer arithmetic.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmark.readers import decoded_rgb

AREA = (0.08, 1.0)  # of the image
RATIO = (3 / 4, 4 / 3)  # width over height
TRIES = 10  # then the largest part at the centre that has a legal ratio
DRAWS = 2 * TRIES + 3  # of an image: area and ratio of each try, top, left, mirrored
EVAL_SHARE = 0.875  # of the shorter side that the centre crop keeps

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True)
class Geometry:
    """Pixels: side of the square, and of the shorter side before the centre crop."""

    size: int
    resize: int

    @classmethod
    def of(cls, size: int) -> Geometry:
        """Of squares of this side."""
        return cls(size, round(size / EVAL_SHARE))


def decoded(
    content: bytes, name: str, geometry: Geometry, draws: Sequence[float] | None
) -> np.ndarray:
    """(S, S, 3) uint8. `draws`: DRAWS numbers in [0, 1) that choose the part; None: the centre.

    Raises:
        BadInput: the bytes are not an image; `name` says which.
    """
    image = decoded_rgb(io.BytesIO(content), name)
    return np.asarray(centre(image, geometry) if draws is None else part(image, geometry, draws))


def part(image: Image.Image, geometry: Geometry, draws: Sequence[float]) -> Image.Image:
    """A random part, resized and perhaps mirrored."""
    # Slow to import, and needed where images are decoded alone.
    from torchvision.transforms.v2 import functional as v2

    box = crop_box(*image.size, draws)
    found = v2.resized_crop(image, *box, size=[geometry.size, geometry.size])
    return v2.horizontal_flip(found) if draws[-1] < 0.5 else found


def centre(image: Image.Image, geometry: Geometry) -> Image.Image:
    """The centre square after the shorter side was resized."""
    from torchvision.transforms.v2 import functional as v2

    found = v2.resize(image, size=[geometry.resize])
    return v2.center_crop(found, output_size=[geometry.size, geometry.size])


def crop_box(width: int, height: int, draws: Sequence[float]) -> Box:
    """The part of an image of this size that these numbers choose."""
    low, high = (math.log(ratio) for ratio in RATIO)
    for trial in range(TRIES):
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * draws[2 * trial])
        ratio = math.exp(low + (high - low) * draws[2 * trial + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws[2 * TRIES : 2 * TRIES + 2]
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w
