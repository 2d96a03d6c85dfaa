"""What git says of declared boards: the commit that declared each, and which runs came after it.

A copy may come without history, or with the last commits alone. So what history says is kept in
`sources.toml`, the card prints that, and here it is held against git where there is any.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.described import SOURCES, Declaration
from benchmark.errors import BadInput
from benchmark.holdings import Holding
from benchmark.protocol import PROTOCOL_FILE
from benchmark.record import RunRecord
from benchmark.spec import canonical
from methods.cards import parse_toml


@dataclass(frozen=True)
class Code:
    """A commit that runs were made from: how many, how many of them with changes that were not
    committed. `commit` empty: the records do not say."""

    commit: str
    runs: int
    dirty: int


def codes(records: Iterable[RunRecord]) -> list[Code]:
    """By commit."""
    runs: Counter[str] = Counter()
    dirty: Counter[str] = Counter()
    for record in records:
        facts = record.environment.get("git") or {}
        commit = str(facts.get("commit") or "")
        runs[commit] += 1
        dirty[commit] += facts.get("dirty") is not False
    return [Code(commit, runs[commit], dirty[commit]) for commit in sorted(runs)]


def has_history(root: Path) -> bool:
    """Whether all of it is there."""
    return _git(root, "rev-parse", "--is-shallow-repository") == "false\n"


def check(root: Path, held: Sequence[Holding], kept: dict[str, Declaration]) -> list[str]:
    """Lines about what was compared, one per declared board. History must be there.

    Raises:
        BadInput: a board that has runs is declared in no commit, or `sources.toml` says something
            else of it than git; the text says what it must say.
    """
    said = []
    for own in held:
        if own.board is None:
            continue
        if not own.records and own.name not in kept:  # a commit cannot hold its own name
            said.append(f"{own.name} {own.board.version}: no runs yet, its commit is not noted")
            continue
        found = of_history(root, own, kept.get(own.name))
        if found != kept.get(own.name):
            raise BadInput(
                f"{root / SOURCES}: what it says of board {own.name} is not what git says; under "
                f"[declared] write {as_toml(own.name, found)}"
            )
        said.append(f"{own.name} {found.version}: declared in commit {found.commit[:12]}")
    return said


def of_history(root: Path, own: Holding, kept: Declaration | None) -> Declaration:
    """What git says, with the deviations that were written by hand.

    Raises:
        BadInput: no commit declares the board at this version.
    """
    assert own.board is not None
    commit, then = _first(root, own.name, own.board.version)
    now = _board(_read(root / PROTOCOL_FILE), own.name)
    commits = [code.commit for code in codes(own.records) if code.commit]
    return Declaration(
        version=own.board.version,
        commit=commit,
        runs_after=tuple(c for c in commits if _is_after(root, commit, c)),
        changed=tuple(k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k)),
        deviations=kept.deviations if kept else (),
    )


def as_toml(name: str, found: Declaration) -> str:
    """On one line: `"small" = {version = "1", commit = "…", …}`."""
    held = {k: value for k, value in found.model_dump(mode="json").items() if value}
    words = ", ".join(f"{k} = {canonical(value)}" for k, value in held.items())
    return f"{canonical(name)} = {{{words}}}"


def _first(root: Path, name: str, version: str) -> tuple[str, dict[str, Any]]:
    listed = _git(root, "log", "--format=%H", "--topo-order", "--reverse", "--", PROTOCOL_FILE)
    for commit in (listed or "").split():
        board = _board((_git(root, "show", f"{commit}:./{PROTOCOL_FILE}") or "").encode(), name)
        if board.get("version") == version:
            return commit, board
    raise BadInput(
        f"{root / PROTOCOL_FILE}: no commit declares board {name} at version {version}: commit it "
        "before its first run"
    )


def _board(raw: bytes, name: str) -> dict[str, Any]:
    """Its table, as it stands in the file; empty: it is not there, or cannot be read."""
    try:
        found = parse_toml(raw).get("board", {}).get(name, {})
    except (ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _is_after(root: Path, first: str, commit: str) -> bool:
    return _git(root, "merge-base", "--is-ancestor", first, commit) is not None


def _git(root: Path, *words: str) -> str | None:
    """What it answers; None: it failed, or is not there."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
