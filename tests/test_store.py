"""Files: whole or not at all, shared stages, records that are refused with a reason."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmark.errors import BadInput
from benchmark.files import write_text
from benchmark.record import read_record
from benchmark.store import (
    Stage,
    Store,
    check_writable,
    decode,
    encode,
    weights_digest,
)


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

    monkeypatch.setattr("benchmark.store.save_file", full_disk)
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


def _make(root: str) -> None:
    store = Store(Path(root))
    with store.only_one("dense", "k"):
        if store.stage("dense", "k") is None:
            with (Path(root) / "made").open("a") as log:
                log.write("x")
            store.publish_stage("dense", "k", Stage({"a": torch.ones(3)}, {"n": 1}))


def test_processes_that_need_one_stage_make_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_make, args=(str(tmp_path),)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0] * 6
    assert (tmp_path / "made").read_text() == "x"
    stage = Store(tmp_path).stage("dense", "k")
    assert stage is not None
    assert torch.equal(stage.tensors["a"], torch.ones(3))


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
