"""Images that are decoded ahead of their use, by processes that do nothing else.

What a batch holds depends on its rows, seed and epoch alone. The processes are those of torch's
DataLoader, which gets an explicit list of batches; they end with the process that started them,
whatever ends it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.decode import DRAWS, Geometry, decoded
from benchmark.errors import BadInput
from benchmark.images import DataIdentity, Normaliser
from benchmark.index import Part, index_of
from benchmark.layout import Places
from benchmark.lifeline import deaf, die_with_parent
from benchmark.noise import keyed_uniform
from benchmark.readers import Progress, one_line

Key = tuple[int, int]  # seed and epoch of an augmentation
Request = tuple[list[int], Key | None]  # places of images in their file list
# Changing it changes every augmented image: raise PROTOCOL with it.
_SALT = 0x61726561
MOST_LOST = 3  # times that processes may end by themselves
GONE = (RuntimeError, OSError, EOFError)  # what torch says when one of them did
PRELOADED = ["benchmark.decode", "torchvision.transforms.v2"]


@dataclass(frozen=True, eq=False)
class Pictures(Dataset[Tensor | str]):
    """All images of a file list, by request."""

    places: Places
    geometry: Geometry

    def __getitem__(self, request: Request) -> Tensor | str:
        """(B,S,S,3) uint8; or, for it comes from another process, what is wrong with an image."""
        rows, key = request
        side = self.geometry.size
        found = torch.empty(len(rows), side, side, 3, dtype=torch.uint8)
        index = torch.tensor(rows, dtype=torch.int64)
        draws = None if key is None else keyed_uniform(*key, index, DRAWS, _SALT).tolist()
        pixels = found.numpy()
        try:
            for i, row in enumerate(rows):
                content, name = self.places.read(row), self.places.name(row)
                own = None if draws is None else draws[i]
                pixels[i] = decoded(content, name, self.geometry, own)
        except BadInput as error:
            return str(error)
        return found


class Plan(Sampler[Request]):
    """Batches in the order in which they will be asked for."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class Feed:
    """Batches of a file list, decoded ahead by `workers` processes (0: when they are asked for, in
    this one). They are started by the first plan and stay for the next."""

    def __init__(self, pictures: Pictures, workers: int) -> None:
        self.pictures, self.workers = pictures, workers
        self._plan, self._next, self._lost = Plan(), 0, 0
        self._loader: DataLoader[Any] | None = None
        self._batches: Iterator[Any] | None = None

    def ahead(self, requests: list[Request]) -> None:
        """Forget what was planned, and begin to decode these."""
        self._plan.requests, self._next = requests, 0
        self._batches = None
        if not self.workers or not requests:
            return
        if self._loader is None:
            self._loader = _loader(self.pictures, self._plan, self.workers)
        try:
            with deaf():
                self._batches = iter(self._loader)
        except GONE as error:
            self._note_loss(error)

    def take(self, request: Request) -> Tensor:
        """(B,3,S,S) uint8 in channels-last memory. What is not next in the plan is decoded here.

        Raises:
            BadInput: an image cannot be decoded.
        """
        planned = self._batches is not None and self._plan.requests[self._next] == request
        found = self._planned() if planned else self.pictures[request]
        if isinstance(found, str):
            raise BadInput(found)
        return found.permute(0, 3, 1, 2)

    def _planned(self) -> Tensor | str:
        assert self._batches is not None
        request, rest = self._plan.requests[self._next], self._plan.requests[self._next + 1 :]
        try:
            found: Tensor | str = next(self._batches)
        except GONE as error:
            self._note_loss(error)
            self.ahead(rest)
            return self.pictures[request]
        self._next += 1
        if not rest:
            self._batches = None
        return found

    def _note_loss(self, error: Exception) -> None:
        """A process ended that should not have: others take its place, a few times."""
        self._loader = self._batches = None
        self._lost += 1
        if self._lost > MOST_LOST:
            raise RuntimeError(
                f"processes that decode images ended {self._lost} times ({one_line(error)}); out "
                "of memory? Give fewer --workers"
            ) from error


def _loader(pictures: Pictures, plan: Plan, workers: int) -> DataLoader[Any]:
    # Not forked from here: what this process holds (a GPU, a team's connections) does not survive
    # it. The server of forks is this process's own.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return DataLoader(
        pictures,
        batch_size=None,  # a request is a batch
        sampler=plan,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        multiprocessing_context=server,
        persistent_workers=True,
        generator=torch.Generator(),  # it draws a number; not from ours
    )


def _as_it_is(found: Any) -> Any:
    return found


def _begin(number: int) -> None:
    die_with_parent()


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images of one split: labels (N,) int64, and index (N,) int64, their places in the file list
    and in the original training or test set."""

    feed: Feed
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Streamed:
        """The images at rows (M,) int64, in that order."""
        return Streamed(self.feed, self.labels[rows], self.index[rows])

    def pictures(self, rows: Tensor) -> Tensor:
        """(M,3,S,S) uint8: the images at rows (M,), not augmented."""
        return self.feed.take((self.index[rows].tolist(), None))

    def source(self, identity: DataIdentity, device: str | torch.device = "cpu") -> StreamSource:
        """Batches of these images on a device."""
        return StreamSource(self, identity, torch.device(device))


class StreamSource:
    """See `sources.Source`. Sources of one file list share its feed, one plan at a time."""

    def __init__(self, images: Streamed, identity: DataIdentity, device: torch.device) -> None:
        self.device = device
        self.labels, self.index = images.labels.to(device), images.index.to(device)
        self._images, self._normalised = images, Normaliser(identity, device)

    def __len__(self) -> int:
        return len(self._images)

    def ahead(self, rows: Iterable[Tensor], augment: Key | None = None) -> None:
        self._images.feed.ahead([self._request(own, augment) for own in rows if len(own)])

    def batch(
        self, rows: Tensor, *, augment: Key | None = None, channels_last: bool = False
    ) -> tuple[Tensor, Tensor]:
        pixels = self._images.feed.take(self._request(rows, augment)).to(self.device)
        labels = self.labels.index_select(0, rows.to(self.device))
        return self._normalised(pixels, channels_last), labels

    def _request(self, rows: Tensor, augment: Key | None) -> Request:
        return self._images.index[rows.cpu()].tolist(), augment


@dataclass(frozen=True, eq=False)
class OnDisk:
    """A data set that does not fit in memory, with what its files hash to and how many bytes they
    are."""

    class_names: tuple[str, ...]
    content_hash: str
    train: Streamed
    test: Streamed
    num_bytes: int


def on_disk(
    folder: Path,
    size: int,
    cache_dir: Path,
    workers: int,
    on_progress: Progress | None,
    decode: bool = False,
) -> OnDisk:
    """Where its images are, made on first use (`index.index_of`)."""
    index, geometry = index_of(folder, cache_dir, on_progress, decode), Geometry.of(size)

    def split(part: Part) -> Streamed:
        # A feed for each: who trains must not get at the images of the test split.
        feed = Feed(Pictures(part.places, geometry), workers)
        return Streamed(feed, part.labels, torch.arange(len(part.labels)))

    num_bytes = index.train.size + index.test.size
    splits = split(index.train), split(index.test)
    return OnDisk(index.class_names, index.content_hash, *splits, num_bytes)
