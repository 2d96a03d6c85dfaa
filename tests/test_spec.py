"""Identity: the run id is a function of what the run means, and of nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.images import DataIdentity
from benchmark.spec import (
    ArchIdentity,
    MethodIdentity,
    Recipe,
    RunSpec,
    Scratch,
    Seeds,
    Start,
    canonical,
)


def make_spec(**changes: Any) -> RunSpec:
    """A valid spec with some fields changed."""
    fields: dict[str, Any] = {
        "track": "common",
        "method": MethodIdentity(name="l1norm", revision=1),
        "arch": ArchIdentity(name="resnet8", structure="0" * 12),
        "data": DataIdentity(
            name="digits", content_hash="a" * 16, image_size=16, num_classes=10,
            mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), pad=1, flip=False, split_hash="b" * 16,
        ),
        "start": Start(kind="baseline"),
        "allocation": "uniform",
        "scope": "inner",
        "flops_reduction": 0.5,
        "min_width": 0.1,
        "budget_epochs": 6,
        "recovery": Recipe(epochs=6, lr=0.02),
        "baseline": Recipe(epochs=10, lr=0.1),
        "seeds": Seeds(dense=0, run=0),
    }  # fmt: skip
    return RunSpec(**fields | changes)


CHANGES: list[dict[str, Any]] = [
    {"protocol": 2},
    {"track": "total"},
    {"method": MethodIdentity(name="l1norm", revision=2)},
    {"method": MethodIdentity(name="l1norm", variant="x", revision=1)},
    {"method": MethodIdentity(name="l1norm", revision=1, source="c" * 16)},
    {"method": MethodIdentity(name="l1norm", revision=1, params={"a": 1})},
    {"arch": ArchIdentity(name="resnet8", structure="1" * 12)},
    {"data": make_spec().data.model_copy(update={"split_hash": "none"})},
    {"data": make_spec().data.model_copy(update={"mean": (0.4, 0.5, 0.5)})},
    {"allocation": "global"},
    {"scope": "all"},
    {"flops_reduction": 0.51},
    {"min_width": 0.2},
    {"round_to": 8},
    {"schedule": "iterative:4"},
    {"schedule": "layerwise"},
    {"result": "kernels"},
    {"budget_epochs": 7},
    {"preparation": "free"},
    {"recovery": Recipe(epochs=6, lr=0.03)},
    {"recovery": Recipe(epochs=6, lr=0.02, loss="cc")},
    {"recovery": Recipe(epochs=6, lr=0.02, loss_weight=0.2)},
    {"recovery": Recipe(epochs=6, lr=0.02, loss_margin=0.2)},
    {"baseline": Recipe(epochs=11, lr=0.1)},
    {"start": Start(kind="random"), "baseline": None},
    {"start": Start(kind="checkpoint", checkpoint="d" * 16), "baseline": None},
    {"reconstruct": "ls"},
    {"precision": "bf16"},
    {"threads": 2},
    {"replicas": 2},
    {"sync_bn": True},
    {"lane": "trial", "tuned": ("recovery.lr",)},
    {"lane": "tuned", "tuned": ("recovery.lr",), "trials": 8},
    {"lane": "tuned", "tuned": ("recovery.lr",), "trials": 3},
    {"track": "paper", "scratch": Scratch(kind="scratch-e", recipe=Recipe(epochs=6, lr=0.1))},
    {"track": "paper", "scratch": Scratch(kind="scratch-b", recipe=Recipe(epochs=6, lr=0.1))},
    {"seeds": Seeds(dense=0, run=1)},
    {"seeds": Seeds(dense=1, run=0)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: "-".join(c))
def test_every_field_is_part_of_the_identity(change: dict[str, Any]) -> None:
    assert make_spec(**change).run_id != make_spec().run_id


def test_no_field_is_left_out_of_the_test_above() -> None:
    assert {k for c in CHANGES for k in c} | {"rates"} == set(RunSpec.model_fields)


def test_changed_runs_are_all_different() -> None:
    ids = [make_spec(**c).run_id for c in CHANGES]
    assert len(set(ids)) == len(ids)


def test_the_id_survives_json_and_reordered_keys() -> None:
    spec = make_spec()
    content = json.loads(spec.model_dump_json())
    backwards = dict(reversed(list(content.items())))
    assert RunSpec.model_validate(backwards).run_id == spec.run_id


def test_whole_floats_and_integers_are_one_value() -> None:
    assert make_spec(budget_epochs=6.0).run_id == make_spec(budget_epochs=6).run_id


def test_the_known_id_stays() -> None:
    """A change here makes every shipped record unreachable: raise PROTOCOL on purpose instead."""
    assert make_spec().run_id == "e4268cd932ff"


def test_unknown_fields_and_contradictions_are_refused() -> None:
    with pytest.raises(ValidationError):
        make_spec(device="cuda")
    with pytest.raises(ValidationError):
        make_spec(start=Start(kind="random"))  # keeps a baseline recipe
    with pytest.raises(ValidationError):
        make_spec(allocation="listed")  # without rates


@pytest.mark.parametrize(
    "lane",
    [
        {"lane": "tuned", "tuned": ("recovery.lr",)},  # by how many trials?
        {"lane": "tuned", "trials": 8},
        {"lane": "trial"},
        {"lane": "trial", "tuned": ("recovery.lr",), "trials": 8},
        {"lane": "trial", "tuned": ("mask_lr",)},  # no value of this run
        {"tuned": ("recovery.lr",)},
        {"trials": 8},
    ],
)
def test_a_lane_says_what_is_tuned(lane: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_spec(**lane)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), json_values))
def test_canonical_text_depends_on_content_alone(value: dict[str, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical(value) == canonical(backwards)
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_cells_of_two_seeds_are_one() -> None:
    one, two = make_spec(seeds=Seeds(dense=0, run=0)), make_spec(seeds=Seeds(dense=1, run=1))
    assert one.cell().run_id == two.cell().run_id
    assert make_spec(flops_reduction=0.3).cell().run_id != one.cell().run_id
