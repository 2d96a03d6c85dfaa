"""Finds methods by file name: `methods/x.py` holds one Method, `methods/x.toml` is its card."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import math
import os
import re
import sys
import tomllib
import typing
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import methods.plugins as plugins
from methods.api import Method, Result
from methods.plugins import one_line

FOLDER = Path(__file__).parent
SUPPORT = {
    "__init__", "api", "aux_heads", "class_masks", "exemplars", "gates", "genetic", "greedy",
    "kernels", "kit", "plugins", "refit", "wavelets",
}  # fmt: skip
_FILE_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")  # becomes the name of a folder
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


@dataclass(frozen=True)
class Entry:
    """A method as found on disk."""

    name: str
    variant: str
    cls: type[Method]
    card: Mapping[str, Any]
    source_hash: str  # empty for the suite's own methods, which have a revision
    package: str = ""  # an installed one that provides it, with its version
    file: Path = Path()  # that defines it; its card, where there is one, lies beside it

    @property
    def is_own_file(self) -> bool:
        """Whether it is in a user's own file, named by its path."""
        return bool(self.source_hash) and not self.package

    @property
    def label(self) -> str:
        """Name as typed on the command line: `whitebox` or `whitebox:official`."""
        return f"{self.name}:{self.variant}" if self.variant else self.name

    @property
    def title(self) -> str:
        """Row label of tables."""
        if self.variant:
            default = f"{self.card['card']['title']} [{self.variant}]"
            return str(self.card["variant"][self.variant].get("title", default))
        return str(self.card["card"]["title"])

    @property
    def tracks(self) -> tuple[str, ...]:
        """Tracks this variant may run in."""
        everywhere = self.card["card"].get("tracks", ("common", "total", "paper"))
        return tuple(self._variant().get("tracks", everywhere))

    @property
    def start(self) -> str:
        """`trained`, or `random` if the method trains from scratch."""
        own = "trained" if self.cls.trained_start else "random"
        return str(self._variant().get("start", own))

    @property
    def result(self) -> Result:
        """What its plans make of a network."""
        return build(self, self.params()).result

    @property
    def is_control(self) -> bool:
        """A control is shown beside the methods, not ranked with them."""
        return bool(self.card["card"].get("kind") == "control")

    def resolved(self, params: Mapping[str, Any], epochs: float) -> dict[str, Any]:
        """Parameters with epochs that were left at 0 set to their share of the budget."""
        shares = {f: round(s * epochs, 6) for f, s in self.cls.shares.items() if not params[f]}
        return dict(params) | shares

    @property
    def recipes(self) -> tuple[str, ...]:
        """Architectures that `recipe` knows."""
        return tuple(self._own_recipes() or self.card.get("recipe", {}))

    def recipe(self, arch: str) -> dict[str, Any]:
        """The paper's own settings for the network of that name in records; empty: the card has
        none. Recipes of a variant say what differs from the method's; a variant that has some has
        no others."""
        if arch not in self.recipes:
            return {}
        shared: Mapping[str, Any] = self.card.get("recipe", {}).get(arch, {})
        return dict(shared) | dict(self._own_recipes().get(arch, {}))

    def _own_recipes(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._variant().get("recipe", {})
        return found

    def _variant(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.card.get("variant", {}).get(self.variant, {})
        return found

    def params(self) -> dict[str, Any]:
        """Default hyper-parameters of this variant."""
        fields = {f.name: f.default for f in dataclasses.fields(self.cls)}
        return fields | dict(self._variant().get("params", {}))


def names() -> list[str]:
    """The suite's own methods and controls, sorted."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in SUPPORT)


def all_names() -> list[str]:
    """Methods with their variants as they are typed on the command line."""
    found = []
    for name in names():
        variants = _card(FOLDER / f"{name}.py").get("variant", {})
        found += [name, *(f"{name}:{v}" for v in variants)]
    return found


def installed() -> tuple[list[Entry], list[str]]:
    """Methods of installed packages, and a line for each that cannot be used."""
    offered, problems = plugins.offers(plugins.METHODS, is_ours)
    found = []
    for name in offered:
        try:
            found.append(find(name))
        except UnknownMethod as error:
            problems.append(str(error))
    return found, problems


def is_installed(name: str) -> bool:
    """Whether a package offers a method of that name, broken or not."""
    return name in plugins.offers(plugins.METHODS, is_ours)[0]


def find(label: str) -> Entry:
    """Entry for `name`, `name:variant`, of ours or of an installed package, or a path to a user's
    own `.py` file. In names of ours, a hyphen is taken for an underscore: `clr-rnf` is `clr_rnf`.

    Raises:
        UnknownMethod: no such method or variant, or it cannot be used; the closest names are in the
            text.
    """
    if label.endswith(".py") or "/" in label:
        path = Path(label)
        if not os.path.isfile(path):  # noqa: PTH113  (a name too long is no file, not an error)
            raise UnknownMethod(f"method file {label} does not exist")
        if not _FILE_NAME.fullmatch(path.stem):
            raise UnknownMethod(
                f"method file {label}: rename it, a method is called by letters, digits, '_', '-'"
            )
        if path.stem in names():
            raise UnknownMethod(f"method file {label} has the name of one of ours: rename it")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        cls = _only_method(_import_file(path, digest))
        return Entry(path.stem, "", cls, _card(path), digest, file=path)
    name, _, variant = label.partition(":")
    if is_ours(name) or is_ours(_underscored(name)):
        return find_ours(label)
    try:
        provided = plugins.find(plugins.METHODS, name, is_ours)
    except plugins.Unusable as error:
        raise UnknownMethod(str(error)) from error
    if provided is None:
        theirs = sorted(plugins.offers(plugins.METHODS, is_ours)[0])
        raise UnknownMethod(_did_you_mean("method", name, all_names() + theirs))
    return _entry_of_package(provided, variant)


def find_ours(label: str) -> Entry:
    """Entry for `name` or `name:variant` of the suite's own.

    Raises:
        UnknownMethod: as `find`.
    """
    name, _, variant = label.partition(":")
    name = _underscored(name) if is_ours(_underscored(name)) else name
    if not is_ours(name):
        raise UnknownMethod(_did_you_mean("method", name, all_names()))
    path = FOLDER / f"{name}.py"
    card = _card(path)
    _check_variant(name, variant, card)
    cls = _only_method(importlib.import_module(f"methods.{name}"))
    return Entry(name, variant, cls, card, "", file=path)


def _underscored(name: str) -> str:
    return name.replace("-", "_")


def is_ours(name: str) -> bool:
    """Whether the suite itself has a method of that name."""
    return name in names()


def _check_variant(name: str, variant: str, card: Mapping[str, Any]) -> None:
    if variant and variant not in card.get("variant", {}):
        legal = sorted(card.get("variant", {}))
        raise UnknownMethod(_did_you_mean(f"variant of {name}", variant, legal))


def _entry_of_package(provided: plugins.Provided, variant: str) -> Entry:
    """By the rules of a user's own file: one method, its card beside it."""
    offer, thing = provided.offer, provided.thing
    if isinstance(thing, ModuleType):
        thing = _only_method(thing)
    if not isinstance(thing, type) or not issubclass(thing, Method):
        raise UnknownMethod(f"{offer} is no subclass of methods.api.Method, nor a module with one")
    sources = provided.sources
    card = _card(sources.file, offer.name)
    _check_variant(offer.name, variant, card)
    return Entry(offer.name, variant, thing, card, sources.digest, offer.package, sources.file)


def build(entry: Entry, params: Mapping[str, Any]) -> Method:
    """The method with these hyper-parameters.

    Raises:
        UnknownMethod: an unknown parameter, a value of another type than the default, or a word
            that is not among the field's `Literal` ones.
    """
    fields = {f.name: f.default for f in dataclasses.fields(entry.cls)}
    words = _words(entry.cls)
    for key, value in params.items():
        if key not in fields:
            raise UnknownMethod(_did_you_mean(f"parameter of {entry.label}", key, sorted(fields)))
        if not _same_kind(fields[key], value):
            raise UnknownMethod(
                f"{entry.label}.{key} takes a {type(fields[key]).__name__}, not {value!r}"
            )
        if key in words and value not in words[key]:
            raise UnknownMethod(_did_you_mean(f"{entry.label}.{key}", str(value), words[key]))
    return entry.cls(**params)


def docstring(entry: Entry) -> str:
    """First paragraph of the method's docstring, as one line."""
    return " ".join((entry.cls.__doc__ or "").strip().partition("\n\n")[0].split())


def _words(cls: type[Method]) -> dict[str, list[str]]:
    """Legal values of the fields that are declared as `Literal`."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a user's file may name types that exist for type checkers only
        return {}
    found = {k: typing.get_args(h) for k, h in hints.items() if typing.get_origin(h) is Literal}
    return {k: sorted(words) for k, words in found.items()}


def _same_kind(default: object, value: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _did_you_mean(kind: str, word: str, legal: list[str]) -> str:
    close = difflib.get_close_matches(word, legal, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"unknown {kind} '{word}'{hint} (known: {', '.join(legal) or 'none'})"


def _card(path: Path, title: str = "") -> dict[str, Any]:
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


def import_file(path: Path, name: str) -> ModuleType:
    """The module in a user's file, run once in a process under this name. Raises whatever its code
    raises."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes look their module up while the body of the file runs
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_file(path: Path, digest: str) -> ModuleType:
    try:
        return import_file(path, f"user_method_{path.stem}_{digest}")
    except (Exception, SystemExit) as error:
        raise UnknownMethod(
            f"method file {path} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error


def _only_method(module: ModuleType) -> type[Method]:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UnknownMethod(
            f"{module.__file__} must define exactly one subclass of methods.api.Method, "
            f"found {len(found)}"
        )
    return found[0]
