"""Budget and targets of a board follow from a pilot by rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic
from refusing import refused

from benchmark import pilot
from benchmark.cli import DONE, invoke
from benchmark.pilot import Gain, Target
from benchmark.record import RunRecord
from benchmark.store import Store

DENSE = 0.92


def run(
    method: str, budget: float, final: float, seed: int = 7, target: float = 0.5, **changes: Any
) -> RunRecord:
    """Validation accuracy is a point below `final`, that of the dense network 92 %."""
    recovery = synthetic.RECOVERY.model_copy(update={"epochs": budget})
    spec = synthetic.spec(method, seed, target, budget_epochs=budget, recovery=recovery, **changes)
    return synthetic.record(spec, final, DENSE)


def curve(*finals: float, seed: int = 7) -> list[RunRecord]:
    """L1-norm at half an epoch and at 1, 1.5, 2 and 3."""
    budgets = (0.5, 1, 1.5, 2, 3)
    return [run("l1norm", b, f, seed) for b, f in zip(budgets, finals, strict=False)]


ROOT = Path(__file__).parents[1]


def test_what_the_results_say_of_the_shipped_pilot_is_what_follows_from_it() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    lines = pilot.report(pilot.of_directory(ROOT / "results" / "pilot"))
    assert "".join(f"    {line}\n" for line in lines) in text


# ---- budget --------------------------------------------------------------------------------------


def test_the_budget_is_the_first_whose_last_doubling_gains_less_than_a_point() -> None:
    records = curve(0.80, 0.84, 0.85, 0.848, 0.858)  # +4.0, then +0.8
    found = pilot.gains(records)
    assert [(g.budget, g.seeds) for g in found] == [(1, 1), (2, 1), (3, 1)]
    assert [g.points for g in found] == pytest.approx([4.0, 0.8, 0.8])
    assert pilot.budget(found) == 2


def test_gains_are_means_over_the_seeds_that_have_both() -> None:
    records = [*curve(0.80, 0.84), *curve(0.80, 0.82, seed=8), run("l1norm", 1, 0.99, seed=9)]
    (found,) = pilot.gains(records)
    assert (found.points, found.seeds) == (pytest.approx(3.0), 2)


def test_all_targets_that_were_tried_must_have_ceased_to_gain() -> None:
    rows = [Gain(1, 0.3, 0.2, 2), Gain(1, 0.7, 1.5, 2), Gain(2, 0.3, 0.1, 2), Gain(2, 0.7, 0.9, 2)]
    assert pilot.budget(rows) == 2
    assert pilot.budget(rows[:2]) is None


def test_where_doubling_pays_to_the_end_the_largest_budget_is_taken() -> None:
    rows = [Gain(b, 0.5, 1.5, 2) for b in pilot.BUDGETS]
    assert pilot.budget(rows) == 10
    assert pilot.budget(rows[:-1]) is None


def test_a_smaller_budget_is_not_skipped() -> None:
    assert pilot.budget([Gain(2, 0.5, 0.1, 2)]) is None


def test_random_has_no_say_in_the_budget() -> None:
    assert pilot.gains([run("random", 0.5, 0.7), run("random", 1, 0.9)]) == []


# ---- targets -------------------------------------------------------------------------------------


def both(target: float, l1: tuple[float, ...], random: tuple[float, ...]) -> list[RunRecord]:
    return [
        run(method, 2, final, seed, target)
        for method, finals in (("l1norm", l1), ("random", random))
        for seed, final in enumerate(finals, 7)
    ]


def test_losses_leads_and_freedom_of_a_target() -> None:
    (found,) = pilot.targets(both(0.5, (0.90, 0.92, 0.91), (0.88, 0.89, 0.90)), 2)
    assert (found.target, found.seeds) == (0.5, 3)
    assert found.loss == pytest.approx(92 - 90)  # validation: 89, 91 and 90
    assert found.lead == pytest.approx(2)
    assert found.spread == pytest.approx(1)
    assert found.freedom == pytest.approx(40)
    assert not found.is_told_apart  # twice the spread is not more than it


def test_a_target_needs_two_seeds_of_both_at_the_budget() -> None:
    assert pilot.targets(both(0.5, (0.90, 0.92), (0.88,)), 2) == []
    assert pilot.targets(both(0.5, (0.90, 0.92), (0.88, 0.87)), 3) == []


def row(target: float, loss: float, lead: float = 3.0, spread: float = 1.0) -> Target:
    return Target(target, 3, loss, lead, spread, freedom=90 - 100 * target)


def test_the_target_nearest_to_the_middle_of_its_band_is_taken() -> None:
    rows = [row(0.2, 0.5), row(0.3, 1.1), row(0.4, 2.2), row(0.5, 3.5), row(0.7, 7.5)]
    assert pilot.chosen(rows) == (0.4, 0.7)
    assert pilot.chosen(rows[:2]) == (0.3, None)
    assert pilot.chosen([row(0.4, 2, lead=2.0)]) == (None, None)  # not told apart from random
    assert pilot.chosen([row(0.4, 2, lead=-2.1)]) == (0.4, None)
    assert pilot.chosen([row(0.86, 8)]) == (None, None)  # 4 points of freedom
    assert pilot.chosen([row(0.85, 8)]) == (None, 0.85)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    records = [r for seed in (7, 8) for r in curve(0.80, 0.84, 0.85, 0.848, seed=seed)]
    for record in [*records[:3], *records[4:7]]:
        synthetic.write(store, record)
    assert invoke(pilot.main, [str(tmp_path)]) == DONE
    assert "budget: not known yet: run l1norm at 2 and 1 epochs" in capsys.readouterr().out
    for record in [records[3], records[7], *both(0.7, (0.86, 0.87), (0.80, 0.82))]:
        synthetic.write(store, record)
    assert invoke(pilot.main, [str(tmp_path)]) == DONE
    said = capsys.readouterr().out
    assert "budget 2 epochs at 50 %: the last doubling gains +0.80 points, 2 seeds" in said
    assert "budget: 2 epochs" in said
    assert "l1norm loses 6.50 points, +5.50 ± 0.71 to random over 2 seeds (told apart" in said
    assert "target for a loss of 1 to 3 points: none fits: run more targets" in said
    assert "target for a loss of 4 to 10 points: 70 %" in said


def test_other_rows_of_the_directory_are_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in (run("l1norm", 1, 0.8), run("hrank", 1, 0.8), run("l1norm", 1, 0.9, seed=8,
                   reconstruct="ls")):  # fmt: skip
        synthetic.write(store, record)
    assert [r.spec.method.label for r in pilot.of_directory(tmp_path)] == ["l1norm"]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "holds no runs of l1norm and random"),
        ([run("l1norm", 1, 0.8), run("l1norm", 1, 0.8, arch="net56")], "runs of 2 settings"),
        ([run("l1norm", 1, 0.8), run("random", 1, 0.8, scope="all")], "runs of 2 settings"),
    ],
)
def test_what_is_no_pilot_is_answered_in_one_line(
    records: list[RunRecord], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in records:
        synthetic.write(Store(tmp_path), record)
    assert said in refused(pilot.main, [str(tmp_path)], capsys)
