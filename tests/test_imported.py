"""Prune by what other code says: files, what is refused, and the runs that come out."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import archs, choices, conformance, imported, reproduce, run, tune
from benchmark.checkpoint import Moment, part
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.context import Context
from benchmark.data import Data
from benchmark.errors import BadInput, NoProbe
from benchmark.execute import run_one
from benchmark.options import Options, options_from
from benchmark.planning import scores_key
from benchmark.record import RunRecord
from benchmark.store import Store
from benchmark.sweep import Cell, expand, find_methods
from benchmark.tasks import command_of
from benchmark.trial import Bench
from methods import Entry, build, find
from methods.api import Budget, Plan, Unsupported
from methods.from_file import FromFile
from methods.l1norm import L1Norm

BASE: dict[str, Any] = {
    "arch": "resnet8", "dataset": "digits", "preset": "demo", "controls": False, "epochs": 1.0,
    "set": {"baseline.epochs": 2.0},
}  # fmt: skip
GROUPS = ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]  # 16, 32 and 64 channels
HALF = {"kept": {"layer2.0.conv1": list(range(0, 32, 2)), "layer3.0.conv1": list(range(32))}}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def planned(results: Path, file: Path, **words: Any) -> tuple[Options, list[str]]:
    """The options of a grid that prunes by the file, and remarks on it."""
    own = {"set": BASE["set"] | {"from_file.path": str(file)} | words.pop("set", {})}
    options = options_from(BASE | {"methods": ["from-file"], "results": results} | own | words)
    return imported.with_imported(options, find_methods(options.methods), tiny.data().identity)


def cells_of(results: Path, file: Path, **words: Any) -> list[Cell]:
    return expand(planned(results, file, **words)[0], tiny.data())


def go(cell: Cell, results: Path) -> RunRecord:
    return run_one(cell.spec, cell.entry, Context(Store(results), tiny.data()))


def finals(record: RunRecord) -> tuple[Any, ...]:
    return record.plan, record.weights, record.final, record.recalibrated, record.before_recovery


# ---- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of l1norm."""
    root = tmp_path_factory.mktemp("results")
    options = options_from(BASE | {"methods": ["l1norm"], "results": root})
    (cell,) = expand(options, tiny.data())
    go(cell, root)
    return root


def reference(results: Path) -> RunRecord:
    return next(r for r in Store(results).records() if r.spec.method.name == "l1norm")


def test_the_scores_of_l1norm_give_its_plan_and_its_weights(results: Path, tmp_path: Path) -> None:
    record = reference(results)
    method = build(find("l1norm"), record.spec.method.params)
    stage = Store(results).stage("scores", scores_key(record.spec, method.prepares))
    assert stage is not None
    scores = part(Moment(stage.tensors, stage.facts), "found").tensors
    assert scores.keys() == set(GROUPS)
    content = {"scores": {n: s.tolist() for n, s in scores.items()}, "name": "other code"}
    (cell,) = cells_of(results, written(tmp_path / "scores.json", content))
    found = go(cell, results)
    assert finals(found) == finals(record)
    assert found.title == "other code (scores from a file)"
    assert not found.control
    assert found.selection is not None  # judged against its inverse and draws, like any score
    assert record.selection is not None
    assert found.selection.inverse == record.selection.inverse
    np.savez(tmp_path / "scores.npz", name="other code",  # another format, the same run
             **{f"scores/{n}": s.numpy() for n, s in scores.items()})  # fmt: skip
    (again,) = cells_of(results, tmp_path / "scores.npz")
    assert again.spec.run_id == cell.spec.run_id


def test_the_kept_channels_of_a_run_give_its_accuracy_to_the_bit(
    results: Path, tmp_path: Path
) -> None:
    record = reference(results)
    plan = Store(results).run_folder(record.spec) / "plan.json"
    (cell,) = cells_of(results, plan)
    assert cell.spec.flops_reduction == round(record.flops_reduction, 4)
    assert finals(go(cell, results)) == finals(record)
    (nominal,) = cells_of(results, plan, flops_reduction=[0.503])  # near: for one table
    assert nominal.spec.flops_reduction == 0.503
    kept = json.loads(plan.read_text())["keep"]
    (one,) = cells_of(results, written(tmp_path / "k.json", {"kept": kept}))
    back = {group: units[::-1] for group, units in kept.items()}
    (other,) = cells_of(results, written(tmp_path / "r.json", {"kept": back}))
    assert one.spec.run_id == other.spec.run_id == cell.spec.run_id
    shifted = {g: [(u + 1) % record.dense_widths[g] for u in units] for g, units in kept.items()}
    (third,) = cells_of(results, written(tmp_path / "o.json", {"kept": shifted}))
    assert third.spec.flops_reduction == cell.spec.flops_reduction
    assert third.spec.run_id != cell.spec.run_id
    assert go(third, results).plan != record.plan


def test_widths_keep_the_largest_norms(results: Path, tmp_path: Path) -> None:
    record = reference(results)
    content = {"widths": record.widths}
    (cell,) = cells_of(results, written(tmp_path / "w.json", content))
    found = go(cell, results)
    assert finals(found) == finals(record)
    assert found.selection is not None  # the channels that their norms chose


def test_the_target_of_the_file_is_that_of_all_rows(results: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "half.json", HALF)
    cells = cells_of(results, file, methods=["from_file", "l1norm", "random"])
    assert len({c.spec.flops_reduction for c in cells}) == 1
    assert 0.2 < cells[0].spec.flops_reduction < 0.5
    _, remarks = planned(results, file, seeds=[0, 1])
    assert "kept for 2 groups" in remarks[0]
    assert "one file for 2 seeds" in remarks[1]
    assert len(planned(results, file)[1]) == 1
    from_one = {"seeds": [0, 1], "checkpoint": tmp_path / "net.pt"}
    assert len(planned(results, file, **from_one)[1]) == 1
    assert "one file for 2 seeds" in planned(results, file, **from_one, adapt_epochs=1.0)[1][1]


def test_scores_obey_every_target_and_the_scale_that_is_said(tmp_path: Path) -> None:
    scores = {GROUPS[0]: [float(i) for i in range(16)], GROUPS[1]: [1.0 + i for i in range(32)],
              GROUPS[2]: [100.0 + i for i in range(64)]}  # fmt: skip
    file = written(tmp_path / "s.json", {"scores": scores})
    words: dict[str, Any] = {"flops_reduction": [0.3, 0.5], "allocation": "global"}
    cells = cells_of(tmp_path, file, **words)
    assert [c.spec.flops_reduction for c in cells] == [0.3, 0.5]
    (key,) = {scores_key(c.spec, False) for c in cells}  # scored once
    assert key
    raw = cells_of(tmp_path, file, set={"from_file.one_scale": True}, **words)
    assert {c.spec.run_id for c in raw}.isdisjoint({c.spec.run_id for c in cells})
    net, trainer = tiny.network("vgg"), tiny.trainer()
    made = {n: torch.arange(len(net.weight(n))) + 1.0 for n in net.layers}
    made[net.layers[-1]] *= 100
    trainer.imported = {"scores-x": made}
    budget = Budget(0.3, 0.1, "global")
    one, other = (FromFile("scores-x", one_scale=s).prune(net, budget, trainer) for s in (0, 1))
    assert other.widths()[net.groups[-1].name] == net.groups[-1].width  # all of it is on top
    assert one.widths()[net.groups[-1].name] < net.groups[-1].width


def test_neither_place_nor_name_of_the_file_is_part_of_the_run(tmp_path: Path) -> None:
    file = written(tmp_path / "secret-place.json", HALF)
    options, _ = planned(tmp_path / "r", file)
    (cell,) = expand(options, tiny.data())
    assert "secret-place" not in cell.spec.model_dump_json() + options.model_dump_json()
    assert "secret-place" not in command_of(cell, options, "from_file")
    assert cell.spec.method.params["content"].startswith("kept-")
    moved = file.rename(tmp_path / "elsewhere.json")
    (again,) = cells_of(tmp_path / "r", moved)
    assert again.spec.run_id == cell.spec.run_id
    moved.unlink()  # what was read is kept beside the results
    content = {"from_file.content": cell.spec.method.params["content"]}
    options = options_from(BASE | {"methods": ["from_file"], "results": tmp_path / "r"})
    options.set |= content
    options, _ = imported.with_imported(options, [find("from_file")], tiny.data().identity)
    (kept,) = expand(options, tiny.data())
    assert kept.spec.run_id == cell.spec.run_id
    assert go(kept, tmp_path / "r").widths["layer2.0.conv1"] == 16


def test_a_layer_names_its_group_and_units_may_be_several_channels() -> None:
    net = tiny.network(scope="all")
    coupled = next(g for g in net.groups if len(g.layers) > 1)
    kept = torch.tensor([0, 2, 5])
    trainer = tiny.trainer(imported={"kept-x": {coupled.layers[-1]: kept}})
    plan = FromFile("kept-x").prune(net, Budget(0.1), trainer)
    assert plan == Plan({coupled.name: (0, 2, 5)})


def test_widths_of_the_method_are_those_of_l1norm() -> None:
    for kind in ("resnet", "vgg"):
        net = tiny.network(kind, scope="all")  # type: ignore[arg-type]
        plan = L1Norm().prune(net, Budget(0.4), tiny.trainer())
        widths = {g: torch.tensor(w) for g, w in plan.widths().items()}
        trainer = tiny.trainer(imported={"widths-x": widths})
        assert FromFile("widths-x").prune(net, Budget(0.4), trainer) == plan


@pytest.mark.parametrize("kind", ["scores", "kept", "widths"])
def test_it_keeps_the_promises_of_a_method(kind: str, tiny_data: Data) -> None:
    """But for those about what scores depend on: a file depends on nothing."""
    net = tiny.network()
    norms = {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}
    plan = net.rank(norms, Budget(0.5))
    values = {
        "scores": norms,
        "kept": {g: torch.tensor(k) for g, k in plan.keep.items()},
        "widths": {g: torch.tensor(w) for g, w in plan.widths().items()},
    }[kind]
    card = {"card": {"title": "x"}, "variant": {"x": {"params": {"content": f"{kind}-x"}}}}
    entry = Entry("from_file", "x", FromFile, card, "")
    read = {f"{kind}-x": values}
    bench = Bench(
        lambda seed: tiny.network(seed=seed),
        lambda seed: tiny.trainer(seed, imported=read),
        tiny_data.test,
    )
    apart = {"permuted_channels_permute_the_kept_set", "networks_give_different_scores"}
    for found in conformance.check(entry, bench):
        if found.check not in apart:
            has_scores = kind == "scores" or "scores" not in found.check
            assert found.status == ("kept" if has_scores else "n/a"), found


def test_without_a_file_it_says_what_it_needs() -> None:
    with pytest.raises(Unsupported, match=r"--set from_file\.path=FILE"):
        FromFile().prune(tiny.network(), Budget(0.5), tiny.trainer())


def test_all_stands_for_methods_that_need_no_file() -> None:
    assert "from_file" not in {e.name for e in find_methods(["all"])}
    assert find("from-file") == find("from_file")


# ---- what is refused -----------------------------------------------------------------------------

SCORES = {g: [1.0] * w for g, w in zip(GROUPS, (16, 32, 64), strict=True)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], ["f.json cannot be pruned by", "as JSON"]),
        ({}, ["has none", "is needed"]),
        ({"kept": {}}, ["has none"]),
        ({"kept": HALF["kept"], "widths": {GROUPS[0]: 8}}, ["widths and kept"]),
        ({"kep": {}}, ["has 'kep'"]),
        ({"kept": [1]}, ["by layer or group"]),
        ({"kept": {GROUPS[0]: 8}}, ["list of numbers from 0 on"]),
        ({"kept": {GROUPS[0]: [0, -1]}}, ["list of numbers from 0 on"]),
        ({"kept": {GROUPS[0]: [0, True]}}, ["list of numbers from 0 on"]),
        ({"kept": {GROUPS[0]: []}}, [f"{GROUPS[0]} keeps no channel"]),
        ({"kept": {GROUPS[0]: [3, 1, 3]}}, ["keeps channel 3 twice"]),
        ({"kept": {GROUPS[0]: list(range(8, 17))}}, ["channel 16 is beyond its 16 channels"]),
        ({"kept": {"layer1.0.convx": [0, 1]}}, ["no layer or group 'layer1.0.convx'", GROUPS[0]]),
        ({"kept": {"layer1.0.conv2": [0, 1]}}, ["loses channels with --scope all only"]),
        ({"kept": {"fc": [0, 1]}}, ["fc of resnet8 keeps all its channels", "output"]),
        ({"kept": {GROUPS[0]: [3]}, "name": "x" * 81}, ["80 letters at most"]),
        ({"kept": {GROUPS[2]: [1, 2]}}, ["keeps 2 of 64 channels", "is 6", "--min-width"]),
        ({"kept": {GROUPS[0]: list(range(16))}}, ["remove nothing from resnet8"]),
        ({"kept": {GROUPS[0]: [1, 2**70]}}, ["there are none"]),
        ({"widths": {GROUPS[0]: 2**70}}, ["number of channels from 1 on"]),
        ({"scores": {GROUPS[0]: [10**400]}}, ["not finite, or too large"]),
        ({"widths": {GROUPS[0]: 0}}, ["number of channels from 1 on"]),
        ({"widths": {GROUPS[0]: 8.0}}, ["number of channels from 1 on"]),
        ({"widths": {GROUPS[0]: 17}}, ["a width of 17 is beyond its 16 channels"]),
        ({"scores": {GROUPS[0]: "high"}}, ["must be a list of numbers"]),
        ({"scores": {GROUPS[0]: [1, None]}}, ["must be a list of numbers"]),
        ({"scores": {GROUPS[0]: []}}, ["must be a list of numbers"]),
        ({"scores": SCORES | {GROUPS[1]: [1.0] * 31}}, ["31 numbers for 32 channels"]),
        ({"scores": {GROUPS[0]: [1.0] * 16}}, [f"no scores for {GROUPS[1]} and 1 more", "inner"]),
        ({"scores": SCORES | {"bn": [1.0]}}, ["resnet8 has no layer 'bn'"]),
    ],
)
def test_mistakes_in_a_file_are_one_line(content: Any, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        planned(tmp_path, written(tmp_path / "f.json", content))
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"no json", ["f.json cannot be pruned by"]),
        (b"\xff\xfe", ["f.json cannot be pruned by"]),
        (b'{"scores": {"a": [NaN]}}', ["not finite"]),
        (b'{"kept": {"a": [1], "a": [2]}}', ["'a' is there twice"]),
        (b'{"kept": {"a": [1]}, "kept": {"a": [2]}}', ["'kept' is there twice"]),
        (b"PK\x03\x04 and nothing more", ["f.json cannot be pruned by"]),
    ],
)
def test_files_that_are_none_are_one_line(raw: bytes, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(raw)
    with pytest.raises(BadInput) as caught:
        choices.read(path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_arrays_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    for name, array, words in (
        ("scores/a", np.array([1.0, np.nan]), "scores of a are not finite"),
        ("scores/a", np.ones((2, 2)), "list of numbers"),
        ("kept/a", np.array([{}], dtype=object), "cannot be pruned by"),  # pickled: not opened
        ("a", np.ones(3), "has 'a'"),
        ("kept", np.ones(3), "by layer or group"),
    ):
        np.savez(path, **{name: array})
        with pytest.raises(BadInput, match=words):
            choices.read(path)
    for place in ("nowhere.npz", "."):
        with pytest.raises(BadInput):
            choices.read(tmp_path / place)


@settings(max_examples=50, deadline=None)
@given(raw=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_whatever_the_bytes_are_it_is_one_line(raw: bytes) -> None:
    for start in (b"", b"PK\x03\x04", b'{"kept": '):
        said = ""
        try:
            choices.parse(start + raw, "file")
        except BadInput as error:
            said = str(error)
        assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("", "from_file prunes by a file: give it by --set from_file.path=FILE"),
        ("--set from_file.path=nowhere.json", "nowhere.json does not exist"),
        ("--set from_file.content=kept-0123456789abcdef", "is not among what was read"),
        ("--set from_file.path=HALF --set from_file.content=kept-0", "both name a choice"),
        ("--set from_file.path=HALF --flops-reduction 0.7", "of the FLOPs of resnet8; leave the"),
        ("--set from_file.path=HALF --set from_file.nam=x", "unknown parameter of from_file 'nam'"),
    ],
)
def test_mistakes_of_the_command_are_one_line_and_exit_code_2(
    words: str, match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "half.json", HALF)
    said = shlex.split(words.replace("HALF", str(file)))
    grid = ["--methods", "from-file", "--arch", "resnet8", "--dataset", "digits"]
    assert invoke(run.main, [*grid, *said, "--results", str(tmp_path / "r")]) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert match in lines[0]
    assert not list((tmp_path / "r").glob("runs"))


def test_round_to_is_for_scores_alone(tmp_path: Path) -> None:
    (cell,) = cells_of(tmp_path, written(tmp_path / "h.json", HALF), round_to=8)
    assert "--round-to" in cell.blocked
    file = written(tmp_path / "s.json", {"scores": SCORES})
    (cell,) = cells_of(tmp_path, file, round_to=8)
    assert not cell.blocked


@pytest.mark.parametrize("schedule", ["iterative:2", "layerwise"])
def test_what_a_file_says_is_no_choice_in_rounds(schedule: str, tmp_path: Path) -> None:
    file = written(tmp_path / "theirs.json", {"scores": SCORES})
    (cell,) = cells_of(tmp_path, file, schedule=[schedule])
    assert cell.status == "n/a"
    assert "a file speaks of the dense network, and each round chooses anew" in cell.blocked


def test_trials_prune_by_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "theirs.json", HALF)
    words = [
        "--methods", "from-file", "--set", f"from_file.path={file}", "--arch", "resnet8",
        "--dataset", "digits", "--results", str(tmp_path / "results"), "--dry-run",
    ]  # fmt: skip
    assert invoke(tune.main, words) == DONE
    assert "8 trials of each" in " ".join(capsys.readouterr().out.split())
    content = choices.read(file).content
    assert imported.kept(tmp_path / "results" / "trials") == [content]


@pytest.mark.slow
def test_the_command_line_runs_it_beside_a_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "half.json", HALF | {"name": "Theirs"})
    words = shlex.split(
        "--methods from-file,l1norm --arch resnet8 --dataset digits --preset demo --epochs 0.5 "
        "--set baseline.epochs=1 --no-controls --jobs 0"
    )
    root = ["--results", str(tmp_path / "r")]
    assert invoke(run.main, [*words, "--set", f"from-file.path={file}", *root]) == DONE
    out = capsys.readouterr().out
    assert "from_file: kept 'Theirs' for 2 groups" in out
    assert "2 of 2 cells done" in out
    assert "Theirs (kept from a file)" in out
    record = next(r for r in Store(tmp_path / "r").records() if r.spec.method.name == "from_file")
    assert 0.2 < record.spec.flops_reduction < 0.5
    again = [record.run_id, *root]
    assert invoke(reproduce.main, again) == DONE  # by what was kept
    for stage in (tmp_path / "r" / "stages").glob("imported-*"):
        shutil.rmtree(stage)
    capsys.readouterr()
    assert invoke(reproduce.main, again) == BAD_INPUT
    assert "pass --pruned-by FILE" in capsys.readouterr().err
    assert invoke(reproduce.main, [*again, "--pruned-by", str(file)]) == DONE
    assert "reproduced: equal to the bit" in capsys.readouterr().out


def test_a_run_is_made_again_by_what_it_pruned_by_alone(tmp_path: Path) -> None:
    file, store = written(tmp_path / "half.json", HALF), Store(tmp_path / "r")
    (cell,) = cells_of(tmp_path / "r", file)
    spec, entry = cell.spec, cell.entry
    found = imported.of_run(spec, entry, store, None)
    assert found is not None
    assert found.content == spec.method.params["content"]
    assert imported.of_run(spec, entry, Store(tmp_path / "other"), file) is not None
    with pytest.raises(BadInput, match=r"which is not in .* pass --pruned-by FILE"):
        imported.of_run(spec, entry, Store(tmp_path / "other"), None)
    other = written(tmp_path / "other.json", {"widths": {GROUPS[0]: 8}})
    with pytest.raises(BadInput, match=r"holds widths-\w+, the run pruned by kept-"):
        imported.of_run(spec, entry, store, other)
    with pytest.raises(BadInput, match="leave out --pruned-by"):
        imported.of_run(spec, find("l1norm"), store, file)
    assert imported.of_run(spec, find("l1norm"), store, None) is None


# ---- the page of the documentation ---------------------------------------------------------------


def test_the_commands_of_the_page_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On digits and a small network, with files of our own."""
    page = (Path(__file__).parents[1] / "docs/imported-results.md").read_text("utf-8")
    joined = page.replace("\\\n", " ")
    commands = re.findall(
        r"^    python -m benchmark\.(run|evaluate) ([^\n]+)", joined, re.MULTILINE
    )
    assert [verb for verb, _ in commands] == ["run", "evaluate"]
    monkeypatch.setattr("benchmark.listing.forecast", no_probe)
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "kept.json", HALF)
    torch.save(archs.build("resnet8", 10).state_dict(), tmp_path / "theirs.pt")
    shutil.copy(tmp_path / "theirs.pt", tmp_path / "pruned.pth")
    for verb, text in commands:
        words = [re.sub("resnet[0-9]+", "resnet8", w) for w in shlex.split(text)]
        words = ["digits" if w == "cifar10" else w for w in words]
        more = ["--dry-run"] if verb == "run" else ["--no-latency"]
        assert invoke(importlib.import_module(f"benchmark.{verb}").main, [*words, *more]) == DONE
    assert list((tmp_path / "results/imported").rglob("*.json"))


def no_probe(*_: object) -> None:
    raise NoProbe
