"""A results directory for a while."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.verdict import Say


@contextlib.contextmanager
def workdir(root: Path, into: Path | None, keep: bool, say: Say) -> Iterator[Path]:
    """An empty results directory: `into`, or one beside `root` that is deleted at the end.

    Raises:
        BadInput: it cannot be written, or `into` holds files that would be reused.
    """
    if into is not None:
        if into.is_dir() and any(into.iterdir()):
            raise BadInput(f"--into {into} is not empty: name a new directory, nothing is reused")
        check_writable(into)
        yield into
        say(f"The run made here is kept in {into}")
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{root.name}-again-", dir=root.parent))
    except OSError as error:
        raise BadInput(f"{root.parent} is not writable: give a place by --into DIR") from error
    try:
        yield folder
        if keep:
            say(f"The run made here is kept in {folder}")
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
