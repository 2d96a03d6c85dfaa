"""Scores, plans, and whether the choice carries information."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmark import select
from benchmark.context import Context, make_trainer, start
from benchmark.evaluation import evaluate
from benchmark.images import BatchSource
from benchmark.ledger import BudgetExceeded, Ledger
from benchmark.meter import metered
from benchmark.network import Network
from benchmark.record import (
    SeedAgreement,
    SelectionCheck,
)
from benchmark.spec import RunSpec, Seeds, digest
from benchmark.store import Stage, Store, encode
from benchmark.trainer import EpochRow, Trainer
from methods.api import Budget, Method, Plan

RANDOM_DRAWS = 5  # of the selection check
SECOND_SEED = 1_000_003  # added to the run seed for the agreement between method seeds


def make_plan(
    spec: RunSpec, method: Method, net: Network, budget: Budget, trainer: Trainer, store: Store
) -> tuple[Plan, dict[str, Tensor] | None]:
    """The plan, and the scores behind it if the method has any. Scores do not depend on target or
    allocation, so one scoring stage serves all of them."""
    if type(method).prune is not Method.prune:
        with metered(net) as seen:
            plan = method.prune(net, budget, trainer)
        _check_meter(sum(seen), trainer)
        _check_plan(plan, net, budget)
        return plan, None
    scores = scored(spec, method, net, trainer, store)
    plan = method.select(net, scores, budget)
    _check_plan(plan, net, budget)
    return plan, scores


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
    dense = net.macs()
    unit = max(dense - net.macs({g.name: g.width - 1}) for g in net.groups)
    cut = 1 - net.macs(plan.widths()) / dense
    if cut < budget.macs_cut - max(select.TOLERANCE, 2 * unit / dense):
        raise BadMethod(
            f"the plan removes {100 * cut:.1f} % of the FLOPs, {100 * budget.macs_cut:.1f} % were "
            "asked for"
        )


def scores_key(spec: RunSpec) -> str:
    """Everything that scoring depends on (DECISIONS 6)."""
    apart = {"allocation", "rates", "flops_reduction", "min_width", "reconstruct"}
    return digest(spec.model_dump(mode="json", exclude=apart))


def scored(
    spec: RunSpec, method: Method, net: Network, trainer: Trainer, store: Store
) -> dict[str, Tensor]:
    """Scores per layer; `net` and `trainer` are left as scoring leaves them, reused or not."""
    key = scores_key(spec)
    with store.only_one("scores", key):
        stage = store.stage("scores", key)
        if stage is None:
            with metered(net) as seen:
                scores = method.score(net, trainer)
            _check_meter(sum(seen), trainer)
            _check_scores(scores, net)
            tensors = {f"score/{n}": s for n, s in scores.items()}
            tensors |= {f"net/{k}": v for k, v in net.traced.state_dict().items()}
            facts = {
                "notes": encode(trainer.notes),
                "ledger": trainer.ledger.as_rows(),
                "curve": [asdict(row) for row in trainer.curve],
            }
            stage = Stage(tensors, facts)
            store.publish_stage("scores", key, stage)
    trainer.notes = dict(stage.facts["notes"])
    trainer.ledger.entries = Ledger.rows(stage.facts["ledger"])
    trainer.curve = [EpochRow(**row) for row in stage.facts["curve"]]
    parts = {"score": {}, "net": {}}  # type: dict[str, dict[str, Tensor]]
    for name, tensor in stage.tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = tensor
    net.traced.load_state_dict(parts["net"])
    net.eval()
    return parts["score"]


def check_selection(
    method: Method,
    net: Network,
    scores: dict[str, Tensor] | None,
    plan: Plan,
    trainer: Trainer,
) -> SelectionCheck | None:
    """The choice against its inverse and against random draws at the same widths (DECISIONS 17,
    24), on validation images."""
    if not len(trainer.val) or not method.informed or not plan.keep or scores is None:
        return None

    def judged(kept: Plan) -> float:
        model = net.remove(kept)
        trainer.recalibrate(model, 0, note=False)
        return evaluate(model, trainer.val).top1

    own = judged(plan)
    grouped = net.group_scores(scores, method.comparable)
    inverse = judged(select.best({g: -s for g, s in grouped.items()}, plan.widths()))
    draw = trainer.generator(salt=3)
    drawn = []
    for _ in range(RANDOM_DRAWS):
        noise = {g: torch.rand(len(s), generator=draw) for g, s in grouped.items()}
        drawn.append(judged(select.best(noise, plan.widths())))
    beaten = [1.0 if own > d else 0.5 if own == d else 0.0 for d in drawn]
    return SelectionCheck(
        score=own,
        inverse=inverse,
        random=drawn,
        percentile=sum(beaten) / len(beaten),
        informative=own > inverse,
    )


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
    seeds = Seeds(dense=spec.seeds.dense, run=spec.seeds.run + SECOND_SEED)
    other_spec = spec.model_copy(update={"seeds": seeds})
    test = BatchSource(context.data.test, spec.data, context.device)
    _, other = start(other_spec, method, test, replace(context, optimistic=False))
    trainer = make_trainer(other_spec, context)
    trainer.use(other)
    second = scored(other_spec, method, other, trainer, context.store)
    again = method.select(other, second, budget)
    pairs = [(scores[n].double(), second[n].double()) for n in net.layers]
    ranked = [spearmanr(a, b).statistic for a, b in pairs if a.std() > 0 and b.std() > 0]
    kept = sum(len(k) for k in plan.keep.values())
    both = sum(len(set(plan.keep[g]) & set(again.keep[g])) for g in plan.keep)
    return SeedAgreement(
        rank_correlation=float(np.mean(ranked)) if ranked else 0.0,
        kept_overlap=both / kept if kept else 1.0,
    )
