"""Price of scores: Taylor-FO with one backward pass for all layers against one per layer, HRel with
batched eigenvalues against one matrix at a time, FPICI with tensors against one filter at a time.
Few images: both sides are linear in their number. Speed is reported; what is asserted is that both
find the same, and how many passes or decompositions they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pairs import CLASSES, SIZE, Turns, trainer
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from benchmark import archs
from benchmark.network import Network
from benchmark.trainer import Trainer
from methods.api import Scores
from methods.fpici import FPICI
from methods.hrel import FILTERS, HRel, distances, kernel, relevance
from methods.taylor import Taylor

TURNS, NAIVE_TURNS = 7, 3
ARCHS = ("resnet20", "resnet56")
TAYLOR_IMAGES, TAYLOR_BATCH = 32, 16
HREL_IMAGES = 100


def network(arch: str, run: Trainer) -> Network:
    """Random weights; running statistics of the images, so that maps are as in a trained one."""
    torch.manual_seed(0)
    net = Network(archs.build(arch, CLASSES), torch.zeros(1, 3, SIZE, SIZE)).to(run.device)
    run.recalibrate(net, 0, note=False)
    return net


def compare(
    benchmark: BenchmarkFixture,
    ours: Callable[[], Scores],
    naive: Callable[[], Scores],
    turns: int,
    calls: list[int],
) -> dict[str, int]:
    """Both find the same; then they take turns. Gives back how often each adds to `calls`."""
    a, mine = ours(), len(calls)
    b = naive()
    counted = {"ours": mine, "naive": len(calls) - mine}
    assert a.keys() == b.keys()
    for layer, score in a.items():
        torch.testing.assert_close(score, b[layer], rtol=1e-3, atol=1e-4 * float(score.max()))
    timed = Turns(ours=ours, naive=naive)
    benchmark.pedantic(timed, rounds=turns)  # type: ignore[no-untyped-call, unused-ignore]
    benchmark.extra_info["milliseconds"] = timed.milliseconds()
    benchmark.extra_info["naive_over_ours"] = timed.ratio("naive", "ours")
    benchmark.extra_info["layers"] = len(a)
    benchmark.extra_info["channels"] = sum(len(score) for score in a.values())
    return counted


# ---- Taylor-FO -----------------------------------------------------------------------------------


def pass_per_layer(net: Network, run: Trainer) -> Scores:
    """All images again, forward and backward, for every layer."""
    net.eval()
    x, y = run.train.batch(run.balanced(run.train, TAYLOR_IMAGES))
    batches = list(zip(x.split(TAYLOR_BATCH), y.split(TAYLOR_BATCH), strict=True))
    scores = {}
    for layer in net.layers:
        norm, squares = net.norm(layer), []
        for images, labels in batches:
            loss = F.cross_entropy(net(images), labels)
            gamma, beta = torch.autograd.grad(loss, [norm.weight, norm.bias])
            squares.append((norm.weight * gamma + norm.bias * beta).detach().double().square())
        scores[layer] = torch.stack(squares).mean(0).cpu()
    return scores


@pytest.mark.benchmark(group="taylor")
@pytest.mark.parametrize("arch", ARCHS)
def test_one_backward_against_one_per_layer(benchmark: BenchmarkFixture, arch: str) -> None:
    run = trainer(TAYLOR_IMAGES)
    net, method = network(arch, run), Taylor(TAYLOR_IMAGES, TAYLOR_BATCH)

    def ours() -> Scores:
        return method.score(net, run)  # type: ignore[arg-type]

    calls: list[int] = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    counted = compare(benchmark, ours, lambda: pass_per_layer(net, run), NAIVE_TURNS, calls)
    batches = TAYLOR_IMAGES // TAYLOR_BATCH
    assert counted == {"ours": batches, "naive": batches * len(net.layers)}
    benchmark.extra_info["passes"] = counted
    benchmark.extra_info["images"] = TAYLOR_IMAGES


# ---- HRel ----------------------------------------------------------------------------------------


def one_matrix_at_a_time(maps: Tensor, labels: Tensor, width: Tensor) -> Tensor:
    """Both entropies of every filter from whole matrices, one after the other."""
    same = (labels[:, None] == labels).double()
    own, score = entropy(same), []
    for one in maps.unbind(1):
        k = kernel(distances(one.flatten(1)[None]), width)[0]
        score.append(entropy(k) + own - entropy(k * same))
    return torch.stack(score)


def entropy(matrix: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(matrix / matrix.trace()).abs()
    return torch.special.entr(values).sum() / math.log(2)


@pytest.mark.benchmark(group="hrel")
@pytest.mark.parametrize("arch", ARCHS)
def test_batched_eigenvalues_against_one_matrix_at_a_time(
    benchmark: BenchmarkFixture, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one batch, whose maps both are given."""
    run = trainer(HREL_IMAGES)
    net = network(arch, run)
    x, y = run.train.batch(run.balanced(run.train, HREL_IMAGES))
    method = HRel()
    with torch.no_grad(), net.tapped(method.sites(net)) as tapped:  # type: ignore[arg-type]
        net(x)
        maps = dict(tapped)
    width = {n: method.best_width(m, y, 0) for n, m in maps.items()}
    calls: list[int] = []
    decompose = torch.linalg.eigvalsh

    def eigvalsh(matrix: Tensor) -> Tensor:
        calls.append(1)
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", eigvalsh)

    def all_layers(scores: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Scores:
        return {n: scores(m, y, width[n]).cpu() for n, m in maps.items()}

    ours, naive = (lambda f=f: all_layers(f) for f in (relevance, one_matrix_at_a_time))
    counted = compare(benchmark, ours, naive, NAIVE_TURNS, calls)
    parts = [math.ceil(m.shape[1] / FILTERS) for m in maps.values()]
    filters = sum(m.shape[1] for m in maps.values())
    assert counted["ours"] == sum(parts) * (1 + CLASSES)
    assert counted["naive"] == 2 * filters + len(maps)
    benchmark.extra_info["decompositions"] = counted
    benchmark.extra_info["images"] = HREL_IMAGES


# ---- FPICI ---------------------------------------------------------------------------------------


@torch.no_grad()
def one_filter_at_a_time(net: Network) -> Scores:
    """A histogram per filter, a cosine per pair."""
    scores = {}
    for layer in net.layers:
        filters = net.weight(layer).flatten(1).double()
        low, high, size = float(filters.min()), float(filters.max()), filters.shape[1]
        information, own = [], []
        for i, one in enumerate(filters):
            share = torch.histc(one, 10, low, high) / size
            information.append(torch.special.entr(share).sum() / math.log(2))
            others = [
                F.cosine_similarity(one, f, dim=0).abs() for j, f in enumerate(filters) if j != i
            ]
            own.append(1 - torch.stack(others).mean())
        views = [torch.stack(view) for view in (information, own)]
        scaled = [(v - v.min()) / (v.max() - v.min()) for v in views]
        scores[layer] = (scaled[0] + scaled[1]) / 2
    return scores


@pytest.mark.benchmark(group="fpici")
@pytest.mark.parametrize("arch", ARCHS)
def test_tensors_against_one_filter_at_a_time(benchmark: BenchmarkFixture, arch: str) -> None:
    run = trainer(2)
    net = network(arch, run)

    def ours() -> Scores:
        return FPICI().score(net, run)  # type: ignore[arg-type]

    calls: list[int] = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    naive_turns = TURNS if arch == ARCHS[0] else NAIVE_TURNS
    counted = compare(benchmark, ours, lambda: one_filter_at_a_time(net), naive_turns, calls)
    assert counted == {"ours": 0, "naive": 0}  # weights alone
