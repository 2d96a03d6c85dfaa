"""What training and evaluation need of a data set, wherever its images are.

`images.py` keeps all pixels in memory, `stream.py` decodes files ahead of their use. One training
loop serves both: it says what it will ask for, then asks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from benchmark.images import DataIdentity, Images

SAMPLE = 32  # images that tell how long one takes


class Source(Protocol):
    """Normalised batches of one split on one device."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the device."""

    @property
    def index(self) -> Tensor:
        """(N,) int64, on the device: each image's position in the original training or test set,
        which keys its augmentation."""

    def __len__(self) -> int: ...

    def ahead(self, rows: Iterable[Tensor], augment: tuple[int, int] | None = None) -> None:
        """What `batch` will be asked for next, in this order: decoding may begin. A promise that is
        not kept costs time and changes nothing."""

    def batch(
        self,
        rows: Tensor,
        *,
        augment: tuple[int, int] | None = None,
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Images and labels at rows (B,) int64 of this split: x (B,3,S,S) float32, y (B,) int64.

        `augment=(seed, epoch)`: what happens to an image depends on these two numbers and its index
        alone.
        """


class Split(Protocol):
    """Images with their labels, before they are put on a device."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    @property
    def index(self) -> Tensor:
        """(N,) int64, as in `Source`."""

    def __len__(self) -> int: ...

    def select(self, rows: Tensor) -> Split:
        """The images at rows (M,) int64, in that order."""

    def pictures(self, rows: Tensor) -> Tensor:
        """(M,3,S,S) uint8: the images at rows (M,), not augmented."""

    def source(self, identity: DataIdentity, device: str | torch.device = "cpu") -> Source:
        """Batches of these images on a device."""


def seconds_per_image(split: Split) -> float:
    """Of this process, to get an image from where it is; none for those in memory."""
    if isinstance(split, Images):
        return 0.0
    rows = torch.arange(0, len(split), max(1, len(split) // SAMPLE))[:SAMPLE]
    split.pictures(rows[:1])  # what is imported for the first is not counted
    started = time.process_time()
    split.pictures(rows)
    return (time.process_time() - started) / len(rows)
