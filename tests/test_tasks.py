"""What becomes of a piece of work that goes wrong, and which one comes next."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch

from benchmark import tasks
from benchmark.errors import BadInput
from benchmark.ledger import BudgetExceeded
from benchmark.options import Options
from benchmark.phase import Diverged
from benchmark.pool import next_task
from benchmark.record import RunRecord
from benchmark.store import Stage, Store
from benchmark.tasks import Task, do, entry_of
from methods import find
from methods.api import Unsupported


def task(root: Path, method: str = "l1norm", **changes: Any) -> Task:
    spec = synthetic.spec(method, 0)
    made = Task("cell", spec, method, Options(results=root), "the command", spec.run_id)
    return replace(made, **changes)


def quiet(*_: Any) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("no luck\nat all"), "failed", "RuntimeError: no luck (see logs/{id}.log)"),
        (Diverged("diverged: not\nfinite"), "failed", "diverged: not finite"),
        (BudgetExceeded("too much"), "failed", "too much"),
        (Unsupported("needs BatchNorm"), "n/a", "needs BatchNorm"),
        (MemoryError(), "failed", "out of memory: fewer --jobs, or a smaller --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "failed", "out of memory: fewer --"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "failed",
            "out of memory: fewer --jobs",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", "the disk under {root} is f"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "failed", "the disk under {root} is full"),
        (OSError(errno.EIO, "Input/output error"), "failed", "OSError: [Errno 5] Input/output"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
def test_whatever_goes_wrong_is_an_attempt_with_its_reason(
    error: BaseException, status: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(tasks, "_do", fails)
    work = task(tmp_path)
    ended = do(work, quiet)
    assert ended.status == status
    (attempt,) = Store(tmp_path).attempts(work.spec)
    assert attempt.status == status
    assert attempt.reason.startswith(reason.format(id=work.key, root=tmp_path))
    log = (tmp_path / attempt.log).read_text()
    assert f"{status}: {attempt.reason}" in log
    expected = isinstance(error, Diverged | BudgetExceeded | Unsupported)
    assert ("Traceback" in log) == (not expected)


def test_a_disk_without_room_for_the_reason_still_does_not_stop_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tasks, "_do", full)
    monkeypatch.setattr("benchmark.store.write_numbered", full)
    ended = do(task(tmp_path), quiet)
    assert ended.status == "failed"
    assert "is full" in ended.line


def test_a_cell_that_another_process_works_on_is_busy_and_later_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> RunRecord:
        pytest.fail("work was done twice")

    monkeypatch.setattr(tasks, "run_one", never)
    work = task(tmp_path)
    store = Store(tmp_path)
    with store.claims.take("run", work.spec.run_id):
        assert do(work, quiet, wait=False).status == "busy"
        synthetic.write(store, synthetic.record(work.spec))
    ended = do(work, quiet, wait=False)
    assert (ended.status, ended.line) == ("done", f"{work.name}: done by another process")
    assert store.attempts(work.spec) == []


def test_cells_wait_for_their_dense_network_and_for_scores_that_are_being_made(
    tmp_path: Path,
) -> None:
    dense = task(tmp_path, kind="dense", key="dense-d", makes="d", shares=("dense", "d"))
    first = task(tmp_path, key="a", needs="d", shares=("scores", "s"))
    second = task(tmp_path, key="b", needs="d", shares=("scores", "s"))
    other = task(tmp_path, key="c", needs="d", shares=("scores", "t"))
    queue = [dense, first, second, other]
    assert next_task(queue, []) is dense
    assert next_task(queue, [dense]) is None  # all need it
    assert next_task(queue, []) is first
    assert next_task(queue, [first]) is other  # the second would wait for the first one's scores
    assert next_task(queue, [first]) is None
    Store(tmp_path).publish_stage("scores", "s", Stage({}, {}))
    assert next_task(queue, [first]) is second
    assert next_task(queue, []) is None


def test_a_method_file_that_changed_since_planning_is_not_filed_under_its_old_hash(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    made = synthetic.spec("mine", 0)
    method = made.method.model_copy(update={"source": find(str(path)).source_hash})
    spec = made.model_copy(update={"method": method})
    work = task(tmp_path / "r", label=str(path), spec=spec, key=spec.run_id)
    assert entry_of(work).name == "mine"
    path.write_text(MINE.replace("abs", "square"))
    with pytest.raises(BadInput, match="changed since the grid was planned"):
        entry_of(work)


MINE = '''"""Mine."""
from dataclasses import dataclass
from methods.api import Method

@dataclass(frozen=True)
class Mine(Method):
    """Norm."""

    def score(self, net, trainer):
        return {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}
'''
