"""Images decoded ahead of their use: what a batch holds depends on rows, seed and epoch alone."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import streaming
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import _geometry

from benchmark.checkpoint import Checkpoints
from benchmark.data import Data, dataset_of
from benchmark.decode import DRAWS, TRIES, Geometry, centre, crop_box, part
from benchmark.errors import BadInput, Stopped
from benchmark.evaluation import balanced, evaluate, recalibrate
from benchmark.images import Images
from benchmark.layout import layout_of
from benchmark.ledger import Ledger
from benchmark.noise import keyed_uniform
from benchmark.reach import reachable
from benchmark.readers import decoded_rgb
from benchmark.spec import digest, identity
from benchmark.stream import _SALT, MOST_LOST, Streamed
from benchmark.trainer import Trainer

Batches = list[tuple[Tensor, Tensor]]
KEY = (3, 5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streaming.folder(tmp_path_factory.mktemp("images") / "im")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def data(root: Path, cache: Path) -> Data:
    return streaming.data(root, cache)


@pytest.fixture(scope="module")
def two_workers(root: Path, cache: Path) -> Iterator[Data]:
    """Their processes take seconds to start and stay."""
    found = streaming.data(root, cache, workers=2)
    yield found
    for split in (found.train, found.test):
        split.feed._loader = split.feed._batches = None


def read(data: Data, split: str, rows: list[Tensor], key: tuple[int, int] | None) -> Batches:
    source = getattr(data, split).source(data.identity)
    source.ahead(rows, key)
    return [source.batch(own, augment=key, channels_last=True) for own in rows]


def same(one: Batches, two: Batches) -> bool:
    return all(
        torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )


# ---- one image -----------------------------------------------------------------------------------


class Told:
    """Stands for torch in v2's geometry and draws the numbers it is told: those of each try, and
    top and left where a try succeeds."""

    def __init__(self, draws: list[float]) -> None:
        self.tries, self.place = iter(draws[: 2 * TRIES]), iter(draws[2 * TRIES :])

    def empty(self, count: int) -> Told:
        return self

    def uniform_(self, low: Any, high: Any) -> Tensor:
        return torch.tensor(float(low) + (float(high) - float(low)) * next(self.tries)).double()

    def randint(self, low: int, high: int, size: tuple[int, ...]) -> Tensor:
        return torch.tensor(int(next(self.place) * high))

    exp = staticmethod(torch.exp)


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    seed=st.integers(0, 2**31),
)
def test_the_part_of_an_image_is_the_one_that_v2_cuts_by_the_same_numbers(
    width: int, height: int, seed: int
) -> None:
    draws = keyed_uniform(seed, 0, torch.tensor([1]), DRAWS).double()[0].tolist()
    law = v2.RandomResizedCrop(8)
    law._log_ratio = torch.log(torch.tensor(law.ratio, dtype=torch.float64))
    with mock.patch.object(_geometry, "torch", Told(draws)):
        wanted = law.make_params([torch.empty(3, height, width)])
    names = ("top", "left", "height", "width")
    assert crop_box(width, height, draws) == tuple(wanted[n] for n in names)


def test_an_image_without_a_legal_part_gives_its_centre() -> None:
    draws = [0.999] * DRAWS
    assert crop_box(400, 20, draws) == (0, 186, 20, 27)
    assert crop_box(20, 400, draws) == (186, 0, 27, 20)


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (20, 20), (9, 64)])
def test_views_are_those_of_torchvision(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, geometry = Image.fromarray(pixels), Geometry.of(28)
    assert geometry.resize == 32
    plain = v2.Compose([v2.Resize(32), v2.CenterCrop(28)])(image)
    assert np.array_equal(centre(image, geometry), plain)
    draws = torch.rand(DRAWS).tolist()
    for last in (0.2, 0.7):
        top, left, height, width = crop_box(*size, draws)
        cut = image.crop((left, top, left + width, top + height))
        wanted = cut.resize((28, 28), Image.Resampling.BILINEAR)
        if last < 0.5:
            wanted = wanted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(part(image, geometry, [*draws[:-1], last]), wanted)


def test_half_of_the_images_are_mirrored_and_areas_are_even() -> None:
    draws = keyed_uniform(0, 0, torch.arange(4000), DRAWS, _SALT).double().tolist()
    assert abs(sum(d[-1] < 0.5 for d in draws) / 4000 - 0.5) < 0.03
    boxes = [crop_box(1000, 1000, d) for d in draws]
    shares = [h * w / 1e6 for _, _, h, w in boxes]
    ratios = [math.log(w / h) for _, _, h, w in boxes]
    assert abs(np.mean(ratios)) < 0.01
    assert min(shares) < 0.1
    assert 0.45 < np.mean(shares) < 0.56  # large parts of odd ratio do not fit: a little below 0.54


# ---- batches -------------------------------------------------------------------------------------


def test_batches_equal_the_images_one_by_one(data: Data, root: Path) -> None:
    layout, geometry = layout_of(root), Geometry.of(streaming.SIDE)
    mean, std = (list(v) for v in (data.identity.mean, data.identity.std))
    finish = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    )
    rows = torch.tensor([5, 0, 30, 7])
    index = data.train.index[rows]
    draws = keyed_uniform(*KEY, index, DRAWS, _SALT).tolist()
    images = [decoded_rgb(root / layout.train.names[int(i)], "") for i in index]
    wanted = {
        None: [finish(centre(image, geometry)) for image in images],
        KEY: [finish(part(i, geometry, d)) for i, d in zip(images, draws, strict=True)],
    }
    source = data.train.source(data.identity)
    for key, views in wanted.items():
        for channels_last in (False, True):
            x, y = source.batch(rows, augment=key, channels_last=channels_last)
            assert x.dtype == torch.float32
            assert (x - torch.stack(views)).abs().max() <= 1e-6
            layout_ = torch.channels_last if channels_last else torch.contiguous_format
            assert x.is_contiguous(memory_format=layout_)
            assert y.tolist() == [layout.train.labels[int(i)] for i in index]
    assert torch.equal(
        data.train.pictures(rows)[2].permute(1, 2, 0),
        torch.from_numpy(np.array(centre(images[2], geometry))),
    )


def test_workers_change_no_bit_and_no_random_state(data: Data, two_workers: Data) -> None:
    one_worker = replace(two_workers, train=_one_worker(two_workers.train))
    rows = list(torch.randperm(len(data.train))[:40].split(7))
    plain = read(data, "train", rows, KEY)
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    for other in (one_worker, two_workers):
        assert same(plain, read(other, "train", rows, KEY))
        assert same(
            read(data, "val", [torch.arange(4)], None), read(other, "val", [torch.arange(4)], None)
        )
    drawn = float(torch.rand(())), random.random(), np.random.rand()
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    assert drawn == (float(torch.rand(())), random.random(), np.random.rand())
    assert not same(plain, read(two_workers, "train", rows, (3, 6)))
    assert not same(plain, read(two_workers, "train", rows, (4, 5)))


def _one_worker(split: Streamed) -> Streamed:
    feed = type(split.feed)(split.feed.pictures, 1)
    return Streamed(feed, split.labels, split.index)


def test_an_image_is_the_same_in_any_batch_planned_or_not(data: Data, two_workers: Data) -> None:
    whole, _ = data.train.source(data.identity).batch(torch.arange(30), augment=KEY)
    source = two_workers.train.source(data.identity)
    source.ahead([torch.arange(10), torch.arange(10, 20), torch.arange(20, 30)], KEY)
    assert torch.equal(source.batch(torch.tensor([17, 4]), augment=KEY)[0], whole[[17, 4]])
    assert torch.equal(source.batch(torch.arange(10), augment=KEY)[0], whole[:10])
    source.ahead([torch.arange(25, 30), torch.empty(0, dtype=torch.int64)], KEY)  # another plan
    assert torch.equal(source.batch(torch.arange(25, 30), augment=KEY)[0], whole[25:])
    assert source.batch(torch.empty(0, dtype=torch.int64), augment=KEY)[0].shape == (0, 3, 16, 16)


def test_batches_go_on_when_workers_are_lost(data: Data, two_workers: Data) -> None:
    rows, feed = list(torch.arange(48).split(6)), _one_worker(two_workers.train).feed
    source = Streamed(feed, data.train.labels, data.train.index).source(data.identity)
    source.ahead(rows, KEY)
    wanted, found = read(data, "train", rows, KEY), []
    for number, own in enumerate(rows):
        if number == 2:
            assert feed._loader is not None
            os.kill(feed._loader._iterator._workers[0].pid, 9)
        found.append(source.batch(own, augment=KEY, channels_last=True))
    assert same(wanted, found)
    assert feed._lost == 1


def test_workers_that_always_end_are_a_reason_to_stop(data: Data) -> None:
    feed = data.train.feed
    for _ in range(MOST_LOST):
        feed._note_loss(RuntimeError("killed"))
    with pytest.raises(RuntimeError, match=f"ended {MOST_LOST + 1} times .* fewer --workers"):
        feed._note_loss(RuntimeError("killed"))


def test_a_file_that_changed_is_named_by_whoever_reads_it(
    tmp_path: Path, two_workers: Data
) -> None:
    root = streaming.folder(tmp_path / "im")
    data = streaming.data(root, tmp_path / "stages")
    victim = sorted((root / "train/n01").iterdir())[0]
    size = victim.stat().st_size
    victim.write_bytes(bytes(size))
    source = data.train.source(data.identity)
    row = int((data.train.index == 0).nonzero()[0])
    with pytest.raises(BadInput, match=f"cannot read image {victim}"):
        source.batch(torch.tensor([row]))
    victim.write_bytes(b"")
    with pytest.raises(BadInput, match=f"{victim} is shorter than when it was indexed"):
        source.batch(torch.tensor([row]))
    places = replace(two_workers.test.feed.pictures.places, root=tmp_path / "gone")
    feed = two_workers.test.feed
    broken = type(feed)(replace(feed.pictures, places=places), 1)
    broken.ahead([([0], None)])
    with pytest.raises(BadInput, match=r"^cannot read .*gone.*No such file"):
        broken.take(([0], None))


# ---- who holds what ------------------------------------------------------------------------------


def test_a_trainer_cannot_get_at_test_files_and_nobody_holds_pixels(data: Data) -> None:
    run = trainer(data)
    run.train.batch(torch.arange(20), augment=KEY)
    name = b"val/n02"
    assert any(name in t.numpy().tobytes() for t in reachable(data) if t.dtype == torch.uint8)
    assert not any(name in t.numpy().tobytes() for t in reachable(run) if t.dtype == torch.uint8)
    images = len(data.train) + len(data.val) + len(data.test)
    held = sum(t.numel() * t.element_size() for t in reachable(data.train))
    assert held < images * 3 * streaming.SIDE**2


# ---- training ------------------------------------------------------------------------------------


def trainer(data: Data, **changes: Any) -> Trainer:
    who = data.identity
    fields: dict[str, Any] = {
        "train": data.train.source(who), "val": data.val.source(who),
        "num_classes": who.num_classes, "recipe": tiny.RECIPE, "seed": 0,
        "data_hash": who.content_hash, "ledger": Ledger(len(data.train) * 4, len(data.train)),
    }  # fmt: skip
    return Trainer(**fields | changes)


def trained(data: Data, **changes: Any) -> dict[str, Tensor]:
    net = tiny.model()
    recipe = tiny.RECIPE.model_copy(update={"epochs": 1.5, "batch_size": 9})
    trainer(data, **changes).run_phase(net, recipe, "recovery", validate=True)
    return tiny.state_of(net)


class After:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopped_within_an_epoch_and_resumed_training_ends_the_same(
    data: Data, two_workers: Data, tmp_path: Path
) -> None:
    whole = trained(data)
    for steps in (2, 7):  # of 6 in the first epoch, then 3
        kept = {"checkpoints": Checkpoints(tmp_path / str(steps))}
        with pytest.raises(Stopped):
            trained(two_workers, stop=After(steps), **kept)
        assert tiny.same(whole, trained(two_workers, **kept))
    assert not tiny.same(whole, trained(two_workers, seed=1))


def test_parts_of_batches_are_planned_as_they_are_asked_for(two_workers: Data, data: Data) -> None:
    whole = trained(data, replicas=2)
    pictures = two_workers.train.feed.pictures
    with mock.patch.object(type(pictures), "__getitem__", side_effect=AssertionError("unplanned")):
        found = trained(two_workers, replicas=2)
    assert tiny.same(whole, found)


def test_evaluation_recalibration_and_scoring_are_planned(two_workers: Data, data: Data) -> None:
    rows = torch.arange(30)

    def all_of(own: Data) -> list[Any]:
        net, test, run = tiny.model(), own.test.source(own.identity), trainer(own)
        found = evaluate(net, test, batch_size=5)
        recalibrate(net, run.train, rows, (15, 15))
        drawn = [x for x, _ in run.batches(images=20, augment=True)]
        return [found.margin, found.predicted, *drawn, *net.buffers()]

    wanted = all_of(data)
    pictures = two_workers.train.feed.pictures
    with mock.patch.object(type(pictures), "__getitem__", side_effect=AssertionError("unplanned")):
        found = all_of(two_workers)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_balanced_rows_take_the_classes_in_turn(labels: list[int], seed: int) -> None:
    found = balanced(torch.tensor(labels), 5, seed)
    assert sorted(found.tolist()) == list(range(len(labels)))
    seen = [0] * 5
    turns = []
    for row in found.tolist():
        turns.append((seen[labels[row]], labels[row]))
        seen[labels[row]] += 1
    assert turns == sorted(turns)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    for label in range(5):
        own = [row for row in order if labels[row] == label]
        assert own == [row for row in found.tolist() if labels[row] == label]


# ---- identity ------------------------------------------------------------------------------------


def test_what_was_added_to_an_identity_is_left_out_while_it_means_what_was_done_before() -> None:
    who = tiny.data().identity
    assert identity(who).keys() == who.model_dump().keys() - {"pipeline", "eval_resize"}
    assert digest(identity(who)) == "d3012e65f118c581"  # by the code before
    new = who.model_copy(update={"pipeline": "resized-crop", "eval_resize": 256})
    assert identity(new) == new.model_dump(mode="json")


def test_the_way_back_from_an_identity_to_the_words(data: Data) -> None:
    assert dataset_of(data.identity) == "imagenet"
    assert dataset_of(data.identity.model_copy(update={"name": "birds"})) == "imagenet"
    assert dataset_of(tiny.data().identity) == "imagefolder"
    assert dataset_of(tiny.data().identity.model_copy(update={"name": "digits"})) == "digits"


def test_the_identity_of_streamed_data(data: Data) -> None:
    who = data.identity
    assert (who.name, who.image_size, who.eval_resize) == ("imagenet", 16, 18)
    assert (who.pad, who.flip, who.pipeline) == (0, True, "resized-crop")
    assert who.mean == (0.485, 0.456, 0.406)
    assert (len(data.train), len(data.val), len(data.test)) == (54, 6, 12)
    assert torch.bincount(data.val.labels).tolist() == [2, 2, 2]
    assert not set(data.val.index.tolist()) & set(data.train.index.tolist())
    assert not isinstance(data.train, Images)
