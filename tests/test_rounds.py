"""Pruning in rounds: goals, budget, plans in units of the dense network, resuming, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from synthetic import spec as synthetic_spec
from test_execute import go, make_spec, without_times

from benchmark import baseline, columns, rounds
from benchmark.cli import BAD_INPUT, invoke
from benchmark.context import budget_of
from benchmark.data import Data
from benchmark.errors import Stopped
from benchmark.ledger import BudgetExceeded, is_recovery
from benchmark.network import Network
from benchmark.options import options_from
from benchmark.record import RunRecord, read_plan
from benchmark.spec import RunSpec
from benchmark.store import Store
from benchmark.sweep import Cell, expand
from methods import find

STEPS = "iterative:3"


def in_rounds(label: str, schedule: str, **changes: Any) -> RunSpec:
    """As the planner makes it: what a method trains is a share of a round's budget."""
    spec = make_spec(label, schedule=schedule, **changes)
    entry = find(label)
    params = entry.resolved(entry.params(), tiny.EPOCHS / (spec.steps or 1))
    return spec.model_copy(update={"method": spec.method.model_copy(update={"params": params})})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results directory for all runs: they share dense networks and first scores."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def iterative(root: Path) -> RunRecord:
    return go(in_rounds("l1norm", STEPS), root)


def phases(record: RunRecord) -> dict[str, int]:
    return {row["phase"]: row["images"] for row in record.spent.rows}


def test_goals_grow_evenly(tiny_network: tiny.MakeNetwork) -> None:
    net = tiny_network()
    goals = list(rounds.goals(in_rounds("l1norm", "iterative:4"), net))
    assert [goal.macs_cut for goal in goals] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert {goal.allocation for goal in goals} == {"uniform"}


def test_layer_by_layer_every_group_has_its_turn(tiny_network: tiny.MakeNetwork) -> None:
    net, spec = tiny_network(), in_rounds("l1norm", "layerwise")
    widths = net.allocate(budget_of(spec, net))
    found = [net.allocate(goal) for goal in rounds.goals(spec, net)]
    cut = [g.name for g in net.groups if widths[g.name] < g.width]
    assert len(found) == len(cut) > 1
    for name, now in zip(cut, found, strict=True):
        assert now == {g.name: g.width for g in net.groups} | {name: widths[name]}


@pytest.mark.parametrize("schedule", [STEPS, "layerwise"])
@pytest.mark.parametrize("label", ["l1norm", "cpli"])
def test_a_run_in_rounds(label: str, schedule: str, root: Path) -> None:
    spec = in_rounds(label, schedule)
    if label == "cpli":
        params = spec.method.params | {"num_images": 20}
        spec = spec.model_copy(update={"method": spec.method.model_copy(update={"params": params})})
    record = go(spec, root)
    count = int(record.method_facts["rounds"])
    assert count == (spec.steps or len(record.widths))
    assert abs(record.flops_reduction - 0.4) <= 0.02
    assert record.spent.charged == record.spent.allowed
    trained = [name for name in phases(record) if is_recovery(name)]
    assert trained == [*(f"recovery-{i}" for i in range(1, count)), "recovery"]
    assert record.selection is None
    assert record.final.test_top1 > 0.5
    plan = read_plan(Store(root).run_folder(spec) / "plan.json")
    assert {g: len(k) for g, k in plan.keep.items()} == record.widths
    assert all(max(kept) < record.dense_widths[g] for g, kept in plan.keep.items())


def test_at_the_end_of_each_round_its_share_of_the_budget_is_spent(iterative: RunRecord) -> None:
    spent, allowed = 0, iterative.spent.allowed
    batch = iterative.spec.recovery.batch_size
    for number, row in enumerate((r for r in iterative.spent.rows if is_recovery(r["phase"])), 1):
        spent += row["images"]
        assert abs(spent - allowed * number / 3) < batch
    assert spent == allowed


def test_a_method_that_prepares_shares_each_round_with_its_recovery(root: Path) -> None:
    record = go(in_rounds("whitebox", "iterative:2"), root)
    found = phases(record)
    half = tiny.EPOCHS * tiny.TRAIN / 2
    assert found["prepare-1"] == found["prepare-1-round-2"] == half / 4
    assert found["recovery-1"] == found["recovery"] == 3 * half / 4
    assert record.spent.charged == record.spent.allowed


def test_later_rounds_choose_on_the_network_as_it_is_then(
    iterative: RunRecord, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followed by hand: the same steps with nothing but networks, trainers and plans."""
    seen: list[tuple[Network, dict[str, int]]] = []
    right = Network.rank

    def watched(self: Network, *words: Any, **more: Any) -> Any:
        plan = right(self, *words, **more)
        seen.append((self, dict(plan.widths())))
        return plan

    monkeypatch.setattr(Network, "rank", watched)
    go(in_rounds("l1norm", STEPS, seeds=iterative.spec.seeds.model_copy(update={"run": 9})), root)
    full = [{g.name: g.width for g in net.groups} for net, _ in seen]
    assert full[1:] == [widths for _, widths in seen][:-1]  # each round starts where the last ended
    cuts = [1 - net.macs(widths) / seen[0][0].macs() for net, widths in seen]
    assert cuts == pytest.approx([0.4 / 3, 0.8 / 3, 0.4], abs=0.03)
    weights = [net.weight(net.layers[0]).norm() for net, _ in seen]
    assert len({round(float(w.detach()), 4) for w in weights}) == 3  # trained in between


def test_the_minimum_width_is_a_share_of_the_dense_network(tiny_network: tiny.MakeNetwork) -> None:
    net, spec = tiny_network(), in_rounds("l1norm", STEPS)
    budget = budget_of(spec, net)
    half = net.remove(net.rank({n: net.weight(n).abs().sum((1, 2, 3)) for n in net.layers}, budget))
    full = net.limits(budget).full
    later = Network(half, torch.zeros(1, 3, tiny.SIZE, tiny.SIZE), "inner", full)
    assert later.limits(budget).floor == net.limits(budget).floor
    assert later.limits(budget).full != net.limits(budget).full
    assert [g.name for g in later.groups] == [g.name for g in net.groups]


@pytest.mark.parametrize("schedule", [STEPS, "layerwise"])
def test_the_plan_names_channels_of_the_dense_network(schedule: str, root: Path) -> None:
    """Training that moves nothing leaves the filters of the plan, and the choice of one shot."""
    still = tiny.RECIPE.model_copy(update={"lr": 1e-30, "weight_decay": 0.0})
    spec = in_rounds("l1norm", schedule, recovery=still)
    go(spec, root)
    plan = read_plan(Store(root).run_folder(spec) / "plan.json")
    dense = Store(root).stage("dense", baseline.stage_key(spec))
    final = Store(root).stage("final", spec.run_id)
    assert dense is not None
    assert final is not None
    for group, kept in plan.keep.items():
        filters = dense.tensors[f"{group}.weight"]
        assert 1 < len(kept) < len(filters)
        assert torch.equal(final.tensors[f"{group}.weight"], filters[list(kept)])
    once = make_spec("l1norm", recovery=still)
    if go(once, root).widths == {group: len(kept) for group, kept in plan.keep.items()}:
        assert plan == read_plan(Store(root).run_folder(once) / "plan.json")


def test_no_round_goes_below_the_minimum_width_of_the_dense_network(root: Path) -> None:
    record = go(in_rounds("l1norm", STEPS, allocation="global", min_width=0.6), root)
    least = {group: int(0.6 * width) for group, width in record.dense_widths.items()}
    assert all(record.widths[group] >= floor for group, floor in least.items())
    assert any(record.widths[group] == floor for group, floor in least.items())


@pytest.mark.parametrize("asked", [3, 15, 28])
def test_stopped_and_resumed_it_ends_the_same(
    asked: int, iterative: RunRecord, root: Path, tmp_path: Path
) -> None:
    """Stopped in some round at the next step; the dense network is there."""
    spec, turns = iterative.spec, iter(range(10**6))
    (dense,) = (p for p in (root / "stages").glob("dense-*") if baseline.stage_key(spec) in p.name)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / dense.name).symlink_to(dense)
    with pytest.raises(Stopped):
        go(spec, tmp_path, stop=lambda: next(turns) >= asked)
    again = go(spec, tmp_path)
    assert again.weights == iterative.weights
    assert without_times(again) == without_times(iterative)
    assert not list((tmp_path / "stages" / "checkpoints").glob("*"))


def test_choosing_must_leave_something_to_train_with(root: Path) -> None:
    spec = in_rounds("cpli", STEPS)  # 1,000 images a round: all 200, and 266 are its share
    spec = spec.model_copy(update={"schedule": "iterative:5"})
    with pytest.raises(BudgetExceeded, match="round 1 of 5 leaves nothing to train with"):
        go(spec, root)


def test_the_first_scores_are_those_of_one_shot(iterative: RunRecord, root: Path) -> None:
    before = len(list((root / "stages").glob("scores-*")))
    go(make_spec("l1norm"), root)
    assert len(list((root / "stages").glob("scores-*"))) == before


# ---- the grid ------------------------------------------------------------------------------------


def grid(tiny_data: Data, **words: Any) -> list[Cell]:
    return expand(options_from({"dataset": "digits", "arch": "resnet8", **words}), tiny_data)


def test_references_stand_beside_rows_of_each_schedule(tiny_data: Data) -> None:
    cells = grid(tiny_data, methods=["whitebox"], schedule=["one-shot", "iterative:2"])
    found = {(c.spec.method.name, c.spec.schedule) for c in cells if c.spec.reconstruct == "none"}
    both = {(n, s) for n in ("whitebox", "l1norm", "random") for s in ("one-shot", "iterative:2")}
    assert found == both | {("width_scaling", "one-shot"), ("dense_continue", "one-shot")}
    assert {c.spec.schedule for c in cells if c.spec.reconstruct == "ls"} == {"one-shot"}
    (white,) = [c for c in cells if c.spec.method.name == "whitebox" and c.spec.in_rounds
                and c.spec.preparation == "charged"]  # fmt: skip
    (once,) = [c for c in cells if c.spec.method.name == "whitebox" and not c.spec.in_rounds
               and c.spec.preparation == "charged"]  # fmt: skip
    assert 2 * white.spec.method.params["mask_epochs"] == once.spec.method.params["mask_epochs"]


def test_a_papers_recipe_can_go_layer_by_layer_too(tiny_data: Data) -> None:
    words = {"methods": ["hrank"], "arch": "resnet56", "track": "paper", "controls": False}
    (cell,) = grid(tiny_data, **words, schedule=["layerwise"], epochs=810)
    assert (cell.spec.schedule, cell.spec.allocation, cell.blocked) == ("layerwise", "listed", "")
    assert cell.spec.budget_epochs == 810
    (once,) = grid(tiny_data, **words)
    assert once.spec.schedule == "one-shot"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"methods": ["whitebox"]}, "widths must be known before the first layer is pruned"),
        ({"methods": ["whitebox"], "allocation": "uniform"}, "trains before it chooses"),
    ],
)
def test_what_cannot_go_layer_by_layer_says_why(
    words: dict[str, Any], reason: str, tiny_data: Data
) -> None:
    cells = grid(tiny_data, schedule=["layerwise"], controls=False, **words)
    assert [c.status for c in cells] == ["n/a"]
    assert reason in cells[0].blocked


@pytest.mark.parametrize(
    "word", ["iterative", "iterative:1", "iterative:100", "twice", "iterative:2x"]
)
def test_an_unknown_schedule_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmark import run

    assert invoke(run.main, ["--dataset", "digits", "--schedule", word]) == BAD_INPUT
    said = capsys.readouterr().err.strip()
    assert "one-shot, iterative:K (2 to 99), layerwise" in said
    assert len(said.splitlines()) == 1


def test_tables_keep_schedules_apart() -> None:
    spec = synthetic_spec("l1norm", 0)
    allocation = {c.name: value for c, value in columns.SPEC}["allocation"]
    assert allocation(spec) == spec.allocation
    assert allocation(spec.model_copy(update={"schedule": STEPS})) == f"{spec.allocation}, {STEPS}"


def test_the_command_of_a_record_names_its_schedule(iterative: RunRecord, tiny_data: Data) -> None:
    from benchmark.command import command_of

    options = options_from({"dataset": "digits", "schedule": [STEPS, "one-shot"]})
    cells = [c for c in grid(tiny_data, methods=["l1norm"], schedule=[STEPS, "one-shot"])
             if c.spec.method.name == "l1norm" and c.spec.reconstruct == "none"]  # fmt: skip
    said = [command_of(cell, options, "l1norm") for cell in cells]
    assert [f"--schedule {STEPS}" in line for line in said] == [c.spec.in_rounds for c in cells]
    assert json.loads(json.dumps(iterative.model_dump(mode="json")))["spec"]["schedule"] == STEPS
