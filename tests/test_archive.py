"""A file from a stranger: whole and as listed, or refused in one line; nothing is written outside,
nothing is executed."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from fuzzing import damaged
from hypothesis import HealthCheck, given, settings
from submitting import members, packed, rewritten

from benchmark import archive as archives
from benchmark.archive import MANIFEST, pack, parse_archive, read_archive
from benchmark.errors import BadInput

RUN = "runs/digits/resnet8/l1norm/0123456789ab"


def arrays(size: int = 3) -> bytes:
    raw = io.BytesIO()
    np.savez_compressed(raw, test_final_class=np.zeros(size, np.uint8))
    return raw.getvalue()


FILES = {
    f"{RUN}/record.json": b'{"a": 1}',
    f"{RUN}/plan.json": b"{}",
    f"{RUN}/curve.csv": b"",
    f"{RUN}/predictions.npz": arrays(),
    f"{RUN}/measurements/optimistic-0123456789ab.json": b"{}",
    f"{RUN}/measurements/ladder-0123456789ab.json": b"{}",
    "sources/0123456789abcdef/mine.py": b"x = 1\n",
    "sources/0123456789abcdef/lab/deep/mine.toml": b"",
}
TRIAL = "trials/runs/digits/resnet8/l1norm/ba9876543210"
RESTS_ON = {
    f"{TRIAL}/record.json": b"{}",
    f"{TRIAL}/plan.json": b"{}",
    f"{TRIAL}/curve.csv": b"",
    f"{TRIAL}/predictions.npz": arrays(),
    "trials/chosen/digits/resnet8/l1norm/0123456789ab-8.json": b"{}",
    "pruned-by/scores-0123456789abcdef.json": b"{}",
}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return packed(tmp_path / "whole.tar.gz", FILES)


def odd(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


# ---- whole ---------------------------------------------------------------------------------------


def test_the_same_files_give_the_same_bytes_and_come_back(whole: Path, tmp_path: Path) -> None:
    again = packed(tmp_path / "again.tar.gz", dict(reversed(FILES.items())))
    assert again.read_bytes() == whole.read_bytes()
    found = read_archive(whole)
    assert found.files == FILES
    assert found.runs == [RUN]
    assert found.sources == {"0123456789abcdef": {"mine.py": b"x = 1\n", "lab/deep/mine.toml": b""}}
    assert (found.manifest.by, found.manifest.suite) == ("Jo", "prunebench 0")


def test_nothing_in_it_names_a_person_or_a_time(whole: Path) -> None:
    assert whole.read_bytes()[4:8] == bytes(4)
    with tarfile.open(whole) as tar:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in tar} == {
            (0, 0, "", "", 0, 0o644)
        }


def test_names_that_none_may_hold_are_not_packed() -> None:
    with pytest.raises(BadInput, match="'runs/up' is no place"):
        pack(FILES | {"runs/up": b""}, "prunebench 0", "")
    with pytest.raises(BadInput, match="--by: give one line"):
        pack(FILES, "prunebench 0", "two\nlines")
    with pytest.raises(BadInput, match="--by: give one line"):
        pack(FILES, "prunebench 0", "x" * 101)


def test_too_much_is_neither_packed_nor_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    with pytest.raises(BadInput, match="more than"):
        pack(FILES, "prunebench 0", "")
    with pytest.raises(BadInput, match="it holds more than 3 files"):
        read_archive(whole)
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 10)
    with pytest.raises(BadInput, match="it unpacks to more than 0 MB"):
        read_archive(whole)


# ---- tampered with -------------------------------------------------------------------------------


def test_a_changed_byte_a_missing_file_and_an_extra_one_are_named(
    whole: Path, tmp_path: Path
) -> None:
    there = members(whole)
    place = f"{RUN}/record.json"
    bad = tmp_path / "bad.tar.gz"
    with pytest.raises(BadInput, match=f"{place} was changed after it was packed"):
        read_archive(rewritten(bad, there | {place: b'{"a": 2}'}))
    with pytest.raises(BadInput, match=f"{place} is listed in {MANIFEST} and missing"):
        read_archive(rewritten(bad, {n: r for n, r in there.items() if n != place}))
    with pytest.raises(BadInput, match=r"other\.py is not listed in"):
        read_archive(rewritten(bad, there | {"sources/0123456789abcdef/other.py": b""}))
    with pytest.raises(BadInput, match=f"it has no {MANIFEST}"):
        read_archive(rewritten(bad, FILES))
    assert read_archive(rewritten(bad, there)).files == FILES


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (odd(f"{RUN}/plan.json", tarfile.SYMTYPE, "/etc/passwd"), "is no plain file: links"),
        (odd("sources/link", tarfile.SYMTYPE, ".."), "is no plain file: links"),
        (odd(f"{RUN}/curve.csv", tarfile.LNKTYPE, MANIFEST), "is no plain file: links"),
        (odd("runs/", tarfile.DIRTYPE), "is no plain file"),
        (odd("sources/pipe", tarfile.FIFOTYPE), "is no plain file"),
        (odd("sources/null", tarfile.CHRTYPE), "is no plain file"),
        (odd("../outside.py"), "'../outside.py' is no place"),
        (odd(f"{RUN}/../../../../../up.json"), "is no place of a run's file"),
        (odd("/etc/cron.d/job"), "'/etc/cron.d/job' is no place"),
        (odd("sources/0123456789abcdef/../x.py"), "is no place"),
        (odd("sources/0123456789abcdef/.x.py"), "is no place"),
        (odd("sources/0123456789abcdef/x.pth"), "is no place"),
        (odd("runs/digits/resnet8/l1norm/0123456789ab/weights.pt"), "is no place"),
        (odd(f"{RUN}/measurements/dissection-0123456789ab.json"), "is no place"),
        (odd(f"runs/{'a' * 400}/resnet8/l1norm/0123456789ab/plan.json"), "is no place"),
        (odd(f"{RUN}/plan.json/../../../../../../up.json"), "is no place"),
        (odd("sources/0123456789abcdef/x.py.pth"), "is no place"),
        (odd(f"{TRIAL}/measurements/latency-0123456789ab.json"), "is no place"),
        (odd("trials/chosen/digits/resnet8/l1norm/0123456789ab-0.json"), "is no place"),
        (odd("trials/stages/x.json"), "is no place"),
        (odd("pruned-by/other-0123456789abcdef.json"), "is no place"),
        (odd("pruned-by/kept-0123456789abcdef.npz"), "is no place"),
        (odd("pruned-by/kept-0123456789abcdef.json.sh"), "is no place"),
        (odd(f"{RUN}/plan.json"), "twice"),
        (odd(MANIFEST), "it holds submission.json twice"),
        (odd("sources/0123456789abcdef/a\nb.py"), "is no place"),
    ],
)
def test_members_that_could_do_harm_are_refused(
    member: tarfile.TarInfo, reason: str, whole: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    bad = rewritten(tmp_path / "whole.tar.gz", members(whole), member)
    with pytest.raises(BadInput, match=reason) as caught:
        read_archive(bad)
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_needs_all_its_files(tmp_path: Path) -> None:
    for file in archives.FILES_OF_A_RUN:
        left = {name: raw for name, raw in FILES.items() if not name.endswith(file)}
        with pytest.raises(BadInput, match=f"{RUN} has no {file}"):
            read_archive(packed(tmp_path / "bad.tar.gz", left))
    with pytest.raises(BadInput, match="it holds no run"):
        read_archive(packed(tmp_path / "bad.tar.gz", {}))


def test_what_runs_rest_on_comes_back_and_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_archive(packed(tmp_path / "a.tar.gz", FILES | RESTS_ON))
    assert found.files == FILES | RESTS_ON
    assert (found.runs, found.trials) == ([RUN], [TRIAL])
    assert found.chosen == ["trials/chosen/digits/resnet8/l1norm/0123456789ab-8.json"]
    assert found.pruned_by == {"scores-0123456789abcdef": b"{}"}
    less = {n: raw for n, raw in RESTS_ON.items() if n != f"{TRIAL}/plan.json"}
    with pytest.raises(BadInput, match=rf"{TRIAL} has no plan\.json"):
        read_archive(packed(tmp_path / "b.tar.gz", FILES | less))
    monkeypatch.setattr(archives, "MOST_ARRAYS", 1 << 20)
    large = FILES | RESTS_ON | {f"{TRIAL}/predictions.npz": arrays(1 << 21)}
    with pytest.raises(BadInput, match=rf"{TRIAL}: predictions\.npz unpacks to more than 1 MB"):
        read_archive(packed(tmp_path / "c.tar.gz", large))


def test_arrays_that_unpack_to_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_ARRAYS", 1 << 20)
    large = FILES | {f"{RUN}/predictions.npz": arrays(1 << 21)}
    assert len(large[f"{RUN}/predictions.npz"]) < 1 << 14
    with pytest.raises(BadInput, match=r"predictions\.npz unpacks to more than 1 MB"):
        read_archive(packed(tmp_path / "bad.tar.gz", large))
    none = FILES | {f"{RUN}/predictions.npz": b"no zip"}
    with pytest.raises(BadInput, match="is no archive of arrays"):
        read_archive(packed(tmp_path / "bad.tar.gz", none))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "Expecting property name"),
        (b'{"format": 2, "suite": "x", "files": {}}', "format: Input should be 1"),
        (b'{"format": 1, "suite": "x", "files": {}, "run": "rm -rf /"}', "run: Extra inputs"),
        (b'{"format": 1, "suite": "x\\u001b[31m", "files": {}}', "suite: String should match"),
        (b'{"format": 1, "suite": "x", "files": {"a": {"sha256": "0", "size": 1}}}', "sha256"),
        (b'{"format": 1, "suite": "x", "files": {"../up": {"sha256": "%s", "size": 1}}}'
         % (b"0" * 64), "../up is listed in submission.json and missing"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_one_line(text: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=reason) as caught:
        read_archive(rewritten(tmp_path / "bad.tar.gz", {MANIFEST: text}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_what_is_no_archive_is_one_line(whole: Path, tmp_path: Path) -> None:
    raw = whole.read_bytes()
    for name, content, reason in (
        ("cut", raw[: len(raw) // 2], "it ends too early"),
        ("more", raw + b"more", "something follows its end"),
        ("two", raw + raw, "something follows its end"),
        ("text", b"no archive", "incorrect header check"),
        ("empty", b"", "it ends too early"),
        ("zip", gzip.compress(b"no tar"), "is not a whole submission"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadInput, match=reason):
            read_archive(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_archive(tmp_path / "nowhere")


WHOLE = pack(FILES, "prunebench 0", "Jo")
TAR = gzip.decompress(WHOLE)


@settings(
    max_examples=150, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(damaged(TAR))
def test_whatever_the_bytes_are_reading_ends_in_the_files_or_in_one_line(tar: bytes) -> None:
    files, said = outcome(gzip.compress(tar))
    assert files in (FILES, {})  # damage of padding changes nothing
    assert said.isprintable()
    assert len(said) < 1000


def outcome(raw: bytes) -> tuple[Mapping[str, bytes], str]:
    try:
        return parse_archive(raw, "x").files, ""
    except BadInput as error:
        return {}, str(error)


def test_zipped_bombs_stop_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 22)
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(1 << 26)))
    with pytest.raises(BadInput, match="it unpacks to more than 4 MB"):
        read_archive(path)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as arrays_:
        arrays_.writestr("a.npy", bytes(1 << 24))
    monkeypatch.setattr(archives, "MOST_ARRAYS", 1 << 20)
    with pytest.raises(ValueError, match="unpacks to more than"):
        archives.check_arrays((tmp_path / "bomb.npz").read_bytes())
