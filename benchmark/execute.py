"""One run from its spec to its record: dense network, plan, removal, recovery, measurement."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict
from typing import Any

from torch import nn

from benchmark import baseline, environment, flops, scratch, select
from benchmark.became import Became
from benchmark.context import (
    Context,
    budget_of,
    checkpoints_of,
    make_trainer,
    set_threads_and_determinism,
    start,
)
from benchmark.data import Data
from benchmark.encoding import encode, plan_digest, weights_digest
from benchmark.latency import latency
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.planning import BadMethod
from benchmark.record import (
    Accuracy,
    RunRecord,
    SelectionCheck,
    Spent,
)
from benchmark.recovery import Outcome, read_start, recover, write_optimistic
from benchmark.rounds import Chosen, choose
from benchmark.selection import check_agreement, check_selection
from benchmark.spec import RunSpec
from benchmark.store import Stage
from benchmark.trainer import Trainer
from methods import Entry
from methods import build as build_method
from methods.api import Budget, Method, Plan

CHANCE_MARGIN = 1.96  # standard errors above guessing


def run_one(spec: RunSpec, entry: Entry, context: Context) -> RunRecord:
    """Execute the run and publish its record. Only this function opens the test split, and not in
    a trial, which is judged by its accuracy on validation images alone."""
    started = time.perf_counter()
    context = context.seen_by(spec)
    set_threads_and_determinism(spec.threads)
    method = build_method(entry, spec.method.params)
    test = context.data.test.source(spec.data, context.device)
    dense, net = start(spec, method, test, context)
    trainer = make_trainer(spec.chosen_by, context)
    trainer.use(net)
    arrays = read_start(net, dense, trainer, test)
    budget = budget_of(spec, net)
    kept = checkpoints_of(context, "recovery", _recovery_name(spec, context))
    chosen = choose(spec.chosen_by, method, net, trainer, kept, context)
    _check_result(chosen.made, spec)
    plan = chosen.plan
    trained, trainer, made = scratch.begin(spec, chosen, dense, trainer, context)
    pruned = made.model
    executed = flops.cost(pruned, baseline.example(spec))
    context.log(f"pruned: {_removed(made.price(executed), dense.cost)} of the FLOPs removed")
    trainer.checkpoints = kept
    outcome = recover(trained, pruned, executed, trainer, test, context)
    outcome.arrays = arrays | outcome.arrays
    price, counted = context.team.lead(lambda: made.measured(executed, test))
    told = None if spec.is_trial or spec.scratch else chosen.scores  # judged where they chose
    record = RunRecord(
        run_id=spec.run_id,
        spec=spec,
        title=spec.titled(str(trainer.notes.pop("label", entry.title))),
        control=entry.is_control or spec.scratch is not None,
        dense=dense,
        pruned=price,
        flops_reduction=1 - price.macs / dense.cost.macs,
        params_reduction=1 - price.params / dense.cost.params,
        **_width_facts(net, plan, budget),
        plan=plan_digest(plan.keep, plan.tensors()),
        weights=weights_digest(pruned.state_dict()),
        **outcome.figures(),
        at_chance=_at_chance(outcome.final, len(test), spec.data.num_classes),
        selection=_checked(spec, method, chosen, plan, budget, trainer),
        seed_agreement=check_agreement(spec, method, net, told, plan, budget, context),
        tied_share=select.tied_share({n: told[n] for n in net.layers}) if told else None,
        method_facts=encode(trainer.notes),
        counted=counted,
        spent=_spent(trainer.ledger),
        latency=_latency(spec, net, pruned, context),
        predictions_order=_labels_hash(context.data),
        environment=environment.describe()
        | {"device": str(context.device), "compiled": context.compiled, "load": os.getloadavg()[0]}
        | {"resumed_from": trainer.resumed, "processes": context.team.size},
        seconds=round(time.perf_counter() - started, 3),
        command=context.command,
        tuning=context.tuning,
    )
    final = Stage(dict(pruned.state_dict()), {"run_id": spec.run_id})
    return context.team.lead(lambda: _publish(record, final, plan, outcome, trainer, context))


def _checked(
    spec: RunSpec, method: Method, chosen: Chosen, plan: Plan, budget: Budget, trainer: Trainer
) -> SelectionCheck | None:
    """A single choice, where it was made and counts."""
    if spec.in_rounds or spec.is_trial or spec.scratch or spec.result != "channels":
        return None
    return check_selection(method, chosen.judged, chosen.scores, plan, budget, trainer)


def _publish(
    record: RunRecord,
    final: Stage,
    plan: Plan,
    outcome: Outcome,
    trainer: Trainer,
    context: Context,
) -> RunRecord:
    context.store.publish_stage("final", record.run_id, final)
    curve = [asdict(row) for row in trainer.curve]
    context.store.write(record, plan, curve, outcome.arrays)
    if context.optimistic:
        write_optimistic(context.store, record.spec, outcome)
    if trainer.checkpoints is not None:
        trainer.checkpoints.drop()
    return record


def _latency(spec: RunSpec, net: Network, pruned: nn.Module, context: Context) -> dict[str, Any]:
    if spec.is_trial:
        return {}
    example = baseline.example(spec).to(context.device)
    return context.team.lead(lambda: latency(net.dense(), pruned, example))


def _removed(price: flops.Cost, dense: flops.Cost) -> str:
    return f"{100 * (1 - price.macs / dense.macs):.2f} %"


def _recovery_name(spec: RunSpec, context: Context) -> str:
    """A recovery that also reads the test split every epoch remembers more: kept apart."""
    return f"{spec.run_id}-optimistic" if context.optimistic else spec.run_id


def _labels_hash(data: Data) -> str:
    return hashlib.sha256(data.test.labels.numpy().tobytes()).hexdigest()[:16]


def _check_result(made: Became, spec: RunSpec) -> None:
    if made.result != spec.result:
        raise BadMethod(
            f"{spec.method.label} says that its result is {spec.result}, its plan is one of "
            f"{made.result}: see Method.result"
        )


def _width_facts(net: Network, plan: Plan, budget: Budget) -> dict[str, Any]:
    limits, widths = net.limits(budget), dict(net.map.widths) | plan.widths()
    scope = {g: widths[g] for g in limits.full}
    at_floor = [g for g, w in scope.items() if w <= limits.floor[g] and w < limits.full[g]]
    return {
        "floor_share": len(at_floor) / len(scope) if scope else 0.0,
        "largest_reduction": select.largest_cut(limits, lambda w: net.macs(w)),
        "groups": list(limits.full),
        "widths": scope,
        "dense_widths": dict(limits.full),
    }


def _at_chance(final: Accuracy, images: int, classes: int) -> bool:
    chance = 1 / classes
    return bool(final.test_top1 <= chance + CHANCE_MARGIN * (chance * (1 - chance) / images) ** 0.5)


def _spent(ledger: Ledger) -> Spent:
    free = sum(e.images for e in ledger.entries if e.kind == "free")
    return Spent(allowed=ledger.allowed, charged=ledger.spent, free=free, rows=ledger.as_rows())
