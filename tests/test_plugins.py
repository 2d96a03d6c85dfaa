"""Methods, architectures and data sets of installed packages: found by name, known by their source,
and never in the way of what does not use them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from packages import DATA, METHOD, NETWORK, Install, install
from PIL import Image
from rich.table import Table

from benchmark import archs, archtable, ownmodel, reproduce, run
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.data import NAMES, dataset_of, load_data
from benchmark.errors import BadInput
from benchmark.options import options_from
from benchmark.store import Store
from benchmark.sweep import expand
from benchmark.tasks import data_of, do, task_of
from methods import UnknownMethod, all_names, find, installed, names

__all__ = ["install"]
SHINE = {"methods/shine": "shine:Shine"}
ALL = SHINE | {"architectures/small": "nets:small", "datasets/noise3": "noisy:read"}
FILES = {"shine.py": METHOD, "nets.py": NETWORK, "noisy.py": DATA}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- methods -------------------------------------------------------------------------------------


def test_a_method_of_a_package_is_found_by_its_entry_point(install: Install) -> None:
    root = install("lab", FILES, SHINE)
    entry = find("shine")
    assert (entry.name, entry.title, entry.package) == ("shine", "shine", "lab 0.1")
    assert entry.source_hash == sha(METHOD) == find(str(root / "shine.py")).source_hash
    assert "shine" not in names() + all_names()


def test_a_module_serves_too_and_its_card_lies_beside_it(install: Install) -> None:
    card = '[card]\ntitle = "Shine"\n[variant.bright]\nsummary = "x"\ntracks = ["common"]\n'
    install("lab", {"shine.py": METHOD, "shine.toml": card}, {"methods/lab-shine": "shine"})
    entry = find("lab-shine:bright")
    assert (entry.label, entry.title) == ("lab-shine:bright", "Shine [bright]")
    with pytest.raises(UnknownMethod, match=r"unknown variant of lab-shine 'brihgt'; did you mean"):
        find("lab-shine:brihgt")


def test_the_hash_covers_what_the_method_imports_of_its_package(install: Install) -> None:
    body = METHOD.replace(
        "from methods", "from . import other\nfrom .deep.norm import f\nfrom methods"
    )
    files = {
        "pack/__init__.py": "", "pack/shine.py": body, "pack/other.py": "x = 1\n",
        "pack/deep/__init__.py": "", "pack/deep/norm.py": "import pack.last\nf = 1\n",
        "pack/last.py": "", "pack/apart.py": "not even Python",
    }  # fmt: skip
    root = install("pack", files, {"methods/shine": "pack.shine:Shine"})
    first = find("shine").source_hash
    from methods.plugins import METHODS, _sources, load, offers

    (offer,) = offers(METHODS, lambda name: False)[0].values()
    assert sorted(load(offer).sources.content) == [
        "pack/__init__.py", "pack/deep/norm.py", "pack/last.py", "pack/other.py", "pack/shine.py",
    ]  # fmt: skip
    (root / "pack/last.py").write_text("y = 2\n")
    assert find("shine").source_hash == first  # this process has imported what was there
    _sources.cache_clear()
    changed = find("shine").source_hash
    (root / "pack/apart.py").write_text("nor this")
    _sources.cache_clear()
    assert find("shine").source_hash == changed != first


def test_names_of_ours_are_ours(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("lab", FILES, {"methods/hrank": "shine:Shine"})
    assert find("hrank").source_hash == ""
    assert invoke(run.main, ["--list", "methods"]) == DONE
    assert capsys.readouterr().out.splitlines()[-1] == (
        "warning: entry point hrank of package lab 0.1 is left out: it has the name of one of "
        "ours, rename it"
    )


def test_a_name_that_two_packages_give_is_refused(install: Install) -> None:
    install("one", {"one.py": METHOD}, {"methods/shine": "one:Shine"})
    install("two", {"two.py": METHOD}, {"methods/shine": "two:Shine"})
    with pytest.raises(UnknownMethod, match=r"shine of package two 0\.1 .* package one 0\.1"):
        find("shine")
    assert installed()[0] == []


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("raise RuntimeError('a\\nb')", "shine:Shine", "RuntimeError: a b"),
        ("import sys; sys.exit(3)", "shine:Shine", "SystemExit: 3"),
        ("def x(:", "shine:Shine", "SyntaxError"),
        (METHOD, "shine:Shin", "AttributeError"),
        (METHOD, "nowhere", "ModuleNotFoundError"),
        (METHOD, "shine:dataclass", "is no subclass of methods.api.Method"),
        ("x = 1\n", "shine", "must define exactly one subclass"),
    ],
)
def test_a_broken_method_is_one_line_where_it_is_used_and_where_it_is_listed(
    text: str, value: str, reason: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("lab", {"shine.py": text}, {"methods/shine": value})
    assert find("l1norm:a").label == "l1norm:a"
    with pytest.raises(UnknownMethod, match=reason) as caught:
        find("shine")
    assert "\n" not in str(caught.value)
    assert invoke(run.main, ["--list", "methods"]) == DONE
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning: ")]
    assert line == f"warning: {caught.value}"


def test_metadata_that_cannot_be_read_offers_nothing(install: Install) -> None:
    root = install("lab", FILES, SHINE)
    (root / "lab-0.1.dist-info/entry_points.txt").write_bytes(b"\xff[[broken\n= =\n")
    with pytest.raises(UnknownMethod, match="unknown method 'shine'"):
        find("shine")


def test_a_strange_name_is_left_out(install: Install) -> None:
    install("lab", FILES, {"methods/../up": "shine:Shine"})
    assert installed()[0] == []
    assert "is left out: a name is" in installed()[1][0]


def test_a_method_that_nobody_knows_is_answered_with_those_of_packages(install: Install) -> None:
    install("lab", FILES, SHINE)
    with pytest.raises(UnknownMethod, match="did you mean shine"):
        find("shiny")


# ---- architectures -------------------------------------------------------------------------------


def test_an_architecture_of_a_package(install: Install) -> None:
    install("lab", FILES, ALL)
    identity = archs.identity_of("small", 5)
    assert (identity.name, identity.source) == ("small", sha(NETWORK))
    assert archs.build_again(identity, 5)[0].out_channels == 6  # type: ignore[index]
    with pytest.raises(BadInput, match="did you mean small"):
        archs.find("smal")
    other = identity.model_copy(update={"source": "0123456789abcdef"})
    with pytest.raises(
        BadInput, match=r"source hash .*, not 0123456789abcdef: install the version"
    ):
        archs.build_again(other, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("small = 3\n", "is no function of the number of classes"),
        ("def small(k): return k\n", r"small\(4\) returned a int, not a torch"),
        ("def small(k): raise OSError('no weights')\n", r"small\(4\): OSError: no weights"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_broken_architecture_is_one_line(text: str, reason: str, install: Install) -> None:
    install("lab", {"nets.py": text}, {"architectures/small": "nets:small"})
    with pytest.raises(BadInput, match=reason):
        archs.build("small", 4)
    assert archs.build("resnet8", 4)


@pytest.mark.parametrize("name", ["resnet20", "timm-mine"])
def test_an_architecture_cannot_take_a_name(name: str, install: Install) -> None:
    install("lab", FILES, {f"architectures/{name}": "nets:small"})
    assert archs.installed() == (
        [],
        [f"entry point {name} of package lab 0.1 is left out: it has the name of one of ours, "
         "rename it"],
    )  # fmt: skip


def test_a_network_whose_package_is_gone_is_asked_for() -> None:
    with pytest.raises(BadInput, match="or install its package"):
        ownmodel.known("small", "0123456789abcdef", archs.is_taken)


# ---- data sets -----------------------------------------------------------------------------------


def test_a_data_set_of_a_package(install: Install, tmp_path: Path) -> None:
    install("lab", FILES, ALL)
    found = load_data("noise3", cache_dir=tmp_path)
    identity = found.identity
    assert (identity.name, identity.image_size, identity.num_classes) == ("noise3", 16, 3)
    assert (len(found.train), len(found.val), len(found.test)) == (81, 9, 30)
    assert dataset_of(identity) == "noise3"
    small = load_data("noise3", cache_dir=tmp_path, image_size=8)
    assert small.identity.content_hash != identity.content_hash
    assert options_from({"dataset": "noise3"}).dataset == "noise3"


def test_a_data_set_may_be_a_folder_of_images(install: Install, tmp_path: Path) -> None:
    for split, count in (("train", 8), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "made" / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (16, 16), (100 * label + i, 10 + i, i))
                image.save(tmp_path / "made" / split / name / f"{i}.png")
    text = "def read(data_dir):\n    return data_dir / 'made'\n"
    install("lab", {"noisy.py": text}, {"datasets/pets": "noisy:read"})
    found = load_data("pets", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert (found.class_names, len(found.test)) == (("cat", "dog"), 4)
    assert found.identity.name == "pets"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("return *split(90), *split(30)", "return split(90)"), "a data set is .* not tuple"),
        (("return *split(90)", "raise OSError('a\\nb')\n    return 0"), "OSError: a b"),
        (("dtype=np.uint8", "dtype=np.int64"), r"train images are int64 .*, needed is uint8"),
        (("(count, 16, 16, 3)", "(count, 16, 20, 3)"), "train images are 20x16, not square: pass"),
        (("return images, labels", "return images, labels[1:]"), "needed are 90 whole numbers"),
        (("% 3", "% 3 + (count < 50)"), "test labels are not 0 to 2, .* look at 0"),
        (("% 3", "% 3 * 2"), "train labels are not 0 to 4, .* look at 1"),
        (("% 3", "% 1"), "two classes are needed"),
        (("import numpy", "import no_such_thing_at_all"), "noise3 of package lab .*ModuleNotFound"),
    ],
)  # fmt: skip
def test_a_data_set_that_is_none_is_one_line(
    change: tuple[str, str], reason: str, install: Install, tmp_path: Path
) -> None:
    install("lab", {"noisy.py": DATA.replace(*change)}, {"datasets/noise3": "noisy:read"})
    with pytest.raises(BadInput, match=reason) as caught:
        load_data("noise3", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert options_from({"dataset": "digits"})


@pytest.mark.parametrize("name", [*NAMES[:1], "Noise"])
def test_a_data_set_cannot_have_every_name(name: str, install: Install) -> None:
    install("lab", FILES, {f"datasets/{name}": "noisy:read"})
    if name in NAMES:
        assert options_from({"dataset": name}).dataset == name
    else:
        with pytest.raises(BadInput, match="--dataset: the data set 'Noise' of a package needs"):
            options_from({"dataset": name})


# ---- all together --------------------------------------------------------------------------------


def test_the_lists_name_them_and_their_packages(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archtable, "console_table", Table)  # counting all of ours takes seconds
    install("lab", FILES, ALL)
    for what, words in (
        ("methods", ["shine", "(lab 0.1)"]), ("archs", ["small", "lab 0.1"]),
        ("datasets", ["noise3", "of package lab 0.1"]),
    ):  # fmt: skip
        assert invoke(run.main, ["--list", what]) == DONE
        said = capsys.readouterr().out
        assert all(word in said for word in words), said
        assert "warning" not in said


def test_a_run_of_all_three_is_made_and_reproduced(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("lab", FILES, ALL)
    results = tmp_path / "results"
    words = {"methods": ["shine"], "arch": "small", "dataset": "noise3", "epochs": 1.0}
    words |= {"set": {"baseline.epochs": 1.0}, "flops_reduction": [0.3], "controls": False}
    options = options_from(words | {"results": results})
    (cell,) = expand(options, data_of(options))
    assert do(task_of("cell", cell, options), lambda *_: None).status == "done"
    (record,) = Store(results).records()
    assert record.spec.folder.startswith("noise3/small/shine/")
    assert record.spec.method.source == sha(METHOD)
    assert record.command.startswith("python -m benchmark.run --methods shine --arch small")
    capsys.readouterr()
    again = [record.run_id, "--results", str(results)]
    assert invoke(reproduce.main, again) == DONE
    assert "reproduced: equal to the bit" in capsys.readouterr().out


def test_a_run_is_not_reproduced_by_another_version_of_its_package(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.spec import MethodIdentity

    method = MethodIdentity(name="shine", revision=1, source="0123456789abcdef")
    with pytest.raises(BadInput, match=r"--method-file shine\.py.*, or install its package"):
        reproduce.entry_of(method, None)
    install("lab", FILES, SHINE)
    with pytest.raises(BadInput, match=r"lab 0\.1 is not the method of the record"):
        reproduce.entry_of(method, None)
    assert invoke(run.main, ["--methods", "shine", "--dataset", "nothing"]) == BAD_INPUT
