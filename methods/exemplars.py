"""Affinity propagation on filters: exemplars for one preference, for a width, and for a target.

METHODS 10. Shapes: n units of a group, d weights of each; S (n, n) = -||a_i - a_j||^2.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.cluster import affinity_propagation
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import euclidean_distances

from methods.api import ChannelGroup, Network
from methods.kit import filters

Kept = dict[str, tuple[int, ...]]  # group -> units
PASSES = ((0.5, 200), (0.9, 2000))  # damping and steps: scikit-learn's own, then METHODS 10
LARGEST, STEPS = 2.0, 12  # of beta; trained ResNets have one exemplar in most layers from 1.1 on


def similarity(net: Network, group: ChannelGroup) -> np.ndarray:
    """S of a group; layers that write it together are compared as one long filter."""
    rows = torch.cat([filters(net, group, layer) for layer in group.layers], dim=1)
    return -euclidean_distances(rows.double().cpu().numpy(), squared=True)


def exemplars(similar: np.ndarray, beta: float) -> tuple[int, ...]:
    """Exemplars of scikit-learn's affinity propagation, with a stronger damping where it does not
    settle; all filters where that does not help either. The median of a column counts its 0."""
    preference = beta * np.median(similar, axis=0)
    for damping, steps in PASSES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # equal similarities
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                found, _ = affinity_propagation(
                    similar, preference=preference, damping=damping, max_iter=steps, random_state=0
                )
            except ConvergenceWarning:
                continue
        return tuple(sorted(int(i) for i in found))
    return tuple(range(len(similar)))


def solved(
    similar: dict[str, np.ndarray],
    floor: dict[str, int],
    macs: Callable[[dict[str, int]], int],
    goal: float,
) -> tuple[Kept, dict[str, int], list[float]]:
    """Exemplars of every group, how many units stay, and the betas between which the goal lies."""

    def widths(kept: Kept) -> dict[str, int]:
        return {n: max(len(k), floor[n]) for n, k in kept.items()}

    low: Kept = {n: tuple(range(len(s))) for n, s in similar.items()}
    high, between = {n: exemplars(s, LARGEST) for n, s in similar.items()}, [0.0, LARGEST]
    if macs(widths(high)) > goal:  # from here on down to the floors
        low, high, between = (
            high,
            {n: resized(s, high[n], floor[n]) for n, s in similar.items()},
            [],
        )
    for _ in range(STEPS) if between else ():
        middle = sum(between) / 2
        found = {n: exemplars(s, middle) for n, s in similar.items()}
        if macs(widths(found)) > goal:
            low, between[0] = found, middle
        else:
            high, between[1] = found, middle
    states = path(low, widths(low), high, widths(high))
    return *min(states, key=lambda state: abs(macs(state[1]) - goal)), between


def path(
    kept: Kept, now: dict[str, int], high: Kept, then: dict[str, int]
) -> Iterator[tuple[Kept, dict[str, int]]]:
    """From one state to another, group by group and unit by unit."""
    yield kept, now
    for name, width in then.items():
        step = 1 if width > now[name] else -1
        for between in range(now[name] + step, width, step):
            yield kept, now | {name: between}
        kept, now = kept | {name: high[name]}, now | {name: width}
        yield kept, now


def of_width(similar: np.ndarray, width: int) -> tuple[int, ...]:
    """Exemplars at the largest beta tried that still gives as many as this."""
    kept, low, high = tuple(range(len(similar))), 0.0, LARGEST
    for _ in range(STEPS):
        found = exemplars(similar, (low + high) / 2)
        if len(found) >= width:
            kept, low = found, (low + high) / 2
        else:
            high = (low + high) / 2
    return kept


def resized(similar: np.ndarray, kept: tuple[int, ...], width: int) -> tuple[int, ...]:
    """So many exemplars: those go that are missed least, those come that help most, one by one, by
    the sum over all filters of the similarity to the nearest exemplar. Ties keep lower indices."""
    found = list(kept)
    while len(found) > width:
        block = similar[:, found]
        own = block.argmax(1)
        best = block.max(1)
        block[np.arange(len(block)), own] = -np.inf
        missed = np.bincount(own, best - block.max(1), len(found))
        found.pop(len(found) - 1 - int(missed[::-1].argmin()))
    while len(found) < width:
        gain = (similar - similar[:, found].max(1)[:, None]).clip(0).sum(0)
        gain[found] = -1.0
        found = sorted([*found, int(gain.argmax())])
    return tuple(found)
