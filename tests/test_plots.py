"""What is drawn is what the tables say: values are read back from the artists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic as made
from matplotlib.cm import ScalarMappable
from matplotlib.lines import Line2D

from benchmark import frames, looks, maskplot, plots
from benchmark.encoding import decode
from benchmark.record import RunRecord
from benchmark.store import Store
from methods import all_names


@pytest.fixture(scope="module")
def records() -> list[RunRecord]:
    return made.sample()


def board_of(*records: RunRecord) -> pd.DataFrame:
    return frames.leaderboard(frames.runs_frame(records))


def drawn(axes: object, entry: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [x for x in axes.lines if x.get_label() == f"_{entry}"]  # type: ignore[attr-defined]
    return found.get_xdata(), found.get_ydata()


def values(artist: ScalarMappable) -> np.ndarray:
    found = artist.get_array()
    assert found is not None
    return np.asarray(found)


def test_points_of_the_figure_are_those_of_the_table(records: list[RunRecord]) -> None:
    runs = frames.runs_frame(records)
    board = frames.leaderboard(runs)
    look = looks.appearances(board)[board["table"].iloc[0]]
    axes = plots.accuracy(board, runs, look).axes[0]
    for entry, part in board.groupby("entry"):
        ordered = part.sort_values("target")
        x, y = drawn(axes, str(entry))
        assert list(y) == list(ordered["final_mean"])
        moved = np.asarray(x) - ordered["flops_reduction"]
        assert np.ptp(moved) < 1e-9
        assert abs(moved).max() < 1
    colours = {e: next(x for x in axes.lines if x.get_label() == f"_{e}").get_color()
               for e in ("hrank", "l1norm")}  # fmt: skip
    key = axes.get_legend()
    assert key is not None
    handles = zip(key.texts, key.legend_handles, strict=True)
    legend = {t.get_text(): h.get_color() for t, h in handles if isinstance(h, Line2D)}
    assert all(legend[e] == c for e, c in colours.items())


def test_width_map_holds_the_kept_shares(records: list[RunRecord]) -> None:
    runs = frames.runs_frame(records)
    figure = plots.widths(runs, {r.run_id: r for r in records})
    assert set(values(figure.axes[0].collections[0]).flat) == {50}
    assert set(values(figure.axes[1].collections[0]).flat) == {100 * 5 / 16}  # 30 % of 16


def test_mask_map_holds_the_masks_and_the_kept_channels(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (record,) = [r for r in made.sample() if r.method_facts]
    made.write(store, record, dict.fromkeys(record.widths, (1, 3, 15)))
    figure = maskplot.masks(store, record, "x")
    images = figure.axes[0].images
    mask = decode(record.method_facts["class_masks"]["layer1.0.conv1"])
    assert mask.shape == (10, 16)
    assert np.array_equal(values(images[0]), mask)
    assert images[0].norm(np.array([1.0])) == 0.5  # the neutral value has the middle colour
    assert list(np.flatnonzero(values(images[1])[0])) == [1, 3, 15]


def test_looks_are_distinct_and_stable(records: list[RunRecord]) -> None:
    full = board_of(*(made.record(made.spec(m)) for m in all_names()))
    (wide,) = looks.appearances(full).values()
    methods = full[full["control"] == 0]["entry"]
    assert len({(wide[e].colour, wide[e].marker) for e in methods}) == len(methods)
    (few,) = looks.appearances(board_of(*records)).values()
    assert (few["hrank"].colour, few["hrank"].marker) == (
        wide["hrank"].colour,
        wide["hrank"].marker,
    )


def test_panels_are_evenly_chosen() -> None:
    names = [f"layer{i}.{j}.conv1" for i in (1, 2) for j in range(12)]
    shown = maskplot.chosen(names)
    assert (len(shown), shown[0], shown[-1]) == (9, names[0], names[-1])
