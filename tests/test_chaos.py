"""A grid that is killed, torn and starved of disk ends like one that was left alone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import killing
import pytest
from test_resume import outcome_of

from benchmark.clean import finished_checkpoints
from benchmark.cli import BAD_INPUT, DONE, FAILED
from benchmark.store import Store

LAUNCH = Path(__file__).with_name("chaos_launch.py")
CELLS, KILLS, TEARS, LONGEST = 8, 30, 2, 900.0
DISK = 48  # MB of the small disk
GRID = f"""
methods = ["l1norm", "hrank", "whitebox", "cpli"]
arch = "{killing.ARCH}"
dataset = "digits"
preset = "demo"
flops_reduction = [0.3, 0.5]
epochs = 4
jobs = 2
controls = false
[set]
"baseline.epochs" = 6
"baseline.batch_size" = 32
"cpli.num_images" = 60
"cpli.positions" = 4
"""


def launch(verb: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(LAUNCH), verb, *words], start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def outcomes(root: Path) -> dict[str, object]:
    return {path.parent.name: outcome_of(path, root) for path in Store(root).record_paths()}


def workers(root: Path) -> list[int]:
    """Processes that hold a claim on these results, the launcher aside."""
    claims = Store(root).claims
    return sorted(
        {c.pid for c in claims.all() if c.kind != "grid" and claims.is_held(c.kind, c.key)}
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of its own; None where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(place)], capture_output=True
    )
    yield place if made.returncode == 0 else None
    if made.returncode == 0:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chaos") / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> dict[str, object]:
    root = config.parent / "undisturbed"
    done = launch("run", "--config", str(config), "--results", str(root))
    said, _ = done.communicate(timeout=300)
    assert done.returncode == DONE, said
    found = outcomes(root)
    assert len(found) == CELLS
    return found


@pytest.mark.slow
def test_a_grid_that_is_killed_thirty_times_ends_like_one_left_alone(
    config: Path, undisturbed: dict[str, object], small_disk: Path | None, tmp_path: Path
) -> None:
    """Workers and launcher are killed, two checkpoints cut, and the disk is full for a while, where
    this user may mount one."""
    draw, began = random.Random(33), time.monotonic()
    kills, rounds, torn, logs = 0, 0, set[Path](), ""
    fill_at = KILLS // 2 if small_disk else None
    while kills < KILLS:
        root, rounds = (small_disk or tmp_path) / str(rounds), rounds + 1
        words: tuple[str, ...] = ("run", "--config", str(config))
        while len(Store(root).record_paths()) < CELLS:
            assert time.monotonic() - began < LONGEST
            launcher = launch(*words, "--results", str(root))
            while launcher.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    launcher.wait(draw.uniform(0.5, 3.0))
                ripe = fill_at is not None and kills >= fill_at and len(torn) == TEARS
                if launcher.poll() is None and ripe:  # later: a full disk takes no log either
                    _starve(launcher, root)
                    fill_at = None
                elif launcher.poll() is None and kills < KILLS:
                    kills += _kill(launcher, root, draw)
            if len(torn) < TEARS:
                torn |= _tear(root, draw, torn)
            has_grid = any((root / "grids").glob("*.json"))
            words = ("retry",) if has_grid and draw.random() < 0.5 else words
        assert outcomes(root) == undisturbed
        logs += "".join(log.read_text() for log in root.rglob("*.log"))
        shutil.rmtree(root)
    assert len(torn) == TEARS
    assert all(f"{path.name} is torn" in logs for path in torn)
    assert fill_at is None


def _starve(launcher: subprocess.Popen[str], root: Path) -> None:
    """No room until the launcher gave up."""
    filler = root.parent / "filler"
    _fill(filler)
    launcher.communicate(timeout=300)
    filler.unlink()


def _fill(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _kill(launcher: subprocess.Popen[str], root: Path, draw: random.Random) -> bool:
    """SIGKILL for a random worker or, one time in four, the launcher."""
    victims = workers(root)
    if draw.random() < 0.25 or not victims:
        if not victims:
            return False  # it is still starting
        launcher.kill()
        launcher.wait(60)
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(victims), signal.SIGKILL)
        return True
    return False


def _tear(root: Path, draw: random.Random, before: set[Path]) -> set[Path]:
    """Cut the newest checkpoint of some unfinished work, once all its processes are dead."""
    store = Store(root)
    while workers(root):
        time.sleep(0.1)
    over = set(finished_checkpoints(store))
    folders = [f for f in (store.stages / "checkpoints").glob("*-*") if f not in over]
    found = [sorted(f.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns) for f in folders]
    newest = [files[-1] for files in found if files and not before & set(files)]
    if not newest:
        return set()
    victim = draw.choice(newest)
    os.truncate(victim, draw.randrange(victim.stat().st_size))
    return {victim}


@pytest.mark.slow
def test_a_full_disk_ends_cells_with_the_reason_and_room_lets_them_go_on(
    config: Path, undisturbed: dict[str, object], small_disk: Path | None
) -> None:
    if small_disk is None:
        pytest.skip("mounting a small disk needs more rights")
    root, filler = small_disk / "results", small_disk / "filler"
    words = ("run", "--config", str(config), "--results", str(root))
    launcher = launch(*words)
    while not Store(root).record_paths():
        assert launcher.poll() is None
        time.sleep(0.1)
    _fill(filler)
    said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode in (FAILED, BAD_INPUT), said
    assert "Traceback" not in said
    assert "the disk" in said
    failed = [json.loads(p.read_text()) for p in root.glob("attempts/*/*/*/*/*.json")]
    assert failed
    assert all("is full" in attempt["reason"] for attempt in failed)
    again = launch(*words)  # still full: said before anything runs
    said, _ = again.communicate(timeout=300)
    assert again.returncode == BAD_INPUT
    assert [line for line in said.splitlines() if line.startswith("error:")] == said.splitlines()
    filler.unlink()
    last = launch("retry", "--results", str(root))
    said, _ = last.communicate(timeout=300)
    assert last.returncode == DONE, said
    assert outcomes(root) == undisturbed
    shutil.rmtree(root)
