"""Whatever is in a file, reading it ends in a result or in one clear line."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzzing
import pytest
import torch
from fuzzing import any_json, any_toml, anything, damaged, json_values, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from benchmark.checkpoint import Torn, parse_moment
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.files import dump_json
from benchmark.options import parse_options
from benchmark.readers import _decode
from benchmark.record import parse_plan, parse_record, read_plan, read_record
from benchmark.spec import RunSpec
from benchmark.weights import load_weights, parse_checkpoint, read_checkpoint
from methods import FOLDER, Entry, UnknownMethod
from methods.api import Method
from methods.cards import parse_card

V1 = Path(__file__).parent / "records" / "v1"
RECORD, PLAN = (V1 / "record.json").read_bytes(), (V1 / "plan.json").read_bytes()
CARD = (FOLDER / "whitebox.toml").read_bytes()
ZIPPED, LEGACY = saved(fuzzing.STATE), saved(fuzzing.STATE, zipped=False)
SAFE = save(fuzzing.STATE)
MOMENT = save(fuzzing.STATE, metadata={"facts": '{"phase": {"step": 3}}'})
CONFIG = b"""methods = ["whitebox", "hrank"]
arch = "resnet20"
dataset = "imagefolder"
data_dir = "images"
data_name = "mine"
image_size = 32
flops_reduction = [0.5, 0.8]
seeds = [0, 1]
epochs = 6.0
batch_size = 64
optimistic = true
checkpoint = "net.pt"

[set]
"recovery.lr" = 0.01
"whitebox.at" = "relu"
"""
AMOUNTS = [200, pytest.param(10_000, marks=pytest.mark.slow)]

# ---- readers -------------------------------------------------------------------------------------


def record(raw: bytes) -> None:
    found = parse_record(raw, "x")
    assert found.run_id == found.spec.run_id
    place = (Path("/r/runs") / found.spec.folder).resolve()
    assert place.parts[:3] == ("/", "r", "runs")
    assert len(place.parts) == 7
    assert parse_record(dump_json(found.model_dump(mode="json")).encode(), "x") == found


def sealed(raw: bytes) -> bytes:
    """The record with the run id of its settings, as somebody who means harm would write it."""
    try:
        content = json.loads(raw)
        content["run_id"] = RunSpec.model_validate(content["spec"]).run_id
        return json.dumps(content).encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return raw


def plan(raw: bytes) -> None:
    found = parse_plan(raw, "x")
    assert all(unit >= 0 for kept in found.keep.values() for unit in kept)


def options(raw: bytes) -> None:
    found = parse_options(raw, {}, "x")
    assert type(found).model_validate_json(found.model_dump_json()) == found


def card(raw: bytes) -> None:
    found = parse_card(raw, "x")
    for variant in ("", *found.get("variant", {})):
        entry = Entry("mine", variant, Method, found, "")
        assert isinstance(entry.title, str)
        assert set(entry.tracks) <= {"common", "total", "paper"}
        assert entry.start in ("trained", "random")
        assert isinstance(entry.params() | {"control": entry.is_control}, dict)


def checkpoint(raw: bytes, safetensors: bool = False) -> None:
    found = parse_checkpoint(io.BytesIO(raw), safetensors, "x")
    weights_digest(found)
    load_weights(fuzzing.small_model(), found, "x")


def safe_checkpoint(raw: bytes) -> None:
    checkpoint(raw, safetensors=True)


def moment(raw: bytes) -> None:
    """A checkpoint whose name fits its content."""
    try:
        found = parse_moment(raw, "x")
    except Torn as error:
        raise BadInput(str(error)) from error
    assert isinstance(found.facts, dict)


def image(raw: bytes) -> None:
    assert _decode(io.BytesIO(raw), 8).shape == (3, 8, 8)


@dataclass(frozen=True)
class Reader:
    read: Callable[[bytes], None]
    inputs: st.SearchStrategy[bytes]
    valid: bytes | None = None  # an input that it must accept


READERS = {
    "record, any": Reader(record, any_json),
    "record, altered": Reader(record, fuzzing.altered_json(RECORD), RECORD),
    "record, foreign": Reader(record, fuzzing.altered_json(RECORD).map(sealed), RECORD),
    "plan, any": Reader(plan, any_json),
    "plan, altered": Reader(plan, fuzzing.altered_json(PLAN), PLAN),
    "config, any": Reader(options, any_toml),
    "config, altered": Reader(options, fuzzing.changed_toml(CONFIG) | damaged(CONFIG), CONFIG),
    "card, any": Reader(card, any_toml),
    "card, altered": Reader(card, fuzzing.changed_toml(CARD) | damaged(CARD), CARD),
    "torch, any": Reader(checkpoint, anything | st.builds(saved, json_values, st.booleans())),
    "torch, altered": Reader(checkpoint, fuzzing.torch_files(), saved({"net": fuzzing.STATE})),
    "torch zip, damaged": Reader(checkpoint, damaged(ZIPPED), ZIPPED),
    "torch legacy, damaged": Reader(checkpoint, damaged(LEGACY), LEGACY),
    "safetensors, any": Reader(safe_checkpoint, anything | fuzzing.safetensors_files()),
    "safetensors, altered": Reader(
        safe_checkpoint, fuzzing.states(odd=False).map(save) | damaged(SAFE), SAFE
    ),
    "moment, any": Reader(moment, anything | fuzzing.safetensors_files()),
    "moment, altered": Reader(moment, damaged(MOMENT), MOMENT),
    "image, damaged": Reader(image, fuzzing.images()),
}  # fmt: skip


def complaint(read: Callable[[bytes], None], raw: bytes) -> str:
    try:
        read(raw)
    except (BadInput, UnknownMethod) as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")  # torch and Pillow warn about what they find in damaged files
@pytest.mark.parametrize("examples", AMOUNTS)
@pytest.mark.parametrize("name", READERS)
def test_a_reader_ends_in_a_result_or_in_one_clear_line(name: str, examples: int) -> None:
    reader = READERS[name]

    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=True,
        derandomize=not os.environ.get("FUZZ_ANEW"),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(reader.inputs)
    def holds(raw: bytes) -> None:
        said = complaint(reader.read, raw)
        assert said.isprintable()
        assert len(said) < 1000

    holds()
    if reader.valid is not None:
        reader.read(reader.valid)


@pytest.mark.parametrize("way", [["method_facts"], ["spec", "method", "params"], ["latency"]])
def test_free_fields_of_a_record_hold_only_what_can_be_written_again(way: list[str]) -> None:
    """No type stands in the way there of what Python's parser accepts beyond JSON."""
    accepted = 0
    for nasty in fuzzing.NASTY:
        content = owner = json.loads(RECORD)
        for key in way:
            owner = owner[key]
        owner["a"] = "slot"
        raw = json.dumps(content).replace('"slot"', nasty).encode("utf-8", "surrogatepass")
        said = complaint(record, sealed(raw))
        assert said.isprintable()
        accepted += not said
    assert 3 < accepted < len(fuzzing.NASTY) - 10


# ---- files that would do something ---------------------------------------------------------------


class Runs:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
@pytest.mark.parametrize("name", ["record.json", "plan.json", "net.safetensors", "net.pt"])
def test_no_reader_runs_what_a_pickle_says(name: str, form: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "ran", tmp_path / name
    bomb = Runs(f"touch {proof}")
    state = {"state_dict": fuzzing.STATE, "extra": bomb}
    path.write_bytes(pickle.dumps(bomb) if form == "pickle" else saved(state, form == "zip"))
    reader: Callable[[Path], Any] = {
        "record.json": read_record, "plan.json": read_plan
    }.get(name, read_checkpoint)  # fmt: skip
    with pytest.raises(BadInput, match=re.escape(str(path))):
        reader(path)
    assert not proof.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert proof.exists()  # it was dangerous indeed


def test_the_package_never_allows_pickles() -> None:
    """`torch.load` and `np.load` say so wherever they stand."""
    for path in Path(__file__).parents[1].glob("benchmark/*.py"):
        for call in re.findall(r"(?:torch|np|numpy)\.load\(.*", path.read_text()):
            assert "weights_only=True" in call or "allow_pickle=False" in call, f"{path}: {call}"
        assert not re.search(r"^\s*(import|from) (pickle|marshal|dill)", path.read_text(), re.M)
