"""Networks counted again by both rules (benchmark.counting): those of our runs, and those that a
paper's list of rates per layer would leave.

What builds networks is imported late: it takes seconds to load, and most tables need none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import methods
from benchmark.claimed import SAME_POINT
from benchmark.errors import BadInput
from benchmark.published import Claim
from benchmark.record import RunRecord
from benchmark.spec import parts_of
from methods.api import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.counting import Counted
    from benchmark.network import Network

CLASSES, SIDE = 10, 32  # of the networks of published lists; 100 classes change no printed digit
Key = tuple[str, int, int]  # structure, image size, classes
_NETWORKS: dict[Key, Network | None] = {}  # None: it cannot be built


def of_run(record: RunRecord) -> Counted | None:
    """What the run left, by both rules. None: its network cannot be built here, or costs something
    else than the record says, as one that was changed since."""
    found = _left(_key(record), tuple(sorted(record.widths.items())))
    return found if found is not None and found.physical == record.pruned.macs else None


def macs_of(record: RunRecord, masks: Mapping[str, Tensor]) -> tuple[int, int | None] | None:
    """Of the dense network and of what the plan leaves of it; the second is None where images
    decide. `masks`: kept kernels by layer. None: its network cannot be built here."""
    key = _key(record)
    net, found = _NETWORKS[key], _left(key, tuple(sorted(record.widths.items())))
    if net is None or found is None:
        return None
    if record.spec.result == "channels":
        return found.dense, found.physical
    if record.spec.result == "dynamic":
        return found.dense, None
    shapes = {term.layer: net.weight(term.layer).shape[:2] for term in net.terms}
    if any(keep.shape != shapes.get(layer) for layer, keep in masks.items()):
        return found.dense, 0  # a plan of another network: no cost of it is right
    gone = sum(net.kernel_macs(layer) * int((~keep).sum()) for layer, keep in masks.items())
    return found.dense, found.dense - gone


def _key(record: RunRecord) -> Key:
    """Of its network, which is built unless it was before."""
    spec = record.spec
    key = (spec.arch.structure, spec.data.image_size, spec.data.num_classes)
    if key not in _NETWORKS:
        _NETWORKS[key] = _build(record)
    return key


def of_claim(claim: Claim) -> Counted | None:
    """What the list of rates leaves that goes with a published figure: it is in the card of the
    method, and meant for this network, data and FLOPs reduction. None: there is no such list."""
    if not (claim.label and claim.arch) or claim.flops_reduction is None:
        return None
    recipe = methods.find(parts_of(claim.label)[0]).recipe(claim.arch)
    away = abs(100 * recipe.get("flops_reduction", 0.0) - float(claim.flops_reduction))
    if recipe.get("dataset") != claim.data or away > SAME_POINT:
        return None
    return of_recipe(claim.arch, recipe)


def of_recipe(arch: str, recipe: Mapping[str, Any]) -> Counted | None:
    """What the rates of a card's recipe leave. `counted_rates`: where a source counts other rates
    than it prunes with."""
    rates = recipe.get("counted_rates", recipe.get("rates", ()))
    return _listed(arch, tuple(rates)) if rates else None


@lru_cache
def _listed(arch: str, rates: tuple[float, ...]) -> Counted:
    from benchmark.counting import by_layers, kept_outputs

    net = _of_claims(arch)
    return by_layers(net, kept_outputs(net, rates))


@lru_cache
def _of_claims(arch: str) -> Network:
    import torch

    from benchmark.archs import build
    from benchmark.network import Network

    with torch.random.fork_rng(devices=[]):  # its random weights leave the caller's draws alone
        return Network(build(arch, CLASSES), torch.zeros(1, 3, SIDE, SIDE))


@lru_cache(maxsize=10_000)
def _left(key: Key, widths: tuple[tuple[str, int], ...]) -> Counted | None:
    """Seeds, and methods of equal allocation, often leave the same widths."""
    from benchmark.counting import by_widths

    net = _NETWORKS[key]
    return None if net is None else by_widths(net, dict(widths))


def _build(record: RunRecord) -> Network | None:
    from benchmark.baseline import example, new_model
    from benchmark.network import Network

    try:
        return Network(new_model(record.spec), example(record.spec))
    except (BadInput, Unsupported):
        return None
