"""The fairness protocol ticked by code: for each rule records that keep it and records that break
it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import checklist, fairness, frames, soundness
from benchmark.attempts import Attempt
from benchmark.block import Block, blocks
from benchmark.checklist import RULES, Rule
from benchmark.controls import is_reference, suite
from benchmark.record import BestVal, RunRecord
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.tableview import Found, View, views
from methods import find
from methods.api import Plan
from tests.synthetic import cost, from_scratch, ledger, point, record, spec, write

NOWHERE = Store(Path("nowhere"))
GIT = {"commit": "a" * 40, "dirty": False}
SOUND = {"cpu": "x", "device": "cpu", "deterministic": True, "git": GIT}
PREPARED = [
    {"phase": "prepare-1", "kind": "charged", "images": 5000, "epochs": 5.0, "macs": 1,
     "seconds": 1.0, "requested": 5000},
    *ledger(15_000),
]  # fmt: skip


def block_of(
    records: Iterable[RunRecord],
    attempts: Iterable[Attempt] = (),
    best_test: dict[str, float | None] | None = None,
) -> Block:
    """A block in memory."""
    made = {r.run_id: r for r in records}
    runs = frames.runs_frame(made.values(), attempts, best_test)
    return Block("images", "net20", NOWHERE, made, runs, frames.leaderboard(runs))


def only_view(block: Block) -> View:
    (view,) = views(block)
    return view


def one_table(view: View) -> View:
    """As if everything had been put into one table."""
    runs = view.block.runs
    return View("x", view.block, runs, view.block.board)


def seeds(method: str, count: int = 2, target: float = 0.5, **changes: Any) -> list[RunRecord]:
    return [made(spec(method, seed, target), **changes) for seed in range(count)]


def made(run: RunSpec, final: float = 0.9, dense: float | None = 0.92, **changes: Any) -> RunRecord:
    title = find(run.method.label).title
    return record(run, final, dense, **{"environment": SOUND, "title": title} | changes)


def dense_further(seed: int, final: float) -> RunRecord:
    return made(spec("dense_continue", seed, 0.0, allocation="none"), final)


def with_spent(run: RunSpec, **changes: Any) -> RunRecord:
    whole = made(run)
    return made(run, spent=whole.spent.model_copy(update=changes))


def lost(run: RunSpec, status: str = "failed") -> Attempt:
    return Attempt(run.run_id, status, "out of memory", "", run.model_dump(mode="json"), 0.0)


def all_controls(allocation: str, reconstruct: bool = True) -> list[RunRecord]:
    """Every control and reference beside a method at 50 %."""
    found = [made(from_scratch()), dense_further(0, 0.92)]
    for entry in suite():
        if allocation in entry.cls.allocations and entry.cls.trained_start:
            found.append(made(spec(entry.label, allocation=allocation)))
            if is_reference(entry) and reconstruct:
                found.append(made(spec(entry.label, allocation=allocation, reconstruct="ls")))
    return found


L1 = seeds("l1norm")
HRANK = seeds("hrank")
TWO = [*L1, *HRANK]
FLOOR = [made(spec("hrank"), floor_share=0.51)]
FREE = [made(spec("whitebox", preparation="free"), spent=L1[0].spent.model_copy(
    update={"rows": PREPARED, "free": 5000}))]  # fmt: skip
CHARGED = [with_spent(spec("whitebox"), rows=PREPARED)]
MIXED = L1[0].model_copy(update={"pruned": cost(0.4)})
OPERATORS = {"conv": 400_000, "linear": 100_000}
COUNTED = [made(spec(), pruned=cost(0.5).model_copy(update={"operators": OPERATORS}))]
MISCOUNTED = [
    made(spec(), pruned=cost(0.5).model_copy(update={"operators": OPERATORS | {"linear": 1}}))
]
POINTS = [r for target in (0.3, 0.4, 0.5, 0.6, 0.7) for r in seeds("hrank", 1, target)]
CHOSEN_BY_TEST = BestVal(epoch=1, accuracy=point(0.95, 0.5))
UNSHARED = [made(spec("hrank", 0), 0.9, 0.921)]

Case = tuple[Rule, Block, Block, str]
CASES: list[Case] = [
    (fairness.same_start, block_of([*TWO, made(from_scratch(), 0.9, None)]),
     block_of([*seeds("l1norm", 1), *seeds("random", 1), *UNSHARED]),
     "HRank at 50 %, seed 0 starts from dense-0-0.921, others from dense-0-0.92"),
    (fairness.trained_out, block_of([dense_further(0, 0.925), dense_further(1, 0.9209)]),
     block_of([dense_further(0, 0.925), dense_further(1, 0.922)]), "+0.35 points"),
    (fairness.same_budget, block_of([*TWO, made(from_scratch(), 0.9, None)]),
     block_of([*L1, with_spent(spec("hrank"), charged=20_001)]),
     "HRank at 50 %, seed 0 spent 20,001 of 20,000 images"),
    (fairness.budget_used, block_of([with_spent(spec(), charged=19_900)]),
     block_of([with_spent(spec(), charged=19_700)]),
     "L1-norm at 50 %, seed 0 used 19,700 of 20,000"),
    (fairness.forward_capped, block_of(TWO),
     block_of([with_spent(spec(), rows=[ledger(1)[1] | {"images": 1001}])]),
     "L1-norm at 50 %, seed 0 used 1,001 for bn"),
    (fairness.both_preparations, block_of([*CHARGED, *FREE]), block_of(CHARGED),
     "White-Box (clean re-implementation) at 50 %: only charged"),
    (fairness.target_met, block_of([*TWO, made(spec("hrank", 5), flops_reduction=0.51)]),
     block_of([made(spec(), flops_reduction=0.494)]), "L1-norm at 50 %, seed 0 removes 49.40 %"),
    (fairness.cost_adds_up, block_of(COUNTED), block_of(MISCOUNTED), "L1-norm at 50 %, seed 0"),
    (fairness.controls_present, block_of([*HRANK, *all_controls("uniform")]),
     block_of([*HRANK, *all_controls("uniform")[:-2]]), "no Random for 50 %, uniform"),
    (fairness.reconstruction_controlled,
     block_of([made(spec("cpli")), *all_controls("uniform")]),
     block_of([made(spec("cpli")), *all_controls("uniform", reconstruct=False)]),
     "no L1-norm with reconstruction at 50 %"),
    (fairness.not_floor_bound, block_of([made(spec(), floor_share=0.5)]), block_of(FLOOR),
     "HRank at 50 %, seed 0: 51 % of the layers"),
    (fairness.above_chance, block_of(TWO), block_of([*L1, made(spec("hrank"), at_chance=True)]),
     "HRank at 50 %, seed 0"),
    (fairness.not_saturated, block_of([made(spec(), 0.9, 0.98)]),
     block_of([*L1, made(spec("hrank", 4), 0.9, 0.981)]), "3 dense networks of 92.00 to 98.10 %"),
    (soundness.same_seeds, block_of(TWO), block_of([*L1, *seeds("hrank", 1)]),
     "HRank at 50 %: without 1"),
    (soundness.three_seeds, block_of(seeds("hrank", 3)),
     block_of([*seeds("hrank", 3), *seeds("l1norm", 2)]), "L1-norm at 50 %: 2"),
    (soundness.five_seeds, block_of(seeds("hrank", 5)),
     block_of([*seeds("hrank", 5), *seeds("l1norm", 4)]), "L1-norm at 50 %: 4"),
    (soundness.operating_points, block_of(POINTS), block_of(POINTS[:4]), "4: 30 40 50 60 %"),
    (soundness.every_target, block_of([*L1, *HRANK, dense_further(0, 0.9)]),
     block_of([*L1, *HRANK, *seeds("hrank", 1, 0.7)]), "L1-norm: not at 70 %"),
    (soundness.nothing_missing, block_of(L1, [lost(spec("hrank"), "n/a")]),
     block_of(L1, [lost(spec("hrank"))]), "HRank at 50 %, seed 0 failed: out of memory"),
    (soundness.nothing_chosen_on_test, block_of(TWO, best_test={L1[0].run_id: 0.9}),
     block_of([*L1, made(spec("hrank"), best_val=CHOSEN_BY_TEST)]),
     "HRank at 50 %, seed 0: the epoch chosen is not the best on validation"),
    (soundness.one_hardware, block_of(TWO),
     block_of([*L1, made(spec("hrank"), environment=SOUND | {"cpu": "y"})]), "x: 2 runs; y: 1 run"),
    (soundness.deterministic, block_of(TWO),
     block_of([*L1, made(spec("hrank"), environment={})]), "HRank at 50 %, seed 0"),
    (soundness.committed, block_of(TWO),
     block_of([*L1, made(spec("hrank"), environment={"git": GIT | {"dirty": True}})]),
     "HRank at 50 %, seed 0: uncommitted changes"),
    (soundness.one_commit, block_of(TWO),
     block_of([*L1, made(spec("hrank"), environment={"git": {"commit": "b" * 40}})]),
     "aaaaaaaaaaaa: 2 runs; bbbbbbbbbbbb: 1 run"),
]  # fmt: skip
ELSEWHERE = {  # rules with tests of their own below
    fairness.one_setting, soundness.predictions_present, soundness.records_whole,
}  # fmt: skip


def name_of(case: Case) -> str:
    return case[0].__name__


def test_every_rule_is_tested() -> None:
    rules = {rule for _, rule in RULES}
    assert {case[0] for case in CASES} | ELSEWHERE == rules
    assert len({text for text, _ in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_rule_that_is_kept(case: Case) -> None:
    rule, good, _, _ = case
    found = rule(only_view(good))
    assert found.holds is True, found.evidence
    assert found.evidence


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_rule_that_is_broken(case: Case) -> None:
    rule, _, bad, offender = case
    found = rule(only_view(bad))
    assert found.holds is False, found.evidence
    assert offender in found.evidence


def test_settings_that_mix_in_a_table() -> None:
    views_of = list(views(block_of([*L1, made(spec("hrank", precision="bf16"))])))
    assert [fairness.one_setting(v).holds for v in views_of] == [True, True]  # tables of their own
    mixed = fairness.one_setting(one_table(views_of[0]))
    assert mixed == Found(False, "2 values of precision, one of them in HRank at 50 %")


@pytest.mark.parametrize(
    ("rule", "records"),
    [
        (fairness.same_start, [made(from_scratch(), 0.9, None)]),
        (fairness.trained_out, L1),
        (fairness.both_preparations, L1),
        (fairness.target_met, [dense_further(0, 0.9)]),
        (fairness.cost_adds_up, L1),
        (fairness.reconstruction_controlled, L1),
        (fairness.not_saturated, [made(from_scratch(), 0.9, None)]),
        (fairness.controls_present, [made(spec(track="paper"))]),
        (fairness.same_start, [made(spec(track="paper"))]),
    ],
)
def test_a_rule_that_does_not_apply(rule: Rule, records: list[RunRecord]) -> None:
    found = rule(only_view(block_of(records)))
    assert found.holds is None
    assert found.evidence


# ---- single rules, closer ------------------------------------------------------------------------


def test_starts_that_are_apart_are_named() -> None:
    sparse = spec("slimming", params={"start": "sparse"}, allocation="global")
    rows = [*L1, made(sparse, 0.9, 0.91), made(from_scratch(), 0.9, None, title="Thin")]
    found = fairness.same_start(only_view(block_of(rows)))
    assert found.holds is True
    assert "Network Slimming starts from a dense network of its own" in found.evidence
    assert "Thin starts from random weights" in found.evidence
    plain = spec("slimming", params={"start": "plain"}, allocation="global")
    assert fairness.same_start(only_view(block_of([*TWO, made(plain, 0.9, 0.91)]))).holds is False


def test_other_allowances_are_no_equal_budget() -> None:
    other = with_spent(spec("hrank"), allowed=20_100, charged=20_000)
    found = fairness.same_budget(only_view(block_of([*L1, other])))
    assert found == Found(False, "HRank at 50 %, seed 0 may spend 20,100 images, others 20,000")


@pytest.mark.parametrize(
    ("removed", "holds"), [(0.4951, True), (0.4949, False), (0.5099, True), (0.5101, False)]
)
def test_how_far_from_the_target(removed: float, holds: bool) -> None:
    block = block_of([made(spec(), flops_reduction=removed)])
    assert fairness.target_met(only_view(block)).holds is holds


def test_a_reduction_that_does_not_follow_from_the_counts() -> None:
    found = fairness.cost_adds_up(only_view(block_of([MIXED, HRANK[0]])))
    assert found == Found(False, "L1-norm at 50 %, seed 0")


def test_every_control_that_is_missing_is_named() -> None:
    whole = [*HRANK, *all_controls("uniform")]
    for entry in suite():
        without = [r for r in whole if r.spec.method.label != entry.label]
        found = fairness.controls_present(only_view(block_of(without)))
        assert found == Found(False, f"no {entry.title} for 50 %, uniform")


def test_controls_at_another_allocation_or_target_are_not_beside() -> None:
    globally = [made(spec("slimming", allocation="global")), *all_controls("uniform")]
    found = fairness.controls_present(only_view(block_of(globally)))
    assert found.evidence == "no L1-norm for 50 %, global; no Random for 50 %, global"
    farther = [*HRANK, *seeds("hrank", 1, 0.7), *all_controls("uniform")]
    missing = fairness.controls_present(only_view(block_of(farther))).evidence
    assert missing == (
        "no L1-norm for 70 %, uniform; no Random for 70 %, uniform; "
        "no Width scaling from scratch for 70 %, uniform"
    )


def test_a_best_test_epoch_worse_than_the_last_is_another_run_s() -> None:
    block = block_of(L1, best_test={L1[1].run_id: 0.8})
    found = soundness.nothing_chosen_on_test(only_view(block))
    assert found == Found(
        False, "L1-norm at 50 %, seed 1: its best test epoch is worse than its last"
    )


def test_best_test_epochs_are_marked() -> None:
    block = block_of(L1, best_test={L1[1].run_id: 0.95})
    found = soundness.nothing_chosen_on_test(only_view(block))
    assert found.holds
    assert "1 run with a best test epoch, marked optimistic" in found.evidence


def test_unknown_evidence_is_no_evidence() -> None:
    view = only_view(block_of([made(spec(), environment={})]))
    for rule in (soundness.one_hardware, soundness.committed, soundness.one_commit):
        assert rule(view).holds is False
        assert "unknown" in rule(view).evidence


def test_no_more_than_three_offenders_are_named() -> None:
    block = block_of([made(spec("hrank", s), at_chance=True) for s in range(5)])
    evidence = fairness.above_chance(only_view(block)).evidence
    assert evidence == (
        "HRank at 50 %, seed 0; HRank at 50 %, seed 1; HRank at 50 %, seed 2; and 2 more"
    )


# ---- on disk -------------------------------------------------------------------------------------


def published(root: Path, records: Iterable[RunRecord]) -> Path:
    for each in records:
        write(Store(root), each)
    return root


def on_disk(root: Path, rule: Rule) -> Found:
    (block,) = blocks(root)
    return rule(only_view(block))


def test_predictions_of_every_run_in_one_order(tmp_path: Path) -> None:
    rule = soundness.predictions_present
    published(tmp_path, TWO)
    assert on_disk(tmp_path, rule) == Found(True, "for 4 runs, in one order")
    (Store(tmp_path).run_folder(HRANK[1].spec) / "predictions.npz").unlink()
    assert on_disk(tmp_path, rule) == Found(False, "HRank at 50 %, seed 1 has none")


def test_predictions_in_another_order(tmp_path: Path) -> None:
    published(tmp_path, [*L1, made(spec("hrank"), predictions_order="p")])
    found = on_disk(tmp_path, soundness.predictions_present)
    assert found == Found(False, "HRank at 50 %, seed 0 in another order")


def test_figures_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    """A record that reports its best epoch as its last is told by its curve, or by its readings of
    the test split."""
    rule, run = soundness.nothing_chosen_on_test, spec()
    whole = made(run)  # 0.89 on validation, 0.9 on test
    curves = {"whole": [0.5, 0.89], "chosen": [0.89, 0.5]}
    said = {}
    for name, values in curves.items():
        store = Store(tmp_path / name)
        curve = [
            {"phase": phase, "epoch": i, "images": 1, "lr": 0.1, "loss": 1, "val_top1": value}
            for phase, points in (("prepare-1", [0.1, None]), ("recovery", values))
            for i, value in enumerate(points)
        ]
        plan = Plan({g: tuple(range(w)) for g, w in whole.widths.items()})
        store.write(whole, plan, curve, {"test_final_class": np.zeros(1, np.uint8)})
        said[name] = on_disk(tmp_path / name, rule)
    assert said["whole"].holds is True
    assert said["chosen"] == Found(
        False,
        "L1-norm at 50 %, seed 0: its final validation accuracy is not that of the last epoch",
    )
    facts = {"best_test_top1": 0.9, "test_top1": [0.9, 0.8], "epochs": 2}
    Store(tmp_path / "whole").write_measurement(run, "optimistic", "a", facts)
    assert on_disk(tmp_path / "whole", rule) == Found(
        False, "L1-norm at 50 %, seed 0: its final test accuracy is not that of the last epoch"
    )


def edit(path: Path) -> None:
    path.write_text(path.read_text()[:100])


def move(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.with_name("000000000000"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (edit, f"{HRANK[1].run_id}: cannot be read"),
        (move, "000000000000: the folder of another run"),
    ],
)
def test_records_are_whole_and_in_their_place(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    rule = soundness.records_whole
    published(tmp_path, TWO)
    assert on_disk(tmp_path, rule) == Found(True, "4 records, each where its hash says")
    harm(Store(tmp_path).run_folder(HRANK[1].spec) / "record.json")
    found = on_disk(tmp_path, rule)
    assert found == Found(False, f"images/net20/hrank/{said}")


# ---- the list ------------------------------------------------------------------------------------


def test_one_list_per_table_in_the_order_of_the_rules() -> None:
    block = block_of([*L1, made(spec("hrank", precision="bf16"))], [lost(spec(scope="all"))])
    found = checklist.checklist(block)
    tables = list(dict.fromkeys(c.table for c in found))
    assert len(tables) == 2  # where nothing is finished nothing is ticked
    for table in tables:
        assert [c.rule for c in found if c.table == table] == [text for text, _ in RULES]


def test_as_a_frame() -> None:
    block = block_of(L1)
    found = checklist.frame(block)
    assert list(found) == [c.name for c in checklist.COLUMNS]
    assert len(found) == len(RULES)
    assert set(found["holds"]) == {"yes", "no", "not applicable"}
    assert set(found["data"]) == {"images"}
    assert all(np.issubdtype(type(v), str) for v in found["evidence"])


def test_the_order_of_records_does_not_matter() -> None:
    rows = [*TWO, *all_controls("uniform"), *CHARGED, made(spec("cpli", 3), 0.9, 0.921)]
    there, back = (checklist.checklist(block_of(r)) for r in (rows, rows[::-1]))
    assert there == back
