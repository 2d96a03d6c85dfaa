"""Scores, plans, and whether the choice carries information."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmark import select
from benchmark.became import became, plan_of
from benchmark.checkpoint import Moment, joined, part, seed_everything
from benchmark.claims import take_for
from benchmark.context import Context, checkpoints_of, make_trainer, start
from benchmark.encoding import encode
from benchmark.ledger import BudgetExceeded, Ledger
from benchmark.meter import metered
from benchmark.network import Network
from benchmark.phase import EpochRow
from benchmark.record import (
    SeedAgreement,
    SelectionCheck,
)
from benchmark.schedule import phase_seed
from benchmark.spec import RunSpec, Seeds, digest, identity
from benchmark.store import Stage
from benchmark.trainer import Trainer
from methods.api import Allocation, Budget, Method, Plan, Unsupported

# Of the selection check, per seed and sort of widths. One costs 1.7 % of a run of the demo.
RANDOM_DRAWS = 5
OWN_DRAWS, UNIFORM_DRAWS = 3, 4  # salts of their generators; 3 is that of all earlier records
SECOND_SEED = 1_000_003  # added to the run seed for the agreement between method seeds


def make_plan(
    spec: RunSpec, method: Method, net: Network, budget: Budget, trainer: Trainer, context: Context
) -> tuple[Plan, dict[str, Tensor] | None]:
    """The plan, and the scores behind it if the method has any. Scores do not depend on target or
    allocation, so one scoring stage serves all of them."""
    if type(method).prune is not Method.prune:
        return planned(spec, method, net, budget, trainer, context), None
    scores = scored(spec, method, net, trainer, context)
    seed_everything(phase_seed(spec.seeds.run, "select"))  # whoever made the scores
    plan = method.select(net, scores, budget)
    _check_plan(plan, net, budget)
    return context.team.agree(plan), scores


class BadMethod(Exception):
    """The method broke the rules of its interface; the text says which."""


def _check_meter(seen: int, trainer: Trainer) -> None:
    entered = sum(e.images for e in trainer.ledger.entries if e.kind != "forward")
    if seen > entered:
        raise BudgetExceeded(
            f"{seen} images passed with gradients enabled, {entered} are in the ledger: train by "
            "trainer.fit, or draw the images from trainer.batches with gradients enabled"
        )


def _check_scores(scores: object, net: Network) -> None:
    if not isinstance(scores, dict):
        raise BadMethod(f"score() must return a dict of layers, not {type(scores).__name__}")
    missing = [n for n in net.layers if n not in scores]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadMethod(f"score() must give one (C,) tensor per layer; missing: {missing[0]}{more}")


def _check_plan(plan: object, net: Network, budget: Budget) -> None:
    """A plan removes what was asked for; removing more is its own loss, removing less an error."""
    if not isinstance(plan, Plan):
        raise BadMethod(f"prune() must return a Plan, not {type(plan).__name__}")
    strange = sorted(plan.keep.keys() - net.map.widths.keys())
    if strange:
        raise BadMethod(f"the plan names the group {strange[0]}, which does not exist")
    if budget.allocation in ("none", "listed"):
        return
    _check_multiples(plan, net.limits(budget))
    dense = net.macs()
    unit = max(dense - net.macs({g.name: max(0, g.width - budget.round_to)}) for g in net.groups)
    cut = 1 - became(net, plan).macs / dense
    if cut < budget.macs_cut - max(select.TOLERANCE, 2 * unit / dense):
        raise BadMethod(
            f"the plan removes {100 * cut:.1f} % of the FLOPs, {100 * budget.macs_cut:.1f} % were "
            "asked for"
        )


def _check_multiples(plan: Plan, limits: select.Widths) -> None:
    widths = {g: w for g, w in plan.widths().items() if g in limits.full}
    odd = [g for g, w in limits.up(widths).items() if w != widths[g]]
    if odd:
        raise BadMethod(
            f"the plan keeps {widths[odd[0]]} of the {limits.full[odd[0]]} units of {odd[0]}, "
            f"--round-to {limits.round_to} asks for a multiple: take widths from net.allocate "
            "or net.rank, or set rounds = False"
        )


def scores_key(spec: RunSpec, prepares: bool = True) -> str:
    """Everything that scoring depends on (DECISIONS 6); how recovery trains matters only to
    methods that train themselves."""
    apart = {"allocation", "rates", "flops_reduction", "min_width", "round_to", "reconstruct"}
    if not prepares:
        apart |= {"recovery", "preparation"}
    return digest({k: v for k, v in identity(spec).items() if k not in apart})


def scored(
    spec: RunSpec, method: Method, net: Network, trainer: Trainer, context: Context
) -> dict[str, Tensor]:
    """Scores per layer; `net` and `trainer` are left as scoring leaves them, reused or not."""

    def work() -> Moment:
        scores = method.score(net, trainer)
        _check_scores(scores, net)
        return Moment(scores, {})

    key = scores_key(spec, method.prepares)
    found = _once("scores", key, work, net, trainer, context).tensors
    first = [n for n in net.layers if n in found]  # a file does not keep the order
    return {n: found[n] for n in (*first, *sorted(found.keys() - set(first)))}


def planned(
    spec: RunSpec, method: Method, net: Network, budget: Budget, trainer: Trainer, context: Context
) -> Plan:
    """The plan of a method that decides everything; `net` and `trainer` as in `scored`."""

    def work() -> Moment:
        plan = method.prune(net, budget, trainer)
        _check_plan(plan, net, budget)
        net.unmask()
        kept = {group: [int(i) for i in units] for group, units in plan.keep.items()}
        return Moment(plan.tensors(), kept)

    content = spec.model_dump(mode="json", exclude={"reconstruct"})
    key = digest(content | {"data": identity(spec.data)})
    found = _once("plan", key, work, net, trainer, context)
    keep = {group: tuple(kept) for group, kept in sorted(found.facts.items())}
    return plan_of(method, net, keep, found.tensors)


def _once(
    kind: str,
    key: str,
    work: Callable[[], Moment],
    net: Network,
    trainer: Trainer,
    context: Context,
) -> Moment:
    """What a method's step yields, worked out by one process and shared by all, with the network,
    notes, ledger and curve as the step leaves them."""
    store = context.store
    with take_for(context.team, store.claims, kind, key, log=context.log) as claim:
        stage = context.team.lead(lambda: store.stage(kind, key, context.log))
        if stage is None:
            trainer.checkpoints = checkpoints = checkpoints_of(context, kind, key)
            seed_everything(phase_seed(trainer.seed, kind))
            with metered(net) as seen, trainer.telling(store.claims.news(claim)):
                found = work()
            _check_meter(sum(seen), trainer)
            weights = Moment(net.traced.state_dict(), {})
            own = Moment({}, _facts_of(trainer))
            whole = joined(found=found, net=weights, trainer=own)
            made = Stage(context.team.portable(whole.tensors), whole.facts)

            def publish() -> Stage:
                store.publish_stage(kind, key, made)
                checkpoints.drop()
                return made

            stage = context.team.lead(publish)
    whole = Moment(stage.tensors, stage.facts)
    facts = part(whole, "trainer").facts
    trainer.notes = dict(facts["notes"])
    trainer.ledger.entries = Ledger.rows(facts["ledger"])
    trainer.curve = [EpochRow(**row) for row in facts["curve"]]
    trainer.resumed = facts["resumed"]
    net.traced.load_state_dict(part(whole, "net").tensors)
    net.eval()
    return part(whole, "found")


def _facts_of(trainer: Trainer) -> dict[str, Any]:
    return {
        "notes": encode(trainer.notes),
        "ledger": trainer.ledger.as_rows(),
        "curve": [asdict(row) for row in trainer.curve],
        "resumed": trainer.resumed,
    }


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
    ones that meet the budget (DECISIONS 17, 24), on validation images."""
    if not len(trainer.val) or not method.informed or not plan.keep or scores is None:
        return None

    def judged(kept: Plan) -> float:
        model = net.remove(kept)
        trainer.recalibrate(model, 0, note=False)
        return trainer.accuracy(model)

    own = judged(plan)
    grouped = net.group_scores(scores, method.comparable)
    inverse = judged(select.best({g: -s for g, s in grouped.items()}, plan.widths()))

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
