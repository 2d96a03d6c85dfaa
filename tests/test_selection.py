"""The choice against its inverse and against random draws, at its own and at uniform widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import synthetic
import tiny
import torch
from test_execute import go, make_spec
from torch import nn

from benchmark import selection
from benchmark.differences import Run, differences
from benchmark.encoding import weights_digest
from benchmark.frames import runs_frame
from benchmark.record import SelectionCheck, read_record
from benchmark.selection import check_selection, networks_judged
from methods.api import Budget, Plan
from methods.l1norm import L1Norm

OLD = Path(__file__).parent / "records" / "v1" / "record.json"


class Judged:
    """A network and a trainer for one check; what was judged, and figures made up for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, budget: Budget, *figures: float) -> None:
        self.plans: list[Plan] = []
        self.net, self.run = tiny.network(), tiny.trainer()
        self.scores = L1Norm().score(self.net, self.run)
        self.plan = L1Norm().select(self.net, self.scores, budget)
        remove, left = self.net.remove, iter(figures)

        def noted(plan: Plan) -> nn.Module:
            self.plans.append(plan)
            return remove(plan)

        monkeypatch.setattr(self.net, "remove", noted)
        if figures:
            monkeypatch.setattr(self.run, "accuracy", lambda *_: next(left))

    def check(self, budget: Budget) -> SelectionCheck:
        found = check_selection(
            L1Norm(), self.net, self.scores, self.plan, trainer=self.run, budget=budget
        )
        assert found is not None
        return found


def drawn(widths: Mapping[str, int], full: Mapping[str, int], salt: int, draws: int) -> list[Plan]:
    """The first of each group by uniform noise, as every record so far has it."""
    draw, found = tiny.trainer().generator(salt), []
    for _ in range(draws):
        noise = {g: torch.rand(c, generator=draw) for g, c in full.items()}
        keep = {g: tuple(sorted(noise[g].topk(w).indices.tolist())) for g, w in widths.items()}
        found.append(Plan(keep))
    return found


def test_a_global_choice_is_judged_at_its_own_and_at_uniform_widths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget(0.5, 0.1, "global")
    judged = Judged(
        monkeypatch, budget,
        0.5, 0.1, *(0.4, 0.5, 0.6, 0.4, 0.4), *(0.6, 0.6, 0.5, 0.6, 0.4),
    )  # fmt: skip
    check = judged.check(budget)
    assert (check.score, check.inverse, check.informative) == (0.5, 0.1, True)
    assert check.random == [0.4, 0.5, 0.6, 0.4, 0.4]
    assert check.percentile == pytest.approx((1 + 0.5 + 0 + 1 + 1) / 5)
    assert check.uniform == [0.6, 0.6, 0.5, 0.6, 0.4]
    assert check.uniform_percentile == pytest.approx((0 + 0 + 0.5 + 0 + 1) / 5)
    own = judged.plan.widths()
    uniform = judged.net.allocate(Budget(0.5, 0.1, "uniform"))
    assert uniform != own
    cut = 1 - judged.net.macs(uniform) / judged.net.macs()
    assert cut == pytest.approx(0.5, abs=0.02)
    full = {g.name: g.width for g in judged.net.groups}
    expected = [*drawn(own, full, 3, 5), *drawn(uniform, full, 4, 5)]
    assert judged.plans[2:] == expected
    assert len(judged.plans) == networks_judged("global") == 12


def test_where_its_own_widths_are_uniform_nothing_is_drawn_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget(0.5, 0.1, "uniform")
    judged = Judged(monkeypatch, budget)
    check = judged.check(budget)
    assert len(judged.plans) == networks_judged("uniform") == 2 + selection.RANDOM_DRAWS
    assert check.uniform == check.random
    assert check.uniform_percentile == check.percentile


def test_draws_at_uniform_widths_leave_those_at_its_own_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real figures: of the plain check and of one whose uniform widths are out of reach."""
    budget = Budget(0.5, 0.1, "global")
    check = Judged(monkeypatch, budget).check(budget)
    beyond = Judged(monkeypatch, budget).check(dataclasses.replace(budget, macs_cut=0.999))
    assert (beyond.uniform, beyond.uniform_percentile) == (None, None)
    assert check.uniform is not None
    names = ("score", "inverse", "random", "percentile", "informative")
    assert [getattr(check, n) for n in names] == [getattr(beyond, n) for n in names]


@pytest.mark.parametrize("cut", [0.3, 0.8])
def test_a_choice_without_scores_is_set_against_what_it_removes(
    cut: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(cut, 0.1, "uniform")
    judged = Judged(monkeypatch, budget)
    judged.scores = None  # type: ignore[assignment]
    check = judged.check(budget)
    own, inverse, *draws = judged.plans
    assert own == judged.plan
    assert len(draws) == selection.RANDOM_DRAWS
    assert inverse.widths() == own.widths()
    for group in judged.net.groups:
        kept, other = set(own.keep[group.name]), set(inverse.keep[group.name])
        gone = set(range(group.width)) - kept
        assert other <= gone if len(gone) >= len(kept) else other >= gone
    assert check.informative == (check.score > check.inverse)  # type: ignore[operator]


def test_the_choice_of_a_method_that_decides_everything_is_judged_on_dense_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPLI changes the weights it keeps; the draws beside it would not be changed."""
    seen = []

    def noted(*args: Any) -> None:
        seen.append(args)

    monkeypatch.setattr("benchmark.execute.check_selection", noted)
    spec = make_spec("cpli")
    record = go(spec, tmp_path)
    ((_, net, scores, plan, _, _),) = seen
    assert scores is None
    assert plan.widths() == record.widths
    assert weights_digest(net.dense().state_dict()) == record.dense.weights


# ---- records -------------------------------------------------------------------------------------


def checked(**changes: Any) -> SelectionCheck:
    fields = {"score": 0.5, "inverse": 0.3, "random": [0.4], "percentile": 1, "informative": True}
    return SelectionCheck(**fields | changes)


def run_with(check: SelectionCheck) -> Run:
    record = synthetic.record(synthetic.spec(), selection=check)
    return Run(Path(), record, {}, [], {})


def test_a_record_of_before_is_read_and_says_nothing_of_uniform_widths() -> None:
    old = read_record(OLD)
    assert old.selection is not None
    assert (old.selection.uniform, old.selection.uniform_percentile) == (None, None)
    assert old.networks_judged == 2 + len(old.selection.random)
    (row,) = runs_frame([old]).to_dict("records")
    assert row["selection_random"] == row["selection_random"]
    assert row["selection_uniform"] != row["selection_uniform"]  # empty


def test_tables_give_the_mean_draw_and_the_percentile() -> None:
    check = checked(uniform=[0.2, 0.3], uniform_percentile=0.75)
    (row,) = runs_frame([run_with(check).record]).to_dict("records")
    assert row["selection_uniform"] == pytest.approx(25)
    assert row["selection_uniform_percentile"] == pytest.approx(75)


def test_what_an_earlier_record_did_not_note_is_no_difference() -> None:
    earlier = run_with(checked())
    later = run_with(checked(uniform=[0.2], uniform_percentile=1.0))
    assert differences(earlier, later) == differences(later, earlier) == []
    other = run_with(checked(uniform=[0.6], uniform_percentile=0.0))
    found = {d.field: (d.one, d.other) for d in differences(later, other)}
    assert found == {
        "selection.uniform": ("[0.2]", "[0.6]"),
        "selection.uniform_percentile": ("1.0", "0.0"),
    }


@pytest.mark.parametrize(
    ("changes", "judged"),
    [
        ({}, 3),
        ({"inverse": None}, 2),
        ({"uniform": [0.4]}, 3),  # its own draws
        ({"uniform": [0.2, 0.2]}, 5),
    ],
)
def test_a_record_tells_how_many_networks_were_judged(changes: dict[str, Any], judged: int) -> None:
    assert run_with(checked(**changes)).record.networks_judged == judged
    none = synthetic.record(synthetic.spec(), selection=None)
    assert none.networks_judged == 0
