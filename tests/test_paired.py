"""Paired differences: by hand, by a slow bootstrap, and on simulated networks of known accuracy."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, permutation_test

from benchmark import paired
from benchmark.errors import BadInput
from benchmark.paired import CONDITIONAL, CROSSED, Interval, Spread, difference, verdict

HARDNESS, OWN, REST = 0.80, 0.06, 0.14  # variances: image, image for this entry, run and image


def simulate(
    draw: np.random.Generator, accuracies: list[float], seeds: int, images: int, sd: float
) -> np.ndarray:
    """(E, S, N) correctness with these expected accuracies (fractions) over all seeds and images.

    Right where a normal sum is positive: difficulty of the image, of the image for this entry, the
    run (`sd`: of a run's accuracy, in points, to first order) and the rest. Two runs of one entry
    differ on 6 % of images at 93 %, as networks do.
    """
    want = np.array(accuracies)
    run = sd / 100 / norm.pdf(norm.ppf(want))
    middle = norm.ppf(want) * np.sqrt(1 + run**2)
    total = math.sqrt(HARDNESS) * draw.standard_normal(images)
    total = total + math.sqrt(OWN) * draw.standard_normal((len(want), 1, images))
    total = total + math.sqrt(REST) * draw.standard_normal((len(want), seeds, images))
    shift = middle[:, None] + run[:, None] * draw.standard_normal((len(want), seeds))
    return np.asarray(total + shift[:, :, None] > 0)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def right(*rows: str) -> np.ndarray:
    return np.array([[c == "1" for c in row] for row in rows])


# ---- what is right -------------------------------------------------------------------------------


def test_a_positive_margin_reveals_the_label_to_runs_whose_margin_is_lost_in_rounding() -> None:
    classes = np.array([[3, 1, 2, 5], [3, 0, 4, 5]], dtype=np.uint8)
    margins = np.array([[0.0, 1.5, -0.1, 0.0], [0.2, -1.0, -3.0, 0.0]], dtype=np.float16)
    expected = [[True, True, False, False], [True, False, False, False]]
    assert paired.correctness(classes, margins).tolist() == expected
    labels = np.array([3, 1, 7, 5])
    assert paired.correctness(classes, margins, labels)[:, 3].all()


def test_runs_on_other_images_are_refused() -> None:
    classes = np.array([[3, 1], [4, 1]], dtype=np.uint8)
    with pytest.raises(BadInput, match="other images"):
        paired.correctness(classes, np.ones((2, 2), np.float16))
    with pytest.raises(BadInput, match="need"):
        paired.correctness(classes, np.ones((2, 3), np.float16))
    with pytest.raises(BadInput, match="3 labels"):
        paired.correctness(classes, np.ones((2, 2), np.float16), np.zeros(3))


# ---- by hand -------------------------------------------------------------------------------------


def test_by_hand_with_two_seeds() -> None:
    a, b = right("1110", "1100"), right("1000", "1010")
    found = difference(a, b, draws=200)
    assert found.per_seed == (50.0, 0.0)
    assert found.mean == 25.0
    assert found.scope == CONDITIONAL
    assert found.p_value is None
    # image means 0, 1, 0, 0 and the two added images 1, -1: mean 1/6, squares 3 - 6/36
    error = 100 * math.sqrt((3 - 1 / 6) / 5 / 6)
    assert found.spread == Spread(0.0, pytest.approx(error), 0, 5)
    assert found.interval_95.high - 25 >= 2.5706 * error * 0.9999


def test_variance_of_a_crossed_table_is_that_of_its_mean_squares() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(-1, 2, (6, 40))
    whole = np.concatenate([values, [[1, -1]] * 6], axis=1).astype(float)
    seeds, images = whole.shape
    rows, columns = whole.mean(1), whole.mean(0)
    ms_seeds = images * rows.var(ddof=1)
    ms_images = seeds * columns.var(ddof=1)
    rest = whole - rows[:, None] - columns + whole.mean()
    ms_rest = (rest**2).sum() / (seeds - 1) / (images - 1)
    found = paired.spread_of(paired.distinct(values), 1, crossed=True)
    images_alone = max(0.0, ms_images - ms_rest) / whole.size
    assert found.seeds == pytest.approx(100 * math.sqrt(ms_seeds / whole.size))
    assert found.images == pytest.approx(100 * math.sqrt(images_alone))
    assert (found.seeds_freedom, found.images_freedom) == (5, 41)


def test_half_widths_of_seeds_and_images_add_in_squares() -> None:
    spread = Spread(3.0, 4.0, 4, 10**9)
    assert (spread.error, spread.share) == (5.0, pytest.approx(0.36))
    found = spread.around(1.0, 0.025)
    half = math.hypot(2.7764451 * 3, 1.9599640 * 4)
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))


def test_no_differing_image_is_no_certainty() -> None:
    """The "rule of three": nothing in 360 images leaves room for 0.8 points, in 10,000 for 0.03."""
    few, many = np.ones((5, 360), bool), np.ones((5, 10_000), bool)
    small, large = difference(few, few, draws=50), difference(many, many, draws=50)
    assert verdict(small.interval_95, small.interval_90) == "undecided"
    assert verdict(large.interval_95, large.interval_90) == "equivalent"
    assert 0.02 < large.interval_95.high < 0.04


def test_targets_are_averaged_within_a_block() -> None:
    draw = np.random.default_rng(1)
    a, b, c, d = simulate(draw, [0.9, 0.85, 0.8, 0.7], 6, 300, 0.5)
    found = paired.difference_over([(a, b), (c, d)], draws=300)
    assert found.mean == pytest.approx((100 * (a.mean() - b.mean() + c.mean() - d.mean())) / 2)
    again = paired.difference_over([(a, b), (a, b)], draws=300)
    once = difference(a, b, draws=300)
    assert again.interval_95.low == pytest.approx(once.interval_95.low, abs=0.2)
    assert again.p_value == once.p_value


@pytest.mark.parametrize(
    ("at_95", "at_90", "expected"),
    [
        ((0.31, 0.9), (0.4, 0.8), "better"),
        ((0.30, 0.9), (0.4, 0.8), "undecided"),  # not wholly outside
        ((0.10, 0.9), (0.2, 0.8), "undecided"),  # leaves out zero, not the margin
        ((-0.9, -0.31), (-0.8, -0.4), "worse"),
        ((0.05, 0.31), (0.1, 0.29), "equivalent"),
        ((-0.35, 0.2), (-0.30, 0.1), "undecided"),
        ((-2.0, 2.0), (-1.5, 1.5), "undecided"),
    ],
)
def test_verdicts(at_95: tuple[float, float], at_90: tuple[float, float], expected: str) -> None:
    assert verdict(Interval(*at_95), Interval(*at_90)) == expected


def test_p_values_are_exact() -> None:
    assert paired.sign_flip_p(np.array([3, 1, 4, 1, 5, 9])) == 2 / 64
    assert paired.sign_flip_p(np.array([1, -1, 0, 0, 0, 0])) == 1
    totals = np.array([12, -3, 7, 7, 0, 5, -1])
    whole = permutation_test(
        (totals,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert paired.sign_flip_p(totals) == pytest.approx(float(whole.pvalue))


@pytest.mark.parametrize(("seeds", "known"), [(4, False), (5, False), (6, True)])
def test_what_few_seeds_allow(seeds: int, known: bool) -> None:
    a, b = simulate(np.random.default_rng(2), [0.9, 0.8], seeds, 100, 0.5)
    found = difference(a, b, draws=100)
    assert (found.p_value is not None) is known
    assert found.scope == (CONDITIONAL if seeds < 5 else CROSSED)
    assert len(found.per_seed) == seeds


def test_what_does_not_fit_is_refused() -> None:
    a = np.ones((5, 10), bool)
    with pytest.raises(BadInput, match="other seeds or images"):
        difference(a, a[:3])
    with pytest.raises(BadInput, match="boolean"):
        difference(a, a.astype(int))
    with pytest.raises(BadInput, match="seeds, images"):
        difference(a[0], a[0])
    with pytest.raises(BadInput, match="nothing"):
        paired.difference_over([])


# ---- properties ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 30))
def test_symmetries(state: int, seeds: int, images: int) -> None:
    draw = np.random.default_rng(state)
    a, b = draw.random((2, seeds, images)) < 0.7
    found = difference(a, b, draws=60)
    back = difference(b, a, draws=60)
    assert (back.mean, back.spread.error) == (-found.mean, found.spread.error)
    assert back.interval_95 == Interval(-found.interval_95.high, -found.interval_95.low)
    assert back.p_value == found.p_value
    order = draw.permutation(images)
    assert difference(a[:, order], b[:, order], draws=60) == found
    rows = draw.permutation(seeds)
    other = difference(a[rows], b[rows], draws=60)
    assert other.per_seed == tuple(found.per_seed[r] for r in rows)
    assert (other.spread.error, other.p_value) == pytest.approx((found.spread.error, found.p_value))
    if len({(x, y) for x, y in zip((a & ~b).sum(1), (b & ~a).sum(1), strict=True)}) == seeds:
        assert other.interval_95.low == pytest.approx(found.interval_95.low)


def test_images_right_in_both_shift_nothing_but_the_number_of_images() -> None:
    """k more images without a difference: the mean shrinks by N / (N + k), seeds keep their order;
    an entry that gains the same images in all seeds is shifted by just their share."""
    a, b = simulate(np.random.default_rng(3), [0.9, 0.9], 5, 400, 0.5)
    b[:, :40] = False
    lost, kept = a.copy(), a.copy()
    lost[:, :40], kept[:, :40] = False, True
    assert difference(kept, b, 50).mean - difference(lost, b, 50).mean == pytest.approx(10)
    same = np.ones((5, 400), bool)
    longer = difference(np.hstack([a, same]), np.hstack([b, same]), 50)
    assert longer.mean == pytest.approx(difference(a, b, 50).mean / 2)


def test_repeated_calls_are_equal_and_seeds_of_the_draws_differ() -> None:
    a, b = simulate(np.random.default_rng(4), [0.9, 0.9], 6, 500, 0.5)
    table = paired.distinct(a.astype(int) - b)
    first, second, third = (
        paired.crossed_means(table, 6, 50, paired.random_stream(table, 6, 50, s), True)
        for s in (0, 0, 1)
    )
    assert (first == second).all()
    assert (first != third).any()


@pytest.mark.parametrize("crossed", [True, False])
def test_a_double_loop_gives_the_same_bootstrap(
    crossed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(5)
    values = draw.integers(-1, 2, (2, 5, 30))  # two entries
    values[0, 0] = 1
    slow = np.empty((4000, 2))
    for i in range(len(slow)):
        images = draw.integers(30, size=30)
        seeds = draw.integers(5, size=5) if crossed else range(5)
        slow[i] = [np.mean([e[s, n] for s in seeds for n in images]) for e in values]
    table = paired.distinct(values.reshape(10, 30))
    monkeypatch.setattr(paired, "CHUNK", 100)  # several chunks
    fast = paired.crossed_means(table, 5, 20_000, np.random.RandomState(0), crossed)
    assert fast.mean(0) == pytest.approx(values.mean((1, 2)), abs=0.004)
    assert np.cov(fast.T) == pytest.approx(np.cov(slow.T), rel=0.08, abs=7e-4)
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    assert np.quantile(fast, levels, 0) == pytest.approx(np.quantile(slow, levels, 0), abs=0.03)


def test_full_size_takes_seconds() -> None:
    a, b = simulate(np.random.default_rng(6), [0.93, 0.93], 5, 10_000, 0.2)
    begin = time.process_time()
    found = difference(a, b)
    assert time.process_time() - begin < 10
    assert 0.1 < found.spread.error < 0.5


# ---- known truth ---------------------------------------------------------------------------------


def bare_percentiles(a: np.ndarray, b: np.ndarray) -> Interval:
    """95 % interval of the crossed bootstrap alone."""
    table = paired.distinct(a.astype(int) - b)
    drawn = paired.crossed_means(table, len(a), 200, np.random.RandomState(0), len(a) >= 5)
    low, high = 100 * np.quantile(drawn[:, 0], [0.025, 0.975])
    return Interval(float(low), float(high))


def rates(
    accuracies: list[float],
    seeds: int,
    images: int,
    sd: float,
    times: int,
    state: int,
    bare: bool = False,
) -> dict[str, float]:
    """Shares of simulated comparisons: the truth inside each interval, and each verdict."""
    draw = np.random.default_rng(state)
    truth = 100 * (accuracies[0] - accuracies[1])
    names = ("95", "90", "percentile", "better", "worse", "equivalent")
    counts = dict.fromkeys(names, 0)
    for _ in range(times):
        a, b = simulate(draw, accuracies, seeds, images, sd)
        found = difference(a, b, draws=200)
        counts["95"] += holds(found.interval_95, truth)
        counts["90"] += holds(found.interval_90, truth)
        counts["percentile"] += bare and holds(bare_percentiles(a, b), truth)
        kind = verdict(found.interval_95, found.interval_90)
        if kind in counts:
            counts[kind] += 1
    return {name: count / times for name, count in counts.items()}


@pytest.mark.parametrize(
    ("seeds", "sd", "low", "high"),
    [(5, 0.2, 0.91, 1.0), (5, 2.0, 0.90, 1.0), (3, 2.0, 0.2, 0.75)],
)
def test_coverage(seeds: int, sd: float, low: float, high: float) -> None:
    """With 3 seeds the images-only interval misses the truth about new seeds, as its label says."""
    found = rates([0.93, 0.93], seeds, 600, sd, 120, 7, bare=True)
    assert low <= found["95"] <= high
    assert sd < 1 or found["percentile"] < 0.91  # why it is not what is shown


def test_images_only_intervals_cover_the_truth_about_these_runs() -> None:
    draw, hits, times = np.random.default_rng(8), 0, 120
    for _ in range(times):
        everyone = simulate(draw, [0.93, 0.92], 3, 10_000, 1.0)
        truth = 100 * float((everyone[0] * 1.0 - everyone[1]).mean())
        a, b = everyone[:, :, draw.choice(10_000, 300, replace=False)]
        hits += holds(difference(a, b, draws=200).interval_95, truth)
    assert 0.89 <= hits / times <= 0.995


def test_false_verdicts_are_rare() -> None:
    null = rates([0.93, 0.93], 5, 2000, 0.1, 60, 9)
    assert null["better"] + null["worse"] <= 0.05
    away = rates([0.935, 0.93], 5, 2000, 0.1, 60, 10)
    assert away["equivalent"] <= 0.05
    assert away["worse"] == 0


def test_p_values_hold_for_new_seeds_on_these_images_only() -> None:
    """Runs of one entry against each other, and two entries that are equal over all images."""
    draw, times = np.random.default_rng(15), 300
    low = {"same": 0, "equal": 0}
    for _ in range(times):
        (runs,) = simulate(draw, [0.9], 16, 300, 0.3)
        a, b = simulate(draw, [0.9, 0.9], 8, 300, 0.3)
        low["same"] += paired.sign_flip_p(runs[:8].sum(1) - runs[8:].sum(1)) <= 0.05
        low["equal"] += paired.sign_flip_p(a.sum(1) * 1 - b.sum(1)) <= 0.05
    assert low["same"] / times <= 0.085
    assert low["equal"] / times > 0.085


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "sd"), list(itertools.product((5, 10), (0.1, 0.5, 1.5))))
def test_coverage_is_near_nominal(seeds: int, sd: float) -> None:
    """Three standard errors of 300 trials are 3.8 points; at least nominal in theory."""
    found = rates([0.93, 0.93], seeds, 1000, sd, 300, 11)
    assert 0.912 <= found["95"] <= 0.997
    assert 0.848 <= found["90"] <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_verdicts_at_full_size(seeds: int) -> None:
    """10,000 images: no difference is seldom called one, and half a point is seldom equivalence,
    with seeds that scatter by 0.2 points. A point is recognised."""
    null = rates([0.93, 0.93], seeds, 10_000, 0.2, 40, 12)
    assert null["better"] + null["worse"] <= 0.05
    half = rates([0.935, 0.93], seeds, 10_000, 0.2, 40, 13)
    assert half["equivalent"] <= 0.05
    assert half["worse"] == 0
    if seeds == 10:
        assert null["equivalent"] > 0.1
        assert rates([0.94, 0.93], seeds, 10_000, 0.2, 30, 14)["better"] > 0.5
