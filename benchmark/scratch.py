"""Scratch: the network that a method chose, with new weights (DECISIONS 17). Kept channels, and so
widths, are the method's; nothing of the dense network's weights is left. What the method reaches
above it is what its weights are worth; the rest, any network of these widths has.

`scratch` (total track) trains it for as many images as dense training and budget have together.
`scratch-e` and `scratch-b` (paper track) train it by the recipe of the dense network, for as many
epochs, or for as many multiply-accumulates as the dense network had: epochs times dense over pruned
FLOPs (Liu et al., Rethinking the Value of Network Pruning, ICLR 2019, section 3).
"""

from __future__ import annotations

import math
from typing import Literal

from benchmark import baseline
from benchmark.became import Became, became
from benchmark.context import Context, make_trainer
from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.options import Options
from benchmark.record import Dense
from benchmark.rounds import Chosen
from benchmark.spec import Anew, Recipe, RunSpec, Scratch, Track
from benchmark.trainer import Trainer

DRAW = "scratch"  # not the draw that the dense network began with: those would be winning tickets
# Of the epochs of scratch-b. On ImageNet the code of Liu et al. doubles them at most: 180 for 90.
MOST = {"imagenet": 2.0}

LEGAL: dict[Track, tuple[str, ...]] = {  # words of --weights
    "common": ("inherited",),
    "total": ("inherited", "scratch"),
    "paper": ("inherited", "scratch-e", "scratch-b"),
}


def check(options: Options) -> None:
    """Raises BadInput for new weights where the track has none, or has other ones."""
    legal = LEGAL[options.track]
    for word in options.weights:
        if word not in legal:
            raise BadInput(f"--weights {word}: the {options.track} track has {' and '.join(legal)}")
    if options.lane != "default" and options.weights != ["inherited"]:
        raise BadInput("--weights: new ones are for untuned runs; leave out --lane")


def begin(
    spec: RunSpec, chosen: Chosen, dense: Dense, chosen_with: Trainer, context: Context
) -> tuple[RunSpec, Trainer, Became]:
    """By which spec and with which trainer the network that was chosen is trained, and which one:
    itself, or with new weights. What the choice cost then stands in the record of the run that
    chose; the title that it gave itself comes along."""
    if spec.scratch is None:
        return spec, chosen_with, chosen.made
    net = Network(baseline.new_model(spec, DRAW), baseline.example(spec), spec.scope)
    made = became(net.to(context.device), chosen.plan)
    trained = _trained_as(spec, longer(spec, dense.cost.macs / made.macs))
    trainer = make_trainer(trained, context)
    trainer.notes |= {k: v for k, v in chosen_with.notes.items() if k == "label"}
    return trained, trainer, made


def longer(spec: RunSpec, ratio: float) -> float:
    """Factor of the epochs. `ratio`: of dense to pruned FLOPs."""
    if spec.scratch is None or spec.scratch.kind != "scratch-b":
        return 1.0
    return min(ratio, MOST.get(spec.data.recipes, math.inf))


def _trained_as(spec: RunSpec, factor: float) -> RunSpec:
    recipe = spec.training.model_copy(update={"epochs": spec.own_epochs * factor})
    own = {"recovery": recipe, "budget_epochs": recipe.epochs, "preparation": "charged"}
    return spec.chosen_by.model_copy(update=own)


def of(
    kind: Anew | Literal["inherited"], dense: Recipe, epochs: float | None = None
) -> Scratch | None:
    """New weights by the recipe of the dense network, for as many epochs unless said."""
    if kind == "inherited":
        return None
    return Scratch(kind=kind, recipe=dense.model_copy(update={"epochs": epochs or dense.epochs}))
