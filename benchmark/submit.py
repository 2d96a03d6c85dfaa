"""Sends a grid to a SLURM cluster: dense networks first, cells after them, and goes home.

All state is in the results directory; the cluster is asked only why something waits.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import submitit
from rich.console import Console
from submitit.core.utils import FailedJobError, FailedSubmissionError

from benchmark import clusterfacts, slurm
from benchmark.bundles import Bundle, Packing, bundle, minutes
from benchmark.clusterfacts import Facts
from benchmark.clusterjob import ClusterJob
from benchmark.errors import BadInput
from benchmark.estimate import dense_tasks, forecast, is_done
from benchmark.grid import planned_cell, settled, write_grid
from benchmark.launch import note_blocked
from benchmark.pool import worker_count
from benchmark.probe import NoProbe, Seconds
from benchmark.progress import counted
from benchmark.site import Site, read_site
from benchmark.sitecheck import check, max_array, rehearse
from benchmark.sitetrial import probe
from benchmark.snapshot import freeze, own_file
from benchmark.state import ALIVE, OPEN, Now, state_of
from benchmark.store import Store
from benchmark.submissions import (
    Coverage,
    Submission,
    coverage,
    folder,
    job_folder,
    write_submission,
)
from benchmark.sweep import Cell, Options
from benchmark.tasks import Task, task_of

PATIENCE = 600.0  # seconds without an answer from the cluster
PAUSE = 2.0  # seconds between two looks
REQUEUES = 1000  # a job goes back into the queue as long as it gets on
LISTED = 5  # lines about arrays, then a sum


def site_of(options: Options) -> Site:
    """Of a grid for a cluster.

    Raises:
        BadInput: none is named, or its file is not a site.
    """
    if options.site is None:
        raise BadInput(
            "--executor slurm needs --site FILE: slurm/sites/template.toml says what is in one"
        )
    return read_site(options.site)


def on_site(options: Options) -> Options:
    """The options as the site's nodes will see them; those of a grid that runs here unchanged."""
    if options.executor == "local":
        return options
    device = site_of(options).device
    if options.device not in ("auto", device):
        raise BadInput(f"--device {options.device}: the site {options.site} has device {device}")
    return options.model_copy(update={"device": device})


@dataclass(frozen=True)
class Sender:
    """Everything that the arrays of one submission share."""

    store: Store
    site: Site
    facts: Facts
    code: Path
    options: Options  # as the jobs will see them
    grid: str  # key
    seconds: dict[str, Seconds]

    @property
    def slots(self) -> int:
        """Cells at once in a job."""
        return slots_of(self.site, self.options)

    def packing(self, jobs: int) -> Packing:
        site = self.site
        return Packing(
            slots=self.slots,
            parallel=site.array_parallelism,
            limit=60.0 * site.minutes - site.signal_seconds,
            fill=60.0 * site.fill_minutes,
            most=site.cells_per_job,
            jobs=jobs,
        )


def at_once(options: Options) -> int:
    """Cells that run at the same time, here or on the cluster."""
    if options.executor == "local":
        return worker_count(options)
    site = site_of(options)
    return slots_of(site, options) * site.array_parallelism


def slots_of(site: Site, options: Options) -> int:
    """Cells at once in a job; one where several processes work on it together."""
    return 1 if options.gpus_per_cell > 1 else site.slots(options.threads)


def facts_of(site: Site, options: Options) -> Facts:
    """Of the cluster, which can run jobs of this site.

    Raises:
        BadInput: it cannot, or does not answer.
    """
    try:
        facts = clusterfacts.facts()
    except slurm.NoAnswer as error:
        raise BadInput(f"{error}: the cluster does not answer, nothing is sent") from error
    check(site, facts, options.threads, options.gpus_per_cell)
    rehearse(site, options.gpus_per_cell)
    return facts


def submit_grid(
    cells: list[Cell], options: Options, console: Console, only: Collection[str] | None = None
) -> list[Submission]:
    """Send what is missing and what no living job has; what was sent.

    Raises:
        BadInput: the site does not fit the cluster, or the cluster refuses.
    """
    site, store = site_of(options), Store(options.results.resolve())
    facts = facts_of(site, options)
    for cell in (c for c in cells if c.blocked):
        note_blocked(cell, store)
    covered = coverage(store)
    if covered.silent:
        raise BadInput(f"{covered.silent}: what is in the queue is not known, so nothing is sent")
    missing = [c for c in cells if not c.blocked and not is_done(c, options)]
    waiting = [c for c in missing if covered.alive(c.spec.run_id) is None]
    waiting = [c for c in waiting if only is None or c.spec.run_id in only]
    if len(waiting) < len(missing):
        console.print(f"{counted(len(missing) - len(waiting), 'cell')} in the queue already")
    sender = _sender(cells, waiting, options, site, store, facts)
    if not waiting:
        console.print("nothing to send", highlight=False)
        return []
    for note in probe(site, store.root, sender.code):
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    sent = []
    for submission in _send_all(sender, waiting, covered):
        sent.append(submission)
        if len(sent) <= LISTED:
            console.print(_line(submission, site), highlight=False, soft_wrap=True)
    if len(sent) > LISTED:
        console.print(f"… and {len(sent) - LISTED} more, {sum(len(s.bundles) for s in sent)} jobs")
    return sent


def _sender(
    cells: list[Cell],
    waiting: list[Cell],
    options: Options,
    site: Site,
    store: Store,
    facts: Facts,
) -> Sender:
    """Freezes the code, estimates, and writes down what is going to be sent."""
    own = [Path(m).resolve() for m in options.methods if m.endswith(".py")]
    code = freeze(folder(store), own)
    full = settled(options)
    methods = [str(own_file(code, Path(m))) if m.endswith(".py") else m for m in full.methods]
    slots = slots_of(site, options)
    there = full.model_copy(
        update={"methods": methods, "results": store.root, "site": None, "jobs": slots}
    )
    try:
        seconds = forecast(waiting, options, slots).tasks
    except NoProbe:
        seconds = {}
    planned = [*dense_tasks(waiting, options), *(task_of("cell", c, options) for c in waiting)]
    grid = write_grid(store, options, cells, planned, slots * site.array_parallelism, seconds)
    return Sender(store, site, facts, code, there, grid, seconds)


def _send_all(sender: Sender, waiting: list[Cell], covered: Coverage) -> Iterator[Submission]:
    """Dense networks, then the cells that wait for them."""
    dense = dense_tasks(waiting, sender.options)
    tasks = [task_of("cell", c, sender.options) for c in waiting]
    makers: dict[str, str] = {}  # job by dense network
    for task in dense:
        job = covered.alive(task.key)
        if job is not None:
            makers[task.makes] = job.id
    ours = [t for t in dense if t.makes not in makers]
    bundles = [Bundle((t,), sender.seconds.get(t.makes)) for t in ours]  # one job each: seeds run
    cells_of = {t.makes: tuple(c for c in tasks if c.needs == t.makes) for t in ours}  # at once
    for submission in _arrays(sender, bundles, "", lambda b: cells_of[b.tasks[0].makes]):
        for member, keys in submission.members.items():
            makers |= {key.removeprefix("dense-"): member for key in keys}
        yield submission
    left = sender.site.max_submit - len(ours) if sender.site.max_submit else 0
    packed = bundle(tasks, sender.seconds, sender.packing(max(0, left)))
    for needs, group in groupby(packed, key=lambda b: makers.get(b.tasks[0].needs, "")):
        yield from _arrays(sender, list(group), needs, lambda _: ())


def _arrays(
    sender: Sender,
    bundles: list[Bundle],
    after: str,
    cells: Callable[[Bundle], tuple[Task, ...]],
) -> Iterator[Submission]:
    """One array for each stretch that the cluster takes."""
    most = max_array(sender.site, sender.facts)
    for start in range(0, len(bundles), most):
        part = bundles[start : start + most]
        time = minutes(part, sender.site.minutes, sender.site.signal_seconds)
        jobs = [_job(sender, b, cells(b), time) for b in part]
        ids = _sbatch(sender, jobs, time, after)
        keys = tuple(tuple(t.key for t in b.tasks) for b in part)
        first = ids[0].split("_")[0]
        cluster = sender.facts.cluster
        submission = Submission(first, cluster, sender.grid, keys, time, after)
        write_submission(sender.store, submission)
        yield submission


def _job(sender: Sender, part: Bundle, cells: tuple[Task, ...], time: int) -> ClusterJob:
    site = sender.site
    return ClusterJob(
        tasks=part.tasks,
        cells=cells,
        slots=sender.slots,
        minutes=time,
        warning=site.signal_seconds,
        code=sender.code,
        device=site.device,
        gpus=site.gpus,
        processes=sender.options.gpus_per_cell,
        address=site.master_address,
    )


def _sbatch(sender: Sender, jobs: list[ClusterJob], time: int, after: str) -> list[str]:
    """Job ids."""
    site = sender.site
    python = shlex.quote(site.python or sys.executable)
    executor = submitit.SlurmExecutor(job_folder(sender.store), REQUEUES, python=python)
    executor.update_parameters(**_parameters(sender, time, after))
    try:
        return [job.job_id for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        said = " ".join(str(error).split())
        raise BadInput(
            f"the cluster refuses: {said}; what was sent before stays, the same command sends the "
            "rest"
        ) from error


def _parameters(sender: Sender, time: int, after: str) -> dict[str, Any]:
    """In submitit's words."""
    site, processes = sender.site, sender.options.gpus_per_cell
    nodes, per_node = site.layout(processes)
    cpus = site.cpus_per_process(processes)
    path = shlex.quote(str(sender.code))
    found: dict[str, Any] = {
        "job_name": "prunebench",
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "exclude": site.exclude,
        "time": time,
        "nodes": nodes,
        "ntasks_per_node": per_node,
        "cpus_per_task": cpus,
        "mem": site.memory,
        "signal_delay_s": site.signal_seconds,
        "array_parallelism": site.array_parallelism,
        "dependency": f"afterok:{after}" if after else "",
        "setup": [*site.setup, f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}"],
        "stderr_to_stdout": True,
        # a job step does not inherit the processors of its job (SLURM 22.05 and later)
        "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        "wckey": None,
    }
    more = {"kill-on-invalid-dep": "yes", "requeue": True, "chdir": str(sender.code)}
    gpus = site.gpu_request(processes)
    if gpus:
        more["gpus-per-node"] = gpus
    found["additional_parameters"] = more | site.extra
    return {k: v for k, v in found.items() if v != ""}


def _line(submission: Submission, site: Site) -> str:
    """`job 12: 8 jobs for 200 pieces of work, 10 min each, after job 11`."""
    jobs, pieces = len(submission.bundles), sum(map(len, submission.bundles))
    most = f", {site.array_parallelism} at once" if jobs > site.array_parallelism else ""
    after = f", after job {submission.after}" if submission.after else ""
    return (
        f"sent job {submission.job}: {counted(jobs, 'job')} for {counted(pieces, 'piece')} of work"
        f"{most}, {submission.minutes} min each{after}"
    )


def wait_for(cells: list[Cell], options: Options, console: Console) -> list[Now]:
    """Until no job has any of the cells; what became of them. A line whenever something changed,
    and one for each cell that was lost with its job.

    Never hangs: a job that is gone is not waited for, whatever became of it, and a cluster that
    does not answer is given up after a while.
    """
    store, said, heard = Store(options.results.resolve()), "", time.monotonic()
    works = [planned_cell(c, options) for c in cells]
    while True:
        cluster = coverage(store)
        rows = [state_of(work, store, cluster) for work in works]
        line = ", ".join(f"{n} {state}" for state, n in Counter(r.state for r in rows).items())
        if line != said:
            console.print(f"{time.strftime('%H:%M:%S')} {counted(len(rows), 'cell')}: {line}")
        said = line
        heard = heard if cluster.silent else time.monotonic()
        if time.monotonic() - heard > PATIENCE:
            raise BadInput(f"{cluster.silent}; the jobs may go on: benchmark.status will tell")
        if not cluster.silent and not any(r.state in ALIVE for r in rows):
            for row in (r for r in rows if r.state in OPEN):
                console.print(f"{row.work.name}: {row.state}: {row.reason}", soft_wrap=True)
            return rows
        time.sleep(PAUSE)
