"""When channels go: all at once, in K steps, or layer by layer. The schedule is an axis of the grid
and not a property of a method: every method can be run by each.

In each round the method sees the network as the round before left it, smaller and trained again,
and chooses anew. Rounds share the budget evenly: when round i of n ends, i / n of it is spent, what
the method took to prepare included. Targets grow evenly in FLOPs of the dense network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from benchmark import baseline, flops
from benchmark.became import Became, became
from benchmark.checkpoint import Checkpoints
from benchmark.context import Context, budget_of
from benchmark.ledger import BudgetExceeded
from benchmark.network import Network
from benchmark.planning import make_plan
from benchmark.reconstruct import reconstruct
from benchmark.spec import RunSpec
from benchmark.trainer import Trainer
from methods.api import Budget, Method, Plan


@dataclass(frozen=True)
class Chosen:
    """What stays of the dense network. Scores, and the network by which the choice is judged, are
    those of a single round: the choices of several have no scores in common."""

    plan: Plan  # units of the dense network
    made: Became
    scores: dict[str, Tensor] | None
    judged: Network


def choose(
    spec: RunSpec,
    method: Method,
    net: Network,
    trainer: Trainer,
    checkpoints: Checkpoints,
    context: Context,
) -> Chosen:
    """Plan and smaller network by the run's schedule, before the last recovery; `checkpoints` keep
    the training between rounds.

    Raises:
        BudgetExceeded: a round leaves nothing to train with.
    """
    if not spec.in_rounds:
        return _at_once(spec, method, net, trainer, context)
    steps, dense = list(goals(spec, net)), net
    kept = {group.name: tuple(range(group.width)) for group in net.groups}
    for number, goal in enumerate(steps, 1):
        trainer.begin_round(number)
        plan, _ = make_plan(spec, method, net, _now(goal, dense, net), trainer, context, number)
        kept |= {group: tuple(kept[group][i] for i in stay) for group, stay in plan.keep.items()}
        if number == len(steps):
            break
        pruned = net.remove(plan)
        cut = 1 - net.macs(plan.widths()) / dense.macs()
        context.log(f"round {number} of {len(steps)}: {100 * cut:.2f} % of the FLOPs removed")
        trainer.checkpoints = checkpoints
        _train(spec, pruned, number, len(steps), trainer)
        net = Network(pruned, baseline.example(spec), spec.scope, dense.limits(goal).full)
        net.to(context.device).eval()
        trainer.use(net)
    trainer.note("rounds", len(steps))
    return Chosen(Plan(kept), became(net, plan), None, net)


def _at_once(
    spec: RunSpec, method: Method, net: Network, trainer: Trainer, context: Context
) -> Chosen:
    dense = None if method.scores_first else net.copy()  # before a method works on the weights
    plan, scores = make_plan(spec, method, net, budget_of(spec, net), trainer, context)
    judged = dense or net
    if spec.reconstruct == "ls":
        judged = dense or net.copy()  # the choice is judged on the weights it was made on
        reconstruct(net, plan, trainer)
    return Chosen(plan, became(net, plan), scores, judged)


def goals(spec: RunSpec, net: Network) -> Iterator[Budget]:
    """Of each round, on the dense network."""
    whole = budget_of(spec, net)
    if spec.steps:
        for step in range(1, spec.steps + 1):
            yield replace(whole, macs_cut=whole.macs_cut * step / spec.steps)
        return
    widths = net.allocate(whole)
    for group in net.groups:
        if widths[group.name] < group.width:
            share = 1 - widths[group.name] / group.width
            rates = dict.fromkeys(group.layers, share)
            yield replace(whole, allocation="listed", rates=dict.fromkeys(net.convs, 0.0) | rates)


def _now(goal: Budget, dense: Network, net: Network) -> Budget:
    """The same goal for the network as it is now."""
    left = (1 - goal.macs_cut) * dense.macs() / net.macs()
    return replace(goal, macs_cut=max(0.0, 1 - left))


def _train(spec: RunSpec, pruned: nn.Module, number: int, rounds: int, trainer: Trainer) -> None:
    """Until the round's share of the budget is spent."""
    share = trainer.ledger.allowed * number // rounds - trainer.ledger.spent
    if share <= 0:
        raise BudgetExceeded(
            f"round {number} of {rounds} leaves nothing to train with: choosing took "
            f"{trainer.ledger.spent} images, {trainer.ledger.allowed * number // rounds} were its "
            "share so far; take fewer rounds, or a larger budget"
        )
    recipe = spec.recovery.model_copy(update={"epochs": share / trainer.ledger.train_images})
    macs = flops.cost(pruned, baseline.example(spec)).macs
    name = f"recovery-{number}"
    trainer.run_phase(pruned, recipe, name, validate=True, charged=True, macs=macs)
    pruned.eval()
