"""One run from its spec to its record: dense network, plan, removal, recovery, measurement."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmark import baseline, environment, measure, select
from benchmark.data import BatchSource, Data
from benchmark.ledger import Ledger
from benchmark.network import Network
from benchmark.reconstruct import reconstruct
from benchmark.record import (
    Accuracy,
    BestVal,
    Dense,
    RunRecord,
    SeedAgreement,
    SelectionCheck,
    Spent,
)
from benchmark.spec import RunSpec, Seeds, digest
from benchmark.store import Stage, Store, encode, weights_digest
from benchmark.trainer import EpochRow, Evaluation, Progress, Trainer, evaluate, silent
from methods import Entry
from methods import build as build_method
from methods.api import Budget, Method, Plan

RANDOM_DRAWS = 5  # of the selection check
SECOND_SEED = 1_000_003  # added to the run seed for the agreement between method seeds
CHANCE_MARGIN = 1.96  # standard errors above guessing


@dataclass(frozen=True)
class Context:
    """What a run needs to know but does not depend on."""

    store: Store
    data: Data
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    checkpoint: Path | None = None
    compiled: bool = False
    optimistic: bool = False  # also read the test split after every recovery epoch
    command: str = ""


def set_threads_and_determinism(threads: int) -> None:
    """Same seed, same machine kind, same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def run_one(spec: RunSpec, entry: Entry, context: Context) -> RunRecord:
    """Execute the run and publish its record. Only this function opens the test split."""
    started = time.perf_counter()
    set_threads_and_determinism(spec.threads)
    method = build_method(entry, spec.method.params)
    test = BatchSource(context.data.test, spec.data, context.device)
    dense, net = _start(spec, method, test, context)
    trainer = make_trainer(spec, context)
    trainer.use(net)
    budget = budget_of(spec, net)
    plan, scores = make_plan(spec, method, net, budget, trainer, context.store)
    judged = net
    if spec.reconstruct == "ls":
        judged = net.copy()  # the choice is judged on the weights it was made on
        reconstruct(net, plan, trainer)
    pruned = net.remove(plan)
    price = measure.cost(pruned, baseline.example(spec))
    _check_price(net, plan, price)
    outcome = _recover(spec, pruned, price, trainer, test, context)
    record = RunRecord(
        run_id=spec.run_id,
        spec=spec,
        title=str(trainer.notes.pop("label", entry.title)),
        control=entry.is_control,
        dense=dense,
        pruned=price,
        flops_reduction=1 - price.macs / dense.cost.macs,
        params_reduction=1 - price.params / dense.cost.params,
        **_width_facts(net, plan, budget),
        plan=digest({g: list(k) for g, k in plan.keep.items()}),
        weights=weights_digest(pruned.state_dict()),
        before_recovery=outcome.before,
        recalibrated=outcome.recalibrated,
        final=outcome.final,
        best_val=outcome.best_val,
        at_chance=_at_chance(outcome.final, len(test), spec.data.num_classes),
        selection=_check_selection(method, judged, scores, plan, trainer),
        seed_agreement=_agreement(spec, method, net, scores, plan, budget, context),
        tied_share=select.tied_share({n: scores[n] for n in net.layers}) if scores else None,
        method_facts=encode(trainer.notes),
        spent=_spent(trainer.ledger),
        latency=measure.latency(net.dense(), pruned, baseline.example(spec).to(context.device)),
        predictions_order=_labels_hash(context.data),
        environment=environment.describe()
        | {"device": str(context.device), "compiled": context.compiled, "load": os.getloadavg()[0]},
        seconds=round(time.perf_counter() - started, 3),
        command=context.command,
    )
    final = Stage(dict(pruned.state_dict()), {"run_id": spec.run_id})
    context.store.publish_stage("final", spec.run_id, final)
    curve = [asdict(row) for row in trainer.curve]
    context.store.write(record, plan, curve, outcome.arrays)
    if context.optimistic:
        _write_optimistic(context.store, spec, outcome)
    return record


def _labels_hash(data: Data) -> str:
    return hashlib.sha256(data.test.labels.numpy().tobytes()).hexdigest()[:16]


# ---- start ---------------------------------------------------------------------------------------


def make_trainer(spec: RunSpec, context: Context) -> Trainer:
    """A trainer with the run's budget, recipe and seed, and no test split."""
    train = BatchSource(context.data.train, spec.data, context.device)
    return Trainer(
        train=train,
        val=BatchSource(context.data.val, spec.data, context.device),
        num_classes=spec.data.num_classes,
        recipe=spec.recovery,
        seed=spec.seeds.run,
        data_hash=spec.data.content_hash,
        ledger=Ledger(round(spec.budget_epochs * len(train)), len(train)),
        precision=spec.precision,
        device=context.device,
        progress=context.progress,
        charged=spec.preparation == "charged",
        compiled=context.compiled,
    )


def _start(
    spec: RunSpec, method: Method, test: BatchSource, context: Context
) -> tuple[Dense, Network]:
    model, accuracy = baseline.new_model(spec), None
    if spec.start.kind != "random":
        trainer = make_trainer(spec, context)
        stage = baseline.dense_stage(spec, method, trainer, test, context.store, context.checkpoint)
        model.load_state_dict(stage.tensors)
        accuracy = Accuracy.model_validate(stage.facts["accuracy"])
    cost = measure.cost(model, baseline.example(spec))
    dense = Dense(weights=weights_digest(model.state_dict()), accuracy=accuracy, cost=cost)
    net = Network(model, baseline.example(spec), spec.scope)
    return dense, net.to(context.device)


def budget_of(spec: RunSpec, net: Network) -> Budget:
    """What the method must reach."""
    rates = dict(zip(net.convs, spec.rates, strict=True)) if spec.rates else None
    return Budget(spec.flops_reduction, spec.min_width, spec.allocation, rates)


# ---- plan ----------------------------------------------------------------------------------------


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


# ---- recovery ------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Figures at the three fixed points, and per image."""

    before: Accuracy
    recalibrated: Accuracy
    final: Accuracy
    best_val: BestVal | None
    arrays: dict[str, np.ndarray]
    optimistic: list[tuple[float, float]]  # epoch, test accuracy


def _recover(
    spec: RunSpec,
    pruned: nn.Module,
    price: measure.Cost,
    trainer: Trainer,
    test: BatchSource,
    context: Context,
) -> Outcome:
    arrays: dict[str, np.ndarray] = {}
    before = _read_point(pruned, "before", trainer, test, arrays)
    trainer.recalibrate(pruned, price.macs)
    recalibrated = _read_point(pruned, "recalibrated", trainer, test, arrays)
    recipe = spec.recovery.model_copy(
        update={"epochs": trainer.ledger.left / trainer.ledger.train_images}
    )
    best: dict[str, Any] = {"val": -1.0, "state": {}, "epoch": 0.0}
    seen: list[tuple[float, float]] = []

    def after_epoch(epoch: int) -> None:
        row = trainer.curve_now
        if row.val_top1 is not None and row.val_top1 > best["val"]:
            state = {k: v.detach().clone() for k, v in pruned.state_dict().items()}
            best.update(val=row.val_top1, epoch=row.epoch, state=state)
        if context.optimistic:
            seen.append((row.epoch, evaluate(pruned, test).top1))

    trainer.run_phase(
        pruned, recipe, "recovery", validate=True, charged=True, macs=price.macs,
        after_epoch=after_epoch,
    )  # fmt: skip
    pruned.eval()
    final = _read_point(pruned, "final", trainer, test, arrays)
    best_val = None
    if best["state"]:
        last = {k: v.detach().clone() for k, v in pruned.state_dict().items()}
        pruned.load_state_dict(best["state"])
        found = baseline.accuracy(pruned, trainer, test)
        best_val = BestVal(epoch=best["epoch"], accuracy=found)
        pruned.load_state_dict(last)
    return Outcome(before, recalibrated, final, best_val, arrays, seen)


def _read_point(
    model: nn.Module,
    point: str,
    trainer: Trainer,
    test: BatchSource,
    arrays: dict[str, np.ndarray],
) -> Accuracy:
    found: dict[str, Evaluation] = {"test": evaluate(model, test)}
    if len(trainer.val):
        found["val"] = evaluate(model, trainer.val)
    for split, result in found.items():
        arrays[f"{split}_{point}_class"] = result.predicted.numpy()
        arrays[f"{split}_{point}_margin"] = result.margin.numpy()
    return Accuracy(
        test_top1=found["test"].top1,
        test_top5=found["test"].top5,
        test_loss=found["test"].loss,
        val_top1=found["val"].top1 if "val" in found else None,
    )


# ---- facts ---------------------------------------------------------------------------------------


def _check_price(net: Network, plan: Plan, price: measure.Cost) -> None:
    analytic = net.macs(plan.widths())
    if analytic != price.macs:
        raise measure.CostMismatch(f"cost model says {analytic} MACs, fvcore {price.macs}")


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


def _check_selection(
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


def _agreement(
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
    _, other = _start(other_spec, method, test, replace(context, optimistic=False))
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


def _write_optimistic(store: Store, spec: RunSpec, outcome: Outcome) -> None:
    epoch, best = max(outcome.optimistic, key=lambda pair: pair[1])
    facts = {
        "run_id": spec.run_id,
        "kind": "optimistic",
        "best_test_top1": best,
        "best_test_epoch": epoch,
        "last_test_top1": outcome.final.test_top1,
        "epochs": len(outcome.optimistic),
        "test_top1": [accuracy for _, accuracy in outcome.optimistic],
        "hardware": environment.hardware_kind(),
    }
    store.write_measurement(spec, "optimistic", digest(facts, 12), facts)
