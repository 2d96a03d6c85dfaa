"""Jobs, as SLURM's own text commands tell of them; no accounting is needed. Every question has a
time limit, and no answer is an answer of its own: `NoAnswer`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from benchmark.record import one_line

PATIENCE = 30.0  # seconds; the commands themselves give a dead controller about ten
AT_ONCE = 500  # job ids in one command line

LIVE = frozenset({
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED",
    "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT",
    "STOPPED",
})  # fmt: skip
_MEMBERS = re.compile(r"(\d+)(?:-(\d+))?(?::(\d+))?")
_FIELD = re.compile(r"(?:^|(?<=\s))([A-Za-z][\w/:-]*)=(\S*)")


class NoAnswer(Exception):
    """SLURM could not be asked; the text is one line."""


# ---- jobs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One job, or one member of an array: `12` or `12_3`."""

    id: str
    state: str  # in SLURM's words, without what may follow them
    reason: str = ""  # why it waits, or why it ended so
    node: str = ""
    exit: str = ""  # exit code and signal: "1:0"

    @property
    def live(self) -> bool:
        """Whether it waits, runs, or will run again."""
        return self.state in LIVE


def queue() -> dict[str, Job]:
    """The live jobs of this user by id, members of arrays one by one.

    Raises:
        NoAnswer: the controller cannot be reached.
    """
    words = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i|%T|%N|%r"]
    return {job.id: job for job in parse_queue(ask(*words))}


def ended(job: str) -> Job | None:
    """How a job ended, as long as SLURM remembers (accounting remembers longer); None if nobody
    does. A job that is back in the queue by now is given as it is: see `Job.live`.

    Raises:
        NoAnswer: the controller cannot be reached.
    """
    done = _run("scontrol", "show", "job", "-o", job)
    text = done.stdout + done.stderr
    if done.returncode == 0:
        found = parse_job(done.stdout, job)
        if found is not None:
            return found
    elif not re.search("Invalid job id|not found", text):
        raise NoAnswer(_said(done))
    return _by_accounting(job) if _has_accounting() else None


def requeue(job: str) -> bool:
    """Put a running job back into its queue; False if SLURM refuses it for this job.

    Raises:
        NoAnswer: the controller cannot be reached.
    """
    done = _run("scontrol", "requeue", job)
    if done.returncode and not re.search("Invalid|not found|pending|disabled|already", _said(done)):
        raise NoAnswer(_said(done))
    return done.returncode == 0


def cancel(jobs: Iterable[str]) -> None:
    """End these jobs; those that ended before are passed over.

    Raises:
        NoAnswer: the controller cannot be reached.
    """
    ids = list(jobs)
    for start in range(0, len(ids), AT_ONCE):
        done = _run("scancel", *ids[start : start + AT_ONCE])
        if "Unable to contact" in done.stderr:
            raise NoAnswer(_said(done))


def parse_queue(text: str) -> Iterator[Job]:
    """Lines of `id|state|nodes|reason`."""
    for line in text.splitlines():
        parts = line.split("|", 3)
        if len(parts) == 4:
            job, state, node, reason = (part.strip() for part in parts)
            yield Job(job, state, "" if reason == "None" else reason, node)


def parse_job(text: str, job: str) -> Job | None:
    """The job among the lines of `scontrol show job -o`: of an array it shows all members, or
    several runs of one."""
    main, _, task = job.partition("_")
    for line in text.splitlines():
        said = fields(line)
        array = said.get("ArrayJobId", "")
        if (array == main and _among(task, said.get("ArrayTaskId", ""))) if task else (
            said.get("JobId") == main and not array
        ):  # fmt: skip
            reason = said.get("Reason", "")
            return Job(
                job,
                said.get("JobState", ""),
                "" if reason == "None" else reason,
                said.get("NodeList", "").replace("(null)", ""),
                said.get("ExitCode", ""),
            )
    return None


def _among(task: str, asked: str) -> bool:
    """Whether `2-8:3,9%2`, the members that have not started, has this one."""
    for part in asked.partition("%")[0].split(","):
        found = _MEMBERS.fullmatch(part)
        if found and task.isdigit():
            first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            if int(task) in range(first, last + 1, step):
                return True
    return False


def _by_accounting(job: str) -> Job | None:
    main = job.partition("_")[0]  # members that never started are on one line, under the array's id
    done = _run("sacct", "-nPX", "-j", main, "-o", "JobID,State,ExitCode,NodeList")
    return parse_accounting(done.stdout, job) if done.returncode == 0 else None


def parse_accounting(text: str, job: str) -> Job | None:
    """The job among the lines of `sacct -nPX`."""
    main, _, task = job.partition("_")
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 4:
            continue
        array, _, members = parts[0].partition("_")
        among = members.startswith("[") and _among(task, members.strip("[]"))
        if parts[0] == job or (array == main and among):
            state, node = parts[1].split(), parts[3].replace("None assigned", "")
            return Job(job, state[0] if state else "", parts[1], node, parts[2])
    return None


@cache
def _has_accounting() -> bool:
    """Asked once: without, `sacct` answers nothing but that it is switched off."""
    if shutil.which("sacct") is None:
        return False
    return has_store(ask("scontrol", "show", "config"))


def forget() -> None:
    """For another cluster, or one that was started anew."""
    _has_accounting.cache_clear()


def has_store(config: str) -> bool:
    """Whether `scontrol show config` names a place for accounting."""
    found = re.search(r"^AccountingStorageType\s*=\s*(\S+)", config, re.MULTILINE)
    return found is not None and not re.search("none|null", found[1])


def fields(line: str) -> dict[str, str]:
    """`Name=value` pairs of one line of `scontrol -o`; of a value with spaces its first word. The
    first of two equal names counts: free text comes last."""
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(line):
        found.setdefault(name, value)
    return found


# ---- asking --------------------------------------------------------------------------------------


def ask(*words: str) -> str:
    """What the command prints.

    Raises:
        NoAnswer: it fails, or takes too long.
    """
    done = _run(*words)
    if done.returncode:
        raise NoAnswer(_said(done))
    return done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            stdin=subprocess.DEVNULL, env=plain(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]} did not answer within {PATIENCE:.0f} s") from None
    except OSError as error:
        raise NoAnswer(f"{words[0]} cannot be started: {error.strerror}") from error


def plain() -> dict[str, str]:
    """The environment without a user's settings of how the commands speak; lists are whole."""
    settings = ("SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_", "SLURM_TIME_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(settings)}
    return kept | {"SLURM_BITSTR_LEN": "0"}


def _said(done: subprocess.CompletedProcess[str]) -> str:
    text = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
    return f"{done.args[0]}: {one_line(text.splitlines()[-1])}"
