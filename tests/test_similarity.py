"""How alike choices are: by hand, at random, from records, and on the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic as made
import torch

from benchmark import alike, likeness, report, similarity
from benchmark import block as blocks
from benchmark.checkpoint import Moment, joined
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.likenesspage import markdown
from benchmark.planning import scores_key
from benchmark.record import RunRecord
from benchmark.spec import Start
from benchmark.store import Stage, Store

G = "layer1.0.conv1"  # of 16 units; the other groups of made records keep all
Keep = dict[str, tuple[int, ...]]


# ---- the arithmetic ------------------------------------------------------------------------------


def test_worked_example() -> None:
    """Group a: 4 units, {0, 1} against {1, 2}. b: 6 units, half against all. c: nothing is gone."""
    dense = {"a": 4, "b": 6, "c": 5}
    one = {"a": [0, 1], "b": [0, 1, 2], "c": [0, 1, 2, 3, 4]}
    found = alike.overlaps(one, {"a": [1, 2]}, dense)
    assert found == {
        "a": alike.Overlap(1, 4, 1.0, 16 / (16 * 3), 2),
        "b": alike.Overlap(3, 9, 3.0, 0.0, 3),
    }
    whole = alike.total(found.values())
    assert whole.share == 2 * 4 / 13
    assert whole.by_chance == 2 * 4 / 13
    assert whole.largest == 2 * 5 / 13
    assert whole.chance_sd == pytest.approx(2 * (1 / 3) ** 0.5 / 13)
    assert whole.beyond == 0.0
    assert math.isnan(found["b"].beyond)  # what all is kept of leaves no choice
    other = alike.overlaps(one, {"a": [0, 1]}, dense)["a"]
    assert (other.share, other.by_chance, other.beyond) == (1.0, 0.5, 1.0)
    apart = alike.overlaps(one, {"a": [2, 3]}, dense)["a"]
    assert (apart.share, apart.beyond) == (0.0, -1.0)
    assert math.isnan(alike.total([]).share)


def test_the_same_choice_overlaps_wholly_and_order_does_not_matter() -> None:
    one, other = {"a": [0, 2, 5], "b": [1]}, {"a": [1, 2], "b": [0, 1, 3]}
    dense = {"a": 6, "b": 4}
    whole = alike.total(alike.overlaps(one, one, dense).values())
    assert (whole.share, whole.largest, whole.beyond) == (1.0, 1.0, 1.0)
    assert alike.overlaps(one, other, dense) == alike.overlaps(other, one, dense)


def test_random_choices_share_what_is_expected_of_them() -> None:
    dense, widths = {"a": 16, "b": 8}, ({"a": 5, "b": 4}, {"a": 9, "b": 2})
    draw, shares, first = np.random.default_rng(0), [], alike.Overlap()
    for _ in range(3000):
        one, other = (
            {g: draw.permutation(dense[g])[:w].tolist() for g, w in part.items()} for part in widths
        )
        first = alike.total(alike.overlaps(one, other, dense).values())
        shares.append(first.share)
    assert first.chance_sd > 0.05
    assert abs(np.mean(shares) - first.by_chance) < 4 * first.chance_sd / 3000**0.5
    assert np.std(shares) == pytest.approx(first.chance_sd, rel=0.05)


def test_rank_correlation_by_hand() -> None:
    one = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([3.0, 1.0]), "c": torch.ones(3)}
    other = {"a": torch.tensor([10.0, 30.0, 20.0]), "b": torch.tensor([-5.0, 5.0]),
             "c": torch.arange(3), "d": torch.ones(2)}  # fmt: skip
    assert alike.rank_correlations(one, other) == pytest.approx({"a": 0.5, "b": -1.0})
    assert alike.rank_correlations(one, {"a": torch.ones(2)}) == {}


# ---- from records --------------------------------------------------------------------------------


def wrote(root: Path, method: str, keep: Keep, seed: int = 0, **changes: Any) -> RunRecord:
    """A record with this plan; the dense network of a seed is shared by its methods."""
    record = made.record(made.spec(method, seed, **changes), title=changes.get("title", ""))
    made.write(Store(root), record, keep)
    return record


def first(units: int, start: int = 0) -> Keep:
    return {G: tuple(range(start, start + units))}


def frame_of(root: Path, **words: Any) -> pd.DataFrame:
    block = blocks.read_block(root, "images/net20")
    assert block is not None
    return likeness.similarity(block, **words)


def pair(frame: pd.DataFrame, one: str, other: str, layer: str = "all") -> dict[str, Any]:
    own = frame[(frame["entry"] == one) & (frame["other"] == other) & (frame["layer"] == layer)]
    (row,) = own.to_dict("records")
    return {str(k): v for k, v in row.items()}


def test_rows_are_paired_by_their_dense_network_and_averaged_over_seeds(tmp_path: Path) -> None:
    for seed, start in ((0, 0), (1, 6)):
        wrote(tmp_path, "l1norm", first(8), seed)
        wrote(tmp_path, "hrank", first(8, start), seed)
    wrote(tmp_path, "random", first(4, 12), 0)
    frame = frame_of(tmp_path, layers=True)
    found = pair(frame, "hrank", "l1norm")
    assert (found["pairs"], found["dense"]) == (2, "the same")
    assert found["overlap"] == 100 * (1 + 2 / 8) / 2
    assert (found["expected"], found["largest"]) == (50.0, 100.0)
    assert found["beyond"] == pytest.approx((1 + (2 - 4) / 4) / 2)
    layer = pair(frame, "hrank", "l1norm", G)  # the only group that is cut
    assert {k: v for k, v in layer.items() if k not in ("layer", "rank")} == {
        k: v for k, v in found.items() if k not in ("layer", "rank")
    }
    own = pair(frame, "hrank", "hrank")  # between seeds: two dense networks
    assert (own["pairs"], own["dense"], own["overlap"]) == (1, "one per seed", 25.0)
    assert pair(frame, "l1norm", "l1norm")["overlap"] == 100.0
    odd = pair(frame, "l1norm", "random")  # widths 8 and 4, nothing in common
    assert (odd["pairs"], odd["overlap"], odd["largest"]) == (1, 0.0, pytest.approx(100 * 8 / 12))
    assert odd["expected"] == pytest.approx(100 * 2 * 2 / 12)
    assert odd["beyond"] == -1.0
    assert not len(frame[(frame["entry"] == "random") & (frame["other"] == "random")])  # one seed


def test_seeds_of_one_checkpoint_have_one_dense_network(tmp_path: Path) -> None:
    start = {"start": Start(kind="checkpoint", checkpoint="c"), "baseline": None}
    for seed in (0, 1):
        run = made.spec("hrank", seed, **start)
        record = made.record(run)
        same = record.dense.model_copy(update={"weights": "c"})
        made.write(Store(tmp_path), record.model_copy(update={"dense": same}), first(8, 2 * seed))
    own = pair(frame_of(tmp_path), "hrank", "hrank")
    assert (own["dense"], own["overlap"]) == ("the same", 75.0)
    assert "dense network of its own" not in markdown(frame_of(tmp_path))


def test_each_choice_is_there_once_and_only_choices_are(tmp_path: Path) -> None:
    """Refitted rows, rows whose preparation is free, and scratch networks choose nothing anew;
    other targets stand apart, other allocations do not."""
    wrote(tmp_path, "l1norm", first(8))
    wrote(tmp_path, "l1norm", first(8), reconstruct="ls")
    wrote(tmp_path, "whitebox", first(8, 4))
    wrote(tmp_path, "whitebox", first(8, 4), preparation="free")
    wrote(tmp_path, "hrank", first(6), allocation="global")
    wrote(tmp_path, "hrank", first(8), target=0.7)
    made.write(Store(tmp_path), made.record(made.from_scratch(), 0.88, None), first(8))
    wrote(tmp_path, "cpli", first(8), budget_epochs=10)  # another table
    frame = frame_of(tmp_path)
    assert sorted(zip(frame["entry"], frame["other"], strict=True)) == [
        ("hrank, global", "l1norm"), ("hrank, global", "whitebox"), ("l1norm", "whitebox"),
    ]  # fmt: skip
    across = pair(frame, "hrank, global", "l1norm")
    assert (across["allocation"], across["other_allocation"]) == ("global", "uniform")


def test_rows_without_a_dense_network_in_common_say_so(tmp_path: Path) -> None:
    wrote(tmp_path, "l1norm", first(8))
    record = made.record(made.spec("slimming"), dense=0.8)  # of its own
    made.write(Store(tmp_path), record, first(8))
    frame = frame_of(tmp_path)
    found = pair(frame, "l1norm", "slimming")
    assert found["pairs"] == 0
    assert math.isnan(found["overlap"])
    assert "| 2 slimming | -" in " ".join(markdown(frame).split())


def test_lost_and_damaged_plans_are_left_out(tmp_path: Path) -> None:
    records = [wrote(tmp_path, m, first(8)) for m in ("l1norm", "hrank", "random")]
    folders = [Store(tmp_path).run_folder(r.spec) for r in records]
    (folders[0] / "plan.json").unlink()
    (folders[1] / "plan.json").write_text('{"keep": {"elsewhere": [1]}}')
    assert list(frame_of(tmp_path)["pairs"]) == [0, 0, 0]


def test_the_page_shows_overlap_beside_chance(tmp_path: Path) -> None:
    wrote(tmp_path, "l1norm", first(8))
    wrote(tmp_path, "hrank", first(8, 4))
    text = markdown(frame_of(tmp_path))
    assert "## How alike the choices are" in text
    sd = 100 * 2 * (8 * 8 * 8 * 8 / (256 * 15)) ** 0.5 / 16
    assert f"50.0 (50.0 ± {sd:.1f})" in text
    assert markdown(frame_of(tmp_path).iloc[:0]) == ""


def test_the_report_has_it_where_there_is_something_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.page._library", lambda keep: ("", ""))  # takes seconds to make
    wrote(tmp_path, "l1norm", first(8))
    report.build(tmp_path, "none")
    assert not (tmp_path / "leaderboard/similarity.csv").exists()
    wrote(tmp_path, "hrank", first(8, 4))
    report.build(tmp_path)
    found = pd.read_csv(tmp_path / "leaderboard/similarity.csv")
    assert list(found["overlap"]) == [50.0]
    (figure,) = (tmp_path / "figures").glob("*-similarity.svg")
    page = (tmp_path / "leaderboard/images-net20.md").read_text()
    assert "How alike the choices are" in page
    assert figure.name in page


# ---- the command ---------------------------------------------------------------------------------


def keep_scores(root: Path, record: RunRecord, scores: list[float]) -> None:
    tensors = {G: torch.tensor(scores)}
    whole = joined(found=Moment(tensors, {}), net=Moment({}, {}), trainer=Moment({}, {}))
    key = scores_key(record.spec, False)
    Store(root).publish_stage("scores", key, Stage(whole.tensors, whole.facts))


def test_the_command_writes_tables_and_figures_and_says_where_scores_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    up = [float(i) for i in range(16)]
    keep_scores(tmp_path, wrote(tmp_path, "l1norm", first(8)), up)
    hrank = wrote(tmp_path, "hrank", first(8, 4), params={"num_images": 500})
    keep_scores(tmp_path, hrank, up[::-1])
    wrote(tmp_path, "random", first(8, 8))
    wrote(tmp_path, "cpli", first(8, 8))
    wrote(tmp_path, "hrank", first(8), target=0.7, params={"num_images": 500})
    assert invoke(similarity.main, ["--results", str(tmp_path), "--target", "0.5", "--png"]) == DONE
    out = capsys.readouterr().out
    assert "scores of 2 of 4 runs" in out
    assert "cpli: 1 run without: it decides without scores" in out
    assert "random: 1 run without: not kept under" in out
    whole = pd.read_csv(tmp_path / "similarity/similarity.csv")
    assert set(whole["target"]) == {50.0}
    assert pair(whole, "hrank", "l1norm")["rank"] == -1.0
    assert math.isnan(pair(whole, "hrank", "random")["rank"])
    layers = pd.read_csv(tmp_path / "similarity/similarity-layers.csv")
    assert set(layers["layer"]) == {G}
    text = (tmp_path / "similarity/similarity.md").read_text()
    assert "## How alike the scores are" in text
    assert "- scores of 2 of 4 runs" in text
    names = sorted(p.name for p in (tmp_path / "similarity").glob("*.[ps][nv]g"))
    assert [n.split("-")[-1] for n in names] == ["beyond.png", "beyond.svg", "rank.png", "rank.svg"]


def test_the_command_takes_any_set_of_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [
        wrote(tmp_path, m, first(8, i)).run_id for i, m in enumerate(("l1norm", "hrank", "cpli"))
    ]
    words = ["--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert invoke(similarity.main, [*ids[:2], *words]) == DONE
    found = pd.read_csv(tmp_path / "out/similarity.csv")
    assert list(zip(found["entry"], found["other"], strict=True)) == [("hrank", "l1norm")]
    capsys.readouterr()
    assert invoke(similarity.main, [ids[0], *words]) == BAD_INPUT
    assert "nothing to compare" in capsys.readouterr().err
    assert invoke(similarity.main, ["0123", *words]) == BAD_INPUT
    assert "no run under" in capsys.readouterr().err
