"""What was spent, phase by phase, and what a method adds over controls that spend the same."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import synthetic
from test_against import block_of

from benchmark import costplot, costs, expenses, looks, plots
from benchmark.columns import names
from benchmark.record import RunRecord, Spent
from benchmark.spec import Start


def phase(name: str, kind: str, images: int, macs: int, seconds: float) -> dict[str, Any]:
    """Of a training split of 1,000 images."""
    return {"phase": name, "kind": kind, "images": images, "epochs": images / 1000, "macs": macs,
            "seconds": seconds, "requested": images}  # fmt: skip


ROWS = [
    phase("prepare-1", "charged", 4000, 12_000_000_000, 4.0),
    phase("scoring", "free", 1000, 3_000_000_000, 1.0),
    phase("scoring", "forward", 500, 500_000_000, 0.5),
    phase("recalibration", "forward", 250, 125_000_000, 0.25),
    phase("recovery", "charged", 16_000, 24_000_000_000, 8.0),
]


def spending(rows: list[dict[str, Any]]) -> Spent:
    return Spent(allowed=20_000, charged=20_000, free=1000, rows=rows)


def budget(*records: RunRecord) -> dict[str, dict[str, Any]]:
    frame = costs.budget(block_of(records))
    assert list(frame.columns) == names(costs.COLUMNS)
    return {f"{row['entry']} {row['target']:g}": row for row in frame.to_dict("records")}  # type: ignore[misc]


def test_every_phase_by_hand() -> None:
    """The dense network has 10^6 MACs and trained for 30 epochs of 1,000 images."""
    found = costs.spent(synthetic.record(synthetic.spec(), spent=spending(ROWS)))
    assert (found.dense_epochs, found.dense_gmacs) == (30, 3 * 30_000 * 1e6 / 1e9)
    assert (found.prepare_epochs, found.prepare_gmacs) == (5, 15)
    assert (found.recovery_epochs, found.recovery_gmacs) == (16, 24)
    assert found.free_epochs == 1
    assert (found.spent_epochs, found.spent_gmacs) == (51, 129)
    assert (found.forward_images, found.forward_gmacs) == (750, 0.625)
    assert found.training_seconds == 13


def test_a_random_start_has_no_dense_training_and_a_checkpoint_an_unknown_one() -> None:
    scratch = costs.spent(synthetic.record(synthetic.from_scratch(), 0.9, None))
    assert (scratch.dense_gmacs, scratch.spent_gmacs) == (0, 30)
    start = Start(kind="checkpoint", checkpoint="c")
    given = costs.spent(synthetic.record(synthetic.spec(start=start, baseline=None)))
    assert given.recovery_gmacs == 30
    assert all(math.isnan(v) for v in (given.dense_epochs, given.dense_gmacs, given.spent_gmacs))


def test_of_an_adapted_checkpoint_only_the_adaptation_is_known() -> None:
    start = Start(kind="adapted", checkpoint="c")
    recipe = synthetic.BASELINE.model_copy(update={"epochs": 2.0})
    runs = [synthetic.spec("l1norm", 0, start=start, baseline=recipe, budget_epochs=b)
            for b in (16, 20)]  # fmt: skip
    records = [synthetic.record(run, spent=spending(ROWS)) for run in runs]
    found = costs.spent(records[0])
    assert all(math.isnan(v) for v in (found.dense_epochs, found.dense_gmacs, found.spent_gmacs))
    assert costs.dense_training(records[0]) == (2_000, 3 * 2_000 * 10**6)
    whole = expenses.dense_training(records)  # both runs share the network
    assert (whole.networks, whole.images, whole.macs) == (1, 2_000, 3 * 2_000 * 10**6)


def test_cells_are_means_over_seeds() -> None:
    rows = [r | {"macs": 3 * r["macs"]} for r in ROWS]
    row = budget(
        synthetic.record(synthetic.spec(seed=0), 0.90, spent=spending(ROWS), seconds=10.0),
        synthetic.record(synthetic.spec(seed=1), 0.92, spent=spending(rows), seconds=20.0),
    )["l1norm 50"]
    assert row["final_mean"] == pytest.approx(91)
    assert (row["n"], row["prepare_gmacs"], row["recovery_gmacs"]) == (2, 30, 48)
    assert (row["spent_gmacs"], row["seconds"], row["training_seconds"]) == (168, 15, 13)


def test_seconds_of_several_machines_are_empty() -> None:
    row = budget(*[
        synthetic.record(synthetic.spec(seed=i), environment={"cpu": f"kind {i}"})
        for i in range(2)
    ])["l1norm 50"]  # fmt: skip
    assert math.isnan(row["seconds"])
    assert math.isnan(row["training_seconds"])


def controlled() -> list[RunRecord]:
    record, spec = synthetic.record, synthetic.spec
    dense = spec("dense_continue", 0, 0.0, allocation="none")
    return [
        record(spec("hrank", 0), 0.90), record(spec("hrank", 0, 0.7), 0.80),
        record(spec("random", 0), 0.88), record(spec("random", 0, 0.7), 0.81),
        record(spec("l1norm", 0), 0.905), record(dense, 0.93),
        record(spec("hrank", 0, 0.5, preparation="free"), 0.95),
        record(synthetic.from_scratch(0), 0.89, None),
    ]  # fmt: skip


def test_what_a_method_adds_over_its_own_budget() -> None:
    rows = budget(*controlled())
    gains = [rows["hrank 50"][f"over_{name}"] for name in ("random", "l1norm", "dense_continue")]
    assert gains == [pytest.approx(2), pytest.approx(-0.5), pytest.approx(-3)]
    later = rows["hrank 70"]
    assert later["over_random"] == pytest.approx(-1)
    assert later["over_dense_continue"] == pytest.approx(-13)
    assert math.isnan(later["over_l1norm"])  # not there at 70 %
    assert math.isnan(rows["random 50"]["over_random"])
    assert rows["random 50"]["over_dense_continue"] == pytest.approx(-5)
    assert rows["width_scaling 50"]["over_random"] == pytest.approx(1)
    (free,) = [row for row in rows.values() if row["preparation"] == "free"]
    assert math.isnan(free["over_random"])  # it may spend more than they may


@pytest.mark.parametrize(("epochs", "stands"), [(20, True), (40, False)])
def test_another_budget_is_no_control(epochs: float, stands: bool) -> None:
    """The paper track has recipes of several lengths in one table. A row of reference that trained
    for longer says nothing about this one."""
    record, spec = synthetic.record, synthetic.spec
    control = spec("random", 0, track="paper", budget_epochs=epochs)
    frame = costs.budget(
        block_of([record(spec("hrank", 0, track="paper"), 0.9), record(control, 0.8)])
    )
    assert frame["table"].nunique() == 1
    assert frame["over_random"].notna().sum() == stands


def test_a_row_of_another_allocation_is_no_control() -> None:
    record, spec = synthetic.record, synthetic.spec
    dense = record(spec("dense_continue", 0, 0.0, allocation="none"), 0.93)
    rows = budget(record(spec("hrank", 0, allocation="global"), 0.9), dense,
                  record(spec("random"), 0.88), record(spec("l1norm"), 0.89),
                  record(spec("l1norm", allocation="global"), 0.85))  # fmt: skip
    own = rows["hrank 50"]
    assert math.isnan(own["over_random"])
    assert own["over_l1norm"] == pytest.approx(5)
    assert own["over_dense_continue"] == pytest.approx(-3)


def test_a_crowd_of_methods_leaves_room_for_the_points() -> None:
    found = block_of(
        synthetic.record(synthetic.spec(f"m{i}", 0, t), 0.8, title=f"Method number {i} of many")
        for i in range(40)
        for t in (0.5, 0.7)
    )
    ((table, _, _, budget_figure),) = costplot.figures(found)
    look = looks.appearances(found.board)[table]
    for figure in (budget_figure, plots.accuracy(found.board, found.runs, look)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of axes that collapse
            figure.draw_without_rendering()
        assert all(axes.get_window_extent().height > 150 for axes in figure.axes)


def test_the_figure_has_every_row_and_dense_in_each_panel() -> None:
    found = block_of(controlled())
    ((_, stem, _, figure),) = costplot.figures(found)
    assert stem.endswith("-budget")
    panels = figure.axes
    assert [axes.get_title(loc="left")[:9] for axes in panels] == ["target 50", "target 70"]
    points = [
        sorted((round(float(x), 2), round(float(y), 1)) for line in axes.lines
               for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))
        for axes in panels
    ]  # fmt: skip
    # 10^12 MACs: 0.03 from scratch, 0.09 for the dense network, 0.12 with its recovery
    assert points[1] == [(0.09, 92.0), (0.12, 80.0), (0.12, 81.0), (0.12, 93.0)]
    assert [y for _, y in points[0]] == [89.0, 92.0, 88.0, 90.0, 90.5, 93.0, 95.0]
    assert {x for x, _ in points[0]} == {0.03, 0.09, 0.12}


def test_costs_after_a_checkpoint_are_drawn_and_said_to_be_so() -> None:
    start = Start(kind="checkpoint", checkpoint="c")
    spec = synthetic.spec(start=start, baseline=None)
    ((_, _, _, figure),) = costplot.figures(block_of([synthetic.record(spec, 0.9)]))
    (axes,) = figure.axes
    assert "preparation and recovery only" in axes.get_xlabel()
    ((x,),) = [line.get_xdata() for line in axes.lines]
    assert x == pytest.approx(0.03)
