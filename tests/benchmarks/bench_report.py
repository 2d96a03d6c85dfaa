"""Records to one frame: ours (validated, joined, tidy) against json.load and json_normalize.

Speed is reported, never asserted; what is asserted is that both see the same runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark import frames
from benchmark.store import Store

sys.path.append(str(Path(__file__).parents[1]))  # tests/, when only this folder is collected
import synthetic as made

RUNS = 300


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    store, methods = Store(folder), ("l1norm", "hrank", "slimming", "whitebox")
    for i in range(RUNS):
        target, seed = (0.3, 0.5, 0.7)[i // 4 % 3], i // 12
        run = made.spec(methods[i % 4], seed, target)
        facts = made.class_masks(9, 64) if i % 4 == 3 else {}
        made.write(store, made.record(run, 0.9 - 0.001 * seed, groups=9, method_facts=facts))
    return folder


def ours(root: Path) -> pd.DataFrame:
    return frames.load(root)


def naive(root: Path) -> pd.DataFrame:
    """What a notebook does."""
    paths = root.glob("runs/*/*/*/*/record.json")
    return pd.concat([pd.json_normalize(json.load(path.open())) for path in paths])


@pytest.mark.benchmark(group="records to frame")
@pytest.mark.parametrize("read", [ours, naive])
def test_read(benchmark: BenchmarkFixture, root: Path, read: object) -> None:
    frame = benchmark.pedantic(read, args=(root,), rounds=5, warmup_rounds=1)
    assert frame["run_id"].nunique() == len(frame) == RUNS
    final = frame["test_final"] / 100 if "test_final" in frame else frame["final.test_top1"]
    assert final.mean() == pytest.approx(0.888)


@pytest.mark.benchmark(group="frame to leaderboard")
def test_leaderboard(benchmark: BenchmarkFixture, root: Path) -> None:
    runs = frames.load(root)
    board = benchmark.pedantic(frames.leaderboard, args=(runs,), rounds=3)
    assert len(board) == 12
    assert (board["n"] == 25).all()
