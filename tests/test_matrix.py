"""The support matrix: its cells can fail, its file is kept, its page shows it, README has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark import archs, matrix
from benchmark.archs import ARCHS, structure_hash
from benchmark.cli import invoke
from benchmark.errors import BadInput
from benchmark.matrix import Broken, learn, twin_error
from benchmark.matrixcells import Cell, read_cells, write_cells
from benchmark.matrixpage import BEGIN, ELSEWHERE, END, body, general, readme_with, render, summary
from benchmark.network import Network
from benchmark.phase import Diverged
from methods import find
from methods.api import Plan

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "docs" / "support.csv"


def test_a_pair_that_works(tmp_path: Path) -> None:
    cell = matrix.run_cell("resnet8", find("l1norm"), matrix.bench_of("resnet8"))
    assert (cell.arch, cell.method, cell.supported, cell.reason) == ("resnet8", "l1norm", "yes", "")
    assert cell.reduction is not None
    assert cell.twin is not None
    assert abs(cell.reduction - matrix.TARGET) < 0.02
    assert 0 < cell.twin <= 1e-5
    write_cells(tmp_path / "s.csv", [cell])
    assert read_cells(tmp_path / "s.csv") == [cell]


def test_a_pair_that_does_not_apply_says_why() -> None:
    label = "timm/convnext_tiny"
    cell = matrix.run_cell(label, find("slimming"), matrix.bench_of(label))
    assert cell.supported == "no"
    assert "no batch norm sees the channels of stages.0.blocks.0.mlp.fc1" in cell.reason


def test_a_network_that_cannot_learn_is_broken() -> None:
    bench = matrix.bench_of("resnet8")
    model = bench.network(0).dense()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.fc.bias.requires_grad_(True)
    model.fc.bias.register_hook(lambda gradient: -gradient)  # climbs
    with pytest.raises(Broken, match="does not learn"):
        learn(model, bench.trainer(0))


def test_a_network_that_is_lost_before_it_learns_is_the_methods_doing() -> None:
    bench = matrix.bench_of("resnet8")
    model = bench.network(0).dense()
    with torch.no_grad():
        model.fc.weight.mul_(1e12)
    with pytest.raises(Diverged, match=r"a loss of \de\+1\d"):
        learn(model, bench.trainer(0))


def test_a_twin_that_differs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = matrix.bench_of("resnet8")
    net = bench.network(0)
    plan = Plan({g.name: tuple(range(g.width // 2)) for g in net.groups})
    assert twin_error(net, plan, bench.trainer(0)) <= 1e-5
    with pytest.raises(Broken, match="pruning changes nothing"):
        twin_error(net, Plan({}), bench.trainer(0))
    right = Network.masks
    other = Plan({g.name: tuple(range(g.width // 2 - 1)) for g in net.groups})
    monkeypatch.setattr(Network, "masks", lambda self, _: right(self, other))
    with pytest.raises(Broken, match="differ by"):
        twin_error(net, plan, bench.trainer(0))


def test_an_error_is_broken_and_not_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("l1norm")

    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(entry.cls, "score", fails)
    cell = matrix.run_cell("resnet8", entry, matrix.bench_of("resnet8"))
    assert (cell.supported, cell.reason) == ("broken", "RuntimeError: a bug")


def test_a_method_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("l1norm")

    def forever(*_: object) -> None:
        while True:
            torch.zeros(1)

    monkeypatch.setattr(entry.cls, "score", forever)
    monkeypatch.setattr(matrix, "MINUTES", 0.005)
    cell = matrix.run_cell("resnet8", entry, matrix.bench_of("resnet8"))
    assert cell.supported == "no"
    assert "min of CPU" in cell.reason


def test_what_is_known_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.csv"
    words = ["--arch", "resnet8", "--methods", "l1norm", "--out", str(out)]
    assert invoke(matrix.main, words) == 0
    assert "1 pairs: 1 supported" in capsys.readouterr().out
    monkeypatch.setattr(matrix, "run_cell", lambda *_: pytest.fail("it was run again"))
    assert invoke(matrix.main, words) == 0
    (cell,) = read_cells(out)
    write_cells(out, [replace(cell, revision=0)])  # as if the method had changed since
    with pytest.raises(pytest.fail.Exception):
        invoke(matrix.main, words)


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(matrix.main, ["--out", str(tmp_path / "s.md")]) == 2
    assert "give a .csv file" in capsys.readouterr().err
    assert invoke(matrix.main, ["--arch", "resnet9", "--out", str(tmp_path / "s.csv")]) == 2
    assert invoke(matrix.main, ["--methods", "nothing", "--out", str(tmp_path / "s.csv")]) == 2


def test_the_page() -> None:
    cells = [
        Cell("resnet20", "s", "a", 1, "yes"),
        Cell("resnet20", "s", "b", 1, "no", "layer1.0.conv1 has no norm"),
        Cell("resnet8", "s", "b", 1, "no", "layer2.0.conv1 has no norm"),
        Cell("resnet8", "s", "a", 1, "broken", "oh"),
    ]
    lines = body(cells).splitlines()
    assert lines[0] == "| architecture | a | b |"
    assert lines[2:4] == ["| resnet8 | **broken** | [1] |", "| resnet20 | yes | [1] |"]
    assert "1. (layer) has no norm" in lines
    assert general("more than 0.5 min for layer1.0.conv1") == "more than 0.5 min for (layer)"
    page = readme_with(f"before\n{BEGIN}\nold\n{END}\nafter\n", cells)
    assert summary(cells) in page
    assert "| a | 1 of 2, **1 broken** |  |\n" in page
    assert "| b | 0 of 2 | resnet8, resnet20 |\n" in page
    assert "| a | 0 of 2, **1 broken** |  | 1 |" in summary([cells[3], cells[1]])
    assert "old" not in page
    with pytest.raises(BadInput, match="no place for the table"):
        readme_with("nothing here", cells)


# ---- what is shipped -----------------------------------------------------------------------------


def test_the_shipped_matrix_is_of_today() -> None:
    """Every pair is there, of the present revision, and none is broken."""
    cells = read_cells(SHIPPED)
    entries = {e.label: e for e in matrix.entries_of(None)}
    names = {archs.find(label).name for label in (*ARCHS, *ELSEWHERE)}
    pairs = {(arch, method) for arch in names for method in entries}
    assert {(c.arch, c.method) for c in cells} == pairs, "run python -m benchmark.matrix"
    assert all(c.revision == entries[c.method].cls.revision for c in cells)
    assert [(c.arch, c.method) for c in cells if c.supported == "broken"] == []
    assert len(pairs) == len(cells)


@pytest.mark.slow
@pytest.mark.parametrize("label", [*ARCHS, *ELSEWHERE])
def test_the_shipped_matrix_is_of_these_structures(label: str) -> None:
    model: nn.Module = archs.find(label).build(matrix.CLASSES)
    own = {c.structure for c in read_cells(SHIPPED) if c.arch == archs.find(label).name}
    assert own == {structure_hash(model)}


def test_pages_show_the_shipped_matrix() -> None:
    cells = read_cells(SHIPPED)
    assert (ROOT / "docs" / "support.md").read_text() == render(cells)
    readme = (ROOT / "README.md").read_text()
    assert readme == readme_with(readme, cells)
