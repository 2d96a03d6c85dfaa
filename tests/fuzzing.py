"""Inputs for readers: bytes and values of any kind, and valid files that were tampered with."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

# What parsers stumble over: neither JSON values nor TOML values need to be well-formed.
NASTY = [
    "NaN", "-Infinity", "nan", "inf", "1e999", "9" * 5000, "0x" + "f" * 6000, "-0.0", "true",
    "1" + "0" * 400, "[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300,
    '"\\ud800"', '"\\u0000"', '"../../etc/passwd"', '"a\\nb\\u001b[31m"', "2024-13-45", "'", '"""',
    "1979-05-27T07:32:00", "[a]", "a.b.c = 1", "= =", "\u202e", "{}", "[]", "null", '""', "1e-999",
]  # fmt: skip
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*here, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*here, key))
    return found


@st.composite
def changed(draw: st.DrawFn, valid: dict[str, Any], ways: list[tuple[Any, ...]]) -> bytes:
    """A valid JSON file with a few values replaced, dropped or added."""
    content, slots = copy.deepcopy(valid), {}
    for number in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(ways))
        owner = content
        for key in way:
            owner = owner[key] if isinstance(owner, dict | list) and _has(owner, key) else {}
        if not isinstance(owner, dict | list) or not _has(owner, last):
            continue  # an earlier change removed it
        what = draw(st.sampled_from(["alike", "replace", "nasty", "delete", "add"]))
        if what == "alike":
            owner[last] = draw(alike(owner[last]))
        elif what == "delete":
            del owner[last]
        elif what == "add" and isinstance(owner, dict):
            owner[draw(st.text(max_size=8))] = draw(json_values)
        elif what == "nasty":
            owner[last] = f"slot {number}"
            slots[f'"slot {number}"'] = draw(st.sampled_from(NASTY))
        else:
            owner[last] = draw(json_values)
    text = json.dumps(content)
    for slot, nasty in slots.items():
        text = text.replace(slot, nasty)
    return text.encode("utf-8", "surrogatepass")


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.integers() | st.integers(-1, 100)
        case float():
            return st.floats() | st.floats(0, 1)
        case str():
            return st.text() | st.from_regex(r"[a-z0-9./_-]{1,12}", fullmatch=True)
        case list():
            return st.lists(st.sampled_from(value), max_size=9) if value else st.just(value)
    return st.just(value)


def _has(owner: dict[Any, Any] | list[Any], key: Any) -> bool:
    return key in owner if isinstance(owner, dict) else isinstance(key, int) and key < len(owner)


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file cut off, with bytes overwritten, or with bytes put in."""
    content = bytearray(valid)
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(content)


@st.composite
def changed_toml(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid TOML file with values or whole lines replaced, dropped or repeated."""
    lines = valid.decode().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[at].partition(" = ")
        value = draw(st.sampled_from(NASTY) | json_values.map(json.dumps))
        line = f"{key} = {value}" if equals and draw(st.booleans()) else value
        lines[at : at + draw(st.integers(0, 1))] = draw(st.sampled_from([[line], [], [lines[at]]]))
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


anything = (
    st.binary(max_size=300)
    | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass"))
    | st.sampled_from(NASTY).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
any_json = anything | json_values.map(lambda v: json.dumps(v).encode())
any_toml = anything | st.dictionaries(st.text('abcset_."', max_size=8), json_values).map(
    lambda table: "\n".join(f"{k} = {json.dumps(v)}" for k, v in table.items()).encode()
)


def altered_json(valid: bytes) -> st.SearchStrategy[bytes]:
    content = json.loads(valid)
    return changed(content, places(content)) | damaged(valid)


def small_model(classes: int = 3) -> nn.Module:
    found = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten())
    found.add_module("fc", nn.Linear(2, classes))
    return found


STATE = dict(small_model().state_dict())
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.complex64]
tensors: st.SearchStrategy[Tensor] = st.builds(
    lambda shape, dtype: torch.ones(shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(DTYPES),
)
odd_tensors = tensors | st.sampled_from([
    torch.eye(2).to_sparse(), torch.zeros(2, device="meta"), torch.full((2,), torch.nan),
    torch.ones(3, 4).t(), torch.ones(1).expand(5), nn.Parameter(torch.ones(2)),
])  # fmt: skip


@st.composite
def states(draw: st.DrawFn, odd: bool) -> dict[str, Any]:
    """The weights of a network, some of them replaced, dropped, renamed or added."""
    state: dict[str, Any] = dict(STATE)
    values = (odd_tensors | json_values) if odd else tensors
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(state) or ["fc.weight"]))
        match draw(st.sampled_from(["replace", "drop", "add", "head", "class"])):
            case "replace":
                state[name] = draw(values)
            case "drop":
                state.pop(name, None)
            case "add":
                state[draw(st.text(max_size=8) | st.sampled_from(["module.fc.weight"]))] = draw(
                    values
                )
            case "head":
                other = draw(st.sampled_from(["linear", "classifier", "head", "module.fc"]))
                state = {k.replace("fc.", f"{other}."): v for k, v in state.items()}
            case _:
                state |= {"fc.weight": torch.ones(7, 2), "fc.bias": torch.ones(7)}
    return state


def saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@st.composite
def torch_files(draw: st.DrawFn) -> bytes:
    """What torch.save writes of nearly a state dict, under a key of the field or bare."""
    content: Any = draw(states(odd=True))
    key = draw(st.sampled_from(["", "state_dict", "model", "net", "other"]))
    return saved({key: content, "epoch": 3} if key else content, draw(st.booleans()))


def safetensors_files() -> st.SearchStrategy[bytes]:
    """Any JSON as the header."""

    def headed(header: Any) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + bytes(64)

    return json_values.map(headed)


def images() -> st.SearchStrategy[bytes]:
    from PIL import Image

    files = []
    for kind in ("png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"):
        file = io.BytesIO()
        Image.effect_noise((8, 8), 50).convert("RGB").save(file, kind)
        files.append(damaged(file.getvalue()))
    return st.one_of(*files)
