"""Several values as one figure: mean, spread, interval, median. Values that are missing are NaN and
do not count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

LEAST_SEEDS = 3  # for an interval, and for a rank


@lru_cache(maxsize=1000)
def _student(freedom: int) -> float:
    """The 97.5 % quantile of t."""
    return float(student.ppf(0.975, freedom))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample sd (from 2 values) and 95 % t-interval (from 3: with two it would span up to 25
    sd and mislead); NaN where undefined."""
    found = known(values)
    n, nan = len(found), math.nan
    if n == 0:
        return {"mean": nan, "sd": nan, "low": nan, "high": nan}
    mean = float(found.mean())
    if n == 1:
        return {"mean": mean, "sd": nan, "low": nan, "high": nan}
    sd = float(found.std(ddof=1))
    if n < LEAST_SEEDS:
        return {"mean": mean, "sd": sd, "low": nan, "high": nan}
    half = _student(n - 1) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def known(values: Sequence[float]) -> np.ndarray:
    return np.asarray([v for v in values if not math.isnan(v)])


def mean(values: Sequence[float]) -> float:
    found = known(values)
    return float(found.mean()) if len(found) else math.nan


def median(values: Sequence[float]) -> float:
    found = known(values)
    return float(np.median(found)) if len(found) else math.nan
