"""Boards that were declared: read strictly, and set against the runs that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic
from refusing import refused

from benchmark import protocol
from benchmark.cli import DONE, invoke
from benchmark.holdings import holdings
from benchmark.protocol import Board, declared, owner, read_protocol, standing
from benchmark.record import RunRecord
from benchmark.spec import RunSpec, Seeds, Start
from benchmark.store import Store

ROOT = Path(__file__).parents[1]
TEXT = """
[board.small]
version = "1"
data = "images"
arch = "net20"
checkpoint = "abc"
sweep = "slurm/sweeps/demo.toml"
rows.uniform = ["l1norm", "l1norm + ls", "whitebox (preparation free)"]
rows.none = ["dense_continue"]
targets = [0.3, 0.5]
budget_epochs = 20
seeds = [0, 1]
against = ["random", "l1norm", "dense_continue"]
margin = 0.3
"""
ROWS = 3 * 2 * 2 + 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "protocol.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def board(file: Path) -> Board:
    return read_protocol(file).board["small"]


def spec(method: str = "l1norm", seed: int = 0, target: float = 0.5, **changes: Any) -> RunSpec:
    start = Start(kind="checkpoint", checkpoint="abc")
    return synthetic.spec(method, seed, target, **{"start": start, "baseline": None} | changes)


def test_every_row_is_declared_at_every_target_and_seed(board: Board) -> None:
    found = declared(board)
    assert len(found) == len(set(found)) == ROWS
    assert ("l1norm + ls", "uniform", 0.3, 1) in found
    assert ("dense_continue", "none", 0.0, 1) in found  # removes nothing, so once per seed


def test_what_was_declared_is_counted_and_the_rest_is_missing(board: Board) -> None:
    done = [
        spec(), spec(reconstruct="ls"), spec("whitebox", preparation="free"),
        spec("dense_continue", 1, 0.0, allocation="none"),
    ]  # fmt: skip
    found = standing(board, [synthetic.record(s) for s in done])
    assert (found.declared, found.done, found.deviations) == (ROWS, 4, ())
    assert ("l1norm", "uniform", 0.5, 0) not in found.missing
    assert ("l1norm", "uniform", 0.5, 1) in found.missing


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (spec("hrank"), "hrank (uniform) at 50 % seed 0 ({id}): not declared"),
        (spec(allocation="global"), "l1norm (global) at 50 % seed 0 ({id}): not declared"),
        (spec(seed=2), "l1norm (uniform) at 50 % seed 2 ({id}): not declared"),
        (spec(target=0.6), "l1norm (uniform) at 60 % seed 0 ({id}): not declared"),
        (spec("whitebox"), "whitebox (uniform) at 50 % seed 0 ({id}): not declared"),  # charged
        (spec(budget_epochs=30), "l1norm (uniform) at 50 % seed 0 ({id}): budget 30 epochs"),
        (spec(start=Start(kind="checkpoint", checkpoint="abd")),
         "l1norm (uniform) at 50 % seed 0 ({id}): starts from abd"),
    ],
)  # fmt: skip
def test_what_was_not_declared_is_a_deviation(other: RunSpec, reason: str, board: Board) -> None:
    found = standing(board, [synthetic.record(other)])
    assert found.deviations == (reason.format(id=other.run_id),)
    assert found.done == 0


def test_other_boards_are_not_its_business(board: Board) -> None:
    for other in (spec(arch="net56"), spec(data="others"), spec(track="paper")):
        assert owner({"small": board}, other) is None


def test_runs_of_a_seed_that_start_from_another_dense_network_are_deviations(board: Board) -> None:
    def made(method: str, weights: str, seed: int = 0, **params: Any) -> RunRecord:
        own = spec(method, seed, seeds=Seeds(dense=seed, run=seed), params=params)
        found = synthetic.record(own)
        return found.model_copy(
            update={"dense": found.dense.model_copy(update={"weights": weights})}
        )

    same = [made("l1norm", "a"), made("l1norm", "b", 1)]  # seeds may differ
    assert standing(board, same).deviations == ()
    alone = made("slimming:sparse", "d", start="sparse")  # trains its own, which is no deviation
    others = [made("whitebox", "a"), made("hrank", "c"), alone]
    said = standing(board, [*same, *others]).deviations
    assert [text for text in said if "starts from c, others from a" in text]
    assert not [text for text in said if "starts from a," in text or "starts from d" in text]


def test_where_several_boards_are_declared_start_and_budget_say_whose_a_run_is(file: Path) -> None:
    second = TEXT.replace("[board.small]", "[board.short]").replace("= 20", "= 1")
    third = TEXT.replace("[board.small]", "[board.own]").replace(
        "sweep =", "adapt_epochs = 2\nsweep ="
    )
    file.write_text(TEXT + second + third)
    boards = read_protocol(file).board
    adapted = {"start": Start(kind="adapted", checkpoint="abc")}
    recipe = synthetic.BASELINE.model_copy(update={"epochs": 2.0})
    runs = {
        "small": [spec(), spec("hrank"), spec(budget_epochs=7)],  # the last fits none of them
        "short": [spec(budget_epochs=1), spec("hrank", budget_epochs=1)],
        "own": [spec(**adapted, baseline=recipe)],
    }
    for name, own in runs.items():
        assert [owner(boards, s) for s in own] == [name] * len(own)
    assert owner(boards, spec(arch="net56")) is None
    longer = spec(**adapted, baseline=recipe.model_copy(update={"epochs": 3.0}))
    (said,) = standing(boards["own"], [synthetic.record(longer)]).deviations
    assert said.endswith("start adapted for 3 epochs")
    held = {h.name: len(h.records) for h in holdings(
        read_protocol(file), [synthetic.record(s) for own in runs.values() for s in own]
    )}  # fmt: skip
    assert held == {"small": 3, "short": 2, "own": 1}


def test_the_budget_of_a_control_from_random_weights_is_no_deviation(file: Path) -> None:
    rows = TEXT.replace('"l1norm + ls"', '"width_scaling"')
    file.write_text(rows.replace('checkpoint = "abc"\n', ""))
    fresh = read_protocol(file).board["small"]
    control = synthetic.record(synthetic.from_scratch())  # the budget is of baseline and board
    found = standing(fresh, [control])
    assert (found.deviations, found.done) == ((), 1)


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for own in (spec(), spec("hrank")):
        synthetic.write(Store(tmp_path), synthetic.record(own))
    assert invoke(protocol.main, [str(file), "--results", str(tmp_path)]) == DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"small 1: 1 of {ROWS} declared runs done"
    assert "  missing: l1norm (uniform) at 50 %, seeds 1" in said
    assert "  missing: dense_continue (none) at 0 %, seeds 0, 1" in said
    assert said[-1].startswith("  deviation: hrank (uniform) at 50 % seed 0")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("version", "verson", "board.small.version: Field required"),
        ("seeds = [0, 1]", "seeds = []", "board.small.seeds"),
        ('"l1norm",', '"l1nrm",', "did you mean l1norm"),
        ("margin = 0.3", "margin = 3", "a margin of 0.3 points; declare these"),
        ('"random", "l1norm"', '"random"', "against random, l1norm, dense_continue"),
        ("[board.small]", "[board.small", "protocol.toml: "),
    ],
)
def test_bad_input(
    before: str, after: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(TEXT.replace(before, after, 1))
    assert said in refused(protocol.main, [str(file)], capsys)
