"""The file that carries results from one place to another: a gzipped tar of runs, of the source of
the methods and networks that are not ours, of the trials by which values were chosen, of what runs
pruned by, and of a manifest with the hash of everything.

Whoever reads one does not know who wrote it. Nothing is unpacked by the tar library: members are
read into memory, and only plain files whose names this module knows are accepted. The same files
give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from benchmark.choices import CONTENT
from benchmark.errors import BadInput
from benchmark.files import dump_json
from benchmark.frozen import Frozen
from benchmark.record import one_line, parse_json

MANIFEST = "submission.json"
FILES_OF_A_RUN = ("record.json", "plan.json", "curve.csv", "predictions.npz")
# Measurements that tables are made from. Others are left behind: they are large, or pictures.
KINDS = ("optimistic", "extra", "latency", "ladder")
MOST_BYTES = 1 << 30  # unpacked, all files together
MOST_FILES = 100_000
MOST_ARRAYS = 1 << 28  # bytes of the predictions of one run, unpacked

_PART = r"[A-Za-z0-9_][A-Za-z0-9_+-]*(?:\.[A-Za-z0-9_+-]+)*"
_CELL = rf"{_PART}/{_PART}/{_PART}"
_RUN = rf"runs/{_CELL}/[0-9a-f]{{12}}"
_FILE = "|".join(map(re.escape, FILES_OF_A_RUN))
_OF_A_RUN = re.compile(
    rf"({_RUN})/(?:{_FILE}|measurements/(?:{'|'.join(KINDS)})-[0-9a-f]{{4,64}}\.json)"
)
_OF_A_TRIAL = re.compile(rf"(trials/{_RUN})/(?:{_FILE})")
_CHOSEN = re.compile(rf"trials/chosen/{_CELL}/[0-9a-f]{{12}}-[1-9][0-9]{{0,5}}\.json")
_PRUNED_BY = re.compile(rf"pruned-by/({CONTENT.pattern})\.json")
_SOURCE = re.compile(r"sources/([0-9a-f]{16})/((?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.(?:py|toml))")
PLACES = (_OF_A_RUN, _OF_A_TRIAL, _CHOSEN, _PRUNED_BY, _SOURCE)
LONGEST_PATH = 320

Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=100)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Digest(Frozen):
    """What a file has to be."""

    sha256: Sha256
    size: int = Field(ge=0)


class Manifest(Frozen):
    """The list of everything in an archive but itself."""

    format: Literal[1] = 1
    suite: Line  # version of the suite that packed it
    by: Line = ""  # whose results these are, in the words of who packed it
    files: dict[str, Digest]


@dataclass(frozen=True)
class Archive:
    """A whole archive: every file is what the manifest says, every name is one of ours."""

    sha256: str  # of the archive's own bytes
    manifest: Manifest
    files: Mapping[str, bytes]  # by place

    @cached_property
    def runs(self) -> list[str]:
        """Folders of the runs, sorted."""
        return sorted({m[1] for name in self.files if (m := _OF_A_RUN.fullmatch(name))})

    @cached_property
    def trials(self) -> list[str]:
        """Folders of the trials that values were chosen by, sorted."""
        return sorted({m[1] for name in self.files if (m := _OF_A_TRIAL.fullmatch(name))})

    @cached_property
    def chosen(self) -> list[str]:
        """Places of what trials chose, sorted."""
        return sorted(name for name in self.files if _CHOSEN.fullmatch(name))

    @cached_property
    def pruned_by(self) -> dict[str, bytes]:
        """What files of other code said, by kind and hash as runs name it."""
        found = {m[1]: raw for n, raw in self.files.items() if (m := _PRUNED_BY.fullmatch(n))}
        return dict(sorted(found.items()))

    @cached_property
    def sources(self) -> dict[str, dict[str, bytes]]:
        """Files of the methods and networks that are not ours, by hash of the source and place."""
        found: dict[str, dict[str, bytes]] = {}
        for name, raw in self.files.items():
            if m := _SOURCE.fullmatch(name):
                found.setdefault(m[1], {})[m[2]] = raw
        return found


# ---- writing -------------------------------------------------------------------------------------


def pack(files: Mapping[str, bytes], suite: str, by: str) -> bytes:
    """The archive of these files, by place.

    Raises:
        BadInput: a name that no archive may hold, or more than one may hold.
    """
    try:
        for name in files:
            _check_name(name)
    except ValueError as error:
        raise BadInput(str(error)) from error
    if sum(map(len, files.values())) > MOST_BYTES or len(files) > MOST_FILES:
        raise BadInput(
            f"more than {MOST_BYTES >> 20} MB or {MOST_FILES:,} files: submit part of it, as the "
            "results of one data set"
        )
    digests = {n: Digest(sha256=_sha256(raw), size=len(raw)) for n, raw in files.items()}
    try:
        manifest = Manifest(suite=suite, by=by, files=digests)
    except ValidationError as error:
        raise BadInput("--by: give one line of at most 100 characters") from error
    told = dump_json(manifest.model_dump(mode="json")).encode("utf-8")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, raw in [(MANIFEST, told), *sorted(files.items())]:
            member = tarfile.TarInfo(name)  # of nobody, at the beginning of time
            member.size, member.mode = len(raw), 0o644
            archive.addfile(member, io.BytesIO(raw))
    return gzip.compress(tar.getvalue(), mtime=0)


# ---- reading -------------------------------------------------------------------------------------


def read_archive(path: Path) -> Archive:
    """The archive in a file.

    Raises:
        BadInput: it is no archive of ours, it was changed, or it holds what none may hold.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_archive(raw, str(path))


def parse_archive(raw: bytes, place: str) -> Archive:
    """The archive in these bytes; `place` names them in errors.

    Raises:
        BadInput: as `read_archive`.
    """
    try:
        files = _members(_unzipped(raw))
        if MANIFEST not in files:
            raise ValueError(f"it has no {MANIFEST}")
        manifest = _manifest(files.pop(MANIFEST))
        _check_files(files, manifest)
        archive = Archive(hashlib.sha256(raw).hexdigest(), manifest, files)
        _check_runs(archive)
    except (ValueError, tarfile.TarError, EOFError, zlib.error) as error:
        raise BadInput(f"{place} is not a whole submission: {one_line(error)}") from error
    return archive


def check_arrays(raw: bytes) -> None:
    """Raises ValueError if a run's predictions unpack to more than they can be."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as arrays:
            size = sum(info.file_size for info in arrays.infolist())
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise ValueError("predictions.npz is no archive of arrays") from error
    if size > MOST_ARRAYS:
        raise ValueError(f"predictions.npz unpacks to more than {MOST_ARRAYS >> 20} MB")


def _unzipped(raw: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    found = unzip.decompress(raw, MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MB")
    if not unzip.eof:
        raise ValueError("it ends too early")
    if unzip.unused_data:
        raise ValueError("something follows its end")
    return found


def _members(tar: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
        for number, member in enumerate(archive):
            said = one_line(member.name)
            if number >= MOST_FILES:
                raise ValueError(f"it holds more than {MOST_FILES:,} files")
            if not member.isreg() or member.issparse():
                raise ValueError(f"{said} is no plain file: links, folders and devices are refused")
            if member.name != MANIFEST:
                _check_name(member.name)
            if member.name in found:
                raise ValueError(f"it holds {said} twice")
            content = archive.extractfile(member)
            assert content is not None, "it is a plain file"
            found[member.name] = content.read()
            if len(found[member.name]) != member.size:
                raise ValueError(f"{said} ends too early")
    return found


def _check_name(name: str) -> None:
    """Raises ValueError for any but the places that this module knows."""
    if not any(place.fullmatch(name) for place in PLACES) or len(name) > LONGEST_PATH:
        raise ValueError(f"'{one_line(name)[:80]}' is no place of a run's file or a source")


def _manifest(raw: bytes) -> Manifest:
    try:
        return Manifest.model_validate(parse_json(raw))
    except ValidationError as error:
        first = error.errors()[0]
        where = one_line(".".join(map(str, first["loc"])))
        raise ValueError(f"{MANIFEST}: {where}: {first['msg']}") from error


def _check_files(files: Mapping[str, bytes], manifest: Manifest) -> None:
    for name in sorted(manifest.files.keys() - files.keys()):
        raise ValueError(f"{one_line(name)} is listed in {MANIFEST} and missing")
    for name, raw in sorted(files.items()):
        wanted = manifest.files.get(name)
        if wanted is None:
            raise ValueError(f"{name} is not listed in {MANIFEST}")
        if len(raw) != wanted.size or _sha256(raw) != wanted.sha256:
            raise ValueError(f"{name} was changed after it was packed")


def _check_runs(archive: Archive) -> None:
    if not archive.runs:
        raise ValueError("it holds no run")
    for run in (*archive.runs, *archive.trials):
        for file in FILES_OF_A_RUN:
            if f"{run}/{file}" not in archive.files:
                raise ValueError(f"{run} has no {file}")
        try:
            check_arrays(archive.files[f"{run}/predictions.npz"])
        except ValueError as error:
            raise ValueError(f"{run}: {error}") from error


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
