"""`--round-to`: widths in multiples that meet the target, and nothing new where they are not asked
for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pandas as pd
import pytest
import tiny
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_nets import EXAMPLE, random_network, randomise
from test_select import SEEDS, draw_scores, reduction
from torch import Tensor, nn

from benchmark import fairness, planning, select
from benchmark.cli import BAD_INPUT, invoke
from benchmark.columns import SPEC
from benchmark.command import command_of
from benchmark.network import Network, Scope
from benchmark.options import options_from
from benchmark.planning import BadMethod
from benchmark.run import main
from benchmark.select import TOLERANCE, Widths
from benchmark.sweep import expand
from methods import find
from methods.api import Budget, Plan, Scores, Unsupported

Allocate = Literal["global", "uniform"]
ALLOCATIONS: tuple[Allocate, ...] = ("global", "uniform")
network = cache(random_network)
DOCUMENT = Path(__file__).parents[1] / "docs" / "round-to.md"


def table() -> list[tuple[Allocate, float, list[str]]]:
    """Allocation, target and the three reductions of every row."""
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines()]
    return [(r[0], float(r[1]) / 100, r[2:]) for r in rows if r[0] in ALLOCATIONS]  # type: ignore[misc]


TABLE = table()
FULL = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 70), min_size=1)


class Separable(nn.Module):
    """Grouped and depthwise layers: a unit of the grouped one is several channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.point = nn.Conv2d(24, 32, 1)
        self.grouped = nn.Conv2d(32, 48, 3, padding=1, groups=2)
        self.last = nn.Conv2d(48, 20, 1)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x).relu()).relu()
        x = self.last(self.grouped(self.point(x).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


@cache
def separable() -> Network:
    return Network(randomise(Separable()), EXAMPLE, "all").eval()


def chosen(net: Network, budget: Budget, scores: Scores) -> dict[str, int]:
    return net.rank(scores, budget).widths()


def allowed(full: int, n: int) -> set[int]:
    return {*range(n, full, n), full}


def steps_of(net: Network, n: int) -> list[float]:
    """What one step of each group removes from the dense network, as a share of its MACs."""
    step = {g.name: g.width - max(allowed(g.width, n) - {g.width} or {g.width}) for g in net.groups}
    return [1 - net.macs({g.name: g.width - step[g.name]}) / net.macs() for g in net.groups]


# ---- allowed widths ------------------------------------------------------------------------------


@given(full=FULL, n=st.integers(1, 20), min_keep=st.floats(0, 1), offset=st.floats(0, 0.999))
def test_a_width_is_a_multiple_or_the_whole_group(
    full: dict[str, int], n: int, min_keep: float, offset: float
) -> None:
    limits, plain = Widths.of(full, min_keep, n), Widths.of(full, min_keep)
    for group, size in full.items():
        found = [limits.near(group, size * s / 40, offset) for s in range(41)]
        assert set(found) <= allowed(size, n)
        assert found == sorted(found)
        assert found[0] == limits.floor[group] or offset + 1e-9 > 1 - 1 / n
        assert found[-1] == size
        assert min(found) >= limits.floor[group] >= plain.floor[group]
        assert limits.floor[group] == min(w for w in allowed(size, n) if w >= plain.floor[group])


@given(full=FULL, n=st.integers(1, 20), data=st.data())
def test_up_is_the_next_allowed_width(full: dict[str, int], n: int, data: st.DataObject) -> None:
    limits = Widths.of(full, 0.0, n)
    for group, size in full.items():
        width = data.draw(st.integers(1, size))
        assert limits.up({group: width})[group] == min(w for w in allowed(size, n) if w >= width)


@pytest.mark.parametrize(
    ("full", "n", "widths"),
    [(16, 8, [8, 16]), (12, 8, [8, 12]), (6, 8, [6]), (20, 8, [8, 16, 20]), (3, 1, [1, 2, 3])],
)
def test_widths_that_a_group_can_have(full: int, n: int, widths: list[int]) -> None:
    limits = Widths.of({"a": full}, 0.0, n)
    assert sorted({limits.near("a", full * s / 99, 0.5) for s in range(100)}) == widths


# ---- without multiples nothing changes -----------------------------------------------------------


@given(full=FULL, width=st.floats(0, 1), offset=st.floats(0, 0.999), min_keep=st.floats(0, 1))
def test_multiples_of_one_are_the_plain_rule(
    full: dict[str, int], width: float, offset: float, min_keep: float
) -> None:
    limits = Widths.of(full, min_keep)
    for group, size in full.items():
        plain = min(size, max(limits.floor[group], int(width * size + offset)))
        assert limits.near(group, width * size, offset) == plain


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_multiples_of_one_leave_the_plan_and_the_run_id(allocation: Allocate) -> None:
    net, budget = network("resnet20"), Budget(0.5, allocation=allocation)
    scores = draw_scores(net, 1)
    assert net.rank(scores, replace(budget, round_to=1)) == net.rank(scores, budget)
    words: dict[str, Any] = {"arch": "resnet8", "dataset": "digits", "controls": False}
    plain, said = (expand(options_from(words | w), tiny.data()) for w in ({}, {"round_to": 1}))
    assert [c.spec.run_id for c in plain] == [c.spec.run_id for c in said]


# ---- solved for the target -----------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@settings(max_examples=15, deadline=None)
@given(
    arch=st.sampled_from(["resnet20", "vgg16"]),
    n=st.sampled_from([2, 4, 8, 16]),
    target=st.floats(0, 0.9),
    seed=SEEDS,
    scope=st.sampled_from(["inner", "all"]),
)
def test_the_target_is_met_within_a_step_and_never_worse_than_by_rounding_up(
    allocation: Allocate, arch: str, n: int, target: float, seed: int, scope: Scope
) -> None:
    net = network(arch, scope)
    budget = Budget(target, allocation=allocation, round_to=n)
    limits, scores = net.limits(budget), draw_scores(net, seed)
    most = select.largest_cut(limits, net.macs)
    if target > most + TOLERANCE:
        with pytest.raises(Unsupported, match=f"or a --round-to below {n}$"):
            net.rank(scores, budget)
        return
    widths = chosen(net, budget, scores)
    for group in net.groups:
        assert widths[group.name] in allowed(group.width, n)
        assert widths[group.name] >= limits.floor[group.name]
    off = abs(reduction(net, widths) - target)
    # two groups of different width can change at the same share
    assert off <= max(TOLERANCE, sum(sorted(steps_of(net, n))[-2:]) / 2 + 1e-9)
    assume(target <= select.largest_cut(limits.unrounded(budget.min_keep), net.macs))
    plain = chosen(net, replace(budget, round_to=1), scores)
    up = limits.up(plain)
    assert off <= abs(reduction(net, up) - target) + 1e-12
    assert reduction(net, up) <= reduction(net, plain) + 1e-12


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_other_step_is_nearer(allocation: Allocate) -> None:
    net, n = network("resnet20"), 4
    limits = net.limits(Budget(0.5, round_to=n))
    scores = net.group_scores(draw_scores(net, 3), comparable=False)
    seen: list[dict[str, int]] = []

    def kept(at: Any, steps: int, macs: select.Macs, cut: float) -> int:
        seen.extend(at(s) for s in range(0, steps + 1, max(1, steps // 2048)))
        return nearest(at, steps, macs, cut)

    nearest = select.nearest
    for target in (0.15, 0.4, 0.62):
        budget = Budget(target, allocation=allocation, round_to=n)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(select, "nearest", kept)
            if allocation == "global":
                found = select.global_widths(limits, scores, budget, net.macs)
            else:
                found = select.uniform_widths(limits, budget, net.macs)
        best = min(abs(reduction(net, limits.up(w)) - target) for w in seen if limits.up(w) == w)
        assert abs(reduction(net, found) - target) <= best + 1e-12
        seen.clear()


def test_the_plain_solution_rounded_up_is_taken_where_it_lands_nearer() -> None:
    """No network and scores were found where it does, so with a search made for it."""
    full = {"a": 8, "b": 8}

    def macs(widths: Mapping[str, int]) -> int:
        return sum({**full, **widths}.values())

    for kept, expected in ((7, {"a": 4, "b": 8}), (5, {"a": 4, "b": 4})):

        def at(limits: Widths, step: int, kept: int = kept) -> dict[str, int]:
            both = 4 + 4 * step
            return {"a": both, "b": both} if limits.round_to > 1 else {"a": 4, "b": kept}

        budget = Budget(1 - (4 + kept) / 16, min_keep=0, round_to=4)
        assert select._solved(at, 1, Widths.of(full, 0, 4), budget, macs) == expected


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]}-{r[1]}")
def test_the_table_of_the_documentation(row: tuple[Allocate, float, list[str]]) -> None:
    allocation, target, said = row
    net, budget = network("resnet56"), Budget(target, allocation=allocation)
    scores = draw_scores(net, 0)
    plain, eights = chosen(net, budget, scores), replace(budget, round_to=8)
    found = [plain, net.limits(eights).up(plain), chosen(net, eights, scores)]
    assert [f"{100 * reduction(net, w):.1f}" for w in found] == said


def test_multiples_beyond_what_the_groups_allow_are_out_of_reach() -> None:
    """16 is all that the first stage has."""
    net = network("resnet56")
    with pytest.raises(Unsupported, match=r"at most 41\.1 % .* or a --round-to below 16$"):
        net.allocate(Budget(0.5, round_to=16))


def test_global_ranking_in_multiples_keeps_the_best_units_by_hand() -> None:
    full = {"a": 8, "b": 8}
    scores = {"a": torch.tensor([9.0, 1, 8, 2, 7, 3, 6, 0]), "b": torch.tensor([5.0] * 8)}

    def macs(widths: Mapping[str, int]) -> int:
        return sum({**full, **widths}.values())

    budget = Budget(0.5, min_keep=0, allocation="global", round_to=4)
    widths = select.global_widths(Widths.of(full, 0, 4), scores, budget, macs)
    assert widths == {"a": 4, "b": 4}
    assert select.best(scores, widths).keep == {"a": (0, 2, 4, 6), "b": (0, 1, 2, 3)}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_units_are_what_is_rounded(allocation: Allocate) -> None:
    net = separable()
    units = {g.name: g.width for g in net.groups}
    grouped = next(g for g in net.groups if "grouped" in g.layers)
    assert grouped.width < len(net.weight("grouped"))  # several channels to a unit
    budget = Budget(0.4, allocation=allocation, round_to=8)
    plan = net.rank(draw_scores(net, 0), budget)
    assert all(w in allowed(units[g], 8) for g, w in plan.widths().items())
    assert any(w < units[g] for g, w in plan.widths().items())
    pruned = net.remove(plan)
    assert pruned(EXAMPLE).shape == (1, 10)


# ---- what cannot be rounded ----------------------------------------------------------------------


def test_lists_and_searches_of_papers_are_not_rounded() -> None:
    net = network("resnet8")
    rates = dict.fromkeys(net.layers, 0.5)
    with pytest.raises(Unsupported, match="a paper's own list says how many channels stay"):
        net.allocate(Budget(0.5, allocation="listed", rates=rates, round_to=8))
    official = find("whitebox:official")
    method = official.cls(**official.params())
    assert (method.rounds, official.cls().rounds) == (False, True)
    with pytest.raises(Unsupported, match="width search of the official code"):
        method.select(net, draw_scores(net, 0), Budget(0.5, round_to=8))


def test_they_are_refused_before_anything_is_trained() -> None:
    words: dict[str, Any] = {"dataset": "digits", "round_to": 8, "track": "paper"}
    words |= {"arch": "resnet56", "methods": ["whitebox:official", "hrank"]}
    official, listed = expand(options_from(words), tiny.data())
    assert (official.status, listed.status) == ("n/a", "n/a")
    assert "searches its widths itself" in official.blocked
    assert "own list" in listed.blocked


def test_a_plan_of_other_widths_is_an_error() -> None:
    net, budget = network("resnet8"), Budget(0.5, round_to=4)
    odd = Plan({g.name: tuple(range(3)) for g in net.groups})
    with pytest.raises(BadMethod, match=r"keeps 3 of the 16 units of .*--round-to 4"):
        planning._check_plan(odd, net, budget)
    planning._check_plan(odd, net, replace(budget, round_to=3))
    planning._check_plan(net.rank(draw_scores(net, 0), budget), net, budget)


# ---- as a user says it ---------------------------------------------------------------------------


def test_rows_say_what_their_widths_are_multiples_of() -> None:
    words: dict[str, Any] = {"arch": "resnet20", "dataset": "digits", "round_to": 8}
    options = options_from(words | {"methods": ["l1norm"]})
    cells = expand(options, tiny.data())
    columns = {c.name: read for c, read in SPEC}
    said = {c.entry.label: columns["allocation"](c.spec) for c in cells}
    assert said["l1norm"] == said["random"] == "uniform, multiples of 8"
    assert said["dense_continue"] == "none"
    (plain,) = {c.spec.round_to for c in cells if c.entry.label == "dense_continue"}
    assert plain == 1
    command = {c.entry.label: command_of(c, options, c.entry.label) for c in cells}
    assert "--round-to 8" in command["l1norm"]
    assert "--round-to" not in command["dense_continue"]


def test_a_control_stands_beside_rows_of_the_same_multiples_only() -> None:
    def stands(allocation: str, control: str) -> bool:
        row = {"method": "random", "status": "done", "reconstruct": "none", "target": 50.0}
        view = SimpleNamespace(board=pd.DataFrame([row | {"allocation": control}]))
        return fairness._stands(cast(Any, view), find("random"), 50.0, allocation)

    eights = "uniform, multiples of 8"
    assert stands(eights, eights)
    assert stands("uniform", "uniform")
    assert not stands(eights, "uniform")
    assert not stands("uniform", eights)


@pytest.mark.parametrize("value", ["0", "-8", "1.5", "x", "4096"])
def test_bad_values_are_told_in_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(main, ["--dataset", "digits", "--round-to", value]) == BAD_INPUT
    assert "round-to" in capsys.readouterr().err.replace("\n", " ")
