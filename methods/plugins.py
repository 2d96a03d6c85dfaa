"""What other installed packages add to the suite: methods, architectures and data sets.

A package names each by an entry point (`importlib.metadata`) in one of three groups; the entry
point's name is what it is called by on the command line and in records. Nothing of a package is
imported before it is asked for by name or listed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

METHODS, ARCHITECTURES, DATASETS = (
    f"prunebench.{kind}" for kind in ("methods", "architectures", "datasets")
)
_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")  # becomes the name of a folder

Taken = Callable[[str], bool]  # whether a name is one of the suite's own


class Unusable(ValueError):
    """What a package offers cannot be used; the text is one line and names the package."""


@dataclass(frozen=True)
class Offer:
    """An entry point of an installed package, not loaded yet."""

    group: str
    name: str
    value: str  # `module` or `module:attribute`
    package: str  # with its version

    def __str__(self) -> str:
        return f"entry point {one_line(self.name)} of package {self.package}"


@dataclass(frozen=True)
class Sources:
    """Python files that a thing is made by: its own, and those of its package that this one
    imports. `digest`: of the bytes of a single file, as a user's own file has it; of places and
    bytes of several."""

    file: Path  # its own
    content: Mapping[str, bytes]  # by place below the folder of the package

    @property
    def digest(self) -> str:
        return digest_of(self.content)


@dataclass(frozen=True)
class Provided:
    """A loaded entry point."""

    offer: Offer
    thing: Any
    sources: Sources


def digest_of(content: Mapping[str, bytes]) -> str:
    """16 hex digits over the Python files of a thing, by place."""
    found = hashlib.sha256()
    if len(content) == 1:
        found.update(*content.values())
    else:
        for place, raw in sorted(content.items()):
            found.update(f"{place} {len(raw)}\0".encode() + raw)
    return found.hexdigest()[:16]


# ---- what there is -------------------------------------------------------------------------------


def offers(group: str, taken: Taken) -> tuple[dict[str, Offer], list[str]]:
    """Entry points of a group by name, and a line for each that is left out: its name is one of
    ours, no name, or given twice."""
    found: dict[str, Offer] = {}
    problems, twice = [], set()
    for offer in _all(group):
        if taken(offer.name):
            problems.append(f"{offer} is left out: it has the name of one of ours, rename it")
        elif not _NAME.fullmatch(offer.name):
            problems.append(
                f"{offer} is left out: a name is 1 to 64 letters, digits, '_' and '-', and begins "
                "with none of the last"
            )
        elif offer.name in found:
            twice.add(offer.name)
            problems.append(
                f"{offer} is left out, and so is that of package {found[offer.name].package}: they "
                "have one name, uninstall one of them"
            )
        else:
            found[offer.name] = offer
    return {name: o for name, o in found.items() if name not in twice}, problems


def find(group: str, name: str, taken: Taken) -> Provided | None:
    """What a package offers under that name, loaded; None: no package does.

    Raises:
        Unusable: it is offered twice, or cannot be loaded.
    """
    found, problems = offers(group, taken)
    if name in found:
        return load(found[name])
    mine = [p for p in problems if p.startswith(f"entry point {one_line(name)} of ")]
    if mine and not taken(name):
        raise Unusable(mine[0])
    return None


def _all(group: str) -> Iterator[Offer]:
    """Sorted by name; a package that is on the path twice counts once, as importing it does. A
    package whose metadata cannot be read offers nothing."""
    offered, seen = [], set()
    for package in distributions():
        try:
            points = [point for point in package.entry_points if point.group == group]
            if not points or package.name in seen:  # reading names of all packages takes a second
                continue
            seen.add(package.name)
            what = one_line(f"{package.name} {package.version}")
        except Exception:  # of somebody else's package: it may be anything
            continue
        offered += [Offer(group, point.name, point.value, what) for point in points]
    return iter(sorted(offered, key=lambda offer: (offer.name, offer.package)))


# ---- loading -------------------------------------------------------------------------------------


def load(offer: Offer) -> Provided:
    """Import it.

    Raises:
        Unusable: whatever went wrong.
    """
    try:
        thing = EntryPoint(offer.name, offer.value, offer.group).load()
        return Provided(offer, thing, _sources(_home(thing, offer.value)))
    except (Exception, SystemExit) as error:  # the package's own code
        said = f"{type(error).__name__}: {one_line(error)}"
        raise Unusable(f"{offer} cannot be used: {said}") from error


def _home(thing: Any, value: str) -> str:
    """Module that defines the thing, where that belongs to the same package as the entry point's;
    else the entry point's."""
    module = re.split("[: \\[]", value, maxsplit=1)[0]
    own = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", module)
    inside = isinstance(own, str) and own.partition(".")[0] == module.partition(".")[0]
    return own if inside and own in sys.modules else module


@lru_cache(maxsize=64)
def _sources(module: str) -> Sources:
    """Kept: a process goes on with the code that it imported first."""
    content: dict[str, bytes] = {}
    todo, top, first = [module], module.partition(".")[0], None
    while todo:
        name = todo.pop()
        file = _file_of(name)
        place = name.replace(".", "/") + ("/__init__.py" if _is_package(file) else ".py")
        if file is None or place in content:
            continue
        first = first or file
        content[place] = file.read_bytes()
        named = _imports(ast.parse(content[place]), name, _is_package(file))
        todo += [n for n in named if n.partition(".")[0] == top]
    if first is None:
        raise ImportError(f"the module {module} has no Python file")
    return Sources(first, content)


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # a function or class of a module
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _is_package(file: Path | None) -> bool:
    return file is not None and file.name == "__init__.py"


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Full names of what may be modules in its import statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: None if is_package else -1]
            parts = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def one_line(said: object) -> str:
    """Somebody else's text for an error message: one short line of printable characters."""
    line = " ".join(str(said).split())
    return "".join(c if c.isprintable() else "?" for c in line)[:200]
