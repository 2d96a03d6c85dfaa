"""Across boards: hand-computed pooling, ranks, profiles, areas and best-of-n."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import pooling
from benchmark.errors import BadInput
from benchmark.paired import CONDITIONAL, CROSSED, Difference, Interval, Spread
from benchmark.pooling import Block, Score

NOWHERE = Interval(0, 0)


def block(mean: float, error: float, scope: str = CROSSED) -> Difference:
    return Difference((mean,), mean, Spread(0.0, error, 0, 999), NOWHERE, NOWHERE, scope, None)


def blocks(means: list[float], errors: list[float]) -> dict[Block, Difference]:
    return {("data", f"net{i}"): block(*row) for i, row in enumerate(zip(means, errors))}


def scores(table: Mapping[tuple[str, str, float], Mapping[str, float]]) -> list[Score]:
    return [Score(m, *place, v) for place, row in table.items() for m, v in row.items()]


# ---- partial pooling -----------------------------------------------------------------------------


def test_equal_errors_by_hand() -> None:
    """Sample variance 1 less the blocks' own 0.25; t with 2 degrees of freedom is 4.3027."""
    found = pooling.pool(blocks([0.0, 1.0, 2.0], [0.5] * 3))
    assert found.mean == pytest.approx(1)
    assert found.between == pytest.approx(math.sqrt(0.75))
    assert found.interval_95 is not None
    assert found.interval_95.high == pytest.approx(1 + 4.302653 / math.sqrt(3))
    assert list(found.shrunk.values()) == pytest.approx([0.25, 1, 1.75])
    assert found.note.startswith("3 blocks: an estimate, no test (needs 6)")


def test_blocks_that_agree_by_chance_are_not_believed_more_than_their_errors() -> None:
    found = pooling.pool(blocks([1.0, 1.0], [0.3, 0.4]))
    weights = 1 / 0.09 + 1 / 0.16
    assert found.between == 0
    assert found.interval_95 is not None
    assert found.interval_95.low == pytest.approx(1 - 12.7062 / math.sqrt(weights), abs=1e-4)
    assert list(found.shrunk.values()) == [1, 1]


def test_one_block_is_not_pooled() -> None:
    found = pooling.pool(blocks([1.0], [0.5]))
    assert (found.mean, found.interval_95, found.between) == (None, None, None)
    assert "nothing to pool" in found.note


def test_the_note_names_the_scope_and_six_blocks_need_another_test() -> None:
    mixed = {("d", "a"): block(0, 1), ("d", "b"): block(0, 1, CONDITIONAL)}
    assert CONDITIONAL in pooling.pool(mixed).note
    assert "(needs 6)" not in pooling.pool(blocks([0.0] * 6, [1.0] * 6)).note


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.05, 2)), min_size=2, max_size=6),
    st.floats(-3, 3),
)
def test_paule_and_mandel_solve_their_equation(
    rows: list[tuple[float, float]], shift: float
) -> None:
    means, variances = np.array([r[0] for r in rows]), np.array([r[1] ** 2 for r in rows])
    between = pooling.paule_mandel(means, variances)
    weights = 1 / (variances + between)
    centre = weights @ means / weights.sum()
    scatter = weights @ (means - centre) ** 2
    if between > 0:
        assert scatter == pytest.approx(len(rows) - 1, rel=1e-5)
    else:
        assert scatter <= len(rows) - 1 + 1e-9
    moved = pooling.pool(blocks((means + shift).tolist(), np.sqrt(variances).tolist()))
    assert moved.mean == pytest.approx(centre + shift, abs=1e-6)


def covered(count: int, between: float, errors: np.ndarray, times: int) -> float:
    """Share of pooled intervals that hold the true mean difference, 0."""
    draw, hits = np.random.default_rng(count), 0
    for _ in range(times):
        means = between * draw.standard_normal(count) + errors * draw.standard_normal(count)
        interval = pooling.pool(blocks(means.tolist(), errors.tolist())).interval_95
        hits += interval is not None and interval.low <= 0 <= interval.high
    return hits / times


@pytest.mark.parametrize(("count", "between"), [(3, 0.0), (3, 0.5), (5, 0.5)])
def test_coverage(count: int, between: float) -> None:
    assert covered(count, between, np.linspace(0.2, 0.4, count), 300) >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize(("count", "between"), list(itertools.product((2, 3, 5), (0.0, 0.2, 1.0))))
def test_coverage_is_near_nominal(count: int, between: float) -> None:
    assert covered(count, between, np.linspace(0.2, 0.5, count), 2000) >= 0.93


# ---- ranks ---------------------------------------------------------------------------------------


def grid(archs: int, lacking: tuple[str, ...] = ()) -> list[Score]:
    return [
        Score(m, "d", f"net{i}", t, v + i - 10 * t)
        for i in range(archs)
        for t in (0.5, 0.7)
        for m, v in {"a": 90.0, "b": 91.0}.items()
        if not (m == "b" and t == 0.7 and f"net{i}" in lacking)
    ]


def test_the_overall_ranking_waits_for_three_complete_blocks() -> None:
    found = pooling.overall(grid(3), ["a", "b"], [0.5, 0.7])
    assert found.rows == (("b", pytest.approx(86.0)), ("a", pytest.approx(85.0)))
    assert found.withheld == ""
    found = pooling.overall(grid(3, ("net1",)), ["a", "b"], [0.5, 0.7])
    assert found.rows == ()
    assert found.withheld == (
        "withheld: 2 of 3 (data, architecture) pairs are complete, 3 are needed"
    )
    assert pooling.overall(grid(3), [], [0.5]).withheld
    with pytest.raises(BadInput, match="twice"):
        pooling.overall([*grid(3), *grid(1)], ["a"], [0.5])


def test_rank_agreement_by_hand() -> None:
    low, high = ("d", "n", 0.5), ("d", "n", 0.7)
    table = {
        low: {"a": 1.0, "b": 2.0, "c": 3.0, "e": 9.0},
        high: {"a": 1.0, "b": 3.0, "c": 2.0},
        ("d", "m", 0.5): {"a": 3.0, "b": 2.0, "c": 1.0, "e": 0.0},
        ("z", "n", 0.5): {"a": 1.0},
    }
    (targets,) = pooling.across_targets(scores(table))
    assert (targets.one, targets.other, targets.methods) == (low, high, 3)
    assert targets.tau == pytest.approx(1 / 3)  # two pairs agree, one does not
    (archs,) = pooling.across_archs(scores(table))
    assert archs.tau == pytest.approx(-1)
    tied = {low: {"a": 1.0, "b": 1.0, "c": 2.0}, high: {"a": 1.0, "b": 2.0, "c": 3.0}}
    assert pooling.across_targets(scores(tied))[0].tau == pytest.approx(2 / math.sqrt(2 * 3))
    for row in ({"a": 1.0}, {"a": 1.0, "b": 1.0}):
        assert pooling.across_targets(scores({low: row, high: row}))[0].tau is None


# ---- profiles, areas, best of n ------------------------------------------------------------------


def test_profiles_by_hand() -> None:
    table = {
        ("d", "n", 0.5): {"a": 90.0, "b": 80.0},  # errors 10 and 20
        ("d", "n", 0.7): {"a": 85.0, "b": 90.0},  # 15 and 10
        ("d", "n", 0.9): {"a": 70.0},
        ("d", "m", 0.5): {"a": 100.0, "b": 99.0},  # 0 and 1
    }
    found = pooling.profiles(scores(table), ["a", "b"], [1, 1.5, 2, 1e9])
    assert found == {"a": [0.75, 1, 1, 1], "b": [0.25, 0.25, 0.5, 0.5]}
    assert pooling.profiles([], ["a"], [1]) == {}
    with pytest.raises(BadInput, match="begin at 1"):
        pooling.profiles([], ["a"], [0.9])


def curve(method: str, *points: tuple[float, float, float]) -> list[Score]:
    return [Score(method, "d", "n", t, accuracy, left) for t, left, accuracy in points]


def test_areas_by_hand() -> None:
    """On log2: a goes from 80 at -2 to 90 at -1; b from 70 at -2.5 to 95 at 0."""
    rows = curve("a", (0.75, 0.25, 80.0), (0.5, 0.5, 90.0))
    rows += curve("b", (0.75, 2**-2.5, 70.0), (0.5, 1.0, 95.0))
    rows += curve("c", (0.5, 0.5, 99.0))
    found = pooling.areas(rows)
    assert found["a"].value == pytest.approx(85)
    assert found["b"].value == pytest.approx(80)  # at -1.5, the middle of the common range
    assert (found["a"].low, found["a"].high) == pytest.approx((0.25, 0.5))
    assert (found["c"].value, found["c"].refused) == (None, "lacks targets 0.75")


def test_a_kink_inside_the_range_counts() -> None:
    rows = curve("a", (0.75, 0.25, 80.0), (0.5, 0.5, 90.0), (0.0, 1.0, 90.0))
    assert pooling.areas(rows)["a"].value == pytest.approx(87.5)


def test_areas_are_refused_rather_than_extrapolated() -> None:
    rows = curve("a", (0.75, 0.25, 80.0), (0.5, 0.4, 90.0))
    rows += curve("b", (0.75, 0.5, 80.0), (0.5, 0.6, 90.0))
    assert {a.refused for a in pooling.areas(rows).values()} == {"no common range of FLOPs"}
    assert pooling.areas(rows[:1])["a"].value is None
    with pytest.raises(BadInput, match="fraction"):
        pooling.areas([Score("a", "d", "n", 0.5, 90.0)])
    with pytest.raises(BadInput, match="one \\(data"):
        pooling.areas([*rows, Score("a", "d", "m", 0.5, 90.0, 0.5)])
    assert pooling.areas([]) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_all_subsets(values: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(values)))
    every = [max(subset) for subset in itertools.combinations(values, n)]
    assert pooling.best_of(values, n) == pytest.approx(float(np.mean(every)))


def test_best_of_n_by_hand() -> None:
    assert pooling.best_of([3.0, 1.0, 2.0], 2) == pytest.approx(8 / 3)
    assert pooling.best_of([3.0, 1.0, 2.0], 1) == pytest.approx(2)
    for n in (0, 4):
        with pytest.raises(BadInput, match="best of"):
            pooling.best_of([3.0, 1.0, 2.0], n)
