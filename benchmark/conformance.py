"""Does a method keep its promises (DECISIONS 35)? Checks for any method, on any network and data.

A method is known by its entry, so a user's own file can be checked as ours are. Each check raises
`Broken` with one line that says what is wrong, or `NotApplicable` with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmark import select, twins
from benchmark.archs import structure_hash
from benchmark.became import became
from benchmark.checkpoint import Checkpoints
from benchmark.encoding import weights_digest
from benchmark.ledger import FORWARD_SHARE
from benchmark.reach import holds
from benchmark.trial import Bench, NotApplicable, Outcome, permute, prune, some_images
from methods import Entry
from methods.api import ChannelGroup

TWIN = 1e-5  # masked against removed, relative to the largest logit
TIED = 1e-4  # scores closer than this, relative to their range, may swap by rounding


class Broken(AssertionError):
    """The method breaks a promise; the text says which."""


Check = Callable[[Entry, Bench], None]


# ---- the checks ----------------------------------------------------------------------------------


def scores_are_sound(entry: Entry, bench: Bench) -> None:
    """Finite scores (C,) for every prunable layer."""
    done = prune(entry, bench)
    if done.scores is None:
        raise NotApplicable("it has no scores")
    for layer in done.net.layers:
        if layer not in done.scores:
            raise Broken(f"no score for {layer}")
        score, width = done.scores[layer], len(done.net.weight(layer))
        if score.shape != (width,):
            raise Broken(f"score of {layer} has shape {tuple(score.shape)}, not ({width},)")
        if not bool(torch.isfinite(score).all()):
            raise Broken(f"score of {layer} is not finite")


def plan_is_valid(entry: Entry, bench: Bench) -> None:
    """Known groups, sorted channels that exist, no group below its floor."""
    done = prune(entry, bench)
    width = {g.name: g.width for g in done.net.groups}
    floor = done.net.limits(done.budget).floor
    for group, kept in done.plan.keep.items():
        if group not in width:
            raise Broken(f"the plan names the unknown group {group}")
        if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= width[group]:
            raise Broken(f"kept channels of {group} are not sorted numbers below {width[group]}")
        if len(kept) < floor[group]:
            raise Broken(f"{group} keeps {len(kept)} channels, its floor is {floor[group]}")


def target_is_reached(entry: Entry, bench: Bench) -> None:
    """The reduction is off by one channel of the dearest group at most."""
    done = prune(entry, bench)
    if done.method.allocations == ("none",):
        raise NotApplicable("it removes nothing")
    net, dense = done.net, done.net.macs()
    steps = [1 - net.macs({g.name: g.width - 1}) / dense for g in net.groups if g.width > 1]
    reached = 1 - became(net, done.plan).macs / dense
    if abs(reached - bench.macs_cut) > max(select.TOLERANCE, *steps):
        raise Broken(f"{100 * reached:.1f} % removed, asked for {100 * bench.macs_cut:.1f} %")


def budget_is_respected(entry: Entry, bench: Bench) -> None:
    """Every image used for a gradient is in the ledger, and the ledger holds."""
    done = prune(entry, bench)
    ledger = done.trainer.ledger
    if done.gradient_images > ledger.spent:
        raise Broken(
            f"{done.gradient_images} images passed with gradients enabled, "
            f"{ledger.spent} were charged"
        )
    if ledger.spent > ledger.allowed:
        raise Broken(f"{ledger.spent} images spent, {ledger.allowed} allowed")
    for phase in {e.phase for e in ledger.entries if e.kind == "forward"}:
        used = sum(e.images for e in ledger.entries if (e.kind, e.phase) == ("forward", phase))
        if used > FORWARD_SHARE * ledger.allowed:
            raise Broken(f"{used} images for {phase}, more than {FORWARD_SHARE:.0%} of the budget")


@torch.no_grad()
def masked_equals_removed(entry: Entry, bench: Bench) -> None:
    """The network with masks computes what the smaller network computes; what is not smaller has
    a twin of its own (benchmark.twins)."""
    with torch.enable_grad():
        done = prune(entry, bench)
    made = became(done.net, done.plan)
    error = twins.error(*twins.outputs(made, some_images(done.trainer)))
    if not error <= TWIN:
        raise Broken(f"masked and removed network differ by {error:.1e} of the largest logit")


def only_the_plan_changes_shapes(entry: Entry, bench: Bench) -> None:
    """Cost and structure of the dense network are what they were."""
    before = bench.network(0)
    done = prune(entry, bench)
    if done.net.macs() != before.macs():
        raise Broken("the cost of the dense network changed")
    try:
        found = structure_hash(done.net.dense())
    except (RuntimeError, ValueError) as error:
        raise Broken(f"the dense network was taken apart: {str(error).splitlines()[0]}") from error
    if found != structure_hash(before.dense()):
        raise Broken("the structure of the dense network changed")


def same_seed_same_plan(entry: Entry, bench: Bench) -> None:
    """Nothing but the seed is random, whatever the global generator did before."""
    first = prune(entry, bench)
    torch.rand(1)
    if prune(entry, bench).plan != first.plan:
        raise Broken("two runs with one seed give different plans")


def negated_scores_change_the_plan(entry: Entry, bench: Bench) -> None:
    """The plan follows from the scores."""
    done = prune(entry, bench)
    if done.scores is None:
        raise NotApplicable("it has no scores")
    negated = {layer: -score for layer, score in done.scores.items()}
    if done.method.select(done.net, negated, done.budget) == done.plan:
        raise Broken("negated scores give the same plan")


def permuted_channels_permute_the_kept_set(entry: Entry, bench: Bench) -> None:
    """A channel is judged by what it is, not by its number."""
    if entry.cls.stochastic:
        raise NotApplicable("its draws may belong to channel numbers")
    if not entry.cls.informed:
        raise NotApplicable("it does not claim to judge channels")
    done = prune(entry, bench)
    found = [g for g in done.net.groups if 0 < len(done.plan.keep.get(g.name, ())) < g.width]
    if not found:
        raise NotApplicable("it removes nothing")
    group = found[0]
    order = torch.randperm(group.width, generator=torch.Generator().manual_seed(1))
    x = some_images(done.trainer)
    other = prune(entry, bench, prepare=lambda net: permute(net, group, order, x))
    kept = {int(order[i]) for i in other.plan.keep[group.name]}
    moved = kept ^ set(done.plan.keep[group.name])
    if moved - _near_the_cut(done, group):
        raise Broken(f"with the channels of {group.name} permuted, other ones are kept")


def networks_give_different_scores(entry: Entry, bench: Bench) -> None:
    """The choice depends on the trained weights."""
    if not entry.cls.informed:
        raise NotApplicable("it does not claim to judge channels")
    a, b = (prune(entry, bench, network_seed=seed) for seed in (0, 1))
    if a.scores is None or b.scores is None:
        if a.plan == b.plan:
            raise Broken("two trained networks give the same plan")
    elif all(torch.equal(a.scores[n].cpu(), b.scores[n].cpu()) for n in a.net.layers):
        raise Broken("two trained networks give the same scores")


def the_test_split_is_out_of_reach(entry: Entry, bench: Bench) -> None:
    """Nothing that a method is given leads to test pixels, so test labels cannot matter."""
    done = prune(entry, bench)
    for name, root in {"trainer": done.trainer, "network": done.net}.items():
        if holds(root, bench.test):
            raise Broken(f"test pixels can be reached through the {name}")


class _Kill(BaseException):
    """Stands for a kill: no method may catch it."""


def a_killed_fit_goes_on_the_same(entry: Entry, bench: Bench) -> None:
    """What training needs lives in tensors: replayed from its checkpoints, it ends the same."""
    whole = prune(entry, bench)
    images = max((row.images for row in whole.trainer.curve), default=0)
    if not images:
        return  # it trains nothing: all of it is replayed

    def kill(phase: str, done: int, total: int) -> None:
        if 2 * done >= images:
            raise _Kill

    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpoints(Path(folder), every=0.0)
        with contextlib.suppress(_Kill):
            prune(entry, bench, watch=lambda t: vars(t).update(checkpoints=kept, progress=kill))
        again = prune(entry, bench, watch=lambda t: vars(t).update(checkpoints=kept))
    same = weights_digest(again.net.traced.state_dict()) == weights_digest(
        whole.net.traced.state_dict()
    )
    if again.plan != whole.plan or not same:
        raise Broken(
            "killed inside fit() and resumed, it ends otherwise: what changes from step to step "
            "must be a parameter or buffer of the network or its gates"
        )


CHECKS: tuple[Check, ...] = (
    scores_are_sound,
    plan_is_valid,
    target_is_reached,
    budget_is_respected,
    masked_equals_removed,
    only_the_plan_changes_shapes,
    same_seed_same_plan,
    negated_scores_change_the_plan,
    permuted_channels_permute_the_kept_set,
    networks_give_different_scores,
    the_test_split_is_out_of_reach,
    a_killed_fit_goes_on_the_same,
)


@dataclass(frozen=True)
class Result:
    """What one check found."""

    check: str
    status: Literal["kept", "n/a", "broken"]
    reason: str = ""


def check(entry: Entry, bench: Bench) -> list[Result]:
    """All checks, in order; none stops the others."""
    return [judged(c.__name__, functools.partial(c, entry, bench)) for c in CHECKS]


def judged(name: str, promise: Callable[[], None]) -> Result:
    """What becomes of one promise; whatever else its code raises breaks it too."""
    try:
        promise()
    except NotApplicable as error:
        return Result(name, "n/a", str(error))
    except Broken as error:
        return Result(name, "broken", str(error))
    except Exception as error:
        return Result(name, "broken", f"{type(error).__name__}: {error}")
    return Result(name, "kept")


def _near_the_cut(done: Outcome, group: ChannelGroup) -> set[int]:
    """Channels that rounding may move across the cut: none where there are no scores."""
    if done.scores is None:
        return set()
    score = done.net.group_scores(done.scores, done.method.comparable)[group.name]
    cut = score[list(done.plan.keep[group.name])].min()
    near = (score - cut).abs() <= TIED * (score.max() - score.min())
    return set(near.nonzero()[:, 0].tolist())
