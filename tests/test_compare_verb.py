"""Two finished runs side by side: figures computed by hand, and what may not be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import compare, paired
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.differences import Run
from benchmark.errors import BadInput
from benchmark.record import RunRecord
from benchmark.settings import settings
from benchmark.sidebyside import compared
from benchmark.store import Store
from methods.api import Plan
from tests.synthetic import from_scratch, point, record, spec

IMAGES, CLASSES = 40, 10
LABELS = np.arange(IMAGES) % CLASSES
POINTS = {"before": 10, "recalibrated": 20, "final": 36}  # images that are right


def arrays(**right: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions that are right at these images (booleans); elsewhere the next class is said."""
    found = {}
    for name, correct in right.items():
        said = np.where(correct, LABELS, (LABELS + 1) % CLASSES)
        found[f"test_{name}_class"] = said.astype(np.uint8)
        found[f"test_{name}_margin"] = np.where(correct, 1.5, -0.5).astype(np.float16)
    return found


def first(count: int) -> np.ndarray:
    return np.arange(IMAGES) < count


def run(
    made: RunRecord,
    right: dict[str, np.ndarray] | None = None,
    keep: dict[str, list[int]] | None = None,
) -> Run:
    """A run in memory whose record says what its predictions give."""
    shown = {p: first(n) for p, n in POINTS.items()} | (right or {})
    figures = {
        "before_recovery": point(shown["before"].mean()),
        "recalibrated": point(shown["recalibrated"].mean()),
        "final": point(shown["final"].mean()),
    }
    changed = made.model_copy(update=figures)
    plan = keep or {g: list(range(w)) for g, w in made.widths.items()}
    return Run(Path("x"), changed, plan, [], arrays(**shown))


A = record(spec("l1norm"))
B = record(spec("hrank", params={"num_images": 500}))
# B loses images 0 and 10 (class 0) and 1 (class 1), and wins 36 (class 6).
FINAL_B = first(37) & ~np.isin(np.arange(IMAGES), [0, 10, 1])


# ---- accuracy ------------------------------------------------------------------------------------


def test_paired_figures_by_hand() -> None:
    found = compared(run(A), run(B, {"final": FINAL_B}))
    final = found.accuracy[-1]
    assert (final.name, final.a, final.b) == ("final", 90.0, 85.0)
    assert (final.only_a, final.only_b) == (3, 1)
    assert final.difference == pytest.approx(-5.0)
    assert final.low is not None
    assert final.high is not None
    assert final.high + final.low == pytest.approx(-10.0)
    # 42 values with the added pair (Bonett and Price): their sum is -2, that of their squares 6.
    # 2.0195 is the 97.5 % point of t on 41 degrees; coarse draws may widen it, never narrow it.
    half = 100 * 2.0195 * math.sqrt((6 / 42 - (2 / 42) ** 2) / 41)
    assert half <= (final.high - final.low) / 2 <= 1.1 * half
    assert final.verdict == "undecided"
    assert found.images == IMAGES
    assert found.unpaired == ""
    assert found.scope == "images only, conditional on these two runs"


def test_the_interval_is_that_of_the_paired_statistics() -> None:
    own = paired.difference(FINAL_B[None], first(36)[None])
    final = compared(run(A), run(B, {"final": FINAL_B})).accuracy[-1]
    assert (final.low, final.high) == (own.interval_95.low, own.interval_95.high)


def test_the_order_of_the_runs_turns_the_signs() -> None:
    there = compared(run(A), run(B, {"recalibrated": first(0)})).accuracy[1]
    back = compared(run(B, {"recalibrated": first(0)}), run(A)).accuracy[1]
    assert (there.difference, there.verdict) == (-50.0, "worse")
    assert (back.difference, back.verdict) == (50.0, "better")
    assert (there.only_a, back.only_b) == (20, 20)
    assert there.low == pytest.approx(-back.high if back.high is not None else math.nan)


def test_classes_that_change_most() -> None:
    found = compared(run(A), run(B, {"final": FINAL_B})).classes
    assert [(c.label, c.a, c.b, c.images) for c in found] == [
        (0, 4, 2, 4),
        (1, 4, 3, 4),
        (6, 3, 4, 4),
    ]


def test_an_image_that_nobody_has_right_belongs_to_no_class() -> None:
    # Labels of images 36 to 39 (classes 6 to 9) are known to nobody: three images are left of each.
    worse = compared(run(A), run(B, {"final": first(36) & (LABELS != 7)})).classes
    assert [(c.label, c.images, c.a, c.b) for c in worse] == [(7, 3, 3, 0)]


def test_other_images_are_never_paired() -> None:
    other = record(B.spec, predictions_order="p")
    found = compared(run(A), run(other))
    assert "another order" in found.unpaired
    assert all(p.difference is None and p.verdict is None for p in found.accuracy)
    assert (found.images, found.classes) == (None, ())


def test_without_predictions_the_rest_is_still_said() -> None:
    bare = run(B)
    bare.arrays.clear()
    found = compared(run(A), bare)
    assert found.unpaired == "no predictions of B"
    assert found.accuracy[-1].b == 90.0
    assert found.kept is not None


def test_predictions_that_contradict_their_record_are_not_used() -> None:
    lying = run(B)
    lying = Run(lying.folder, record(B.spec, 0.2), lying.keep, [], lying.arrays)
    assert "recorded accuracy of B" in compared(run(A), lying).unpaired


def test_predictions_that_contradict_each_other_are_not_used() -> None:
    odd = run(B)
    odd.arrays["test_final_class"][:] = (LABELS + 1) % CLASSES
    assert "disagree about the labels" in compared(run(A), odd).unpaired


# ---- what may be compared ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "bf16"}, "precision (fp32 and bf16)"),
        ({"protocol": 2}, "protocol (1 and 2)"),
        ({"scope": "all"}, "scope (inner and all)"),
        ({"data": "pictures"}, "data (images and pictures)"),
        ({"min_width": 0.3}, "min_width (10 and 30)"),
        ({"budget_epochs": 10}, "budget_epochs (20 and 10)"),
    ],
)
def test_what_stands_in_other_tables_has_no_verdict(changes: dict[str, Any], said: str) -> None:
    found = compared(run(A), run(record(spec("hrank", **changes)), {"recalibrated": first(0)}))
    assert said in found.apart
    assert [p.verdict for p in found.accuracy] == [None, None, None]
    assert found.accuracy[1].difference == -50.0  # still shown


def test_what_shares_a_table_has_a_verdict() -> None:
    found = compared(run(A), run(B))
    assert found.apart == ""
    assert all(p.verdict for p in found.accuracy)


def test_a_random_start_stands_in_the_table_of_the_same_training() -> None:
    scratch = record(from_scratch(), 0.88, None)
    found = compared(run(A), run(scratch))
    assert found.apart == ""
    assert "B starts from random weights" in found.cautions
    assert (found.dense.a, found.dense.b) == (92.0, None)
    assert found.kept is not None
    assert not found.kept.same_dense


def test_what_else_lies_behind_a_difference_is_said() -> None:
    spent = B.spent.model_copy(update={"free": 1500})
    other = record(spec("hrank", 1, 0.7), 0.1, 0.99, floor_share=0.6, at_chance=True, spent=spent)
    text = "\n".join(compared(run(A), run(other)).cautions)
    assert "50.0 and 70.0 % of the FLOPs" in text
    assert "different dense networks" in text
    assert "B was granted 1,500 images" in text
    assert "B ends at chance" in text
    assert "the minimum width decided most layers of B" in text
    assert "dense accuracy of B is above 98 %" in text
    assert " A " not in text.replace("of A", "")
    assert compared(run(A), run(B)).cautions == ()


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="both are run"):
        compared(run(A), run(A))


# ---- settings, kept units, cost ------------------------------------------------------------------


def test_settings_that_differ_by_name() -> None:
    found = {v.name: (v.a, v.b) for v in settings(A.spec, B.spec)}
    assert found == {
        "method.name": ("l1norm", "hrank"),
        "method.params.num_images": (None, 500),
    }
    scratch = {v.name: (v.a, v.b) for v in settings(A.spec, from_scratch())}
    assert scratch["start.kind"] == ("baseline", "random")
    assert scratch["baseline"][1] is None
    assert scratch["baseline"][0]["epochs"] == 30.0
    assert "seeds.run" not in scratch
    assert settings(A.spec, A.spec) == ()


def test_kept_units_against_chance_by_hand() -> None:
    sizes = {"widths": {"one": 4, "two": 2}, "dense_widths": {"one": 8, "two": 8}}
    changes: dict[str, Any] = {"groups": 2} | sizes
    ours = record(A.spec).model_copy(update={"groups": ["one", "two"], **sizes})
    theirs = record(B.spec).model_copy(update={**changes, "groups": ["one", "two"]})
    mine = run(ours, keep={"one": [0, 1, 2, 3], "two": [0, 1]})
    yours = run(theirs, keep={"one": [2, 3, 4, 5, 6, 7]})  # "two" is whole
    found = compared(mine, yours).kept
    assert found is not None
    one, two = found.layers
    assert (one.a, one.b, one.shared, one.by_chance) == (4, 6, 2, 3.0)
    assert (two.a, two.b, two.shared, two.by_chance) == (2, 8, 2, 2.0)
    assert (found.a, found.b, found.shared, found.by_chance) == (6, 14, 4, 5.0)
    assert found.share == pytest.approx(100 * 4 / 6)
    # Drawing 6 of 8 of which 4 are A's: variance 6 * (4 / 8) * (4 / 8) * (2 / 7) = 3 / 7.
    assert found.chance_sd == pytest.approx(math.sqrt(3 / 7))
    assert found.same_dense


def test_other_networks_share_no_units() -> None:
    wide = dict.fromkeys(B.groups, 32)
    assert compared(run(A), run(B.model_copy(update={"dense_widths": wide}))).kept is None


def test_seconds_stand_beside_each_other_on_one_kind_of_machine_only() -> None:
    here, there = ({"cpu": name, "device": "cpu"} for name in ("x", "y"))
    a, same = (run(record(r.spec, environment=here, seconds=s)) for r, s in ((A, 5), (B, 7)))
    found = compared(a, same)
    assert ("seconds", 5.0, 7.0) in [(v.name, v.a, v.b) for v in found.costs]
    assert (found.no_seconds, found.environment) == ("", ())
    apart = compared(a, run(record(B.spec, environment=there)))
    assert "seconds" not in [v.name for v in apart.costs]
    assert apart.no_seconds == "other hardware: x and y"
    assert [(v.name, v.a, v.b) for v in apart.environment] == [("hardware", "x", "y")]
    unknown = compared(run(A), run(B))
    assert unknown.no_seconds == "other hardware: unknown and unknown"


def test_images_and_training_cost() -> None:
    rows = [
        {"phase": "prepare-1", "kind": "charged", "images": 5000, "epochs": 5.0, "macs": 10**12,
         "seconds": 1.0, "requested": 5000},
        {"phase": "recovery", "kind": "charged", "images": 15000, "epochs": 15.0,
         "macs": 3 * 10**12, "seconds": 1.0, "requested": 15000},
    ]  # fmt: skip
    spent = B.spent.model_copy(update={"rows": rows})
    costs = compared(run(A), run(record(B.spec, spent=spent))).costs
    found = {v.name: (v.a, v.b) for v in costs}
    assert found["images_allowed"] == (20_000, 20_000)
    assert found["images_charged"] == (20_000, 20_000)
    assert found["images_preparation"] == (0, 5000)
    assert found["images_forward"] == (50, 0)
    assert found["training_gmacs"] == (30.0, 4000.0)


# ---- the command ---------------------------------------------------------------------------------


def published(root: Path, *runs: Run) -> list[str]:
    for made in runs:
        plan = Plan({g: tuple(k) for g, k in made.keep.items()})
        Store(root).write(made.record, plan, [], made.arrays)
    return [made.record.run_id for made in runs]


def test_the_command_by_beginnings_of_ids(tmp_path: Path, capsys: Any) -> None:
    one, other = published(tmp_path, run(A), run(B, {"final": FINAL_B}))
    assert invoke(compare.main, [one[:8], other[:8], "--results", str(tmp_path)]) == DONE
    said = capsys.readouterr().out
    words = " ".join(said.split())
    assert "May be compared: both belong in one table." in said
    assert "method.name l1norm hrank" in words
    assert "final 90.00 85.00 -5.00" in words
    assert " 3 1 undecided" in words
    assert "40 test images, paired" in words
    assert "images only, conditional on these two runs" in words
    assert "class 0 4 to 2 of 4 (-2)" in words
    assert "all layers 144 72 72 72 36.0" in words


def test_the_command_says_that_two_are_never_compared(tmp_path: Path, capsys: Any) -> None:
    half = record(spec("hrank", precision="bf16"))
    one, other = published(tmp_path, run(A), run(half))
    assert invoke(compare.main, [one, other, "--results", str(tmp_path)]) == DONE
    said = capsys.readouterr().out
    assert "Not to be compared, they differ in precision (fp32 and bf16): no verdict" in said
    assert not {"undecided", "better", "equivalent"} & set(said.split())


def test_json_holds_the_same_facts(tmp_path: Path, capsys: Any) -> None:
    one, other = published(tmp_path, run(A), run(B, {"final": FINAL_B}))
    assert invoke(compare.main, [one, other, "--json", "--results", str(tmp_path)]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert [r["run_id"] for r in found["runs"]] == [one, other]
    assert found["accuracy"][-1]["only_a"] == 3
    assert found["kept"]["by_chance"] == 36.0
    assert found["settings"][1] == {"name": "method.params.num_images", "a": None, "b": 500}


def test_mistakes_are_one_line(tmp_path: Path, capsys: Any) -> None:
    one, _ = published(tmp_path, run(A), run(B))
    place = ["--results", str(tmp_path)]
    assert invoke(compare.main, [one, one[:6], *place]) == BAD_INPUT
    assert invoke(compare.main, [one, "ffff", *place]) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"error: both are run {one}")
    assert "matches 'ffff'" in said[1]
