"""Trials from end to end: what they may see, what they choose, and where their figures stand."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic as made
import tiny
import torch
from test_execute import go, make_spec, without_times

from benchmark import chosen, column, frames, report, run, tables, tasks, tune
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.context import Context
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.execute import run_one
from benchmark.lanes import grid, subjects
from benchmark.load import load_results
from benchmark.options import Options, options_from
from benchmark.planning import scores_key
from benchmark.record import RunRecord
from benchmark.space import Space
from benchmark.spec import RATE, RunSpec, Seeds
from benchmark.store import Store
from benchmark.tasks import Task, do, task_of
from benchmark.tuning import Tuning
from methods import find

SHORT: dict[str, Any] = {
    "budget_epochs": 1.0, "recovery": tiny.RECIPE.model_copy(update={"epochs": 1.0}),
    "baseline": tiny.BASELINE.model_copy(update={"epochs": 1.0}),
}  # fmt: skip
TRIAL: dict[str, Any] = {"lane": "trial", "tuned": (RATE,)}


class OutOfReach:
    """A test split at which whoever looks at all is caught."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a trial reached for {name} of the test split")

    def __len__(self) -> int:
        raise AssertionError("a trial counted the test images")


def sealed() -> Data:
    return replace(tiny.data(), test=OutOfReach())  # type: ignore[arg-type]


def trial(label: str = "l1norm", **changes: Any) -> RunSpec:
    return make_spec(label, **SHORT | TRIAL | changes)


# ---- the test split ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    """A trial on data whose test split nobody may touch."""
    root = tmp_path_factory.mktemp("trial")
    context = Context(Store(root), sealed(), command="again", optimistic=True)
    return run_one(trial(), find("l1norm"), context), root


def test_a_trial_reaches_no_test_image(of_trial: tuple[RunRecord, Path], tmp_path: Path) -> None:
    record, _ = of_trial
    assert record.final.val_top1 is not None
    assert record.final.test_top1 == record.final.val_top1  # validation images stand in its place
    with pytest.raises(AssertionError, match="reached for source of the test split"):
        run_one(make_spec(**SHORT), find("l1norm"), Context(Store(tmp_path), sealed()))


def test_other_test_images_and_labels_change_nothing_of_a_trial(
    of_trial: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    test = tiny.data().test
    draw = torch.Generator().manual_seed(7)
    other = replace(
        tiny.data(),
        test=replace(
            test,  # type: ignore[type-var]
            pixels=torch.randint(256, test.pixels.shape, generator=draw).to(torch.uint8),  # type: ignore[attr-defined]
            labels=test.labels[torch.randperm(len(test), generator=draw)],
        ),
    )
    again = run_one(trial(), find("l1norm"), Context(Store(tmp_path), other, command="again"))
    assert without_times(again) == without_times(of_trial[0])


def test_a_trial_is_the_run_it_stands_for(of_trial: tuple[RunRecord, Path], tmp_path: Path) -> None:
    """The same values and seeds in the default lane end with the same weights: what trials leave
    out changes nothing in them."""
    plain = go(make_spec(**SHORT), tmp_path)
    record = of_trial[0]
    assert (record.weights, record.plan) == (plain.weights, plain.plan)
    assert record.final.val_top1 == plain.final.val_top1
    assert record.run_id != plain.run_id
    assert plain.selection is not None
    assert plain.latency
    assert (record.selection, record.latency, record.seed_agreement) == (None, {}, None)


@pytest.mark.parametrize("kind", ["dense", "cell"])
def test_workers_show_a_trial_no_test_image(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense network of trials is made by a task of its own."""
    monkeypatch.setattr(tasks, "cached_data", lambda _: sealed())
    for lane, status in (("trial", "done"), ("default", "failed")):
        spec = trial() if lane == "trial" else make_spec(**SHORT)
        options = Options(results=tmp_path / lane, lane=lane, arch="resnet8")  # type: ignore[arg-type]
        work = Task(kind, spec, "l1norm", options, "", f"{kind}-x", makes="x")
        ended = do(work, lambda *_: None)
        assert ended.status == status, ended.line
        assert ("validation top-1" in ended.line) == (lane == "trial")


def test_a_trial_is_measured_on_no_other_test_set(of_trial: tuple[RunRecord, Path]) -> None:
    from benchmark.kept import read_finished

    record, root = of_trial
    with pytest.raises(BadInput, match="is a trial: it is judged on validation images alone"):
        read_finished(Store(root).run_folder(record.spec), root)


def test_trials_stand_in_no_table(of_trial: tuple[RunRecord, Path], tmp_path: Path) -> None:
    root = of_trial[1]
    with pytest.raises(BadInput, match="no results under"):
        report.build(root, "none")
    assert frames.load(root).empty
    store = Store(tmp_path)  # nor where somebody put one among the runs of a board
    made.write(store, made.record(made.spec()))
    made.write(store, made.record(made.spec(tuned=(RATE,), lane="trial"), 0.99))
    store.write_attempt(made.spec("hrank", tuned=(RATE,), lane="trial"), "failed", "no luck")
    found = load_results(tmp_path)
    assert len(found.runs) == len(found.leaderboard) == 1
    assert list(found.runs["test_final"]) == [90.0]


# ---- choosing ------------------------------------------------------------------------------------


def trials(rates: Sequence[float] = (0.02, 0.1, 0.03), rounds: int = 1) -> list[RunSpec]:
    return [
        made.spec(
            lane="trial", tuned=(RATE,), recovery=made.RECOVERY.model_copy(update={"lr": rate}),
            seeds=Seeds(dense=10_000, run=10_000 + i),
        )
        for i in range(rounds)
        for rate in rates
    ]  # fmt: skip


def finished(store: Store, specs: Sequence[RunSpec], vals: Sequence[float | None]) -> None:
    """Records with these final validation accuracies; None: the trial diverged."""
    for spec, val in zip(specs, vals, strict=True):
        if val is None:
            store.write_attempt(spec, "failed", "diverged: the loss is not finite in epoch 1")
        else:
            made.write(store, made.record(spec, final=made.point(0.0, val)))


SPACE = Space({RATE: (0.1, 0.03)})


def best(vals: Sequence[float | None], rounds: int, root: Path) -> Any:
    specs = trials(rounds=rounds)
    finished(Store(root), specs, vals)
    return chosen.choose(Store(root), specs, SPACE, 1000)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records whose validation accuracy is told apart from all others."""

    def point(test: float, val: float | None = None) -> Any:
        return made.Accuracy(test_top1=test, test_loss=1.0, val_top1=val)

    monkeypatch.setattr(made, "point", point)
    plain = made.record

    def record(run: RunSpec, final: Any = 0.9, **changes: Any) -> RunRecord:
        if not isinstance(final, made.Accuracy):
            return plain(run, final, **changes)
        found = plain(run, 0.5, **changes)
        # the best epoch of the worst trial is the best of all: it must not count
        top = made.BestVal(epoch=1, accuracy=point(1.0, 1.0 - (final.val_top1 or 0.0)))
        return found.model_copy(update={"final": final, "best_val": top})

    monkeypatch.setattr(made, "record", record)


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize(
    ("vals", "rounds", "wanted"),
    [
        ((0.7, 0.9, 0.8), 1, 0.1),  # the last epoch of the last trials, by validation alone
        ((0.9, 0.9, 0.9), 1, 0.02),  # of equal ones the first
        ((0.8, 0.9, 0.9), 1, 0.1),
        ((0.9, 0.95, 0.8, 0.9, 0.8, 0.8), 2, 0.02),  # means over rounds: 0.9, 0.875, 0.8
        ((0.7, None, 0.8), 1, 0.03),
        ((0.7, 0.9, 0.8, 0.7, None, 0.8), 2, 0.03),  # one of its trials diverged
    ],
)
def test_the_best_final_validation_accuracy_is_chosen(
    vals: Sequence[float | None], rounds: int, wanted: float, tmp_path: Path
) -> None:
    choice = best(vals, rounds, tmp_path)
    assert choice.values == {RATE: wanted}
    assert choice.trials == 3 * rounds
    assert len(choice.tried) == 3


@pytest.mark.usefixtures("figures")
def test_what_trials_cost_is_counted(tmp_path: Path) -> None:
    """Three finished trials of 20,000 images and 12.5 s; a diverged one counts as a whole budget of
    20 epochs of 1,000 images."""
    choice = best((0.7, 0.9, 0.8), 1, tmp_path / "all")
    assert (choice.images, choice.seconds) == (60_000, 37.5)
    choice = best((0.7, None, 0.8), 1, tmp_path / "diverged")
    assert (choice.images, choice.seconds) == (60_000, 25.0)


@pytest.mark.usefixtures("figures")
def test_where_all_diverged_nothing_is_chosen(tmp_path: Path) -> None:
    choice = best((None, None, None), 1, tmp_path)
    assert choice.values is None
    assert choice.evidence() is None
    assert choice.reason == "all of its 3 trials diverged"


def test_what_does_not_apply_is_said(tmp_path: Path) -> None:
    specs = trials()
    Store(tmp_path).write_attempt(specs[0], "n/a", "needs BatchNorm")
    choice = chosen.choose(Store(tmp_path), specs, SPACE, 1000)
    assert (choice.best, choice.reason, choice.tried) == (None, "needs BatchNorm", ())


def test_only_a_diverged_trial_is_a_result(tmp_path: Path) -> None:
    store, specs = Store(tmp_path), trials()
    store.write_attempt(specs[0], "failed", "diverged: the loss is not finite")
    store.write_attempt(specs[1], "failed", "out of memory: fewer --jobs")
    assert chosen.unfinished(store, specs) == specs[1:]
    assert not chosen.not_applicable(store, specs[1])


# ---- tables --------------------------------------------------------------------------------------


TUNING = Tuning(
    trials=8, settings=4, values={RATE: 0.1}, val_top1=0.9, default_val_top1=0.8, target=0.5,
    allocation="uniform", images=160_000, seconds=100.0,
)  # fmt: skip


def tuned(method: str, seed: int, final: float, rate: float, count: int = 8, **changes: Any) -> Any:
    recipe = made.RECOVERY.model_copy(update={"lr": rate})
    spec = made.spec(method, seed, lane="tuned", trials=count, tuned=(RATE,), recovery=recipe)
    return made.record(spec, final, 0.92, tuning=TUNING, **changes)


def both_lanes() -> list[RunRecord]:
    found = [*made.three("l1norm", (0.8, 0.8, 0.8)), *made.three("hrank", (0.81, 0.81, 0.81))]
    for i in range(3):
        found += [tuned("l1norm", i, 0.85 + i / 100, 0.1), tuned("hrank", i, 0.9, 0.03)]
    return [*found, tuned("hrank", 0, 0.95, 0.03, count=3)]


def test_rows_of_two_lanes_never_share_a_table() -> None:
    board = frames.leaderboard(frames.runs_frame(both_lanes()))
    by_lane = board.groupby(["lane", "trials"])["table"].unique()
    assert [len(names) for names in by_lane] == [1, 1, 1]
    assert len({names[0] for names in by_lane}) == 3
    rows = board.set_index(["lane", "trials", "method"])
    assert set(rows["tuned_values"]) == {"untuned", '{"recovery.lr":0.1}', '{"recovery.lr":0.03}'}
    ours = rows.loc["tuned", 8]
    assert ours.loc["hrank", "rank"] == 1  # ranked together, whatever rate each has
    assert ours.loc["l1norm", "rank"] == 2
    assert ours["board"].nunique() == ours["recipe"].nunique() == 1
    assert list(ours["entry"]) == ["hrank", "l1norm"]
    assert list(ours["tuning_images"]) == [160_000, 160_000]
    heads = [head for head, _ in tables.tables(board)]
    assert sum("tuned by 8 trials of each method" in head for head in heads) == 1
    assert sum("tuned" not in head for head in heads) == 1


def test_methods_that_tune_other_values_share_a_board() -> None:
    """How many values a method has to tune is its own affair."""
    own = made.spec(
        "slimming", params={"sparsity": 1e-4}, lane="tuned", trials=8, tuned=(RATE, "sparsity")
    )
    found = [tuned("l1norm", 0, 0.9, 0.1), made.record(own, 0.9, 0.92, tuning=TUNING)]
    board = frames.leaderboard(frames.runs_frame(found))
    assert board["board"].nunique() == board["table"].nunique() == 1


def test_scores_are_shared_by_lanes() -> None:
    """Who chose the values changes nothing in what is computed from them."""
    plain = made.spec("hrank")
    for lane in ({"lane": "trial"}, {"lane": "tuned", "trials": 8}):
        other = made.spec("hrank", tuned=(RATE,), **lane)
        assert scores_key(other) == scores_key(plain)
        assert other.run_id != plain.run_id


def test_rows_that_were_tuned_twice_are_told_apart() -> None:
    found = [tuned("l1norm", 0, 0.9, 0.1), tuned("l1norm", 0, 0.9, 0.03)]
    board = frames.leaderboard(frames.runs_frame(found))
    assert sorted(board["entry"]) == [
        'l1norm, tuned_values {"recovery.lr":0.03}', 'l1norm, tuned_values {"recovery.lr":0.1}',
    ]  # fmt: skip
    assert board["table"].nunique() == 1


def test_own_values_that_were_tuned_are_no_other_method() -> None:
    """Over blocks a method is one, though trials chose other values there."""
    own = {"sparsity": 1e-4, "start": "plain"}
    spec = made.spec("slimming", params=own, lane="tuned", trials=8, tuned=(RATE, "sparsity"))
    (row,) = frames.rows_of(frames.runs_frame([made.record(spec)]))
    assert row["params"] == '{"sparsity":"tuned","start":"plain"}'
    assert json.loads(row["tuned_values"]) == {RATE: 0.02, "sparsity": 1e-4}


def test_columns_are_there_where_a_row_says_something(tmp_path: Path) -> None:
    plain = [r for r in both_lanes() if r.spec.lane == "default"]
    for record in plain:
        made.write(Store(tmp_path), record)
    report.build(tmp_path, "none")
    before = {p.name: p.read_text() for p in (tmp_path / "leaderboard").glob("*.*")}
    for name in column.ADDED_LATER:
        assert not any(f",{name}," in text or f"`{name}`" in text for text in before.values()), name
    assert "Trials cost" not in before["images-net20.md"]
    assert list(load_results(tmp_path).leaderboard.columns) == (
        (tmp_path / "leaderboard.csv").read_text().partition("\n")[0].split(",")
    )
    for record in both_lanes():
        made.write(Store(tmp_path), record)
    report.build(tmp_path, "none")
    header, *lines = (tmp_path / "leaderboard.csv").read_text().splitlines()
    assert {"lane", "trials", "tuned_values", "tuning_images"} <= set(header.split(","))
    assert sum(",untuned," in line for line in lines) == 2
    page = (tmp_path / "leaderboard/images-net20.md").read_text()
    assert "| Tuned values |" in " ".join(page.split())
    assert r"recovery.lr=0.03 | 160,000 images, 1.7 min |" in " ".join(page.split())
    assert "Tuned: the values of each row come from the trial" in page
    assert "`tuned_values`" in (tmp_path / "leaderboard/DICTIONARY.md").read_text()


def test_untuned_tables_are_the_same_beside_tuned_ones(tmp_path: Path) -> None:
    """Row by row, but for the columns that say what is tuned."""
    wanted = frames.runs_frame([r for r in both_lanes() if r.spec.lane == "default"])
    found = frames.runs_frame(both_lanes())
    beside = found[found["lane"] == "default"].reset_index(drop=True)
    assert beside.equals(wanted)


# ---- end to end ----------------------------------------------------------------------------------


QUICK = shlex.split(
    "--arch resnet8 --dataset digits --preset demo --epochs 0.5 --set baseline.epochs=0.5 "
    "--set baseline.batch_size=32 --no-controls --jobs 0"
)
METHODS = ["--methods", "l1norm,random"]


@pytest.fixture(scope="module")
def tuned_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    words = [*METHODS, *QUICK, "--results", str(root)]
    assert invoke(tune.main, [*words, "--trials", "2"]) == DONE
    assert invoke(run.main, [*words, "--lane", "tuned"]) == DONE
    return root


def test_a_tuned_run_has_what_its_trials_chose(tuned_results: Path) -> None:
    records = {r.spec.method.name: r for r in Store(tuned_results).records()}
    assert records.keys() == {"l1norm", "random"}
    tries = Store(tuned_results / "trials").records()
    assert len(tries) == 4
    for name, record in records.items():
        own = [r for r in tries if r.spec.method.name == name]
        assert record.tuning is not None
        top = max(r.final.val_top1 or 0.0 for r in own)
        winners = {r.spec.recovery.lr for r in own if r.final.val_top1 == top}
        assert record.spec.recovery.lr in winners
        assert record.tuning.val_top1 == top
        assert record.tuning.trials == record.spec.trials == 2
        assert record.tuning.images == sum(r.spent.charged for r in own)
        assert record.spec.seeds.run == 0
        assert record.final.test_top1 != record.final.val_top1
    assert not list((tuned_results / "stages").glob("*10000*"))
    runs = load_results(tuned_results).runs
    assert set(runs["lane"]) == {"tuned"}
    assert list(runs["tuning_images"]) == [r.tuning.images for r in records.values() if r.tuning]


def test_what_was_tried_is_not_tried_again(
    tuned_results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer trials choose among those that are there."""
    monkeypatch.setattr("benchmark.pool.do", lambda *_: pytest.fail("work was done twice"))
    words = [*METHODS, *QUICK, "--results", str(tuned_results)]
    assert invoke(tune.main, [*words, "--trials", "1"]) == DONE
    out = capsys.readouterr().out
    assert out.count("(the default)") == 2
    assert f"What was tried and chosen: {tuned_results}/trials/chosen/" in out
    command = shlex.split(out.partition("Next: python -m benchmark.run ")[2])
    assert command[command.index("--lane") + 1] == "tuned"
    assert "--no-controls" in command


def test_the_command_of_a_trial_makes_it_again(tuned_results: Path) -> None:
    for record in Store(tuned_results / "trials").records():
        words = shlex.split(record.command)
        assert words[:3] == ["python", "-m", "benchmark.tune"]
        flags = {f[2:]: v for f, v in itertools.pairwise(words) if f[:2] == "--"}
        assert not flags.keys() & {"seeds", "lane", "results"}
        said = options_from(
            {
                "methods": [flags["methods"]], "arch": flags["arch"], "dataset": flags["dataset"],
                "preset": flags["preset"], "epochs": flags["epochs"], "lane": "trial",
                "controls": False, "trials": flags["trials"],
                "set": {"baseline.epochs": 0.5, "baseline.batch_size": 32},
            }
        )  # fmt: skip
        data = replace(tiny.data(), identity=record.spec.data)
        (subject,) = subjects(said, data)
        assert record.run_id in {spec.run_id for spec in subject.trials}


def test_a_trial_that_failed_leaves_the_choice_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What diverged is a result; all else has to be tried again."""
    options = options_from(
        {"methods": ["l1norm"], "arch": "resnet8", "dataset": "digits", "preset": "demo",
         "controls": False, "trials": 3, "results": tmp_path, "jobs": 0, "optimistic": True,
         "extra_test": {"more": tmp_path}}
    )  # fmt: skip
    monkeypatch.setattr(run, "data_of", lambda *_: tiny.data())
    monkeypatch.setattr(tune, "preflight", lambda *_: None)
    asked: list[set[str]] = []

    def nothing(cells: Any, options: Options, screen: Any, only: set[str]) -> int:
        asked.append(only)
        # what a board's config may ask for, and no trial may do
        assert (options.optimistic, options.extra_test, options.lane) == (False, {}, "trial")
        return 0

    monkeypatch.setattr(tune, "run_grid", nothing)
    store = Store(tmp_path / "trials")
    specs = [c.spec for c in grid(options.model_copy(update={"lane": "trial"}), tiny.data())]
    made.write(store, made.record(specs[0], 0.9))
    store.write_attempt(specs[1], "failed", "diverged: the loss is not finite in epoch 1")
    store.write_attempt(specs[2], "failed", "out of memory: fewer --jobs")
    assert tune.tune(options, False, tune.console()) == FAILED
    out = capsys.readouterr().out
    assert "1 missing" in out
    assert f"Nothing is chosen for l1norm: python -m benchmark.status --results {store.root}" in out
    assert asked == [{specs[0].run_id, specs[2].run_id}]
    assert not (store.root / "chosen").exists()
    made.write(store, made.record(specs[2], 0.8))
    assert tune.tune(options, False, tune.console()) == DONE
    out = capsys.readouterr().out
    assert "l1norm: 1 trial diverged" in out
    assert "(the default)" in out


def test_tasks_of_a_grid_that_was_tuned_again_are_refused(tuned_results: Path) -> None:
    words = {"methods": ["l1norm"], "arch": "resnet8", "dataset": "digits", "preset": "demo",
             "epochs": 0.5, "lane": "tuned", "controls": False, "results": tuned_results,
             "set": {"baseline.epochs": 0.5, "baseline.batch_size": 32}}  # fmt: skip
    options = options_from(words)
    (cell,) = grid(options, replace(tiny.data(), identity=_digits(tuned_results)))
    work = task_of("cell", cell, options)
    assert work.name == "l1norm at 50 % tuned seed 0"
    other = cell.spec.recovery.model_copy(update={"lr": 0.5})
    stale = replace(work, spec=cell.spec.model_copy(update={"recovery": other}))
    ended = do(stale, lambda *_: None)
    assert ended.status == "failed"
    assert "was tuned again since the grid was planned" in ended.line


def _digits(root: Path) -> Any:
    return Store(root).records()[0].spec.data


def test_the_flags_of_tune_are_those_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(tune.main, ["--help"]) == DONE
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--methods", "--trials", "--preset", "--results"))
    assert not any(flag in said for flag in ("--seeds", "--lr ", "--lane", "--optimistic"))
    assert invoke(tune.main, ["--lane", "tuned"]) == BAD_INPUT
