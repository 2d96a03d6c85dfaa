"""What a results directory holds, board by board: declared ones, and runs that no board declares.

A declared board owns the runs of its data, network and track, those too that it did not declare:
they are its deviations. Where several are declared there, start and budget say whose a run is.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.block import FILES
from benchmark.protocol import PROTOCOL_FILE, Board, Protocol, owner, read_protocol
from benchmark.record import RunRecord
from benchmark.store import Store


@dataclass(frozen=True)
class Holding:
    """A board and its runs, in the order of their places. `board` None: not declared."""

    name: str
    data: str
    arch: str
    track: str
    board: Board | None
    records: tuple[RunRecord, ...]

    @property
    def block(self) -> str:
        """DATA/ARCH."""
        return f"{self.data}/{self.arch}"


def declared_in(root: Path) -> Protocol:
    """Boards of a results directory; none where it has no protocol.

    Raises:
        BadInput: as `read_protocol`.
    """
    path = root / PROTOCOL_FILE
    return read_protocol(path) if path.exists() else Protocol(board={})


def holdings(protocol: Protocol, records: Sequence[RunRecord]) -> list[Holding]:
    """Declared boards in the order of the protocol, then the others by name."""
    owned: dict[str, list[RunRecord]] = defaultdict(list)
    others: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for r in records:
        name = owner(protocol.board, r.spec)
        if name is None:
            others[(r.spec.data.name, r.spec.arch.name, r.spec.track)].append(r)
        else:
            owned[name].append(r)
    found = [
        Holding(name, b.data, b.arch, b.track, b, tuple(owned[name]))
        for name, b in protocol.board.items()
    ]
    for (data, arch, track), own in sorted(others.items()):
        name = f"{data}/{arch}" + ("" if track == "common" else f" ({track} track)")
        found.append(Holding(name, data, arch, track, None, tuple(own)))
    return found


def checksum(store: Store, records: Iterable[RunRecord]) -> tuple[str, int]:
    """SHA-256 over a line `HASH  PLACE` for each file of these runs, sorted by place, as
    `sha256sum` prints them, and the number of files. Places are below `runs/`."""
    runs = store.root / "runs"
    places = sorted(p.relative_to(runs).as_posix() for r in records for p in _files(store, r))
    whole = hashlib.sha256()
    for place in places:
        whole.update(
            f"{hashlib.sha256((runs / place).read_bytes()).hexdigest()}  {place}\n".encode()
        )
    return whole.hexdigest(), len(places)


def _files(store: Store, record: RunRecord) -> Iterator[Path]:
    folder = store.run_folder(record.spec)
    yield from (folder / name for name in FILES if (folder / name).is_file())
    yield from (folder / "measurements").glob("[!.]*.json")
