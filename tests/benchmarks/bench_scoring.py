"""What choosing the channels of ResNet-56 costs with each paper's own number of images, on two
threads, of methods that train nothing first. The goal is a minute for scores of weights, batch
norms, ranks and Taylor; the others are shown beside them.
"""

from __future__ import annotations

import os
import time
from functools import cache

import pytest
import torch
from pairs import CLASSES, SIZE, trainer
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark import archs
from benchmark.network import Network
from benchmark.trainer import Trainer
from methods import build as build_method
from methods import find, names
from methods.api import Budget

ARCH, IMAGES, THREADS = "resnet56", 8000, 2
LABELS = [*names(), "taylor:official", "taylor:weight", "hrankplus:official", "hrel:official"]


@cache
def images() -> Trainer:
    return trainer(IMAGES)


@cache
def network() -> Network:
    """Random weights; running statistics of the images, so that maps are as in a trained one."""
    torch.manual_seed(0)
    net = Network(archs.build(ARCH, CLASSES), torch.zeros(1, 3, SIZE, SIZE)).to(images().device)
    images().recalibrate(net, 0, note=False)
    net.eval()
    return net


def trains_nothing(label: str) -> bool:
    """Nor prunes nothing, nor takes what it knows from a file."""
    entry = find(label)
    kinds = {entry.is_control, entry.cls.imported, bool(entry.cls.shares)}
    return kinds == {False} and entry.result == "channels"


@pytest.mark.benchmark(group="choosing channels of ResNet-56")
@pytest.mark.parametrize("label", [label for label in LABELS if trains_nothing(label)])
def test_cost_of_choosing(benchmark: BenchmarkFixture, label: str) -> None:
    entry, run, net = find(label), images(), network().copy()
    method = build_method(entry, entry.params())
    budget = Budget(0.5, allocation="uniform")
    work = (method.score, (net, run)) if method.scores_first else (method.prune, (net, budget, run))
    before, began = torch.get_num_threads(), time.process_time()
    torch.set_num_threads(min(THREADS, len(os.sched_getaffinity(0))))
    try:
        found = benchmark.pedantic(work[0], args=work[1], rounds=1)  # type: ignore[no-untyped-call, unused-ignore]
    finally:
        torch.set_num_threads(before)
    if method.scores_first:
        assert all(torch.isfinite(found[layer]).all() for layer in net.layers)
    else:
        assert net.macs(found.widths()) < 0.6 * net.macs()
    benchmark.extra_info["cpu_seconds"] = round(time.process_time() - began, 2)
    benchmark.extra_info["images"] = getattr(method, "num_images", 0)
