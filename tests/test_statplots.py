"""What is drawn of the statistics is what their frames say."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from benchmark import across, looks, statplots
from benchmark.block import Block
from benchmark.paired import MARGIN
from benchmark.store import Store
from benchmark.study import study
from tests.test_across import board, grid
from tests.test_comparisons import DENSE, drawn, only_block, publish


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Block:
    root = tmp_path_factory.mktemp("results")
    store = Store(root)
    image = np.arange(2000)
    base = np.tile(image % 10 < 8, (5, 1))
    publish(store, "dense_continue", base | (image % 10 == 9), **DENSE)
    publish(store, "random", base)
    publish(store, "hrank", base | (image % 10 == 8))
    publish(store, "x", drawn((2, 2000), 1), 0.7)
    publish(store, "random", drawn((2, 2000), 2), 0.7)
    return only_block(root)


@pytest.fixture(scope="module")
def figure(block: Block) -> Figure:
    ((table, stem, caption, found),) = statplots.figures(block, study(block).comparisons)
    assert table == block.board["table"].iloc[0]
    assert stem == f"images-net20-common-{table}-verdicts"
    assert caption
    return found


def test_intervals_and_words_are_those_of_the_frame(block: Block, figure: Figure) -> None:
    frame = study(block).comparisons
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == [
        "against random, target 50 %", "against dense_continue, target 50 %",
        "against random, target 70 %", "against dense_continue, target 70 %",
    ]  # fmt: skip
    for row in frame[frame["family"] == "declared"].itertuples():
        axes = panels[f"against {row.reference}, target {row.target:g} %"]
        (line,) = [x for x in axes.lines if x.get_label() == f"_{row.entry}"]
        assert list(np.asarray(line.get_xdata())) == [row.low_95, row.high_95]
        assert line.get_linestyle() == ("-" if row.n == 5 else "--")
        assert [text.get_text() for text in axes.texts] == [row.verdict]
        low, high = axes.get_xlim()
        assert low < row.low_95 < row.high_95 < high
    words = [text for axes in figure.axes for text in axes.texts]
    assert {t.get_text(): t.get_fontweight() for t in words} == {
        "better": statplots.CLAIM, "worse": "normal", "undecided": "normal",  # worse: of 2 seeds
    }  # fmt: skip


def test_the_band_is_the_margin(figure: Figure) -> None:
    for axes in figure.axes:
        (band,) = axes.patches
        assert isinstance(band, Rectangle | Polygon)
        box = band.get_extents().transformed(axes.transData.inverted())
        assert (box.x0, box.x1) == pytest.approx((-MARGIN, MARGIN))


def test_tables_without_paired_results_have_no_figure(block: Block) -> None:
    frame = study(block).comparisons
    assert list(statplots.figures(block, frame[frame["family"] == "exploratory"])) == []
    assert list(statplots.figures(block, frame.assign(mean=np.nan))) == []


def test_profiles_are_drawn_as_they_are() -> None:
    rows = board(grid(3))
    frame = across.profiles(rows)
    ((stem, caption, figure),) = statplots.profile_figures(frame, rows)
    assert stem.startswith("profiles-common-")
    assert caption
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"hrank", "x"}
    for method, line in lines.items():
        own = frame[frame["method"] == method]
        assert list(np.asarray(line.get_ydata())) == own["share"].tolist()
        assert list(np.asarray(line.get_xdata())) == own["ratio"].tolist()
    assert lines["hrank"].get_color() != lines["x"].get_color()


def test_a_crowd_of_methods_leaves_room_for_the_curves() -> None:
    cells = {(f"m{i}", a, 0.5): 0.8 + i / 500 for i in range(40) for a in ("n0", "n1")}
    rows = board(cells)
    ((_, _, figure),) = statplots.profile_figures(across.profiles(rows), rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of axes that collapse
        figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().height > 200


def test_rows_of_one_method_have_labels_of_their_own() -> None:
    rows = pd.concat([board(grid(2)), board(grid(2), reconstruct="ls"),
                      board(grid(2), allocation="global")])  # fmt: skip
    rows["table"] = rows["table"].iloc[0]  # as if planned together
    part = across.profiles(rows)
    assert sorted(set(statplots._labels(part))) == [
        "hrank + LS", "hrank, global", "hrank, uniform", "x + LS", "x, global", "x, uniform",
    ]  # fmt: skip


def test_figures_are_the_same_bytes_again(block: Block, tmp_path: Path) -> None:
    frame, contents = study(block).comparisons, []
    for name in ("a.svg", "b.svg"):
        with looks.fixed_style():
            ((_, _, _, figure),) = statplots.figures(block, frame)
            looks.save(figure, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
