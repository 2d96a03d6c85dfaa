"""What was sent to a cluster, on disk: which job was to do which work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from benchmark.files import dump_json, write_text
from benchmark.record import parse_json
from benchmark.runlog import last_line
from benchmark.slurm import LIVE, Job, NoAnswer, ended, queue
from benchmark.store import Store

FOLDER = "submissions"


@dataclass(frozen=True)
class Submission:
    """One array of jobs, or a single job."""

    job: str  # id of the array, or of the job
    cluster: str
    grid: str  # key
    bundles: tuple[tuple[str, ...], ...]  # keys of the work of each job
    minutes: int
    after: str = ""  # the job it waits for
    at: float = field(default_factory=time.time)

    @property
    def members(self) -> dict[str, tuple[str, ...]]:
        """Keys of the work by job id."""
        if len(self.bundles) == 1:  # submitit sends one job without an array
            return {self.job: self.bundles[0]}
        return {f"{self.job}_{i}": keys for i, keys in enumerate(self.bundles)}


SUBMISSION = TypeAdapter(Submission)


def folder(store: Store) -> Path:
    """Where submissions, their code and the logs of their jobs are."""
    return store.root / FOLDER


def job_folder(store: Store) -> Path:
    """Scripts, pickles and logs that submitit keeps."""
    return folder(store) / "jobs"


def write_submission(store: Store, submission: Submission) -> None:
    """Put it down."""
    path = folder(store) / f"{submission.grid}-{submission.job}.json"
    write_text(path, dump_json(asdict(submission)))


def read_submissions(store: Store) -> list[Submission]:
    """All that can be read, oldest first."""
    found = (_read(path) for path in folder(store).glob("*.json"))
    return sorted((s for s in found if s is not None), key=lambda s: (s.at, s.job))


def _read(path: Path) -> Submission | None:
    try:
        return SUBMISSION.validate_python(parse_json(path.read_bytes()))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Coverage:
    """Which job has, or had, which work. `silent`: why the cluster could not be asked."""

    jobs: Mapping[str, str]  # newest job id by key of the work
    live: Mapping[str, Job]
    silent: str = ""
    logs: Path = Path()  # folder of what jobs print
    how: Callable[[str], Job | None] = ended

    def alive(self, key: str) -> Job | None:
        """The job that will do it, or is at it."""
        return self.live.get(self.jobs.get(key, ""))

    def gone(self, key: str) -> str:
        """The job that had it and is no more; empty: there was none, or nobody can tell."""
        job = self.jobs.get(key, "")
        return "" if not job or self.silent or job in self.live else job

    def end_of(self, job: str) -> Job | None:
        """How a job ended, as far as the cluster remembers."""
        try:
            return self.how(job)
        except NoAnswer:
            return None

    def last_words(self, job: str) -> str:
        """The last line that a job printed about a mistake; empty: it said none."""
        said = last_line(self.logs / f"{job}_0_log.out", whole=True)
        return "" if said.startswith(("submitit INFO", "[")) else said


NOTHING = Coverage({}, {})


def saying(job: Job) -> str:
    """`job 12_3 is pending (Resources)`."""
    where = f" on {job.node}" if job.node else ""
    if job.state == "RUNNING":
        return f"job {job.id}{where} comes to it"
    if job.state in LIVE:
        why = f" ({job.reason})" if job.reason and job.reason != "None" else ""
        held = f"; scontrol release {job.id}" if "Held" in job.reason else ""
        return f"job {job.id} is {job.state.lower()}{where}{why}{held}"
    code = f", exit code {job.exit}" if job.exit not in ("", "0:0") else ""
    return f"job {job.id} ended{where} ({job.state}{code})"


def coverage(store: Store, submissions: Iterable[Submission] | None = None) -> Coverage:
    """As the cluster says now; it is not asked where nothing was submitted."""
    known = read_submissions(store) if submissions is None else list(submissions)
    if not known:
        return NOTHING
    jobs: dict[str, str] = {}
    for submission in known:
        jobs |= {key: job for job, keys in submission.members.items() for key in keys}
    try:
        return Coverage(jobs, queue(), logs=job_folder(store))
    except NoAnswer as error:
        return Coverage(jobs, {}, str(error))
