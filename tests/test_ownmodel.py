"""A user's own network, from a file outside the suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark import archs, load, ownmodel, reproduce, run
from benchmark.cli import invoke
from benchmark.errors import BadInput
from benchmark.grid import settled
from benchmark.options import Options

NET = """
from torch import nn

def layers(width, classes):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )

def build(num_classes):
    return layers(6, num_classes)

def wide(num_classes):
    return layers(12, num_classes)

def number(num_classes):
    return 3

def fails(num_classes):
    raise RuntimeError("no such file: weights.pt")
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "mynet.py"
    path.write_text(NET)
    return path


def test_file_and_function_name_the_network(net: Path) -> None:
    plain, wide = archs.find(str(net)), archs.find(f"{net}:wide")
    assert (plain.name, wide.name) == ("mynet", "mynet.wide")
    assert plain.source == wide.source
    assert wide.build(5)[0].out_channels == 12
    assert archs.find(f"{net}:build").name == "mynet"


def test_another_file_is_another_network(net: Path) -> None:
    before = archs.identity_of(str(net), 4)
    net.write_text(NET + "\n# a comment\n")
    after = archs.identity_of(str(net), 4)
    assert before.structure == after.structure
    assert before.source != after.source
    assert archs.build_again(before, 4)  # this process still knows the old one


def test_a_file_that_nobody_named_is_asked_for() -> None:
    with pytest.raises(BadInput, match=r"mynet is in a file of its author's: .*--arch FILE\.py"):
        ownmodel.known("mynet", "0123456789abcdef", archs.is_taken)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("{net}:missing", "no function 'missing'"),
        ("{net}:number", r"number\(4\) returned a int, not a torch"),
        ("{net}:fails", r"fails\(4\): RuntimeError: no such file"),
        ("{net}x.py", "does not exist"),
        ("{net}:no-word", "named by letters"),
    ],
)
def test_what_cannot_be_used_is_one_line(net: Path, label: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        archs.build(label.format(net=net), 4)


def test_names_of_ours_are_taken(tmp_path: Path) -> None:
    (tmp_path / "resnet20.py").write_text(NET)
    with pytest.raises(BadInput, match="name of one of ours"):
        archs.find(str(tmp_path / "resnet20.py"))


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(BadInput, match="cannot be imported: ModuleNotFoundError"):
        archs.find(str(tmp_path / "broken.py"))


def test_a_grid_means_the_same_from_everywhere(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net.parent)
    assert settled(Options(arch="mynet.py:wide")).arch == f"{net}:wide"


@pytest.mark.slow
def test_a_whole_run(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    words = ["--arch", f"{net}:build", "--methods", "l1norm", "--dataset", "digits"]
    words += ["--epochs", "0.2", "--set", "baseline.epochs=0.2", "--no-controls"]
    assert invoke(run.main, [*words, "--jobs", "1", "--results", str(results)]) == 0
    said = capsys.readouterr().out
    assert "mynet: 2 groups of channels can be pruned" in said
    (place,) = results.glob("runs/digits/mynet/l1norm/*/record.json")
    record = json.loads(place.read_text())
    assert record["spec"]["arch"]["source"] == archs.find(str(net)).source
    assert f"--arch {net}:build" in record["command"]
    assert load.load_pruned(record["run_id"], results, arch=str(net))
    again = [record["run_id"], "--results", str(results), "--arch", str(net)]
    assert invoke(reproduce.main, again) == 0
    net.write_text(NET.replace("layers(6", "layers(5"))
    assert invoke(run.main, [*words, "--dry-run", "--results", str(results)]) == 0
    assert "1 to run" in capsys.readouterr().out  # it is another run now
