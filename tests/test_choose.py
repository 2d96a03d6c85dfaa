"""What a method would keep by its paper's recipe, beside what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_execute import go, make_spec

from benchmark import choose
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.spec import RunSpec
from benchmark.store import Store
from methods import find

BY = "whitebox:official"


def short(*_: object) -> dict[str, Any]:
    """A recipe of its kind that tiny images can pay for."""
    return {
        "start": "random",
        "allocation": "global",
        "minimum_width": 0.3,
        "params": {"mask_epochs": 1.0, "at": "conv"},
        "recovery": {"epochs": 3, "lr": 0.1, "batch_size": 16, "nesterov": False},
    }


def command(root: Path, *words: str) -> int:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "read_data", lambda *_: tiny.data())
        code = invoke(choose.main, [*words, "--results", str(root)])
    torch.set_num_threads(threads)
    return code


def facts_of(root: Path, spec: RunSpec) -> list[dict[str, Any]]:
    return Store(root).measurements(spec, choose.KIND)


def test_chance_by_hand() -> None:
    """Of 4 + 2 units, 4 * 2/8 and 2 * 4/4 are shared by chance."""
    assert choose.by_chance({"a": 4, "b": 2}, {"a": 2}, {"a": 8, "b": 4}) == pytest.approx(3 / 6)
    assert choose.by_chance({}, {}, {}) == 1.0


def test_it_chooses_what_a_run_by_that_recipe_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "recipe_of", short)
    own = make_spec("whitebox", allocation="uniform")  # another number of units
    record = go(own, tmp_path)
    words = (own.run_id, "--by", BY, "--recipe", "resnet56")
    assert command(tmp_path, *words) == DONE
    (facts,) = facts_of(tmp_path, own)

    other = choose.spec_of(own, find(BY), "resnet56").model_copy(update={"track": "paper"})
    assert (other.allocation, other.min_width, other.budget_epochs) == ("global", 0.3, 3)
    assert (other.recovery.batch_size, other.start.kind) == (16, "random")
    assert other.method.params == own.method.params | find(BY).params() | short()["params"]
    run = go(other, tmp_path / "other")
    plan = json.loads((Store(tmp_path / "other").run_folder(other) / "plan.json").read_text())
    assert facts["keep"] == plan["keep"]
    assert facts["reached"] == run.flops_reduction
    assert facts["leakage"] == run.method_facts["leakage"]
    assert facts["gradient_images"] == tiny.TRAIN  # masks alone: nothing is trained afterwards

    kept = json.loads((Store(tmp_path).run_folder(own) / "plan.json").read_text())["keep"]
    both = sum(len(set(kept[g]) & set(facts["keep"][g])) for g in kept)
    assert sum(map(len, kept.values())) != sum(map(len, facts["keep"].values()))
    assert facts["overlap"] == both / sum(map(len, kept.values()))
    assert Store(tmp_path).read(own) == record
    assert "accuracy" not in facts

    assert f"{BY} keeps" in capsys.readouterr().out
    assert command(tmp_path, *words) == DONE
    assert "is there already" in capsys.readouterr().out
    assert facts_of(tmp_path, own) == [facts]


KEEPS_ALL = {"flops_reduction": 0.0, "allocation": "none"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that chooses channels and one that keeps all."""
    root = tmp_path_factory.mktemp("results")
    go(make_spec("l1norm"), root)
    go(make_spec("dense_continue", **KEEPS_ALL), root)
    return root


@pytest.mark.parametrize(
    ("run", "by", "recipe", "said"),
    [
        ("l1norm", BY, "", "has no recipe resnet8: pass --recipe, one of resnet56"),
        ("l1norm", "hrank", "resnet56", "starts from a trained network: give it a row"),
        ("l1norm", "slimming", "densenet40", "the source selects which inputs"),
        ("l1norm", "whitebx", "resnet56", "did you mean whitebox"),
        ("dense_continue", BY, "resnet56", "makes no single choice of channels"),
    ],
)
def test_bad_input(
    run: str, by: str, recipe: str, said: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(run, **(KEEPS_ALL if run == "dense_continue" else {}))
    words = [spec.run_id, "--by", by, *(["--recipe", recipe] if recipe else [])]
    assert command(results, *words) == BAD_INPUT
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1
    assert not facts_of(results, spec)
