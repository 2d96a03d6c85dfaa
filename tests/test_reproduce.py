"""A run of a record, made again: equal to the bit here, by an interval elsewhere, and every reason
why it cannot be."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import archs, differences, reproduce, verdict
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.context import Context
from benchmark.data import load_data
from benchmark.differences import Run
from benchmark.errors import BadInput
from benchmark.execute import run_one
from benchmark.options import options_from
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import expand
from benchmark.tasks import data_of
from methods import find

QUICK: dict[str, Any] = {
    "arch": "resnet8", "preset": "demo", "epochs": 0.2, "flops_reduction": [0.3],
    "controls": False,
    "set": {"baseline.epochs": 0.3, "baseline.batch_size": 32, "recovery.batch_size": 8},
}  # fmt: skip
OTHER = "Some other processor"
Change = Callable[[dict[str, Any]], None]


def make(root: Path, **words: Any) -> Path:
    """Results of one tiny run."""
    options = options_from(QUICK | words | {"results": root})
    data = data_of(options)
    (cell,) = expand(options, data)
    run_one(cell.spec, cell.entry, Context(Store(root), data, checkpoint=options.checkpoint))
    return root


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded") / "results"
    return make(root, methods=["l1norm"], dataset="digits")


def folder_of(root: Path) -> Path:
    (path,) = Store(root).record_paths()
    return path.parent


def again(root: Path, *words: str) -> int:
    """Exit code of `python -m benchmark.reproduce` for the only run there."""
    return invoke(reproduce.main, [folder_of(root).name, "--results", str(root), *words])


def altered(results: Path, tmp_path: Path, change: Change) -> Path:
    """A copy of the records, one of them edited."""
    root = tmp_path / "edited"
    shutil.copytree(results / "runs", root / "runs")
    path = folder_of(root) / "record.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


def bytes_of(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


# ---- the same machine ----------------------------------------------------------------------------


def test_a_run_is_reproduced_to_the_bit_and_nothing_else_changes(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_of(results)
    assert again(results) == DONE
    said = capsys.readouterr().out
    assert "every bit is compared" in said
    assert "dense:" in said  # the dense network is made again too
    assert "reproduced: equal to the bit" in said.splitlines()[-1]
    assert bytes_of(results) == before
    assert [p.name for p in results.parent.iterdir()] == ["results"]


def test_an_edited_digest_is_found(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = altered(results, tmp_path, lambda c: c.update(weights="0123456789abcdef"))
    assert again(root) == FAILED
    said = capsys.readouterr().out
    assert "weights: 0123456789abcdef in the record" in said
    assert "+0.00 ±" in said
    assert said.splitlines()[-1].startswith("not reproduced: 1 field differs")
    assert [p.name for p in tmp_path.iterdir()] == ["edited"]


def test_the_dense_network_can_be_reused_and_the_verdict_says_so(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert again(results, "--reuse-dense", "--into", str(new)) == DONE
    said = capsys.readouterr().out
    assert "dense:" not in said
    assert "not trained again" in said.splitlines()[-2]
    assert said.splitlines()[-1] == f"The run made here is kept in {new}"
    assert len(Store(new).record_paths()) == 1
    assert again(results, "--into", str(new)) == BAD_INPUT
    assert "is not empty" in capsys.readouterr().err
    root = altered(results, tmp_path, lambda _: None)  # has no stages
    assert again(root, "--reuse-dense", "--keep") == DONE
    said = capsys.readouterr().out
    assert "no dense network of this run" in said
    assert "dense:" in said
    (kept,) = tmp_path.glob("edited-again-*")
    assert str(kept) in said
    assert len(Store(kept).record_paths()) == 1


# ---- another machine -----------------------------------------------------------------------------


def elsewhere(content: dict[str, Any]) -> None:
    content["environment"] |= {"cpu": OTHER, "git": {"commit": "f" * 40, "dirty": False}}
    content["environment"]["packages"]["torch"] = "1.0"


def test_another_machine_kind_is_judged_by_an_interval(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: dict[str, Any]) -> None:
        elsewhere(content)
        content["weights"] = "0123456789abcdef"  # as it would be there

    assert again(altered(results, tmp_path, change)) == DONE
    said = capsys.readouterr().out
    assert f"hardware: {OTHER} in the record" in said
    assert f"torch: 1.0 in the record, {torch.__version__.split('+')[0]}" in said
    assert "commit: ffffffffffff in the record" in said
    assert "kept units: 100.0 %" in said
    last = said.splitlines()[-1]
    assert last.startswith("reproduced: final test accuracy agrees within +0.00 ± ")
    assert "over 360 test images" in last
    assert "every bit" not in last


def judged(recorded: Run, other: Run, same_kind: bool) -> tuple[int, str]:
    said: list[str] = []
    labels = load_data("digits", cache_dir=recorded.folder.parents[4] / "stages").test.labels
    return verdict.judge(recorded, other, labels.numpy(), same_kind, said.append), said[-1]


def test_elsewhere_a_worse_network_and_a_figure_without_images_are_no_reproduction(
    results: Path,
) -> None:
    found = differences.read_run(folder_of(results))
    assert judged(found, found, same_kind=False)[1].endswith("the machine is of another kind")
    name = "test_final_class"
    worse = found.arrays | {name: np.roll(found.arrays[name], 1)}
    code, said = judged(found, dataclasses.replace(found, arrays=worse), same_kind=False)
    assert (code, "differs by" in said) == (FAILED, True)
    final = found.record.final.model_copy(update={"test_top1": 0.999})
    invented = found.record.model_copy(update={"final": final})
    code, said = judged(dataclasses.replace(found, record=invented), found, same_kind=False)
    assert (code, "contradicts its own predictions" in said) == (FAILED, True)
    arrays = {k: v for k, v in found.arrays.items() if k != name}
    code, said = judged(dataclasses.replace(found, arrays=arrays), found, same_kind=False)
    assert (code, "contradicts" in said) == (FAILED, True)


def test_the_interval_by_hand() -> None:
    labels = np.zeros(100, dtype=np.int64)
    one, other = labels.copy(), labels.copy()
    one[:2], other[1:9] = 1, 1  # 1 wrong in both, 1 in the first only, 7 in the second only
    pair = verdict.paired(one, other, labels)
    assert (pair.images, pair.lost, pair.gained) == (100, 7, 1)
    assert pair.difference == -6
    lost, gained = 8 / 102, 2 / 102
    half = 1.959964 * math.sqrt((lost + gained - (gained - lost) ** 2) / 102)
    assert pair.half == pytest.approx(100 * half)
    assert not pair.agrees  # 5.97 points each way
    assert verdict.Paired(100, 6, 1).agrees
    assert not verdict.Paired(100, 12, 1).agrees
    assert verdict.Paired(100_000, 8, 60).agrees  # beyond doubt, and within the margin of 0.3
    assert not verdict.Paired(100_000, 8, 600).agrees
    assert verdict.Paired(100, 0, 0).half > 0  # equal on 100 images is not equal for certain


# ---- differences ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(results: Path) -> Run:
    return differences.read_run(folder_of(results))


def fields(one: Run, other: Run) -> set[str]:
    return {d.field for d in differences.differences(one, other)}


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("final.test_top1", 0.5, "final.test_top1"),
        ("before_recovery.val_top1", None, "before_recovery.val_top1"),
        ("dense.cost.operators.conv", 1, "dense.cost.operators.conv"),
        ("plan", "other", "plan"),
        ("spent.charged", 1, "spent.charged"),
        ("tied_share", 0.75, "tied_share"),
    ],
)
def test_every_result_in_the_record_is_compared(
    recorded: Run, path: str, value: Any, field: str
) -> None:
    content = copy.deepcopy(recorded.record.model_dump(mode="json"))
    place = content
    *way, last = path.split(".")
    for part in way:
        place = place[part]
    place[last] = value
    record = type(recorded.record).model_validate(content)
    assert fields(recorded, dataclasses.replace(recorded, record=record)) == {field}


def test_times_evidence_and_labels_are_no_results(recorded: Run) -> None:
    content = copy.deepcopy(recorded.record.model_dump(mode="json"))
    content |= {"seconds": 1e6, "latency": {}, "environment": {}, "command": "", "title": "x"}
    content["method_facts"]["noted later"] = 1
    for row in content["spent"]["rows"]:
        row["seconds"] = 1e6
    record = type(recorded.record).model_validate(content)
    assert fields(recorded, dataclasses.replace(recorded, record=record)) == set()


def test_plan_curve_and_predictions_are_compared(recorded: Run) -> None:
    group, kept = next(iter(recorded.keep.items()))
    keep = recorded.keep | {group: kept[1:]}
    assert fields(recorded, dataclasses.replace(recorded, keep=keep)) == {"plan.json"}
    curve = [dict(row) for row in recorded.curve]
    curve[0]["loss"] = "1.0"
    (found,) = differences.differences(recorded, dataclasses.replace(recorded, curve=curve))
    assert (found.field.split()[:2], found.rounded) == (["curve.csv", "loss"], True)
    assert fields(recorded, dataclasses.replace(recorded, curve=[])) == {"curve.csv"}
    for name, rounded in (("test_final_class", False), ("val_final_margin", True)):
        array = recorded.arrays[name].copy()
        array[0] += 1
        other = dataclasses.replace(recorded, arrays=recorded.arrays | {name: array})
        (found,) = differences.differences(recorded, other)
        assert (found.field, found.rounded) == (f"predictions.npz {name}", rounded)
        assert found.other == "1 of them differ"
        short = dataclasses.replace(recorded, arrays=recorded.arrays | {name: array[1:]})
        assert fields(recorded, short) == {f"predictions.npz {name}"}


# ---- other starts, methods and data --------------------------------------------------------------

MINE = '''"""A user's own criterion."""

from dataclasses import dataclass

from methods.api import Method, Network, Scores, Trainer


@dataclass(frozen=True)
class Mine(Method):
    """Filters with the smallest largest weight go."""

    def score(self, net: Network, trainer: Trainer) -> Scores:
        return {n: net.weight(n).detach().abs().amax((1, 2, 3)) for n in net.layers}
'''


def images(folder: Path, seed: int = 0) -> Path:
    """Two classes of noise, 20 training and 6 test images each."""
    draw = np.random.default_rng(seed)
    for split, count in (("train", 20), ("test", 6)):
        for name in ("a", "b"):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def test_own_files_are_asked_for_checked_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's method from a checkpoint on an image folder."""
    mine, weights, data = tmp_path / "mine.py", tmp_path / "net.pt", images(tmp_path / "images")
    mine.write_text(MINE)
    torch.save(archs.build("resnet8", 2).state_dict(), weights)
    root = make(
        tmp_path / "results", methods=[str(mine)], dataset="imagefolder", data_dir=data,
        data_name="noise", checkpoint=weights, normalize="0.5,0.25,0.125;0.3,0.1,0.7",
    )  # fmt: skip
    own = {"--method-file": mine, "--checkpoint": weights, "--data-dir": data}

    def tried(**changes: Path | None) -> tuple[int, str]:
        given = own | {"--" + k.replace("_", "-"): v for k, v in changes.items()}
        flags = [str(w) for name, value in given.items() if value for w in (name, value)]
        code = again(root, *flags)
        said = capsys.readouterr()
        lines = (said.out if code == DONE else said.err).strip().splitlines()
        return code, lines[-1]

    capsys.readouterr()
    other_file, other_data = tmp_path / "b" / "mine.py", images(tmp_path / "others", seed=1)
    other_file.parent.mkdir()
    other_file.write_text(MINE.replace("abs()", "square()"))
    renamed, other_weights = tmp_path / "yours.py", tmp_path / "other.pt"
    renamed.write_text(MINE)
    moved = {k: v + 1 for k, v in torch.load(weights).items()}
    torch.save(moved, other_weights)
    spec = Store(root).records()[0].spec
    for changes, words in (
        ({"method_file": None}, f"mine.py, the file with source hash {spec.method.source}"),
        ({"method_file": other_file}, "is not the method of the record"),
        ({"method_file": renamed}, "is not the method of the record: yours"),
        ({"method_file": tmp_path / "absent.py"}, "does not exist"),
        ({"checkpoint": None}, "pass --checkpoint"),
        ({"checkpoint": other_weights}, f"the run started from {spec.start.checkpoint}"),
        ({"data_dir": None}, "needs --data-dir"),
        ({"data_dir": other_data}, f"content hash {spec.data.content_hash} in the record"),
    ):  # fmt: skip
        code, line = tried(**changes)  # type: ignore[arg-type]
        assert (code, words in line) == (BAD_INPUT, True), line
    code, line = tried()
    assert (code, line.startswith("reproduced: equal to the bit")) == (DONE, True)


@pytest.mark.parametrize("track", ["common", "paper"])
@pytest.mark.parametrize("normalize", ["dataset", "imagenet", "0.1,0.2,0.3;0.4,0.5,0.6"])
def test_the_words_of_the_data_give_the_data_of_the_record(
    track: str, normalize: str, recorded: Run, tmp_path: Path
) -> None:
    for words in (
        {"dataset": "digits"},
        {"dataset": "digits", "image_size": 12},
        {"dataset": "imagefolder", "data_dir": images(tmp_path / "i"), "data_name": "noise"},
    ):
        given = words | {"normalize": normalize, "track": track, "results": tmp_path}
        identity = data_of(options_from(given)).identity
        spec = recorded.record.spec.model_copy(update={"data": identity, "track": track})
        place = {"results": tmp_path, "data_dir": words.get("data_dir")}
        made = reproduce.data_words(spec) | {k: v for k, v in place.items() if v is not None}
        reproduce.check_data(identity, data_of(options_from(made)).identity)


# ---- what cannot be reproduced -------------------------------------------------------------------


def spec_of(content: dict[str, Any], **changes: Any) -> None:
    """Another spec, with its own run id: a record of another version of the suite."""
    content["spec"] |= changes
    content["run_id"] = RunSpec.model_validate(content["spec"]).run_id


def older_method(content: dict[str, Any]) -> None:
    spec_of(content, method=content["spec"]["method"] | {"revision": 0})


@pytest.mark.parametrize(
    ("change", "words", "match"),
    [
        (lambda c: spec_of(c, protocol=0), "", "the code has moved on: protocol 0 in the record"),
        (older_method, "", "the code has moved on: l1norm has revision 0 in the record, 1 here"),
        (
            lambda c: spec_of(c, method=c["spec"]["method"] | {"name": "l1nrom"}),
            "",
            "did you mean l1norm",
        ),
        (lambda c: c["spec"].update(threads=3), "", "was edited: its run id is"),
        (
            lambda c: spec_of(c, arch={"name": "resnet8", "structure": "other"}),
            "",
            "another version of the network",
        ),
        (lambda _: None, "--checkpoint net.pt", "leave out --checkpoint"),
        (lambda _: None, "--method-file mine.py", "leave out --method-file"),
        (lambda _: None, "--device tpu", "--device"),
        (lambda _: None, "--data-dir .", "reads no data directory"),
        (
            lambda c: spec_of(c, data=c["spec"]["data"] | {"split_hash": "0"}),
            "",
            "split hash 0 in the record",
        ),
    ],
)
def test_what_is_not_that_of_the_record_is_one_line(
    change: Change,
    words: str,
    match: str,
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = altered(results, tmp_path, change)
    assert again_by_folder(root, *words.split()) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert [p.name for p in tmp_path.iterdir()] == ["edited"]


def again_by_folder(root: Path, *words: str) -> int:
    return invoke(reproduce.main, [str(folder_of(root)), *words])


@pytest.mark.parametrize("name", ["plan.json", "curve.csv", "predictions.npz"])
def test_a_record_that_is_not_whole_is_one_line(
    name: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = altered(results, tmp_path, lambda _: None)
    path = folder_of(root) / name
    whole = path.read_bytes()
    for content in (None, b"\xff\x00", whole[: len(whole) // 2]):
        if name == "curve.csv" and content not in (None, b"\xff\x00"):
            continue  # a shorter table is a table
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        assert again_by_folder(root) == BAD_INPUT
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(path) in line


def test_a_run_that_ends_with_an_error_is_not_reproduced(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr(find("l1norm").cls, "score", fail)
    assert again(results) == FAILED
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "not reproduced: the run ended here with RuntimeError: no luck at all"
    assert [p.name for p in results.parent.iterdir()] == ["results"]


def test_an_interrupt_leaves_nothing_and_promises_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.reproduce.run_one", stop)
    with pytest.raises(SystemExit) as stopped:
        again(results)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: interrupted: nothing was compared\n"
    assert [p.name for p in results.parent.iterdir()] == ["results"]


def test_a_method_in_a_record_needs_its_own_kind_of_file(recorded: Run) -> None:
    method = recorded.record.spec.method.model_copy(update={"source": "abc"})
    with pytest.raises(BadInput, match=r"pass --method-file l1norm\.py"):
        reproduce.entry_of(method, Path("l1norm"))
