"""Network dissection as pure computations: what channels react to, and what went with them.

Shapes: N images, K classes, C channels of a layer. An activation is the mean of a channel's map
over its positions, after batch norm and ReLU, so it is never negative; `means` (K, C) are
activations averaged over the images of each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

KIND = "dissection"
VERSION = 1  # of the facts: raise it when they change
SERVES = 1.25  # a class is served whose mean activation is this many times the channel's average
NEUTRAL = 1.0  # where masks of classes start: above, the class asks for more of the channel
ACTIVE = 0.05  # share of images that a channel must fire for to be shown
CHANNELS, IMAGES = 3, 8  # shown of each kind, and for each
DEAD = -1  # class that a channel prefers which never fires


@dataclass(frozen=True)
class Layer:
    """What is known of one layer's channels."""

    scores: np.ndarray  # (C,) larger = keep
    kept: np.ndarray  # (C,) booleans
    activations: np.ndarray  # (N, C)
    means: np.ndarray  # (K, C)
    masks: np.ndarray | None = None  # (K, C) of a method that has some


# ---- what a channel reacts to --------------------------------------------------------------------


def class_means(activations: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, C) and (N,) -> (K, C) in float64; a class without images has 0."""
    means = np.zeros((classes, activations.shape[1]))
    for label in range(classes):
        own = activations[labels == label]
        if len(own):
            means[label] = own.mean(axis=0, dtype=np.float64)
    return means


def selectivity(means: np.ndarray) -> np.ndarray:
    """(K, C) -> (C,) class selectivity index: (largest - mean of the others) over their sum (Morcos
    et al., ICLR 2018, section 2.4). 0: alike for all classes, 1: fires for one alone; NaN: dead."""
    most = means.max(axis=0)
    others = (means.sum(axis=0) - most) / max(1, len(means) - 1)
    total = most + others
    found = np.full(means.shape[1], np.nan)
    return np.divide(most - others, total, out=found, where=total > 0)


def preferred(means: np.ndarray) -> np.ndarray:
    """(K, C) -> (C,) class with the largest mean activation; DEAD where nothing fires."""
    return np.where(means.max(axis=0) > 0, means.argmax(axis=0), DEAD)


def served(means: np.ndarray) -> np.ndarray:
    """(K, C) -> (K, C) booleans: mean activation at least SERVES times the channel's average over
    classes. A channel that fires alike for all serves none in particular."""
    average = means.mean(axis=0)
    return np.asarray((means >= SERVES * average) & (average > 0))


def rank_agreement(scores: np.ndarray, index: np.ndarray) -> float | None:
    """Spearman correlation over channels that are not dead; None where either does not vary."""
    alive = np.isfinite(index)
    a, b = scores[alive].astype(np.float64), index[alive]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def strongest(activations: np.ndarray, count: int = IMAGES) -> np.ndarray:
    """(N,) -> rows of the images with the largest activation, the largest first; ties by row."""
    return np.argsort(-activations, kind="stable")[:count]


# ---- the most telling channels -------------------------------------------------------------------


@dataclass(frozen=True)
class Telling:
    """A channel at one end of the scale."""

    end: str  # "specific" or "general"
    kept: bool
    layer: str
    channel: int
    index: float


def telling(layers: Mapping[str, Layer], count: int = CHANNELS) -> list[Telling]:
    """Of the removed and of the kept channels, the most class-specific and the most general of the
    network. Left out: channels that fire for less than ACTIVE of the images."""
    rows = []
    for name, layer in layers.items():
        index = selectivity(layer.means)
        fires = (layer.activations > 0).mean(axis=0) >= ACTIVE
        for channel in np.flatnonzero(fires & np.isfinite(index)).tolist():
            rows.append((float(index[channel]), name, channel, bool(layer.kept[channel])))
    found = []
    for kept in (False, True):
        own = [row for row in rows if row[3] == kept]
        for end, sign in (("specific", -1.0), ("general", 1.0)):
            best = sorted(own, key=lambda row: sign * row[0])[:count]  # stable: ties by place
            found += [Telling(end, kept, name, c, i) for i, name, c, _ in best]
    return found


# ---- facts ---------------------------------------------------------------------------------------


def layer_facts(layer: Layer) -> dict[str, Any]:
    """What a measurement says of a layer; lists run over its channels."""
    index = selectivity(layer.means)
    facts: dict[str, Any] = {
        "scores": [short(s) for s in layer.scores],
        "kept": [int(k) for k in layer.kept],
        "selectivity": [short(i) for i in index],
        "prefers": preferred(layer.means).tolist(),
        "active": [short(a) for a in (layer.activations > 0).mean(axis=0)],
        "serves": _classes(served(layer.means)),
        "score_against_selectivity": short(rank_agreement(layer.scores, index)),
    }
    if layer.masks is not None:
        facts["masks_above_neutral"] = _classes(layer.masks > NEUTRAL)
    return facts


def _classes(chosen: np.ndarray) -> list[list[int]]:
    """(K, C) booleans -> the chosen classes of each channel."""
    return [np.flatnonzero(column).tolist() for column in chosen.T]


def short(value: float | None) -> float | None:
    """Six digits: what is left out is rounding. None for what is not a number."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


# ---- counts from facts ---------------------------------------------------------------------------


def removed_per_class(facts: Mapping[str, Any], what: str = "serves") -> np.ndarray:
    """(layers, K) how many removed channels of each layer served each class; `what`: the rule,
    `serves`, `masks_above_neutral` or `prefers`."""
    found = np.zeros((len(facts["layers"]), len(facts["classes"])), dtype=np.int64)
    for row, layer in enumerate(facts["layers"].values()):
        for kept, classes in zip(layer["kept"], layer[what], strict=True):
            for label in _listed(classes) if not kept else ():
                found[row, label] += 1
    return found


def _listed(classes: Sequence[int] | int) -> list[int]:
    if isinstance(classes, int):
        return [] if classes == DEAD else [classes]
    return list(classes)


def removed_channels(facts: Mapping[str, Any]) -> np.ndarray:
    """(layers,) channels removed."""
    return np.array([layer["kept"].count(0) for layer in facts["layers"].values()], dtype=np.int64)


# ---- in plain words ------------------------------------------------------------------------------

AGREE, HARDLY = 0.7, 0.3  # rank correlation from which on two seeds agree, and below which hardly
RELATED = 0.2  # mean rank correlation of scores and selectivity that is worth a word
SETTLED = 0.1  # smaller changes of the agreement since halfway are none


def paragraph(facts: Mapping[str, Any]) -> str:
    """What the figures say, by fixed rules: is the choice informed, do seeds agree, do masks tell
    the label, which classes lost channels."""
    parts = [_choice(facts), _over_time(facts), _seeds(facts), _leaks(facts)]
    parts += [_specificity(facts), _losses(facts)]
    return " ".join(part for part in parts if part)


def _choice(facts: Mapping[str, Any]) -> str:
    last = facts["training"][-1]
    if last["vote"] is None:
        none = (
            "there are no validation images" if facts["split"] == "train" else "it claims nothing"
        )
        return f"The choice was not judged: {none}."
    own, inverse, drawn = last["vote"], last["inverse"], last["random"]
    mean = float(np.mean(drawn))
    if own <= inverse:
        word = "The scores are uninformative in this setting"
    elif not _differ(own, inverse, facts["images"]):
        word = "It is not clear that the scores are informative"
    elif own > max(drawn):
        word = "The scores are informative"
    elif own > mean:
        word = "The scores are informative, but some random draw does as well"
    else:
        word = "The scores beat their inverse, but not random draws"
    return (
        f"{word}: without recovery, the channels they keep give {100 * own:.1f} % on "
        f"{facts['images']} {_split(facts)} images, as many with the lowest scores "
        f"{100 * inverse:.1f} %, and {len(drawn)} random draws at the same widths "
        f"{100 * mean:.1f} % ({100 * min(drawn):.1f} to {100 * max(drawn):.1f})."
    )


def _differ(one: float, other: float, images: int) -> bool:
    """Whether two shares of images differ by more than 1.96 standard errors, as if the images were
    not the same ones: too careful rather than too sure."""
    variance = (one * (1 - one) + other * (1 - other)) / images
    return abs(one - other) > 1.96 * variance**0.5


def _split(facts: Mapping[str, Any]) -> str:
    return "validation" if facts["split"] == "val" else "training"


def _over_time(facts: Mapping[str, Any]) -> str:
    points = facts["training"]
    if len(points) < 2 or points[0]["vote"] is None:
        return ""
    first, last = points[0], points[-1]
    then, now = first["vote"], last["vote"]
    if not _differ(then, now, facts["images"]):
        change = "no clear change"
    else:
        change = "the rest helped" if now > then else "the rest did harm"
    return (
        f"After {first['epochs']:.2g} of {last['epochs']:.2g} epochs of the method's training it "
        f"gave {100 * then:.1f} %: {change}."
    )


def _seeds(facts: Mapping[str, Any]) -> str:
    known = [p["rank_correlation"] for p in facts["training"] if p["rank_correlation"] is not None]
    if not known:
        return ""
    last, half = known[-1], known[len(known) // 2 - 1] if len(known) > 1 else known[-1]
    word = "agree" if last >= AGREE else "agree in part" if last >= HARDLY else "hardly agree"
    trend = ""
    if last - half > SETTLED:
        trend = f"; it was {half:.2f} halfway, so longer training may still change the choice"
    elif last - half < -SETTLED:
        trend = f"; it was {half:.2f} halfway, and falls"
    return f"Two seeds of the method {word} about the ranking (rank correlation {last:.2f}{trend})."


def _leaks(facts: Mapping[str, Any]) -> str:
    found = facts["training"][-1]["leakage"]
    if not found:
        return ""
    noise, wrong = found["noise_minus_chance"], found["true_minus_wrong_label"]
    said = []
    if noise["low"] > 0:
        said.append(f"on noise images they give {100 * noise['mean']:.1f} points above guessing")
    if wrong["low"] > 0:
        said.append(f"a wrong label costs {100 * wrong['mean']:.1f} points")
    if said:
        return f"The masks tell the network the label: {' and '.join(said)}."
    most = 100 * max(noise["high"], wrong["high"])
    return (
        "No sign that the masks tell the network the label (95 % intervals reach "
        f"{most:.1f} points at most)."
    )


def _specificity(facts: Mapping[str, Any]) -> str:
    layers = facts["layers"].values()
    known = [r for layer in layers if (r := layer["score_against_selectivity"]) is not None]
    if not known:
        return ""
    mean = float(np.mean(known))
    if abs(mean) < RELATED:
        word = "do not go with how class-specific a channel is"
    elif mean > 0:
        word = "favour class-specific channels"
    else:
        word = "favour general channels"
    return f"The scores {word} (mean rank correlation over {len(known)} layers {mean:+.2f})."


def _losses(facts: Mapping[str, Any]) -> str:
    counts, names = removed_per_class(facts).sum(axis=0), facts["classes"]
    total = int(removed_channels(facts).sum())
    if not total:
        return "No channel was removed."
    most, least = int(counts.argmax()), int(counts.argmin())
    return (
        f"Of {total} removed channels most served class {names[most]} ({counts[most]}) and fewest "
        f"class {names[least]} ({counts[least]}); one may serve several or none."
    )
