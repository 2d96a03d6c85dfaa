"""How a choice comes about while a method trains (DECISIONS 24): after a quarter, a half, three
quarters and all of its phase, is the choice better than its inverse and than random draws, and do
two seeds of the method agree?
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark import select
from benchmark.context import Context, budget_of, make_trainer
from benchmark.dissection import short
from benchmark.network import Network
from benchmark.planning import make_plan
from benchmark.schedule import Schedule
from benchmark.selection import check_agreement, check_selection
from benchmark.spec import RunSpec, canonical
from benchmark.verdict import Say
from methods.api import Method, Plan

QUARTERS = (1, 2, 3)


def prefixes(epochs: float, images: int, batch_size: int) -> list[float]:
    """Epochs at about 1/4, 1/2 and 3/4 of a training phase on this many images, moved to the ends
    of batches: a training of that length takes exactly the first steps of the whole one, as long as
    the rate is constant."""
    sizes = [size for epoch in Schedule.of(epochs, images, batch_size).sizes for size in epoch]
    ends = np.cumsum(sizes)
    return [float(ends[max(1, round(q * len(ends) / 4)) - 1]) / images for q in QUARTERS]


def trains(spec: RunSpec, method: Method) -> list[str]:
    """The parameters that say how long scoring trains."""
    return [name for name in method.shares if spec.method.params.get(name)]


def lengths(spec: RunSpec, method: Method, images: int) -> list[RunSpec]:
    """The run with its training phases cut to each length, the run itself last. The run alone
    where scoring draws no random numbers or does not train."""
    phases = trains(spec, method) if method.stochastic else []
    params, batch = spec.method.params, spec.recovery.batch_size
    cuts = {name: prefixes(params[name], images, batch) for name in phases}
    found = [
        params | {name: cut[i] for name, cut in cuts.items()}
        for i in range(len(QUARTERS) if phases else 0)
    ]
    distinct = {canonical(p): p for p in (*found, params)}
    return [with_params(spec, p) for p in distinct.values()]


def with_params(spec: RunSpec, params: dict[str, Any]) -> RunSpec:
    own = spec.method.model_copy(update={"params": params})
    return spec.model_copy(update={"method": own})


def over_training(
    spec: RunSpec, method: Method, base: Network, plan: Plan, context: Context, say: Say
) -> list[dict[str, Any]]:
    """Facts after each length; `base` is the dense network, `plan` that of the run. Scores are kept
    in `stages/`, so what was interrupted goes on."""
    phases = trains(spec, method)
    found = []
    for cut in lengths(spec, method, len(context.data.train)):
        own = type(method)(**cut.method.params)
        epochs = {name: cut.method.params[name] for name in phases}
        found.append(point(cut, own, base, plan, context) | {"epochs": sum(epochs.values())})
        say("  " + in_words(found[-1]))
    return found


def point(
    spec: RunSpec, method: Method, base: Network, plan: Plan, context: Context
) -> dict[str, Any]:
    """Score, and judge the choice at the widths of `plan`."""
    net, trainer = base.copy(), make_trainer(spec, context)
    trainer.use(net)
    budget = budget_of(spec, net)
    chosen, scores = make_plan(spec, method, net, budget, trainer, context)
    assert scores is not None
    own = select.best(net.group_scores(scores, method.comparable), plan.widths())
    check = check_selection(method, net, scores, own, budget, trainer)
    agreement = check_agreement(spec, method, net, scores, chosen, budget, context)
    rates = {row.lr for row in trainer.curve}
    return {
        "constant_rate": len(rates) <= 1,
        "vote": short(check.score) if check else None,
        "inverse": short(check.inverse) if check else None,
        "random": [short(r) for r in check.random] if check else [],
        "rank_correlation": short(agreement.rank_correlation) if agreement else None,
        "kept_overlap": short(agreement.kept_overlap) if agreement else None,
        "leakage": trainer.notes.get("leakage") or {},
    }


def in_words(facts: dict[str, Any]) -> str:
    """One line about a point."""
    when = f"after {facts['epochs']:.2f} epochs" if facts["epochs"] else "without training"
    parts = []
    if facts["vote"] is not None:
        drawn = float(np.mean(facts["random"]))
        parts.append(
            f"kept by score {100 * facts['vote']:.1f} %, inverse {100 * facts['inverse']:.1f} %, "
            f"random {100 * drawn:.1f} % of validation images"
        )
    if facts["rank_correlation"] is not None:
        parts.append(f"two seeds agree by {facts['rank_correlation']:.2f}")
    return f"{when}: {'; '.join(parts) or 'nothing to judge'}"
