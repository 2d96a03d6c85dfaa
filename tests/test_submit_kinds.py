"""Every kind of row can be sent and made again: those of other results, in rounds, with losses,
with new weights, with values that trials chose, and those that prune by what other code chose."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from submitting import QUICK, make, make_tuned, members, packed, without_manifest

from benchmark import (
    archs,
    choices,
    chosen,
    differences,
    doctor,
    evaluate,
    imported,
    merge,
    origin,
    plausible,
    report,
    reproduce,
    submit,
    verify,
)
from benchmark.archive import read_archive
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.network import Network
from benchmark.store import Store
from methods import find

RARE = ("rounds", "loss", "scratch", "tuned")  # nothing but the settings tells them apart
KINDS = [
    *("exp", "fbs", "trial", "from_file"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in RARE),
]


def run(command: Callable[..., int], *words: object) -> int:
    return invoke(command, [str(word) for word in words])


def scores() -> dict[str, list[float]]:
    net = Network(archs.build("resnet8", 10), torch.zeros(1, 3, 32, 32))
    draw = torch.Generator().manual_seed(0)
    widths = {name: len(net.weight(name)) for name in net.layers}
    draws = {n: torch.rand(w, generator=draw, dtype=torch.float64) for n, w in widths.items()}
    return {name: drawn.tolist() for name, drawn in draws.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "scores.json"
    path.write_text(json.dumps({"name": "Theirs", "scores": scores()}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    """One row of each kind, and a plain one."""
    root = tmp_path_factory.mktemp("made") / "results"
    make(root, methods=["l1norm", "exp", "fbs"])
    make(root, methods=["l1norm"], schedule=["iterative:2"])
    make(root, methods=["l1norm"], set=QUICK["set"] | {"recovery.loss": "cc"})
    make(root, methods=["hrank"], track="total", weights=["scratch"])
    make(root, methods=["from-file"], set=QUICK["set"] | {"from_file.path": str(file)})
    return make_tuned(root, methods=["l1norm"])


@pytest.fixture(scope="module")
def archive(made: Path) -> Path:
    path = made.parent / "all.tar.gz"
    assert run(submit.main, made, "--out", path, "--by", "Jo") == DONE
    return path


def ids(made: Path) -> dict[str, str]:
    """A run id of each kind."""
    found = {}
    for record in Store(made).records():
        spec = record.spec
        kind = "tuned" if spec.lane == "tuned" else "scratch" if spec.scratch else spec.method.name
        kind = "rounds" if spec.in_rounds else kind
        found["loss" if spec.recovery.loss != "ce" else kind] = spec.run_id
    return found | {"trial": Store(made / "trials").records()[0].run_id}


def place_of(files: dict[str, bytes], run_id: str) -> str:
    (place,) = (name for name in files if name.endswith(f"{run_id}/record.json"))
    return place.rpartition("/")[0]


# ---- whole ---------------------------------------------------------------------------------------


def test_what_runs_rest_on_is_packed_with_them(
    made: Path, archive: Path, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again.tar.gz"
    assert run(submit.main, made, "--out", out, "--by", "Jo") == DONE
    said = capsys.readouterr().out
    content = choices.read(file).content
    assert said.startswith(f"{out}: 8 runs and 3 trials, ")
    assert f"  with pruned-by/{content}.json, which runs prune by" in said
    assert out.read_bytes() == archive.read_bytes()
    found = read_archive(archive)
    assert len(found.runs) == 8
    assert found.trials == [
        f"trials/runs/{r.spec.folder}" for r in Store(made / "trials").records()
    ]
    assert [made / place for place in found.chosen] == sorted(made.glob("trials/chosen/*/*/*/*"))
    assert json.loads(found.pruned_by[content]) == {"scores": scores()}
    assert not [name for name in found.files if "stages" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind_comes_out_again(
    kind: str, made: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # nothing lies here
    assert run(verify.main, archive, "--cell", ids(made)[kind]) == DONE
    said = capsys.readouterr().out
    assert "by Jo: 8 runs and 3 trials, 46 files as listed" in said
    assert "reproduced: equal to the bit" in said
    alone = "verified: 1 run of the same code; self-reported: 7"  # other code chose there
    rest = "verified: 7 runs of the same code; self-reported: 1"
    assert (alone if kind == "from_file" else rest) in said
    assert not list(tmp_path.iterdir())


def test_boards_show_them_and_keep_what_they_rest_on(
    made: Path, archive: Path, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(report.page, "render", lambda *_: "")  # packing its library takes seconds
    into, cell = tmp_path / "board", ids(made)["exp"]
    assert run(verify.main, archive, "--cell", cell, "--into", into) == DONE
    assert f"{into}: 8 runs added" in capsys.readouterr().out
    report.build(into, "none")
    board = pd.read_csv(into / "leaderboard.csv", keep_default_na=False).set_index("method")
    assert board.loc["from_file", "origin"] == "self-reported"  # other code chose there
    assert set(board.drop("from_file")["origin"]) == {"verified"}
    tuned = board[board["lane"] == "tuned"]
    assert tuned["trials"].item() == 3
    beside = into / origin.FOLDER / read_archive(archive).sha256[:12]
    assert len(Store(beside / "trials").records()) == 3
    assert not (into / "trials").exists()  # nothing is chosen here by what others tried
    assert run(doctor.main, "--results", into) == DONE
    assert imported.kept(into) == [choices.read(file).content]
    assert run(reproduce.main, ids(made)["from_file"], "--results", into) == DONE
    other = tmp_path / "other"
    assert run(merge.main, into, "--results", other) == DONE
    copied = other / beside.relative_to(into)
    assert len(Store(copied / "trials").records()) == 3
    assert len(list(copied.glob("trials/chosen/*/*/*/*.json"))) == 1


def test_without_a_second_run_all_of_it_is_self_reported(archive: Path, tmp_path: Path) -> None:
    into = tmp_path / "board"
    assert run(verify.main, archive, "--no-rerun", "--into", into) == DONE
    (mark,) = origin.read_marks(into)
    assert {mark.state(own.code) for own in mark.runs.values()} == {"self-reported"}
    assert len({own.code for own in mark.runs.values()}) == 2


# ---- what is missing or left out -----------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], command: Callable[..., int], *words: object) -> str:
    assert run(command, *words) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_runs_are_not_packed_without_what_they_rest_on(
    made: Path, archive: Path, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "results", tmp_path / "out.tar.gz"
    shutil.copytree(made, root)
    said = refused(capsys, submit.main, root / "trials", "--out", out)
    assert "is a trial: give the directory of the tuned rows" in said
    shutil.rmtree(root / "stages")
    said = refused(capsys, submit.main, root, "--out", out)
    assert f"run {ids(made)['from_file']} prunes by what should be in {root}/stages/impo" in said
    assert "give its file by --pruned-by FILE" in said
    words = [root, "--out", out, "--by", "Jo", "--pruned-by", file]
    assert run(submit.main, *words) == DONE
    assert out.read_bytes() == archive.read_bytes()
    (path,) = root.glob("trials/chosen/*/*/*/*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": 1}))
    assert "its trials used" in refused(capsys, submit.main, *words)
    path.unlink()
    said = refused(capsys, submit.main, *words)
    assert f"run {ids(made)['tuned']} was tuned, and {path} is not there" in said


def test_networks_of_other_code_stay_and_it_is_said(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, root = tmp_path / "net.pt", tmp_path / "results"
    torch.save(archs.build("resnet8", 10).state_dict(), weights)
    words = ["--arch", "resnet8", "--dataset", "digits", "--entry", "Theirs", "--results", root]
    assert run(evaluate.main, weights, *words) == DONE
    said = refused(capsys, submit.main, root, "--out", tmp_path / "out.tar.gz")
    assert "no finished runs under" in said
    assert "what benchmark.evaluate measured is not submitted" in said
    shutil.copytree(made / "runs" / "digits" / "resnet8" / "exp",
                    root / "runs" / "digits" / "resnet8" / "exp")  # fmt: skip
    capsys.readouterr()
    assert run(submit.main, root, "--out", tmp_path / "out.tar.gz") == DONE
    assert "  without 1 imported network: " in capsys.readouterr().out


def test_a_row_whose_file_did_not_come_along_cannot_be_made_again(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {n: r for n, r in without_manifest(archive).items() if not n.startswith("pruned-by/")}
    path, cell = packed(tmp_path / "less.tar.gz", files), ids(made)["from_file"]
    said = refused(capsys, verify.main, path, "--cell", cell)
    assert re.search(r"it prunes by scores-[0-9a-f]{16}, and the archive does not hold", said)
    only = {n: r for n, r in files.items() if "/from_file/" in n}
    assert run(verify.main, packed(tmp_path / "one.tar.gz", only)) == DONE
    said = capsys.readouterr().out
    assert f"not to be made again: {cell}: it prunes by scores-" in said
    assert "no run was made again: all of it is self-reported" in said


# ---- tampered with -------------------------------------------------------------------------------

Files = dict[str, bytes]
Change = Callable[[Files, str], Any]


def edit(files: Files, place: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(files[place])
    change(content)
    files[place] = json.dumps(content).encode()


def in_record(kind: str, change: Callable[[dict[str, Any]], Any]) -> tuple[str, Change]:
    return kind, lambda files, folder: edit(files, f"{folder}/record.json", change)


def in_plan(kind: str, change: Callable[[dict[str, Any]], Any]) -> tuple[str, Change]:
    return kind, lambda files, folder: edit(files, f"{folder}/plan.json", change)


def in_choice(change: Callable[[dict[str, Any]], Any]) -> tuple[str, Change]:
    def do(files: Files, _: str) -> None:
        edit(files, next(n for n in files if n.startswith("trials/chosen/")), change)

    return "tuned", do


def beaten(choice: dict[str, Any]) -> int:
    """A setting that was not the best. Which one was depends on the processor."""
    return (int(choice["best"]) + 1) % len(choice["tried"])


def without(start: str) -> tuple[str, Change]:
    def do(files: Files, _: str) -> None:
        for name in [n for n in files if n.startswith(start)]:
            del files[name]

    return "tuned", do


def another(mask: dict[str, Any]) -> None:
    first = next(iter(mask.values()))
    first["bits"] = "A" + first["bits"][1:] if first["bits"][0] != "A" else "B" + first["bits"][1:]


def other_said(files: Files, _: str) -> None:
    place = next(n for n in files if n.startswith("pruned-by/"))
    edit(files, place, lambda c: next(iter(c["scores"].values())).reverse())


def more_said(files: Files, _: str) -> None:
    kept = choices.parse(b'{"widths": {"layer1.0.conv1": 3}}', "x")
    files[f"pruned-by/{kept.content}.json"] = choices.as_json(kept)


def untuned(files: Files, folder: str) -> None:
    for name in [n for n in files if n.startswith(folder)]:
        del files[name]


def better(record: dict[str, Any]) -> None:
    record["tuning"]["images"] = 1


def as_in_a_table(record: dict[str, Any]) -> None:
    record["pruned"]["macs"] //= 2
    record["flops_reduction"] = 1 - record["pruned"]["macs"] / record["dense"]["cost"]["macs"]


def narrower(record: dict[str, Any]) -> None:
    group = next(iter(record["widths"]))
    record["widths"][group] -= 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (in_plan("exp", lambda p: another(p["masks"])), "plan.json is not the plan of its record"),
        (in_plan("exp", lambda p: p.update(masks={"a": {"shape": [1 << 40], "bits": "AA=="}})),
         "is not a pruning plan: a mask of 1099511627776 has 1 bytes"),
        (in_plan("exp", lambda p: p.update(masks={"a": {"shape": [-1], "bits": ""}})), "no shape"),
        (in_plan("exp", lambda p: p.update(masks=[1])), "is not a pruning plan"),
        (in_plan("fbs", lambda p: p.update(keep={"layer1.0.conv1": [0]})), "is not the plan of"),
        (in_plan("l1norm", lambda p: p["keep"].popitem()), "is not the plan of its record"),
        (in_record("exp", as_in_a_table), "its pruned network has"),
        (in_record("l1norm", as_in_a_table), "its pruned network has"),
        (in_record("l1norm", narrower), "is not that of its plan"),
        (in_record("l1norm", lambda r: r.update(flops_reduction=0.9)), "its flops_reduction is 0"),
        (in_record("l1norm", lambda r: r.update(params_reduction=0.9)), "its params_reduction is"),
        (in_record("l1norm", lambda r: r["dense"]["cost"].update(macs=0)), "costs nothing"),
        (in_record("l1norm", lambda r: r.update(title="HRank")), "goes by another title: HRank"),
        (in_record("from_file", lambda r: r.update(title="HRank")), "goes by another title: HRank"),
        (in_record("scratch", lambda r: r.update(title="HRank")), "goes by another title: HRank"),
        (in_record("tuned", better), "what it says of its trials is not what they say"),
        (in_record("tuned", lambda r: r.update(tuning=None)), "what it says of its trials is not"),
        (in_record("trial", lambda r: r["final"].update(val_top1=1.0)), "another validation accur"),
        (in_choice(lambda c: c.update(best=beaten(c))), "is not the one with the highest accuracy"),
        (in_choice(lambda c: c["tried"].reverse()), "its settings are not those"),
        (in_choice(lambda c: c.update(images=7)), "images, not 7"),
        (in_choice(lambda c: c.update(trials=2)), "it names 3 trials, not 2"),
        (in_choice(lambda c: c.update(target=0.7)), "is not the trial that it is said to be"),
        (in_choice(lambda c: c.update(space={str(i): list(range(99)) for i in range(3)})),
         "its space is too large"),
        (in_choice(lambda c: c["tried"][beaten(c)].update(val_top1=[])),
         "not one accuracy for each trial"),
        (in_choice(lambda c: c["tried"][beaten(c)].update(val_top1=[None])),
         "and no accuracy there"),
        (in_choice(lambda c: c.update(tried=[], best=None)), "nothing was chosen"),
        (in_choice(lambda c: c.update(best=9)), "is not what trials chose: it: Value error"),
        (without("trials/runs/"), "has no record"),
        (without("trials/chosen/"), "what its values were chosen from is not there"),
        (("tuned", untuned), "belongs to no run"),
        (("from_file", other_said), "says scores-"),
        (("from_file", more_said), "belongs to no run"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_in_one_line(
    what: tuple[str, Change], reason: str, made: Path, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kind, change = what
    files = without_manifest(archive)
    change(files, place_of(files, ids(made)[kind]))
    said = refused(capsys, verify.main, packed(tmp_path / "bad.tar.gz", files), "--no-rerun")
    assert reason in said


def test_a_method_of_ours_may_call_its_rows_as_it_says_beforehand(made: Path) -> None:
    folder = made / place_of({str(p.relative_to(made)): b"" for p in Store(made).record_paths()},
                             ids(made)["l1norm"])  # fmt: skip
    run_, entry = differences.whole_run(folder), find("slimming")
    method = run_.record.spec.method.model_copy(update={"name": "slimming"})
    for title, fine in (
        (entry.title, True), ("BN-scale (sparsity inactive)", True), ("HRank", False),
        (f"{entry.title}, Scratch-E", False), ("DepGraph (sparsity inactive)", False),
    ):  # fmt: skip
        for params in (entry.params(), {"of": "another version"}):
            own = method.model_copy(update={"params": params})
            spec = run_.record.spec.model_copy(update={"method": own})
            record = run_.record.model_copy(update={"spec": spec, "title": title})
            said = plausible.problem(replace(run_, record=record))
            known = fine and (title == entry.title or "of" not in params)
            assert said == ("" if known else f"slimming goes by another title: {title}")


def relocated(files: Files, run_id: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """The run with other settings, at the place and under the id that these have."""
    folder = place_of(files, run_id)
    record = json.loads(files[f"{folder}/record.json"])
    change(record["spec"])
    spec = verify.RunSpec.model_validate(record["spec"])
    files[f"{folder}/record.json"] = json.dumps(record | {"run_id": spec.run_id}).encode()
    home = "trials/runs" if spec.is_trial else "runs"
    for name in [n for n in files if n.startswith(folder)]:
        files[name.replace(folder, f"{home}/{spec.folder}")] = files.pop(name)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("l1norm", lambda s: s.update(result="kernels"), "l1norm leaves channels, not kernels"),
        ("exp", lambda s: s.update(result="dynamic"), "exp leaves kernels, not dynamic"),
        ("l1norm", lambda s: s["data"].update(image_size=60_000), "has images of 60000 pixels"),
        ("tuned", lambda s: s["recovery"].update(lr=0.5), "its values are not those that trials"),
        ("tuned", lambda s: s.update(trials=4), "what its values were chosen from is not there"),
        ("tuned", lambda s: s.update(lane="default", trials=0, tuned=[]), "tuned by, and was not"),
        ("trial", lambda s: s["seeds"].update(run=7), "has no record"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_in_one_line(
    kind: str, change: Callable[[dict[str, Any]], Any], reason: str, made: Path, archive: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = without_manifest(archive)
    relocated(files, ids(made)[kind], change)
    said = refused(capsys, verify.main, packed(tmp_path / "bad.tar.gz", files), "--no-rerun")
    assert reason in said


def test_trials_that_no_row_rests_on_are_refused(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, name = without_manifest(archive), ids(made)["trial"]
    more = dict(files)
    relocated(more, name, lambda s: s["seeds"].update(run=7))
    said = refused(capsys, verify.main, packed(tmp_path / "bad.tar.gz", files | more), "--no-rerun")
    assert re.search(r"trial [0-9a-f]{12} belongs to no run", said)


def test_masks_are_compared_and_not_their_digest_alone(made: Path, archive: Path) -> None:
    folder = place_of(dict(read_archive(archive).files), ids(made)["exp"])
    one = differences.whole_run(made / folder)
    other = replace(one, masks={n: mask.clone() for n, mask in one.masks.items()})
    assert differences.differences(one, other) == []
    next(iter(other.masks.values()))[0, 0] ^= True
    (found,) = differences.differences(one, other)
    assert found.field == "plan.json"
    assert found.one != found.other
    less = replace(one, masks={})
    assert [d.other for d in differences.differences(one, less)] == ["0 kernels kept"]


def test_trials_and_runs_have_places_of_their_own(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, here, there in (("trial", "trials/runs/", "runs/"), ("exp", "runs/", "trials/runs/")):
        files = without_manifest(archive)
        folder = place_of(files, ids(made)[kind])
        for name in [n for n in files if n.startswith(folder)]:
            files[name.replace(here, there, 1)] = files.pop(name)
        said = refused(capsys, verify.main, packed(tmp_path / "bad.tar.gz", files), "--no-rerun")
        assert f"its record belongs to {folder}" in said


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("l1norm", lambda r: r["final"].update(val_top1=0.999), "final.val_top1 is 0.999"),
        ("exp", lambda r: r["dense"]["accuracy"].update(test_top1=0.1234),
         "dense.accuracy.test_top1 is 0.1234"),
        ("trial", lambda r: r["final"].update(test_top1=0.999), "final.test_top1 is 0.999"),
        ("trial", lambda r: r.update(predictions_order="0" * 16), "its predictions are in another"),
    ],
)  # fmt: skip
def test_every_accuracy_is_counted_again_whatever_is_drawn(
    kind: str, change: Callable[[dict[str, Any]], Any], reason: str, made: Path, archive: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files, name = without_manifest(archive), ids(made)[kind]
    edit(files, f"{place_of(files, name)}/record.json", change)
    path = packed(tmp_path / "bad.tar.gz", files)
    assert run(verify.main, path, "--cell", ids(made)["loss"]) == FAILED
    said = capsys.readouterr().out
    assert f"run {name}: {reason}" in said
    assert f"refused: run {name} did not come out again" in said


def test_a_contradiction_speaks_for_its_own_code(
    made: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, name = without_manifest(archive), ids(made)["from_file"]
    place = f"{place_of(files, name)}/record.json"
    edit(files, place, lambda r: r["final"].update(test_top1=0.999))
    path, into = packed(tmp_path / "bad.tar.gz", files), tmp_path / "board"
    assert run(verify.main, path, "--no-rerun", "--into", into) == DONE
    assert run(verify.main, path, "--cell", ids(made)["loss"], "--into", into) == FAILED
    (mark,) = origin.read_marks(into)
    assert mark.state(mark.runs[name].code) == "not reproduced"
    assert mark.state(mark.runs[ids(made)["loss"]].code) == "self-reported"


def test_members_of_an_archive_say_nothing_else(archive: Path) -> None:
    """Names of machines stand in records alone."""
    starts = ("runs/", "trials/runs/", "trials/chosen/", "pruned-by/", "submission.json")
    assert all(name.startswith(starts) for name in members(archive))


# ---- united --------------------------------------------------------------------------------------


@pytest.fixture
def halves(made: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """The same results on two machines, neither of which has all of it, and an empty place."""
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(made, one, ignore=shutil.ignore_patterns("exp", "from_file", "imported-*"))
    shutil.copytree(made, two, ignore=shutil.ignore_patterns("fbs", "hrank"))
    return one, two, tmp_path / "all"


def test_what_rows_rest_on_is_united_with_them(
    made: Path, archive: Path, halves: tuple[Path, Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    one, two, out = halves
    shutil.rmtree(next((one / "trials/runs").glob("*/*/*/*")))
    shutil.rmtree(one / "trials/chosen")
    assert run(merge.main, one, two, "--results", out, "--dry-run") == DONE
    beside = "8 runs, 3 trials, 1 tuning choice, 1 imported choice"
    assert f"{out}: {beside} would be copied" in capsys.readouterr().out
    assert not out.exists()
    assert run(merge.main, one, two, "--results", out) == DONE
    assert f"{out}: {beside} copied; " in capsys.readouterr().out
    path = tmp_path / "united.tar.gz"
    assert run(submit.main, out, "--out", path, "--by", "Jo") == DONE
    assert path.read_bytes() == archive.read_bytes()
    capsys.readouterr()
    assert run(merge.main, one, two, "--results", out) == DONE
    assert f"{out}: 0 runs copied; " in capsys.readouterr().out


def test_trials_alone_are_united_too(made: Path, tmp_path: Path) -> None:
    one, out = tmp_path / "one", tmp_path / "all"
    shutil.copytree(made / "trials", one / "trials")
    assert run(merge.main, one, "--results", out) == DONE
    assert run(merge.main, one / "trials", "--results", tmp_path / "apart") == DONE
    for place in (out / "trials", tmp_path / "apart"):
        assert len(Store(place).records()) == 3
        assert len(list(place.glob("chosen/*/*/*/*.json"))) == 1


def choice_in(root: Path) -> Path:
    (path,) = (root / "trials" / chosen.CHOSEN).glob("*/*/*/*.json")
    return path


def changed(path: Path, **what: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | what))


def test_choices_that_differ_are_listed_and_ours_is_kept(
    halves: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = halves
    changed(choice_in(two), seconds=1.0)  # of another machine
    assert run(merge.main, one, two, "--results", out) == DONE
    kept = choice_in(out).read_bytes()
    assert kept == choice_in(one).read_bytes()
    changed(choice_in(two), images=1)
    capsys.readouterr()
    assert run(merge.main, two, "--results", out) == FAILED
    said = capsys.readouterr().out
    assert f"conflict: {choice_in(two)}: other content than {choice_in(out)}; kept: " in said
    assert "; 1 conflict" in said
    assert choice_in(out).read_bytes() == kept
    choice_in(two).write_text("{")
    assert run(merge.main, two, "--results", out) == FAILED
    assert f"not merged: {choice_in(two)}" in capsys.readouterr().out


def test_a_choice_is_not_copied_where_its_trials_are_others(
    halves: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, out = halves
    record = next(p for p in Store(one / "trials").record_paths())
    content = json.loads(record.read_text())
    changed(record, final=content["final"] | {"val_top1": 0.5})
    choice_in(one).unlink()
    assert run(merge.main, one, two, "--results", out) == FAILED
    said = capsys.readouterr().out
    assert f"not merged, for its trial {record.parent.name} is another here: give the com" in said
    assert not list(out.glob("trials/chosen/*/*/*/*"))


def test_what_a_file_said_is_not_thrown_away_where_it_was_damaged(
    halves: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, two, out = halves
    (stage,) = two.glob("stages/imported-*")
    (stage / "facts.json").write_text("{")
    assert run(merge.main, two, "--results", out) == FAILED
    assert f"not merged: {stage} is damaged" in capsys.readouterr().out
    assert (stage / "facts.json").read_text() == "{"
    assert len(Store(out).records()) == 6
