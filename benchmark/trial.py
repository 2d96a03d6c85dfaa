"""A method let loose on a new network, with everything that is needed to judge it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmark.images import Images
from benchmark.meter import metered
from benchmark.network import Network
from benchmark.trainer import Trainer
from methods import Entry, build
from methods.api import Budget, ChannelGroup, Method, Plan, Scores, Unsupported


class NotApplicable(Exception):
    """The promise does not concern this method; the text says why."""


@dataclass(frozen=True)
class Bench:
    """What the checks run on. Both factories take a seed and make something new at every call;
    networks of two seeds are trained apart."""

    network: Callable[[int], Network]
    trainer: Callable[[int], Trainer]
    test: Images
    macs_cut: float = 0.5
    min_keep: float = 0.1
    params: Mapping[str, Any] = field(default_factory=dict)  # of the method, where not its defaults


@dataclass
class Outcome:
    """A method after its work."""

    method: Method
    budget: Budget
    plan: Plan
    scores: Scores | None  # of a method that leaves `prune` alone
    net: Network
    trainer: Trainer
    gradient_images: int  # that passed through the network with gradients enabled


def method_of(entry: Entry, epochs: float, params: Mapping[str, Any] | None = None) -> Method:
    """The method with its defaults but for `params`, shares of the budget resolved."""
    return build(entry, entry.resolved(entry.params() | dict(params or {}), epochs))


def prune(
    entry: Entry,
    bench: Bench,
    *,
    network_seed: int = 0,
    seed: int = 0,
    prepare: Callable[[Network], None] = lambda net: None,
    watch: Callable[[Trainer], None] = lambda trainer: None,
    params: Mapping[str, Any] | None = None,
) -> Outcome:
    """Let the method choose channels of a new network, by its own allocation."""
    net, trainer = bench.network(network_seed), bench.trainer(seed)
    prepare(net)
    watch(trainer)
    trainer.use(net)
    method = method_of(entry, trainer.epochs, dict(bench.params) | dict(params or {}))
    budget = Budget(bench.macs_cut, bench.min_keep, method.allocations[0])
    try:
        with metered(net) as seen:
            if method.scores_first:
                scores: Scores | None = method.score(net, trainer)
                plan = method.select(net, scores or {}, budget)
            else:
                scores, plan = None, method.prune(net, budget, trainer)
    except Unsupported as reason:
        raise NotApplicable(str(reason)) from reason
    return Outcome(method, budget, plan, scores, net, trainer, sum(seen))


@torch.no_grad()
def permute(net: Network, group: ChannelGroup, order: Tensor, x: Tensor) -> None:
    """Channel j of the group becomes what channel order[j] was.

    Raises:
        NotApplicable: the network then answers x (N, 3, H, W) in another way.
    """
    before = net(x)
    for layer in group.layers:
        norm = net.norm(layer)
        tensors = [net.weight(layer), net.bias(layer), norm.weight, norm.bias]
        for tensor in [*tensors, norm.running_mean, norm.running_var]:
            if tensor is not None:
                tensor.copy_(tensor[order].clone())
    first = net.map.first[group.name]
    for reader in group.readers:
        units, weight = net.map.reads[reader], net.weight(reader)
        old = weight.clone()
        for unit, source in enumerate(order.tolist()):
            weight[:, units == first + unit] = old[:, units == first + source]
    if not torch.allclose(net(x), before, atol=1e-4, rtol=1e-4):
        raise NotApplicable(f"the channels of {group.name} cannot be exchanged by weights alone")


def some_images(trainer: Trainer, count: int = 16) -> Tensor:
    """(N, 3, H, W): the first training images, not charged."""
    return trainer.train.batch(torch.arange(min(count, len(trainer.train))))[0]
