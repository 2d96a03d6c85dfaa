"""Networks pruned by other code: widths from shapes, zeros, entries and their table."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic as made
import torch
import torch_pruning
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark import archs, artefacts, evaluate, flops, foreign, merge, report
from benchmark.cifar_resnet import CifarResNet
from benchmark.cifar_vgg import CifarVgg
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.context import Context
from benchmark.errors import BadInput
from benchmark.execute import run_one
from benchmark.load import load_pruned
from benchmark.network import Network
from benchmark.options import options_from
from benchmark.randomise import randomise
from benchmark.record import RunRecord
from benchmark.store import Store
from benchmark.sweep import expand
from benchmark.tasks import data_of
from methods.api import Plan

ON_DIGITS = shlex.split("--arch resnet8 --dataset digits --no-latency --results")
EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run on digits in the inner scope and one in the whole network."""
    root = tmp_path_factory.mktemp("digits")
    for scope in ("inner", "all"):
        words = {
            "methods": ["l1norm"], "arch": "resnet8", "dataset": "digits", "preset": "demo",
            "controls": False, "epochs": 0.5, "set": {"baseline.epochs": 1.0}, "scope": scope,
            "results": root,
        }  # fmt: skip
        options = options_from(words)
        data = data_of(options)
        (cell,) = expand(options, data)
        run_one(cell.spec, cell.entry, Context(Store(root), data))
    return root


def record_of(results: Path, scope: str) -> RunRecord:
    return next(r for r in Store(results).records() if r.spec.scope == scope)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def resnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return archs.build("resnet8", 10)


def entry_of(root: Path) -> artefacts.Artefact:
    (path,) = artefacts.paths(root)
    return artefacts.read(path)


# ---- networks that are smaller -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bare", "state_dict", "net", "safetensors"])
def test_our_own_pruned_network_has_the_figures_of_its_record(
    form: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(results, "inner")
    state = load_pruned(record.run_id, results).state_dict()
    path = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        named = {f"module.{k}": v for k, v in state.items()}
        torch.save(state if form == "bare" else {form: named, "epoch": 3}, path)
    words = [str(path), *ON_DIGITS, str(tmp_path), "--entry", "Theirs", "--source", "here"]
    assert invoke(evaluate.main, words) == DONE
    out = capsys.readouterr().out
    found = entry_of(tmp_path)
    assert found.measured.test_top1 == record.final.test_top1
    assert found.measured.val_top1 == record.final.val_top1
    assert found.measured.test_loss == pytest.approx(record.final.test_loss, rel=1e-6)
    assert found.pruned == record.pruned
    assert found.dense == record.dense.cost
    assert found.data == record.spec.data
    assert found.arch == record.spec.arch
    narrower = {g: w for g, w in record.widths.items() if w < record.dense_widths[g]}
    assert found.widths == narrower
    assert found.dense_widths == {g: record.dense_widths[g] for g in narrower}
    assert f"top-1        {100 * record.final.test_top1:.2f} %" in out
    assert f"{100 * record.flops_reduction:.2f} % removed" in out
    assert "zeros" not in out


def test_residual_streams_need_the_kept_channels_where_shortcuts_pad(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(results, "all")
    path = saved(tmp_path / "net.pt", load_pruned(record.run_id, results).state_dict())
    words = [str(path), *ON_DIGITS, str(tmp_path), "--entry", "Theirs"]
    assert invoke(evaluate.main, words) == BAD_INPUT
    said = capsys.readouterr().err
    assert "a shortcut that pads with zeros" in said
    assert "--kept FILE" in said
    plan = Store(results).run_folder(record.spec) / "plan.json"
    assert invoke(evaluate.main, [*words, "--kept", str(plan)]) == DONE
    found = entry_of(tmp_path)
    assert found.measured.test_top1 == record.final.test_top1
    assert found.pruned.macs == record.pruned.macs
    other = json.loads(plan.read_text())
    other["keep"]["layer1.0.conv1"] = [0]
    (tmp_path / "other.json").write_text(json.dumps(other))
    wrong = [*words, "--kept", str(tmp_path / "other.json")]
    assert invoke(evaluate.main, wrong) == BAD_INPUT
    assert "layer1.0.conv1 keeps 1, the checkpoint has" in capsys.readouterr().err


class Mixed(nn.Module):
    """Depthwise and grouped convolutions, a concatenation, and a layer without norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.left = nn.Conv2d(12, 6, 1)
        self.right = nn.Conv2d(12, 4, 1)
        self.both = nn.BatchNorm2d(10)
        self.last = nn.Conv2d(10, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(torch.relu(self.stem(x)))
        x = torch.relu(self.grouped(torch.relu(self.norm(self.point(x)))))
        x = torch.relu(self.both(torch.cat([self.left(x), self.right(x)], 1)))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "keep"),
    [
        (Mixed, {"stem": (0, 3, 4), "left": (1,), "right": (0, 2, 3), "last": (2, 5)}),
        (lambda: CifarResNet(8, 5, width=8, option="B"), {"conv1": (1, 5), "layer2.0.conv1": (0,)}),
        (lambda: CifarVgg(5, plan=(8, 0, 16)), {"features.0": (0, 2), "linear1": tuple(range(9))}),
    ],
)
def test_widths_are_read_off_and_the_network_is_the_same(
    make: Callable[[], nn.Module], keep: dict[str, tuple[int, ...]]
) -> None:
    example = torch.zeros(1, 3, 32, 32)
    torch.manual_seed(0)
    net = Network(make(), example, "all")
    assert keep.keys() <= net.map.widths.keys()
    randomise(net.traced)
    theirs = net.remove(Plan(keep)).eval()
    found = foreign.rebuild(make(), dict(theirs.state_dict()), example, "it", "net.pt")
    assert found.widths == {group: len(kept) for group, kept in keep.items()}
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.model(x), theirs(x))
    assert flops.cost(found.model, example) == flops.cost(theirs, example)


def test_what_another_library_prunes_is_measured_as_it_is() -> None:
    """torch-pruning's own surgery, residual streams included: widths, function and cost are its."""
    torch.manual_seed(0)
    dense = CifarResNet(8, 5, width=8, option="B")
    net = Network(dense, EXAMPLE, "all")
    randomise(dense)
    theirs = copy.deepcopy(dense)
    pruner = torch_pruning.pruner.MetaPruner(
        theirs, EXAMPLE, importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.4, ignored_layers=[theirs.fc],
    )  # fmt: skip
    pruner.step()
    theirs.eval()
    found = foreign.rebuild(dense, dict(theirs.state_dict()), EXAMPLE, "it", "net.pt")
    assert found.widths.keys() == net.map.widths.keys()  # each group lost some
    x = torch.randn(3, 3, 16, 16)
    assert torch.equal(found.model(x), theirs(x))
    assert flops.cost(found.model, EXAMPLE).macs == flops.torch_macs(theirs, EXAMPLE)
    assert net.macs(found.widths) == flops.torch_macs(theirs, EXAMPLE)


def test_units_of_several_channels_are_read_off() -> None:
    torch.manual_seed(0)
    net = Network(Mixed(), EXAMPLE, "all")
    units = len(net.map.writes["grouped"].unique())
    first = int(net.map.writes["grouped"].min())
    group = next(g for g, start in net.map.first.items() if start == first)
    theirs = net.remove(Plan({group: tuple(range(units - 1))})).state_dict()
    assert foreign.widths_of(net, dict(theirs), "it", "net.pt")[group] == units - 1
    odd = {**theirs, "grouped.weight": theirs["grouped.weight"][:-1]}
    with pytest.raises(BadInput, match="in steps of 4"):
        foreign.widths_of(net, odd, "it", "net.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer1.0.conv1.weight": (20, 16, 3, 3)}, ["20 output channels", "it has 1 to 16"]),
        ({"layer1.0.conv2.weight": (9, 16, 3, 3)}, ["lose channels together", "16 and 9 left"]),
        ({"layer1.0.conv1.weight": (9, 16, 3, 3)}, ["1 groups of channels are narrower", "bn1"]),
        ({"fc.weight": (7, 64), "fc.bias": (7,)}, ["has 7 classes, the data has 10"]),
        ({"layer1.0.conv1.weight": None}, ["missing: layer1.0.conv1.weight"]),
        ({"more": (1,)}, ["not used: more"]),
    ],
)
def test_shapes_that_pruning_cannot_give_are_one_line(
    change: dict[str, Any], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state: dict[str, Any] = dict(resnet().state_dict())
    for name, shape in change.items():
        state[name] = torch.zeros(shape) if shape else None
    path = saved(tmp_path / "net.pt", {k: v for k, v in state.items() if v is not None})
    assert invoke(evaluate.main, [str(path), *ON_DIGITS, str(tmp_path)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words), said
    assert not artefacts.paths(tmp_path)


def test_a_pickled_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "whole.pt", resnet())
    assert invoke(evaluate.main, [str(path), *ON_DIGITS, str(tmp_path)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "a whole pickled network could run any code and is never opened" in said
    assert len(said.splitlines()) == 1


# ---- networks that are masked --------------------------------------------------------------------


def test_masked_networks_are_counted_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three filters are zero; of these two put out nothing, and so does a channel that its norm
    silences. Masks and buffers that tools leave behind are taken for what they are."""
    state = dict(resnet().state_dict())
    weight, name = state.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight"
    mask = torch.ones_like(weight)
    mask[[1, 4, 9]] = 0
    state |= {f"{name}_orig": weight, f"{name}_mask": mask, "total_ops": torch.zeros(1)}
    state["layer1.0.bn1.bias"][9] = 0.1  # its zero filter still says something
    state["layer3.0.bn1.weight"][5] = 0
    path = saved(tmp_path / "net.pt", state)
    words = [str(path), *ON_DIGITS, str(tmp_path), "--recalibrate", "--entry", "Masked"]
    assert invoke(evaluate.main, words) == DONE
    out, found = capsys.readouterr().out, entry_of(tmp_path)
    assert (found.zero.filters, found.zero.of, found.zero.silent) == (3, 16 * 3 + 32 * 2 + 128, 3)
    assert found.pruned == found.dense
    assert found.widths == {}
    net = Network(resnet(), EXAMPLE, "all")
    assert found.zero.macs_without == net.macs({"layer1.0.conv1": 14, "layer3.0.conv1": 63})
    assert found.zero.logits_apart is not None
    assert found.zero.logits_apart < 1e-5
    assert "3 of 240 filters are exactly zero" in out
    assert "3 channels put out exactly nothing" in out
    assert found.recalibrated is not None
    assert found.recalibration_images == 1294
    dense = saved(tmp_path / "dense.pt", resnet().state_dict())
    assert invoke(evaluate.main, [str(dense), *ON_DIGITS, str(tmp_path)]) == DONE
    plain = capsys.readouterr().out
    assert "zeros" not in plain
    assert "silent" not in plain


def test_a_norm_that_makes_something_of_nothing_is_heard() -> None:
    """Behind a concatenation, a depthwise layer with bias, and in a group that is silent as a
    whole, of which one stays."""
    torch.manual_seed(0)
    model = Mixed().eval()
    with torch.no_grad():
        for conv in (model.stem, model.left):
            conv.weight[:3] = 0
            conv.bias[:3] = 0  # type: ignore[index]
        model.deep.bias[:] = 0  # type: ignore[index]
        model.deep.bias[1] = 1  # type: ignore[index]
        model.both.running_mean[2] = 1  # type: ignore[index]
        model.right.weight[:], model.right.bias[:] = 0, 0  # type: ignore[index]
    found = foreign.zeros_of(model, EXAMPLE, "it")
    assert found.silent == {"stem": (0, 2), "left": (0, 1), "right": (1, 2, 3)}
    assert found.filters == 3 + 3 + 4
    small = foreign.without(model, EXAMPLE, found.silent)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(small(x), model(x))


# ---- entries -------------------------------------------------------------------------------------


def artefact(title: str = "Theirs", **changes: Any) -> artefacts.Artefact:
    run = made.spec()
    fields: dict[str, Any] = {
        "title": title, "source": "https://example.org | x", "arch": run.arch, "data": run.data,
        "weights": "w", "dense": made.cost(1), "pruned": made.cost(0.4), "widths": {"a": 8},
        "dense_widths": {"a": 16}, "zero": artefacts.Zero(filters=5, of=100, silent=0),
        "measured": made.point(0.9), "environment": {"cpu": "x", "device": "cpu"},
    }  # fmt: skip
    return artefacts.Artefact(**fields | changes)


def test_entries_are_immutable_and_known_by_their_content(tmp_path: Path) -> None:
    path, is_new = artefacts.write(tmp_path, artefact())
    assert is_new
    assert path.relative_to(tmp_path).parts[:3] == ("imported", "images", "net20")
    before = path.read_bytes()
    elsewhere = artefact(environment={"cpu": "y", "device": "cpu"})
    assert artefacts.write(tmp_path, elsewhere) == (path, False)
    assert path.read_bytes() == before
    assert artefacts.write(tmp_path, artefact("Others"))[0] != path
    assert artefacts.read(path) == artefact()
    path.write_bytes(before.replace(b'"test_top1": 0.9', b'"test_top1": 0.99'))
    with pytest.raises(BadInput, match="its content is that of"):
        artefacts.read(path)
    for broken in (b"", b"[]", b"{}", before.replace(b'"zero"', b'"zeros"')):
        path.write_bytes(broken)
        with pytest.raises(BadInput, match="is not an entry") as caught:
            artefacts.read(path)
        assert "\n" not in str(caught.value)


def test_entries_have_a_table_of_their_own_and_no_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.page._library", lambda keep: ("", ""))  # takes seconds to make
    for run in made.three("l1norm", (0.90, 0.92, 0.91)) + made.three("hrank", (0.91, 0.93, 0.92)):
        made.write(Store(tmp_path), run)
    report.build(tmp_path, "none")
    files = ("leaderboard.csv", "leaderboard/images-net20.md", "leaderboard/comparisons.csv")
    before = {name: (tmp_path / name).read_bytes() for name in files}
    assert not (tmp_path / "leaderboard/imported.csv").exists()
    artefacts.write(tmp_path, artefact())
    zero = artefacts.Zero(filters=5, of=100, silent=3, macs_without=300_000, logits_apart=0.0)
    artefacts.write(tmp_path, artefact("Others", zero=zero, recalibrated=made.point(0.5)))
    report.build(tmp_path, "none")
    assert {name: (tmp_path / name).read_bytes() for name in files} == before
    found = pd.read_csv(tmp_path / "leaderboard/imported.csv")
    assert list(found["title"]) == ["Others", "Theirs"]
    assert list(found["flops_reduction"]) == [60.0, 60.0]
    assert list(found["test_top1"]) == [90.0, 90.0]
    assert found["without_silent"].iloc[0] == 70.0
    assert found["test_recalibrated"].iloc[0] == 50.0
    assert "rank" not in found
    page = (tmp_path / "leaderboard/imported.md").read_text()
    assert "none is ranked" in page
    assert r"https://example.org \| x" in page
    assert "Networks made elsewhere" in (tmp_path / "report/index.html").read_text()
    assert "`leaderboard/imported.csv`" in (tmp_path / "leaderboard/DICTIONARY.md").read_text()
    shutil.rmtree(tmp_path / "imported")
    report.build(tmp_path, "none")
    assert not (tmp_path / "leaderboard/imported.md").exists()
    assert not (tmp_path / "leaderboard/imported.csv").exists()


def test_entries_alone_are_a_report_and_can_be_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = artefacts.write(tmp_path / "a", artefact())
    report.build(tmp_path / "a")
    assert (tmp_path / "a/leaderboard/imported.csv").is_file()
    words = [str(tmp_path / "a"), "--results", str(tmp_path / "b")]
    assert invoke(merge.main, words) == DONE
    assert "1 imported network copied" in capsys.readouterr().out
    copied = tmp_path / "b" / path.relative_to(tmp_path / "a")
    assert copied.read_bytes() == path.read_bytes()
    assert invoke(merge.main, words) == DONE
    path.write_text("{}")
    assert invoke(merge.main, words) == 1
    assert "is not an entry" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--entry", " "], "give the network a title"),
        (["--entry", "x" * 201], "one line of 200 letters"),
        (["--entry", "a\nb"], "one line of 200 letters"),
        (["--source", "x"], "--source belongs to an entry"),
        (["--kept", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_mistakes_of_the_command_are_one_line(
    words: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "net.pt", resnet().state_dict())
    assert invoke(evaluate.main, [str(path), *ON_DIGITS, str(tmp_path), *words]) == BAD_INPUT
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert match in re.sub(r"\s+", " ", said)
