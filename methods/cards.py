"""Cards: what a paper says of a method, as TOML beside its file."""

from __future__ import annotations

import ast
import math
import tomllib
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from methods.plugins import one_line

_WORDS_OF_CARDS = {
    "kind": {"method", "control", "imported"},
    "start": {"trained", "random"},
    "tracks": {"common", "total", "paper"},
}
_TYPES_OF_CARDS = {
    "title": str, "summary": str, "kind": str, "start": str, "tracks": list, "params": dict,
    "baseline": dict, "recovery": dict, "rates": list, "allocation": str,
    "flops_reduction": float, "minimum_width": float, "reference": bool, "blocked": str,
    "source": str, "recipe": dict,
}  # fmt: skip


class UnknownMethod(ValueError):
    """No such method, variant or parameter; the text names the legal ones."""


def read_card(path: Path, title: str = "") -> dict[str, Any]:
    toml = path.with_suffix(".toml")
    if toml.is_file():
        try:
            return deepcopy(_parsed(toml.read_bytes(), str(toml)))
        except OSError as error:
            raise UnknownMethod(f"card {toml} cannot be read: {one_line(error)}") from error
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    summary = doc.splitlines()[0] if doc else ""
    return {"card": {"title": title or path.stem, "kind": "method", "summary": summary}}


@lru_cache(maxsize=256)
def _parsed(raw: bytes, place: str) -> dict[str, Any]:
    """A report asks for each card dozens of times, and reading one takes 15 ms."""
    return parse_card(raw, place)


def parse_card(raw: bytes, place: str) -> dict[str, Any]:
    """The card in these bytes; `place` names them in errors.

    Raises:
        UnknownMethod: not TOML, no title, or an entry of another type than it should have.
    """
    try:
        card = parse_toml(raw)
    except ValueError as error:
        raise UnknownMethod(f"card {place} cannot be read: {one_line(error)}") from error
    head = card.get("card")
    if not isinstance(head, dict) or "title" not in head:
        raise UnknownMethod(f'card {place} has no title: add [card] with title = "..."')
    parts = [("card", head)]
    for kind in ("variant", "recipe"):
        tables = card.get(kind, {})
        if not isinstance(tables, dict):
            raise UnknownMethod(f"card {place}: {kind} must be a table of tables")
        parts += [(f"{kind}.{one_line(name)}", part) for name, part in tables.items()]
    for name, part in [p for p in parts if p[0].startswith("variant.")]:
        own = part.get("recipe", {}) if isinstance(part, dict) else {}
        if isinstance(own, dict):
            parts += [(f"{name}.recipe.{one_line(arch)}", found) for arch, found in own.items()]
    for name, part in parts:
        problem = _card_problem(part)
        if problem:
            raise UnknownMethod(f"card {place}: {name}{problem}")
    return card


def _card_problem(part: object) -> str:
    if not isinstance(part, dict):
        return " must be a table"
    for key, kind in _TYPES_OF_CARDS.items():
        number = kind is float and type(part.get(key)) is int
        if key in part and not number and not isinstance(part[key], kind):
            return f".{key} must be a {kind.__name__}"
    for key, legal in _WORDS_OF_CARDS.items():
        given = part.get(key, [])
        for word in given if isinstance(given, list) else [given]:
            if not isinstance(word, str) or word not in legal:
                return f".{key} must be among {', '.join(sorted(legal))}"
    return ""


def parse_toml(raw: bytes) -> dict[str, Any]:
    """TOML of numbers that records can hold.

    Raises:
        ValueError: not UTF-8, not TOML, NaN or infinite, an integer beyond the 64 bits of TOML, or
            nested too deeply.
    """
    try:
        content = tomllib.loads(raw.decode("utf-8"), parse_float=_finite)
        _check_integers(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not a finite number")
    return float(text)


def _check_integers(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError("an integer is too large")
    held = value.values() if isinstance(value, dict) else value
    for inner in held if isinstance(value, dict | list) else ():
        _check_integers(inner)
