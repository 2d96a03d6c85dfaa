"""What a grid will cost. Seconds on disk are made up and the probe is faked: nothing is timed."""

from __future__ import annotations

import functools
import itertools
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmark import baseline, probe
from benchmark.data import Data, load_data
from benchmark.environment import hardware_kind
from benchmark.estimate import (
    START,
    Forecast,
    compare,
    estimate,
    estimate_tasks,
    forecast,
)
from benchmark.listing import show_grid
from benchmark.makespan import clock_time, makespan
from benchmark.options import Options, options_from
from benchmark.planning import scores_key
from benchmark.probe import OF_FEW, OF_MANY, PROBED, Probe, Seconds, Timed, Work, among, thinner
from benchmark.record import SelectionCheck
from benchmark.selection import RANDOM_DRAWS
from benchmark.store import Stage, Store
from benchmark.sweep import Cell, expand
from methods.api import Method

TRAIN, VAL, TEST = 1294, 143, 360  # images of digits
PACE = 0.01  # made-up seconds per image of recovery
HERE = {"cpu": hardware_kind(), "gpu": None, "device": "cpu", "compiled": False}
EXACTLY = 1e-9

Call = tuple[str, str, int]  # architecture, stage, batch size


@pytest.fixture(autouse=True)
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the probe was asked to time. Every answer is one millisecond, half for `cut`."""
    calls: list[Call] = []

    def answer(asking: Probe, kind: str, batch: int) -> Timed:
        calls.append((asking.spec.arch.name, kind, batch))
        return Timed(0.0005, 0.0005) if kind == "cut" else Timed(0.001, 0.001)

    monkeypatch.setattr(probe, "time_stage", answer)
    monkeypatch.setattr("benchmark.estimate.cached_data", lambda _: images())
    return calls


@functools.cache
def images() -> Data:
    with tempfile.TemporaryDirectory() as folder:
        return load_data("digits", cache_dir=Path(folder))


def options(root: Path, **words: Any) -> Options:
    fields = {
        "methods": ["random"], "arch": "resnet8", "dataset": "digits", "preset": "demo",
        "device": "cpu", "epochs": 1.0, "results": root, "controls": False,
    }  # fmt: skip
    return options_from(fields | words)


def grid(chosen: Options) -> list[Cell]:
    return expand(chosen, images())


def row(phase: str, kind: str, images: int, seconds: float, requested: int = 0) -> dict[str, Any]:
    return {"phase": phase, "kind": kind, "images": images, "epochs": images / TRAIN, "macs": 1,
            "seconds": seconds, "requested": requested or images}  # fmt: skip


def checked_at(allocation: str) -> SelectionCheck:
    """The check of a choice as a run of today makes it."""
    uniform = 0.4 if allocation == "uniform" else 0.3
    return SelectionCheck(
        score=0.5, inverse=0.3, random=[0.4] * RANDOM_DRAWS, percentile=1.0, informative=True,
        uniform=[uniform] * RANDOM_DRAWS, uniform_percentile=1.0,
    )  # fmt: skip


def remember(
    root: Path, cell: Cell, seconds: float, *before: dict[str, Any], **changes: Any
) -> None:
    """Put a record on disk: `before` are its phases before recovery, which takes PACE an image."""
    left = round(cell.spec.budget_epochs * TRAIN)
    left -= sum(r["images"] for r in before if r["kind"] == "charged")
    rows = [*before, row("recovery", "charged", left, PACE * left)]
    spent = {"allowed": left, "charged": left, "free": 0, "rows": rows}
    cls = cell.entry.cls
    scores = cls.prune is Method.prune
    check = checked_at(cell.spec.allocation)
    fields: dict[str, Any] = {"environment": HERE, "spent": spent, "selection": check}
    for name, there in (
        ("selection", scores and cls.informed),
        ("seed_agreement", scores and cls.informed and cls.stochastic),
        ("tied_share", scores),
    ):
        fields |= {} if there else {name: None}
    synthetic.write(Store(root), synthetic.record(cell.spec, seconds=seconds, **fields | changes))


def seconds_of(chosen: Options) -> list[Seconds]:
    """Of the cells in their order."""
    found = estimate_tasks(grid(chosen), chosen)
    return [found[cell.spec.run_id] for cell in grid(chosen)]


# ---- from records --------------------------------------------------------------------------------


def test_another_seed_takes_what_the_first_took(tmp_path: Path, probed: list[Call]) -> None:
    (first,) = grid(options(tmp_path))
    remember(tmp_path, first, 30.0)
    (found,) = seconds_of(options(tmp_path, seeds=[1]))
    assert found.middle == pytest.approx(30)
    assert (found.low, found.high) == pytest.approx((30 * OF_FEW.low, 30 * OF_FEW.high))
    assert {kind for _, kind, _ in probed} <= {"train", "cut"}  # for the dense network alone


def test_more_epochs_cost_what_their_images_cost(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path))
    remember(tmp_path, first, 30.0)
    (found,) = seconds_of(options(tmp_path, epochs=3.0))
    aside = 2 * VAL + (194 - 64)  # validated two epochs more, recalibrated on 5 % of the budget
    assert found.middle == pytest.approx(30 + PACE * (2 * TRAIN + aside / 3))


def test_the_images_of_the_check_of_the_choice_grow_with_the_budget(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path, methods=["l1norm"]))
    remember(tmp_path, first, 30.0)
    (found,) = seconds_of(options(tmp_path, methods=["l1norm"], epochs=3.0))
    aside = 2 * VAL + 8 * (194 - 64)
    assert found.middle == pytest.approx(30 + PACE * (2 * TRAIN + aside / 3))


def test_draws_at_uniform_widths_that_an_earlier_run_did_not_make_are_paid_for(
    tmp_path: Path,
) -> None:
    words: dict[str, Any] = {"methods": ["l1norm"], "allocation": "global"}
    (first,) = grid(options(tmp_path, **words))
    earlier = checked_at("global").model_copy(update={"uniform": None, "uniform_percentile": None})
    remember(tmp_path, first, 30.0, selection=earlier)
    (found,) = seconds_of(options(tmp_path, **words, seeds=[1]))
    assert found.middle == pytest.approx(30 + PACE * RANDOM_DRAWS * (64 + VAL) / 3)


def test_preparation_is_charged_or_granted(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path, methods=["slimming"], epochs=2.0))
    remember(tmp_path, first, 40.0, row("prepare-1", "charged", TRAIN, 5.0))
    (same,) = seconds_of(options(tmp_path, methods=["slimming"], epochs=2.0, seeds=[1]))
    chosen = options(tmp_path, methods=["slimming"], epochs=2.0, preparation=["free"])
    (granted,) = seconds_of(chosen)
    assert same.middle == pytest.approx(40)
    assert granted.middle == pytest.approx(40 + PACE * TRAIN)  # recovery keeps its images


def test_longer_preparation_takes_longer_and_leaves_less(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path, methods=["slimming"], epochs=4.0))
    remember(tmp_path, first, 90.0, row("prepare-1", "charged", 2 * TRAIN, 10.0))
    settings = {"slimming.sparse_epochs": 3.0}
    (found,) = seconds_of(options(tmp_path, methods=["slimming"], epochs=4.0, set=settings))
    assert found.middle == pytest.approx(90 + 5 - PACE * TRAIN)


def test_a_second_seed_that_scores_again_is_paid_for(tmp_path: Path) -> None:
    chosen = options(tmp_path, methods=["whitebox"], epochs=4.0)
    (first,) = grid(chosen)
    remember(tmp_path, first, 90.0, row("prepare-1", "charged", TRAIN, 10.0))
    settings = {"whitebox.mask_epochs": 2.0}
    (found,) = seconds_of(options(tmp_path, methods=["whitebox"], epochs=4.0, set=settings))
    assert found.middle == pytest.approx(90 + 2 * 10 - PACE * TRAIN)


def test_a_thinner_network_is_faster_within_limits(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path))
    remember(tmp_path, first, 30.0)
    (found,) = seconds_of(options(tmp_path, flops_reduction=[0.8]))
    passed = PACE * (TRAIN + (64 + VAL) / 3)
    rest = 30 - passed
    assert found.middle == pytest.approx(rest + passed * 1.2 / 1.5)
    assert found.low == pytest.approx(OF_FEW.low * (rest + passed * 0.4))
    assert found.high == pytest.approx(OF_FEW.high * 30)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": "another processor"},
        {"gpu": "a GPU"},
        {"device": "cuda"},
        {"compiled": True},
        {"resumed_from": ["this kind"]},
    ],
)
def test_records_of_other_machines_are_ignored(tmp_path: Path, changes: dict[str, Any]) -> None:
    _is_ignored(tmp_path, {}, environment=HERE | changes)


@pytest.mark.parametrize("words", [{"threads": 2}, {"precision": "bf16"}])
def test_records_of_other_settings_are_ignored(tmp_path: Path, words: dict[str, Any]) -> None:
    _is_ignored(tmp_path, words)


@pytest.mark.parametrize("change", [{"name": "others"}, {"image_size": 24}])
def test_records_of_other_data_are_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    (cell,) = grid(options(tmp_path))
    data = cell.spec.data.model_copy(update=change)
    _is_ignored(tmp_path, {}, replace(cell, spec=cell.spec.model_copy(update={"data": data})))


def _is_ignored(
    root: Path, words: dict[str, Any], other: Cell | None = None, **changes: Any
) -> None:
    chosen = options(root, seeds=[1])
    before = forecast(grid(chosen), chosen, 1)
    remember(root, other or grid(options(root, **words))[0], 1000.0, **changes)
    assert forecast(grid(chosen), chosen, 1) == before
    assert (before.records, before.probed) == (0, True)


def test_a_wide_spread_makes_a_wide_range(tmp_path: Path) -> None:
    for seed, seconds in enumerate((30.0, 40.0, 60.0)):
        (cell,) = grid(options(tmp_path, seeds=[seed]))
        remember(tmp_path, cell, seconds)
    (found,) = seconds_of(options(tmp_path, seeds=[7]))
    assert (found.low, found.middle, found.high) == pytest.approx(
        (30 * OF_MANY.low, 40, 60 * OF_MANY.high)
    )


def test_the_most_similar_records_are_asked(tmp_path: Path) -> None:
    cells = grid(options(tmp_path, flops_reduction=[0.5, 0.8]))
    for cell, seconds in zip(cells, (30.0, 90.0), strict=True):
        remember(tmp_path, cell, seconds)
    found = seconds_of(options(tmp_path, flops_reduction=[0.5, 0.8], seeds=[1]))
    assert [s.middle for s in found] == pytest.approx([30, 90])


# ---- scores that several cells share -------------------------------------------------------------


def _hrank(root: Path, **words: Any) -> Options:
    return options(root, methods=["hrank"], flops_reduction=[0.5, 0.8], **words)


def _remember_hrank(root: Path) -> None:
    """Both tell of the same 8 seconds of scoring, which the first paid."""
    scored = row("scoring", "forward", 64, 8.0, requested=500)
    for cell, seconds in zip(grid(_hrank(root)), (40.0, 30.0), strict=True):
        remember(root, cell, seconds, scored)


def test_shared_scores_are_paid_for_once(tmp_path: Path) -> None:
    _remember_hrank(tmp_path)
    first, second = seconds_of(_hrank(tmp_path, seeds=[1]))
    assert (first.middle, second.middle) == pytest.approx((40, 30))
    (alone,) = seconds_of(options(tmp_path, methods=["hrank"], flops_reduction=[0.5], seeds=[1]))
    assert alone.middle == pytest.approx(40)


def test_scores_that_are_there_are_not_paid_for(tmp_path: Path) -> None:
    _remember_hrank(tmp_path)
    chosen = _hrank(tmp_path, seeds=[1])
    key = scores_key(grid(chosen)[0].spec, prepares=False)
    Store(tmp_path).publish_stage("scores", key, Stage({"x": torch.zeros(1)}, {}))
    assert [s.middle for s in seconds_of(chosen)] == pytest.approx([40 - 8, 30])


def test_without_records_too_shared_scores_are_paid_for_once(tmp_path: Path) -> None:
    first, second = seconds_of(_hrank(tmp_path))
    alone = seconds_of(options(tmp_path, methods=["hrank"], flops_reduction=[0.8]))
    assert second.high < alone[0].high
    assert first.high > second.high


# ---- other methods, other architectures ----------------------------------------------------------


def test_other_methods_tell_the_pace_and_what_every_run_costs(
    tmp_path: Path, probed: list[Call]
) -> None:
    (known,) = grid(options(tmp_path))
    remember(tmp_path, known, 30.0)
    start = {"seconds": 1.0, "hardware": hardware_kind()}
    Store(tmp_path).publish_stage(
        "dense", baseline.stage_key(known.spec), Stage({"x": torch.zeros(1)}, start)
    )
    chosen = options(tmp_path, methods=["l1norm"])
    (found,) = seconds_of(chosen)
    passed = TRAIN + (64 + VAL) / 3
    rest = 30 - PACE * passed
    scores = 0.5 * 64 * thinner(0.5, 1).middle  # unknown, of 5 % of the budget
    checks = 7 * (64 + VAL) / 3
    assert found.middle == pytest.approx(rest + PACE * (passed + checks + scores))
    assert not probed
    assert forecast(grid(chosen), chosen, 1).basis == "from 1 earlier record"


def test_scoring_on_another_architecture_tells_how_many_steps_it_is_worth(tmp_path: Path) -> None:
    methods = ["random", "cpli"]
    small = grid(options(tmp_path, methods=methods))
    for cell, seconds in zip(small, (30.0, 130.0), strict=True):
        remember(tmp_path, cell, seconds)
    (big,) = grid(options(tmp_path, arch="resnet20"))
    remember(tmp_path, big, 50.0)
    _, found = seconds_of(options(tmp_path, arch="resnet20", methods=methods, seeds=[1]))
    checked = 4.83  # the choice of a method that decides everything is judged too
    assert found.middle == pytest.approx(50 + 100 + checked)  # the pace is the same in both
    assert found.low > 50 * OF_FEW.low  # that is all if nothing is known of the method


def test_dense_networks_take_what_earlier_ones_took(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path))
    remember(tmp_path, first, 30.0)
    stage = Stage({"x": torch.zeros(1)}, {"seconds": 500.0, "hardware": hardware_kind()})
    Store(tmp_path).publish_stage("dense", baseline.stage_key(first.spec), stage)
    chosen = options(tmp_path, seeds=[1], set={"baseline.epochs": 20})
    (cell,) = grid(chosen)
    found = forecast([cell], chosen, 1)
    assert found.dense == (baseline.stage_key(cell.spec),)
    figures = (VAL + TEST) / 3 * PACE * thinner(0.5, 1).middle
    assert found.tasks[found.dense[0]].middle == pytest.approx(1000 + figures)


def test_dense_networks_of_other_machines_tell_nothing(tmp_path: Path) -> None:
    (first,) = grid(options(tmp_path))
    remember(tmp_path, first, 30.0)
    stage = Stage({"x": torch.zeros(1)}, {"seconds": 500.0, "hardware": "another"})
    Store(tmp_path).publish_stage("dense", baseline.stage_key(first.spec), stage)
    chosen = options(tmp_path, seeds=[1])
    found = forecast(grid(chosen), chosen, 1)
    assert found.tasks[found.dense[0]].middle < 100
    assert found.basis == "from 1 earlier record and a probe of one training step"


# ---- from a probe --------------------------------------------------------------------------------


def test_the_probe_times_each_stage_once(tmp_path: Path, probed: list[Call]) -> None:
    chosen = options(
        tmp_path, methods=["l1norm", "whitebox", "cpli", "width_scaling"], seeds=[0, 1, 2],
        flops_reduction=[0.3, 0.5],
    )  # fmt: skip
    found = forecast(grid(chosen), chosen, 2)
    assert found.basis == "from a probe of one training step"
    assert len(found.tasks) == 4 * 3 * 2 + 3
    assert len(probed) == len(set(probed))
    assert {arch for arch, _, _ in probed} == {"resnet8"}
    assert {kind for _, kind, _ in probed} == {"train", "cut", "read", "setup"}


def test_a_probed_run_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    (found,) = seconds_of(options(tmp_path, flops_reduction=[0.5]))
    net = Probe(grid(options(tmp_path))[0].spec, torch.device("cpu"))
    step = 0.001 - 0.5 * min(0.0005 / (1 - net.kept), 0.001)
    passed = step * (TRAIN + (64 + VAL) / 3)
    rest = 0.001 * (2 + 2 * 33 + 2 * 9 * 128 + 4 * (VAL + TEST))
    assert found.middle == pytest.approx(PROBED.middle * (passed + rest))
    assert found.low == pytest.approx(PROBED.low * (passed + rest))


def test_preparation_without_a_record_is_charged_or_granted(tmp_path: Path) -> None:
    chosen = options(tmp_path, methods=["slimming"], preparation=["charged", "free"])
    charged, granted = seconds_of(chosen)
    (half,) = seconds_of(options(tmp_path))
    (whole,) = seconds_of(options(tmp_path, epochs=2.0))
    aside = (65 + VAL) / 3  # of the epoch more, whose images are TRAIN
    more = (whole.middle - half.middle) * (TRAIN / 2) / (TRAIN + aside)
    assert granted.middle - charged.middle == pytest.approx(more)


def test_a_busy_machine_raises_the_high_end_and_not_the_low_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (idle,) = seconds_of(options(tmp_path))
    monkeypatch.setattr(
        probe, "time_stage", lambda _, kind, __: Timed(0.0005 if kind == "cut" else 0.001, 0.003)
    )
    (busy,) = seconds_of(options(tmp_path))
    assert busy.low == pytest.approx(idle.low)
    assert busy.high >= 3 * idle.high * (1 - EXACTLY)


def test_the_real_probe_leaves_threads_and_random_numbers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probed: list[Call]
) -> None:
    monkeypatch.undo()
    (cell,) = grid(options(tmp_path, threads=2))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    seen = set()
    real = probe._timed

    def watched(work: Callable[[], object], asking: Probe) -> Timed:
        seen.add(torch.get_num_threads())
        return real(work, asking)

    monkeypatch.setattr(probe, "_timed", watched)
    asking = Probe(cell.spec, torch.device("cpu"))
    prices = [asking.price(kind, 4) for kind in ("train", "cut", "read", "setup")]
    assert all(price > 0 for price in prices)
    assert seen == {2}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("method", ["random", "hrank", "slimming", "whitebox", "cpli"])
def test_more_epochs_never_cost_less(tmp_path: Path, method: str, known: bool) -> None:
    if known:
        (first,) = grid(options(tmp_path, methods=[method], seeds=[9]))
        prepared = [row("prepare-1", "charged", 300, 2.0)] if method == "whitebox" else []
        remember(tmp_path, first, 30.0, *prepared)
    found = [
        seconds_of(options(tmp_path, methods=[method], epochs=epochs))[0]
        for epochs in (0.5, 1.0, 2.0, 7.0, 20.0)
    ]
    for less, more in itertools.pairwise(found):
        assert less.low < more.low
        assert less.middle < more.middle
        assert less.high < more.high
    assert all(s.low <= s.middle <= s.high for s in found)


# ---- what is left, and the clock -----------------------------------------------------------------


def test_a_finished_cell_costs_nothing(tmp_path: Path, probed: list[Call]) -> None:
    chosen = options(tmp_path, seeds=[0, 1])
    first, second = grid(chosen)
    remember(tmp_path, first, 30.0)
    assert first.spec.run_id not in estimate_tasks([first, second], chosen)
    remember(tmp_path, second, 30.0)
    probed.clear()
    assert forecast([first, second], chosen, 2) == Forecast({}, Seconds())
    assert not probed


def test_cells_that_cannot_run_cost_nothing(tmp_path: Path) -> None:
    chosen = options(tmp_path, methods=["cpli", "random"], allocation="global")
    found = estimate_tasks(grid(chosen), chosen)
    assert len(found) == 2  # one cell, one dense network


def test_workers_share_the_work_and_take_time_to_start(tmp_path: Path) -> None:
    chosen = options(tmp_path, seeds=[0, 1])
    one, two = (estimate(grid(chosen), chosen, jobs) for jobs in (1, 2))
    tasks = estimate_tasks(grid(chosen), chosen).values()
    assert one.middle == pytest.approx(sum(t.middle for t in tasks))
    assert two.middle == pytest.approx(START.middle + one.middle / 2)


def test_each_task_goes_to_the_worker_that_is_free_first() -> None:
    assert makespan([3, 3, 2, 2, 2], 1) == 12
    assert makespan([3, 3, 2, 2, 2], 2) == 7
    assert makespan([3, 3, 2, 2, 2], 3) == 5
    assert makespan([1, 1, 4], 2) == 5
    assert makespan([], 4) == 0


DURATIONS = st.floats(0, 1e6)
ESTIMATES = st.lists(DURATIONS, min_size=3, max_size=3).map(sorted).map(lambda x: Seconds(*x))


def is_ordered(found: Seconds) -> bool:
    return found.low <= found.middle * (1 + EXACTLY) and found.middle <= found.high * (1 + EXACTLY)


@given(st.lists(ESTIMATES, min_size=1, max_size=12), st.integers(1, 5), DURATIONS)
def test_ranges_stay_in_order(parts: list[Seconds], jobs: int, factor: float) -> None:
    first = parts[0]
    for found in (
        first + parts[-1], first * factor, first.within(parts[-1]), among(parts),
        clock_time(parts, jobs), PROBED, OF_FEW, OF_MANY, START,
    ):  # fmt: skip
        assert is_ordered(found)


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_pace_of_a_thinner_network_is_a_range(before: float, after: float) -> None:
    assert is_ordered(thinner(before, after))
    assert thinner(before, before) == Seconds.exactly(1.0)


@given(st.lists(st.tuples(DURATIONS, DURATIONS), max_size=12), st.integers(1, 5))
def test_longer_tasks_never_end_sooner(tasks: list[tuple[float, float]], jobs: int) -> None:
    ends = makespan([task for task, _ in tasks], jobs)
    assert ends <= makespan([task + more for task, more in tasks], jobs) * (1 + EXACTLY)
    total = sum(task for task, _ in tasks)
    assert total / jobs * (1 - EXACTLY) <= ends <= total * (1 + EXACTLY)


@given(epochs=st.floats(0.01, 500), more=st.floats(0, 500))
def test_more_epochs_never_pass_fewer_images(epochs: float, more: float) -> None:
    spec = grid(options(Path("nowhere")))[0].spec

    def work(count: float) -> Work:
        recovery = spec.recovery.model_copy(update={"epochs": count})
        changes = {"budget_epochs": count, "recovery": recovery}
        return Work.of(spec.model_copy(update=changes), images(), False, 7)

    less, longer = work(epochs), work(epochs + more)
    assert less.allowed <= longer.allowed
    assert less.aside <= longer.aside
    assert less.forward <= longer.forward


# ---- what is said --------------------------------------------------------------------------------


def test_estimates_are_said_with_their_range() -> None:
    assert str(Seconds(8, 12, 20)) == "12 s (8-20 s)"
    assert str(Seconds(60, 80, 150)) == "80 s (60 s-2.5 min)"
    said = compare(Seconds(186, 252, 360), 300)
    assert said == "estimated 4.2 min (3.1-6.0 min), took 5.0 min"


def test_a_dry_run_shows_what_each_cell_costs_and_what_that_rests_on(tmp_path: Path) -> None:
    chosen = options(tmp_path, methods=["random", "l1norm"], seeds=[0, 1])
    cells = grid(chosen)
    remember(tmp_path, cells[0], 30.0)
    before = sorted(tmp_path.rglob("*"))
    console = Console(width=200, record=True)
    show_grid(cells, chosen, 2, console)
    text = console.export_text()
    done, *others = [line for line in text.splitlines() if " baseline " in line]
    assert re.search(r"done +│ - ", done)
    assert all(re.search(r"to do │ \d+ s \(\d+-\d+ s\)", line) for line in others)
    assert "4 cells: 1 done, 3 to run, 0 not applicable" in text
    assert re.search(r"2 dense networks to make first: \d+ s \(", text)
    assert re.search(r"in all .+ \(.+\) with 2 jobs, from 1 earlier record and a probe of", text)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("workers", "expected"), [(0, 0.021), (1, 0.02), (4, 0.005), (64, 0.001)])
def test_images_on_disk_cost_their_decoding(
    tmp_path: Path, workers: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "seconds_per_image", lambda split: 0.02)
    spec, data = grid(options(tmp_path))[0].spec, load_data("digits", cache_dir=tmp_path)
    asking = Probe(spec, torch.device("cpu"), data, workers)
    assert asking.price("train", 8) == pytest.approx(expected)
    assert asking.price("setup") == 0.001
