"""Sends a grid to a SLURM cluster: dense networks first, cells after them, and goes home.

All state is in the results directory; the cluster is asked only why something waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmark import clusterfacts, slurm
from benchmark.arrays import Load, Sender, load_of, slots_of
from benchmark.bundles import Bundle, minutes
from benchmark.clusterfacts import Facts
from benchmark.errors import BadInput, NoProbe
from benchmark.estimate import dense_tasks, forecast, is_done
from benchmark.grid import planned_cell, settled, write_grid
from benchmark.launch import note_blocked
from benchmark.options import Options
from benchmark.pool import worker_count
from benchmark.probe import Seconds
from benchmark.progress import counted
from benchmark.site import Site, read_site
from benchmark.sitecheck import check, max_array, rehearse
from benchmark.sitetrial import probe
from benchmark.snapshot import freeze, own_file
from benchmark.state import ALIVE, OPEN, Now, state_of
from benchmark.store import Store
from benchmark.submissions import Coverage, Submission, coverage, folder
from benchmark.sweep import Cell
from benchmark.tasks import task_of

PATIENCE = 600.0  # seconds without an answer from the cluster
PAUSE = 2.0  # seconds between two looks
LISTED = 5  # lines about arrays, then a sum


# ---- the site ------------------------------------------------------------------------------------


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
    """The options as the site's nodes will see them; those of a grid that runs here unchanged.

    Raises:
        BadInput: there is no site, one without a cluster, or another device than the site's.
    """
    if options.executor == "local":
        if options.site is not None:
            raise BadInput(f"--site {options.site} belongs to --executor slurm: add that")
        return options
    device = site_of(options).device
    if options.device not in ("auto", device):
        raise BadInput(f"--device {options.device}: the site {options.site} has device {device}")
    return options.model_copy(update={"device": device})


def at_once(options: Options) -> int:
    """Cells that run at the same time, here or on the cluster."""
    if options.executor == "local":
        return worker_count(options)
    site = site_of(options)
    return slots_of(site, options) * site.array_parallelism


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


# ---- what is missing -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """Cells that are neither done nor in the queue, what they should take, and the queue."""

    cells: list[Cell]
    queued: int  # cells that living jobs have
    seconds: dict[str, Seconds]
    cluster: Coverage

    def load(self, site: Site, options: Options) -> Load:
        """In bundles, with `options` as the jobs will see them."""
        dense = [t for t in dense_tasks(self.cells, options) if not self.cluster.alive(t.key)]
        cells = [task_of("cell", cell, options) for cell in self.cells]
        return load_of(dense, cells, self.seconds, site, options)

    def room(self, site: Site) -> int | None:
        """Jobs that may still be sent; None: any number."""
        return max(0, site.max_submit - len(self.cluster.live)) if site.max_submit else None

    def makers(self, options: Options) -> dict[str, str]:
        """Jobs in the queue by the dense network that they train."""
        tasks = dense_tasks(self.cells, options)
        return {t.makes: job.id for t in tasks if (job := self.cluster.alive(t.key))}


def missing_of(
    cells: list[Cell], options: Options, store: Store, only: Collection[str] | None
) -> Missing:
    """What is there to send.

    Raises:
        BadInput: the cluster does not say what is in its queue.
    """
    cluster = coverage(store)
    if cluster.silent:
        raise BadInput(f"{cluster.silent}: what is in the queue is not known, so nothing is sent")
    undone = [c for c in cells if not c.blocked and not is_done(c, options)]
    free = [c for c in undone if cluster.alive(c.spec.run_id) is None]
    wanted = [c for c in free if only is None or c.spec.run_id in only]
    try:
        seconds = forecast(wanted, options, 1).tasks
    except NoProbe:  # the first time on such nodes: the site's whole time is asked for
        seconds = {}
    return Missing(wanted, len(undone) - len(free), seconds, cluster)


# ---- sending -------------------------------------------------------------------------------------


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
    with store.claims.take("submit", "queue"):  # of two at once the second sees what was sent
        missing = missing_of(cells, options, store, only)
        if missing.queued:
            queued = counted(missing.queued, "cell")
            console.print(f"{queued} in the queue already", highlight=False)
        if not missing.cells:
            console.print("nothing to send", highlight=False)
            return []
        sender = _sender(cells, missing, options, site, facts)
        for note in probe(site, store.root, sender.code):
            console.print(f"note: {note}", highlight=False, soft_wrap=True)
        return _send(sender, missing, console)


def _send(sender: Sender, missing: Missing, console: Console) -> list[Submission]:
    sent, makers = [], missing.makers(sender.options)
    whole = missing.load(sender.site, sender.options)
    load = whole.within(missing.room(sender.site), makers)
    for submission in sender.send(load, makers):
        sent.append(submission)
        if len(sent) <= LISTED:
            console.print(_line(submission, sender.site), highlight=False, soft_wrap=True)
    if len(sent) > LISTED:
        jobs = sum(len(s.bundles) for s in sent)
        console.print(f"… in all {counted(jobs, 'job')} in {len(sent)} arrays", highlight=False)
    left = whole.jobs - load.jobs
    if left:
        console.print(
            f"{counted(left, 'job')} not sent, for max_submit = {sender.site.max_submit}: give the "
            "command again when some have ended",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return sent


def on_the_way(cells: list[Cell], options: Options) -> bool:
    """Whether a living job has one of the cells."""
    cluster = coverage(Store(options.results.resolve()))
    return any(cluster.alive(cell.spec.run_id) for cell in cells)


def rehearse_grid(cells: list[Cell], options: Options, console: Console) -> None:
    """Say what would be sent; the cluster is asked, nothing is sent or written.

    Raises:
        BadInput: as `submit_grid`.
    """
    site = site_of(options)
    facts_of(site, options)
    missing = missing_of(cells, options, Store(options.results.resolve()), None)
    load = missing.load(site, options)
    if missing.queued:
        console.print(f"{counted(missing.queued, 'cell')} in the queue already", highlight=False)
    for what, part in (("dense networks", load.dense), ("cells", load.cells)):
        if part:
            console.print(f"would send {_jobs(part, what, site)}", highlight=False)
    if any(b.seconds is None for b in (*load.dense, *load.cells)):
        console.print(
            "no run on such nodes is known yet: the site's whole time is asked for",
            highlight=False,
        )


def _jobs(part: list[Bundle], what: str, site: Site) -> str:
    """`8 jobs for cells, at most 25 in a job, 12 min each, 4 at once`."""
    most = max(len(b.tasks) for b in part)
    each = minutes(part, site.minutes, site.signal_seconds)
    many = f", {site.array_parallelism} at once" if len(part) > site.array_parallelism else ""
    return f"{counted(len(part), 'job')} for {what}, at most {most} in a job, {each} min each{many}"


def _sender(
    cells: list[Cell], missing: Missing, options: Options, site: Site, facts: Facts
) -> Sender:
    """Freezes the code and writes down what is going to be sent."""
    store = Store(options.results.resolve())
    full = settled(options)
    own = [Path(m) for m in full.methods if m.endswith(".py")]
    code = freeze(folder(store), own)
    methods = [str(own_file(code, Path(m))) if m.endswith(".py") else m for m in full.methods]
    there = full.model_copy(
        update={
            "methods": methods, "results": store.root, "site": None,
            "jobs": slots_of(site, options),
        }
    )  # fmt: skip
    work = [
        *dense_tasks(missing.cells, options),
        *(task_of("cell", c, options) for c in missing.cells),
    ]
    grid = write_grid(store, options, cells, work, at_once(options), missing.seconds)
    return Sender(store, site, facts.cluster, max_array(site, facts), code, there, grid)


def _line(submission: Submission, site: Site) -> str:
    """`sent job 12: 8 jobs for 200 pieces of work, 10 min each, after job 11`."""
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
        try:
            time.sleep(PAUSE)
        except KeyboardInterrupt:
            console.print("not waiting any more; what is on the cluster goes on", highlight=False)
            raise
