"""GWCS: the Haar check of METHODS 14, the parts of the fitness, and the genetic search."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from benchmark.cifar_resnet import CifarResNet
from benchmark.network import Network
from methods import gwcs
from methods.api import Budget, Unsupported
from methods.genetic import Traits, cross, mutate, search
from methods.gwcs import GWCS, stages
from methods.wavelets import describe, fisher_ratio, haar

HALF = Budget(0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Haar bands ----------------------------------------------------------------------------------


def test_haar_of_the_worked_example() -> None:
    bands = haar(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).flatten()
    assert bands.tolist() == [5.0, -2.0, -1.0, 0.0]
    assert float(bands.square().sum()) == 30.0


def test_haar_is_that_of_loops_and_keeps_the_energy() -> None:
    maps = torch.randn(2, 3, 6, 8, generator=seeded())
    bands = haar(maps)
    assert bands.shape == (4, 2, 3, 3, 4)
    for n in range(2):
        for c in range(3):
            for i in range(3):
                for j in range(4):
                    (p, q), (r, s) = maps[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].tolist()
                    expected = [p + q + r + s, p + q - r - s, p - q + r - s, p - q - r + s]
                    found = bands[:, n, c, i, j].tolist()
                    assert found == pytest.approx([e / 2 for e in expected], abs=1e-6)
    torch.testing.assert_close(bands.square().sum((0, 3, 4)), maps.square().sum((2, 3)))


def test_odd_sizes_repeat_the_edge() -> None:
    maps = torch.randn(2, 5, 7, generator=seeded())
    padded = torch.cat([maps, maps[:, -1:]], dim=1)
    padded = torch.cat([padded, padded[:, :, -1:]], dim=2)
    assert torch.equal(haar(maps), haar(padded))
    assert haar(torch.tensor([[3.0]])).flatten().tolist() == [6.0, 0.0, 0.0, 0.0]  # LL alone


# ---- what is known of channels -------------------------------------------------------------------


def test_fisher_ratio_is_that_of_loops() -> None:
    values = torch.randn(30, 4, generator=seeded()).double()
    labels = torch.arange(30) % 3
    values[:, 1] += labels
    found = fisher_ratio(values, labels, 5)  # two classes have no image
    for channel in range(4):
        v, between, within = values[:, channel], 0.0, 0.0
        for k in range(3):
            own = v[labels == k]
            between += len(own) * float(own.mean() - v.mean()) ** 2
            within += float((own - own.mean()).square().sum())
        assert float(found[channel]) == pytest.approx(between / within, rel=1e-4)
    assert int(found.argmax()) == 1


def test_fisher_ratio_of_extremes() -> None:
    labels = torch.arange(12) % 3
    same, apart = torch.full((12,), 0.1), labels.float()
    found = fisher_ratio(torch.stack([same, apart, 0 * same], dim=1).double(), labels, 3)
    assert found.tolist() == pytest.approx([0.0, 1e6, 0.0])


def test_descriptions_are_those_of_loops() -> None:
    net = tiny.network()
    layers = (net.layers[0], net.layers[2])
    batches = [tiny.batch(6), tiny.batch(5, start=6)]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad(), net.tapped("act", layers) as maps:
        found = describe(net, batches, layers, tiny.CLASSES)
        net(x)
    for layer in layers:
        energy, means = torch.zeros(maps[layer].shape[1], 4), []
        for image in maps[layer]:
            bands = haar(image)
            means.append(bands[0].mean((1, 2)))
            for channel in range(len(image)):
                for band in range(4):
                    energy[channel, band] += bands[band, channel].square().sum() / len(x)
        torch.testing.assert_close(found[layer][0].float(), energy)
        expected = fisher_ratio(torch.stack(means).double(), y, tiny.CLASSES)
        torch.testing.assert_close(found[layer][1], expected, atol=1e-4, rtol=1e-4)


def test_a_random_choice_scores_the_sum_of_the_weights() -> None:
    energy = torch.rand(6, 4, generator=seeded()).double()
    fisher = torch.rand(6, generator=seeded(1)).double()
    for weights in ((0.25, 0.25, 0.25), (1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0)):
        method = GWCS(500, 30, 30, *weights)
        traits = method.traits(1000 * energy, 0.001 * fisher, 3)
        herd = torch.stack([one_hot(kept, 6) for kept in combinations(range(6), 3)])
        assert float(traits.fitness(herd).mean()) == pytest.approx(sum(weights))


def one_hot(kept: tuple[int, ...], width: int) -> Tensor:
    return torch.zeros(width).double().index_fill(0, torch.tensor(kept), 1.0)


def test_parts_of_the_fitness_are_those_of_loops() -> None:
    energy = torch.rand(5, 4, generator=seeded()).double()
    fisher = torch.rand(5, generator=seeded(1)).double()
    traits = GWCS(500, 30, 30, 0.3, 0.5, 0.7).traits(energy, fisher, 3)
    unit = [e / e.norm() for e in energy]
    gaps = {(i, j): float((unit[i] - unit[j]).norm()) for i, j in combinations(range(5), 2)}
    size = [float(e.norm()) for e in energy]

    def mean(values: Any) -> float:
        found = list(values)
        return sum(found) / len(found)

    for kept in combinations(range(5), 3):
        expected = 0.3 * mean(size[c] for c in kept) / mean(size)
        expected += 0.5 * mean(gaps[p] for p in combinations(kept, 2)) / mean(gaps.values())
        expected += 0.7 * mean(float(fisher[c]) for c in kept) / float(fisher.mean())
        found = traits.fitness(one_hot(kept, 5)[None])
        assert float(found) == pytest.approx(expected)


def test_silent_channels_are_not_unlike_others() -> None:
    energy = torch.tensor([[4.0, 1, 1, 0], [0, 0, 0, 0], [4, 1, 0, 1], [0, 0, 0, 0]]).double()
    traits = GWCS().traits(energy, torch.zeros(4).double(), 2)
    assert (traits.apart[1] == 0).all()
    assert (traits.apart[:, 3] == 0).all()
    assert float(traits.apart[0, 2]) > 0
    empty = GWCS().traits(0 * energy, torch.zeros(4).double(), 2)
    assert not bool(empty.alone.any() or empty.apart.any())  # and nothing is divided by zero


# ---- the search ----------------------------------------------------------------------------------


def some_herd(count: int, width: int, keep: int) -> Tensor:
    order = torch.rand(count, width, generator=seeded(3)).argsort(1)
    return (order < keep).double()


def test_children_have_what_both_parents_have_and_no_more_than_they() -> None:
    a, b = some_herd(80, 12, 5).split(40)
    child = cross(a, b, 5, seeded())
    assert set(child.unique().tolist()) == {0.0, 1.0}
    assert (child.sum(1) == 5).all()
    assert (child >= a * b).all()
    assert (child <= a + b).all()
    mixed = ((child != a).any(1) & (child != b).any(1)).float().mean()
    assert mixed > 0.5
    assert torch.equal(cross(a, a, 5, seeded()), a)
    share = ((child - a * b).sum(0) / (a + b - 2 * a * b).sum(0)).mean()
    assert abs(float(share) - 0.5) < 0.1  # each of the rest with one half


def test_mutations_swap() -> None:
    herd = some_herd(400, 12, 5)
    assert torch.equal(mutate(herd, 5, 0.0, seeded()), herd)
    found = mutate(herd, 5, 0.1, seeded())
    assert (found.sum(1) == 5).all()
    assert abs(float((herd - found).clamp_min(0).mean(1).mean()) * 12 - 0.5) < 0.1  # 5 times 0.1
    assert not bool((mutate(herd, 5, 1.0, seeded()) * herd).any())  # room for all of them
    wide = some_herd(50, 6, 5)
    found = mutate(wide, 5, 1.0, seeded())  # one place only for five that should go
    assert ((found * wide).sum(1) == 4).all()
    assert torch.equal(mutate(torch.ones(3, 4).double(), 4, 1.0, seeded()), torch.ones(3, 4))


def some_layers() -> list[Traits]:
    draw, found = seeded(5), []
    for width, keep in ((8, 4), (7, 3)):
        apart = torch.rand(width, width, generator=draw).double()
        apart = (apart + apart.T).fill_diagonal_(0)
        found.append(Traits(torch.rand(width, generator=draw).double(), apart, keep))
    return found


def test_the_search_finds_the_best_of_few() -> None:
    layers = some_layers()
    best = sum(
        max(
            float(t.fitness(one_hot(kept, len(t.alone))[None]))
            for kept in combinations(range(len(t.alone)), t.keep)
        )
        for t in layers
    )
    chosen, history = search(layers, 30, 30, seeded())
    assert [int(c.sum()) for c in chosen] == [4, 3]
    assert len(history) == 31
    assert history == sorted(history)  # the elite stays
    found = sum(float(t.fitness(c[None])) for t, c in zip(layers, chosen, strict=True))
    assert history[-1] == pytest.approx(found / 2)
    assert found == pytest.approx(best)
    assert history[0] < history[-1]


def test_the_search_depends_on_its_seed_alone() -> None:
    layers = some_layers()
    torch.rand(1)
    runs = [search(layers, 6, 2, seeded(seed)) for seed in (0, 0, 1)]
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True))
    assert runs[0][1] != runs[2][1]
    chosen, history = search(layers, 1, 1, seeded())  # too few to live on: three are taken
    assert [int(c.sum()) for c in chosen] == [4, 3]
    assert len(history) == 2


# ---- whole networks ------------------------------------------------------------------------------


def test_stages_are_the_sizes_of_maps() -> None:
    x, _ = tiny.batch(1)
    for kind, expected in (("resnet", [1, 1, 1]), ("vgg", [1, 1, 1])):
        net = tiny.network(kind)  # type: ignore[arg-type]
        with torch.no_grad():
            found = stages(net, x)
        assert [len(groups) for groups in found] == expected
        assert [g for groups in found for g in groups] == list(net.groups)
    net = Network(tiny_resnet(14), torch.zeros(1, 3, 16, 16)).eval()
    with torch.no_grad():
        names = [[g.name for g in groups] for groups in stages(net, x)]
    assert names == [[f"layer{s}.{b}.conv1" for b in (0, 1)] for s in (1, 2, 3)]


def tiny_resnet(depth: int) -> torch.nn.Module:
    return CifarResNet(depth, tiny.CLASSES, width=8)


def test_later_stages_see_what_earlier_ones_left(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = tiny.network(), []
    x, _ = tiny.batch(4)

    def spy(given: Any, *args: Any) -> Any:
        seen.append(given(x))
        return describe(given, *args)

    monkeypatch.setattr(gwcs, "describe", spy)
    plan = GWCS().prune(net, HALF, tiny.trainer())
    assert len(seen) == 3
    dense = tiny.network()
    torch.testing.assert_close(seen[0], dense(x).detach())
    for group, output in zip(net.groups, [*seen[1:], None], strict=True):
        dense.mask(group.name, plan.keep[group.name])
        if output is not None:
            torch.testing.assert_close(output, dense(x).detach())
            assert not torch.allclose(output, seen[0])


def test_it_looks_at_images_and_nothing_else() -> None:
    net, run = tiny.network(), tiny.trainer()
    before = tiny.state_of(net)
    plan = GWCS().prune(net, HALF, run)
    assert plan.widths() == net.allocate(HALF)
    assert tiny.same(tiny.state_of(net), before)
    assert run.ledger.spent == 0
    assert [(e.kind, e.images, e.requested) for e in run.ledger.entries] == [("forward", 40, 200)]
    history = run.notes["best_fitness"]
    assert list(history) == [g.name for g in net.groups]  # the first layer of each stage
    assert all(len(h) == 31 and h == sorted(h) for h in history.values())


def test_silent_channels_go_first() -> None:
    net = tiny.network()
    with torch.no_grad():
        for group in net.groups:
            norm = net.norm(group.layers[0])
            norm.weight[::2], norm.bias[::2] = 0, -1
    plan = GWCS(generations=60).prune(net, Budget(0.6), tiny.trainer())
    group = net.groups[0]  # of 8: all individuals are tried
    assert all(unit % 2 for unit in plan.keep[group.name])


def test_weights_and_the_seed_change_the_plan() -> None:
    def kept(seed: int = 0, **params: Any) -> Any:
        return GWCS(**params).prune(tiny.network(), HALF, tiny.trainer(seed)).keep

    own = kept()
    assert kept() == own
    assert kept(1) != own
    assert kept(diverse=0.0) != own
    assert kept(discriminative=0.0) != own
    assert kept(representative=0.0) != own
    assert kept(generations=0) != own


def test_coupled_channels_are_chosen_together() -> None:
    net, run = tiny.network(scope="all"), tiny.trainer()
    plan = GWCS().prune(net, HALF, run)
    assert plan.widths() == net.allocate(HALF)
    assert any(len(g.layers) > 1 for g in net.groups)
    x, _ = tiny.batch(4)
    torch.testing.assert_close(net(x), net.remove(plan).eval()(x), atol=1e-4, rtol=1e-4)


def test_no_images_is_told() -> None:
    with pytest.raises(Unsupported, match="no images left"):
        GWCS().prune(tiny.network(), HALF, tiny.trainer(epochs=0.05))
