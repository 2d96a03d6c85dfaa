"""Comparisons of a board, from records with predictions: by hand, and with nothing to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic as made

from benchmark import answers, blockwise, family, frames, matchups, paired, standing
from benchmark import record as record_mod
from benchmark.block import PREDICTIONS, Block, blocks
from benchmark.columns import LEADERBOARD
from benchmark.comparisons import COLUMNS
from benchmark.granted import NOT_CLAIMED, PAYS
from benchmark.spec import Seeds, Start
from benchmark.store import Store
from benchmark.study import study
from benchmark.tables import csv_text
from methods.api import Plan
from tests.test_paired import right, simulate

CLASSES = 10
DENSE = {"target": 0.0, "allocation": "none"}


def publish(
    store: Store,
    method: str,
    rows: np.ndarray,  # (S, N) booleans
    target: float = 0.5,
    seeds: Sequence[int] | None = None,
    record: Mapping[str, Any] | None = None,
    dense: float = 0.92,
    source: str = "",
    **changes: Any,
) -> list[str]:
    """Finished runs that got these images right; their ids. `record`: fields of the records."""
    labels = np.arange(rows.shape[1]) % CLASSES
    ids = []
    for seed, row in zip(seeds or range(len(rows)), rows, strict=True):
        run = made.spec(method, seed, target, **changes)
        if run.start.kind == "checkpoint":
            run = run.model_copy(update={"seeds": Seeds(dense=None, run=seed)})
        own = run.method.model_copy(update={"source": source})
        run = run.model_copy(update={"method": own})
        found = made.record(run, float(row.mean()), dense, **dict(record or {}))
        arrays = {
            answers.CLASS: np.where(row, labels, (labels + 1) % CLASSES).astype(np.uint8),
            answers.MARGIN: np.where(row, 1, -1).astype(np.float16),
        }
        store.write(found, Plan({g: tuple(range(w)) for g, w in found.widths.items()}), [], arrays)
        ids.append(run.run_id)
    return ids


def only_block(root: Path) -> Block:
    (found,) = blocks(root)
    return found


def pair(frame: pd.DataFrame, entry: str, reference: str, target: float = 50) -> pd.Series:
    found = frame[(frame["entry"] == entry) & (frame["reference"] == reference)]
    found = found[found["target"] == target]
    assert len(found) == 1
    return found.iloc[0]


def pairs(frame: pd.DataFrame, kind: str, target: float = 50) -> set[tuple[str, str]]:
    own = frame[(frame["family"] == kind) & (frame["target"] == target)]
    return set(zip(own["entry"], own["reference"], strict=True))


def drawn(shape: tuple[int, int], state: int, accuracy: float = 0.8) -> np.ndarray:
    return np.random.default_rng(state).random(shape) < accuracy


# ---- by hand -------------------------------------------------------------------------------------


def test_two_seeds_by_hand(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "random", right("11110000", "11111111"))
    publish(store, "hrank", right("11111100", "11111110"))
    row = pair(study(only_block(tmp_path)).comparisons, "hrank", "random")
    assert (row["family"], row["n"], row["images"]) == ("declared", 2, 8)
    assert row["per_seed"] == "0:+25.00 1:-12.50"
    assert row["mean"] == pytest.approx(6.25)
    assert (row["scope"], row["verdict"]) == (paired.CONDITIONAL, "undecided")
    assert np.isnan(row["p_value"])


def test_intervals_of_the_family_hold_together_and_others_stand_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = {name: drawn((6, 200), i) for i, name in enumerate(["random", "l1norm", "hrank", "x"])}
    ids = {name: publish(store, name, values)[0] for name, values in rows.items()}
    block = only_block(tmp_path)
    frame = study(block).comparisons
    cells = dict(zip(block.runs["run_id"], block.runs["cell"], strict=True))
    board = family.board({cells[ids[name]]: values for name, values in rows.items()})
    names = [("hrank", "random"), ("hrank", "l1norm"), ("l1norm", "random"), ("x", "random"),
             ("x", "l1norm")]  # fmt: skip
    assert pairs(frame, "declared") == set(names)
    expected = family.compare(board, [(cells[ids[a]], cells[ids[b]]) for a, b in names])
    for (one, other), wanted in zip(names, expected, strict=True):
        row = pair(frame, one, other)
        assert row["mean"] == pytest.approx(wanted.mean)
        assert row["low_95"] == pytest.approx(wanted.interval_95.low, abs=1e-6)
        assert row["high_90"] == pytest.approx(wanted.interval_90.high, abs=1e-6)
        assert np.isnan(row["p_value"])
    assert pairs(frame, "exploratory") == {("hrank", "x")}
    alone = pair(frame, "hrank", "x")
    wanted_alone = paired.difference(rows["hrank"], rows["x"])
    assert alone["low_95"] == pytest.approx(wanted_alone.interval_95.low, abs=0.1)
    assert alone["p_value"] == pytest.approx(wanted_alone.p_value)
    together = pair(frame, "hrank", "random")
    assert together["high_95"] - together["mean"] > 1.2 * (alone["high_95"] - alone["mean"])


def test_a_p_value_needs_six_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for i, name in enumerate(["x", "y"]):
        publish(store, name, drawn((5, 100), i))
    assert np.isnan(pair(study(only_block(tmp_path)).comparisons, "x", "y")["p_value"])


def test_verdicts_of_clear_cases(tmp_path: Path) -> None:
    """Nothing differs in 4,000 images, or a tenth of them does."""
    store = Store(tmp_path)
    base = np.tile(np.arange(4000) % 10 < 8, (5, 1))
    publish(store, "random", base)
    publish(store, "same", base)
    publish(store, "up", base | (np.arange(4000) % 10 == 8))
    publish(store, "down", base & (np.arange(4000) % 10 > 0))
    frame = study(only_block(tmp_path)).comparisons
    found = {e: pair(frame, e, "random")["verdict"] for e in ("same", "up", "down")}
    assert found == {"same": "equivalent", "up": "better", "down": "worse"}
    assert set(frame["scope"]) == {paired.CROSSED}


# ---- who is compared with whom -------------------------------------------------------------------


def test_references_are_found_by_allocation_and_dense_training_joins_every_target(
    tmp_path: Path,
) -> None:
    store, rows = Store(tmp_path), drawn((2, 40), 0)
    publish(store, "dense_continue", rows, **DENSE)
    for target in (0.5, 0.7):
        publish(store, "random", rows, target)
        publish(store, "random", rows, target, allocation="global")
        publish(store, "l1norm", rows, target)
        publish(store, "hrank", rows, target, allocation="global")
    frame = study(only_block(tmp_path)).comparisons
    for target in (50, 70):
        assert pairs(frame, "declared", target) == {
            ("hrank", "random, global"), ("hrank", "l1norm"), ("hrank", "dense_continue"),
            ("l1norm", "random, uniform"), ("l1norm", "dense_continue"),
        }  # fmt: skip
    assert set(frame["target"]) == {50, 70}
    assert pair(frame, "hrank", "l1norm")["note"] == "allocation global against uniform"
    assert pair(frame, "hrank", "random, global")["note"] == ""
    assert pair(frame, "hrank", "dense_continue")["note"] == ""


def test_refitted_rows_and_other_controls_are_exploratory(tmp_path: Path) -> None:
    store, rows = Store(tmp_path), drawn((2, 40), 0)
    for method in ("random", "l1norm", "hrank"):
        publish(store, method, rows)
    for method in ("random", "l1norm"):
        publish(store, method, rows, reconstruct="ls")
    publish(store, "width_scaling", rows)
    frame = study(only_block(tmp_path)).comparisons
    assert pairs(frame, "declared") == {
        ("hrank", "random"), ("hrank", "l1norm"), ("l1norm", "random"),
        ("l1norm + LS", "random"), ("l1norm + LS", "l1norm"),
    }  # fmt: skip
    assert pairs(frame, "exploratory") == {
        ("hrank", "l1norm + LS"), ("random + LS", "random"),
        *((m, c) for m in ("hrank", "l1norm", "l1norm + LS")
          for c in ("random + LS", "width_scaling")),
    }  # fmt: skip


def test_a_users_own_file_is_no_reference(tmp_path: Path) -> None:
    store, rows = Store(tmp_path), drawn((2, 40), 0)
    publish(store, "random", rows, source="abc", record={"control": False})
    publish(store, "hrank", rows)
    frame = study(only_block(tmp_path)).comparisons
    assert pairs(frame, "declared") == set()
    assert pairs(frame, "exploratory") == {("hrank", "random")}


def test_a_crowd_of_methods_is_compared_with_the_references_alone(tmp_path: Path) -> None:
    store, rows = Store(tmp_path), drawn((1, 40), 0)
    publish(store, "random", rows)
    for i in range(matchups.MOST + 1):
        publish(store, f"m{i}", rows)
    frame = study(only_block(tmp_path)).comparisons
    assert len(frame) == matchups.MOST + 1
    assert set(frame["family"]) == {"declared"}


@pytest.mark.parametrize(
    ("free", "verdict"), [("0" * 400, PAYS), ("1" * 400, "better"), ("1" * 320 + "0" * 80, PAYS)]
)
def test_what_depends_on_who_pays_is_not_claimed(tmp_path: Path, free: str, verdict: str) -> None:
    """Better by 10 points when charged; free: worse, better, or no difference at all."""
    store = Store(tmp_path)
    publish(store, "random", right("1" * 320 + "0" * 80))
    publish(store, "hrank", right("1" * 360 + "0" * 40))
    publish(store, "hrank", right(free), preparation="free")
    frame = study(only_block(tmp_path)).comparisons
    assert set(frame["entry"]) == {"hrank"}
    row = pair(frame, "hrank", "random")
    assert row["verdict"] == verdict
    gain = {"0" * 400: "-80.00", "1" * 400: "+20.00"}.get(free, "+0.00")
    assert row["note"] == f"preparation free: {gain}, n = 1"


IMAGE = np.arange(4000) % 10
BASE = np.tile(IMAGE < 8, (5, 1))
UP = BASE | (IMAGE == 8)  # 10 points more
DOWN = BASE & (IMAGE > 0)  # 10 points less
PREPARED = record_mod.Spent(
    allowed=20_000, charged=20_000, free=0,
    rows=[{"phase": "prepare-1", "kind": "charged", "images": 9, "epochs": 1.0, "macs": 1,
           "seconds": 1.0, "requested": 9}, *made.ledger(1)],
)  # fmt: skip


def against_random(root: Path, own: np.ndarray, **record: Any) -> pd.Series:
    """hrank, charged, in what is already under this root."""
    publish(Store(root), "random", BASE)
    publish(Store(root), "hrank", own, record=record)
    return pair(study(only_block(root)).comparisons, "hrank", "random")


def test_a_free_row_that_lacks_a_seed_supports_no_claim(tmp_path: Path) -> None:
    """Nor does it overturn one: it fails on its single seed."""
    publish(Store(tmp_path), "hrank", DOWN[:1], seeds=[3], preparation="free")
    row = against_random(tmp_path, UP)
    reason = "preparation free not paired: without seed 0, 1, 2, 4"
    assert (row["verdict"], row["withheld"]) == (NOT_CLAIMED, reason)
    assert row["note"] == f"preparation free: -10.00, n = 1; {reason}"
    assert row["mean"] == pytest.approx(10)
    assert row["low_95"] > 9


def test_seeds_that_only_the_free_row_has_do_not_count(tmp_path: Path) -> None:
    more = range(5, 10)
    publish(Store(tmp_path), "random", BASE, seeds=more)
    rows = np.concatenate([UP, np.zeros_like(BASE)])
    publish(Store(tmp_path), "hrank", rows, preparation="free")
    row = against_random(tmp_path, UP)
    assert (row["verdict"], row["note"]) == ("better", "preparation free: +10.00, n = 5")


@pytest.mark.parametrize("seeds", [(), (7, 8)])
def test_a_method_that_prepares_needs_its_free_row(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    if seeds:
        publish(Store(tmp_path), "hrank", UP[:2], seeds=seeds, preparation="free")
    row = against_random(tmp_path, UP, spent=PREPARED)
    assert row["verdict"] == NOT_CLAIMED
    assert row["withheld"] == (
        "preparation free not paired: without seed 0, 1, 2, 3, 4" if seeds
        else "entry has a row with preparation charged only"
    )  # fmt: skip
    block_row = study(only_block(tmp_path)).differences.iloc[0]
    assert block_row["withheld"] == row["withheld"]
    assert np.isnan(block_row["free_mean"])


def test_a_reference_that_prepares_needs_its_free_row_too(tmp_path: Path) -> None:
    publish(Store(tmp_path), "l1norm", DOWN, record={"spent": PREPARED})
    publish(Store(tmp_path), "hrank", UP, preparation="free")
    against_random(tmp_path, UP)
    row = pair(study(only_block(tmp_path)).comparisons, "hrank", "l1norm")
    assert row["withheld"] == "reference has a row with preparation charged only"


def test_what_is_undecided_does_not_depend_on_who_pays(tmp_path: Path) -> None:
    chance = np.where(BASE, 0.1, 0.4)  # as many are lost as are gained
    own = BASE ^ (np.random.default_rng(4).random(BASE.shape) < chance)
    assert own.mean() > BASE.mean()
    publish(Store(tmp_path), "hrank", DOWN, preparation="free")
    row = against_random(tmp_path, own)
    assert row["verdict"] == "undecided"
    assert "preparation free: -10.00, n = 5" in row["note"]


@pytest.mark.parametrize(
    ("free", "verdict"), [(BASE, "equivalent"), (UP, "undecided"), (DOWN, "undecided")]
)
def test_equivalence_holds_both_ways_or_not_at_all(
    tmp_path: Path, free: np.ndarray, verdict: str
) -> None:
    publish(Store(tmp_path), "hrank", free, preparation="free")
    assert against_random(tmp_path, BASE)["verdict"] == verdict


@pytest.mark.parametrize(
    ("facts", "dense", "reason"),
    [({"at_chance": True}, 0.92, "entry at chance (5 of 5 seeds)"),
     ({"floor_share": 0.9}, 0.92, "entry floor-bound"), ({}, 0.99, "saturated")],
)  # fmt: skip
def test_rows_that_show_nothing_of_the_method_are_not_claimed(
    tmp_path: Path, facts: dict[str, Any], dense: float, reason: str
) -> None:
    publish(Store(tmp_path), "random", BASE, dense=dense)
    publish(Store(tmp_path), "hrank", UP, record=facts, dense=dense)
    found = study(only_block(tmp_path))
    row = pair(found.comparisons, "hrank", "random")
    assert (row["verdict"], row["withheld"], row["note"]) == (NOT_CLAIMED, reason, reason)
    assert row["mean"] == pytest.approx(10)
    difference = found.differences.iloc[0]
    assert (difference["withheld"], difference["note"]) == (reason, reason)


def test_other_allocations_and_missing_seeds_are_not_claimed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "random", BASE)
    publish(store, "hrank", UP, allocation="global")
    publish(store, "x", UP)
    store.write_attempt(made.spec("x", 5), "failed", "killed")
    frame = study(only_block(tmp_path)).comparisons
    found = {e: pair(frame, e, "random")["withheld"] for e in ("hrank", "x")}
    assert found == {"hrank": "allocation global against uniform", "x": "entry incomplete"}
    assert set(frame.loc[frame["family"] == "declared", "verdict"]) == {NOT_CLAIMED}


# ---- what limits a comparison --------------------------------------------------------------------


def test_marks_and_one_dense_network_are_noted(tmp_path: Path) -> None:
    store, rows = Store(tmp_path), drawn((2, 40), 0)
    start: dict[str, Any] = {"start": Start(kind="checkpoint", checkpoint="c"), "baseline": None}
    for method, facts in (("random", {}), ("hrank", {"at_chance": True, "floor_share": 0.9})):
        publish(store, method, rows, record=facts, **start)
    lost = made.spec("random", 2, **start).model_copy(update={"seeds": Seeds(dense=None, run=2)})
    store.write_attempt(lost, "failed", "x")
    row = study(only_block(tmp_path)).comparisons.iloc[0]
    assert row["note"] == (
        "conditional on one dense network; entry at chance (2 of 2 seeds); entry floor-bound; "
        "reference incomplete"
    )


def test_one_checkpoint_that_seeds_adapted_is_noted_and_forbids_no_claim(tmp_path: Path) -> None:
    store, rows = Store(tmp_path), drawn((5, 400), 0)
    start = {"start": Start(kind="adapted", checkpoint="c")}
    publish(store, "random", rows, **start)
    publish(store, "hrank", np.minimum(rows + drawn((5, 400), 1), 1), **start)
    row = study(only_block(tmp_path)).comparisons.iloc[0]
    assert row["note"] == "conditional on one checkpoint"
    assert row["verdict"] == "better"


def test_rows_that_start_from_two_dense_networks_are_compared_and_claim_nothing(
    tmp_path: Path,
) -> None:
    store, rows = Store(tmp_path), drawn((5, 400), 0)
    more = np.minimum(rows + drawn((5, 400), 1), 1)
    publish(store, "random", rows)
    publish(store, "hrank", more[:4])
    publish(store, "hrank", more[4:], seeds=[4], dense=0.9)  # another network of seed 4
    publish(store, "l1norm", more, seeds=range(5), dense=0.92)
    found = study(only_block(tmp_path))
    apart = pair(found.comparisons, "hrank", "random")
    assert apart["withheld"] == apart["note"] == "two dense networks on seed 4"
    assert (apart["verdict"], apart["n"]) == (NOT_CLAIMED, 5)
    assert pair(found.comparisons, "l1norm", "random")["verdict"] == "better"
    blocked = found.differences.set_index(["method", "reference_method"])
    assert blocked.loc[("hrank", "random"), "withheld"] == "two dense networks on seed 4"
    assert blocked.loc[("l1norm", "random"), "withheld"] == ""


def test_saturated_boards_have_verdicts_and_say_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for method in ("random", "hrank"):
        publish(store, method, drawn((2, 40), 0), dense=0.99)
    row = study(only_block(tmp_path)).comparisons.iloc[0]
    assert row["verdict"] == "undecided"
    assert row["note"] == "saturated"


def test_odd_records_are_left_out_with_the_reason(tmp_path: Path) -> None:
    store, rows = Store(tmp_path), drawn((6, 400), 0)
    publish(store, "random", rows)
    publish(store, "x", rows[:1])
    publish(store, "x", rows[1:2], seeds=[1], record={"predictions_order": "other"})
    publish(store, "x", np.roll(rows[2:3], 1, axis=1)[:, :300], seeds=[2])
    missing, damaged, wrong, labels = publish(store, "x", rows[2:], seeds=[3, 4, 5, 6])
    block = only_block(tmp_path)
    paths = {i: store.run_folder(block.records[i].spec) / PREDICTIONS for i in block.records}
    paths[missing].unlink()
    paths[damaged].write_bytes(b"PK\x03\x04 cut")
    with np.load(paths[wrong]) as stored:
        arrays = dict(stored)
    half = np.arange(400) < 200
    arrays[answers.CLASS] = np.where(half, 0, arrays[answers.CLASS]).astype(np.uint8)
    arrays[answers.MARGIN] = np.where(half, -1, arrays[answers.MARGIN]).astype(np.float16)
    np.savez(paths[wrong], **arrays)
    with np.load(paths[labels]) as stored:
        arrays = dict(stored)
    arrays[answers.CLASS] = np.roll(arrays[answers.CLASS], 3)
    arrays[answers.MARGIN] = np.abs(arrays[answers.MARGIN])
    np.savez(paths[labels], **arrays)
    row = pair(study(block).comparisons, "x", "random")
    assert (row["n"], row["per_seed"]) == (1, "0:+0.00")
    assert row["note"].split("; ") == [
        f"entry seed {seeds} left out: {reason}"
        for reason, seeds in sorted({
            answers.OTHER_ACCURACY: "5", answers.OTHER_LABELS: "6", answers.MISSING: "3",
            answers.OTHER_ORDER: "1, 2", answers.DAMAGED: "4",
        }.items())
    ]  # fmt: skip


def test_two_runs_that_disagree_about_labels_are_both_left_out() -> None:
    classes = np.array([[1, 2, 3], [1, 2, 4]], dtype=np.uint8)
    margins = np.ones((2, 3), np.float16)
    assert answers.contradicting(classes, margins).tolist() == [True, True]
    third = np.concatenate([classes, classes[:1]])
    assert answers.contradicting(third, np.ones((3, 3))).tolist() == [False, True, False]
    silent = np.where([[True] * 3, [True, True, False]], margins, -margins)
    assert not answers.contradicting(classes, silent).any()


def test_records_without_predictions_have_rows_that_say_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in made.three("random", (0.9,) * 3) + made.three("hrank", (0.8,) * 3):
        made.write(store, record)
    found = study(only_block(tmp_path))
    (row,) = found.comparisons.to_dict("records")
    assert (row["n"], row["verdict"]) == (0, "")
    assert row["note"].startswith("no seed in common with predictions; entry seed 0, 1, 2 left out")
    assert found.standings.empty
    assert found.differences.empty
    assert found.board["near_best"].isna().all()


# ---- seeds ---------------------------------------------------------------------------------------


def test_a_newcomer_with_one_seed_takes_nothing_from_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for i, name in enumerate(["random", "hrank", "y"]):
        publish(store, name, drawn((5, 300), i))
    before = study(only_block(tmp_path)).comparisons
    publish(store, "new", drawn((1, 300), 9), seeds=[3])
    frame = study(only_block(tmp_path)).comparisons
    assert pair(frame, "new", "random")["n"] == 1
    assert pair(frame, "new", "random")["scope"] == paired.CONDITIONAL
    for entry in ("hrank", "y"):
        old, row = pair(before, entry, "random"), pair(frame, entry, "random")
        assert (row["n"], row["mean"], row["per_seed"]) == (5, old["mean"], old["per_seed"])
        # two of three comparisons: 3.33 % instead of 5 %, so a little wider
        assert 1 < (row["high_95"] - row["mean"]) / (old["high_95"] - old["mean"]) < 1.3


def test_order_of_records_changes_nothing(tmp_path: Path) -> None:
    rows = {name: drawn((5, 200), i) for i, name in enumerate(["random", "l1norm", "hrank", "x"])}
    texts = []
    for root, names in ((tmp_path / "a", list(rows)), (tmp_path / "b", list(rows)[::-1])):
        for name in names:
            publish(Store(root), name, rows[name])
        found = study(only_block(root))
        texts.append([csv_text(found.comparisons, COLUMNS),
                      csv_text(found.differences, blockwise.COLUMNS),
                      csv_text(found.board, LEADERBOARD)])  # fmt: skip
    assert texts[0] == texts[1]
    assert texts[0][0] == csv_text(study(only_block(tmp_path / "a")).comparisons, COLUMNS)


def test_columns_are_typed() -> None:
    frame = frames.typed([{"mean": 1, "note": "x"}], COLUMNS)
    assert list(frame) == [c.name for c in COLUMNS]
    assert all((frame[c.name].dtype == "float64") == (c.decimals is not None) for c in COLUMNS)
    assert all(c.meaning for c in COLUMNS + blockwise.COLUMNS + standing.COLUMNS)


# ---- standings -----------------------------------------------------------------------------------


def test_who_may_be_the_best_of_a_board(tmp_path: Path) -> None:
    store, image = Store(tmp_path), np.arange(4000)
    base = np.tile(image % 10 < 8, (5, 1))
    publish(store, "random", np.ones_like(base))
    publish(store, "hrank", base)
    publish(store, "x", base ^ (image < 2))
    publish(store, "far", base & (image % 10 > 0))
    publish(store, "chance", base, record={"at_chance": True})
    publish(store, "floor", base, record={"floor_share": 0.9})
    publish(store, "new", base[:1], seeds=[2])
    publish(store, "apart", base, allocation="global")
    found = study(only_block(tmp_path))
    rows = found.board.set_index("method")
    assert rows["near_best"].dropna().to_dict() == {"hrank": 1, "x": 1, "far": 0}
    assert rows.loc["far", "lead"] == pytest.approx(-10)
    assert rows.loc["far", "lead_low"] < -9.9
    assert rows.loc["far", "lead_high"] == 0
    assert rows["rank"].notna().sum() >= 3
    assert list(found.board.columns) == [c.name for c in LEADERBOARD]


# ---- of a block ----------------------------------------------------------------------------------


def test_the_difference_of_a_block_averages_its_targets(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = {(m, t): drawn((6, 300), i) for i, (m, t) in enumerate(
        (m, t) for m in ("random", "hrank") for t in (0.5, 0.7))}  # fmt: skip
    for (method, target), values in rows.items():
        publish(store, method, values, target)
    publish(store, "dense_continue", drawn((6, 300), 8), **DENSE)
    frame = study(only_block(tmp_path)).differences
    row = frame[frame["reference_method"] == "random"].iloc[0]
    wanted = paired.difference_over(
        [(rows["hrank", t], rows["random", t]) for t in (0.5, 0.7)], draws=50
    )
    assert (row["targets"], row["n"], row["interval_scope"]) == ("50 70", 6, paired.CROSSED)
    assert row["mean"] == pytest.approx(wanted.mean)
    assert row["error_seeds"] == pytest.approx(wanted.spread.seeds)
    assert row["error_images"] == pytest.approx(wanted.spread.images)
    assert row["high_95"] == pytest.approx(wanted.spread.around(wanted.mean, 0.025).high)
    pairs_of = {tuple(r) for r in frame[["method", "reference_method", "targets"]].to_numpy()}
    assert pairs_of == {("hrank", "random", "50 70"), ("hrank", "dense_continue", "50 70")}


def test_a_block_whose_sign_depends_on_who_pays_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for target, free in ((0.5, DOWN), (0.7, BASE)):
        publish(store, "random", BASE, target)
        publish(store, "hrank", UP, target)
        publish(store, "hrank", free, target, preparation="free")
    (row,) = study(only_block(tmp_path)).differences.to_dict("records")
    assert row["note"] == f"{PAYS}; preparation free: -5.00, n = 5"
    assert row["withheld"] == PAYS
    assert row["free_mean"] == pytest.approx(-5)


def test_a_block_is_paired_over_the_same_targets(tmp_path: Path) -> None:
    """The free row is there at one of two, where it is worse."""
    store = Store(tmp_path)
    for target in (0.5, 0.7):
        publish(store, "random", BASE, target)
        publish(store, "hrank", UP, target, record={"spent": PREPARED})
    publish(store, "hrank", DOWN, preparation="free")
    (row,) = study(only_block(tmp_path)).differences.to_dict("records")
    assert row["withheld"] == "entry has a row with preparation charged only"
    assert np.isnan(row["free_mean"])


# ---- known truth ---------------------------------------------------------------------------------


def null_boards(root: Path, times: int, seeds: int, images: int, sd: float) -> pd.DataFrame:
    """Equal methods in all cells: a target each, so that one block holds all boards."""
    store, names = Store(root), ["random", "l1norm", "x", "y"]
    for i in range(times):
        draw = np.random.default_rng(500 + i)
        rows = simulate(draw, [0.93] * len(names), seeds, images, sd)
        for name, values in zip(names, rows, strict=True):
            publish(store, name, values, 0.1 + 0.8 * i / times)
    return study(only_block(root)).comparisons


def test_false_verdicts_are_rare_where_nothing_differs(tmp_path: Path) -> None:
    """16 boards of 5 comparisons: with 5 % of boards each, more than 3 have less than 1 %."""
    frame = null_boards(tmp_path, 16, 5, 300, 0.8)
    declared = frame[frame["family"] == "declared"]
    assert len(declared) == 16 * 5
    false = declared["verdict"].isin(["better", "worse"]).groupby(declared["target"]).any()
    assert false.sum() <= 3
    outside = (declared["low_95"] > 0) | (declared["high_95"] < 0)
    assert outside.groupby(declared["target"]).any().sum() <= 3
    assert declared["mean"].abs().max() > 0.3
