"""One run from spec to record, on tiny images: figures, reuse, determinism, immutability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from benchmark import archs, load, selection
from benchmark.context import Context
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.evaluation import evaluate
from benchmark.execute import run_one
from benchmark.images import BatchSource
from benchmark.ledger import BudgetExceeded
from benchmark.record import RunRecord
from benchmark.spec import ArchIdentity, MethodIdentity, RunSpec, Seeds, Start
from benchmark.store import Store
from methods import find
from methods.api import Method, Unsupported

ARCH = "resnet8"


def make_spec(label: str = "l1norm", seed: int = 0, **changes: Any) -> RunSpec:
    """A small run of a method on the tiny data."""
    entry = find(label)
    params = entry.resolved(entry.params(), tiny.EPOCHS)
    fields: dict[str, Any] = {
        "track": "common",
        "method": MethodIdentity(
            name=entry.name, variant=entry.variant, revision=entry.cls.revision, params=params
        ),
        "arch": ArchIdentity(
            name=ARCH, structure=archs.structure_hash(archs.build(ARCH, tiny.CLASSES))
        ),
        "data": tiny.data().identity,
        "start": Start(kind="baseline"),
        "allocation": entry.cls.allocations[0],
        "scope": "inner",
        "result": entry.result,
        "flops_reduction": 0.4,
        "min_width": 0.1,
        "budget_epochs": tiny.EPOCHS,
        "recovery": tiny.RECIPE,
        "baseline": tiny.BASELINE.model_copy(update={"epochs": 4.0}),
        "seeds": Seeds(dense=seed, run=seed),
    }
    return RunSpec(**fields | changes)


def go(spec: RunSpec, root: Path, **context: Any) -> RunRecord:
    """Run it."""
    found = Context(Store(root), tiny.data(), command="again", **context)
    return run_one(spec, find(spec.method.label), found)


TIMES = ("seconds", "latency", "environment")


def without_times(record: RunRecord) -> dict[str, Any]:
    """All that must be equal between two undisturbed runs."""
    content = record.model_dump(mode="json", exclude=set(TIMES))
    for row in content["spent"]["rows"]:
        del row["seconds"]
    return content


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results directory with one finished run of three methods."""
    root = tmp_path_factory.mktemp("results")
    for label in ("l1norm", "whitebox", "cpli"):
        go(make_spec(label), root)
    return root


@pytest.mark.parametrize("label", ["l1norm", "whitebox", "cpli"])
def test_the_record_says_what_happened(label: str, results: Path) -> None:
    spec = make_spec(label)
    record = Store(results).read(spec)
    assert record.run_id == spec.run_id
    assert abs(record.flops_reduction - 0.4) <= 0.02  # three groups: coarse steps
    assert record.pruned.macs < record.dense.cost.macs
    assert record.spent.charged == record.spent.allowed == round(tiny.EPOCHS * tiny.TRAIN)
    assert record.final.test_top1 > 0.5  # it learned: chance is 0.25
    assert not record.at_chance
    assert record.widths.keys() == record.dense_widths.keys()
    folder = Store(results).run_folder(spec)
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["curve.csv", "plan.json", "predictions.npz", "record.json"]


def test_predictions_give_the_recorded_accuracies(results: Path) -> None:
    spec = make_spec("whitebox")
    record = Store(results).read(spec)
    arrays = np.load(Store(results).run_folder(spec) / "predictions.npz")
    assert record.dense.accuracy is not None
    for point, figures in (
        ("dense", record.dense.accuracy),
        ("before", record.before_recovery),
        ("recalibrated", record.recalibrated),
        ("final", record.final),
    ):
        for split, top1 in (("test", figures.test_top1), ("val", figures.val_top1)):
            labels = getattr(tiny.data(), split).labels.numpy()
            assert arrays[f"{split}_{point}_class"].dtype == np.uint8
            assert (arrays[f"{split}_{point}_class"] == labels).mean() == top1
            assert ((arrays[f"{split}_{point}_margin"] > 0) == (
                arrays[f"{split}_{point}_class"] == labels
            )).all()  # fmt: skip


def test_accuracy_after_the_first_steps_is_noted(tmp_path: Path) -> None:
    """The first is before training, and one after the last step is the final accuracy."""
    epochs = 100 * tiny.RECIPE.batch_size / len(tiny.data().train)
    recipe = tiny.RECIPE.model_copy(update={"epochs": epochs})
    record = go(make_spec(recovery=recipe, budget_epochs=epochs), tmp_path)
    assert [step for step, _ in record.early] == [0, 50, 100]
    assert record.early[0][1] == record.recalibrated.val_top1
    assert record.early[-1][1] == record.final.val_top1
    assert len({accuracy for _, accuracy in record.early}) > 1


def test_load_pruned_is_the_network_of_the_record(results: Path) -> None:
    record = Store(results).read(make_spec())
    model = load.load_pruned(record.run_id, results)
    assert weights_digest(model.state_dict()) == record.weights
    source = BatchSource(tiny.data().test, tiny.data().identity)
    assert evaluate(model, source).top1 == record.final.test_top1
    assert sum(p.numel() for p in model.parameters()) == record.pruned.params
    by_folder = load.load_pruned(Store(results).run_folder(make_spec()))
    assert weights_digest(by_folder.state_dict()) == record.weights


def test_load_pruned_explains_what_is_missing(results: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run"):
        load.load_pruned("feedfeed", results)
    record = go(make_spec(seed=5), tmp_path)
    final = Store(tmp_path).stages / f"final-{record.run_id}"
    (final / "facts.json").unlink()
    with pytest.raises(BadInput, match=r"make them again with: python -m benchmark\.reproduce"):
        load.load_pruned(record.run_id, tmp_path)


def test_the_same_run_twice_gives_the_same_bits(results: Path, tmp_path: Path) -> None:
    for label in ("whitebox", "cpli"):
        again = go(make_spec(label), tmp_path)
        assert without_times(again) == without_times(Store(results).read(make_spec(label)))


def test_reused_stages_give_the_same_bits(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second target reuses dense network and scores, and equals a run from nothing."""
    spec = make_spec("whitebox", flops_reduction=0.3)
    fresh = go(spec, tmp_path)
    before = sorted(p.name for p in (results / "stages").iterdir())
    reused = go(spec, results)
    after = sorted(p.name for p in (results / "stages").iterdir())
    assert set(after) - set(before) == {f"final-{spec.run_id}"}
    assert without_times(fresh) == without_times(reused)


def test_scores_are_computed_once_for_all_targets_and_allocations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = find("hrank")
    calls = []
    original = entry.cls.score
    monkeypatch.setattr(
        entry.cls, "score", lambda self, net, tr: calls.append(1) or original(self, net, tr)
    )
    for target, allocation in ((0.3, "uniform"), (0.5, "uniform"), (0.5, "global")):
        go(make_spec("hrank", flops_reduction=target, allocation=allocation), tmp_path)
    assert len(calls) == 1


def test_preparation_is_charged_or_free(results: Path, tmp_path: Path) -> None:
    charged = Store(results).read(make_spec("whitebox"))
    free = go(make_spec("whitebox", preparation="free"), tmp_path)
    images = {r["phase"]: r["images"] for r in charged.spent.rows}
    assert images["prepare-1"] + images["recovery"] == charged.spent.allowed
    rows = {r["phase"]: r for r in free.spent.rows}
    assert rows["prepare-1"]["kind"] == "free"
    assert rows["recovery"]["images"] == free.spent.allowed
    assert free.plan == charged.plan  # who pays changes recovery alone


def test_whitebox_carries_its_diagnostics(results: Path) -> None:
    record = Store(results).read(make_spec("whitebox"))
    assert record.seed_agreement is not None
    assert record.selection is not None
    assert record.selection.informative == (record.selection.score > record.selection.inverse)
    assert len(record.selection.random) == selection.RANDOM_DRAWS
    leaks = record.method_facts["leakage"]
    assert set(leaks) == {
        "noise_minus_chance", "true_minus_wrong_label", "true_label_minus_unmasked",
    }  # fmt: skip
    assert all(f["low"] <= f["mean"] <= f["high"] for f in leaks.values())
    masks = record.method_facts["class_masks"]
    assert [m["shape"][0] for m in masks.values()] == [tiny.CLASSES] * len(record.widths)


def test_a_record_is_never_changed(results: Path) -> None:
    folder = Store(results).run_folder(make_spec())
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    go(make_spec(), results)
    assert before == {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_optimistic_adds_a_measurement_and_changes_nothing(results: Path, tmp_path: Path) -> None:
    spec = make_spec()
    record = go(spec, tmp_path, optimistic=True)
    assert without_times(record) == without_times(Store(results).read(spec))
    (facts,) = Store(tmp_path).measurements(spec, "optimistic")
    assert facts["best_test_top1"] >= record.final.test_top1
    assert facts["test_top1"][-1] == record.final.test_top1
    assert facts["epochs"] == int(tiny.EPOCHS)


def test_the_test_split_is_read_at_three_points_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense (accuracy once for all, then per image), before recovery, after recalibration, at the
    end (last and best validation epoch)."""
    reads = []
    original = evaluate

    def spy(net: Any, source: BatchSource, **how: Any) -> Any:
        if len(source) == tiny.TEST:
            reads.append(1)
        return original(net, source, **how)

    for module in ("recovery", "baseline", "evaluation"):
        monkeypatch.setattr(f"benchmark.{module}.evaluate", spy)
    go(make_spec("whitebox"), tmp_path)
    assert len(reads) == 2 + 2 + 2


def test_shuffled_test_labels_change_no_choice(tmp_path: Path) -> None:
    spec = make_spec("whitebox")
    plain = go(spec, tmp_path / "a")
    data = tiny.data()
    shuffled = type(data.test)(data.test.pixels, data.test.labels.flip(0), data.test.index)
    other = Context(Store(tmp_path / "b"), type(data)(
        data.identity, data.class_names, data.train, data.val, shuffled
    ))  # fmt: skip
    record = run_one(spec, find("whitebox"), other)
    assert (record.plan, record.weights) == (plain.plan, plain.weights)
    assert record.best_val is not None
    assert plain.best_val is not None
    assert record.best_val.epoch == plain.best_val.epoch


def test_an_unreachable_target_is_explained(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"out of reach.*at most"):
        go(make_spec(flops_reduction=0.99), tmp_path)
    assert not Store(tmp_path).has(make_spec(flops_reduction=0.99))


def test_overspending_is_an_error(tmp_path: Path) -> None:
    params = find("whitebox").params() | {"mask_epochs": 2 * tiny.EPOCHS}
    method = MethodIdentity(name="whitebox", revision=1, params=params)
    with pytest.raises(BudgetExceeded):
        go(make_spec("whitebox", method=method), tmp_path)


def test_controls_spend_what_they_are_defined_to_spend(results: Path, tmp_path: Path) -> None:
    scratch = make_spec(
        "width_scaling", start=Start(kind="random"), baseline=None, budget_epochs=8.0,
        recovery=tiny.BASELINE.model_copy(update={"epochs": 8.0}),
    )  # fmt: skip
    record = go(scratch, tmp_path)
    assert record.dense.accuracy is None
    assert record.spent.charged == 8 * tiny.TRAIN
    dense = go(make_spec("dense_continue", flops_reduction=0.0), tmp_path)
    assert dense.flops_reduction == 0
    assert dense.plan == go(make_spec("dense_continue", flops_reduction=0.0, seed=1), tmp_path).plan


def test_reconstruction_changes_weights_but_not_the_choice(results: Path, tmp_path: Path) -> None:
    plain = Store(results).read(make_spec())
    refit = go(make_spec(reconstruct="ls"), tmp_path)
    assert refit.plan == plain.plan
    assert refit.weights != plain.weights
    assert "ls_error" in refit.method_facts


def test_slimming_with_its_own_dense_network(tmp_path: Path) -> None:
    sparse = go(make_spec("slimming:sparse"), tmp_path)
    plain = go(make_spec("slimming"), tmp_path)
    assert sparse.dense.weights != plain.dense.weights
    assert [r["phase"] for r in sparse.spent.rows if r["kind"] == "charged"] == ["recovery"]


def test_the_paper_track_of_the_official_variant_runs(tmp_path: Path) -> None:
    params = find("whitebox:official").params() | {"mask_epochs": 1.0, "at": "conv"}
    method = MethodIdentity(name="whitebox", variant="official", revision=1, params=params)
    spec = make_spec(
        "whitebox", method=method, track="paper", start=Start(kind="random"), baseline=None,
        min_width=0.3, budget_epochs=5.0,
    )  # fmt: skip
    record = go(spec, tmp_path)
    assert record.flops_reduction >= 0.4  # the official search overshoots, never undershoots
    assert record.spent.charged == 5 * tiny.TRAIN


def test_a_method_sees_no_test_pixels(tmp_path: Path) -> None:
    """Neither network nor trainer lead to the test split."""
    seen: list[Any] = []
    entry = find("random")
    original = entry.cls.score

    def spy(self: Method, net: Any, trainer: Any) -> Any:
        seen.extend([net, trainer])
        return original(self, net, trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry.cls, "score", spy)
        go(make_spec("random"), tmp_path)
    test = tiny.data().test.pixels
    for owner in seen:
        for value in vars(owner).values():
            tensors = [v for v in vars(value).values() if torch.is_tensor(v)] if hasattr(
                value, "__dict__"
            ) else []  # fmt: skip
            assert all(t.data_ptr() != test.data_ptr() for t in tensors)
            assert getattr(value, "images", None) is not tiny.data().test


def test_json_on_disk_is_plain(results: Path) -> None:
    for path in Store(results).record_paths():
        text = path.read_text()
        assert "NaN" not in text
        assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"
