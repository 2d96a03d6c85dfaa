"""The page of architectures says what is computed, and the committed one is what is written."""

from decimal import Decimal
from pathlib import Path

import pytest

from benchmark import archs, archtable, conventions, published
from benchmark.archtable import counts_row, fit, row, verdict
from benchmark.cifar_mobilenet import STAGES, CifarMobileNetV2
from benchmark.cifar_vgg import VGG19, LinearVgg
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.conventions import Printed

PAGE = Path(__file__).parents[1] / "docs/architectures.md"
TEXT = PAGE.read_text(encoding="utf-8")
CHEAP = ("resnet20", "resnet20b", "vgg16-linear", "mobilenetv2-torchvision", "densenet40")


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("label", CHEAP)
def test_lines_of_the_committed_page_are_computed(label: str) -> None:
    assert line(counts_row(label)) in TEXT.splitlines()


def test_the_committed_page_has_every_network_and_rule() -> None:
    for label, paper in archtable.described().items():
        assert TEXT.count(f"| {label} | ") == 1
        assert paper.defined in TEXT.replace("\\", "")
    assert archtable.described().keys() == archs.ARCHS.keys() | archs.IMAGENET.keys()
    assert all(f"- **{rule}**: " in TEXT for rule in conventions.RULES)


def test_the_committed_page_has_every_dense_figure_in_print() -> None:
    names = {paper.printed for paper in archtable.described().values()}
    rows = [c for c in published.read_claims() if c.arch_printed in names]
    dense = [c for c in rows if c.baseline_flops or c.baseline_params]
    assert len(dense) > 80
    listed = {word for line in TEXT.splitlines() for word in line.replace(",", " ").split()}
    assert {c.id for c in dense} <= listed
    assert {c.id for c in rows} & listed == {c.id for c in dense}


@pytest.mark.slow
def test_the_committed_page_is_what_the_command_writes(tmp_path: Path) -> None:
    assert invoke(archtable.main, ["--file", str(tmp_path / "page.md")]) == DONE
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == TEXT


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archtable, "page", lambda: "page\n")
    assert invoke(archtable.main, ["--file", str(tmp_path / "none/page.md")]) == BAD_INPUT
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert invoke(archtable.main, []) == DONE
    assert capsys.readouterr().out == "page\n"


# Figures in print that one of our networks gives exactly, with the rules of both.
EXACT = [
    ("resnet56", 10, "125.49e6", "conv + 2 linear", "0.85e6", "no norm"),
    ("resnet56", 10, "126.56e6", "conv + bias + 2 linear + 2 norm + pool", "0.85e6", "all"),
    ("resnet56b", 10, "125747840", "conv + linear", "851504", "weights"),
    ("vgg16", 10, "313.73e6", "conv + 2 linear", "14.98e6", "no norm"),
    ("vgg16", 10, "314.562e6", "conv + bias + 2 linear + 2 norm", "14.992e6", "all"),
    ("vgg16-linear", 10, "314.04e6", "conv + bias + 2 linear + 2 norm", "14.73e6", "all"),
    ("vgg16-linear", 10, "313.75e6", "conv + linear + 2 norm", "14.72e6", "no norm"),
    ("vgg16-linear", 100, "313.8e6", "conv + linear + 2 norm", "14.77e6", "all"),
    ("mobilenetv2-torchvision", 10, "94.54e6", "conv + linear + 4 norm", "2.24e6", "all"),
]


@pytest.mark.parametrize(("label", "classes", "macs", "rule", "params", "param_rule"), EXACT)
def test_printed_figures_are_reached(
    label: str, classes: int, macs: str, rule: str, params: str, param_rule: str
) -> None:
    found, figure = row(label, classes), Printed(macs, params, "")
    rules, param_rules = fit(figure, found.dense)
    assert rule in rules
    assert param_rule in param_rules
    groups = [archtable.printed().values(), (p.figures for p in archtable.described().values())]
    in_print = {(f.macs, f.params) for group in groups for figures in group for f in figures}
    same = [(m, p) for m, p in in_print if m and p and Decimal(m) == Decimal(macs)]
    assert any(Decimal(p) == Decimal(params) for _, p in same)


def test_networks_of_one_name_are_told_apart() -> None:
    ours = [row("resnet56", 10), row("resnet56b", 10)]
    assert verdict(Printed("125747840", "851504", ""), ours).startswith("resnet56b: conv + linear")
    assert verdict(Printed("125.49e6", "0.85e6", ""), ours).startswith("resnet56: conv + 2 linear")
    said = verdict(Printed("71.77e6", "0.86e6", ""), ours)
    assert said.startswith("no network and rules give all of it; resnet56: none: conv")
    assert verdict(Printed("125.6e6", "", ""), ours).count("none: ") == 1


def test_the_most_frequent_figure_that_fits_is_shown() -> None:
    assert told("vgg16") == ("313.73 M, 14.98 M", "conv + 2 linear; no norm")
    assert told("resnet56b") == ("125.747840 M, 0.851504 M", "conv + linear; weights")
    assert told("mobilenetv2-torchvision")[1] == "conv + linear + 4 norm; all"
    assert told("mobilenetv2")[1].startswith("none: conv + linear + 2 norm -0.07 %; none: ")
    assert archtable.chosen(row("resnet20", 10)) is None


def told(label: str) -> tuple[str, str]:
    found = row(label, 10)
    figure = archtable.chosen(found)
    assert figure is not None
    return archtable.both(figure), archtable.why(figure, found.dense)


def test_figures_in_notes_are_computed() -> None:
    papers = archtable.described()
    with_bias = conventions.count(LinearVgg(10, VGG19, bias=True), 32)
    assert _mega(with_bias.macs["conv + bias + linear"]) == "398.44"
    assert "398.44 M is conv + bias + linear" in papers["vgg19"].note
    wide = tuple((t, c, n, 1 if c == 32 else s) for t, c, n, s in STAGES)
    dense = conventions.count(CifarMobileNetV2(10, wide), 32)
    assert _mega(dense.macs["conv + linear"]) == "304.08"
    assert "304.08 M by conv + linear" in papers["mobilenetv2"].note
    assert _mega(row("densenet40", 10).dense.macs["conv + 2 linear"]) == "282.92"
    assert "282.92 M, conv + 2 linear" in papers["densenet40"].note


def _mega(count: int) -> str:
    return f"{count / 1e6:.2f}"
