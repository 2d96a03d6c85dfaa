"""Choices at many targets without recovery: the figures of the run itself at its own target, to the
bit, and a table and figures from the measurement files alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
import tiny
import torch
from refusing import refused
from test_execute import go, make_spec

from benchmark import ladder, ladderplot, laddertable, looks, report
from benchmark.block import Block, blocks
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.columns import names
from benchmark.data import Data
from benchmark.differences import Run
from benchmark.laddertable import KIND, VERSION
from benchmark.options import options_from
from benchmark.reproduce import Job
from benchmark.spec import RunSpec
from benchmark.store import Store
from methods import find

OWN, FEW = 0.4, "0.1,0.4,0.97"  # target of the runs; targets of the ladders
SPECS = {
    "l1norm": make_spec("l1norm"),
    "l1norm+ls": make_spec("l1norm", reconstruct="ls"),
    "random": make_spec("random"),
    "whitebox": make_spec("whitebox"),
    "cpli": make_spec("cpli"),
}


def climb(root: Path, runs: Sequence[RunSpec | str], *words: str, data: Data | None = None) -> int:
    """Exit code of the command."""
    ids = [run if isinstance(run, str) else run.run_id for run in runs]
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "read_data", lambda *_: data or tiny.data())
        code = invoke(ladder.main, [*ids, "--results", str(root), *words])
    torch.set_num_threads(before)
    return code


def rows_of(root: Path, spec: RunSpec) -> dict[float, dict[str, Any]]:
    """By target."""
    (facts,) = Store(root).measurements(spec, KIND)
    return {row["target"]: row for row in facts["rows"]}


def stages(root: Path, kind: str) -> set[str]:
    return {path.name for path in (root / "stages").glob(f"{kind}-*")}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs and their ladders."""
    root = tmp_path_factory.mktemp("results")
    for spec in SPECS.values():
        go(spec, root)
    there = stages(root, "scores")
    assert climb(root, list(SPECS.values()), "--targets", FEW) == DONE
    assert stages(root, "scores") == there  # what was scored for the runs serves every target
    return root


@pytest.mark.parametrize("name", SPECS)
def test_at_the_target_of_the_run_the_figures_are_those_of_its_record(
    name: str, results: Path
) -> None:
    record, row = Store(results).read(SPECS[name]), rows_of(results, SPECS[name])[OWN]
    assert row["before"] == record.before_recovery.val_top1
    assert row["recalibrated"] == record.recalibrated.val_top1
    assert row["reduction"] == record.flops_reduction
    assert row["inverse"] == (record.selection.inverse if record.selection else None)
    assert row["reason"] == ""


def test_some_figure_tells_rows_and_targets_apart(results: Path) -> None:
    """Otherwise equality above would say little."""
    found = [rows_of(results, spec) for spec in SPECS.values()]
    assert len({rows[OWN]["recalibrated"] for rows in found}) > 2
    for rows in found:
        assert rows[0.1]["reduction"] < rows[OWN]["reduction"]
        assert rows[OWN]["before"] < rows[0.1]["recalibrated"]
    uninformed = rows_of(results, SPECS["random"])[OWN]
    assert uninformed["inverse"] is None


def test_a_target_out_of_reach_is_noted_with_the_reason(results: Path) -> None:
    for spec in SPECS.values():
        row = rows_of(results, spec)[0.97]
        assert "97.0 % is out of reach" in row["reason"]
        assert {row[n] for n in ("reduction", "before", "recalibrated", "inverse")} == {None}


def test_the_facts_name_the_run_and_its_images(results: Path) -> None:
    (facts,) = Store(results).measurements(SPECS["l1norm"], KIND)
    assert facts["run_id"] == SPECS["l1norm"].run_id
    assert (facts["kind"], facts["version"], facts["images"]) == (KIND, VERSION, tiny.VAL)
    assert facts["same_dense"]
    assert facts["hardware"]


def test_from_nothing_the_same_bytes_and_test_images_change_nothing(
    results: Path, tmp_path: Path
) -> None:
    data = tiny.data()
    turned = dataclasses.replace(data, test=data.test.select(torch.arange(tiny.TEST).flip(0)))
    for spec, found in ((SPECS["whitebox"], data), (SPECS["cpli"], turned)):
        go(spec, tmp_path)
        assert climb(tmp_path, [spec], "--targets", FEW, data=found) == DONE
        place = Path("runs") / spec.folder / "measurements"
        (path,) = (tmp_path / place).iterdir()
        assert path.read_bytes() == (results / place / path.name).read_bytes()


def test_runs_that_differ_in_their_target_share_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, less = make_spec(flops_reduction=0.6), make_spec(flops_reduction=0.3)
    for spec in (more, less):
        synthetic.write(Store(tmp_path), synthetic.record(spec))
    other = make_spec(flops_reduction=0.6, reconstruct="ls")
    synthetic.write(Store(tmp_path), synthetic.record(other))
    said = f"run {more.run_id}: its ladder is there already, beside run {less.run_id}"
    assert climb(tmp_path, [more, less], "--targets", "0.3") == DONE
    out = capsys.readouterr().out
    assert said in out
    assert "another kind of machine" in out  # the dense network of the invented record
    assert list(rows_of(tmp_path, less)) == [0.3]
    assert Store(tmp_path).measurements(more, KIND) == []
    assert climb(tmp_path, [more], "--targets", "0.3") == DONE
    assert said in capsys.readouterr().out
    assert Store(tmp_path).measurements(more, KIND) == []
    assert climb(tmp_path, [less], "--targets", "0.3") == DONE
    assert f"run {less.run_id}: its ladder is there already\n" in capsys.readouterr().out
    assert climb(tmp_path, [more], "--targets", "0.3,0.5") == DONE  # one is missing
    assert list(rows_of(tmp_path, more)) == [0.3, 0.5]


# ---- what is refused -----------------------------------------------------------------------------

UNFIT = (
    (make_spec("dense_continue", flops_reduction=0.0), "it keeps everything"),
    (make_spec("l1norm", schedule="iterative:2"), "its schedule is iterative:2"),
    (make_spec("exp"), "its result is kernels"),
    (
        make_spec("width_scaling", start={"kind": "random"}, baseline=None),
        "it starts from random weights",
    ),
    (make_spec("l1norm", lane="trial", tuned=("recovery.lr",)), "it is a trial"),
    (make_spec("l1norm", track="paper"), "the paper track has no validation images"),
    (
        make_spec(
            "l1norm", track="total", scratch={"kind": "scratch", "recipe": tiny.RECIPE}
        ),
        "its weights are new",
    ),
    (make_spec("l1norm", allocation="listed", rates=(0.5,)), "its widths do not follow"),
)  # fmt: skip


@pytest.mark.parametrize(("spec", "reason"), UNFIT, ids=[reason for _, reason in UNFIT])
def test_what_can_have_no_ladder(spec: RunSpec, reason: str, tmp_path: Path) -> None:
    run = Run(tmp_path, synthetic.record(spec), {}, [], {})
    job = Job(run, find(spec.method.label), options_from({}), tmp_path, False)
    assert ladder.unfit(job).startswith(reason)


def test_what_is_named_is_refused_and_of_all_it_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, plain = UNFIT[0][0], make_spec("l1norm")
    other = make_spec("l1norm", track="total")
    for spec in (whole, plain, other):
        synthetic.write(Store(tmp_path), synthetic.record(spec))
    assert climb(tmp_path, [plain, whole]) == BAD_INPUT
    err = capsys.readouterr().err
    assert f"run {whole.run_id} can have no ladder: it keeps everything" in err
    assert err.count("\n") == 1
    assert climb(tmp_path, ["all"], "--targets", "0.4") == DONE
    assert (
        f"skipped: run {whole.run_id} can have no ladder: it keeps everything"
        in capsys.readouterr().out
    )
    assert list(rows_of(tmp_path, plain)) == [0.4]
    assert Store(tmp_path).measurements(other, KIND) == []


def test_bad_input_is_one_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = SPECS["l1norm"].run_id
    for words, wanted in (
        (["feedfeed"], "no run under"),
        ([own, "--targets", "half"], "--targets half: give fractions"),
        ([own, "--targets", "0.5,1"], "--targets 0.5,1: a target lies between 0 and 1"),
    ):
        assert wanted in refused(ladder.main, [*words, "--results", str(results)], capsys)


def test_the_usual_targets() -> None:
    found = ladder.targets_of(None)
    assert len(found) == 10
    assert (found[0], found[-1]) == (0.05, 0.8)
    assert np.diff(np.log(found)) == pytest.approx([np.log(16) / 9] * 9, abs=2e-3)
    assert ladder.targets_of("0.5,0.1,0.5") == (0.1, 0.5)


# ---- table and figures ---------------------------------------------------------------------------


def rung(target: float, recalibrated: float, inverse: float | None = 0.1) -> dict[str, Any]:
    return {
        "target": target, "reduction": target + 0.01, "before": 0.2,
        "recalibrated": recalibrated, "inverse": inverse, "reason": "",
    }  # fmt: skip


def lost(target: float) -> dict[str, Any]:
    empty = dict.fromkeys(("reduction", "before", "recalibrated", "inverse"))
    return {"target": target, **empty, "reason": "out of reach"}


def write(root: Path, spec: RunSpec, *rungs: dict[str, Any], key: str = "0") -> None:
    """A finished run, and a ladder beside it where there are rungs."""
    synthetic.write(Store(root), synthetic.record(spec, dense=0.9 + 0.01 * spec.seeds.run))
    if rungs:
        facts = {"run_id": spec.run_id, "kind": KIND, "version": VERSION, "rows": list(rungs)}
        Store(root).write_measurement(spec, KIND, key * 12, facts)


def made(root: Path) -> tuple[Block, pd.DataFrame]:
    (block,) = blocks(root)
    return block, laddertable.ladder(block)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Two seeds of a row, measured beside other targets of it, and a control."""
    write(tmp_path, synthetic.spec(seed=0, target=0.3), rung(0.1, 0.8), rung(0.5, 0.6), lost(0.8))
    write(tmp_path, synthetic.spec(seed=0, target=0.5))
    write(tmp_path, synthetic.spec(seed=1, target=0.5), rung(0.1, 0.9, None), lost(0.8))
    write(tmp_path, synthetic.spec("random", 0, 0.5), rung(0.1, 0.7, None))
    return tmp_path


def test_targets_of_one_row_are_taken_together(measured: Path) -> None:
    _, frame = made(measured)
    assert list(frame.columns) == names(laddertable.COLUMNS)
    assert list(zip(frame["entry"], frame["target"], frame["n"], strict=True)) == [
        ("l1norm", 10, 2), ("l1norm", 50, 1), ("l1norm", 80, 0), ("random", 10, 1),
    ]  # fmt: skip
    first, second, third, control = frame.to_dict("records")
    assert first["recalibrated_mean"] == pytest.approx(85)
    assert first["recalibrated_sd"] == pytest.approx(50**0.5)
    assert first["reduction_mean"] == pytest.approx(11)
    assert first["before_mean"] == pytest.approx(20)
    assert first["inverse_mean"] == pytest.approx(10)  # of the one seed that has it
    assert first["dense_mean"] == pytest.approx(90.5)
    assert np.isnan(second["recalibrated_sd"])
    assert (third["reason"], first["reason"]) == ("out of reach", "")
    assert np.isnan(third["recalibrated_mean"])
    assert control["control"] == 1
    assert np.isnan(control["inverse_mean"])


def test_the_first_file_counts_and_other_versions_do_not(measured: Path) -> None:
    spec = synthetic.spec(seed=0, target=0.3)
    write(measured, spec, rung(0.1, 0.1), rung(0.2, 0.4), key="1")
    facts = {"kind": KIND, "version": VERSION + 1, "rows": [rung(0.9, 0.1)]}
    Store(measured).write_measurement(spec, KIND, "2" * 12, facts)
    _, frame = made(measured)
    own = frame[frame["entry"] == "l1norm"]
    assert list(own["target"]) == [10, 20, 50, 80]
    assert own["recalibrated_mean"].iloc[0] == pytest.approx(85)


def test_the_figure_draws_what_the_table_says(measured: Path) -> None:
    block, frame = made(measured)
    ((table, stem, caption, figure),) = ladderplot.figures(block)
    assert table == frame["table"].iloc[0]
    assert stem == f"{block.name}-common-{table}-ladder"
    assert caption == ladderplot.CAPTION
    choice, inverse = figure.axes
    assert choice.get_xscale() == "log"
    drawn = [
        list(np.asarray(line.get_ydata(), dtype=float))
        for line in choice.lines
        if line.get_linestyle() != ":"
    ]
    assert [pytest.approx(values) for values in drawn if len(values) > 1] == [[85.0, 60.0]]
    assert any(values == pytest.approx([10, 10]) for values in map(list, _lines(inverse)))


def _lines(axes: Any) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]


def test_the_report_has_it_where_something_was_measured(
    measured: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.page._library", lambda keep: ("", ""))  # takes seconds to make
    bare = tmp_path_factory.mktemp("bare")
    write(bare, synthetic.spec(seed=0, target=0.3))
    report.build(bare)
    assert not (bare / "leaderboard/ladder.csv").exists()
    assert "ladder" not in (bare / "leaderboard/DICTIONARY.md").read_text()
    report.build(measured)
    assert len(pd.read_csv(measured / "leaderboard/ladder.csv")) == 4
    assert "## `leaderboard/ladder.csv`" in (measured / "leaderboard/DICTIONARY.md").read_text()
    (figure,) = (measured / "figures").glob("*-ladder.svg")
    assert figure.name in (measured / "leaderboard/images-net20.md").read_text()


def test_figures_are_the_same_bytes_twice(measured: Path, tmp_path: Path) -> None:
    def drawn(name: str) -> bytes:
        with looks.fixed_style():
            ((*_, figure),) = ladderplot.figures(made(measured)[0])
            looks.save(figure, tmp_path / name)
        return (tmp_path / name).read_bytes()

    assert drawn("first.svg") == drawn("second.svg")
