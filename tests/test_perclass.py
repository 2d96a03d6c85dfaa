"""Accuracy per class: labels revealed by margins, means over seeds, and what older records lack."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic as made

from benchmark import classplot, dissectplot, perclass
from benchmark.block import Block, blocks
from benchmark.cli import DONE
from benchmark.columns import Column
from benchmark.differences import differences, read_run
from benchmark.errors import BadInput
from benchmark.record import RunRecord
from benchmark.store import Store
from benchmark.verdict import judge
from methods.api import Plan

LABELS = np.array([0, 0, 1, 1, 2, 2])
UNSURE = -0.5


def arrays(**predicted: list[int]) -> dict[str, np.ndarray]:
    """Predictions on the test split by point; margins tell what is right."""
    found = {}
    for point, classes in predicted.items():
        given = np.array(classes, dtype=np.uint8)
        found[f"test_{point}_class"] = given
        found[f"test_{point}_margin"] = np.where(given == LABELS, 1.0, UNSURE).astype(np.float16)
    return found


def write(store: Store, record: RunRecord, predictions: dict[str, np.ndarray]) -> Path:
    plan = Plan({g: tuple(range(w)) for g, w in record.widths.items()})
    return store.write(record, plan, [], predictions)


def three(method: str = "l1norm", seed: int = 0, **changes: Any) -> RunRecord:
    return made.record(made.spec(method, seed, classes=3), **changes)


def only(root: Path) -> Block:
    (found,) = blocks(root)
    return found


def table(root: Path) -> pd.DataFrame:
    return perclass.class_accuracy(only(root))


def test_shares_by_hand_and_means_over_seeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = {"dense": [0, 0, 1, 1, 2, 2], "before": [0, 0, 0, 0, 0, 0]}
    write(store, three(seed=0), arrays(**whole, recalibrated=[0, 0, 1, 1, 0, 0],
                                       final=[0, 0, 1, 1, 2, 0]))  # fmt: skip
    write(store, three(seed=1), arrays(**whole, recalibrated=[0, 0, 1, 0, 0, 0],
                                       final=[0, 1, 1, 1, 2, 2]))  # fmt: skip
    frame = table(tmp_path)
    assert list(frame["class"]) == [0, 1, 2]
    assert set(frame["n"]) == {2}
    assert set(frame["images"]) == {2}
    assert set(frame["unrevealed"]) == {0}
    assert list(frame["dense"]) == [100, 100, 100]
    assert list(frame["before"]) == [100, 0, 0]
    assert list(frame["recalibrated"]) == [100, 75, 0]
    assert list(frame["final"]) == [75, 100, 75]
    assert list(frame["drop"]) == [25, 0, 25]


def test_what_nobody_gets_right_is_left_out_and_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(), arrays(dense=[0, 0, 1, 1, 2, 0], final=[0, 1, 1, 1, 2, 0]))
    frame = table(tmp_path)
    assert list(frame["images"]) == [2, 2, 1]  # the last image of class 2: always wrong
    assert set(frame["unrevealed"]) == {1}
    assert list(frame["final"]) == [50, 100, 100]
    assert frame["before"].isna().all()


def test_another_run_reveals_labels_for_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(), arrays(final=[1, 1, 1, 1, 2, 0]))
    write(store, three("hrank"), arrays(final=[0, 0, 1, 1, 2, 2]))
    frame = table(tmp_path).set_index(["entry", "class"])
    assert set(frame["unrevealed"]) == {0}
    assert list(frame.loc["l1norm", "final"]) == [0, 100, 50]


def test_a_tie_counts_once_its_label_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tied = arrays(final=[0, 0, 1, 1, 2, 2])
    tied["test_final_margin"][0] = 0
    write(store, three(), tied)
    assert list(table(tmp_path)["images"]) == [1, 2, 2]
    write(store, three("hrank"), arrays(final=[0, 0, 1, 1, 2, 2]))
    assert list(table(tmp_path)["final"]) == [100] * 6


def test_dense_predictions_serve_every_run_with_that_network(tmp_path: Path) -> None:
    """Records of earlier versions and runs from random initialisation have none of their own."""
    store = Store(tmp_path)
    write(store, three(), arrays(dense=[0, 1, 1, 1, 2, 2], final=[0, 0, 1, 1, 2, 2]))
    write(store, three("hrank"), arrays(final=[0, 0, 1, 1, 2, 2]))  # of an earlier version
    scratch = made.record(made.from_scratch(0, classes=3), 0.9, None)
    write(store, scratch, arrays(final=[0, 0, 1, 1, 0, 0]))
    other = three("cpli", 1, dense=0.5)  # another dense network, unknown
    write(store, other, arrays(final=[0, 0, 1, 1, 2, 2]))
    frame = table(tmp_path).set_index(["entry", "class"])
    assert list(frame.loc["hrank", "dense"]) == [50, 100, 100]
    assert list(frame.loc["width_scaling", "drop"]) == [-50, 0, 100]
    assert frame.loc["cpli", "dense"].isna().all()


def test_a_mean_over_some_seeds_is_not_set_against_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(seed=0), arrays(dense=LABELS.tolist(), final=LABELS.tolist()))
    write(store, three(seed=1, dense=0.5), arrays(final=[0, 0, 1, 1, 2, 0]))
    frame = table(tmp_path)
    assert frame["dense"].isna().all()
    assert list(frame["final"]) == [100, 100, 75]


def test_contradicting_labels_are_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(), arrays(final=LABELS.tolist()))
    shuffled = arrays(final=LABELS.tolist())
    shuffled["test_final_class"] = shuffled["test_final_class"][::-1].copy()
    write(store, three("hrank"), shuffled)
    with pytest.raises(BadInput, match="disagree about the labels"):
        table(tmp_path)


def test_other_orders_of_images_are_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(), arrays(final=LABELS.tolist()))
    turned = arrays(final=LABELS.tolist())
    turned["test_final_class"] = turned["test_final_class"][::-1].copy()
    write(store, three("hrank", predictions_order="other"), turned)
    assert set(table(tmp_path)["final"]) == {100}


def test_every_column_is_there_and_typed(tmp_path: Path) -> None:
    write(Store(tmp_path), three(), arrays(final=LABELS.tolist()))
    frame = table(tmp_path)
    assert list(frame) == [c.name for c in perclass.COLUMNS]
    assert all(isinstance(c, Column) for c in perclass.COLUMNS)
    for column in perclass.COLUMNS:
        is_number = pd.api.types.is_float_dtype(frame[column.name])
        assert is_number == (column.decimals is not None), column.name
    empty = tmp_path / "empty"
    made.write(Store(empty), three())  # no margins: nothing is known
    assert list(table(empty)) == [c.name for c in perclass.COLUMNS]
    assert table(empty).empty


def test_the_picture_shows_gains_and_losses(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(), arrays(dense=[0, 1, 1, 1, 2, 2], final=[0, 0, 1, 1, 0, 0]))
    frame = table(tmp_path)
    figure = classplot.classes(frame, "x")
    shown = np.asarray(figure.axes[0].collections[0].get_array())  # type: ignore[union-attr]
    assert shown.ravel().tolist() == [50, 0, -100]
    assert [t.get_text() for t in figure.axes[0].texts] == ["50.0", "0.0", "-100.0"]


def test_there_is_no_picture_without_a_dense_network(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, three(), arrays(final=LABELS.tolist()))
    assert list(dissectplot.figures(only(tmp_path))) == []
    write(store, three("hrank"), arrays(dense=LABELS.tolist(), final=LABELS.tolist()))
    (found,) = dissectplot.figures(only(tmp_path))
    assert found[1].endswith("-classes")


def test_predictions_added_later_are_no_difference_but_others_are(tmp_path: Path) -> None:
    record = three()
    own = arrays(dense=LABELS.tolist(), final=LABELS.tolist())
    new = read_run(write(Store(tmp_path / "new"), record, own))
    old = dataclasses.replace(
        new, arrays={k: v for k, v in new.arrays.items() if "dense" not in k}
    )  # fmt: skip
    assert differences(new, old) == differences(old, new) == []
    said: list[str] = []
    assert judge(old, new, LABELS, same_kind=True, say=said.append) == DONE
    assert "reproduced: equal to the bit" in said[-1]
    less = dataclasses.replace(
        old, arrays={k: v for k, v in old.arrays.items() if k != "test_final_class"}
    )  # fmt: skip
    assert [d.field for d in differences(new, less)] == ["predictions.npz test_final_class"]
    changed = new.arrays | {"test_dense_class": new.arrays["test_dense_class"][::-1].copy()}
    (found,) = differences(new, dataclasses.replace(new, arrays=changed))
    assert found.field == "predictions.npz test_dense_class"
    assert not found.rounded
