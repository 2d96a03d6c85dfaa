"""Where runs start: what a checkpoint that is adapted first is, who shares it, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic
import tiny
import torch
from test_execute import ARCH, go, make_spec

from benchmark import archs, baseline, sharing
from benchmark.command import command_of
from benchmark.errors import BadInput
from benchmark.options import options_from
from benchmark.record import RunRecord
from benchmark.reproduce import check_checkpoint
from benchmark.spec import MethodIdentity, RunSpec, Seeds, Start
from benchmark.store import Store
from benchmark.sweep import expand

SLOW = 1e-9  # a rate at which weights stay what they were


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.manual_seed(7)
    torch.save(archs.build(ARCH, tiny.CLASSES).state_dict(), path)
    return path


def adapted(checkpoint: Path, label: str = "l1norm", seed: int = 0, lr: float = 0.05) -> RunSpec:
    start = Start(kind="adapted", checkpoint=baseline.checkpoint_hash(checkpoint))
    recipe = tiny.BASELINE.model_copy(update={"epochs": 1.0, "lr": lr})
    return make_spec(label, seed, start=start, baseline=recipe)


def done(checkpoint: Path, root: Path, *args: Any) -> RunRecord:
    return go(adapted(checkpoint, *args), root, checkpoint=checkpoint)


def dense_of(spec: RunSpec, root: Path) -> dict[str, torch.Tensor]:
    stage = Store(root).stage("dense", baseline.stage_key(spec))
    assert stage is not None
    return stage.tensors


def test_methods_of_a_seed_share_what_that_seed_made_of_the_checkpoint(
    checkpoint: Path, tmp_path: Path
) -> None:
    one, other, next_seed = (
        done(checkpoint, tmp_path, label, seed)
        for label, seed in (("l1norm", 0), ("random", 0), ("l1norm", 1))
    )
    assert one.dense.weights == other.dense.weights
    assert one.dense.weights != next_seed.dense.weights
    assert baseline.checkpoint_hash(checkpoint) not in (one.dense.weights, next_seed.dense.weights)


def test_it_begins_with_the_weights_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    spec = adapted(checkpoint, lr=SLOW)
    go(spec, tmp_path, checkpoint=checkpoint)
    found, given = dense_of(spec, tmp_path), torch.load(checkpoint)
    weights = [name for name in given if name.endswith(("weight", "bias"))]
    assert max((found[name] - given[name]).abs().max().item() for name in weights) < 1e-6
    means = [name for name in given if name.endswith("running_mean")]
    assert any((found[name] - given[name]).abs().max() > 1e-3 for name in means)  # it was trained


def test_runs_that_started_from_another_network_of_the_seed_are_counted(
    checkpoint: Path, tmp_path: Path
) -> None:
    record = done(checkpoint, tmp_path)
    store, spec = Store(tmp_path), record.spec
    assert sharing.warning(store, spec, False, record.dense.weights) == ""
    said = sharing.warning(store, spec, False, "of another processor")
    assert said.startswith("; 1 finished run of this seed started from another network")
    assert said.endswith("so take other seeds")  # this machine computes as it did for the record
    assert sharing.warning(store, adapted(checkpoint, seed=1), False, "others") == ""
    assert sharing.warning(store, adapted(checkpoint, lr=0.01), False, "others") == ""
    sparse = MethodIdentity(
        name="slimming", variant="sparse", revision=1, params={"start": "sparse"}
    )
    other = Store(tmp_path / "other")  # with a run that made a dense network of its own
    synthetic.write(other, synthetic.record(spec.model_copy(update={"method": sparse})))
    assert sharing.warning(other, spec, False, "others") == ""


def test_the_recipe_of_the_adaptation_is_part_of_what_a_run_is(checkpoint: Path) -> None:
    one, other = adapted(checkpoint), adapted(checkpoint, lr=0.01)
    assert one.run_id != other.run_id
    assert baseline.stage_key(one) != baseline.stage_key(other)
    taken = one.model_copy(update={"start": Start(kind="baseline")})
    assert baseline.stage_key(one) != baseline.stage_key(taken)


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": None},
        {"start": Start(kind="adapted")},
        {"start": Start(kind="baseline", checkpoint="abc")},
        {"start": Start(kind="checkpoint", checkpoint="abc")},
    ],
)
def test_a_start_that_contradicts_itself_is_no_run(
    changes: dict[str, Any], checkpoint: Path
) -> None:
    content = adapted(checkpoint).model_dump() | changes
    with pytest.raises(ValueError, match=r"belongs? to starts"):
        RunSpec.model_validate(content)


def test_a_grid_adapts_as_recovery_trains(checkpoint: Path) -> None:
    words = {
        "methods": ["l1norm", "dense_continue"], "arch": ARCH, "checkpoint": checkpoint,
        "adapt_epochs": 2.0, "epochs": 1.0, "lr": 0.02, "seeds": [3], "controls": False,
    }  # fmt: skip
    cells = expand(options_from(words), tiny.data())
    for spec in (cell.spec for cell in cells):
        assert spec.start.kind == spec.weights_start == "adapted"
        assert spec.seeds == Seeds(dense=3, run=3)
        assert spec.baseline == spec.recovery.model_copy(update={"epochs": 2.0})
    said = command_of(cells[0], options_from(words), "l1norm")
    assert "--checkpoint net.pt" in said
    assert "--adapt-epochs 2.0" in said
    own = options_from(words | {"set": {"baseline.lr": 0.1}})
    assert expand(own, tiny.data())[0].spec.baseline.lr == 0.1  # type: ignore[union-attr]
    plain = options_from(words | {"adapt_epochs": None})
    assert expand(plain, tiny.data())[0].spec.start.kind == "checkpoint"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoint": None}, "--adapt-epochs: of which weights? give --checkpoint FILE"),
        ({"set": {"baseline.epochs": 5}}, "--set baseline.epochs: with --adapt-epochs, which says"),
        ({"track": "total"}, "--adapt-epochs: the total track has starts of its own"),
        ({"track": "paper"}, "--adapt-epochs: the paper track has starts of its own"),
    ],
)
def test_what_cannot_be_adapted_is_refused(
    changes: dict[str, Any], said: str, checkpoint: Path
) -> None:
    words = {"methods": ["l1norm"], "arch": ARCH, "checkpoint": checkpoint, "adapt_epochs": 1.0}
    with pytest.raises(BadInput, match=said.replace("?", r"\?")):
        expand(options_from(words | changes), tiny.data())


def test_to_make_it_again_the_checkpoint_is_needed(checkpoint: Path, tmp_path: Path) -> None:
    spec = adapted(checkpoint)
    check_checkpoint(spec, checkpoint)
    with pytest.raises(BadInput, match="pass --checkpoint"):
        check_checkpoint(spec, None)
    other = tmp_path / "other.pt"
    torch.save({k: v + 1 for k, v in torch.load(checkpoint).items()}, other)
    with pytest.raises(BadInput, match="the run started from"):
        check_checkpoint(spec, other)
    with pytest.raises(BadInput, match="changed since the run was planned"):
        go(spec, tmp_path / "results", checkpoint=other)
