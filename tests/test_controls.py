"""The controls: random channels, uniform widths from scratch, the dense network trained on; and how
they schedule themselves beside what was asked for."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from benchmark import archs, controls, run
from benchmark.cli import DONE, invoke
from benchmark.command import command_of
from benchmark.grid import planned_cell, read_grid, write_grid
from benchmark.listing import added_line
from benchmark.options import Options, options_from
from benchmark.state import states
from benchmark.status import map_of
from benchmark.store import Store
from benchmark.sweep import Cell, expand
from methods import find
from methods.api import Budget, Plan
from methods.dense_continue import DenseContinue
from methods.random import Random
from methods.width_scaling import WidthScaling

HALF = Budget(0.5, 0.1, "uniform")


def test_random_follows_the_seed_and_nothing_else(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    def plan(seed: int, network_seed: int = 0) -> Plan:
        torch.rand(1)  # the global generator has no say
        return Random().prune(tiny_network(seed=network_seed), HALF, tiny_trainer(seed))

    assert plan(0) == plan(0)
    assert plan(0) == plan(0, network_seed=1)
    assert len({str(plan(seed)) for seed in range(6)}) == 6
    assert plan(0).widths() == plan(1).widths()


def test_random_is_uniform(tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer) -> None:
    """Every channel of the widest layer is kept about equally often."""
    net, kept, draws = tiny_network(), torch.zeros(32), 300
    for seed in range(draws):
        plan = Random().prune(net, HALF, tiny_trainer(seed))
        kept[list(plan.keep["layer3.0.conv1"])] += 1
    share = len(plan.keep["layer3.0.conv1"]) / 32
    assert (kept / draws - share).abs().max() < 4.5 * (share * (1 - share) / draws) ** 0.5


def test_random_scores_differ_between_layers(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    scores = Random().score(tiny_network(), tiny_trainer())  # type: ignore[arg-type]
    values = torch.cat(list(scores.values()))
    assert len(values.unique()) == len(values)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.7])
def test_width_scaling_keeps_a_uniform_prefix(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, cut: float
) -> None:
    net, run = tiny_network(trained=False), tiny_trainer()
    plan = WidthScaling().prune(net, Budget(cut, 0.1, "uniform"), run)  # type: ignore[arg-type]
    shares = []
    for group in net.groups:
        kept = plan.keep[group.name]
        assert kept == tuple(range(len(kept)))
        shares.append((len(kept), group.width))
    common = sum(k for k, _ in shares) / sum(w for _, w in shares)
    assert all(abs(kept - common * width) <= 1.01 for kept, width in shares)
    assert run.ledger.entries == []


def test_width_scaling_starts_from_random_weights_and_claims_nothing() -> None:
    assert not WidthScaling.trained_start
    assert WidthScaling.allocations == ("uniform",)
    assert not any(m.informed for m in (WidthScaling, Random, DenseContinue))


def test_dense_continue_removes_nothing(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer
) -> None:
    net, run = tiny_network(), tiny_trainer()
    plan = DenseContinue().prune(net, Budget(0.5, 0.1, "none"), run)  # type: ignore[arg-type]
    assert net.macs(plan.widths()) == net.macs()
    x, _ = tiny.batch()
    torch.testing.assert_close(net.remove(plan).eval()(x), net(x))
    assert run.ledger.spent == 0


# ---- scheduled by themselves ---------------------------------------------------------------------

BASE: dict[str, Any] = {"arch": "resnet8", "dataset": "digits", "preset": "demo"}
Place = tuple[str, str, str, str]  # method, allocation, reconstruction, preparation


def grid(*methods: str, **words: Any) -> list[Cell]:
    return expand(options_from(BASE | {"methods": list(methods)} | words), tiny.data())


def place(cell: Cell) -> Place:
    spec = cell.spec
    return spec.method.label, spec.allocation, spec.reconstruct, spec.preparation


def added(*methods: str, **words: Any) -> set[Place]:
    return {place(cell) for cell in grid(*methods, **words) if cell.added}


UNIFORM: set[Place] = {
    ("random", "uniform", "none", "charged"), ("random", "uniform", "ls", "charged"),
    ("l1norm", "uniform", "none", "charged"), ("l1norm", "uniform", "ls", "charged"),
    ("width_scaling", "uniform", "none", "charged"), ("dense_continue", "none", "none", "charged"),
}  # fmt: skip
GLOBAL: set[Place] = {
    ("random", "global", "none", "charged"), ("random", "global", "ls", "charged"),
    ("l1norm", "global", "none", "charged"), ("l1norm", "global", "ls", "charged"),
    ("width_scaling", "uniform", "none", "charged"),  # has widths of its own only
    ("dense_continue", "none", "none", "charged"),
}  # fmt: skip
FREE = ("whitebox", "global", "none", "free")


def test_controls_stand_at_every_allocation_that_the_methods_have() -> None:
    assert added("hrank") == UNIFORM
    assert added("whitebox") == GLOBAL | {FREE}
    assert added("hrank", "whitebox") == UNIFORM | GLOBAL | {FREE}
    assert added("hrank", "whitebox", allocation="global") == GLOBAL | {FREE}


def test_what_was_asked_for_comes_first_and_targets_are_outermost() -> None:
    cells = grid("hrank", "whitebox", flops_reduction=[0.3, 0.5], seeds=[0, 1])
    order = [(c.spec.flops_reduction, c.added) for c in cells if c.spec.flops_reduction]
    assert order == sorted(order)
    per_target = 1 + 4 + 4 + 1  # free, two allocations, width_scaling; dense_continue has no target
    assert len(cells) == 2 * (2 * (2 + per_target) + 1)
    assert len({c.spec.run_id for c in cells}) == len(cells)
    for seed in (0, 1):
        assert sum(c.spec.seeds.run == seed for c in cells) == len(cells) / 2


def test_what_was_asked_for_is_no_addition_and_only_what_is_missing_is_added() -> None:
    cells = grid("random", "dense_continue", allocation="global", reconstruct=["ls"])
    asked = {place(c) for c in cells if not c.added}
    dense = ("dense_continue", "none", "none", "charged")
    assert asked == {("random", "global", "ls", "charged"), dense}
    assert {place(c) for c in cells} == GLOBAL
    free = grid("whitebox", preparation=["free"])
    assert [place(c) for c in free if not c.added] == [FREE]
    assert {place(c) for c in free if c.added} == GLOBAL | {(*FREE[:3], "charged")}


def test_asking_for_everything_leaves_nothing_to_add() -> None:
    both = {"reconstruct": ["none", "ls"], "preparation": ["charged", "free"]}
    names = ("hrank", "cpli", "l1norm", "random", "width_scaling", "dense_continue")
    assert added(*names, **both) == set()


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["whitebox", "cpli"], {"controls": False}),
        (["whitebox:official"], {}),  # n/a in the common track
        (["cpli"], {"allocation": "global"}),  # n/a
        (["l1norm"], {"track": "total", "device": "cpu"}),  # not run
        (["dense_continue"], {}),  # nothing is pruned
    ],
)
def test_where_there_is_nothing_to_control_nothing_is_added(
    methods: list[str], words: dict[str, Any]
) -> None:
    cells = grid(*methods, **words)
    assert [c.added for c in cells] == [False] * len(methods)


def test_the_total_track_has_controls_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.options.Options.kind_of_device", lambda _: "cuda")
    assert added("hrank", track="total") == UNIFORM


def test_a_control_that_cannot_run_says_why(tmp_path: Path) -> None:
    torch.save(archs.build("resnet8", tiny.CLASSES).state_dict(), tmp_path / "net.pt")
    cells = grid("hrank", checkpoint=tmp_path / "net.pt")
    (scratch,) = [c for c in cells if c.spec.method.name == "width_scaling"]
    assert (scratch.status, scratch.added) == ("n/a", True)
    assert "how long the checkpoint was trained" in scratch.blocked
    assert {c.status for c in cells if c is not scratch} == {"planned"}


def test_a_users_own_file_has_controls_beside_it(tmp_path: Path) -> None:
    own = "from methods.l1norm import L1Norm\nclass Mine(L1Norm):\n    pass\n"
    (tmp_path / "mine.py").write_text(own)
    assert added(str(tmp_path / "mine.py")) == UNIFORM


def test_cards_alone_say_what_a_control_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPLI as a control and HRank as a reference: of ours none is left."""
    heads = {"cpli": {"kind": "control"}, "hrank": {"reference": True}, "l1norm": {}}

    def told(name: str) -> Any:
        return dataclasses.replace(find(name), card={"card": {"title": name} | heads[name]})

    monkeypatch.setattr(controls, "names", lambda: sorted(heads))
    monkeypatch.setattr(controls, "find", told)
    assert added("slimming", allocation="uniform") == {
        ("slimming", "uniform", "none", "free"), ("cpli", "uniform", "none", "charged"),
        ("cpli", "uniform", "none", "free"), ("hrank", "uniform", "none", "charged"),
        ("hrank", "uniform", "ls", "charged"),
    }  # fmt: skip


def test_one_line_says_what_was_added_and_how_to_do_without() -> None:
    assert added_line(grid("whitebox")) == (
        "7 cells added as controls and references: whitebox (preparation free), dense_continue, "
        "l1norm, l1norm + ls, random, random + ls, width_scaling; --no-controls leaves them out"
    )
    assert "random + ls x2, " in added_line(grid("hrank", seeds=[0, 1]))
    assert added_line(grid("whitebox", controls=False)) == ""


# ---- later on ------------------------------------------------------------------------------------


def test_the_command_of_each_cell_makes_that_cell_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Options] = []
    monkeypatch.setattr(run, "run", lambda options, *_: said.append(options) or DONE)
    options = options_from(BASE | {"methods": ["hrank", "whitebox"], "flops_reduction": [0.3, 0.5]})
    cells = expand(options, tiny.data())
    assert any(cell.added for cell in cells)
    for cell in cells:
        words = shlex.split(command_of(cell, options, cell.entry.label))
        assert invoke(run.main, words[3:]) == DONE
        assert [c.spec.run_id for c in expand(said.pop(), tiny.data())] == [cell.spec.run_id]


def test_a_grid_of_before_goes_on_without_controls(tmp_path: Path) -> None:
    options = options_from(BASE | {"results": tmp_path})
    key = write_grid(Store(tmp_path), options, [], [], 1, {})
    path = tmp_path / "grids" / f"{key}.json"
    content = json.loads(path.read_text())
    found = read_grid(path)
    assert found is not None
    assert found.options.controls
    del content["options"]["controls"]
    path.write_text(json.dumps(content))
    earlier = read_grid(path)
    assert earlier is not None
    assert not earlier.options.controls


def test_the_map_of_a_grid_tells_allocations_apart(tmp_path: Path) -> None:
    options = options_from(BASE | {"methods": ["whitebox", "hrank"], "results": tmp_path})
    cells = expand(options, tiny.data())
    write_grid(Store(tmp_path), options, cells, [], 1, {})
    names = [str(name) for name in map_of(states(Store(tmp_path))).columns[0].cells]
    assert len(names) == len(set(names)) == len(cells)
    assert {"random global", "random uniform", "whitebox (preparation free) global"} < set(names)
    work = {planned_cell(cell, options).name for cell in cells}
    assert {"whitebox at 50 % seed 0", "whitebox (preparation free) at 50 % seed 0"} < work
