"""What holds over blocks: from frames alone, against the statistics they are made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic as made
from scipy.stats import norm

from benchmark import across, blockwise, frames, pooling
from benchmark.granted import PAYS
from benchmark.hierarchical import Outlook, outlook
from benchmark.paired import CONDITIONAL, CROSSED
from benchmark.record import RunRecord
from tests.test_pooling import block

TABLES = {
    across.pooled: across.POOLED, across.ranking: across.RANKING,
    across.stability: across.STABILITY, across.areas: across.AREAS,
    across.profiles: across.PROFILES,
}  # fmt: skip


def difference(arch: str, mean: float, **changes: Any) -> dict[str, Any]:
    """A row of `blockwise`, seeds and images with standard errors of 0.3 and 0.4."""
    return {
        "data": "d", "arch": arch, "protocol": 1, "track": "common", "precision": "fp32",
        "scope": "inner", "min_width": 10, "baseline_epochs": 30, "budget_epochs": 20,
        "table": f"t-{arch}", "title": "New", "method": "new", "allocation": "uniform",
        "reconstruct": "none", "params": "{}", "source": "", "revision": 1,
        "reference_method": "base", "targets": "50 70", "n": 5, "images": 100, "mean": mean,
        "low_95": mean - 1, "high_95": mean + 1, "error_seeds": 0.3, "error_images": 0.4,
        "interval_scope": CROSSED, "per_seed": "", "note": "", "withheld": "",
    } | changes  # fmt: skip


def pool(*rows: dict[str, Any]) -> pd.DataFrame:
    return across.pooled(frames.typed(rows, blockwise.COLUMNS))


# ---- pooled differences --------------------------------------------------------------------------


def test_blocks_are_pooled_as_their_differences_are() -> None:
    row = pool(*(difference(f"n{i}", v) for i, v in enumerate([0.0, 1.0, 2.0]))).iloc[0]
    wanted = pooling.pool({("d", f"n{i}"): block(v, 0.5) for i, v in enumerate([0.0, 1.0, 2.0])})
    assert wanted.interval_95 is not None
    assert wanted.between is not None
    assert (row["blocks"], row["mean"]) == (3, pytest.approx(1))
    assert row["low_95"] == pytest.approx(wanted.interval_95.low)
    assert row["high_95"] == pytest.approx(wanted.interval_95.high)
    assert row["between"] == pytest.approx(wanted.between)
    assert row["per_block"] == "d/n0:+0.00 d/n1:+1.00 d/n2:+2.00"
    assert row["shrunk"] == "d/n0:+0.25 d/n1:+1.00 d/n2:+1.75"
    assert row["note"] == "3 blocks: an estimate, no test (needs 6); within blocks " + CROSSED
    assert (row["verdict"], math.isnan(row["p_better"])) == ("", True)


def test_one_block_is_not_pooled_and_methods_are_not_mixed() -> None:
    frame = pool(difference("a", 1), difference("b", 2, method="old"), difference("a", 3,
                 reference_method="other"), difference("c", 4, budget_epochs=5))  # fmt: skip
    assert frame["blocks"].tolist() == [1] * 4
    assert frame["mean"].isna().all()


def test_a_block_counts_once_with_its_widest_table() -> None:
    row = pool(
        difference("a", 1, table="z"), difference("a", 9, table="y", targets="50"),
        difference("b", 2, targets="50", interval_scope=CONDITIONAL, note="depends on who pays"),
    ).iloc[0]  # fmt: skip
    assert row["per_block"] == "d/a:+1.00 d/b:+2.00"
    for text in ("targets differ between blocks", "several tables in a block", CONDITIONAL,
                 "depends on who pays"):  # fmt: skip
        assert text in row["note"]


def test_six_blocks_are_tested() -> None:
    rows = [difference(f"n{i}", v) for i, v in enumerate([2.0, 2.2, 1.9, 2.1, 2.0, 2.3])]
    row = pool(*rows).iloc[0]
    found = outlook(np.array([r["mean"] for r in rows]), np.full(6, 0.5))
    assert (row["p_better"], row["verdict"]) == (pytest.approx(found.better), "better")
    assert row["p_better"] + row["p_equivalent"] + row["p_worse"] == pytest.approx(1)
    assert "no test" not in row["note"]


CLEAR = [2.0, 2.2, 1.9, 2.1, 2.0, 2.3]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "better"), ({"withheld": "saturated"}, "not claimed"),
     ({"withheld": PAYS}, "not claimed"), ({"withheld": "entry at chance"}, "not claimed"),
     ({"free_mean": 1.0}, "better"), ({"free_mean": -13.0}, PAYS)],
)  # fmt: skip
def test_one_block_withholds_the_verdict_over_blocks(changes: Any, verdict: str) -> None:
    """The probabilities stay. Granted preparation is judged by the mean over blocks."""
    rows = [difference(f"n{i}", v) for i, v in enumerate(CLEAR)]
    row = pool(*rows[:5], rows[5] | changes).iloc[0]
    assert row["verdict"] == verdict
    assert row["p_better"] > 0.95
    assert f"not claimed: {changes.get('withheld')}" in row["note"] or verdict != "not claimed"


def test_equivalence_over_blocks_needs_free_preparation_too() -> None:
    small = {"error_seeds": 0.02, "error_images": 0.02}
    for free, verdict in ((0.1, "equivalent"), (0.5, "undecided")):
        rows = [difference(f"n{i}", 0.02, free_mean=free, **small) for i in range(8)]
        assert pool(*rows)["verdict"].item() == verdict


# ---- the test ------------------------------------------------------------------------------------


def test_the_grid_is_that_of_an_exact_case() -> None:
    """Equal errors: the mean's variance is (s^2 + tau^2) / k; the sum over tau is done by hand."""
    means, error, count = np.array([0.1, 0.5, 0.9, -0.2, 0.4, 0.7]), 0.3, 6
    tau = np.linspace(1e-6, 40, 400_001)
    variance = error**2 + tau**2
    log = -(count - 1) / 2 * np.log(variance) - ((means - means.mean()) ** 2).sum() / 2 / variance
    density = np.exp(log - log.max())
    density /= density.sum()
    spread = np.sqrt(variance / count + tau**2)
    better = density @ norm.sf((0.3 - means.mean()) / spread)
    worse = density @ norm.cdf((-0.3 - means.mean()) / spread)
    found = outlook(means, np.full(count, error))
    assert found.better == pytest.approx(better, abs=2e-4)
    assert found.worse == pytest.approx(worse, abs=2e-4)


def test_clear_cases_and_symmetry() -> None:
    close, far = np.full(8, 0.02), np.array([1.0, 1.1, 0.9, 1.2, 1.0, 1.1, 1.0, 0.9])
    errors = np.full(8, 0.05)
    assert outlook(close, errors).verdict == "equivalent"
    assert outlook(far, errors).verdict == "better"
    mirrored = outlook(-far, errors)
    assert (mirrored.verdict, mirrored.worse) == ("worse", outlook(far, errors).better)
    assert outlook(far, np.full(8, 3.0)).verdict == "undecided"
    assert outlook(close * 0, errors * 0 + 1e-3).equivalent <= 1
    assert Outlook(0.95, 0.05, 0).verdict == "better"


def test_probabilities_are_calibrated() -> None:
    """Where the truth is drawn from a wide prior, a stated probability is the share of new blocks
    on that side: of 600 simulated sets, within three standard errors."""
    draw, stated, seen = np.random.default_rng(0), [], []
    for _ in range(600):
        mean, between = draw.uniform(-3, 3), draw.uniform(0, 1.5)
        errors = draw.uniform(0.2, 0.5, 6)
        truth = mean + between * draw.standard_normal(7)
        found = outlook(truth[:6] + errors * draw.standard_normal(6), errors)
        stated.append((found.better, found.worse, found.equivalent))
        seen.append((truth[6] > 0.3, truth[6] < -0.3, abs(truth[6]) <= 0.3))
    p, y = np.array(stated), np.array(seen, dtype=float)
    assert abs(p - y).mean() < 0.3
    gap, error = (p - y).mean(axis=0), np.sqrt((p * (1 - p)).sum(axis=0)) / 600
    assert (abs(gap) < 3 * error).all()
    sure = (p[:, :2] >= 0.95).any(axis=1)
    right = y[:, :2][p[:, :2] >= 0.95]
    assert sure.sum() > 150
    assert right.mean() >= 0.94


def test_false_claims_are_rare_where_methods_are_equal() -> None:
    draw, false = np.random.default_rng(1), 0
    for _ in range(300):
        means = 0.3 * draw.standard_normal(6) + 0.3 * draw.standard_normal(6)
        false += outlook(means, np.full(6, 0.3)).verdict in ("better", "worse")
    assert false / 300 <= 0.03


# ---- accuracies ----------------------------------------------------------------------------------

Cells = Mapping[tuple[str, str, float], float]  # method, architecture, target: accuracy


def board(cells: Cells, dense: float = 0.96, **changes: Any) -> pd.DataFrame:
    made_of: list[RunRecord] = [
        made.record(made.spec(method, 0, target, arch=arch, **changes), accuracy, dense)
        for (method, arch, target), accuracy in cells.items()
    ]
    runs = frames.runs_frame(made_of)
    return pd.concat([frames.leaderboard(part) for _, part in runs.groupby(["data", "arch"])])


def grid(archs: int) -> dict[tuple[str, str, float], float]:
    accuracy = {"hrank": 0.91, "x": 0.90, "random": 0.95}
    return {(m, f"n{i}", t): v + 0.01 * i - 0.1 * t
            for i in range(archs) for t in (0.5, 0.7) for m, v in accuracy.items()}  # fmt: skip


def test_the_ranking_waits_for_three_blocks_and_leaves_out_controls() -> None:
    frame = across.ranking(board(grid(3)))
    assert frame[["method", "rank", "targets", "withheld"]].to_numpy().tolist() == [
        ["hrank", 1, "50 70", ""], ["x", 2, "50 70", ""],
    ]  # fmt: skip
    assert frame["accuracy"].tolist() == pytest.approx([86.0, 85.0])
    (row,) = across.ranking(board(grid(2))).to_dict("records")
    assert row["withheld"] == (
        "withheld: 2 of 2 (data, architecture) pairs are complete, 3 are needed"
    )
    assert math.isnan(row["rank"])


def test_a_method_of_one_block_does_not_stop_the_ranking() -> None:
    cells = grid(3) | {("new", "n0", 0.5): 0.99, ("hrank", "n0", 0.9): 0.5}
    assert across.ranking(board(cells))["method"].tolist() == ["hrank", "x"]


def test_saturated_blocks_are_not_ranked() -> None:
    frame = pd.concat([board(grid(2)), board({k: v for k, v in grid(3).items() if k[1] == "n2"},
                                             dense=0.99)])  # fmt: skip
    assert across.ranking(frame)["withheld"].item().endswith("3 are needed; 1 more saturated")
    assert across.profiles(board(grid(2), dense=0.99)).empty
    (row,) = across.ranking(board(grid(3), dense=0.99)).to_dict("records")
    assert row["withheld"] == "withheld: saturated (3 (data, architecture) pairs)"


def test_random_starts_stand_in_the_setting_of_their_table() -> None:
    """They train for 50 epochs, the others for 30 and then 20."""
    records = [made.record(made.spec("hrank", 0, t), 0.9 - t / 10) for t in (0.5, 0.7)]
    records += [made.record(made.from_scratch(0, t), 0.8, None) for t in (0.5, 0.6, 0.7)]
    frame = frames.leaderboard(frames.runs_frame(records))
    assert frame["table"].nunique() == 1
    assert len(across.ranking(frame)) == 1
    found = across.areas(frame)
    assert found[["baseline_epochs", "budget_epochs"]].drop_duplicates().to_numpy().tolist() == [
        [30, 20]
    ]
    assert found.set_index("method")["refused"]["hrank"] == "lacks targets 60"
    alone = frames.leaderboard(frames.runs_frame(records[2:]))
    assert set(across.areas(alone)["budget_epochs"]) == {50}


def test_settings_are_not_mixed_and_the_paper_track_is_left_out() -> None:
    frame = pd.concat(
        [board(grid(3)), board(grid(3), budget_epochs=5), board(grid(3), track="paper")]
    )
    found = across.ranking(frame)
    assert found["budget_epochs"].tolist() == [5, 5, 20, 20]
    assert set(found["track"]) == {"common"}


def test_order_of_methods_across_targets_and_architectures() -> None:
    cells = {("hrank", "a", 0.5): 0.9, ("x", "a", 0.5): 0.8, ("hrank", "a", 0.7): 0.7,
             ("x", "a", 0.7): 0.75, ("hrank", "b", 0.5): 0.9, ("x", "b", 0.5): 0.8,
             ("random", "b", 0.5): 0.99}  # fmt: skip
    frame = across.stability(board(cells))
    wanted = ["across", "arch_1", "target_1", "arch_2", "target_2", "tau", "methods", "note"]
    assert frame[wanted].to_numpy().tolist() == [
        ["targets", "a", 50, "a", 70, -1, 2, ""],
        ["architectures", "a", 50, "b", 50, 1, 2, ""],
    ]
    assert set(across.stability(board(cells, dense=0.99))["note"]) == {"saturated"}


def test_areas_are_those_of_the_points() -> None:
    cells = {("hrank", "a", 0.5): 0.9, ("hrank", "a", 0.75): 0.8, ("random", "a", 0.5): 0.7,
             ("x", "a", 0.5): 0.9, ("random", "a", 0.75): 0.6}  # fmt: skip
    frame = across.areas(board(cells)).set_index("method")
    assert frame["area"].to_dict() == pytest.approx(
        {"hrank": 85, "random": 65, "x": math.nan}, nan_ok=True
    )
    assert frame.loc["hrank", ["left_low", "left_high"]].tolist() == pytest.approx([25, 50])
    assert frame["refused"].to_dict() == {"hrank": "", "random": "", "x": "lacks targets 75"}
    assert frame["control"].to_dict() == {"hrank": 0, "random": 1, "x": 0}
    assert set(frame["note"]) == {""}
    full = board(cells, dense=0.99)
    full.loc[full["method"] == "x", "marks"] = "at chance (1 of 2 seeds)"
    assert across.areas(full).set_index("method")["note"].to_dict() == {
        "hrank": "saturated", "random": "saturated", "x": "at chance; saturated",
    }  # fmt: skip


def test_profiles_are_shares_of_cells() -> None:
    cells = {("hrank", "a", 0.5): 0.9, ("x", "a", 0.5): 0.8, ("hrank", "b", 0.5): 0.85,
             ("x", "b", 0.5): 0.9}  # fmt: skip
    frame = across.profiles(board(cells)).set_index(["method", "ratio"])["share"]
    assert [frame["hrank", r] for r in (1.0, 1.3, 1.5, 5.0)] == [50, 50, 100, 100]
    assert [frame["x", r] for r in (1.0, 1.75, 2.0)] == [50, 50, 100]
    assert set(across.profiles(board(cells))["cells"]) == {2}
    assert across.profiles(board({k: v for k, v in cells.items() if k[1] == "a"})).empty


def test_rows_at_chance_and_incomplete_ones_are_no_order() -> None:
    cells = {("hrank", "a", 0.5): 0.9, ("x", "a", 0.5): 0.8, ("hrank", "b", 0.5): 0.9,
             ("x", "b", 0.5): 0.8}  # fmt: skip
    frame = board(cells)
    frame.loc[frame["method"] == "x", "marks"] = "at chance"
    assert across.stability(frame)["methods"].tolist() == [1]


def test_nothing_makes_empty_tables() -> None:
    empty = {across.pooled: frames.typed([], blockwise.COLUMNS)}
    for make, columns in TABLES.items():
        frame = make(empty.get(make, board(grid(1)).iloc[:0]))
        assert frame.empty
        assert list(frame) == [c.name for c in columns]
        assert all(c.meaning for c in columns)
