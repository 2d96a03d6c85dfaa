"""Does a choice carry information? Against its inverse, random draws, and a second seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmark import select
from benchmark.checkpoint import seed_everything
from benchmark.context import Context, make_trainer, start
from benchmark.network import Network
from benchmark.planning import scored
from benchmark.record import SeedAgreement, SelectionCheck
from benchmark.schedule import phase_seed
from benchmark.spec import RunSpec, Seeds
from benchmark.trainer import Trainer
from methods.api import Allocation, Budget, Method, Plan, Unsupported

# Of the selection check, per seed and sort of widths. One costs 1.7 % of a run of the demo.
RANDOM_DRAWS = 5
OWN_DRAWS, UNIFORM_DRAWS, OTHERS = 3, 4, 5  # salts; 3 is that of all earlier records
SECOND_SEED = 1_000_003  # added to the run seed for the agreement between method seeds


def networks_judged(allocation: Allocation) -> int:
    """By the check of a choice: itself, its inverse, and draws at one or at two sorts of widths."""
    return 2 + RANDOM_DRAWS * (1 if allocation == "uniform" else 2)


def check_selection(
    method: Method,
    net: Network,
    scores: dict[str, Tensor] | None,
    plan: Plan,
    budget: Budget,
    trainer: Trainer,
) -> SelectionCheck | None:
    """The choice against its inverse and against random draws, at its own widths and at uniform
    ones that meet the budget (DECISIONS 17, 24), on validation images.

    `net`: with the weights that scores were made on; for a method that decides everything, without
    scores, the dense network, so that the choice is judged apart from what the method did to the
    weights. Its inverse keeps the units that the choice removes, as far as they go.
    """
    if not _has_inverse(method, plan, trainer):
        return None

    def judged(kept: Plan) -> float:
        return judge(net, kept, trainer)

    own = judged(plan)
    grouped = _grouped(method, net, scores, plan, trainer)
    inverse = judged(_worst(grouped, plan))

    def drawn(widths: Mapping[str, int], salt: int) -> list[float]:
        draw, found = trainer.generator(salt), []
        for _ in range(RANDOM_DRAWS):
            noise = {g: torch.rand(len(s), generator=draw) for g, s in grouped.items()}
            found.append(judged(select.best(noise, widths)))
        return found

    at_own = drawn(plan.widths(), OWN_DRAWS)
    widths = _uniform_widths(net, budget)
    same = widths == plan.widths()
    uniform = at_own if same or widths is None else drawn(widths, UNIFORM_DRAWS)
    return SelectionCheck(
        score=own,
        inverse=inverse,
        random=at_own,
        percentile=_percentile(own, at_own),
        informative=own > inverse,
        uniform=None if widths is None else uniform,
        uniform_percentile=None if widths is None else _percentile(own, uniform),
    )


def judge(net: Network, plan: Plan, trainer: Trainer) -> float:
    """Share of validation images that are right after removal and BN recalibration."""
    model = net.remove(plan)
    trainer.recalibrate(model, 0, note=False)
    return trainer.accuracy(model)


def inverse_accuracy(
    method: Method,
    net: Network,
    scores: dict[str, Tensor] | None,
    plan: Plan,
    trainer: Trainer,
) -> float | None:
    """What `judge` says of the inverse of a choice, as in its check; None: it has none."""
    if not _has_inverse(method, plan, trainer):
        return None
    return judge(net, _worst(_grouped(method, net, scores, plan, trainer), plan), trainer)


def _has_inverse(method: Method, plan: Plan, trainer: Trainer) -> bool:
    return bool(len(trainer.val) and method.informed and plan.keep)


def _grouped(
    method: Method,
    net: Network,
    scores: dict[str, Tensor] | None,
    plan: Plan,
    trainer: Trainer,
) -> dict[str, Tensor]:
    """Scores of units by which the choice is made."""
    if scores is None:
        return _of_choice(net, plan, trainer)
    return net.group_scores(scores, method.comparable)


def _worst(grouped: Mapping[str, Tensor], plan: Plan) -> Plan:
    """The inverse of a choice at its own widths."""
    return select.best({g: -s for g, s in grouped.items()}, plan.widths())


def _of_choice(net: Network, plan: Plan, trainer: Trainer) -> dict[str, Tensor]:
    """Scores by which exactly the choice is made; chance decides among the rest, and among what is
    kept."""
    draw, found = trainer.generator(OTHERS), {}
    for group in net.groups:
        score = torch.rand(group.width, generator=draw)
        score[list(plan.keep.get(group.name, ()))] += 1
        found[group.name] = score
    return found


def _percentile(own: float, drawn: list[float]) -> float:
    """Share of draws that `own` beats; ties count half."""
    return sum(1.0 if own > d else 0.5 if own == d else 0.0 for d in drawn) / len(drawn)


def _uniform_widths(net: Network, budget: Budget) -> dict[str, int] | None:
    """Uniform widths that meet the target; None: a method of its own rules went where they do not
    reach."""
    try:
        return net.allocate(replace(budget, allocation="uniform"))
    except Unsupported:
        return None


def check_agreement(
    spec: RunSpec,
    method: Method,
    net: Network,
    scores: dict[str, Tensor] | None,
    plan: Plan,
    budget: Budget,
    context: Context,
) -> SeedAgreement | None:
    """Score the same dense network again with another method seed, uncharged: is the choice
    stable?"""
    if scores is None or not (method.stochastic and method.informed):
        return None
    context.log("scoring once more with another seed: is the choice stable?")
    seeds = Seeds(dense=spec.seeds.dense, run=spec.seeds.run + SECOND_SEED)
    other_spec = spec.model_copy(update={"seeds": seeds})
    test = context.data.test.source(spec.data, context.device)
    _, other = start(other_spec, method, test, replace(context, optimistic=False))
    trainer = make_trainer(other_spec, context)
    trainer.use(other)
    second = scored(other_spec, method, other, trainer, context)
    seed_everything(phase_seed(other_spec.seeds.run, "select"))
    again = method.select(other, second, budget)
    pairs = [(scores[n].double(), second[n].double()) for n in net.layers]
    ranked = [spearmanr(a, b).statistic for a, b in pairs if a.std() > 0 and b.std() > 0]
    kept = sum(len(k) for k in plan.keep.values())
    both = sum(len(set(plan.keep[g]) & set(again.keep[g])) for g in plan.keep)
    return SeedAgreement(
        rank_correlation=float(np.mean(ranked)) if ranked else 0.0,
        kept_overlap=both / kept if kept else 1.0,
    )
