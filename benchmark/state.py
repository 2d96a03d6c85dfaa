"""What became of each piece of work, from what is on disk alone: its launcher may be dead."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from benchmark.attempts import Attempt
from benchmark.grid import Grid, Planned, read_grids
from benchmark.probe import Seconds
from benchmark.progress import duration
from benchmark.record import RunRecord
from benchmark.runlog import last_line
from benchmark.store import Store
from benchmark.submissions import NOTHING, Coverage, coverage, saying
from benchmark.wording import top1

State = Literal[
    "running", "waiting", "queued", "interrupted", "damaged", "failed", "to do", "done", "n/a",
    "not run",
]  # fmt: skip
STATES: tuple[State, ...] = get_args(State)
OPEN = ("running", "waiting", "queued", "interrupted", "to do")  # without an end yet
ALIVE = ("running", "waiting", "queued")  # somebody is at it, or will be
FRESH = 60.0  # seconds: what was heard of so lately is at work, though its lock is not seen here
WAITS = "waiting for "  # begins the log line of one that stands


@dataclass(frozen=True)
class Now:
    """One piece of work as it is."""

    work: Planned
    state: State
    reason: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0  # when the process at work on it began
    at: float = 0.0  # when it was heard of last
    took: float | None = None  # seconds of a finished run
    line: str = ""  # the last of its log

    @property
    def share(self) -> str:
        """`recovery 45 %`, where it is under way."""
        return f"{self.phase} {100 * self.done // self.total} %" if self.total else self.phase

    @property
    def age(self) -> str:
        """`for 9.0 min, last news 2 s ago`, of what is running."""
        now = time.time()
        return f"for {duration(now - self.since)}, last news {duration(now - self.at)} ago"


def states(
    store: Store, grids: Iterable[Grid] | None = None, cluster: Coverage | None = None
) -> list[Now]:
    """Of every piece of work of the grids (default: all), each once; `cluster`: what SLURM says,
    if it was asked already."""
    found: dict[str, Now] = {}
    jobs = coverage(store) if cluster is None else cluster
    for grid in read_grids(store) if grids is None else grids:
        for work in grid.work:
            if work.key not in found:
                found[work.key] = state_of(work, store, jobs)
    return list(found.values())


def state_of(work: Planned, store: Store, cluster: Coverage = NOTHING) -> Now:
    """By record, lock, claim and attempts, in this order; the cluster adds what is in its queue,
    and what became of jobs that left nothing behind."""
    found = cell_state(work, store) if work.kind == "cell" else dense_state(work, store)
    return with_job(found, cluster) if found.state in ("interrupted", "to do") else found


def with_job(now: Now, cluster: Coverage) -> Now:
    """What the cluster knows of work that nobody is at."""
    key = now.work.key
    job, gone = cluster.alive(key), cluster.gone(key)
    if job is not None and job.state == "RUNNING" and time.time() - now.at < FRESH:
        return replace(now, state="running", reason=f"job {job.id} is at work on it")
    if job is not None:
        later = "; it goes on from its checkpoint" if now.state == "interrupted" else ""
        return replace(now, state="queued", reason=f"{saying(job)}{later}")
    if not gone:
        return now
    ended = cluster.end_of(gone)
    how = saying(ended) if ended else f"job {gone} is gone, and the cluster forgot how it ended"
    words = cluster.last_words(gone)
    how += f": {words} (in {cluster.logs.parent.name}/{cluster.logs.name})" if words else ""
    said = f"{now.reason}; {how}" if now.state == "interrupted" else how
    return replace(now, state="interrupted", reason=said)


def dense_state(work: Planned, store: Store) -> Now:
    """Of a dense network."""
    kind, _, key = work.key.partition("-")
    if store.has_stage(kind, key):
        return Now(work, "done", "shared by the cells that start from it")
    return _claimed(work, store, kind, key) or Now(work, "to do")


def cell_state(work: Planned, store: Store) -> Now:
    """Of a cell."""
    if store.has(work.spec):
        record = store.read(work.spec)
        return Now(work, "done", done_line(record), took=record.seconds)
    damage = store.damage(work.spec)
    last = max(store.attempts(work.spec), key=lambda a: a.at, default=None)
    found = _claimed(work, store, "run", work.spec.run_id)
    if found is not None and (found.state != "interrupted" or not last or last.at < found.since):
        return found
    if damage:
        return Now(work, "damaged", damage)
    if last is not None:
        return Now(work, _status(last), last.reason, line=_line(work, store))
    if work.blocked:
        return Now(work, "n/a", work.blocked)
    return Now(work, "to do", _what_it_needs(work, store))


def _status(attempt: Attempt) -> State:
    return next((s for s in STATES if s == attempt.status), "failed")


def _claimed(work: Planned, store: Store, kind: str, key: str) -> Now | None:
    """Held by a living process, or left behind by one that did not end."""
    claim, line = store.claims.read(kind, key), _line(work, store)
    held = store.claims.is_held(kind, key)
    if claim is None:
        return Now(work, "running", "a process is at work on it", line=line) if held else None
    news = (claim.phase, claim.done, claim.total, claim.since, claim.at)
    if held and line.startswith(WAITS):
        return Now(work, "waiting", line, *news, None, line)
    if held:
        return Now(work, "running", f"{claim.holder} is at work on it", *news, None, line)
    where = f" in {claim.phase}" if claim.phase else ""
    reason = f"{claim.holder} ended{where} without a word (killed, or the machine went down)"
    return Now(work, "interrupted", reason, *news, None, line)


def _what_it_needs(work: Planned, store: Store) -> str:
    if not work.dense or store.has_stage("dense", work.dense):
        return "nothing has begun it yet"
    claim = store.claims.read("dense", work.dense)
    if claim is not None and store.claims.is_held("dense", work.dense):
        return f"{WAITS}its dense network, which {claim.holder} is training"
    return f"{WAITS}its dense network, which is not trained yet"


def _line(work: Planned, store: Store) -> str:
    return last_line(store.root / store.log_name(work.key))


def done_line(record: RunRecord) -> str:
    """Accuracy and cost of a finished run."""
    return (
        f"{top1(record.spec, record.final.test_top1)} with "
        f"{100 * record.flops_reduction:.1f} % of the FLOPs removed, "
        f"in {duration(record.seconds)}"
    )


def remaining(rows: list[Now], jobs: int, now: float | None = None) -> Seconds | None:
    """By the clock, from the estimates, as the finished cells corrected them; None: not known."""
    moment = time.time() if now is None else now
    left = [row for row in rows if row.state in OPEN]
    if any(row.work.seconds is None for row in left):
        return None
    total = Seconds()
    for row in left:
        own = (row.work.seconds or Seconds()) * pace(rows)
        passed = moment - row.since if row.state == "running" and row.since else 0.0
        total += Seconds(*(max(0.0, s - passed) for s in (own.low, own.middle, own.high)))
    return total * (1 / max(1, min(jobs, len(left) or 1)))


def pace(rows: list[Now]) -> float:
    """How the finished cells compare with their estimates; 1 while none is finished."""
    known = [(r.took, r.work.seconds.middle) for r in rows if r.took and r.work.seconds]
    expected = sum(middle for _, middle in known)
    return sum(took for took, _ in known) / expected if expected else 1.0
