"""Writing that survives a kill and a power cut: whole or not at all.

Everything is written beside its place, flushed to the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import BadInput, is_full

DRAFT = ".draft-"  # begins the name of everything unfinished


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by these bytes."""
    with _drafted(path, content) as draft:
        draft.replace(path)


def write_new(path: Path, content: bytes) -> bool:
    """Write a file that is not there yet; False, and nothing is changed, if there is one."""
    with _drafted(path, content) as draft:
        try:
            path.hardlink_to(draft)  # fails where a rename would replace
        except FileExistsError:
            return False
    return True


def write_numbered(folder: Path, content: bytes) -> None:
    """The next of `000.json`, `001.json`, …, whoever else is writing there."""
    number = len(list(folder.glob("[0-9]*.json")))
    while not write_new(folder / f"{number:03d}.json", content):
        number += 1


@contextlib.contextmanager
def _drafted(path: Path, content: bytes) -> Iterator[Path]:
    """A durable file beside the path, gone after the block unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=DRAFT, dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    flush_folder(path.parent)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft that becomes `folder` at the end of the block, unless somebody else published the
    same content first. Whatever goes wrong, nothing half-written stays.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp makes it private
        for path in draft.rglob("*"):
            flush(path)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        flush_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def flush(path: Path) -> None:
    """Make the file's content durable."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make renames within the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it for folders
            os.fsync(handle)
    finally:
        os.close(handle)


def dump_json(value: Any) -> str:
    """Sorted keys, two spaces, a final newline; NaN is refused."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def check_writable(root: Path) -> None:
    """Raises BadInput if results cannot be written there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        if is_full(error):
            raise BadInput(full_disk(root)) from error
        raise BadInput(f"results directory {root} is not writable: {error.strerror}") from error


def full_disk(root: Path) -> str:
    """One line about it."""
    try:
        free = f"{shutil.disk_usage(root).free / 2**20:.0f} MB free"
    except OSError:
        free = "no room"
    return f"the disk under {root} is full ({free}): make room, or give another --results"
