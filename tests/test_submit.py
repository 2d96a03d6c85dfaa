"""A results directory becomes one file, with the source of what is not ours."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from packages import METHOD, NETWORK, Install, install
from submitting import make
from synthetic import record, spec, write

from benchmark import origin, submit
from benchmark.archive import read_archive
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.grid import write_grid
from benchmark.options import options_from
from benchmark.spec import ArchIdentity, MethodIdentity
from benchmark.store import Store

__all__ = ["install"]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def results(root: Path, method: str = "", arch: str = "") -> Path:
    """One run without training, of these sources."""
    own = {
        "method": MethodIdentity(name="shine" if method else "l1norm", revision=1, source=method),
        "arch": ArchIdentity(name="nets.small" if arch else "resnet8", structure="s", source=arch),
    }
    made = record(spec().model_copy(update=own))
    write(Store(root), made)
    Store(root).write_measurement(made.spec, "optimistic", "0123456789ab", {"best_test_top1": 0.9})
    Store(root).write_measurement(made.spec, "dissection", "0123456789ab", {"large": True})
    (root / "logs").mkdir()
    (root / "logs" / "x.log").write_text("what was said")
    return root


def run(*words: object) -> int:
    return invoke(submit.main, [str(w) for w in words])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.tar.gz"


def test_what_is_committed_of_each_run_is_packed_and_nothing_else(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = results(tmp_path / "results")
    assert run(root, "--out", out, "--by", "Jo Doe, Lab") == DONE
    said = capsys.readouterr().out
    sha256 = hashlib.sha256(out.read_bytes()).hexdigest()
    assert said.startswith(f"{out}: 1 run, 0.0 MB, sha256 {sha256}")
    assert f"python -m benchmark.verify {out}" in said
    found = read_archive(out)
    (folder,) = found.runs
    assert {name.removeprefix(f"{folder}/") for name in found.files} == {
        "record.json", "plan.json", "curve.csv", "predictions.npz",
        "measurements/optimistic-0123456789ab.json",
    }  # fmt: skip
    assert all(raw == (root / name).read_bytes() for name, raw in found.files.items())
    assert found.manifest.by == "Jo Doe, Lab"


def test_packing_again_gives_the_same_bytes_and_overwrites_nothing(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = results(tmp_path / "results")
    copied = shutil.copytree(root, tmp_path / "elsewhere")
    assert run(root, "--out", out) == DONE
    before = out.read_bytes()
    assert run(copied, "--out", out) == DONE
    assert out.read_bytes() == before
    assert run(root, "--out", out, "--by", "Jo") == BAD_INPUT
    assert "is there already, with other content" in capsys.readouterr().err
    assert out.read_bytes() == before


# ---- sources -------------------------------------------------------------------------------------


def test_sources_are_given_or_asked_for(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = results(tmp_path / "results", method=sha(METHOD), arch=sha(NETWORK))
    method, nets = tmp_path / "shine.py", tmp_path / "nets.py"
    method.write_text(METHOD)
    method.with_suffix(".toml").write_text('[card]\ntitle = "Shine"\n')
    nets.write_text(NETWORK + "# another one\n")
    assert run(root, "--out", out) == BAD_INPUT
    said = capsys.readouterr().err
    assert f"the source of the method shine with source hash {sha(METHOD)} is not known" in said
    assert run(root, "--out", out, "--source", method, "--source", nets) == BAD_INPUT
    assert "the source of the network nets.small" in capsys.readouterr().err
    nets.write_text(NETWORK)
    assert run(root, "--out", out, "--source", method, "--source", nets) == DONE
    assert "with the source shine.py" in capsys.readouterr().out
    assert read_archive(out).sources == {
        sha(METHOD): {"shine.py": METHOD.encode(), "shine.toml": b'[card]\ntitle = "Shine"\n'},
        sha(NETWORK): {"nets.py": NETWORK.encode()},
    }


def test_the_grid_tells_where_they_are(tmp_path: Path, out: Path) -> None:
    root = results(tmp_path / "results", method=sha(METHOD), arch=sha(NETWORK))
    (tmp_path / "shine.py").write_text(METHOD)
    (tmp_path / "nets.py").write_text(NETWORK)
    words = {"methods": ["l1norm", str(tmp_path / "shine.py")], "results": root}
    options = options_from(words | {"arch": f"{tmp_path / 'nets.py'}:small"})
    write_grid(Store(root), options, [], [], 1, {})
    assert run(root, "--out", out) == DONE
    assert sorted(read_archive(out).sources) == sorted([sha(METHOD), sha(NETWORK)])


def test_an_installed_package_gives_all_the_files_that_count(
    tmp_path: Path, out: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    body = METHOD.replace("from methods", "from lab import other\nfrom methods")
    files = {"lab/__init__.py": "", "lab/glow.py": body, "lab/other.py": "", "lab/glow.toml":
             '[card]\ntitle = "Shine"\n', "lab/apart.py": ""}  # fmt: skip
    install("lab", files, {"methods/shine": "lab.glow:Shine"})
    from methods import find

    root = results(tmp_path / "results", method=find("shine").source_hash)
    assert run(root, "--out", out) == DONE
    (packed,) = read_archive(out).sources.values()
    assert sorted(packed) == ["lab/__init__.py", "lab/glow.py", "lab/glow.toml", "lab/other.py"]
    other = results(tmp_path / "older", method="0123456789abcdef")
    assert run(other, "--out", out) == BAD_INPUT
    assert "or install its package" in capsys.readouterr().err


# ---- refused -------------------------------------------------------------------------------------


def test_what_cannot_be_packed_is_one_line(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(reason: str, *words: object) -> None:
        assert run(*words, "--out", out) == BAD_INPUT
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
        assert not out.exists()

    root = results(tmp_path / "results")
    refused("no finished runs under", tmp_path / "nowhere")
    refused("no finished runs under", tmp_path)
    refused("--source nowhere.py: no such file", root, "--source", "nowhere.py")
    refused("--by: give one line", root, "--by", "two\nlines")
    (path,) = Store(root).record_paths()
    moved = path.parent.parent.with_name("hrank")
    path.parent.parent.rename(moved)
    refused("is not where its record belongs", root)
    moved.rename(path.parent.parent)
    (path.parent / "curve.csv").unlink()
    refused("curve.csv is not a curve", root)
    write(Store(tmp_path / "edited"), record(spec(arch="resnet8")))
    (path,) = Store(tmp_path / "edited").record_paths()
    content = json.loads(path.read_text())
    content["spec"]["seeds"]["run"] = 7
    path.write_text(json.dumps(content))
    refused("was edited", tmp_path / "edited")


def test_runs_of_others_are_not_packed_as_ones_own(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = results(tmp_path / "results")
    origin.write_mark(root, origin.Mark(archive="0" * 64, runs={}))
    assert run(root, "--out", out) == BAD_INPUT
    assert "others submitted runs of it" in capsys.readouterr().err


def test_real_runs_are_packed(tmp_path: Path, out: Path) -> None:
    root = make(tmp_path / "results", methods=["l1norm"])
    assert run(root, "--out", out) == DONE
    assert read_archive(out).runs == [f"runs/{r.spec.folder}" for r in Store(root).records()]
