"""Files: whole or not at all, shared stages, records that are refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmark.encoding import decode, encode, weights_digest
from benchmark.errors import BadInput
from benchmark.files import check_writable, write_numbered, write_text
from benchmark.record import read_record
from benchmark.store import Stage, Store


def a_record(root: Path) -> tuple[Store, Path]:
    store, made = Store(root), synthetic.record(synthetic.spec("l1norm", 0))
    return store, synthetic.write(store, made) / "record.json"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    store, path = a_record(tmp_path)
    made = synthetic.record(synthetic.spec("l1norm", 0))
    assert read_record(path) == made
    assert store.records() == [made]
    assert store.has(made.spec)


def test_publishing_twice_keeps_the_first(tmp_path: Path) -> None:
    store, path = a_record(tmp_path)
    before = path.read_bytes()
    synthetic.write(store, synthetic.record(synthetic.spec("l1norm", 0), final=0.1))
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob(".draft-*"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a run record"),
        ("[]", "not a run record"),
        ('{"schema_version": 1}', "not a run record"),
        ('{"schema_version": 99}', "newer|schema version 99"),
        ('{"schema_version": "1"}', "schema version"),
        ("\x00\xff", "not a run record"),
    ],
)
def test_what_is_no_record_is_refused_with_its_place(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=match) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    _, path = a_record(tmp_path)
    content = json.loads(path.read_text()) | {"surprise": 1}
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="surprise"):
        read_record(path)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        Store(tmp_path).publish_stage("dense", "k", Stage({"a": torch.ones(1)}, {}))
    assert Store(tmp_path).stage("dense", "k") is None
    assert not list(tmp_path.rglob(".draft-*"))


def test_attempts_are_numbered_and_vanish_behind_a_record(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), synthetic.spec("l1norm", 0)
    for reason in ("first", "second"):
        store.write_attempt(spec, "failed", reason)
    (last,) = store.last_attempts()
    assert last.reason == "second"
    names = sorted(p.name for p in (tmp_path / "attempts").rglob("*.json"))
    assert names == ["000.json", "001.json"]
    synthetic.write(store, synthetic.record(spec))
    assert store.last_attempts() == []


@pytest.mark.parametrize("damage", ["tensors.safetensors", "facts.json", "missing"])
def test_a_damaged_stage_is_made_again_with_a_warning(damage: str, tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    whole = Stage({"a": torch.ones(3)}, {"n": 1})
    store.publish_stage("dense", "k", whole)
    victim = tmp_path / "stages" / "dense-k" / damage.replace("missing", "tensors.safetensors")
    victim.write_bytes(victim.read_bytes()[:-5])
    if damage == "missing":
        victim.unlink()
    assert store.stage("dense", "k", said.append) is None
    assert [line.startswith("warning: stage dense-k is damaged") for line in said] == [True]
    store.publish_stage("dense", "k", whole)
    again = store.stage("dense", "k", said.append)
    assert again is not None
    assert torch.equal(again.tensors["a"], torch.ones(3))
    assert len(said) == 1


def test_a_fact_that_was_changed_is_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish_stage("scores", "k", Stage({"a": torch.ones(3)}, {"images": 1}))
    path = tmp_path / "stages" / "scores-k" / "facts.json"
    path.write_text(path.read_text().replace('"images": 1', '"images": 2'))
    assert store.stage("scores", "k") is None


def test_what_a_killed_process_left_half_written_is_no_record(tmp_path: Path) -> None:
    store, path = a_record(tmp_path)
    draft = path.parent.with_name(".draft-abc")
    draft.mkdir()
    (draft / "record.json").write_bytes(path.read_bytes())
    assert store.record_paths() == [path]


def test_on_a_full_disk_the_ballast_makes_room_for_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spec = Store(tmp_path), synthetic.spec("l1norm", 0)
    store.take_ballast()
    (ballast,) = (tmp_path / "attempts").iterdir()

    def full_while_it_lies_there(folder: Path, content: bytes) -> None:
        if ballast.exists():
            raise OSError(28, "No space left on device")
        write_numbered(folder, content)

    monkeypatch.setattr("benchmark.store.write_numbered", full_while_it_lies_there)
    store.write_attempt(spec, "failed", "the disk is full")
    (attempt,) = store.last_attempts()
    assert attempt.reason == "the disk is full"
    assert not ballast.exists()


def test_attempts_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for method in ("l1norm", "random"):
        store.write_attempt(synthetic.spec(method, 0), "failed", method)
    broken = next((tmp_path / "attempts").rglob("l1norm/*/000.json"))
    broken.write_text('{"run_id": 1}')
    assert [a.reason for a in store.last_attempts()] == ["random"]


@given(
    hnp.arrays(np.float16, hnp.array_shapes(max_dims=3), elements=st.floats(-100, 100, width=16))
)
@settings(max_examples=50, deadline=None)
def test_arrays_survive_the_record(array: np.ndarray) -> None:
    text = json.dumps(encode({"x": [torch.from_numpy(array)]}))
    assert np.array_equal(decode(json.loads(text)["x"][0]), array.astype(np.float32))


def test_weight_digests_see_names_shapes_and_bits() -> None:
    base = {"a": torch.zeros(2, 3), "n": torch.tensor(1)}
    others = [
        {"b": torch.zeros(2, 3), "n": torch.tensor(1)},
        {"a": torch.zeros(3, 2), "n": torch.tensor(1)},
        {"a": torch.zeros(2, 3), "n": torch.tensor(2)},
        {"a": torch.zeros(2, 3).double(), "n": torch.tensor(1)},
        {"a": torch.full((2, 3), -0.0), "n": torch.tensor(1)},
    ]
    digests = {weights_digest(w) for w in [base, *others]}
    assert len(digests) == 6
    assert weights_digest(dict(reversed(base.items()))) == weights_digest(base)


def test_write_text_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.csv"
    write_text(path, "a\n")
    write_text(path, "b\n")
    assert path.read_bytes() == b"b\n"
    assert [p.name for p in path.parent.iterdir()] == ["x.csv"]


def test_unwritable_results_are_explained(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(BadInput, match="not writable"):
        check_writable(blocker / "results")


@pytest.mark.parametrize("text", ["", "[]", "{", "NaN", "\x00"])
def test_a_measurement_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    store, path = a_record(tmp_path)
    spec = read_record(path).spec
    strange = path.parent / "measurements" / "optimistic-a.json"
    write_text(strange, text)
    with pytest.raises(BadInput, match=r"optimistic-a\.json is not a measurement"):
        store.measurements(spec, "optimistic")


def test_another_try_replaces_the_stage_of_one_that_left_other_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for value in (1.0, 2.0, 2.0):
        store.publish_stage("final", "k", Stage({"a": torch.tensor([value])}, {}))
    found = store.stage("final", "k")
    assert found is not None
    assert found.tensors["a"].item() == 2.0
    assert len(list((tmp_path / "stages").glob(".damaged-*"))) == 1


def test_a_run_folder_without_a_record_does_not_swallow_the_result(tmp_path: Path) -> None:
    store, path = a_record(tmp_path)
    content = path.read_bytes()
    path.unlink()
    spec = synthetic.spec("l1norm", 0)
    assert not store.has(spec)
    synthetic.write(store, synthetic.record(spec))
    assert path.read_bytes() == content
