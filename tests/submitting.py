"""Tiny results, packed, and tampered with as somebody who means harm would."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmark import chosen, tune
from benchmark.archive import MANIFEST, pack, read_archive
from benchmark.context import Context
from benchmark.execute import run_one
from benchmark.imported import with_imported
from benchmark.lanes import grid, subjects
from benchmark.options import options_from
from benchmark.store import Store
from benchmark.sweep import expand, find_methods
from benchmark.tasks import data_of

QUICK: dict[str, Any] = {
    "arch": "resnet8", "dataset": "digits", "preset": "demo", "epochs": 0.2,
    "flops_reduction": [0.3], "controls": False,
    "set": {"baseline.epochs": 0.3, "baseline.batch_size": 32, "recovery.batch_size": 8},
}  # fmt: skip
Change = Callable[[dict[str, Any]], None]


def make(root: Path, **words: Any) -> Path:
    """Results of a tiny grid."""
    options = options_from(QUICK | words | {"results": root})
    data = data_of(options)
    options, _ = with_imported(options, find_methods(options.methods), data.identity)
    for cell in expand(options, data):
        run_one(cell.spec, cell.entry, Context(Store(root), data))
    return root


def make_tuned(root: Path, trials: int = 3, **words: Any) -> Path:
    """Results of a tiny grid whose values so many trials chose, beside these."""
    board = options_from(QUICK | words | {"results": root, "trials": trials})
    data = data_of(board)
    own = board.model_copy(update={"lane": "trial", "results": root / chosen.TRIALS})
    for subject in subjects(own, data):
        for cell in subject.cells:
            run_one(cell.spec, cell.entry, Context(Store(own.results), data))
        tune.judged(subject, own, len(data.train))
    for cell in grid(board.model_copy(update={"lane": "tuned"}), data):
        tuning = chosen.evidence(cell.spec, root)
        run_one(cell.spec, cell.entry, Context(Store(root), data, tuning=tuning))
    return root


def packed(path: Path, files: Mapping[str, bytes], by: str = "Jo") -> Path:
    """A whole archive of these files, as if they had been packed so."""
    path.write_bytes(pack(files, "prunebench 0", by))
    return path


def members(path: Path) -> dict[str, bytes]:
    """Everything in an archive, the manifest too."""
    with tarfile.open(path, "r:gz") as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def rewritten(path: Path, content: Mapping[str, bytes], *odd: tarfile.TarInfo) -> Path:
    """An archive of these members, whatever their manifest says, and of odd ones."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, text in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        for member in odd:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return path


def edited(path: Path, into: Path, name: str, change: Change) -> Path:
    """The archive with its one record of that run id changed, and packed as if it were true."""
    files = dict(read_archive(path).files)
    (place,) = (p for p in files if p.endswith(f"{name}/record.json"))
    record = json.loads(files[place])
    change(record)
    files[place] = json.dumps(record).encode()
    return packed(into, files)


def without_manifest(path: Path) -> dict[str, bytes]:
    return {name: raw for name, raw in members(path).items() if name != MANIFEST}
