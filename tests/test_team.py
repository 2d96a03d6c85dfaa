"""Several processes on one cell do what one process does, and end together.

With two processes the sums are even the same to the bit: a sum of two has one order, and a factor
of two is exact. With three they differ by rounding, which training makes larger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ddp_work
import pytest
import tiny
import torch
from ddp_work import Trained, phase, together, whole
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from benchmark.claims import Claims
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput, Stopped
from benchmark.parts import LEAST, cut, parts_of, synced
from benchmark.record import RunRecord
from benchmark.schedule import order_of, phase_seed
from benchmark.store import Store
from benchmark.team import ALONE, Team

ODD = {"epochs": 1.5, "batch_size": 27}  # 7 batches of 28 or 29, then 4 of 25
STEPS_OF_TEN = {"epochs": 1.5, "batch_size": 20}


def trained(found: Any) -> Trained:
    assert isinstance(found, Trained), found
    return found


def same(one: Trained, two: Trained) -> bool:
    return tiny.same(one.state, two.state) and (one.rows, one.after) == (two.rows, two.after)


def only_record(root: Path) -> RunRecord:
    (record,) = Store(root).records()
    return record


# ---- parts of a batch ----------------------------------------------------------------------------


@given(images=st.integers(1, 200), replicas=st.integers(1, 16))
def test_a_batch_is_cut_into_consecutive_parts_of_nearly_equal_size(
    images: int, replicas: int
) -> None:
    rows = torch.randperm(images)
    parts = cut(rows, replicas)
    assert [p.number for p in parts] == list(range(replicas))
    used = [p for p in parts if p.weight]
    assert torch.equal(torch.cat([p.rows for p in used]), rows)
    sizes = [len(p.rows) for p in used]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(LEAST, images)  # batch norm needs two
    assert len(used) == replicas or images < LEAST * replicas
    assert sum(p.weight for p in parts) == pytest.approx(1)
    assert sum(p.share for p in parts) == pytest.approx(1)
    idle = parts[len(used) :]
    assert all(p.share == 0 and len(p.rows) for p in idle)


def test_a_team_runs_all_parts_of_a_batch_and_each_process_one() -> None:
    rows = torch.arange(11)
    for whole_statistics in (False, True):
        own = [parts_of(rows, 3, whole_statistics, Team(r, 3)) for r in range(3)]
        assert [len(p) for p in own] == [1, 1, 1]
        assert torch.equal(torch.cat([p[0].rows for p in own]), rows)
    assert len(parts_of(rows, 3, False, ALONE)) == 3
    assert len(parts_of(rows, 3, True, ALONE)) == 1
    (idle,) = parts_of(rows[:2], 3, True, Team(2, 3))
    assert len(idle.rows) == 0  # it must not change the statistics that all share


@pytest.mark.parametrize("size", [2, 5])
def test_a_team_that_does_not_fit_the_parts_is_refused(size: int) -> None:
    with pytest.raises(BadInput, match=f"{size} processes cannot share .* cut into 3: start 1 or"):
        tiny.trainer(replicas=3, team=Team(0, size))


def test_synchronised_batch_norm_needs_gpus_unless_one_process_sees_the_whole_batch() -> None:
    with pytest.raises(BadInput, match="--sync-bn needs GPUs"):
        tiny.trainer(replicas=2, sync_bn=True, team=Team(0, 2))
    one, two = phase(ALONE, ODD, sync_bn=True), phase(ALONE, ODD, replicas=1)
    # one forward over the whole batch: what 1 replica does
    assert tiny.same(trained(one).state, trained(two).state)


def test_synchronised_norms_keep_their_type_and_are_themselves_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without other processes their forward is the plain one: what is tested is the exchange."""
    original, called = nn.SyncBatchNorm.forward, list[int]()

    def counted(self: nn.SyncBatchNorm, x: torch.Tensor) -> torch.Tensor:
        called.append(1)
        return original(self, x)

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", counted)
    plain, other = tiny.model(), tiny.model()
    norms = [m for m in other.modules() if isinstance(m, nn.BatchNorm2d)]
    x, _ = tiny.batch()
    with synced(other, True):
        assert [m for m in other.modules() if isinstance(m, nn.BatchNorm2d)] == norms
        assert torch.equal(plain.train()(x), other.train()(x))
        assert torch.equal(plain.eval()(x), other.eval()(x))
    assert tiny.same(tiny.state_of(plain), tiny.state_of(other))  # running statistics included
    assert len(called) == 2 * len(norms)
    other(x)
    assert len(called) == 2 * len(norms)


def test_a_step_is_that_of_the_mean_loss_with_statistics_of_each_part() -> None:
    """Worked out by hand: one step of plain SGD."""
    recipe = tiny.RECIPE.model_copy(
        update={"epochs": 0.055, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    )
    run, net, expected = tiny.trainer(replicas=2), tiny.model(), tiny.model()

    def penalty(model: Any) -> torch.Tensor:
        found: torch.Tensor = 0.1 * model.fc.weight.square().sum()
        return found

    run.run_phase(net, recipe, "recovery", penalty=lambda: penalty(net))
    seed = phase_seed(0, "recovery")
    rows = order_of(tiny.TRAIN, seed, 0)[:11]
    second = tiny.model()  # running statistics apart, weights shared
    for name, parameter in expected.named_parameters():
        owner, _, last = name.rpartition(".")
        setattr(second.get_submodule(owner), last, parameter)
    total = penalty(expected)
    for model, part in ((expected, rows[:6]), (second, rows[6:])):
        x, y = run.train.batch(part, augment=(seed, 0))
        total = total + F.cross_entropy(model.train()(x), y, reduction="sum") / 11
    total.backward()
    assert run.curve[0].loss == pytest.approx(float(total.detach()), rel=1e-6)
    with torch.no_grad():
        for parameter in expected.parameters():
            assert parameter.grad is not None
            parameter -= recipe.lr * parameter.grad
    for (name, found), right in zip(
        net.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.allclose(found, right, rtol=1e-5, atol=1e-6), name


def test_one_replica_is_what_was_there_before() -> None:
    """Test_golden says the same of whole methods."""
    net = tiny.model()
    tiny.trainer(replicas=1).run_phase(net, tiny.RECIPE, "recovery")
    other = tiny.model()
    tiny.trainer().run_phase(other, tiny.RECIPE, "recovery")
    assert weights_digest(net.state_dict()) == weights_digest(other.state_dict())
    two = tiny.model()
    tiny.trainer(replicas=2).run_phase(two, tiny.RECIPE, "recovery")
    assert not tiny.same(tiny.state_of(net), tiny.state_of(two))  # the switch does something


# ---- training phases -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (ODD, {}),
        (ODD, {"dropout": 0.5}),
        ({"epochs": 1.015, "batch_size": 27}, {}),  # the last batch has 3 images: one part is idle
        (ODD | {"optimizer": "adamw", "lr": 0.01}, {"precision": "bf16"}),
    ],
    ids=["odd", "dropout", "idle", "adamw-bf16"],
)
def test_two_processes_train_as_one_does(
    recipe: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    words = {"dropout": 0.0, **changes}
    first, second = map(trained, together(tmp_path, _phase, recipe, words))
    one = trained(_phase(ALONE, recipe, words))
    assert same(first, second)
    assert same(first, one)


def _phase(team: Team, recipe: dict[str, Any], words: dict[str, Any]) -> Trained | bool:
    return phase(team, recipe, **words)


@pytest.mark.parametrize("size", [3])
def test_three_processes_train_as_one_does_but_for_rounding(size: int, tmp_path: Path) -> None:
    """Half an epoch: float32 rounds at 1e-7, and every step makes the difference larger."""
    recipe, words = {"epochs": 0.5, "batch_size": 27}, {"replicas": size}
    crowd = [trained(t) for t in together(tmp_path, _phase, recipe, words, size=size)]
    one = trained(_phase(ALONE, recipe, words))
    assert all(tiny.same(crowd[0].state, other.state) for other in crowd)
    for name, value in one.state.items():
        largest = float(value.abs().max())
        assert torch.allclose(crowd[0].state[name], value, rtol=1e-5, atol=1e-5 * largest), name
    assert crowd[0].rows[0].loss == pytest.approx(one.rows[0].loss, rel=1e-5)


def test_each_process_sees_its_slice_of_the_batch_with_the_same_crops_and_noise(
    tmp_path: Path,
) -> None:
    crowd = [trained(t) for t in together(tmp_path, _phase, ODD, {})]
    one = trained(_phase(ALONE, ODD, {}))
    whole_batches = trained(_phase(ALONE, ODD, {"replicas": 1}))
    turns = [t for pair in zip(*(c.batches for c in crowd), strict=True) for t in pair]
    assert len(turns) == len(one.batches) == 2 * 11
    assert all(map(torch.equal, turns, one.batches))
    drawn = [t for pair in zip(*(c.noise for c in crowd), strict=True) for t in pair]
    assert all(map(torch.equal, drawn, one.noise))
    for kind in ("batches", "noise"):  # the parts of a batch are the batch
        parts, batches = getattr(one, kind), getattr(whole_batches, kind)
        pairs = [torch.cat(parts[i : i + 2]) for i in range(0, len(parts), 2)]
        assert all(map(torch.equal, pairs, batches))


def test_a_team_shares_the_batches_of_an_evaluation(tmp_path: Path) -> None:
    one = ddp_work.evaluated(ALONE)
    for found in together(tmp_path, ddp_work.evaluated):
        assert all(map(torch.equal, found, one))


# ---- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("asks", [0, 3, 9, 14])
def test_a_stopped_phase_goes_on_to_the_bit(replicas: int, asks: int, tmp_path: Path) -> None:
    """Within an epoch, at its end, and after the last step of all."""
    words: dict[str, Any] = {"replicas": replicas, "dropout": 0.5}
    expected = trained(phase(ALONE, STEPS_OF_TEN, **words))
    assert phase(ALONE, STEPS_OF_TEN, tmp_path, asks, **words) is True
    again = trained(phase(ALONE, STEPS_OF_TEN, tmp_path, **words))
    assert same(again, expected)
    assert len(again.batches) < len(expected.batches)  # it did not begin anew


def test_without_checkpoints_nothing_is_kept() -> None:
    assert phase(ALONE, STEPS_OF_TEN, None, 3) is False
    assert phase(ALONE, STEPS_OF_TEN, None, 9) is False  # the end of the epoch


def test_what_draws_batches_stops_too() -> None:
    run = tiny.trainer(stop=ddp_work.After(1))
    with pytest.raises(Stopped) as stopped:
        list(run.batches(split="train"))
    assert not stopped.value.kept
    assert sum(e.images for e in run.ledger.entries) == 128  # the second batch was not given


def test_a_stopped_team_goes_on_to_the_bit_with_any_number_of_processes(tmp_path: Path) -> None:
    words: dict[str, Any] = {"dropout": 0.5}
    expected = trained(phase(ALONE, STEPS_OF_TEN, **words))
    for name, resumed in (("team", 2), ("one", 1)):
        folder = tmp_path / name
        asks: dict[str, Any] = {"folder": folder, "asks": 0}
        assert together(tmp_path / "a", _phase, STEPS_OF_TEN, words | asks) == [True, True]
        (kept,) = folder.iterdir()
        assert kept.name.startswith("recovery-000000008-")  # in the first epoch, by the first alone
        go_on = words | {"folder": folder}
        if resumed == 1:
            found = [_phase(ALONE, STEPS_OF_TEN, go_on)]
        else:
            found = together(tmp_path / "b", _phase, STEPS_OF_TEN, go_on)
        assert all(same(trained(f), expected) for f in found)
        assert len(trained(found[0]).batches) < len(expected.batches)


def test_a_stop_ends_a_claim_in_order(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with pytest.raises(Stopped), claims.take("run", "a"):
        raise Stopped(kept=True)
    assert claims.read("run", "a") is None


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_stopped_run_ends_as_if_nothing_had_happened(replicas: int, tmp_path: Path) -> None:
    """Asked to stop after 3 steps of the dense network, of the masks, and of recovery."""
    whole(ALONE, tmp_path / "a", "whitebox", replicas=replicas)
    root, reasons = tmp_path / "b", []
    for asks in (3, 8, 8):
        ended, _ = whole(ALONE, root, "whitebox", asks, replicas=replicas)
        assert (ended.status, ended.kept, ended.kind) == ("stopped", True, "cell")
        reasons.append(ended.reason)
    assert len(set(reasons)) == 1
    assert "goes on from its checkpoint" in reasons[0]
    store, spec = Store(root), ddp_work.task_of(root, "whitebox", replicas=replicas).spec
    assert [a.status for a in store.attempts(spec)] == ["interrupted"] * 3
    assert store.claims.all() == []
    ended, _ = whole(ALONE, root, "whitebox", replicas=replicas)
    assert ended.status == "done"
    alone, resumed = only_record(tmp_path / "a"), only_record(root)
    assert (resumed.weights, resumed.plan) == (alone.weights, alone.plan)
    assert resumed.method_facts == alone.method_facts
    assert resumed.environment["resumed_from"]


def test_a_stop_while_scores_are_drawn_is_said_to_keep_nothing(tmp_path: Path) -> None:
    whole(ALONE, tmp_path, "l1norm", replicas=1)  # the dense network is there
    ended, _ = whole(ALONE, tmp_path, "hrank", 0, replicas=1)
    assert (ended.status, ended.kept) == ("stopped", False)
    assert "begins anew" in ended.reason


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["l1norm", "whitebox", pytest.param("slimming", marks=pytest.mark.slow)]
)
def test_a_team_makes_the_record_that_one_process_makes(method: str, tmp_path: Path) -> None:
    (first, heard), (second, unheard) = together(tmp_path, whole, tmp_path / "team", method)
    assert first.status == second.status == "done"
    assert heard
    assert unheard == []
    whole(ALONE, tmp_path / "one", method)
    made, one = only_record(tmp_path / "team"), only_record(tmp_path / "one")
    assert (made.environment["processes"], one.environment["processes"]) == (2, 1)
    times = {"latency", "environment", "seconds", "spent"}
    assert made.model_dump(exclude=times) == one.model_dump(exclude=times)
    assert made.spent.charged == one.spent.charged
    store = Store(tmp_path / "team")
    assert store.attempts(made.spec) == []
    assert store.claims.all() == []
    assert not list(store.stages.glob("checkpoints/*"))
    log = (store.root / store.log_name(made.run_id)).read_text()
    assert log.count("pruned:") == 1  # one speaks for all


def test_a_team_is_busy_or_done_as_its_first_is(tmp_path: Path) -> None:
    root, spec = tmp_path / "r", ddp_work.task_of(tmp_path / "r", "l1norm").spec
    words = ("l1norm", None, False)
    with Store(root).claims.take("run", spec.run_id):
        busy = together(tmp_path / "a", whole, root, *words)
    assert [ended.status for ended, _ in busy] == ["busy", "busy"]
    whole(ALONE, root, "l1norm")
    done = together(tmp_path / "b", whole, root, *words)
    assert [ended.line for ended, _ in done] == [
        f"{ddp_work.task_of(root, 'l1norm').name}: done by another process"
    ] * 2
    assert Store(root).attempts(spec) == []


def test_a_stopped_team_ends_together_and_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "r"
    stopped = together(tmp_path / "a", whole, root, "whitebox", 2)  # at the end of the masks' phase
    assert [(ended.status, ended.kept) for ended, _ in stopped] == [("stopped", True)] * 2
    spec = ddp_work.task_of(root, "whitebox").spec
    (attempt,) = Store(root).attempts(spec)
    assert attempt.status == "interrupted"
    resumed = together(tmp_path / "b", whole, root, "whitebox")
    assert [ended.status for ended, _ in resumed] == ["done", "done"]
    whole(ALONE, tmp_path / "one", "whitebox")
    made, one = only_record(root), only_record(tmp_path / "one")
    assert (made.weights, made.plan, made.final) == (one.weights, one.plan, one.final)
    assert made.environment["resumed_from"]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_failure_of_all_is_one_attempt_and_the_team_goes_on(tmp_path: Path) -> None:
    lines = together(tmp_path, ddp_work.wild, tmp_path / "r")
    assert lines[0] == lines[1]
    assert "failed: diverged: the loss is not finite" in lines[0]
    assert lines[0].endswith("; done")
    assert len(list((tmp_path / "r" / "attempts").rglob("[0-9]*.json"))) == 1


@pytest.mark.parametrize("how", ["raises", "dies"])
def test_if_one_process_fails_the_others_end_soon(how: str, tmp_path: Path) -> None:
    first, second = together(tmp_path, ddp_work.alone_in_failure, tmp_path / "r", how)
    assert "failed: a process of its team was lost" in first
    assert second is None if how == "dies" else "lost: RuntimeError: no luck" in second
    spec = ddp_work.task_of(tmp_path / "r", "l1norm").spec
    (attempt,) = Store(tmp_path / "r").attempts(spec)
    assert attempt.status == "failed"
    log = (tmp_path / "r" / attempt.log).read_text()
    assert how == "dies" or ("process 2 of 2:" in log and "no luck" in log)


def test_what_the_first_meets_alone_is_raised_by_all(tmp_path: Path) -> None:
    found = together(tmp_path, _led)
    assert found == ["made once by 0", "made once by 0"]
    assert together(tmp_path, _led_astray) == ["BadInput: no room", "BadInput: no room"]
    assert together(tmp_path, _led_oddly) == ["Odd: 1 2", "RuntimeError: Odd: 1 2"]
    assert together(tmp_path, _counted) == [([0, 10], True, 30.0), ([0, 10], True, 30.0)]


def _led(team: Team) -> str:
    return team.lead(lambda: f"made once by {team.rank}")


class Odd(Exception):
    """An error that cannot be made again from its text."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


def _led_astray(team: Team) -> str:
    return _said(team, BadInput("no room"))


def _led_oddly(team: Team) -> str:
    return _said(team, Odd(1, 2))


def _said(team: Team, error: Exception) -> str:
    def fails() -> str:
        raise error

    try:
        return team.lead(fails)
    except Exception as met:
        return f"{type(met).__name__}: {met}"


def _counted(team: Team) -> tuple[list[int], bool, float]:
    total = team.sum(torch.tensor(10.0 * (team.rank + 1)))
    return team.gather(10 * team.rank), team.any(team.rank == 1), float(total)
