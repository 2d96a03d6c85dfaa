"""Results that are no smaller network: how a run of theirs goes, and that no table mixes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import synthetic
import tiny
import torch
from test_execute import go, make_spec, without_times

from benchmark import lanetable, load, plots, tables
from benchmark.block import read_block
from benchmark.context import Context
from benchmark.execute import run_one
from benchmark.kinds import LANES, TITLES, lane_of, scope_text
from benchmark.matchups import boards
from benchmark.options import options_from
from benchmark.planning import BadMethod
from benchmark.record import RunRecord
from benchmark.report import build
from benchmark.store import Store
from benchmark.sweep import Cell, expand
from methods import Entry, find
from methods.api import Allocation, KernelPlan, Method

LABELS = ("exp", "fbs")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of both lanes, and one of a smaller network."""
    root = tmp_path_factory.mktemp("results")
    for label in (*LABELS, "l1norm"):
        go(make_spec(label), root)
    return root


def read(label: str, root: Path) -> RunRecord:
    return Store(root).read(make_spec(label))


# ---- a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS)
def test_the_record_says_what_became_of_the_network(label: str, results: Path) -> None:
    record = read(label, results)
    assert record.counted["lane"] == {"exp": "kernel sparsity", "fbs": "dynamic"}[label]
    assert record.spec.result == find(label).result
    assert record.widths == record.dense_widths
    assert 0.4 <= record.flops_reduction <= 0.42
    assert record.flops_reduction == 1 - record.pruned.macs / record.dense.cost.macs
    assert record.params_reduction == 0 if label == "exp" else record.params_reduction < 0
    recovery = next(r for r in record.spent.rows if r["phase"] == "recovery")
    computed = recovery["macs"] / recovery["images"] / 3  # forward and backward
    assert computed >= record.dense.cost.macs  # training saves nothing
    assert read("l1norm", results).counted == {}


def test_masks_are_kept_with_the_plan(results: Path) -> None:
    spec = make_spec("exp")
    folder = Store(results).run_folder(spec)
    content = json.loads((folder / "plan.json").read_text())
    assert content["keep"] == {}
    kept = 0
    for layer, mask in content["masks"].items():
        bits = np.frombuffer(base64.b64decode(mask["bits"]), np.uint8)
        size = int(np.prod(mask["shape"]))
        kept += int(np.unpackbits(bits, count=size).sum())
        assert layer != "conv1"
    assert kept == read("exp", results).counted["kernels_kept"]
    plain = Store(results).run_folder(make_spec("l1norm"))
    assert json.loads((plain / "plan.json").read_text()).keys() == {"run_id", "keep"}


@pytest.mark.parametrize("label", LABELS)
def test_the_finished_network_can_be_loaded(label: str, results: Path) -> None:
    record = read(label, results)
    model = load.load_pruned(record.run_id, results)
    source = tiny.data().test.source(record.spec.data)
    x, y = source.batch(torch.arange(tiny.TEST))
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean()
    assert float(right) == pytest.approx(record.final.test_top1)
    if label == "exp":
        zeros = sum(int((p == 0).sum()) for p in model.parameters())
        count = sum(p.numel() for p in model.parameters())
        assert count - zeros == record.counted["params_not_zero"]


@pytest.mark.parametrize("label", LABELS)
def test_a_run_from_kept_stages_gives_the_same_bits(
    label: str, results: Path, tmp_path: Path
) -> None:
    """The plan is read from disk, gates and masks with it; and a run from nothing agrees."""
    first = read(label, results)
    folder = Store(results).run_folder(first.spec)
    folder.rename(tmp_path / "first")
    again = go(first.spec, results)
    assert without_times(again) == without_times(first)
    if label == "exp":
        assert without_times(go(first.spec, tmp_path / "new")) == without_times(first)


class Killed(BaseException):
    """Stands for a kill."""


def killing(phase: str, share: float) -> Callable[[str, int, int], None]:
    def progress(now: str, done: int, total: int) -> None:
        if now == phase and done >= share * total:
            raise Killed

    return progress


@pytest.mark.parametrize(
    ("label", "phase"),
    [
        ("exp", "recovery"),
        ("fbs", "prepare-2"),
        pytest.param("fbs", "recovery", marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted(
    label: str, phase: str, results: Path, tmp_path: Path
) -> None:
    spec = make_spec(label)
    with pytest.raises(Killed):
        go(spec, tmp_path, progress=killing(phase, 0.6), checkpoint_seconds=0.0)
    resumed = go(spec, tmp_path)
    assert resumed.environment["resumed_from"]
    assert without_times(resumed) == without_times(read(label, results))


@dataclass(frozen=True)
class Undeclared(Method):
    """Returns masks and says nothing of it."""

    allocations: ClassVar[tuple[Allocation, ...]] = ("uniform",)

    def prune(self, net: Any, budget: Any, trainer: Any) -> KernelPlan:
        gone = torch.zeros(net.weight(net.convs[-1]).shape[:2], dtype=torch.bool)
        return KernelPlan({}, dict.fromkeys(net.convs[-1:], gone))


def test_a_method_must_say_what_its_result_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("l1norm", flops_reduction=0.0)
    entry = Entry("l1norm", "", Undeclared, {"card": {"title": "x"}}, "")
    context = Context(Store(tmp_path), tiny.data())
    from benchmark import planning

    monkeypatch.setattr(planning, "plan_of", lambda m, n, keep, tensors: KernelPlan(keep, tensors))
    with pytest.raises(BadMethod, match="its result is channels, its plan is one of kernels"):
        run_one(spec, entry, context)


# ---- the grid ------------------------------------------------------------------------------------

BASE: dict[str, Any] = {"arch": "resnet8", "dataset": "digits", "preset": "demo"}


def grid(*methods: str, **words: Any) -> list[Cell]:
    return expand(options_from(BASE | {"methods": list(methods)} | words), tiny.data())


def test_controls_stand_beside_their_own_lane() -> None:
    def added(*methods: str) -> set[str]:
        return {c.spec.method.label for c in grid(*methods) if c.added}

    of_channels = {"random", "l1norm", "width_scaling", "dense_continue"}
    assert added("hrank") == of_channels
    assert added("exp") == {"random_kernels", "dense_continue"}
    assert added("fbs") == {"fbs", "random_gates", "dense_continue"}  # with preparation for free
    assert added("fbs:static") == {"fbs:static"} | of_channels
    assert added("exp", "hrank") == of_channels | {"random_kernels"}


def test_specs_of_a_lane() -> None:
    (exp, *_), (fbs, *_), (static, *_) = grid("exp"), grid("fbs"), grid("fbs:static")
    assert (exp.spec.result, fbs.spec.result, static.spec.result) == (
        "kernels", "dynamic", "channels",
    )  # fmt: skip
    refit = [c for c in grid("exp", "l1norm", reconstruct=["none", "ls"]) if not c.added]
    assert [(c.entry.label, c.spec.reconstruct) for c in refit] == [
        ("exp", "none"), ("l1norm", "none"), ("l1norm", "ls"),
    ]  # fmt: skip
    (rounded, *_) = grid("exp", round_to=8)
    assert rounded.status == "n/a"
    assert "makes no width smaller" in rounded.blocked


# ---- tables --------------------------------------------------------------------------------------

COUNTED = {
    "kernels": {"lane": LANES["kernels"], "kernels": 200, "kernels_kept": 90,
                "params_not_zero": 4000, "outputs_only_reduction": 0.48},
    "dynamic": {"lane": LANES["dynamic"], "macs_sd": 5.0, "macs_p95": 510_000,
                "gate_macs_mean": 900.0, "channels": {"a": 10, "b": 30},
                "channels_mean": {"a": 4.0, "b": 16.0}, "channels_ever": {"a": 9, "b": 27}},
}  # fmt: skip


def made(label: str, seed: int, result: str, final: float) -> RunRecord:
    run = synthetic.spec(label, seed, result=result)
    counted = COUNTED.get(result, {})
    entry = find(label)
    return synthetic.record(
        run, final, title=entry.title, control=entry.is_control, counted=counted
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    for seed in range(3):
        for label, result, final in (
            ("l1norm", "channels", 0.90), ("random", "channels", 0.89),
            ("exp", "kernels", 0.95), ("random_kernels", "kernels", 0.94),
            ("fbs", "dynamic", 0.96),
        ):  # fmt: skip
            synthetic.write(Store(root), made(label, seed, result, final + seed / 1000))
    return root


def board_of(root: Path) -> pd.DataFrame:
    block = read_block(root, "images/net20")
    assert block is not None
    return block.board


def test_a_lane_has_a_table_and_a_board_of_its_own(mixed: Path) -> None:
    board = board_of(mixed)
    by_table = {t: sorted(part["method"]) for t, part in board.groupby("table")}
    assert sorted(by_table.values()) == [["exp", "random_kernels"], ["fbs"], ["l1norm", "random"]]
    assert board.groupby("table")["board"].nunique().tolist() == [1, 1, 1]
    assert board["board"].nunique() == 3
    ranks = board.set_index("method")["rank"]
    assert ranks.isna().all()  # one method in each: nothing to be ranked with
    for head, part in tables.tables(board):
        lanes = set(part["scope"].map(lane_of))
        assert len(lanes) == 1
        title = TITLES.get(lanes.pop(), "images")
        assert head.startswith(title)


def test_comparisons_stay_within_a_lane(mixed: Path) -> None:
    pairs = {
        (match.entry["method"], match.reference["method"])
        for _, part in board_of(mixed).groupby("table")
        for _, found in boards(part)
        for match in found
    }
    assert pairs == {("l1norm", "random"), ("exp", "random_kernels")}


def test_a_lane_that_was_tried_in_vain_stays_out_of_the_channel_table(mixed: Path) -> None:
    spec = synthetic.spec("exp", 7, result="kernels")
    Store(mixed).write_attempt(spec, "failed", "out of memory")
    board = board_of(mixed)
    (place,) = set(board.loc[board["method"] == "exp", "table"])
    assert place not in set(board.loc[board["method"] == "l1norm", "table"])


def test_what_is_counted_has_a_table_of_its_own(mixed: Path) -> None:
    block = read_block(mixed, "images/net20")
    assert block is not None
    frame = lanetable.lanes(block).set_index("method")
    assert set(frame.index) == {"exp", "random_kernels", "fbs"}
    exp, fbs = frame.loc["exp"], frame.loc["fbs"]
    assert (exp["kernels_kept"], exp["outputs_only"], exp["params_not_zero"]) == (45, 48, 4000)
    assert (fbs["channels_used"], fbs["channels_ever"], fbs["macs_p95"]) == (50, 90, 510_000)
    assert np.isnan(exp["channels_used"])
    assert np.isnan(fbs["kernels_kept"])
    text = lanetable.markdown(lanetable.lanes(block))
    assert text.count("## What is counted: Kernel sparsity") == 1
    assert text.count("## What is counted: Dynamic") == 1


def test_a_report_shows_lanes_apart(mixed: Path) -> None:
    build(mixed, "none")
    page = (mixed / "leaderboard" / "images-net20.md").read_text()
    first, *others = page.split("\n## ")[1:]
    heads = {part.splitlines()[0].split(":")[0]: part for part in (first, *others)}
    assert {"images, net20", TITLES["kernel sparsity"], TITLES["dynamic"]} <= heads.keys()
    assert "EXP" not in heads["images, net20"]
    assert "FBS" not in heads["images, net20"]
    assert "L1-norm" not in heads[TITLES["kernel sparsity"]]
    assert "Dense hardware computes" in heads[TITLES["kernel sparsity"]]
    assert (mixed / "leaderboard" / "lanes.csv").is_file()


def test_no_figure_of_widths_where_all_stay(mixed: Path) -> None:
    block = read_block(mixed, "images/net20")
    assert block is not None
    stems = [(table, stem) for table, stem, *_ in plots.figures(block)]
    widths = {table for table, stem in stems if stem.endswith("-widths")}
    board = block.board
    assert widths == set(board.loc[board["method"] == "l1norm", "table"])


def test_the_scope_of_a_row_tells_its_lane() -> None:
    plain = synthetic.spec("l1norm")
    assert scope_text(plain) == plain.scope == "inner"
    assert lane_of(scope_text(plain)) == ""
    for result, lane in LANES.items():
        assert lane_of(scope_text(synthetic.spec("exp", result=result))) == lane
