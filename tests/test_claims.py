"""Claims: one process at a time, and none for ever."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.claims import Busy, Claim, Claims
from benchmark.store import Stage, Store

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, ready: Any, release: Any) -> None:
    with Claims(folder).take("dense", "k"):
        ready.set()
        release.wait(120)


def _make(root: str, log: str) -> None:
    """Make a stage unless it is there; how often it was made is a line each in `log`."""
    store = Store(Path(root))
    with store.claims.take("dense", "k"):
        if store.stage("dense", "k") is None:
            with Path(log).open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(0.05)
            store.publish_stage("dense", "k", Stage({}, {"by": os.getpid()}))


def test_a_claim_that_is_held_is_busy_and_says_by_whom(tmp_path: Path) -> None:
    ready = FORK.Event()
    holder = FORK.Process(target=_hold, args=(tmp_path, ready, FORK.Event()))
    holder.start()
    ready.wait(30)
    claims = Claims(tmp_path)
    with pytest.raises(Busy, match=f"process {holder.pid} on"), claims.take("dense", "k", False):
        pytest.fail("held twice")
    assert claims.is_held("dense", "k")
    holder.kill()
    holder.join(30)


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    ready = FORK.Event()
    holder = FORK.Process(target=_hold, args=(tmp_path, ready, FORK.Event()))
    holder.start()
    ready.wait(30)
    holder.kill()
    holder.join(30)
    claims, said = Claims(tmp_path), list[str]()
    left = claims.read("dense", "k")
    assert left is not None
    assert left.pid == holder.pid  # what it left behind tells that it did not end
    assert not claims.is_held("dense", "k")
    with claims.take("dense", "k", wait=False, log=said.append) as claim:
        assert claim.pid == os.getpid()
    assert said == [
        f"taking over dense k from process {holder.pid} on {left.host}, which did not end it"
    ]
    assert claims.read("dense", "k") is None  # ended in order


def test_a_claim_is_waited_for(tmp_path: Path) -> None:
    ready, release, said = FORK.Event(), FORK.Event(), list[str]()
    holder = FORK.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    ready.wait(30)

    def log(line: str) -> None:
        said.append(line)
        release.set()  # only now, so that it was waited for indeed

    with Claims(tmp_path).take("dense", "k", log=log):
        pass
    assert said[0].startswith(f"waiting for dense k: process {holder.pid}")
    holder.join(30)


def test_processes_that_need_one_stage_make_it_once_even_if_the_first_is_killed(
    tmp_path: Path,
) -> None:
    for turn in range(5):
        root, log = tmp_path / str(turn), tmp_path / f"{turn}.log"
        crowd = [FORK.Process(target=_make, args=(str(root), str(log))) for _ in range(6)]
        for process in crowd:
            process.start()
        while not log.exists() and any(p.is_alive() for p in crowd):
            time.sleep(0.005)
        first = int(log.read_text().split()[0])
        if turn % 2:  # in every other turn the maker is killed while it works
            next(p for p in crowd if p.pid == first).kill()
        for process in crowd:
            process.join(60)
        stage = Store(root).stage("dense", "k")
        assert stage is not None
        assert str(stage.facts["by"]) == log.read_text().split()[-1]
        assert len(log.read_text().split()) <= 1 + turn % 2


def test_an_exception_ends_a_claim_in_order_and_an_interrupt_leaves_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with pytest.raises(ValueError, match="no"), claims.take("run", "a"):
        raise ValueError("no")
    assert claims.read("run", "a") is None
    with pytest.raises(KeyboardInterrupt), claims.take("run", "a"):
        raise KeyboardInterrupt
    assert claims.read("run", "a") is not None
    assert not claims.is_held("run", "a")


def test_news_are_written_when_the_phase_changes_and_then_now_and_then(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with claims.take("run", "a") as claim:
        tell = claims.news(claim)
        tell("recovery", 1, 10)
        tell("recovery", 2, 10)
        found = claims.read("run", "a")
        assert found is not None
        assert (found.phase, found.done, found.total) == ("recovery", 1, 10)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": 1, "strange": 2}', "\x00"])
def test_a_claim_file_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "run-a.json").write_text(text)
    assert Claims(tmp_path).read("run", "a") is None
    assert Claims(tmp_path).all() == []


def test_a_full_disk_does_not_stop_the_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    Claims(tmp_path).write(Claim("run", "a"))
