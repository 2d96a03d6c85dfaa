"""Layouts of large data sets, their index, and what `benchmark.prepare` says about them."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import streaming
import torch
from streaming import CLASSES, add

from benchmark import prepare
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.data import VALIDATION_MOST, _splits, load_data
from benchmark.errors import BadInput
from benchmark.files import write_bytes
from benchmark.images import Images
from benchmark.index import index_of, read_index
from benchmark.layout import Texts, layout_of, stem_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return streaming.folder(tmp_path / "im", train=8)


def first(root: Path, split: str = "train") -> Path:
    return sorted((root / split / CLASSES[0]).iterdir())[0]


# ---- folders and shards --------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["{stem}", "{folder}/{stem}", "./{stem}"])
def test_shards_and_a_folder_of_the_same_files_are_the_same_data(
    root: Path, tmp_path: Path, keys: str
) -> None:
    packed = streaming.shards(root, tmp_path / "tars", of=7, keys=keys)
    one, two = (index_of(r, tmp_path / "stages") for r in (root, packed))
    assert (one.has_shards, two.has_shards) == (False, True)
    assert one.content_hash == two.content_hash
    assert one.class_names == two.class_names == CLASSES
    for a, b in ((one.train, two.train), (one.test, two.test)):
        assert torch.equal(a.labels, b.labels)
        assert [a.places.read(i) for i in range(len(a.places))] == [
            b.places.read(i) for i in range(len(b.places))
        ]
    assert "in " in two.train.places.name(0)
    assert one.train.places.name(0) == str(first(root))


def test_test_stands_for_val_where_there_is_no_val(root: Path, tmp_path: Path) -> None:
    whole = index_of(root, tmp_path / "s").content_hash
    shutil.copytree(root / "val", root / "test")
    first(root, "test").unlink()
    assert index_of(root, tmp_path / "s").content_hash == whole  # val/ is there
    shutil.rmtree(root / "test")
    (root / "val").rename(root / "test")
    assert index_of(root, tmp_path / "s").content_hash == whole


def rename_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "n01").rename(root / split / "n04")


def swap_bytes(root: Path) -> None:
    a, b = first(root), first(root, "val")
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)


@pytest.mark.parametrize(
    "change", [rename_class, swap_bytes, lambda r: first(r).rename(first(r).parent / "a.JPEG")]
)
def test_labels_bytes_and_names_are_hashed(
    root: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before = index_of(root, tmp_path / "s").content_hash
    change(root)
    assert index_of(root, tmp_path / "s").content_hash != before


def test_hidden_files_and_times_do_not_count(root: Path, tmp_path: Path) -> None:
    before = index_of(root, tmp_path / "s").content_hash
    os.utime(first(root), (1, 1))
    (root / "train/n01/.DS_Store").write_bytes(b"x")
    assert index_of(root, tmp_path / "s").content_hash == before
    assert len(list((tmp_path / "s").iterdir())) == 2  # another time, another index


# ---- the index -----------------------------------------------------------------------------------


def test_an_index_is_found_again_and_made_again_when_files_change_or_it_is_damaged(
    root: Path, tmp_path: Path
) -> None:
    calls: list[int] = []

    def count(done: int, total: int) -> None:
        calls.append(total)

    def indexed() -> bool:
        """Whether files were read."""
        calls.clear()
        index_of(root, tmp_path, count)
        return bool(calls)

    assert indexed()
    assert calls[-1] == 3 * 8 + 3 * 4
    assert not indexed()
    (path,) = tmp_path.glob("index-*")
    content = path.read_bytes()
    write_bytes(path, content[:-1] + bytes([content[-1] ^ 1]))
    assert read_index(path, layout_of(root)) is None
    assert indexed()
    write_bytes(path, b"")
    assert indexed()
    shutil.copy(first(root), root / "train/n01/one_more.JPEG")
    assert indexed()
    assert not indexed()


def test_texts_are_what_they_were() -> None:
    words = ["", "a", "ä/ö.JPEG", "bad\udcff", ""]
    texts = Texts.of(words)
    assert [texts[i] for i in range(len(texts))] == words
    assert len(Texts.of([])) == 0


def test_stems_are_cut_as_webdataset_cuts_keys() -> None:
    names = ("n01/n01_5.JPEG", "./n01_5.jpg", "n01_5", "a.b/n01_5.seg.png")
    assert {stem_of(name) for name in names} == {"n01_5"}


def test_validation_is_a_tenth_of_a_class_but_fifty_at_most(root: Path, tmp_path: Path) -> None:
    labels = torch.tensor([0] * 620 + [1] * 90 + [2] * 8)
    images = Images(torch.zeros(len(labels), 3, 1, 1).byte(), labels, torch.arange(len(labels)))
    train, val, _ = _splits(images, CLASSES, tmp_path, True, VALIDATION_MOST)
    assert torch.bincount(val.labels).tolist() == [50, 9, 1]
    assert torch.bincount(train.labels).tolist() == [570, 81, 7]
    whole = load_data("imagenet", data_dir=root, cache_dir=tmp_path / "s", validation=False)
    assert (len(whole.train), len(whole.val)) == (24, 0)
    assert (whole.identity.split_hash, whole.identity.image_size) == ("none", 224)


# ---- what is wrong -------------------------------------------------------------------------------


def spoil_many(root: Path) -> None:
    for path in sorted((root / "train/n02").iterdir()):
        path.write_bytes(b"no image")


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda r: shutil.rmtree(r / "val"), "has no test/ folder: expected train/<class>"),
    (lambda r: shutil.rmtree(r / "train"), "has no train/ folder"),
    (lambda r: shutil.rmtree(r / "val/n03"), "different classes; only in one: n03"),
    (lambda r: [shutil.rmtree(r / s / c) for s in ("train", "val") for c in CLASSES[1:]],
     "holds 1 class folders, two are needed"),
    (lambda r: [p.unlink() for p in (r / "val/n02").iterdir()], "class folder .*val/n02 is empty"),
    (lambda r: (r / "train/n01/list.txt").write_text("x"), "1 file is no image by name: .*t.txt"),
    (lambda r: first(r).write_bytes(b"x"), r"1 of 36 images cannot be read: .*n01_train_0.JPEG \("),
    (spoil_many, r"8 of 36 images cannot be read: .*train_0.* and 5 more$"),
    (lambda r: (r / "train/x.tar").write_bytes(b""), "only one of .* holds tar shards"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_is_wrong_with_a_folder_is_one_line(
    root: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    change(root)
    with pytest.raises(BadInput, match=said) as caught:
        index_of(root, tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("s/*"))


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                add(tar, name, changed)


def without(ending: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, content: None if name.endswith(ending) else content


SHARDS: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: rewrite(p, without("n01_train_0.cls")), r"n01_train_0 in train/.*tar has no \.cls"),
    (lambda p: rewrite(p, without("_0.jpg")), r"has no image, .*has no image, .*has no image;"),
    (lambda p: rewrite(p, without(".jpg")), "has no image.* and 21 more; expected"),
    (lambda p: rewrite(p, lambda n, c: b"cat" if n.endswith(".cls") else c), "invalid literal"),
    (lambda p: rewrite(p, lambda n, c: b"7" if n.endswith("0.cls") else c), "these are .*: 7"),
    (lambda p: p.write_bytes(p.read_bytes()[:5000]), "shard .*000000.tar cannot be read"),
    (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(2000)), "cannot be read"),
    (lambda p: (p.parents[1] / "classes.txt").write_text("a\nb\n"), "names 2, and of train these"),
    (lambda p: (p.parents[1] / "classes.txt").write_text("a\nb\nb"), "names a class twice"),
    (lambda p: rewrite(p, lambda n, c: b"x" if n.endswith("1_train_0.jpg") else c),
     "1 of 36 images cannot be read: n01_train_0.jpg in .*000000.tar"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), SHARDS)
def test_what_is_wrong_with_shards_is_one_line(
    root: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    packed = streaming.shards(root, tmp_path / "tars")
    change(packed / "train/000000.tar")
    with pytest.raises(BadInput, match=said) as caught:
        index_of(packed, tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_a_sample_with_two_images_is_refused(root: Path, tmp_path: Path) -> None:
    packed = streaming.shards(root, tmp_path / "tars")
    with tarfile.open(packed / "train/000000.tar", "a") as tar:
        add(tar, "n01_train_0.png", b"")
    with pytest.raises(BadInput, match="sample n01_train_0 has two images"):
        index_of(packed, tmp_path / "s")


def test_classes_without_names_are_numbered(root: Path, tmp_path: Path) -> None:
    packed = streaming.shards(root, tmp_path / "tars")
    (packed / "classes.txt").unlink()
    assert index_of(packed, tmp_path / "s").class_names == ("0", "1", "2")


# ---- the command ---------------------------------------------------------------------------------


def test_prepare_says_what_is_there_on_one_screen(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first(root).unlink()
    words = [str(root), "--results", str(tmp_path / "r"), "--image-size", "32", "--decode"]
    assert invoke(prepare.main, [*words, "--data-name", "three"]) == DONE
    said = capsys.readouterr().out
    data = streaming.data(root, tmp_path / "r/stages")
    for line in (
        "three: a folder per class, 3 classes",
        "train         23 images, from 7 (n01) to 8 (n02)",
        "test          12 images, 4 of each class: those of val/",
        "validation    3 images held out of train, 20 left",
        "32 x 32; for evaluation the shorter side is 37",
        f"content hash  {data.identity.content_hash}",
        f"split hash    {data.identity.split_hash}",
        f"Next: python -m benchmark.run --dataset imagenet --data-dir {root} --data-name three",
    ):
        assert line in said
    assert len(said.splitlines()) < 20


def test_only_decoding_finds_an_image_that_is_cut_off(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = first(root)
    victim.write_bytes(victim.read_bytes()[:-200])
    words = [str(root), "--results", str(tmp_path / "r")]
    assert invoke(prepare.main, words) == DONE
    assert invoke(prepare.main, [*words, "--decode"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert f"1 of 36 images cannot be read: {victim}" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data-name", "A b"], "invalid data name"),
        (["--data-name", "cifar10"], "is a built-in data set"),
        (["--image-size", "4"], "--image-size"),
    ],
)
def test_prepare_refuses_what_no_run_could_use(
    root: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(prepare.main, [str(root), "--results", str(tmp_path), *words]) == BAD_INPUT
    assert said in capsys.readouterr().err
