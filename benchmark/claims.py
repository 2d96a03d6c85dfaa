"""Who works on what: one process at a time per piece of work.

The claim is a lock of the operating system, so it ends with its process however that dies; the file
beside it only says who holds it and how far it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from benchmark.checkpoint import quiet
from benchmark.errors import Stopped
from benchmark.record import parse_json
from benchmark.team import Team

GLANCE = 0.3  # seconds
PAUSE = 2.0  # seconds between two lines about progress


class Busy(Exception):
    """Another process is at work on it."""


@dataclass
class Claim:
    """Who holds a piece of work, and how far it is."""

    kind: str
    key: str
    host: str = ""
    pid: int = 0
    since: float = 0.0
    phase: str = ""
    done: int = 0
    total: int = 0
    at: float = 0.0  # of the last news

    @property
    def holder(self) -> str:
        return f"process {self.pid} on {self.host}"


CLAIM = TypeAdapter(Claim)


@contextlib.contextmanager
def take_for(
    team: Team,
    claims: Claims,
    kind: str,
    key: str,
    wait: bool = True,
    log: Callable[[str], None] = quiet,
) -> Iterator[Claim]:
    """As `Claims.take`: the first of the team holds the work for all of it, and Busy is for all."""
    with contextlib.ExitStack() as stack:
        yield team.lead(lambda: stack.enter_context(claims.take(kind, key, wait, log)))


@dataclass(frozen=True)
class Claims:
    """Locks and the files beside them, in one folder."""

    folder: Path

    @contextlib.contextmanager
    def take(
        self, kind: str, key: str, wait: bool = True, log: Callable[[str], None] = quiet
    ) -> Iterator[Claim]:
        """Hold the work within the block.

        Raises:
            Busy: somebody else holds it, and we should not wait.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock(kind, key))
        try:
            lock.acquire(timeout=GLANCE)  # somebody who only looks holds it for a moment
        except Timeout:
            other = self.read(kind, key)
            holder = other.holder if other else "another process"
            if not wait:
                raise Busy(f"{holder} is at work on it") from None
            log(f"waiting for {kind} {key}: {holder} is at work on it")
            lock.acquire()
        try:
            self._greet(kind, key, log)
            claim = Claim(kind, key, socket.gethostname(), os.getpid(), time.time())
            self.write(claim)
            try:
                yield claim
            except (Exception, Stopped):
                self._end(claim)
                raise
            self._end(claim)  # not after a kill or an interrupt: then the file stays, and tells
        finally:
            lock.release()

    def _end(self, claim: Claim) -> None:
        self._file(claim.kind, claim.key).unlink(missing_ok=True)

    def _greet(self, kind: str, key: str, log: Callable[[str], None]) -> None:
        before = self.read(kind, key)
        if before is not None:
            log(f"taking over {kind} {key} from {before.holder}, which did not end it")

    def write(self, claim: Claim) -> None:
        """Say how far it is. News are not worth a failure: a full disk is met where it matters."""
        claim.at = time.time()
        with contextlib.suppress(OSError):
            draft = self._file(claim.kind, claim.key).with_suffix(f".{claim.pid}")
            draft.write_text(json.dumps(asdict(claim)), encoding="utf-8")
            draft.replace(self._file(claim.kind, claim.key))

    def news(self, claim: Claim) -> Callable[[str, int, int], None]:
        """A progress callback (phase, done, total) that writes every few seconds."""

        def tell(phase: str, done: int, total: int) -> None:
            if phase == claim.phase and time.time() - claim.at < PAUSE:
                return
            claim.phase, claim.done, claim.total = phase, done, total
            self.write(claim)

        return tell

    def read(self, kind: str, key: str) -> Claim | None:
        """The last that was heard; None if the work was ended in order, or never begun."""
        return self._parse(self._file(kind, key))

    @staticmethod
    def _parse(path: Path) -> Claim | None:
        try:
            return CLAIM.validate_python(parse_json(path.read_bytes()))
        except (OSError, ValueError):
            return None

    def all(self) -> list[Claim]:
        """Of work that is going on, or was left behind."""
        found = (self._parse(path) for path in sorted(self.folder.glob("*.json")))
        return [claim for claim in found if claim is not None]

    def is_held(self, kind: str, key: str) -> bool:
        """Whether a living process holds it."""
        if not self._lock(kind, key).exists():
            return False
        lock = FileLock(self._lock(kind, key))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _lock(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{key}.lock"

    def _file(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{key}.json"
