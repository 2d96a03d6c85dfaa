"""New weights for the network that a method chose: its widths, its images, its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from pydantic import ValidationError
from test_execute import go, make_spec, without_times

from benchmark import baseline, frames, report, scratch
from benchmark.cli import BAD_INPUT, invoke
from benchmark.command import command_of
from benchmark.data import Data
from benchmark.errors import BadInput, Stopped
from benchmark.options import options_from
from benchmark.record import RunRecord, read_plan
from benchmark.run import main
from benchmark.spec import Anew, Recipe, RunSpec, Scratch, identity, parts_of
from benchmark.store import Store
from benchmark.sweep import Cell, expand
from methods import find

RECIPE = tiny.BASELINE.model_copy(update={"epochs": 3.0})


def anew(kind: Anew, label: str = "l1norm", track: str = "paper", **changes: Any) -> RunSpec:
    new = Scratch(kind=kind, recipe=RECIPE)
    return make_spec(label, track=track, scratch=new, **changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the recipe of its paper, and its networks with new weights."""
    results = tmp_path_factory.mktemp("results")
    go(make_spec("l1norm", track="paper"), results)
    return results


@pytest.fixture(scope="module")
def equal_epochs(root: Path) -> RunRecord:
    return go(anew("scratch-e"), root)


@pytest.fixture(scope="module")
def equal_flops(root: Path) -> RunRecord:
    return go(anew("scratch-b"), root)


def weights_before(spec: RunSpec, root: Path) -> dict[str, torch.Tensor]:
    """Of the same run with a learning rate that changes nothing."""
    still = Recipe(epochs=0.1, lr=1e-30, weight_decay=0, warmup=0)
    new = Scratch(kind="scratch-e", recipe=still)
    record = go(spec.model_copy(update={"scratch": new}), root)
    stage = Store(root).stage("final", record.run_id)
    assert stage is not None
    return stage.tensors


# ---- the run -------------------------------------------------------------------------------------


def test_the_channels_are_those_of_the_run_that_chose(root: Path, equal_epochs: RunRecord) -> None:
    store, source = Store(root), equal_epochs.spec.chosen_by
    assert source == make_spec("l1norm", track="paper")
    chose = store.read(source)
    assert equal_epochs.plan == chose.plan
    assert equal_epochs.pruned == chose.pruned
    assert equal_epochs.dense == chose.dense
    plans = [read_plan(store.run_folder(s) / "plan.json") for s in (source, equal_epochs.spec)]
    assert plans[0] == plans[1]


def test_choosing_is_not_done_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find("l1norm").cls, "score", lambda *_: pytest.fail("it scored again"))
    new = Scratch(kind="scratch-e", recipe=RECIPE.model_copy(update={"epochs": 1.0}))
    go(anew("scratch-e").model_copy(update={"scratch": new}), root)


def test_no_weight_of_the_dense_network_is_left(root: Path) -> None:
    """Nor of what it was before training, which would be a winning ticket."""
    spec = anew("scratch-e")
    plan = read_plan(Store(root).run_folder(spec.chosen_by) / "plan.json")
    dense = Store(root).stage("dense", baseline.stage_key(spec))
    assert dense is not None
    found, untrained = weights_before(spec, root), baseline.new_model(spec).state_dict()
    other = baseline.new_model(spec, scratch.DRAW).state_dict()
    for group, kept in plan.keep.items():
        name, rows = f"{group}.weight", list(kept)
        torch.testing.assert_close(found[name], other[name][rows])  # it is a random network
        for known in (dense.tensors, untrained):
            assert not torch.isclose(found[name], known[name][rows], rtol=1e-2).all()


def test_it_spends_what_it_is_named_for(
    root: Path, equal_epochs: RunRecord, equal_flops: RunRecord
) -> None:
    assert equal_epochs.spent.charged == equal_epochs.spent.allowed == 3 * tiny.TRAIN
    ratio = equal_flops.dense.cost.macs / equal_flops.pruned.macs
    assert ratio > 1.5
    assert equal_flops.spent.charged == equal_flops.spent.allowed == round(3 * ratio * tiny.TRAIN)
    step = [  # multiply-accumulates of a training step, three forward passes
        3 * record.spent.charged * record.pruned.macs for record in (equal_epochs, equal_flops)
    ]
    assert step[1] == pytest.approx(3 * 3 * tiny.TRAIN * equal_flops.dense.cost.macs, rel=1e-3)
    trained = [row["macs"] for row in equal_flops.spent.rows if row["phase"] == "recovery"]
    assert trained == [step[1]]


def test_in_the_total_track_it_has_the_images_of_dense_training_and_budget(root: Path) -> None:
    """As it is planned for a GPU; here on a few images."""
    total = tiny.BASELINE.model_copy(update={"epochs": 4.0 + tiny.EPOCHS})
    new = Scratch(kind="scratch", recipe=total)
    record = go(make_spec("whitebox", track="total", scratch=new), root)
    assert record.spent.charged == record.spent.allowed == round(total.epochs * tiny.TRAIN)
    assert record.spec.own_epochs == 4.0 + record.spec.budget_epochs
    assert record.title.endswith(", Scratch")
    assert record.control


def test_it_is_trained_by_the_recipe_of_the_dense_network(equal_epochs: RunRecord) -> None:
    assert equal_epochs.spec.recovery.lr != RECIPE.lr
    assert equal_epochs.spec.training == RECIPE
    assert equal_epochs.final.test_top1 > equal_epochs.before_recovery.test_top1 + 0.2
    assert equal_epochs.selection is None
    assert equal_epochs.seed_agreement is None


def test_what_trains_before_it_chooses_is_charged_where_it_chose(root: Path) -> None:
    chose = go(make_spec("whitebox", track="paper"), root)
    new = go(anew("scratch-e", "whitebox"), root)
    assert new.plan == chose.plan
    assert next(row["phase"] for row in chose.spent.rows) == "prepare-1"
    assert {row["phase"] for row in new.spent.rows} == {"recalibration", "recovery"}
    assert new.spent.charged == new.spent.allowed


def test_epochs_grow_no_further_than_the_source_lets_them() -> None:
    spec = anew("scratch-b")
    assert scratch.longer(spec, 3) == 3
    assert scratch.longer(anew("scratch-e"), 3) == 1
    large = spec.model_copy(update={"data": spec.data.model_copy(update={"name": "imagenet"})})
    assert large.data.recipes == "imagenet"
    assert scratch.longer(large, 3) == 2
    assert scratch.longer(large, 1.5) == 1.5


@pytest.mark.parametrize("asked", [3, 25])
def test_stopped_and_resumed_it_ends_the_same(
    asked: int, equal_flops: RunRecord, root: Path, tmp_path: Path
) -> None:
    spec, turns = equal_flops.spec, iter(range(10**6))
    (tmp_path / "stages").mkdir()
    for known in [*(root / "stages").glob("dense-*"), *(root / "stages").glob("scores-*")]:
        (tmp_path / "stages" / known.name).symlink_to(known)
    with pytest.raises(Stopped):
        go(spec, tmp_path, stop=lambda: next(turns) >= asked)
    again = go(spec, tmp_path)
    assert again.environment["resumed_from"]
    assert without_times(again) == without_times(equal_flops)


# ---- identity ------------------------------------------------------------------------------------


def test_ids_of_runs_without_it_stay() -> None:
    spec = make_spec("l1norm")
    assert "scratch" not in identity(spec)
    kinds: tuple[Anew, ...] = ("scratch-e", "scratch-b")
    ids = {anew(kind).run_id for kind in kinds} | {make_spec("l1norm", track="paper").run_id}
    assert len(ids) == 3


def test_the_common_track_has_none() -> None:
    with pytest.raises(ValidationError, match="new weights belong to the tracks"):
        anew("scratch", track="common")


# ---- the grid ------------------------------------------------------------------------------------


def grid(tiny_data: Data, **words: Any) -> list[Cell]:
    said = {"dataset": "digits", "arch": "resnet56", "track": "paper"}
    return expand(options_from(said | words), tiny_data)


def kinds(cells: list[Cell]) -> dict[str, tuple[str, bool]]:
    return {cell.spec.row: (cell.status, cell.added) for cell in cells}


def test_the_paper_track_adds_both(tiny_data: Data) -> None:
    cells = grid(tiny_data, methods=["hrank", "whitebox:official", "random", "exp:official"])
    for label in ("hrank", "whitebox:official"):
        assert kinds(cells)[f"{label} (scratch-e)"] == ("planned", True)
        assert kinds(cells)[f"{label} (scratch-b)"] == ("planned", True)
    assert not any(c.spec.scratch for c in cells if c.spec.method.name in ("random", "exp"))
    by_row = {cell.spec.row: cell.spec for cell in cells}
    own = by_row["hrank (scratch-e)"]
    assert own.scratch is not None
    assert own.scratch.recipe == own.baseline
    assert own.scratch.recipe.epochs == 160
    white = by_row["whitebox:official (scratch-b)"]  # trained from scratch itself
    assert white.scratch is not None
    assert white.scratch.recipe == white.recovery
    assert white.recovery.epochs == 300
    alone = grid(tiny_data, methods=["hrank"], controls=False)
    assert [cell.spec.row for cell in alone] == ["hrank"]


def test_the_users_word_on_dense_training_holds(tiny_data: Data, tmp_path: Path) -> None:
    words: dict[str, Any] = {"methods": ["hrank"], "weights": ["scratch-e"], "controls": False}
    (cell,) = grid(tiny_data, set={"baseline.epochs": 7}, **words)
    assert cell.spec.own_epochs == 7
    torch.save(tiny.model().state_dict(), tmp_path / "net.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.baseline.checkpoint_hash", lambda _: "0" * 16)
        given = {"set": {"baseline.epochs": 7}, "checkpoint": tmp_path / "net.pt"}
        (cell,) = grid(tiny_data, **given, **words)
    assert cell.spec.baseline is None
    assert cell.spec.own_epochs == 7


def test_the_total_track_adds_it_where_widths_are_not_uniform(
    tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[str, Any] = {"methods": ["whitebox", "hrank"], "track": "total", "preset": "demo"}
    monkeypatch.setattr("benchmark.options.Options.kind_of_device", lambda _: "cuda")
    cells = {c.spec.row: c for c in grid(tiny_data, **words) if c.spec.preparation == "charged"}
    assert cells["whitebox (scratch)"].added
    assert "hrank (scratch)" not in cells
    new, thin = cells["whitebox (scratch)"].spec, cells["width_scaling"].spec
    assert new.own_epochs == thin.budget_epochs  # T: dense training and budget
    assert new.training == thin.recovery
    asked = grid(tiny_data, **words | {"methods": ["hrank"], "weights": ["scratch"]})
    assert kinds(asked)["hrank (scratch)"] == ("planned", False)


def test_elsewhere_it_says_not_run(tiny_data: Data) -> None:
    found = kinds(grid(tiny_data, methods=["whitebox"], track="total", device="cpu"))
    assert found["whitebox (scratch)"] == ("not run", True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"track": "common", "weights": ["scratch"]}, "the common track has inherited"),
        ({"track": "total", "weights": ["scratch-e"]}, "the total track has inherited and scratch"),
        ({"weights": ["scratch"]}, "the paper track has inherited and scratch-e and scratch-b"),
        ({"track": "total", "weights": ["scratch"], "lane": "tuned"}, "leave out --lane"),
    ],
)
def test_where_there_is_no_such_weight(words: dict[str, Any], reason: str, tiny_data: Data) -> None:
    with pytest.raises(BadInput, match=reason):
        grid(tiny_data, methods=["l1norm"], **words)


@pytest.mark.parametrize(
    ("label", "reason"),
    [("exp:official", "makes no smaller network"), ("width_scaling", "no channels of a trained")],
)
def test_what_has_no_network_to_train_anew_says_so(
    label: str, reason: str, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.options.Options.kind_of_device", lambda _: "cuda")
    track, kind = ("paper", "scratch-e") if label == "exp:official" else ("total", "scratch")
    words: dict[str, Any] = {"methods": [label], "track": track, "weights": [kind]}
    (cell,) = grid(tiny_data, controls=False, **words)
    assert cell.status == "n/a"
    assert reason in cell.blocked


def test_a_strange_word_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(main, ["--weights", "new", "--dataset", "digits"]) == BAD_INPUT
    assert "--weights" in capsys.readouterr().err


def test_its_command_makes_it_again(tiny_data: Data) -> None:
    words: dict[str, Any] = {"dataset": "digits", "arch": "resnet56", "track": "paper"}
    options = options_from(words | {"methods": ["hrank"], "preset": "demo"})
    cell = next(c for c in expand(options, tiny_data) if c.spec.scratch)
    said = command_of(cell, options, "hrank")
    assert "--weights scratch-e" in said
    assert "--no-controls" in said


# ---- tables --------------------------------------------------------------------------------------


def test_it_has_rows_of_its_own(
    root: Path, equal_epochs: RunRecord, equal_flops: RunRecord
) -> None:
    report.build(root, "none")
    runs = pd.read_csv(root / "leaderboard" / "runs.csv").set_index("run_id")
    for record, epochs in ((equal_epochs, 3.0), (equal_flops, 3.0)):
        row = runs.loc[record.run_id]
        kind = record.spec.scratch.kind if record.spec.scratch else ""
        assert row["method"] == f"l1norm ({kind})"
        assert row["entry"].startswith(f"L1-norm, {kind.title()}")
        assert (row["control"], row["start"]) == (1, "random")
        assert (row["budget_epochs"], row["total_epochs"]) == (epochs, epochs)
        assert pd.isna(row["baseline_epochs"])
    charged = runs.loc[equal_flops.run_id, "charged_epochs"]
    assert charged == pytest.approx(3 * equal_flops.dense.cost.macs / equal_flops.pruned.macs, 0.01)
    source = runs.loc[equal_epochs.spec.chosen_by.run_id]
    assert (source["method"], source["control"], source["start"]) == ("l1norm", 0, "baseline")
    board = pd.read_csv(root / "leaderboard.csv")
    assert set(board["method"]) >= {"l1norm", "l1norm (scratch-e)", "l1norm (scratch-b)"}


def test_a_row_that_is_not_above_its_network_from_scratch_is_marked(
    root: Path, equal_epochs: RunRecord, equal_flops: RunRecord
) -> None:
    report.build(root, "none")
    board = pd.read_csv(root / "leaderboard.csv", keep_default_na=False).set_index("method")
    twins = board.loc[["l1norm (scratch-e)", "l1norm (scratch-b)"]]
    rows = board.reset_index().to_dict("records")
    for best, marked in ((twins["final_mean"].max(), True), (101.0, False)):
        for row in rows:
            row["marks"] = ""
            row["final_mean"] = best if row["method"] == "l1norm" else row["final_mean"]
        frames._mark_against_scratch(rows)
        marks = {row["method"]: row["marks"] for row in rows if row["budget_epochs"] > 0}
        assert (frames.NOT_ABOVE_SCRATCH in marks["l1norm"]) is marked
        assert not marks["l1norm (scratch-e)"]
    assert frames.NOT_ABOVE_SCRATCH in (root / "leaderboard" / "DICTIONARY.md").read_text()


def test_records_say_so(root: Path, equal_flops: RunRecord) -> None:
    content = json.loads((Store(root).run_folder(equal_flops.spec) / "record.json").read_text())
    assert content["spec"]["scratch"]["kind"] == "scratch-b"
    assert content["title"] == "L1-norm, Scratch-B"


def test_the_name_of_a_row_is_taken_apart_as_it_was_put_together() -> None:
    kinds: tuple[Anew, ...] = ("scratch-e", "scratch-b")
    for kind in kinds:
        assert parts_of(anew(kind).row) == ("l1norm", kind)
    assert parts_of("whitebox:official") == ("whitebox:official", "")
