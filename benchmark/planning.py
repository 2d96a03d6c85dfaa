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
from benchmark.ledger import Ledger
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
        return method.prune(net, budget, trainer), None
    scores = scored(spec, method, net, trainer, store)
    return method.select(net, scores, budget), scores


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
            scores = method.score(net, trainer)
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
