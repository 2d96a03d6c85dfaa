"""Files in which other code says which channels stay: scores, widths or kept channels, as JSON or
npz (docs/imported-results.md). They come from strangers: whatever the bytes are, reading ends in a
choice or in one line that says what is wrong."""

from __future__ import annotations

import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.record import one_line, parse_json
from benchmark.spec import RunSpec

KINDS = ("scores", "widths", "kept")
CONTENT = re.compile(rf"(?:{'|'.join(KINDS)})-[0-9a-f]{{16}}")
PLAN = {"keep": "kept"}  # a run's own plan.json is such a file
LONGEST_NAME = 80  # letters
UNREADABLE = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)  # what numpy raises on files that are no archive of arrays, and what is raised below
FORM = (
    'write {"kept": {GROUP: [0, 2, …]}}, {"widths": {GROUP: 8}} or {"scores": {LAYER: [0.1, …]}} '
    'as JSON, or arrays called kept/GROUP, widths/GROUP or scores/LAYER as .npz; "name" is free'
)


@dataclass(frozen=True)
class Choice:
    """What a file says. `values` by layer or group: scores (C,) float64, widths () int64, kept
    (n,) int64, sorted."""

    kind: str
    name: str
    values: Mapping[str, Tensor]

    @property
    def content(self) -> str:
        """Kind and hash: the same choice from another file has the same."""
        return f"{self.kind}-{weights_digest(dict(self.values))}"


def content_of(spec: RunSpec) -> str:
    """Kind and hash of what a run prunes by; empty: nothing."""
    said = spec.method.params.get("content")
    return said if isinstance(said, str) and CONTENT.fullmatch(said) else ""


def as_json(found: Choice) -> bytes:
    """A file that says the same. Its name is left out: the same choice gives the same bytes."""
    values = {name: value.tolist() for name, value in found.values.items()}
    return (json.dumps({found.kind: values}, sort_keys=True, allow_nan=False) + "\n").encode()


def read(path: Path) -> Choice:
    """The choice in a file.

    Raises:
        BadInput: it cannot be read, or is none.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    return parse(raw, str(path))


def parse(raw: bytes, place: str) -> Choice:
    """The choice in these bytes, JSON or npz; `place` names them in errors.

    Raises:
        BadInput: as `read`.
    """
    try:
        content = _arrays(raw) if raw.startswith(b"PK") else _json(raw)
        kinds = [kind for kind in KINDS if content.get(kind)]
        odd = sorted(content.keys() - {*KINDS, "name"})
        if odd or len(kinds) != 1:
            what = f"has '{one_line(odd[0])}'" if odd else f"has {' and '.join(kinds) or 'none'}"
            raise ValueError(f"it {what}, one of {', '.join(KINDS)} is needed: {FORM}")
        (kind,) = kinds
        if not isinstance(content[kind], dict):
            raise ValueError(f"{kind} must be by layer or group: {FORM}")
        name = str(content.get("name", ""))
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"its name must be one line of {LONGEST_NAME} letters at most")
        return Choice(kind, name, {n: _READ[kind](n, v) for n, v in content[kind].items()})
    except UNREADABLE as error:
        raise BadInput(f"{place} cannot be pruned by: {' '.join(str(error).split())}") from error


def _json(raw: bytes) -> dict[str, Any]:
    content = parse_json(raw)
    json.loads(raw, object_pairs_hook=_once)
    if not isinstance(content, dict):
        raise ValueError(FORM)
    if "keep" in content:
        content = {PLAN.get(key, key): value for key, value in content.items() if key != "run_id"}
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"'{one_line(name)}' is there twice")
        seen.add(name)
    return dict(pairs)


def _arrays(raw: bytes) -> dict[str, Any]:
    content: dict[str, Any] = {}
    with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
        for key in stored.files:
            kind, slash, name = key.partition("/")
            value = stored[key].tolist()
            if slash:
                content.setdefault(kind, {})[name] = value
            else:
                content[kind] = value
    return content


def _scores(name: str, value: Any) -> Tensor:
    if not isinstance(value, list) or not value or not all(type(v) in (int, float) for v in value):
        raise ValueError(f"scores of {one_line(name)} must be a list of numbers")
    found = torch.tensor(value, dtype=torch.float64)
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"scores of {one_line(name)} are not finite")
    return found


def _width(name: str, value: Any) -> Tensor:
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(f"the width of {one_line(name)} must be a number of channels from 1 on")
    return torch.tensor(value)


def _kept(name: str, value: Any) -> Tensor:
    if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
        raise ValueError(f"kept channels of {one_line(name)} must be a list of numbers from 0 on")
    if not value:
        raise ValueError(f"{one_line(name)} keeps no channel: at least one has to stay")
    ordered = sorted(value)
    twice = next((one for one, other in itertools.pairwise(ordered) if one == other), None)
    if twice is not None:
        raise ValueError(f"{one_line(name)} keeps channel {twice} twice")
    if ordered[-1] >= 2**31:
        raise ValueError(f"{one_line(name)} keeps channel {one_line(ordered[-1])}: there are none")
    return torch.tensor(ordered)


_READ: dict[str, Callable[[str, Any], Tensor]] = {
    "scores": _scores,
    "widths": _width,
    "kept": _kept,
}
