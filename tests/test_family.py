"""Intervals that hold together, and who may be the best, on boards of known accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from benchmark import family, paired
from benchmark.errors import BadInput
from benchmark.family import board, compare, declared, standings
from tests.test_paired import holds, simulate

REFERENCES = ["chance", "plain", "dense"]


def drawn(
    accuracies: dict[str, float], seeds: int, images: int, sd: float, state: int
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(state)
    return dict(
        zip(accuracies, simulate(draw, list(accuracies.values()), seeds, images, sd), strict=True)
    )


def equal(count: int) -> dict[str, float]:
    return dict.fromkeys([*REFERENCES, *(f"m{i}" for i in range(count - 3))], 0.93)


def test_the_family_is_declared_by_name() -> None:
    names = ["plain", "new", "chance", "other"]
    expected = [("new", "chance"), ("new", "plain"), ("other", "chance"), ("other", "plain")]
    assert declared(names, REFERENCES) == expected
    assert compare(board({"a": np.ones((5, 9), bool)}, 20), []) == []


def test_one_comparison_is_the_paired_difference() -> None:
    entries = drawn({"a": 0.93, "b": 0.9}, 6, 1000, 0.3, 0)
    (found,) = compare(board(entries, 4000), [("a", "b")])
    alone = paired.difference(entries["a"], entries["b"], 4000)
    assert found.mean == pytest.approx(alone.mean)
    assert found.spread.error == pytest.approx(alone.spread.error)
    assert found.interval_95.low == pytest.approx(alone.interval_95.low, abs=0.1)
    assert found.scope == alone.scope
    assert found.verdict == paired.verdict(found.interval_95, found.interval_90)


def test_joint_limits_of_independent_contrasts_are_those_of_sidak() -> None:
    z = np.random.default_rng(1).standard_normal((200_000, 10))
    tail = (1 - 0.95 ** (1 / 10)) / 2
    assert paired.joint_tail(z, 0.95) == pytest.approx(tail, rel=0.05)
    assert paired.joint_tail(z, 0.95, sides=1) == pytest.approx(1 - 0.95 ** (1 / 10), rel=0.05)
    same = np.repeat(z[:, :1], 10, axis=1)
    assert paired.joint_tail(same, 0.95) == pytest.approx(0.025, rel=0.05)
    assert paired.joint_tail(np.zeros((50, 3)), 0.95) == pytest.approx(0.025)
    assert norm.isf(paired.joint_tail(z[:, :2], 0.90)) == pytest.approx(1.949, abs=0.02)


def test_a_larger_family_has_wider_intervals() -> None:
    found = board(drawn(equal(6), 6, 1000, 0.2, 2), 2000)
    pairs = declared(found.names, REFERENCES)
    (alone,), together = compare(found, pairs[:1]), compare(found, pairs)
    assert together[0].mean == alone.mean
    assert together[0].interval_95.low < alone.interval_95.low
    for row in together:
        assert row.interval_95.low < row.interval_90.low


def test_order_of_entries_and_images_changes_nothing() -> None:
    entries = drawn(equal(5), 5, 400, 0.3, 3)
    order = np.random.default_rng(4).permutation(400)
    backwards = {n: entries[n][:, order] for n in reversed(entries)}
    one, other = board(entries, 300), board(backwards, 300)
    assert (one.drawn == other.drawn).all()
    for a, b in zip(standings(one), standings(other), strict=True):
        assert a.entry == b.entry
        assert (a.interval.low, a.interval.high) == pytest.approx((b.interval.low, b.interval.high))
    (there,), (back,) = compare(one, [("m0", "m1")]), compare(one, [("m1", "m0")])
    assert there.mean == -back.mean
    assert there.interval_95.low == pytest.approx(-back.interval_95.high, abs=0.5)


def test_all_entries_see_the_same_draws() -> None:
    """A twin has no difference in any draw; its interval rests on the two added images."""
    entries = drawn({"a": 0.9, "b": 0.9}, 5, 300, 0.3, 5)
    found = board(entries | {"twin": entries["a"]}, 300)
    a, _, twin = found.drawn.T
    assert (a == twin).all()
    (row,) = compare(found, [("a", "twin")])
    assert row.mean == 0
    assert 0 < row.interval_95.high < 2


def test_who_may_be_the_best() -> None:
    accuracies = {"best": 0.95, "near": 0.9499, "far": 0.90}
    rows = standings(board(drawn(accuracies, 5, 8000, 0.1, 6), 2000))
    there = {row.entry: row for row in rows}
    assert {n for n, row in there.items() if row.near_best} == {"best", "near"}
    assert there["far"].interval.high == 0
    assert rows[-1].entry == "far"
    assert there["far"].interval.low <= there["far"].lead <= 0
    assert sum(row.lead >= 0 for row in rows) == 1
    alone = standings(board(drawn({"best": 0.97, "far": 0.9}, 5, 8000, 0.1, 7), 500))
    assert [row.near_best for row in alone] == [True, False]
    assert alone[0].interval.low == 0
    assert alone[0].interval.high > 7
    assert standings(board({"a": np.ones((5, 9), bool)}, 20)) == []


def test_leads_are_bounded_by_every_rival_that_may_be_the_best() -> None:
    accuracies = {"a": 0.94, "b": 0.939, "c": 0.938, "d": 0.85}
    found = board(drawn(accuracies, 5, 3000, 0.2, 8), 500)
    upper = family._reaches(found)
    near = [all(upper[i, j] >= 0 for j in range(4) if j != i) for i in range(4)]
    assert near == [True, True, True, False]
    for row in standings(found):
        i = found.names.index(row.entry)
        lowest = min(-upper[j, i] for j in range(3) if j != i)
        highest = min(upper[i, j] for j in range(4) if j != i)
        assert (row.interval.low, row.interval.high) == (min(0, lowest), max(0, highest))


def test_correlations_between_seeds_are_not_read_off_a_few_seeds() -> None:
    """Contrasts that move as one in all draws: believed of images, not of seeds."""
    found = board(drawn(equal(12), 5, 200, 0.3, 9), 20_000)
    one = np.random.default_rng(0).standard_normal((20_000, 1))
    found = replace(found, drawn=one * ([0.0] + [1.0] * 11))
    pairs = [(i, 0) for i in range(1, 11)]
    seeds, images = paired.Spread(1.0, 0.0, 4, 99), paired.Spread(0.0, 1.0, 4, 99)
    tails = [paired.joint_tail(found.standardised(pairs, [s] * 10), 0.95) for s in (seeds, images)]
    assert tails == pytest.approx([(1 - 0.95 ** (1 / 10)) / 2, 0.025], rel=0.1)


def test_what_does_not_fit_is_refused() -> None:
    one = np.ones((5, 10), bool)
    found = board({"a": one, "b": one}, 20)
    with pytest.raises(BadInput, match="c is not on this board"):
        compare(found, [("a", "c")])
    with pytest.raises(BadInput, match="itself"):
        compare(found, [("a", "a")])
    with pytest.raises(BadInput, match="other seeds"):
        board({"a": one, "b": one[:3]})
    with pytest.raises(BadInput, match="nothing"):
        board({})


# ---- known truth ---------------------------------------------------------------------------------


def joint_rates(count: int, seeds: int, images: int, sd: float, times: int) -> dict[str, float]:
    """Equal entries: shares of boards on which all intervals hold, any verdict is false, one
    given entry (all are the best) is near the best, and all leads hold."""
    hits = dict.fromkeys(("all", "false", "best", "leads"), 0)
    for state in range(times):
        found = board(drawn(equal(count), seeds, images, sd, 100 + state), 400)
        rows = compare(found, declared(found.names, REFERENCES))
        places = standings(found)
        hits["all"] += all(holds(row.interval_95, 0) for row in rows)
        hits["false"] += any(row.verdict in ("better", "worse") for row in rows)
        hits["best"] += next(p.near_best for p in places if p.entry == "m0")
        hits["leads"] += all(holds(p.interval, 0) for p in places)
    return {name: n / times for name, n in hits.items()}


@pytest.mark.parametrize(("seeds", "sd"), [(5, 1.2)])
def test_intervals_hold_together(seeds: int, sd: float) -> None:
    found = joint_rates(6, seeds, 400, sd, 60)
    assert found["all"] >= 0.88
    assert found["false"] <= 0.10
    assert found["best"] >= 0.88
    assert found["leads"] >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "sd"), [(5, 1.2), (10, 0.6)])
def test_family_wise_coverage(seeds: int, sd: float) -> None:
    """18 intervals of 9 entries. Three standard errors of 120 boards are 6 points."""
    found = joint_rates(9, seeds, 1000, sd, 120)
    assert found["all"] >= 0.90
    assert found["false"] <= 0.10
    assert found["best"] >= 0.90
    assert found["leads"] >= 0.90


@pytest.mark.slow
def test_leads_hold_where_entries_differ() -> None:
    accuracies = {"a": 0.94, "b": 0.939, "c": 0.93, "d": 0.92}
    hits, kept, times = 0, 0, 120
    for state in range(times):
        rows = standings(board(drawn(accuracies, 5, 2000, 0.4, 900 + state), 400))
        truth = {n: 100 * (v - max(o for m, o in accuracies.items() if m != n))
                 for n, v in accuracies.items()}  # fmt: skip
        hits += all(holds(row.interval, truth[row.entry]) for row in rows)
        kept += next(row.near_best for row in rows if row.entry == "a")
    assert hits / times >= 0.90
    assert kept / times >= 0.90
