"""What the text of a method's file leaves open: no docstring, or none that says where a formula is
from. Remarks, not rules: nothing is broken by them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from methods import Entry
from methods.api import Method

# What names a place in a paper, a repository or a document.
SOURCE = re.compile(
    r"\b(section|sections|sec\.|equation|equations|eq\.|eqs\.|algorithm|theorem|appendix|figure|"
    r"table|arxiv|github|official code|METHODS|DECISIONS)\b|§|\b(19|20)\d\d\b",
    re.IGNORECASE,
)
TEMPLATE = (
    "REPLACE"  # stands in what `python -m benchmark.new` writes where an author has to say it
)

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def remarks(entry: Entry) -> list[str]:
    """A line for each."""
    tree = ast.parse(entry.file.read_text(encoding="utf-8"))
    texts = [ast.get_docstring(tree) or ""]
    found = [] if texts[0] else [f"{entry.file.name} has no docstring at its top"]
    for name, node in _public(tree):
        texts.append(ast.get_docstring(node) or "")
        if not texts[-1]:
            found.append(
                f"{name} has no docstring: shapes, units, what it raises, and the source (paper, "
                "section, equation)"
            )
    if not any(map(SOURCE.search, texts)):
        found.append(
            f"no docstring of {entry.file.name} names a source (paper and year, section, "
            "equation): a reader cannot check the formula"
        )
    return found + _left_over(entry)


def _public(tree: ast.Module) -> Iterator[tuple[str, Documented]]:
    """Classes and functions without an underscore; not what the interface documents."""
    for node in tree.body:
        if not isinstance(node, Documented) or node.name.startswith("_"):
            continue
        yield node.name, node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and _is_new(inner.name):
                yield f"{node.name}.{inner.name}", inner


def _is_new(name: str) -> bool:
    return not name.startswith("_") and not hasattr(Method, name) and name != "forward"


def _left_over(entry: Entry) -> list[str]:
    """Words of the template that are still there."""
    found = []
    card: Path = entry.file.with_suffix(".toml")
    if any(TEMPLATE in text for text in _texts(dict(entry.card))):
        found.append(f"{card.name} still has words of the template: search for {TEMPLATE}")
    if TEMPLATE in entry.file.read_text(encoding="utf-8"):
        found.append(f"{entry.file.name} still has words of the template: search for {TEMPLATE}")
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
