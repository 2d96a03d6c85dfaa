"""From bundles of work to job arrays in SLURM's queue, through submitit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from benchmark.bundles import Bundle, Packing, bundle, minutes
from benchmark.clusterjob import ClusterJob
from benchmark.errors import BadInput
from benchmark.options import Options
from benchmark.probe import Seconds
from benchmark.site import Site
from benchmark.store import Store
from benchmark.submissions import Submission, job_folder, write_submission
from benchmark.tasks import Task

# A warning while Python starts would end the job: it is not heard until somebody can answer it.
DEAF = """trap '' USR2; exec "$0" "$@\""""
REQUEUES = 1000  # a job goes back into the queue as long as it gets on


def slots_of(site: Site, options: Options) -> int:
    """Cells at once in a job; one where several processes work on it together."""
    return 1 if options.gpus_per_cell > 1 else site.slots(options.threads)


@dataclass(frozen=True)
class Load:
    """What is to be done, in bundles: dense networks, and the cells that wait for them."""

    dense: list[Bundle]
    cells: list[Bundle]

    @property
    def jobs(self) -> int:
        """How many they are."""
        return len(self.dense) + len(self.cells)

    def within(self, room: int | None, makers: Collection[str]) -> Load:
        """What fits in so many jobs: no cells whose dense network is neither there, nor in the
        queue, nor sent."""
        if room is None or self.jobs <= room:
            return self
        dense = self.dense[:room]
        late = {t.makes for b in self.dense[room:] for t in b.tasks} - set(makers)
        cells = [b for b in self.cells if b.tasks[0].needs not in late]
        return Load(dense, cells[: room - len(dense)])


def load_of(
    dense: list[Task],
    cells: list[Task],
    seconds: dict[str, Seconds],
    site: Site,
    options: Options,
) -> Load:
    """One job for each dense network, so that all seeds train at once; cells as many to a job as
    the site wants."""
    left = max(1, site.max_submit - len(dense)) if site.max_submit else 0
    packing = Packing(
        slots=slots_of(site, options),
        parallel=site.array_parallelism,
        limit=60.0 * site.minutes - site.signal_seconds,
        fill=60.0 * site.fill_minutes,
        most=site.cells_per_job,
        jobs=left,
    )
    alone = [Bundle((task,), seconds.get(task.makes)) for task in dense]
    return Load(alone, bundle(cells, seconds, packing))


@dataclass(frozen=True)
class Sender:
    """What all arrays of one submission share."""

    store: Store
    site: Site
    cluster: str
    most: int  # members of an array
    code: Path
    options: Options  # as the jobs will see them
    grid: str  # key

    def send(self, load: Load, makers: dict[str, str]) -> Iterator[Submission]:
        """Dense networks, then the cells. `makers`: jobs in the queue by the dense network that
        they train."""
        makers = dict(makers)

        def waiting(part: Bundle) -> tuple[Task, ...]:
            made = {task.makes for task in part.tasks}
            return tuple(t for b in load.cells for t in b.tasks if t.needs in made)

        for submission in self._arrays(load.dense, "", waiting):
            for job, keys in submission.members.items():
                makers |= {key.removeprefix("dense-"): job for key in keys}
            yield submission
        for job, group in groupby(load.cells, lambda b: makers.get(b.tasks[0].needs, "")):
            yield from self._arrays(list(group), job, lambda _: ())

    def _arrays(
        self, bundles: list[Bundle], after: str, waiting: Callable[[Bundle], tuple[Task, ...]]
    ) -> Iterator[Submission]:
        """One array for each stretch that the cluster takes."""
        for start in range(0, len(bundles), self.most):
            part = bundles[start : start + self.most]
            time = minutes(part, self.site.minutes, self.site.signal_seconds)
            first = self._sbatch([self._job(b, waiting(b), time) for b in part], time, after)
            keys = tuple(tuple(task.key for task in b.tasks) for b in part)
            submission = Submission(first, self.cluster, self.grid, keys, time, after)
            write_submission(self.store, submission)
            yield submission

    def _job(self, part: Bundle, waiting: tuple[Task, ...], time: int) -> ClusterJob:
        return ClusterJob(
            tasks=part.tasks,
            cells=waiting,
            slots=slots_of(self.site, self.options),
            minutes=time,
            warning=self.site.signal_seconds,
            code=self.code,
            device=self.site.device,
            gpus=self.site.gpus_on_node(self.options.gpus_per_cell),
            processes=self.options.gpus_per_cell,
            address=self.site.master_address,
        )

    def _sbatch(self, jobs: list[ClusterJob], time: int, after: str) -> str:
        """Id of the array, or of the one job."""
        python = f"bash -c {shlex.quote(DEAF)} {shlex.quote(self.site.python or sys.executable)}"
        executor = submitit.SlurmExecutor(job_folder(self.store), REQUEUES, python=python)
        executor.update_parameters(**self._parameters(time, after))
        try:
            sent = executor.submit_array(jobs)
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(str(error).split())
            raise BadInput(
                f"the cluster refuses: {said}; what was sent before stays, the same command sends "
                "the rest"
            ) from error
        return str(sent[0].job_id.split("_")[0])

    def _parameters(self, time: int, after: str) -> dict[str, Any]:
        """In submitit's words."""
        site, processes = self.site, self.options.gpus_per_cell
        nodes, per_node = site.layout(processes)
        cpus, gpus = site.cpus_per_process(processes), site.gpu_request(processes)
        path = shlex.quote(str(self.code))
        more = {"kill-on-invalid-dep": "yes", "requeue": True, "chdir": str(self.code)}
        more |= {"gpus-per-node": gpus} if gpus else {}
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
            "additional_parameters": more | site.extra,
        }
        return {name: value for name, value in found.items() if value != ""}
