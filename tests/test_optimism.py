"""The gaps between last, best validation and best test epoch, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from test_against import block_of

from benchmark import costplot, optimism
from benchmark.block import Block, blocks
from benchmark.columns import names
from benchmark.record import BestVal, RunRecord
from benchmark.store import Store

T2 = 4.302653  # t(0.975) with 2 degrees of freedom


def run(
    method: str, seed: int, last: float, val: float | None, target: float = 0.5, **spec: str
) -> RunRecord:
    best = None if val is None else BestVal(epoch=3, accuracy=synthetic.point(val))
    made = synthetic.spec(method, seed, target, **spec)
    return synthetic.record(made, last, best_val=best)


def block(tested: dict[tuple[str, int, float], float], *records: RunRecord) -> Block:
    best = {
        r.run_id: tested[key]
        for r in records
        if (key := (r.spec.method.name, r.spec.seeds.run, r.spec.flops_reduction)) in tested
    }
    return block_of(records, best)


def three_seeds() -> Block:
    return block(
        {("l1norm", 0, 0.5): 0.91, ("l1norm", 1, 0.5): 0.92, ("l1norm", 2, 0.5): 0.93},
        run("l1norm", 0, 0.90, 0.89), run("l1norm", 1, 0.90, 0.91), run("l1norm", 2, 0.90, 0.92),
    )  # fmt: skip


def one(frame: pd.DataFrame) -> dict[str, float]:
    (row,) = frame.to_dict("records")
    return {str(k): v for k, v in row.items()}


def test_gaps_are_paired_by_seed() -> None:
    frame = optimism.optimism(three_seeds())
    assert list(frame.columns) == names(optimism.COLUMNS)
    row = one(frame)
    means = [row[f"{name}_mean"] for name in ("last", "best_val", "best_test")]
    assert means == [pytest.approx(90), pytest.approx(272 / 3), pytest.approx(92)]
    # best test - last: 1, 2, 3; best test - best val: 2, 1, 1; best val - last: -1, 1, 2
    expected = {"test_over_last": (2, 1), "test_over_val": (4 / 3, math.sqrt(1 / 3)),
                "val_over_last": (2 / 3, math.sqrt(7 / 3))}  # fmt: skip
    for gap, (mean, sd) in expected.items():
        assert row[f"{gap}_n"] == 3
        assert row[f"{gap}_mean"] == pytest.approx(mean)
        assert row[f"{gap}_sd"] == pytest.approx(sd)
        assert row[f"{gap}_low"] == pytest.approx(mean - T2 * sd / math.sqrt(3), abs=1e-5)
        assert row[f"{gap}_high"] == pytest.approx(mean + T2 * sd / math.sqrt(3), abs=1e-5)


def test_a_seed_without_a_figure_is_in_no_gap_of_it() -> None:
    found = block(
        {("l1norm", 0, 0.5): 0.91, ("l1norm", 1, 0.5): 0.94},
        run("l1norm", 0, 0.90, None), run("l1norm", 1, 0.92, None), run("l1norm", 2, 0.50, None),
    )  # fmt: skip
    row = one(optimism.optimism(found))
    assert (row["n"], row["test_over_last_n"], row["val_over_last_n"]) == (3, 2, 0)
    assert row["test_over_last_mean"] == pytest.approx(1.5)
    assert row["last_mean"] == pytest.approx((90 + 92 + 50) / 3)
    for empty in ("best_val_mean", "test_over_val_mean", "val_over_last_sd", "test_over_last_low"):
        assert math.isnan(row[empty])


def test_a_method_over_its_cells_counts_each_seed_once() -> None:
    """Gaps 1, 2, 3 at 50 % and 3, 2, 7 at 70 %: the seeds' means are 2, 2 and 5. A fourth seed that
    was run at one of them is left out."""
    tested = {
        ("l1norm", s, t): 0.9 + g / 100
        for t, gaps in ((0.5, (1, 2, 3, 9)), (0.7, (3, 2, 7)))
        for s, g in enumerate(gaps)
    }
    records = [run("l1norm", s, 0.9, 0.9, t) for _, s, t in tested]
    frame = optimism.by_method(block(tested, *records))
    assert list(frame.columns) == names(optimism.METHODS)
    row = one(frame)
    assert (row["cells"], row["test_over_last_n"]) == (2, 3)
    assert row["test_over_last_mean"] == pytest.approx(3)
    assert row["test_over_last_sd"] == pytest.approx(math.sqrt(3))
    assert row["test_over_last_high"] == pytest.approx(3 + T2, abs=1e-5)


def test_over_how_many_epochs_the_maximum_was_taken(tmp_path: Path) -> None:
    """Of the measurement that holds the maximum; runs without one have no part in the mean."""
    store = Store(tmp_path)
    for seed, target in ((0, 0.5), (1, 0.5), (2, 0.5), (0, 0.7)):
        synthetic.write(store, run("l1norm", seed, 0.9, 0.9, target))
    for seed, target, key, best, epochs in (
        (0, 0.5, "a", 0.95, 16), (0, 0.5, "b", 0.94, 99), (1, 0.5, "a", 0.95, 3),
        (0, 0.7, "a", 0.95, 5),
    ):  # fmt: skip
        facts = {"best_test_top1": best, "epochs": epochs}
        made = run("l1norm", seed, 0.9, 0.9, target)
        store.write_measurement(made.spec, "optimistic", key, facts)
    (found,) = blocks(tmp_path)
    assert optimism.optimism(found)["epochs"].tolist() == [9.5, 5]
    assert one(optimism.by_method(found))["epochs"] == 8
    assert math.isnan(one(optimism.optimism(block({}, run("l1norm", 0, 0.9, 0.9))))["epochs"])


def test_the_figure_has_only_rows_with_best_test_epochs() -> None:
    found = block(
        {("l1norm", 0, 0.5): 0.91, ("hrank", 0, 0.7): 0.91},
        run("l1norm", 0, 0.9, 0.9), run("hrank", 0, 0.9, 0.9, 0.7), run("hrank", 0, 0.9, 0.9),
        run("random", 0, 0.9, 0.9),
    )  # fmt: skip
    drawn = {stem.rsplit("-", 1)[1]: figure for _, stem, _, figure in costplot.figures(found)}
    panels = drawn["optimism"].axes
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in panels]
    assert rows == [["l1norm"], ["hrank"]]
    assert "no bar: fewer than 3 seeds" in panels[-1].get_xlabel()
    points = [
        line.get_xdata()[0] for axes in panels for line in axes.lines if line.get_marker() != "None"
    ]
    assert points == [pytest.approx(1), pytest.approx(1)]


def test_without_best_test_epochs_there_is_no_figure_of_them() -> None:
    stems = [stem for _, stem, _, _ in costplot.figures(block({}, run("l1norm", 0, 0.9, 0.9)))]
    assert [stem.rsplit("-", 1)[1] for stem in stems] == ["budget"]
