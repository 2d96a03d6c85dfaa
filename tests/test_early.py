"""The first steps of recovery: table and figures from what records noted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from benchmark import earlyplot, report
from benchmark.block import Block, blocks
from benchmark.columns import names
from benchmark.early import COLUMNS, early
from benchmark.spec import RunSpec
from benchmark.store import Store

NOTED = {0: [(0, 0.5), (50, 0.7), (100, 0.8)], 1: [(0, 0.6), (50, 0.7)]}  # by seed


def write(root: Path, spec: RunSpec, noted: list[tuple[int, float]]) -> None:
    synthetic.write(Store(root), synthetic.record(spec, early=noted))


@pytest.fixture
def block(tmp_path: Path) -> Block:
    """A row of two seeds at one target and one at another, controls, and the dense network."""
    for seed, noted in NOTED.items():
        write(tmp_path, synthetic.spec("hrank", seed), noted)
    write(tmp_path, synthetic.spec("hrank", 0, 0.75), [(0, 0.3), (50, 0.4)])
    write(tmp_path, synthetic.spec("l1norm"), [])  # of an earlier version
    write(tmp_path, synthetic.spec("random"), [(0, 0.2)])
    write(tmp_path, synthetic.spec("dense_continue", 0, 0.0, allocation="none"), [(0, 0.9)])
    write(tmp_path, synthetic.from_scratch(), [(0, 0.1)])  # in the table, and in no figure
    (found,) = blocks(tmp_path)
    return found


def test_a_row_for_each_cell_and_step(block: Block) -> None:
    frame = early(block)
    assert list(frame.columns) == names(COLUMNS)
    assert set(frame["method"]) == {"hrank", "random", "dense_continue", "width_scaling"}
    own = frame[(frame["method"] == "hrank") & (frame["target"] == 50)]
    assert list(zip(own["step"], own["n"], strict=True)) == [(0, 2), (50, 2), (100, 1)]
    assert list(own["val_mean"]) == pytest.approx([55, 70, 80])
    assert own["val_sd"].iloc[0] == pytest.approx(50**0.5)
    assert own["val_sd"].iloc[1] == pytest.approx(0)
    assert np.isnan(own["val_sd"].iloc[2])


def test_a_figure_for_each_target(block: Block) -> None:
    found = list(earlyplot.figures(block))
    table = early(block)["table"].iloc[0]
    stems = [f"{block.name}-common-{table}-{target}-early" for target in (50, 75)]
    assert [stem for _, stem, _, _ in found] == stems
    assert {name for name, *_ in found} == {table}
    assert [caption.endswith(f"target {t} %") for (_, _, caption, _), t in
            zip(found, (50, 75), strict=True)] == [True, True]  # fmt: skip
    lines = _lines(found[0][3])
    assert [pytest.approx(v) for v in lines] == [[55, 70, 80], [90], [20]]
    assert [pytest.approx(v) for v in _lines(found[1][3])] == [[30, 40], [90]]  # dense in both
    ticks = [text.get_text() for text in found[0][3].axes[0].get_xticklabels()]
    assert ticks == ["0", "50", "100"]


def _lines(figure: earlyplot.Figure) -> list[list[float]]:
    """Values of the rows' lines, by the order of the legend; bars have markers of their own."""
    return [
        np.asarray(line.get_ydata(), dtype=float).tolist()
        for line in figure.axes[0].lines
        if line.get_marker() not in ("_", "None")
    ]


def test_the_report_has_it_where_records_noted_it(
    block: Block, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.page._library", lambda keep: ("", ""))  # takes seconds to make
    old = tmp_path_factory.mktemp("old")
    write(old, synthetic.spec("l1norm"), [])
    report.build(old)
    assert not (old / "leaderboard/early.csv").exists()
    assert list((old / "figures").glob("*-early.svg")) == []
    root = block.store.root
    report.build(root)
    assert len(pd.read_csv(root / "leaderboard/early.csv")) == len(early(block))
    assert "## `leaderboard/early.csv`" in (root / "leaderboard/DICTIONARY.md").read_text()
    page = (root / "leaderboard/images-net20.md").read_text()
    drawn = sorted(path.name for path in (root / "figures").glob("*-early.svg"))
    assert len(drawn) == 2
    assert all(name in page for name in drawn)
