"""Killed at any moment, a run ends as if nothing had happened: same record, same weights."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import killing
import pytest
import tiny

from benchmark import checkpoint
from benchmark.cifar_resnet import CifarResNet
from benchmark.store import Store
from benchmark.tasks import is_finished

METHODS = ["whitebox", "slimming", "cpli", "hrank", "dense_continue"]  # the last: plain training
KILLS = 20
TIMES = {"seconds", "latency", "environment", "command"}
Undisturbed = dict[str, tuple[dict[str, Any], float]]  # outcome and seconds, by method


def outcome(root: Path) -> dict[str, Any]:
    """Of the only run."""
    (path,) = Store(root).record_paths()
    return outcome_of(path, root)


def outcome_of(path: Path, root: Path) -> dict[str, Any]:
    """All that a run leaves, times aside."""
    content = json.loads(path.read_text())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in content["spent"]["rows"]]
    content["spent"]["rows"] = rows
    found: dict[str, Any] = {k: v for k, v in content.items() if k not in TIMES}
    for name in ("plan.json", "curve.csv", "predictions.npz"):
        found[name] = (path.parent / name).read_bytes()
    for measured in sorted((path.parent / "measurements").glob("*.json")):
        found[measured.name] = measured.read_bytes()
    final = Store(root).stages / f"final-{content['run_id']}" / "tensors.safetensors"
    return found | {"weights.safetensors": final.read_bytes()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Outcome and seconds of each method's run; checkpoints at ends of epochs alone."""
    killing.start(killing.warm_up).join()
    found = {}
    for method in METHODS:
        root = tmp_path_factory.mktemp(method)
        started = time.monotonic()
        process = killing.start(killing.run, str(root), method, checkpoint.EVERY)
        process.join(120)
        assert process.exitcode == 0
        found[method] = outcome(root), time.monotonic() - started
    return found


def test_the_network_is_tiny() -> None:
    network = CifarResNet(8, tiny.CLASSES, killing.WIDTH)
    assert sum(p.numel() for p in network.parameters()) < 2000


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_at_twenty_random_moments_ends_the_same(
    method: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    expected, seconds = undisturbed[method]
    draw, kills, rounds = random.Random(method), 0, 0
    while kills < KILLS:
        root, rounds = tmp_path / str(rounds), rounds + 1
        while not _is_done(root):
            process = killing.start(killing.run, str(root), method)
            if kills < KILLS:
                process.join(draw.uniform(0.05, 0.9) * seconds)
            else:
                process.join(120)
            kills += process.is_alive()
            process.kill()
            process.join(60)
        assert outcome(root) == expected
    assert kills >= KILLS


@pytest.mark.parametrize("writes", [2, 7, 12, 16])
def test_a_run_killed_at_a_write_ends_the_same(
    writes: int, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    _kill_at_write(writes, undisturbed["whitebox"][0], tmp_path)


@pytest.mark.slow
def test_a_run_killed_at_each_of_its_writes_ends_the_same(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    writes = 1
    while _kill_at_write(writes, undisturbed["whitebox"][0], tmp_path / str(writes)):
        shutil.rmtree(tmp_path / str(writes))
        writes += 1
    assert writes > 10


def _kill_at_write(writes: int, expected: dict[str, Any], root: Path) -> bool:
    """Whether there are that many writes."""
    process = killing.start(killing.run_until, str(root), "whitebox", writes)
    process.join(120)
    killed = bool(process.exitcode)
    process = killing.start(killing.run, str(root), "whitebox")
    process.join(120)
    assert process.exitcode == 0
    assert outcome(root) == expected
    return killed


def _is_done(root: Path) -> bool:
    store = Store(root)
    found = store.records()
    return bool(found) and is_finished(found[0].spec, killing.options(root))
