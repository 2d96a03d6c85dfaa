"""Data: what is read, what identifies it, how it is split, and that batches equal the PIL way."""

import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydantic import ValidationError
from torchvision import datasets, transforms  # type: ignore[import-untyped, unused-ignore]

from benchmark.data import PUBLISHED, Data, load_data
from benchmark.errors import BadInput
from benchmark.images import Augmentation, BatchSource, DataIdentity, Images, crop_and_flip

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "cifar10-jpeg.tar.gz"


def identity(**changes: Any) -> DataIdentity:
    mean, std = PUBLISHED["cifar10"]
    fields: dict[str, Any] = {
        "name": "random",
        "content_hash": "0" * 16,
        "image_size": 32,
        "num_classes": 10,
        "mean": mean,
        "std": std,
        "pad": 4,
        "flip": True,
        "split_hash": "none",
    }
    return DataIdentity(**(fields | changes))


def random_images(count: int, size: int = 32, first_index: int = 0) -> Images:
    generator = torch.Generator().manual_seed(count + size)
    return Images(
        torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
        torch.arange(first_index, first_index + count),
    )


def write_image(path: Path, size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_folder(root: Path, train: int = 20, test: int = 3, suffix: str = "png") -> Path:
    for k, name in enumerate(["cat", "ant", "bee"]):
        for split, count in (("train", train), ("test", test)):
            for i in range(count):
                write_image(
                    root / split / name / f"{i:03}.{suffix}", seed=1000 * k + i + 500 * (count < 9)
                )
    return root


def load_folder(root: Path, cache: Path, **options: Any) -> Data:
    return load_data("imagefolder", data_dir=root, data_name="tiny", cache_dir=cache, **options)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load_data("digits", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images")


# --- batches ----------------------------------------------------------------------------------


def by_pil(images: Images, who: DataIdentity, crops: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The official pipeline, image by image, with the given crops and flips."""
    finish = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(list(who.mean), list(who.std))]
    )
    size, result = who.image_size, []
    for image, top, left, flipped in zip(images.pixels, *(c.tolist() for c in crops), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture = ImageOps.expand(picture, who.pad, fill=0)
        picture = picture.crop((left, top, left + size, top + size))
        if flipped:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        result.append(finish(picture))
    return torch.stack(result)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "pad": 2},
        {"image_size": 16, "pad": 1, "flip": False},
        {"image_size": 9, "pad": 0},
    ],
)
def test_augmented_batches_equal_the_pil_pipeline(
    changes: dict[str, Any], channels_last: bool
) -> None:
    who = identity(**changes)
    images = random_images(300, who.image_size, first_index=77)
    rows = torch.randperm(300)[:200]
    x, y = BatchSource(images, who).batch(rows, augment=(3, 5), channels_last=channels_last)
    chosen = images.select(rows)
    crops = crop_and_flip(who.augmentation, chosen.index, 3, 5)
    assert x.dtype == torch.float32
    assert torch.equal(y, chosen.labels)
    assert (x - by_pil(chosen, who, crops)).abs().max() <= 1e-6
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert x.is_contiguous(memory_format=layout)


def test_plain_batches_equal_to_tensor_and_normalise() -> None:
    who, images = identity(), random_images(50)
    zero = torch.zeros(50, dtype=torch.int64)
    x, y = BatchSource(images, who).batch(torch.arange(50))
    assert (x - by_pil(images, who, (zero + who.pad, zero + who.pad, zero))).abs().max() <= 1e-6
    assert torch.equal(y, images.labels)


def test_an_image_is_augmented_alike_in_any_batch_and_any_split() -> None:
    images = random_images(64)
    whole, _ = BatchSource(images, identity()).batch(torch.arange(64), augment=(1, 2))
    rows = torch.tensor([5, 40, 63, 2])
    picked = BatchSource(images.select(rows), identity())  # another split, same images
    x, _ = picked.batch(torch.tensor([3, 1]), augment=(1, 2))
    assert torch.equal(x, whole[rows[[3, 1]]])


@pytest.mark.parametrize("augment", [(1, 3), (2, 2), None])
def test_another_epoch_or_seed_augments_differently(augment: tuple[int, int] | None) -> None:
    source = BatchSource(random_images(64), identity())
    one, _ = source.batch(torch.arange(64), augment=(1, 2))
    two, _ = source.batch(torch.arange(64), augment=augment)
    same = (one == two).flatten(1).all(1)
    assert same.sum() < 6  # 1 in 162 by chance


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.booleans(), st.integers(0, 2**40), st.integers(0, 500))
def test_crops_stay_inside_and_flips_obey(pad: int, flip: bool, seed: int, epoch: int) -> None:
    top, left, flipped = crop_and_flip(Augmentation(pad, flip), torch.arange(500), seed, epoch)
    for corner in (top, left):
        assert corner.min() >= 0
        assert corner.max() <= 2 * pad
    assert flip or not flipped.any()


def test_all_crops_and_flips_are_equally_likely() -> None:
    top, left, flipped = crop_and_flip(Augmentation(4, True), torch.arange(162_000), 0, 0)
    counts = torch.bincount((top * 9 + left) * 2 + flipped, minlength=162).double()
    statistic = ((counts - 1000) ** 2 / 1000).sum().item()
    assert 80 < statistic < 270  # 161 degrees of freedom


def test_an_empty_batch_and_an_empty_split() -> None:
    none = torch.arange(0)
    for images in (random_images(4), random_images(4).select(none)):
        x, y = BatchSource(images, identity()).batch(none, augment=(0, 0))
        assert x.shape == (0, 3, 32, 32)
        assert y.shape == (0,)


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_outside_the_split_is_an_error(row: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        BatchSource(random_images(4), identity()).batch(torch.tensor([row]))


# --- identity ---------------------------------------------------------------------------------


def test_identity_is_plain_json_frozen_and_strict() -> None:
    who = identity()
    assert DataIdentity.model_validate_json(who.model_dump_json()) == who
    with pytest.raises(ValidationError):
        who.pad = 3  # type: ignore[misc, unused-ignore]
    with pytest.raises(ValidationError):
        identity(path="/home/me")
    for field, value in (("name", "../x"), ("image_size", 0), ("pad", -1), ("num_classes", 0)):
        with pytest.raises(ValidationError, match=field):
            identity(**{field: value})


def test_digits(digits: Data) -> None:
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1294, 143, 360)
    assert digits.train.pixels.shape == (1294, 3, 16, 16)
    assert digits.train.pixels.dtype == torch.uint8
    assert digits.test.labels.bincount().tolist() == [36] * 10
    assert digits.class_names == tuple("0123456789")
    assert torch.equal(digits.test.pixels[:, 0], digits.test.pixels[:, 2])
    assert (digits.identity.pad, digits.identity.flip) == (1, False)
    # Shipped records depend on these: a change needs a raised PROTOCOL.
    assert digits.identity.content_hash == "b565129206e2e7c7"
    assert digits.identity.split_hash == "18b27c3a9a6e8483"
    assert digits.identity.mean == (0.3055,) * 3
    assert digits.identity.std == (0.3188,) * 3


def test_digits_train_and_test_share_no_image(digits: Data) -> None:
    def keys(images: Images) -> set[bytes]:
        return {pixels.numpy().tobytes() for pixels in images.pixels}

    assert len(keys(digits.test)) == 360
    assert not keys(digits.test) & (keys(digits.train) | keys(digits.val))


def test_image_size_changes_the_content_but_not_the_split(digits: Data, tmp_path: Path) -> None:
    small = load_data("digits", image_size=8, cache_dir=tmp_path)
    assert small.identity.image_size == 8
    assert small.identity.content_hash != digits.identity.content_hash
    assert small.identity.split_hash == digits.identity.split_hash
    ones = small.train.pixels.max()
    assert ones == 255  # 16 grey levels stretched to the whole range


def test_validation_is_a_balanced_tenth_and_can_be_left_out(digits: Data, tmp_path: Path) -> None:
    full = load_data("digits", cache_dir=tmp_path, validation=False)
    assert len(full.val) == 0
    assert full.identity.split_hash == "none"
    assert not list(tmp_path.iterdir())
    assert torch.equal(full.train.index, torch.arange(1437))
    held_out = [round(0.1 * n) for n in full.train.labels.bincount().tolist()]
    assert digits.val.labels.bincount().tolist() == held_out
    both = torch.cat([digits.train.index, digits.val.index])
    assert torch.equal(both.sort().values, full.train.index)
    assert torch.equal(digits.val.pixels, full.train.pixels[digits.val.index])
    assert torch.equal(digits.train.labels, full.train.labels[digits.train.index])
    assert full.identity.content_hash == digits.identity.content_hash
    assert full.identity.mean == digits.identity.mean


def test_split_file_holds_the_sorted_validation_indices(tmp_path: Path) -> None:
    data = load_data("digits", cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == f"split-{data.identity.split_hash}.npy"
    assert np.load(file).tolist() == sorted(data.val.index.tolist()) == data.val.index.tolist()


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("0.5, 0.4,0;1,.2,1e-1", (0.5, 0.4, 0.0), (1.0, 0.2, 0.1)),
    ],
)
def test_normalisation(
    text: str, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    data = load_data("digits", normalize=text, cache_dir=tmp_path)
    assert (data.identity.mean, data.identity.std) == (mean, std)


@pytest.mark.parametrize(
    "text", ["imagenette", "cifar10", "", "1,2;3,4", "0,0,0;1,1,x", "0,0,0;1,0,1", "nan,0,0;1,1,1",
             "125,123,114;63,62,67", "0,0,0;1,1,1;1,1,1"]
)  # fmt: skip
def test_a_bad_normalisation_is_the_users_mistake(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="normalisation"):
        load_data("digits", normalize=text, cache_dir=tmp_path)


# --- CIFAR ------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: datasets.CIFAR10) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(datasets.CIFAR10, "download", download)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, per_batch: int = 100) -> None:
    """CIFAR-10's own files, only shorter; checksums are switched off."""
    base = root / datasets.CIFAR10.base_folder
    base.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [k % 10 for k in range(per_batch)]
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, None] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [[names[5], None]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


def test_cifar10_from_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    data = load_data("cifar10", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert (len(data.train), len(data.val), len(data.test)) == (450, 50, 100)
    assert data.val.labels.bincount().tolist() == [5] * 10
    assert data.class_names == tuple("abcdefghij")
    first = np.random.default_rng(5).integers(0, 256, (100, 3072), dtype=np.uint8)
    assert np.array_equal(data.test.pixels.flatten(1).numpy(), first)
    assert (data.identity.mean, data.identity.std) == PUBLISHED["cifar10"]
    assert (data.identity.pad, data.identity.flip) == (4, True)


def test_cifar10_can_be_resized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    data = load_data("cifar10", data_dir=tmp_path, image_size=16, cache_dir=tmp_path / "cache")
    assert data.test.pixels.shape == (100, 3, 16, 16)
    assert (data.identity.image_size, data.identity.pad) == (16, 2)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_files_and_network_says_what_to_do(
    name: str, tmp_path: Path, no_network: None
) -> None:
    with pytest.raises(BadInput, match=r"--data-dir.*--dataset digits.*imagefolder") as caught:
        load_data(name, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


# --- image folders ----------------------------------------------------------------------------


def test_folder_is_read_sorted_by_class_and_name(folder: Path, tmp_path: Path) -> None:
    data = load_folder(folder, tmp_path / "cache", validation=False)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.test.index.tolist() == list(range(9))
    expected = np.asarray(Image.open(folder / "train" / "bee" / "007.png")).transpose(2, 0, 1)
    assert np.array_equal(data.train.pixels[27].numpy(), expected)
    assert (data.identity.name, data.identity.image_size, data.identity.pad) == ("tiny", 8, 1)
    scaled = data.train.pixels.double() / 255
    assert data.identity.mean == tuple(round(m, 4) for m in scaled.mean((0, 2, 3)).tolist())
    deviation = scaled.transpose(0, 1).flatten(1).std(1, correction=0).tolist()
    assert data.identity.std == tuple(round(s, 4) for s in deviation)


@pytest.mark.parametrize("name", ["mine", "a", "0", "cifar10-jpeg", "v1.2_b", "a--b.c", "x" * 64])
def test_every_data_name_that_is_taken_can_be_recorded(
    name: str, folder: Path, tmp_path: Path
) -> None:
    data = load_data("imagefolder", data_dir=folder, data_name=name, cache_dir=tmp_path / "c")
    assert data.identity.name == name


def test_folder_is_decoded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, int]] = []
    first = load_folder(folder, tmp_path / "c", on_progress=lambda *step: steps.append(step))
    assert steps == [(64, 69), (69, 69)]
    monkeypatch.setattr("benchmark.readers._decode", None)  # a second decoding would fail
    second = load_folder(folder, tmp_path / "c")
    assert second.identity == first.identity
    assert torch.equal(second.train.pixels, first.train.pixels)
    assert not [path for path in (tmp_path / "c").iterdir() if path.name.startswith(".")]


def test_identity_depends_on_the_pixels_and_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    here = load_folder(folder, tmp_path / "c").identity
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    os.utime(moved / "train" / "ant" / "000.png")
    assert load_folder(moved, tmp_path / "c2").identity == here
    write_image(moved / "test" / "ant" / "000.png", seed=99)
    other = load_folder(moved, tmp_path / "c2").identity
    assert other.content_hash != here.content_hash
    assert other.split_hash == here.split_hash


def test_a_changed_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    before = load_folder(folder, tmp_path / "c").identity
    write_image(folder / "train" / "ant" / "000.png", seed=99)
    assert load_folder(folder, tmp_path / "c").identity.content_hash != before.content_hash


def test_swapped_labels_change_the_content(folder: Path, tmp_path: Path) -> None:
    before = load_folder(folder, tmp_path / "c").identity
    for split in ("train", "test"):
        for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):
            (folder / split / old).rename(folder / split / new)
    assert load_folder(folder, tmp_path / "c").identity.content_hash != before.content_hash


def test_folder_of_mixed_sizes_needs_an_image_size(folder: Path, tmp_path: Path) -> None:
    write_image(folder / "test" / "cat" / "big.png", size=(20, 12))
    with pytest.raises(BadInput, match=r"big.png is 20x12.*--image-size"):
        load_folder(folder, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    data = load_folder(folder, tmp_path / "c", image_size=8)
    assert data.test.pixels.shape == (10, 3, 8, 8)
    picture = Image.open(folder / "test" / "cat" / "big.png").crop((4, 0, 16, 12))
    resized = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(data.test.pixels[-1].numpy(), resized)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "webp"])
def test_folder_formats(suffix: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", train=6, test=1, suffix=suffix)
    assert len(load_folder(root, tmp_path / "c").train) == 15


def test_grey_and_palette_files_become_three_channels(folder: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 200).save(folder / "test" / "ant" / "000.png")
    Image.new("RGB", (8, 8), (9, 8, 7)).quantize().save(folder / "test" / "ant" / "001.png")
    pixels = load_folder(folder, tmp_path / "c").test.pixels
    assert set(pixels[0].flatten().tolist()) == {200}
    assert pixels[1, :, 0, 0].tolist() == [9, 8, 7]


def test_many_readers_at_once_agree(folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_folder(folder, tmp_path / "c").identity, range(8)))
    assert len(set(found)) == 1
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "c").iterdir())
    assert names == ["data", "split"]


@pytest.mark.parametrize("name", ["data", "split"])
def test_an_interrupted_write_leaves_nothing(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts become what they are by a rename: the moment before it."""
    for verb in ("rename", "replace"):
        publish = getattr(Path, verb)

        def interrupted(draft: Path, target: Path, publish: Any = publish) -> None:
            if target.name.startswith(name):
                raise KeyboardInterrupt
            publish(draft, target)

        monkeypatch.setattr(Path, verb, interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_folder(folder, tmp_path / "c")
    assert not [path for path in (tmp_path / "c").iterdir() if path.name[0] == "."]
    assert not list((tmp_path / "c").glob(f"{name}-*"))
    monkeypatch.undo()
    assert len(load_folder(folder, tmp_path / "c").val) == 6


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def cut_off(cache: Path) -> None:
    content = (cache / "pixels.npy").read_bytes()
    (cache / "pixels.npy").write_bytes(content[:-100])


def emptied(cache: Path) -> None:
    (cache / "pixels.npy").write_bytes(b"")


def of_another_shape(cache: Path) -> None:
    pixels = np.load(cache / "pixels.npy")
    np.save(cache / "pixels.npy", pixels.reshape(len(pixels), 3, 4, 16))


def of_another_type(cache: Path) -> None:
    np.save(cache / "pixels.npy", np.load(cache / "pixels.npy").astype(np.int8))


def flipped_bit(cache: Path) -> None:
    content = bytearray((cache / "pixels.npy").read_bytes())
    content[-50] ^= 1
    (cache / "pixels.npy").write_bytes(bytes(content))


def of_zeros(cache: Path) -> None:
    """As after a power cut: the length is right."""
    path = cache / "pixels.npy"
    path.write_bytes(bytes(path.stat().st_size))


def an_archive(cache: Path) -> None:
    with (cache / "pixels.npy").open("wb") as file:
        np.savez(file, pixels=np.zeros(3))


def a_pickle(cache: Path) -> None:
    np.save(cache / "pixels.npy", np.array([Touch(cache.parent / "ran")]), allow_pickle=True)


def without_pixels(cache: Path) -> None:
    (cache / "pixels.npy").unlink()


def without_checksum(cache: Path) -> None:
    (cache / "checksum").unlink()


DAMAGE = [
    cut_off, emptied, of_another_shape, of_another_type, flipped_bit, of_zeros, an_archive,
    a_pickle, without_pixels, without_checksum,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_decoded_anew(damage: Any, folder: Path, tmp_path: Path) -> None:
    first = load_folder(folder, tmp_path / "c")
    (cache,) = (tmp_path / "c").glob("data-*")
    damage(cache)
    again = load_folder(folder, tmp_path / "c")
    assert again.identity == first.identity
    assert torch.equal(again.train.pixels, first.train.pixels)
    steps: list[Any] = []
    load_folder(folder, tmp_path / "c", on_progress=lambda *step: steps.append(step))
    assert not steps  # it was repaired
    assert not (tmp_path / "c" / "ran").exists()
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "c").iterdir())
    assert names == ["data", "split"]


def test_a_damaged_split_file_is_written_anew(tmp_path: Path) -> None:
    data = load_data("digits", cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:50])
    assert torch.equal(load_data("digits", cache_dir=tmp_path).val.index, data.val.index)
    assert file.read_bytes() == content


def test_hidden_files_are_overlooked(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "ant" / ".DS_Store").write_bytes(b"x")
    (folder / "train" / ".cache").mkdir()
    assert len(load_folder(folder, tmp_path / "c", validation=False).train) == 60


# --- mistakes ---------------------------------------------------------------------------------


def corrupt(root: Path) -> None:
    file = root / "train" / "bee" / "004.png"
    file.write_bytes(file.read_bytes()[:60])


def not_an_image(root: Path) -> None:
    (root / "test" / "bee" / "oops.png").write_text("hello")


def strange_file(root: Path) -> None:
    (root / "train" / "bee" / "notes.txt").write_text("hello")


def sixteen_bits(root: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "train" / "bee" / "deep.png")


def empty_class(root: Path) -> None:
    shutil.rmtree(root / "test" / "bee")
    (root / "test" / "bee").mkdir()


def flat_images(root: Path) -> None:
    for file in root.glob("train/*/*.png"):
        Image.new("RGB", (8, 8)).save(file)


def one_class(root: Path) -> None:
    for name in ("bee", "cat"):
        shutil.rmtree(root / "train" / name)


def too_few(root: Path) -> None:
    for file in sorted((root / "train" / "bee").iterdir())[5:]:
        file.unlink()


BREAKS = [
    (corrupt, r"cannot read image .*bee/004\.png"),
    (not_an_image, r"cannot read image .*bee/oops\.png"),
    (sixteen_bits, r"cannot read image .*bee/deep\.png.*8 bits"),
    (strange_file, r"not an image file: .*bee/notes\.txt"),
    (empty_class, r"class folder .*test/bee is empty"),
    (flat_images, r"same value"),
    (lambda root: shutil.rmtree(root / "test"), r"no test/ folder"),
    (lambda root: shutil.rmtree(root / "train"), r"no train/ folder"),
    (lambda root: shutil.rmtree(root / "train" / "bee"), r"different classes.*bee"),
    (lambda root: shutil.rmtree(root), r"no such data directory"),
    (one_class, r"1 class folder"),
    (too_few, r"'bee' has 5 training images"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKS)
def test_a_broken_folder_is_named_in_one_line(
    damage: Any, message: str, folder: Path, tmp_path: Path
) -> None:
    damage(folder)
    with pytest.raises(BadInput, match=message) as caught:
        load_folder(folder, tmp_path / "c")
    assert "\n" not in str(caught.value)
    leftovers = list((tmp_path / "c").glob(".*")) if (tmp_path / "c").exists() else []
    assert not leftovers


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"name": "cifra10"}, "unknown data set 'cifra10'.*did you mean cifar10"),
        ({"name": "zzz"}, "known are digits, cifar10, cifar100, imagefolder, imagenet$"),
        ({"name": "imagefolder", "data_name": "x"}, "--data-dir"),
        ({"name": "imagefolder", "data_dir": "."}, "--data-name"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": "Cats"}, "invalid data name"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": "a/b"}, "invalid data name"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": ""}, "invalid data name"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": ".."}, "invalid data name"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": "a..b"}, "single dots inside"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": "a\0"}, "invalid data name"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": "a" * 65}, "64 characters"),
        ({"name": "imagefolder", "data_dir": ".", "data_name": "cifar10"}, "built-in"),
        ({"name": "digits", "data_name": "mine"}, "imagefolder and imagenet only"),
        ({"name": "digits", "data_dir": "."}, "no data directory"),
        ({"name": "digits", "image_size": 0}, "image size"),
    ],
)
def test_a_bad_request_is_refused(request_: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        load_data(**request_, cache_dir=tmp_path)


# --- the real folder --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")
def test_real_cifar10_as_jpeg(tmp_path: Path) -> None:
    with tarfile.open(REAL) as archive:
        archive.extractall(tmp_path / "images", filter="data")
    root, cache = tmp_path / "images", tmp_path / "cache"
    first = load_data("imagefolder", data_dir=root, data_name="cifar10-jpeg", cache_dir=cache)
    again = load_data(
        "imagefolder", data_dir=root, data_name="cifar10-jpeg", image_size=32, cache_dir=cache
    )
    assert first.identity == again.identity
    assert (len(first.train), len(first.val), len(first.test)) == (45_000, 5_000, 10_000)
    assert first.class_names[:3] == ("airplane", "automobile", "bird")
    for images, count in ((first.train, 4500), (first.val, 500), (first.test, 1000)):
        assert images.labels.bincount().tolist() == [count] * 10
    published, _ = PUBLISHED["cifar10"]
    assert np.abs(np.subtract(first.identity.mean, published)).max() < 0.005
    assert first.identity.split_hash == "9ccb8598f9103aeb"
    # Holds where libjpeg decodes as libjpeg-turbo in Pillow's wheels does.
    assert first.identity.content_hash == "1f86ad6447d6eebf"
