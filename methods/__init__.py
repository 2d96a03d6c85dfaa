"""Finds methods by file name: `methods/x.py` holds one Method, `methods/x.toml` is its card."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import methods.plugins as plugins
from methods.api import Method, Result
from methods.cards import UnknownMethod as UnknownMethod
from methods.cards import read_card
from methods.plugins import one_line

FOLDER = Path(__file__).parent
SUPPORT = {
    "__init__", "api", "aux_heads", "cards", "class_masks", "exemplars", "gates", "genetic",
    "greedy", "kernels", "kit", "plugins", "refit", "wavelets",
}  # fmt: skip
_FILE_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")  # becomes the name of a folder


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
        variants = read_card(FOLDER / f"{name}.py").get("variant", {})
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
        return Entry(path.stem, "", cls, read_card(path), digest, file=path)
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
    card = read_card(path)
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
    card = read_card(sources.file, offer.name)
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
