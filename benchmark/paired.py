"""Two entries of one board on the same seeds and test images: their difference, with an interval.

Accuracies are in percentage points (DECISIONS 30). Runs s = 1..S and images n = 1..N are both
samples, and crossed: d[s, n] is +1, 0 or -1 and equals mu + seed[s] + image[n] + rest[s, n]. Mean
squares of the two-way table (Searle, Casella and McCulloch 1992, Variance Components, chapter 4)
give the variance of the mean in two independent parts: MS_seeds / (S N) for runs, on S - 1 degrees
of freedom, and (MS_images - MS_rest) / (S N) for images. An interval adds their squared half-widths
t**2 * part, which covers at least the nominal share (Banerjee 1960, Sankhya 22). The crossed
bootstrap (McCullagh 2000; Owen 2007, "The pigeonhole bootstrap") gives the shape of the mean's
distribution, and of several means together; alone it is too sure of the spread of a few seeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from benchmark.errors import BadInput

MARGIN = 0.3  # percentage points, fixed beforehand: smaller differences are equivalence
DRAWS = 10_000
CROSSED_SEEDS = 5  # from here on seeds are resampled
TESTED_SEEDS = 6  # from here on there is a p-value; 5 seeds cannot reach 5 % (2 / 32)
CHUNK = 1 << 22  # weights held at once
CONDITIONAL = "images only, conditional on these runs"
CROSSED = "seeds and images"
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Interval:
    low: float  # percentage points
    high: float

    def inside(self, margin: float) -> bool:
        return -margin < self.low and self.high < margin


@dataclass(frozen=True)
class Spread:
    """Standard error of a mean, in percentage points, in two independent parts with the degrees of
    freedom that each is known with. `seeds` is 0 where these runs are all that is spoken of."""

    seeds: float
    images: float
    seeds_freedom: int
    images_freedom: int

    @property
    def error(self) -> float:
        return math.hypot(self.seeds, self.images)

    @property
    def share(self) -> float:
        """Of the variance that comes with seeds."""
        return (self.seeds / self.error) ** 2

    def around(self, mean: float, tail: float) -> Interval:
        """`tail`: probability left out on either side."""
        images = float(student.isf(tail, self.images_freedom)) * self.images
        seeds = float(student.isf(tail, self.seeds_freedom)) * self.seeds if self.seeds else 0.0
        half = math.hypot(images, seeds)
        return Interval(mean - half, mean + half)


@dataclass(frozen=True)
class Difference:
    """First entry minus second, in percentage points."""

    per_seed: tuple[float, ...]
    mean: float
    spread: Spread
    interval_95: Interval
    interval_90: Interval
    scope: str  # what the intervals speak of: CROSSED or CONDITIONAL; printed beside them
    p_value: float | None


@dataclass(frozen=True)
class Table:
    """Distinct columns, each as often as it was seen. Images with equal columns are exchangeable,
    so that resampling images is one multinomial draw over distinct columns."""

    columns: np.ndarray  # (rows, distinct) small integers
    counts: np.ndarray  # (distinct,)

    @property
    def images(self) -> int:
        return int(self.counts.sum())


def correctness(
    classes: np.ndarray, margins: np.ndarray, labels: np.ndarray | None = None
) -> np.ndarray:
    """Which images are right, (R, N) booleans, for all runs of a board at once.

    Predicted classes (R, N) are exact, but records hold no labels, and leaderboards are made where
    the data is not. Margins (R, N), float16 of true class minus best other, know without labels,
    except at 0: a tie, or a difference lost in rounding. So a positive margin reveals the label of
    its image to all runs, and predicted classes are compared with it; an image whose label nobody
    reveals is right for nobody. With `labels` (N,) margins are not used.

    Raises:
        BadInput: shapes differ, or positive margins disagree about a label (runs on other images).
    """
    if classes.ndim != 2 or classes.shape != margins.shape:
        raise BadInput(f"classes are {classes.shape} and margins {margins.shape}: need (runs, N)")
    if labels is not None:
        if labels.shape != classes.shape[1:]:
            raise BadInput(f"{labels.shape[0]} labels for {classes.shape[1]} images")
        return np.asarray(classes == labels)
    told = np.where(margins > 0, classes.astype(np.int64), -1)
    label = told.max(axis=0)
    if ((told >= 0) & (told != label)).any():
        raise BadInput("runs disagree about the labels: they saw other images, or in another order")
    return np.asarray((classes == label) & (label >= 0))


def difference(a: np.ndarray, b: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Of two correctness matrices (S, N), row by row of the same seed. See `difference_over`."""
    return difference_over([(a, b)], draws, seed)


def difference_over(pairs: Sequence[Pair], draws: int = DRAWS, seed: int = 0) -> Difference:
    """Mean over several pairs of correctness matrices (S, N), all of the same seeds and images:
    the targets of a block.

    From 5 seeds the intervals speak of new seeds and new images, below of new images only. The
    draws depend on content, not on the order of images or entries: a table made again is the same.

    Coverage of new seeds and images at 95 %, normal effects: 95.0-96.6 % with 5 seeds, 95.0-95.8 %
    with 10, whatever share seeds have. Networks simulated image by image (93 %, 2,000 images), sd
    between seeds 0.1 / 0.4 / 0.8 / 1.5 points: 97 / 97 / 96 / 96 % with 5 seeds, where bare
    percentiles of the crossed bootstrap have 99 / 97 / 93 / 90 %: they count the rest thrice and
    seeds too little. Images only, 3 seeds: 95 / 87 / 71 / 47 %, hence the label.

    Raises:
        BadInput: no pair, or shapes that do not fit.
    """
    values = _contrast(pairs)
    seeds, scale = len(values), 100 / len(pairs)
    crossed = seeds >= CROSSED_SEEDS
    table = _canonical(values)
    spread = spread_of(table, len(pairs), crossed)
    stream = random_stream(table, seeds, draws, seed)
    z = standardised(crossed_means(table, seeds, draws, stream, crossed))
    mean = scale * float(values.sum()) / values.size
    return Difference(
        per_seed=tuple((scale * values.mean(axis=1)).tolist()),
        mean=mean,
        spread=spread,
        interval_95=spread.around(mean, joint_tail(z, 0.95)),
        interval_90=spread.around(mean, joint_tail(z, 0.90)),
        scope=CROSSED if crossed else CONDITIONAL,
        p_value=sign_flip_p(values.sum(axis=1)) if seeds >= TESTED_SEEDS else None,
    )


def verdict(interval_95: Interval, interval_90: Interval, margin: float = MARGIN) -> str:
    """better, worse, equivalent or undecided.

    DECISIONS 30, "Verdict by a margin fixed beforehand (+-0.3 points): better or worse (95 %
    interval outside), equivalent (90 % inside)", is read with the margin as what both intervals
    are held against. Better: all of the 95 % interval lies above +margin; an interval that leaves
    out zero but not the margin shows a difference, yet not one that counts. Equivalent: all of the
    90 % interval lies strictly between -margin and +margin (two one-sided 5 % tests, Schuirmann
    1987). The first and the last cannot both hold.
    """
    if interval_95.low > margin:
        return "better"
    if interval_95.high < -margin:
        return "worse"
    return "equivalent" if interval_90.inside(margin) else "undecided"


def sign_flip_p(totals: np.ndarray) -> float:
    """Exact two-sided p-value of the sign-flip permutation test (Fisher 1935) of integers (S,):
    share of the 2**S sign patterns whose sum is as far from zero as that seen. It speaks of new
    seeds on these images only: of simulated entries that are equal over all images, not on these,
    15-21 % had p <= 5 % with 10 seeds. The distribution is built adding one seed at a time."""
    sizes = [abs(int(v)) for v in totals]
    reach = sum(sizes)
    share = np.zeros(2 * reach + 1)
    share[reach] = 1.0
    for size in sizes:
        share = (np.roll(share, size) + np.roll(share, -size)) / 2
    seen = abs(int(totals.sum()))
    return float(share[np.abs(np.arange(-reach, reach + 1)) >= seen].sum())


def distinct(rows: np.ndarray) -> Table:
    """Columns of (rows, N) integers, sorted: the order of images is forgotten."""
    columns, counts = np.unique(rows, axis=1, return_counts=True)
    return Table(columns, counts)


def spread_of(table: Table, bound: int, crossed: bool) -> Spread:
    """Of the mean of one contrast with values in [-bound, bound], rows of the table being seeds.

    Two images are added that speak for one entry and for the other (Bonett and Price 2012): where
    no image differs the standard error stays near 1.4 / N instead of zero. Parts
    from the two-way table, see above; with seeds held fixed, of the images' means.
    """
    seeds, images = len(table.columns), table.images + 2
    values = np.concatenate([table.columns, [[bound, -bound]] * seeds], axis=1).astype(np.float64)
    weight = np.append(table.counts, [1, 1])
    per_seed, per_image = values @ weight / images, values.mean(axis=0)
    mean = per_seed.mean()
    ms_images = seeds * float(weight @ (per_image - mean) ** 2) / (images - 1)
    factor = 100 / bound / math.sqrt(seeds * images)
    if not crossed:
        return Spread(0.0, factor * math.sqrt(ms_images), 0, images - 1)
    rest = values - per_seed[:, None] - per_image + mean
    ms_seeds = images * float(((per_seed - mean) ** 2).sum()) / (seeds - 1)
    ms_rest = float((rest**2 @ weight).sum()) / ((seeds - 1) * (images - 1))
    alone = math.sqrt(max(0.0, ms_images - ms_rest))
    return Spread(factor * math.sqrt(ms_seeds), factor * alone, seeds - 1, images - 1)


def crossed_means(
    table: Table, seeds: int, draws: int, stream: np.random.RandomState, crossed: bool
) -> np.ndarray:
    """(draws, entries) means over resampled seeds and images; rows of the table are entries times
    seeds. All entries see the same draws. Sums are of whole numbers, so that they are exact."""
    rows, kinds = table.columns.shape
    entries, images = rows // seeds, table.images
    weights = np.ones((draws, seeds))
    if crossed:
        weights = stream.multinomial(seeds, np.full(seeds, 1 / seeds), draws).astype(np.float64)
    columns, shares = table.columns.T.astype(np.float32), table.counts / images
    found = np.empty((draws, entries))
    step = max(1, CHUNK // kinds)
    for begin in range(0, draws, step):
        own = slice(begin, min(begin + step, draws))
        counts = stream.multinomial(images, shares, own.stop - begin).astype(np.float32)
        sums = (counts @ columns).astype(np.float64).reshape(-1, entries, seeds)
        found[own] = np.einsum("bes,bs->be", sums, weights[own])
    return found / (seeds * images)


def standardised(drawn: np.ndarray) -> np.ndarray:
    """(draws, K) with mean 0 and sd 1; a contrast that never moves stays at 0."""
    centred = drawn - drawn.mean(axis=0)
    sd = drawn.std(axis=0)
    return np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 0)


def joint_tail(z: np.ndarray, level: float, sides: int = 2) -> float:
    """Tail probability for each of K intervals (on either side, or on the upper side alone) at
    which all K hold together with probability `level`; z: (draws, K) standardised.

    Max-|T| on the scale of probabilities (Westfall and Young 1993, min-P): contrasts may have
    other degrees of freedom each. Never above what one normal contrast needs.
    """
    most = np.abs(z).max(axis=1) if sides == 2 else z.max(axis=1)
    tail = float(norm.sf(np.quantile(most, level)))
    return min(tail, (1 - level) / sides)


def random_stream(table: Table, seeds: int, draws: int, seed: int) -> np.random.RandomState:
    """Seeded by content. RandomState: its stream is the same in all versions of numpy (NEP 19)."""
    facts = f"{seeds} {draws} {seed} {table.columns.shape}".encode()
    content = table.columns.astype(np.int16).tobytes() + table.counts.astype(np.int64).tobytes()
    digest = hashlib.sha256(facts + content).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


def check_correctness(matrices: Sequence[np.ndarray]) -> None:
    """Raises BadInput unless all are boolean, of one shape (S, N), and not empty."""
    if not matrices:
        raise BadInput("nothing to compare")
    shapes = {m.shape for m in matrices}
    if len(shapes) > 1:
        raise BadInput(f"entries have other seeds or images: shapes {sorted(shapes)}")
    if matrices[0].ndim != 2 or not matrices[0].size:
        raise BadInput(f"correctness is (seeds, images), not {matrices[0].shape}")
    if any(m.dtype != np.bool_ for m in matrices):
        raise BadInput("correctness is boolean")


def _contrast(pairs: Sequence[Pair]) -> np.ndarray:
    """(S, N) int16: how many pairs the first entry is right in, minus the second."""
    check_correctness([matrix for pair in pairs for matrix in pair])
    return np.asarray(sum(a.astype(np.int16) - b.astype(np.int16) for a, b in pairs))


def _canonical(values: np.ndarray) -> Table:
    """That of `values` or of -`values`, with seeds in an order of their own: A - B and B - A share
    their draws, so that one mirrors the other exactly."""
    mirrored = [v[np.lexsort((np.abs(v).sum(1), v.sum(1)))] for v in (values, -values)]
    return max(
        (distinct(v) for v in mirrored), key=lambda t: (t.columns.tobytes(), t.counts.tobytes())
    )
