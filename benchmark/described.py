"""`sources.toml`: what is known by hand of data, weights, declarations and compute.

Records know hashes; where images and weights come from, on which terms, and which commit declared a
board is written down here, and printed by `benchmark.card`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from benchmark.frozen import Frozen
from benchmark.protocol import read_toml

SOURCES = "sources.toml"


class Described(Frozen):
    """A data set or a checkpoint. `terms`: as its distributor states them; `read`: where they were
    read; `done`: what was done to it here or before. `content_hash`: of a data set, as records have
    it; images of the same name with another hash are others."""

    name: str
    distributor: str
    url: str
    terms: str
    read: str
    done: str
    content_hash: str = ""


class Declaration(Frozen):
    """What history says of a declared board, kept here because a copy may come without history;
    `benchmark.card --check` holds it against git.

    `commit`: the first whose protocol holds the board at this version. `runs_after`: commits that
    runs were made from and that come after it, or are it. `changed`: fields of the board that read
    otherwise today. `deviations`: in sentences, those that records do not show."""

    version: str
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    runs_after: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()


class Block(Frozen):
    """Of a board that no protocol declares: its name, how it was made, what it cannot show."""

    title: str = ""
    commands: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class Compute(Frozen):
    """`failed`: runs that ended without a record, in sentences."""

    failed: tuple[str, ...] = ()


class Sources(Frozen):
    """`data` by name, `checkpoint` by hash, `declared` by board, `block` by DATA/ARCH."""

    data: dict[str, Described] = Field({})
    checkpoint: dict[str, Described] = Field({})
    declared: dict[str, Declaration] = Field({})
    block: dict[str, Block] = Field({})
    compute: Compute = Compute()

    def of_data(self, name: str, content_hash: str) -> Described | None:
        """The data set; None: nothing is known of it, or of other images of this name."""
        found = self.data.get(name)
        return found if found is not None and content_hash in ("", found.content_hash) else None


def read_sources(root: Path) -> Sources:
    """Of a results directory; all empty where there is no such file.

    Raises:
        BadInput: as `read_toml`.
    """
    path = root / SOURCES
    if not path.exists():
        return Sources()
    return read_toml(path, Sources)


def section(
    data: Mapping[tuple[str, str], str], checkpoints: Mapping[str, str], known: Sources
) -> list[str]:
    """Lines of the card. `data`: by name and content hash, `checkpoints`: by hash, who uses it."""
    lines: list[str] = []
    for (name, content_hash), users in sorted(data.items()):
        kind = f"Data set `{name}`" + (f", content hash `{content_hash}`" if content_hash else "")
        lines += _entry(kind, users, known.of_data(name, content_hash))
    for digest, users in sorted(checkpoints.items()):
        lines += _entry(f"Checkpoint `{digest}`", users, known.checkpoint.get(digest))
    return lines or ["No data set and no checkpoint is used."]


def _entry(kind: str, users: str, found: Described | None) -> list[str]:
    if found is None:
        return [f"### {kind}", "", f"Used by {users}.", "", f"Not described in `{SOURCES}`.", ""]
    return [
        f"### {kind}", "", f"Used by {users}.", "",
        f"- What: {found.name}",
        f"- Distributor: {found.distributor}, <{found.url}>",
        f"- Terms as stated: {found.terms}",
        f"- Read at: {found.read}",
        f"- What was done to it: {found.done}",
        "",
    ]  # fmt: skip
