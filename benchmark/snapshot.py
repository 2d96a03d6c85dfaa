"""Code as it was when a grid was submitted: editing while jobs wait changes nothing for them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmark.environment import FROZEN, describe
from benchmark.files import dump_json, new_folder

PACKAGES = ("benchmark", "methods")
OWN = "own"  # folder of the user's method files within a snapshot
LEFT_OUT = ("results", "tests", "docs")  # no job reads them


def freeze(place: Path, method_files: Iterable[Path] = ()) -> Path:
    """Copy the code into a folder of `place` named by its content; the folder. The same code is
    there once.

    Tracked files as they are in the working tree, new ones that git does not ignore, and the user's
    own method files; where the suite is installed rather than checked out, its two packages.
    """
    root = Path(__file__).resolve().parents[1]
    content = {name: (root / name).read_bytes() for name in sorted(_names(root))}
    content |= {f"{OWN}/{path.name}": path.read_bytes() for path in method_files}
    digest = _digest(content)
    folder = place / f"code-{digest}"
    if not folder.exists():
        facts = {"git": describe()["git"], "digest": digest}
        with new_folder(folder) as draft:
            for name, raw in content.items():
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
            (draft / FROZEN).write_text(dump_json(facts), encoding="utf-8")
    return folder


def own_file(snapshot: Path, path: Path) -> Path:
    """Where a user's method file lies in the snapshot."""
    return snapshot / OWN / path.name


def _digest(content: dict[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, raw in content.items():
        found.update(f"{name} {len(raw)} ".encode() + raw)
    return found.hexdigest()[:12]


def _names(root: Path) -> Iterator[str]:
    """Files that belong to the code, relative to its root."""
    listed = _listed(root)
    if listed is None:
        for package in PACKAGES:
            files = (p for p in (root / package).rglob("*") if p.is_file())
            yield from (str(p.relative_to(root)) for p in files if p.suffix != ".pyc")
        return
    yield from (n for n in listed if n.split("/")[0] not in LEFT_OUT and (root / n).is_file())


def _listed(root: Path) -> list[str] | None:
    """What git knows or would add; None: the root is not that of a repository."""
    if not (root / ".git").exists():
        return None
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        said = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [n for n in said.stdout.split("\0") if n] if said.returncode == 0 else None
