"""What one cluster job does: its bundle of cells, and, when its time is up, back into the queue."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import submitit
import torch
from rich.console import Console

from benchmark import slurm
from benchmark.files import check_writable, write_text
from benchmark.lifeline import STOP
from benchmark.pool import run_tasks
from benchmark.progress import GridProgress
from benchmark.store import Store
from benchmark.submissions import job_folder
from benchmark.tasks import Ended, Task, note_attempt, without_dense
from benchmark.team import ALONE, Team, joined

WIDE = 160
LONG = 0.5  # share of the wall time from which a job has had its chance
STALLS = 2  # times that a job may use up its time without a checkpoint, then its cells failed
FIRST_PORT, PORTS = 20000, 20000


class JobFailed(Exception):
    """What others wait for could not be made: SLURM must know, so that these do not start."""


@dataclass
class Warned:
    """Whether the job should end now: its own clock, the cluster's warning, or an order."""

    deadline: float  # seconds since 1970
    told: str = ""  # name of the signal
    since: float = field(default_factory=time.time)

    def __call__(self) -> bool:
        return bool(self.why)

    @property
    def why(self) -> str:
        """Empty while there is time."""
        return self.told or ("time" if time.time() > self.deadline else "")

    @property
    def again(self) -> bool:
        """Whether the job belongs back into the queue; not if somebody cancelled it."""
        return bool(self.why) and self.told != signal.SIGTERM.name

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block a signal only sets the mark; the work ends at its next step."""

        def hear(number: int, _: object) -> None:
            if self.told != signal.SIGTERM.name:
                self.told = signal.Signals(number).name

        before = {n: signal.signal(n, hear) for n in (STOP, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class ClusterJob:
    """Sent through submitit, unpickled on the node, and called there, again after every requeue:
    what is finished is skipped, what was begun goes on."""

    tasks: tuple[Task, ...]
    cells: tuple[Task, ...]  # that will not start if a dense network of `tasks` cannot be made
    slots: int  # tasks at once
    minutes: int  # of wall time
    warning: int  # seconds before the end at which the work should stop
    code: Path  # the snapshot it must run from
    device: str
    gpus: int
    processes: int = 1  # that work on one cell together
    address: str = ""  # of the first process; empty: the first node's name

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """For a warning that comes before the work began; all that matters is on disk."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> str:
        """The sentence at the end of the job's log.

        Raises:
            JobFailed: a dense network could not be made, or the node is not what was asked for.
        """
        warned = Warned(end_of_job(60 * self.minutes) - self.warning)
        with warned.listening():
            self._check_node()
            with self._team() as team:
                ended = self._work(warned, team)
                if team.first:
                    self._settle(ended, warned)
        done, failed = (sum(e.status == s for e in ended) for s in ("done", "failed"))
        return f"{done} of {len(self.tasks)} done, {failed} failed"

    def _check_node(self) -> None:
        here = Path(slurm.__file__).resolve().parents[1]
        if here != self.code:
            self._give_up(f"the job runs the code in {here}, not the snapshot {self.code}")
        check_writable(self.tasks[0].options.results)
        if self.device == "cuda" and not torch.cuda.is_available():
            shown = os.environ.get("CUDA_VISIBLE_DEVICES", "nothing")
            self._give_up(
                f"the job asked for {self.gpus} GPU on {_node()} and finds no CUDA "
                f"(CUDA_VISIBLE_DEVICES: {shown}): see the setup lines of the site file, or that "
                "this PyTorch fits the driver"
            )

    @contextmanager
    def _team(self) -> Iterator[Team]:
        if self.processes == 1:
            yield ALONE
            return
        env = submitit.JobEnvironment()
        kind = self.device
        if kind == "cuda":
            kind = f"cuda:{env.local_rank % torch.cuda.device_count()}"
        address = self.address or env.hostnames[0]
        port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS
        with joined(env.global_rank, self.processes, address, port, torch.device(kind)) as team:
            yield team

    def _work(self, warned: Warned, team: Team) -> list[Ended]:
        screen = Console(width=WIDE, quiet=not team.first)
        bars = GridProgress(screen, "job", len(self.tasks), self.slots)
        with bars as progress:
            work = list(self.tasks)
            return list(run_tasks(work, self.slots, progress, warned, team, self.warning / 2))

    def _settle(self, ended: list[Ended], warned: Warned) -> None:
        """Tell the others what is not there; go back into the queue if there is more to do."""
        over = sum(e.status != "stopped" for e in ended)
        if over < len(self.tasks) and warned.why:
            self._later(ended, warned)
        lost = [e for e in ended if e.kind == "dense" and e.status not in ("done", "stopped")]
        for cell in self.cells if lost else ():
            without_dense(cell, lost[0])
        if lost:
            raise JobFailed(lost[0].line)

    def _later(self, ended: list[Ended], warned: Warned) -> None:
        """The rest is for another time."""
        screen, job = Console(width=WIDE), submitit.JobEnvironment().job_id
        if not warned.again:
            screen.print(f"ended by {warned.why}: benchmark.retry goes on from the checkpoints")
            sys.exit(1)
        if self._stalled(ended, warned, job):
            self._give_up(
                f"nothing was kept of {STALLS} times {self.minutes} minutes on the cluster: a step "
                "that has no checkpoint takes longer; give the site a longer time"
            )
        screen.print(f"{warned.why}: job {job} goes back into the queue, checkpoints are written")
        try:
            back = slurm.requeue(job)
        except slurm.NoAnswer as error:
            screen.print(f"warning: {error}")
            back = False
        if not back:
            screen.print("it could not be requeued: benchmark.retry goes on from here")
        sys.exit(1)

    def _stalled(self, ended: list[Ended], warned: Warned, job: str) -> bool:
        """Whether the job used up its time again and again and nothing is kept of it: then its
        cells count as failed, rather than going round for ever."""
        mark = job_folder(Store(self.tasks[0].options.results)) / f"{job}.stalls"
        used = time.time() - warned.since > LONG * 60 * self.minutes
        if any(e.kept or e.status == "done" for e in ended) or not used:
            mark.unlink(missing_ok=True)
            return False
        times = int(mark.read_text("utf-8")) + 1 if mark.is_file() else 1
        write_text(mark, str(times))
        return times >= STALLS

    def _give_up(self, reason: str) -> NoReturn:
        """What this job should have made has failed, on its own account or its dense network's."""
        first = submitit.JobEnvironment().global_rank == 0
        for cell in (*(t for t in self.tasks if t.kind == "cell"), *self.cells):
            if first and not Store(cell.options.results).has(cell.spec):
                note_attempt(Store(cell.options.results), cell.spec, "failed", reason, cell.key)
        raise JobFailed(reason)


def _node() -> str:
    """In SLURM's words."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def end_of_job(seconds: float) -> float:
    """When SLURM will end this job, in seconds since 1970; `seconds` from now where it does not
    say."""
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(told) if told.isdigit() else time.time() + seconds
