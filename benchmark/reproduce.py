"""`python -m benchmark.reproduce RUN`: makes the run of a record again from nothing and compares.

On a machine of the same kind every bit must be equal; elsewhere the two networks are compared on
the same test images. What is run comes from the record, not from the command in it.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmark import archs, baseline, data, differences, environment, imported
from benchmark.cli import FAILED, INTERRUPTED, complain, console, run_app
from benchmark.context import Context, set_threads_and_determinism
from benchmark.data import Data
from benchmark.differences import Run
from benchmark.errors import BadInput
from benchmark.execute import run_one
from benchmark.files import new_folder
from benchmark.images import DataIdentity
from benchmark.load import find_run
from benchmark.options import Options, options_from
from benchmark.progress import GridProgress, counting
from benchmark.spec import PROTOCOL, MethodIdentity, RunSpec
from benchmark.store import Store
from benchmark.tasks import data_of
from benchmark.verdict import Say, introduce, judge
from benchmark.workdir import workdir
from methods import Entry, UnknownMethod, build, find, is_installed


@dataclass(frozen=True)
class Job:
    """What is to be made again, and with what."""

    recorded: Run
    entry: Entry
    options: Options  # of the data and the device alone
    root: Path  # the results directory of the record
    reuse_dense: bool

    @property
    def spec(self) -> RunSpec:
        return self.recorded.record.spec


# ---- from a record to a job ----------------------------------------------------------------------


def job_of(folder: Path, words: dict[str, Any], method_file: Path | None, reuse_dense: bool) -> Job:
    """All that can be refused before images are read. `words`: as given on the command line.

    Raises:
        BadInput: the record is not whole, or this code or these files are not those of the record.
    """
    recorded = differences.read_run(folder)
    spec, made_on = recorded.record.spec, recorded.record.environment
    if spec.protocol != PROTOCOL:
        raise BadInput(
            f"the code has moved on: protocol {spec.protocol} in the record, {PROTOCOL} here"
        )
    entry = entry_of(spec.method, method_file)
    if words.get("device") is None and str(made_on.get("device", "")).startswith("cpu"):
        words = words | {"device": "cpu"}  # as recorded, also where there is a GPU
    options = options_from(data_words(spec) | {k: v for k, v in words.items() if v is not None})
    check_checkpoint(spec, options.checkpoint)
    archs.find(options.arch)  # this process knows the network of a user's own file from now on
    baseline.new_model(spec)  # another structure is answered now
    return Job(recorded, entry, options, results_of(folder), reuse_dense)


def results_of(folder: Path) -> Path:
    """The results directory of a run's folder; the folder's own parent if it lies elsewhere."""
    parents = folder.resolve().parents
    in_place = len(parents) > 4 and parents[3].name == "runs"
    return parents[4] if in_place else parents[0]


def data_words(spec: RunSpec) -> dict[str, Any]:
    """The words of the command line that name this data."""
    found = spec.data
    triples = (",".join(map(repr, triple)) for triple in (found.mean, found.std))
    words: dict[str, Any] = {
        "dataset": data.dataset_of(found),
        "image_size": found.image_size,
        "normalize": ";".join(triples),
        "track": spec.track,
    }
    return words if found.name == words["dataset"] else words | {"data_name": found.name}


def entry_of(method: MethodIdentity, file: Path | None) -> Entry:
    """The method, unchanged since the record.

    Raises:
        BadInput: its file is missing or another, or its revision was raised.
    """
    if not method.source and file is not None:
        raise BadInput(f"{method.label} is one of the suite's methods: leave out --method-file")
    if method.source and (file is None or file.suffix != ".py") and not is_installed(method.name):
        raise BadInput(
            f"{method.label} is a user's own method: pass --method-file {method.name}.py, the file "
            f"with source hash {method.source}, or install its package"
        )
    try:
        entry = find(str(file) if file is not None else method.label)
        build(entry, method.params)
    except UnknownMethod as error:
        raise BadInput(str(error)) from error
    if entry.source_hash != method.source or entry.name != method.name:
        raise BadInput(
            f"{file or entry.package} is not the method of the record: {entry.name} with source "
            f"hash {entry.source_hash}, not {method.name} with {method.source}"
        )
    if entry.cls.revision != method.revision:
        raise BadInput(
            f"the code has moved on: {method.label} has revision {method.revision} in the record, "
            f"{entry.cls.revision} here"
        )
    return entry


def check_checkpoint(spec: RunSpec, checkpoint: Path | None) -> None:
    """Raises BadInput unless it holds the weights the run starts from."""
    wanted = spec.start.checkpoint
    if not wanted:
        if checkpoint is not None:
            raise BadInput(f"the run starts from {spec.start.kind}: leave out --checkpoint")
        return
    if checkpoint is None:
        raise BadInput(f"the run starts from a checkpoint with weights {wanted}: pass --checkpoint")
    found = baseline.checkpoint_hash(checkpoint)
    if found != wanted:
        raise BadInput(
            f"checkpoint {checkpoint} has weights {found}, the run started from {wanted}"
        )


def check_data(wanted: DataIdentity, found: DataIdentity) -> None:
    """Raises BadInput with what differs, unless both are the same."""
    ours, theirs = (d.model_dump(mode="json") for d in (wanted, found))
    changed = [name for name in ours if ours[name] != theirs[name]]
    if changed:
        what = "; ".join(
            f"{name.replace('_', ' ')} {ours[name]} in the record, {theirs[name]} here"
            for name in changed
        )
        raise BadInput(f"the data found is not that of the record: {what}")


# ---- making it again -----------------------------------------------------------------------------


def read_data(job: Job, place: Path, screen: Console) -> Data:
    """The data of the record. Decoded images may come from the cache of its results directory:
    their content is hashed anew."""
    cache = job.root / "stages"
    usable = cache.is_dir() and os.access(cache, os.W_OK)
    options = job.options.model_copy(update={"results": job.root if usable else place})
    with counting(screen, "reading images") as on_progress:
        found = data_of(options, on_progress)
    check_data(job.spec.data, found.identity)
    return found.without_test() if job.spec.is_trial else found


def take_dense(job: Job, place: Path) -> bool:
    """Copy the trained dense network into the new results; False: there is none."""
    method = build(job.entry, job.spec.method.params)
    name = f"dense-{baseline.stage_key(job.spec, method.own_dense)}"
    source = job.root / "stages" / name
    if not job.spec.start.is_trained_here or not source.is_dir():
        return False
    with new_folder(place / "stages" / name) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True)
    return True


def run_again(job: Job, found: Data, place: Path, screen: Console) -> Run:
    """The run, made in `place`."""
    seen: set[str] = set()
    with GridProgress(screen, "running", total=1, workers=1) as bars:

        def show(phase: str, done: int, total: int) -> None:
            bars.update(job.entry.label, phase, done, total)
            if phase not in seen and not screen.is_terminal:
                screen.print(f"{phase}: {total} images", highlight=False, markup=False)
            seen.add(phase)

        context = Context(
            store=Store(place),
            data=found,
            device=job.options.torch_device(),
            progress=show,
            checkpoint=job.options.checkpoint,
            compiled=bool(job.recorded.record.environment.get("compiled", False)),
            command=job.recorded.record.command,
        )
        run_one(job.spec, job.entry, context)
    return differences.read_run(Store(place).run_folder(job.spec))


# ---- the command ---------------------------------------------------------------------------------


def reproduce(job: Job, place: Path, screen: Console, say: Say) -> int:
    """Make the run again in `place` and compare; the exit code."""
    record = job.recorded.record
    # Before the environment is described: it tells whether algorithms are deterministic.
    set_threads_and_determinism(job.spec.threads)
    compiled = {"compiled": record.environment.get("compiled", False)}
    device = {"device": str(job.options.torch_device())}
    same_kind = introduce(record, environment.describe() | device | compiled, say)
    found = read_data(job, place, screen)
    reused = job.reuse_dense and take_dense(job, place)
    if job.reuse_dense and not reused:
        say(f"no dense network of this run is in {job.root / 'stages'}: it is made again")
    try:
        again = run_again(job, found, place, screen)
    except BadInput:
        raise
    except Exception as error:  # whatever a method raises: the record could not be made again
        reason = " ".join(str(error).split())
        say(f"not reproduced: the run ended here with {type(error).__name__}: {reason}")
        return FAILED
    code = judge(job.recorded, again, found.test.labels.numpy(), same_kind, say)
    if reused:
        say(f"The dense network was taken from {job.root / 'stages'}, not trained again.")
    return code


def main(
    run: Annotated[str, typer.Argument(help="Run id, its start, or a run's folder.")],
    results: Annotated[Path, typer.Option(help="Where the record is.")] = Path("results"),
    data_dir: Annotated[Path | None, typer.Option(help="Where the images are.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The weights it started from.")] = None,
    method_file: Annotated[Path | None, typer.Option(help="A user's own method.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="A user's own network: FILE.py:FUNCTION.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="New directory to run in and keep.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as then.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what was made here.")] = False,
    reuse_dense: Annotated[
        bool, typer.Option("--reuse-dense", help="Do not train the dense network again.")
    ] = False,
    pruned_by: Annotated[
        Path | None, typer.Option(help="The file it pruned by. Default: as kept with the results.")
    ] = None,
) -> int:
    """Make the run of a record again from nothing and compare. Exit code 0: reproduced, 1: not."""
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    words = {"data_dir": data_dir, "checkpoint": checkpoint, "device": device, "arch": arch}
    job = job_of(find_run(run, results), words, method_file, reuse_dense)
    choice = imported.of_run(job.spec, job.entry, Store(job.root), pruned_by)
    try:
        with workdir(job.root, into, keep, say) as place:
            if choice is not None:
                imported.keep(Store(place), choice)
            return reproduce(job, place, screen, say)
    except KeyboardInterrupt:  # the words of other commands would promise that it goes on
        complain("interrupted: nothing was compared")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run_app(main)
