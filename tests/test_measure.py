"""Extra test sets: how they are read, what is measured on them, and the table made of it."""

from __future__ import annotations

import importlib
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from PIL import Image
from test_reproduce import QUICK, make

from benchmark import (
    against,
    extratest,
    frames,
    measure,
    report,
    robustness,
    run,
    shifted,
    speed,
    tasks,
)
from benchmark.block import Block, read_block
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.columns import names
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.estimate import dense_tasks
from benchmark.extratest import ExtraTest
from benchmark.options import options_from
from benchmark.record import RunRecord
from benchmark.store import Stage, Store
from benchmark.sweep import expand
from benchmark.tasks import data_of

ROOT = Path(__file__).parents[1]
CLASSES = ("cat", "dog", "owl")
T2 = 4.302653  # t(0.975) with 2 degrees of freedom


# ---- reading -------------------------------------------------------------------------------------


def picture(path: Path, colour: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    pixels[0, 0] = (1, 2, 3)
    Image.fromarray(pixels).save(path)


def read(folder: Path, classes: tuple[str, ...] = CLASSES) -> ExtraTest:
    return extratest.read("x", folder, classes, folder.parent / "cache")


def test_folders_of_classes(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    picture(folder / "owl" / "b.png", 30)
    picture(folder / "owl" / "a.png", 20)
    picture(folder / "cat" / "z.png", 10)
    (part,) = read(folder).parts
    assert (part.corruption, part.severity) == ("", "")
    assert part.labels.tolist() == [0, 2, 2]  # nobody has seen a dog
    pixels = part.pixels(8)
    assert (pixels.shape, pixels.dtype) == ((3, 3, 8, 8), np.uint8)
    assert pixels[:, 0, 5, 5].tolist() == [10, 20, 30]
    assert pixels[0, :, 0, 0].tolist() == [1, 2, 3]
    assert part.pixels(4).shape == (3, 3, 4, 4)


def test_folders_of_corruptions_and_severities(tmp_path: Path) -> None:
    plain, graded = tmp_path / "plain", tmp_path / "graded"
    for i, name in enumerate(("fog", "blur")):
        picture(plain / name / "cat" / "a.png", i)
        for severity in ("1", "2"):
            picture(graded / name / severity / "dog" / "a.png", int(severity))
    assert [(p.corruption, p.severity) for p in read(plain).parts] == [("blur", ""), ("fog", "")]
    parts = read(graded).parts
    wanted = [("blur", "1"), ("blur", "2"), ("fog", "1"), ("fog", "2")]
    assert [(p.corruption, p.severity) for p in parts] == wanted
    assert [int(p.pixels(8)[0, 0, 5, 5]) for p in parts] == [1, 2, 1, 2]


def test_severities_are_not_taken_for_classes_of_the_same_name(tmp_path: Path) -> None:
    for severity in ("1", "2"):
        picture(tmp_path / "set" / "fog" / severity / "7" / "a.png", 9)
    parts = read(tmp_path / "set", tuple("0123456789")).parts
    assert [(p.severity, p.labels.tolist()) for p in parts] == [("1", [7]), ("2", [7])]


def arrays(folder: Path, **content: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in content.items():
        np.save(folder / f"{name.replace('DOT', '.')}.npy", array)
    return folder


def noise(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_arrays_with_five_severities(tmp_path: Path) -> None:
    fog, blur = noise(20), noise(20)
    labels = np.tile(np.array([0, 2, 1, 0]), 5)
    parts = read(arrays(tmp_path / "c", labels=labels, fog=fog, blur=blur)).parts
    assert [(p.corruption, p.severity) for p in parts] == [
        (name, str(s)) for name in ("blur", "fog") for s in range(1, 6)
    ]
    assert all(p.labels.tolist() == [0, 2, 1, 0] for p in parts)
    third = parts[7]  # fog, severity 3
    assert (third.pixels(32) == fog[8:12].transpose(0, 3, 1, 2)).all()
    assert third.pixels(16).shape == (4, 3, 16, 16)


def test_arrays_of_one_severity(tmp_path: Path) -> None:
    labels = np.array([0, 2, 1, 0, 1])
    parts = read(arrays(tmp_path / "c", labels=labels, fog=noise(5))).parts
    assert [(p.corruption, p.severity) for p in parts] == [("fog", "")]


def test_a_pair_of_arrays(tmp_path: Path) -> None:
    data, labels = noise(3), np.array([2, 0, 1], np.int32)
    folder = arrays(tmp_path / "cifar10.1", cifar10DOT1_v6_data=data, cifar10DOT1_v6_labels=labels)
    (part,) = read(folder).parts
    assert (part.corruption, part.labels.tolist()) == ("", [2, 0, 1])
    assert (part.pixels(32) == data.transpose(0, 3, 1, 2)).all()


Spoil = Callable[[Path], object]
STRANGE: dict[str, tuple[Spoil, str]] = {
    "class": (lambda f: picture(f / "cow" / "a.png", 1), "no class of the data: cow; its classes"),
    "depths": (lambda f: picture(f / "fog" / "cat" / "a.png", 1), "depths: cat and fog/cat"),
    "root": (lambda f: picture(f / "a.png", 1), "lies in no folder of a class"),
    "beside": (lambda f: picture(f / "cat" / "1" / "a.png", 1), "lies in no folder of a class"),
    "text": (lambda f: (f / "cat" / "notes.txt").write_text("x"), "not an image file"),
    "empty": (lambda f: (f / "dog").mkdir(), "holds neither images nor folders"),
    "deep": (lambda f: picture(f / "a" / "b" / "c" / "d" / "e.png", 1), "lie deeper than"),
    "pairs": (lambda f: arrays(f, a_data=noise(1), b_data=noise(1)), "give a folder with labels"),
    "floats": (lambda f: arrays(f, labels=np.array([0]), fog=np.zeros((1, 8, 8, 3))), "float64"),
    "planes": (
        lambda f: arrays(f, labels=np.array([0]), fog=noise(1).transpose(0, 3, 1, 2)),
        r"uint8\[1, 3, 32, 32\]: with 1 labels it must be",
    ),
    "count": (lambda f: arrays(f, labels=np.array([0]), fog=noise(2)), "with 1 labels"),
    "label": (lambda f: arrays(f, labels=np.array([3]), fog=noise(1)), "labels 3 to 3"),
    "halves": (lambda f: arrays(f, labels=np.array([0.5]), fog=noise(1)), "whole numbers"),
    "none": (lambda f: (f / "labels.npy").write_bytes(b"no"), "is not an array"),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_refused(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    picture(folder / "cat" / "a.png", 1)
    assert len(read(folder).parts) == 1
    spoil, said = STRANGE[what]
    spoil(folder)
    with pytest.raises(BadInput, match=said):
        read(folder)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "a.png").write_text("no image")
    (part,) = read(tmp_path / "set").parts
    with pytest.raises(BadInput, match=r"cannot read image .*a\.png"):
        part.pixels(8)


def test_the_hash_is_of_names_and_bytes_not_of_the_place(tmp_path: Path) -> None:
    def hashed(folder: Path) -> str:
        extratest._hash_of.cache_clear()
        return extratest.hash_of(folder, tmp_path / "cache")

    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        picture(folder / "cat" / "a.png", 1)
        picture(folder / "dog" / "b.png", 2)
    first = hashed(one)
    assert hashed(other) == first
    (other / "cat" / "a.png").rename(other / "dog" / "a.png")
    assert hashed(other) != first
    picture(one / "dog" / "b.png", 3)
    assert hashed(one) != first


def test_the_hash_of_an_unchanged_folder_is_remembered(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "cat" / "a.png", 1)
    first = read(tmp_path / "set").content_hash
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_text() == first
    kept.write_text("0123456789abcdef")
    extratest._hash_of.cache_clear()
    assert read(tmp_path / "set").content_hash == "0123456789abcdef"
    kept.write_text("torn")
    extratest._hash_of.cache_clear()
    assert read(tmp_path / "set").content_hash == first


@pytest.mark.parametrize(
    ("words", "said"),
    [(["x"], "write NAME=DIR"), (["=d"], "write NAME=DIR"), (["a/b=."], "name the set by"),
     (["x=nowhere"], "no such folder"), (["x=.", "x=."], "there twice")],
)  # fmt: skip
def test_names_that_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        extratest.named(words)


# ---- measuring -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one tiny run on digits."""
    root = tmp_path_factory.mktemp("measured") / "results"
    return make(root, methods=["l1norm"], dataset="digits")


@pytest.fixture(scope="module")
def data(made: Path) -> Data:
    return data_of(options_from(QUICK | {"dataset": "digits", "results": made}))


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "results")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Path:
    """The run's own test images as an extra set of files, without loss, in their order."""
    folder = tmp_path_factory.mktemp("own")
    for i, (pixels, label) in enumerate(zip(data.test.pixels, data.test.labels, strict=True)):
        path = folder / data.class_names[int(label)] / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return folder


def the_record(root: Path) -> RunRecord:
    (record,) = Store(root).records()
    return record


def measured(root: Path, kind: str = shifted.KIND) -> list[dict[str, Any]]:
    return Store(root).measurements(the_record(root).spec, kind)


def test_the_own_test_images_give_the_figures_of_the_record(
    results: Path, own: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    record = the_record(results)
    folder = Store(results).run_folder(record.spec)
    before = (folder / "record.json").read_bytes()
    words = ["all", "--results", str(results), "--extra-test", f"again={own}"]
    assert invoke(measure.main, words) == DONE
    (facts,) = measured(results)
    assert record.dense.accuracy is not None
    pruned, dense = facts["networks"]["pruned"], facts["networks"]["dense"]
    assert pruned["top1"] == record.final.test_top1 == facts["own_test"]["pruned_top1"]
    assert dense["top1"] == record.dense.accuracy.test_top1 == facts["own_test"]["dense_top1"]
    assert pruned["loss"] == pytest.approx(record.final.test_loss, rel=1e-5)
    assert facts["agreement"] == facts["own_test"]["agreement"]
    assert facts["images"] == len(data.test)
    stored = np.load(folder / "predictions.npz")
    order = np.argsort(data.test.labels.numpy(), kind="stable")  # folders come class by class
    for network, point in (("dense", "dense"), ("pruned", "final")):
        found = shifted.decoded(facts["predictions"][network])
        assert (found == stored[f"test_{point}_class"][order]).all()
    labels = shifted.decoded(facts["predictions"]["labels"])
    assert (labels == data.test.labels.numpy()[order]).all()
    assert (folder / "record.json").read_bytes() == before
    said = capsys.readouterr().out
    assert f"run {record.run_id}: l1norm seed 0, again, 360 images" in said


def test_only_what_is_missing_is_measured(
    results: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some"
    shutil.copytree(own / "3", some / "3")
    words = ["all", "--results", str(results), "--extra-test"]
    assert invoke(measure.main, [*words, f"some={some}"]) == DONE
    assert len(measured(results)) == 1
    capsys.readouterr()
    assert invoke(measure.main, [*words, f"some={some}"]) == DONE
    assert "its extra test sets are measured already" in capsys.readouterr().out
    assert len(measured(results)) == 1
    shutil.copytree(own / "4", some / "4")  # another set under the same name
    extratest._hash_of.cache_clear()
    assert invoke(measure.main, [*words, f"some={some}"]) == DONE
    assert sorted(f["images"] for f in measured(results)) == [36, 72]


def test_corruptions_and_severities_count_alike(results: Path, own: Path, tmp_path: Path) -> None:
    for place, shown in (("fog/1", "3"), ("fog/2", "4"), ("blur/1", "5")):
        shutil.copytree(own / shown, tmp_path / "c" / place / shown)
        shutil.copytree(own / shown, tmp_path / shown / shown)
    words = ["all", "--results", str(results)]
    for name in ("c", "3", "4", "5"):
        words += ["--extra-test", f"{name}={tmp_path / name}"]
    assert invoke(measure.main, words) == DONE
    found = {facts["set"]: facts for facts in measured(results)}
    three, four, five = (found[n]["networks"]["pruned"]["top1"] for n in ("3", "4", "5"))
    pruned = found["c"]["networks"]["pruned"]
    assert pruned["corruptions"]["fog"]["severities"] == {"1": three, "2": four}
    assert pruned["corruptions"]["fog"]["top1"] == pytest.approx((three + four) / 2)
    assert pruned["top1"] == pytest.approx(((three + four) / 2 + five) / 2)
    assert found["c"]["predictions"] is None
    assert len(found["c"]["networks"]["dense"]["corruptions"]) == 2


def test_weights_of_another_network_are_not_taken_for_the_runs(
    results: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, record = Store(results), the_record(results)
    stage = store.stage("final", record.run_id)
    assert stage is not None
    other = {name: tensor + 1 for name, tensor in stage.tensors.items()}
    store.publish_stage("final", record.run_id, Stage(other, stage.facts))
    words = ["all", "--results", str(results), "--extra-test", f"own={own}"]
    assert invoke(measure.main, words) == BAD_INPUT
    assert "the weights of the pruned network" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["final", "dense"])
def test_lost_weights_are_named_and_taken_from_elsewhere(
    lost: str, results: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results / "stages", tmp_path / "again" / "stages")
    for folder in (results / "stages").glob(f"{lost}-*"):
        shutil.rmtree(folder)
    words = ["all", "--results", str(results), "--extra-test", f"own={own}"]
    assert invoke(measure.main, words) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    run_id = the_record(results).run_id
    assert f"python -m benchmark.reproduce {run_id} --results {results} --into DIR makes" in line
    assert measured(results) == []
    assert invoke(measure.main, [*words, "--weights", str(tmp_path / "again")]) == DONE
    assert len(measured(results)) == 1


def test_other_data_is_refused(
    results: Path, own: Path, monkeypatch: pytest.MonkeyPatch, data: Data
) -> None:
    other = data.identity.model_copy(update={"content_hash": "other"})
    monkeypatch.setattr(measure, "data_of", lambda *_: Data(other, (), *3 * [data.test]))
    words = ["all", "--results", str(results), "--extra-test", f"own={own}"]
    assert invoke(measure.main, words) == BAD_INPUT


def test_a_run_outside_a_results_directory_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Store(results).run_folder(the_record(results).spec)
    shutil.copytree(folder, tmp_path / "away")
    assert invoke(measure.main, [str(tmp_path / "away"), "--latency"]) == BAD_INPUT
    assert "lies in no results directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "nothing to measure"), (["--latency", "--batch", "0"], "at least one image"),
     (["--latency", "--batch", "x"], "give whole numbers"),
     (["--latency", "--arch", "resnet20"], "is not the network of run"),
     (["--latency", "--threads", "0"], "--threads")],
)  # fmt: skip
def test_bad_input(
    words: list[str], said: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(measure.main, ["all", "--results", str(made), *words]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_users_own_network_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mynet.py"
    file.write_text(
        "from benchmark.cifar_resnet import CifarResNet\n"
        "def small(k):\n    return CifarResNet(8, k, width=4)\n"
    )
    label = f"{file}:small"
    root = make(tmp_path / "r", methods=["l1norm"], dataset="digits", arch=label)
    for name in [n for n in importlib.sys.modules if n.startswith("user_network_")]:  # type: ignore[attr-defined]
        monkeypatch.delitem(importlib.sys.modules, name)  # type: ignore[attr-defined]
    words = ["all", "--results", str(root), "--latency", "--batch", "1", "--seconds", "0"]
    assert invoke(measure.main, words) == BAD_INPUT
    assert "give it as --arch FILE.py:FUNCTION" in capsys.readouterr().err
    assert invoke(measure.main, [*words, "--arch", label]) == DONE
    (facts,) = measured(root, speed.KIND)
    assert facts["weights"] == "trained"


# ---- beside a grid -------------------------------------------------------------------------------


def grid(results: Path, **more: Any) -> dict[str, Any]:
    return QUICK | {"methods": ["l1norm"], "dataset": "digits", "results": results} | more


def test_a_done_cell_gets_only_what_is_missing(
    results: Path, own: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: Any) -> None:
        raise AssertionError("the run is done already")

    monkeypatch.setattr(tasks, "run_one", again)
    (results / "config.toml").write_text(f'[extra_test]\n"own" = "{own}"\n')
    options = options_from(grid(results), results / "config.toml")
    (cell,) = expand(options, data)
    assert (tasks.is_recorded(cell.spec, options), tasks.is_finished(cell.spec, options)) == (
        True, False,
    )  # fmt: skip
    shutil.copytree(results / "stages", results / "kept")
    for folder in (results / "stages").glob("dense-*"):
        shutil.rmtree(folder)
    assert dense_tasks([cell], options) == []  # nothing is trained for a measurement
    shutil.rmtree(results / "stages")
    (results / "kept").rename(results / "stages")
    task = tasks.task_of("cell", cell, options)
    seen: list[str] = []
    ended = tasks.do(task, lambda _cell, phase, _done, _all: seen.append(phase))
    assert (ended.status, ended.reason) == ("done", "")
    assert seen == ["extra test sets"]
    assert [f["set"] for f in measured(results)] == ["own"]
    assert tasks.is_finished(cell.spec, options)
    assert "own, 360 images" in (results / Store(results).log_name(task.key)).read_text()


def test_an_extra_test_set_is_no_part_of_a_run(results: Path, own: Path, data: Data) -> None:
    plain, more = (options_from(grid(results, **w)) for w in ({}, {"extra_test": {"own": own}}))
    (one,), (other,) = expand(plain, data), expand(more, data)
    assert one.spec == other.spec
    made = [tasks.task_of("cell", c, o).command for c, o in ((one, plain), (other, more))]
    assert made[0] == made[1]


def test_a_strange_set_is_answered_before_anything_runs(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "x" / "cow" / "a.png", 1)
    words = shlex.split(
        f"--methods hrank --arch resnet8 --dataset digits --preset demo --results {results} "
        f"--extra-test x={tmp_path / 'x'}"
    )
    assert invoke(run.main, words) == BAD_INPUT
    assert "folders that are no class of the data: cow" in capsys.readouterr().err


# ---- the table -----------------------------------------------------------------------------------


def facts_of(
    record: RunRecord, pruned: float, dense: float | None, right: int | None = None, **more: Any
) -> dict[str, Any]:
    """As `shifted.measure` writes them. `right`: of 100 images the first so many are right by the
    pruned network, and all by the dense one."""
    figures = {"top5": None, "loss": 1.0}
    nets = {"pruned": {"weights": record.weights, "top1": pruned} | figures}
    if dense is not None:
        nets["dense"] = {"weights": record.dense.weights, "top1": dense} | figures
    labels = np.arange(100) % 10
    predictions = None
    if right is not None:
        wrong = np.where(np.arange(100) < right, labels, (labels + 1) % 10)
        each = {"labels": labels, "dense": labels, "pruned": wrong}
        predictions = {name: shifted._encoded(values) for name, values in each.items()}
    return {
        "run_id": record.run_id, "kind": "extra", "set": "v2", "content_hash": "a" * 16,
        "images": 100, "networks": nets, "agreement": 0.5, "own_test": {"agreement": 0.8},
        "predictions": predictions,
    } | more  # fmt: skip


def written(root: Path, records: list[RunRecord], facts: list[dict[str, Any]]) -> Block:
    store = Store(root)
    for record, each in zip(records, facts, strict=True):
        synthetic.write(store, record)
        store.write_measurement(record.spec, "extra", "0" * 12, each)
    (name,) = {f"{r.spec.data.name}/{r.spec.arch.name}" for r in records}
    block = read_block(root, name)
    assert block is not None
    return block


def three() -> list[RunRecord]:
    return [synthetic.record(synthetic.spec("l1norm", s), 0.90) for s in range(3)]  # dense: 92 %


def one_row(frame: pd.DataFrame) -> dict[str, Any]:
    (row,) = frame.to_dict("records")
    return {str(k): v for k, v in row.items()}


def test_drops_are_paired_by_seed(tmp_path: Path) -> None:
    records = three()
    facts = [facts_of(r, p, 0.80) for r, p in zip(records, (0.70, 0.72, 0.74), strict=True)]
    frame = robustness.robustness(written(tmp_path, records, facts))
    assert list(frame.columns) == names(robustness.COLUMNS)
    row = one_row(frame)
    assert (row["set"], row["corruption"], row["images"], row["n"]) == ("v2", "(all)", 100, 3)
    half = T2 * 2 / math.sqrt(3)
    expected = {
        "accuracy_mean": 72, "accuracy_sd": 2, "accuracy_low": 72 - half, "dense_mean": 80,
        "drop_mean": 8, "drop_low": 8 - half, "drop_high": 8 + half, "test_drop_mean": 2,
        "excess_mean": 6, "excess_low": 6 - half, "excess_high": 6 + half, "agreement_mean": 80,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert math.isnan(row["top5_mean"])
    assert math.isnan(row["paired_low"])


def test_predictions_give_an_interval_over_images(tmp_path: Path) -> None:
    (record, *_) = three()
    block = written(tmp_path, [record], [facts_of(record, 0.75, 1.0, right=75)])
    row = one_row(robustness.robustness(block))
    assert row["paired_scope"] == "images only, conditional on these runs"
    assert row["paired_low"] < row["drop_mean"] == 25 < row["paired_high"]
    assert 8 < row["paired_high"] - row["paired_low"] < 20  # 100 images: 2 x 1.98 x 4.3 points
    assert math.isnan(row["drop_low"])  # one seed


def test_a_run_from_random_weights_is_set_against_the_dense_network_of_its_board(
    tmp_path: Path,
) -> None:
    (dense_of, *_) = three()
    other = synthetic.record(synthetic.from_scratch(), 0.88, None)
    block = written(
        tmp_path, [dense_of, other], [facts_of(dense_of, 0.7, 0.8), facts_of(other, 0.6, None)]
    )
    frame = robustness.robustness(block)
    assert set(frame["method"]) == {"l1norm", "width_scaling"}
    row = one_row(frame[frame["method"] == "width_scaling"])
    assert (row["dense_mean"], row["drop_mean"]) == (pytest.approx(80), pytest.approx(20))
    assert (row["drop_n"], row["n"]) == (1, 1)


def test_of_two_files_on_one_set_the_first_by_name_counts(tmp_path: Path) -> None:
    (record, *_) = three()
    written(tmp_path, [record], [facts_of(record, 0.7, 0.8)])
    store = Store(tmp_path)
    store.write_measurement(record.spec, "extra", "1" * 12, facts_of(record, 0.1, 0.9))
    block = read_block(tmp_path, "images/net20")
    assert block is not None
    row = one_row(robustness.robustness(block))
    assert (row["accuracy_mean"], row["dense_mean"], row["n"]) == (70, pytest.approx(80), 1)


def test_each_corruption_has_a_row_after_the_whole_set(tmp_path: Path) -> None:
    (record, *_) = three()
    facts = facts_of(record, 0.5, 0.6)
    for network, top1 in (("pruned", 0.4), ("dense", 0.7)):
        own = {"top1": top1, "top5": None, "loss": 1.0}
        facts["networks"][network]["corruptions"] = {"fog": own, "all": own | {"top1": 0.6}}
    frame = robustness.robustness(written(tmp_path, [record], [facts]))
    assert frame["corruption"].tolist() == ["(all)", "all", "fog"]
    assert frame["drop_mean"].tolist() == pytest.approx([10, 0, 30])


def test_a_set_that_changed_has_rows_of_its_own(tmp_path: Path) -> None:
    records = three()[:2]
    facts = [facts_of(records[0], 0.5, 0.6), facts_of(records[1], 0.7, 0.8, content_hash="b" * 16)]
    frame = robustness.robustness(written(tmp_path, records, facts))
    assert frame["set_hash"].tolist() == ["a" * 16, "b" * 16]
    assert frame["n"].tolist() == [1, 1]


def test_the_report_has_the_table_where_there_are_measurements_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = frames.typed([], against.COLUMNS)  # counting published networks takes seconds
    monkeypatch.setattr(report.overall, "unrun", lambda _stages: nothing)
    (record, *_) = three()
    written(tmp_path, [record], [facts_of(record, 0.7, 0.8)])
    report.build(tmp_path, "none")
    page, dictionary, table = (
        tmp_path / "leaderboard" / name
        for name in ("images-net20.md", "DICTIONARY.md", "robustness.csv")
    )
    (line,) = table.read_text().splitlines()[1:]
    assert ",l1norm,0," in line
    assert ",v2," in line
    assert ",70.00," in line
    assert "## `leaderboard/robustness.csv`" in dictionary.read_text()
    board, _, section = page.read_text().partition("\n## Extra test sets")
    assert "| v2 " in section
    shutil.rmtree(Store(tmp_path).run_folder(record.spec) / "measurements")
    report.build(tmp_path, "none")
    assert not table.exists()
    assert page.read_text() == board
    assert "robustness" not in dictionary.read_text()


# ---- the page of the documentation ---------------------------------------------------------------

PAGE = ROOT / "docs" / "measurements.md"


def test_the_commands_of_the_page_run(
    results: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the run of our own in place of the one shown. ONNX and torch.compile have slow
    tests of their own."""
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"\$ (python -m benchmark\.measure [^\n]+)", PAGE.read_text("utf-8"))
    assert len(commands) >= 3
    run_id = the_record(results).run_id
    for command in commands:
        _, _, _, *words = shlex.split(command)
        words = [run_id if re.fullmatch("[0-9a-f]{4}", w) else w for w in words]
        words = [re.sub("=DIR.*", f"={own}", w) for w in words]
        words = [str(results) if w == "results-x" else w for w in words]
        words = [w for w in words if w not in ("--onnx", "--compiled")]
        quick = ["--batch", "1", "--seconds", "0"] if "--latency" in words else []
        assert invoke(measure.main, [*words, *quick]) == DONE, command
    assert measured(results)
    assert json.dumps(measured(results, speed.KIND))
