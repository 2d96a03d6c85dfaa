"""Scores and plans, each worked out once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from benchmark import select
from benchmark.became import became, plan_of
from benchmark.checkpoint import Moment, joined, part, seed_everything
from benchmark.claims import take_for
from benchmark.context import Context, checkpoints_of
from benchmark.encoding import encode
from benchmark.ledger import BudgetExceeded, Ledger
from benchmark.meter import metered
from benchmark.network import Network
from benchmark.phase import EpochRow
from benchmark.schedule import phase_seed
from benchmark.spec import RunSpec, digest, identity
from benchmark.store import Stage
from benchmark.trainer import Trainer
from methods.api import Budget, Method, Plan

LANE = {"lane", "trials", "tuned"}  # who chose the values: nothing that is computed depends on it


def make_plan(
    spec: RunSpec,
    method: Method,
    net: Network,
    budget: Budget,
    trainer: Trainer,
    context: Context,
    number: int = 1,
) -> tuple[Plan, dict[str, Tensor] | None]:
    """The plan, and the scores behind it if the method has any. Scores do not depend on target or
    allocation, so one scoring stage serves all of them; in later rounds of a schedule (`number`)
    they depend on all that came before."""
    if not method.scores_first:
        return planned(spec, method, net, budget, trainer, context, number), None
    scores = scored(spec, method, net, trainer, context, number)
    seed_everything(phase_seed(spec.seeds.run, "select"))  # whoever made the scores
    plan = method.select(net, scores, budget)
    _check_plan(plan, net, _owed(method, budget))
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


def _owed(method: Method, budget: Budget) -> Budget:
    return budget if method.targets_macs else replace(budget, macs_cut=0.0)


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


def scores_key(spec: RunSpec, prepares: bool = True, number: int = 1) -> str:
    """Everything that scoring depends on (DECISIONS 6); how recovery trains matters only to
    methods that train themselves, and to later rounds."""
    spec = spec.chosen_by
    if number > 1:
        return digest([number, identity(spec)])
    apart = {"allocation", "rates", "flops_reduction", "min_width", "round_to", "reconstruct"}
    apart |= {"schedule"} | LANE
    if not prepares:
        apart |= {"recovery", "preparation"}
    return digest({k: v for k, v in identity(spec).items() if k not in apart})


def scored(
    spec: RunSpec,
    method: Method,
    net: Network,
    trainer: Trainer,
    context: Context,
    number: int = 1,
) -> dict[str, Tensor]:
    """Scores per layer; `net` and `trainer` are left as scoring leaves them, reused or not."""

    def work() -> Moment:
        scores = method.score(net, trainer)
        _check_scores(scores, net)
        return Moment(scores, {})

    key = scores_key(spec, method.prepares, number)
    found = _once("scores", key, work, net, trainer, context).tensors
    first = [n for n in net.layers if n in found]  # a file does not keep the order
    return {n: found[n] for n in (*first, *sorted(found.keys() - set(first)))}


def planned(
    spec: RunSpec,
    method: Method,
    net: Network,
    budget: Budget,
    trainer: Trainer,
    context: Context,
    number: int = 1,
) -> Plan:
    """The plan of a method that decides everything; `net` and `trainer` as in `scored`."""
    spec = spec.chosen_by

    def work() -> Moment:
        plan = method.prune(net, budget, trainer)
        _check_plan(plan, net, _owed(method, budget))
        net.unmask()
        kept = {group: [int(i) for i in units] for group, units in plan.keep.items()}
        return Moment(plan.tensors(), kept)

    content = {k: v for k, v in identity(spec).items() if k not in {"reconstruct"} | LANE}
    key = digest(content if number == 1 else [number, content])
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
