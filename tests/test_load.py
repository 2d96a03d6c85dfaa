"""Runs, plans and checkpoints of strangers: found, loaded, or refused in one clear line."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
from torch import Tensor

from benchmark import reproduce, save
from benchmark.archs import build
from benchmark.cli import BAD_INPUT, invoke
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.kept import rebuild
from benchmark.load import find_run, load_pruned, run_id_of
from benchmark.record import RunRecord, parse_json, parse_plan, read_plan, read_record
from benchmark.spec import Start
from benchmark.store import Stage, Store
from benchmark.weights import load_weights, read_checkpoint

V1 = Path(__file__).parent / "records" / "v1"
State = dict[str, Tensor]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One finished run with its weights, and what two seeds of another method left."""
    root = tmp_path / "results"
    content = json.loads((V1 / "record.json").read_text())
    record, plan = read_record(V1 / "record.json"), read_plan(V1 / "plan.json")
    state = rebuild(record.spec, plan).state_dict()
    folder = root / "runs" / record.spec.folder
    folder.mkdir(parents=True)
    shutil.copy(V1 / "plan.json", folder)
    content["weights"] = weights_digest(state)
    (folder / "record.json").write_text(json.dumps(content))
    Store(root).publish_stage("final", record.run_id, Stage(dict(state), {}))
    for seed in (0, 1):
        synthetic.write(Store(root), synthetic.record(synthetic.spec("hrank", seed)))
    return root


def the_run(results: Path) -> tuple[RunRecord, Path]:
    (path,) = results.glob("runs/digits/*/*/*/record.json")
    return read_record(path), path.parent


# ---- saving its network --------------------------------------------------------------------------


def test_a_saved_network_is_that_of_the_run(results: Path, tmp_path: Path) -> None:
    record, _ = the_run(results)
    file = tmp_path / "net.safetensors"
    assert invoke(save.main, [record.run_id, str(file), "--results", str(results)]) == 0
    tensors = read_checkpoint(file)
    assert weights_digest(tensors) == record.weights
    own = load_pruned(record.run_id, results).state_dict()
    assert all(torch.equal(tensors[name], own[name]) for name in own)
    again = tmp_path / "again.safetensors"
    assert invoke(save.main, [record.run_id, str(again), "--results", str(results)]) == 0
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("run", "name", "said"),
    [
        ("{run}", "net.pt", "give a .safetensors file"),
        ("0123", "net.safetensors", "no run under"),
        ("{run}", "net.safetensors", "benchmark.reproduce"),  # its weights are gone
    ],
)
def test_what_cannot_be_saved_is_answered_in_one_line(
    run: str, name: str, said: str, results: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    record, _ = the_run(results)
    shutil.rmtree(results / "stages")
    words = [run.format(run=record.run_id), str(tmp_path / name), "--results", str(results)]
    assert invoke(save.main, words) == BAD_INPUT
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1
    assert not (tmp_path / name).exists()


# ---- finding a run -------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_by_the_beginning_of_it_and_by_its_folder(results: Path) -> None:
    record, folder = the_run(results)
    for run in (record.run_id, record.run_id[:4], str(folder), folder):
        assert find_run(run, results) == folder


def test_a_run_that_is_not_there_or_not_unique_is_said(results: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no run under .*/runs matches 'feedfeed'"):
        find_run("feedfeed", results)
    with pytest.raises(BadInput, match="no run under"):
        find_run("feedfeed", tmp_path / "nowhere")
    record, folder = the_run(results)
    shutil.copytree(folder, results / "runs" / "elsewhere" / "net" / "l1norm" / record.run_id)
    with pytest.raises(BadInput, match=r"2 runs match '2806': digits/.*, elsewhere/.*more digits"):
        find_run("2806", results)


ODD_RUNS = [
    "", " ", ".", "..", "*", "????????", "[0-9a-f]*", "abc", "0123456789abc", "2806191BA040",
    "../../etc/passwd", "/etc/passwd", "2806\n", "2806/..", "2806*", "a\0b", "x" * 5000, "0x2806",
    None, 2806, b"2806191ba040", Path(), Path("nowhere"), ["2806"],
]  # fmt: skip


@pytest.mark.parametrize("run", ODD_RUNS, ids=lambda r: repr(r)[:20])
def test_what_is_no_run_id_is_answered_in_one_line(run: Any, results: Path) -> None:
    for call in (lambda: load_pruned(run, results), lambda: find_run(run, results)):
        with pytest.raises(BadInput, match="neither the folder of a run nor a run id") as caught:
            call()
        assert str(caught.value).isprintable()
    with pytest.raises(BadInput):
        run_id_of(run)


# ---- loading it ----------------------------------------------------------------------------------


def test_a_run_is_loaded_wherever_its_folder_and_its_weights_are(
    results: Path, tmp_path: Path
) -> None:
    record, folder = the_run(results)
    model = load_pruned(record.run_id[:6], results)
    assert weights_digest(model.state_dict()) == record.weights
    assert not model.training
    assert weights_digest(load_pruned(folder).state_dict()) == record.weights
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert weights_digest(load_pruned(moved, results).state_dict()) == record.weights


def spoilt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [spoilt, gone])
@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json"])
def test_damaged_weights_are_as_good_as_none(
    name: str, damage: Callable[[Path], None], results: Path
) -> None:
    record, _ = the_run(results)
    (path,) = results.glob(f"stages/final-*/{name}")
    damage(path)
    with pytest.raises(BadInput, match=r"make them again with: python -m benchmark\.reproduce"):
        load_pruned(record.run_id, results)


@pytest.mark.parametrize(
    ("command", "start", "flags"),
    [
        ("python -m benchmark.run --arch net20", "", ""),
        (
            "python -m benchmark.run --data-dir DIR --checkpoint 'my net.th'", "abc",
            "--data-dir IMAGES --checkpoint 'my net.th' ",
        ),
        ("no 'end", "abc", "--checkpoint FILE "),
    ],
)  # fmt: skip
def test_the_command_that_makes_weights_again_has_every_flag(
    command: str, start: str, flags: str, tmp_path: Path
) -> None:
    """Every word of it is one that `benchmark.reproduce` takes."""
    kind: dict[str, Any] = {"start": Start(kind="checkpoint", checkpoint=start), "baseline": None}
    spec = synthetic.spec(**(kind if start else {}))
    root = tmp_path / ("far" * 70)  # nothing of it is cut off
    synthetic.write(Store(root), synthetic.record(spec, command=command))
    with pytest.raises(BadInput) as caught:
        load_pruned(spec.run_id, root)
    whole = f"python -m benchmark.reproduce {spec.run_id} --results {root} {flags}--into DIR"
    assert f"make them again with: {whole}, and load them from DIR" in str(caught.value)
    taken = inspect.signature(reproduce.main).parameters
    assert {w[2:].replace("-", "_") for w in whole.split() if w.startswith("--")} <= set(taken)


def test_weights_of_another_network_are_not_taken_for_the_runs(results: Path) -> None:
    record, _ = the_run(results)
    state = build("resnet8", 10).state_dict()
    shutil.rmtree(results / "stages")
    Store(results).publish_stage("final", record.run_id, Stage(dict(state), {}))
    with pytest.raises(BadInput, match="make them again with"):
        load_pruned(record.run_id, results)


@pytest.mark.parametrize(
    ("keep", "match"),
    [
        ({"layer1.0.conv1": [0, 1]}, "do not fit: .*size mismatch"),
        ({"layer1.0.conv1": [99]}, "do not fit: .*units 0 to 15"),
        ({"layer9": [0]}, "do not fit: .*layer9"),
        ({"layer1.0.conv1": [2, 1]}, "not a pruning plan"),
        ({"layer1.0.conv1": []}, "not a pruning plan"),
        ({"layer1.0.conv1": [-1]}, "numbers from 0"),
        ({"layer1.0.conv1": [0.5]}, "numbers from 0"),
        ({"layer1.0.conv1": [True]}, "numbers from 0"),
        ({"layer1.0.conv1": "01"}, "numbers from 0"),
        ([], "not a pruning plan"),
        (None, "not a pruning plan"),
    ],
)
def test_a_plan_that_does_not_fit_is_said_in_one_line(keep: Any, match: str, results: Path) -> None:
    record, folder = the_run(results)
    (folder / "plan.json").write_text(json.dumps({"keep": keep}))
    with pytest.raises(BadInput, match=match) as caught:
        load_pruned(record.run_id, results)
    assert str(caught.value).isprintable()


def test_a_plan_without_a_file_or_a_group_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a pruning plan"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(BadInput, match=r"x is not a pruning plan: 'keep'"):
        parse_plan(b"{}", "x")


# ---- checkpoints ---------------------------------------------------------------------------------


def renamed(state: State) -> State:
    return {k.replace("fc.", "classifier."): v for k, v in state.items()}


@pytest.mark.parametrize("form", [dict, renamed])
@pytest.mark.parametrize("arch", ["resnet8", "vgg16"])
def test_a_checkpoint_for_another_number_of_classes_is_called_that(
    arch: str, form: Callable[[State], State]
) -> None:
    state = form(build(arch, 100).state_dict())
    with pytest.raises(BadInput) as caught:
        load_weights(build(arch, 10), state, "some.th")
    assert str(caught.value) == "checkpoint some.th has 100 classes, the data has 10"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fc.weight": torch.zeros(100, 32)}, "wrong shape: fc.weight is"),
        ({"fc.weight": torch.zeros(100, 64)}, r"checkpoint s has 100 classes, the data has 10"),
        ({"fc.weight": torch.tensor(1.0)}, "wrong shape: fc.weight is"),
        ({"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(8)}, "wrong shape: fc.bias is"),
        ({"fc.bias": torch.zeros(9)}, "wrong shape: fc.bias is"),
        ({"conv1.weight": torch.zeros(16, 3, 3, 3).int()}, "wrong type: conv1.weight is torch.int"),
        ({"linear.weight": torch.zeros(10, 64)}, "not used: linear.weight"),
    ],
)
def test_other_misfits_are_not_called_a_number_of_classes(change: State, match: str) -> None:
    model = build("resnet8", 10)
    before = weights_digest(model.state_dict())
    with pytest.raises(BadInput, match=match):
        load_weights(model, dict(model.state_dict()) | change, "s")
    assert weights_digest(model.state_dict()) == before


def test_strange_strides_do_not_change_the_digest_of_weights() -> None:
    """A file may hold a tensor of single elements with stride 0, which `contiguous` accepts."""
    plain = torch.tensor([[0.5], [1.5]])
    strange = torch.tensor([0.5, 1.5]).as_strided((2, 1), (1, 0))
    assert strange.is_contiguous()
    assert weights_digest({"w": strange}) == weights_digest({"w": plain})


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("[1e308, 1e-999, 0.5]", True),
        ('"a ± b"', True),
        ('"1e999 is a word"', True),
        ("[" * 63 + "1" + "]" * 63, True),
        ("[" * 64 + "1" + "]" * 64, False),
        ('{"a":' * 64 + "1" + "}" * 64, False),
        ("1e999", False),
        ("[-1.5E+999]", False),
        ("9" * 309, False),
        ("1" * 290 + "e20", False),
        ("[NaN]", False),
        ("-Infinity", False),
        (r'"\u0000"', False),
        (r'"\ud800"', False),
    ],
)
def test_the_quick_look_at_json_lets_nothing_through(text: str, is_plain: bool) -> None:
    """`parse_json` looks at every value only where the bytes give cause."""
    if is_plain:
        assert parse_json(text.encode()) == json.loads(text)
    else:
        with pytest.raises(ValueError, match=r"."):
            parse_json(text.encode())
