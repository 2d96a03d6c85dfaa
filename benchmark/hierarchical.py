"""A Bayesian test over blocks with a region of practical equivalence (DECISIONS 31).

True differences of blocks are normal around a mean, and each block's estimate is normal around its
own with a known standard error. The prior is flat in the mean and in the standard deviation between
blocks, which is proper from 3 blocks on (Gelman 2006, Bayesian Analysis 1). The mean is integrated
in closed form and the standard deviation on a grid. What is asked is the difference of a new block
(Benavoli, Corani, Demsar and Zaffalon 2017, JMLR 18; Corani and others 2017, Machine Learning 106).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from benchmark.paired import MARGIN

SURE = 0.95
POINTS, REACH = 4000, 100  # of the grid; its end in units of the largest spread that is seen


@dataclass(frozen=True)
class Outlook:
    """Probabilities that the true difference of a new block is above the margin, within it, and
    below."""

    better: float
    equivalent: float
    worse: float

    @property
    def verdict(self) -> str:
        names = ("better", "equivalent", "worse")
        return next((name for name in names if getattr(self, name) >= SURE), "undecided")


def outlook(means: np.ndarray, errors: np.ndarray, margin: float = MARGIN) -> Outlook:
    """Of blocks' differences and their standard errors (k,), in percentage points; k >= 3."""
    assert len(means) == len(errors) >= 3
    end = REACH * max(float(means.std()), float(errors.max()))
    between = end * np.linspace(0, 1, POINTS) ** 2  # denser near 0, where blocks are alike
    weights = 1 / (errors**2 + between[:, None] ** 2)
    precision = weights.sum(axis=1)
    centre = weights @ means / precision
    residual = (weights * (means - centre[:, None]) ** 2).sum(axis=1)
    log_density = 0.5 * (np.log(weights).sum(axis=1) - np.log(precision) - residual)
    density = np.exp(log_density - log_density.max()) * np.gradient(between)
    density /= density.sum()
    spread = np.sqrt(1 / precision + between**2)
    better = float(density @ norm.sf((margin - centre) / spread))
    worse = float(density @ norm.cdf((-margin - centre) / spread))
    return Outlook(better, max(0.0, 1 - better - worse), worse)
