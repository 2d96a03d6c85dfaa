"""`python -m benchmark.verify ARCHIVE`: is a submission whole, and does a run of it come out again?

Hashes, structure and what each run says of itself are looked at; then one run is made again from
nothing and compared with its record. Code that came with the archive is executed on request only.
"""

from __future__ import annotations

import datetime
import random
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark import (
    archs,
    chosen,
    differences,
    environment,
    imported,
    merge,
    origin,
    reproduce,
)
from benchmark.archive import read_archive
from benchmark.choices import content_of
from benchmark.cli import DONE, FAILED, INTERRUPTED, complain, console, run_app
from benchmark.differences import Run
from benchmark.errors import BadInput
from benchmark.files import check_writable, write_new
from benchmark.origin import Check, Mark, Marked, code_of
from benchmark.progress import counted
from benchmark.record import one_line
from benchmark.spec import PROTOCOL, ArchIdentity, RunSpec
from benchmark.store import Store
from benchmark.submit import foreign
from benchmark.unpacked import Opened, files_for, missing_package, named, unpack
from benchmark.verdict import Say, of_itself

SHOWN = 5  # runs, or reasons, that are named


# ---- which run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What was said on the command line."""

    cell: str
    their_code: bool
    words: Mapping[str, Any]  # data_dir, checkpoint, device, arch


def obstacle(opened: Opened, run: Run, request: Request) -> str:
    """Why a run cannot be made again here; empty: it can, if its data are here."""
    spec, theirs = run.record.spec, is_foreign(run.record.spec)
    if spec.protocol != PROTOCOL:
        return f"it is of protocol {spec.protocol}, this is {PROTOCOL}"
    if theirs and not request.their_code:
        return "its code came with the archive, which is executed with --run-their-code only"
    if spec.start.checkpoint and request.words.get("checkpoint") is None:
        return "it starts from a checkpoint: give --checkpoint"
    content = content_of(spec)
    if content and content not in opened.said:
        return f"it prunes by {content}, and the archive does not hold what that file said"
    try:
        if not spec.method.source:
            reproduce.entry_of(spec.method, None)
        if not spec.arch.source:
            _check_network(spec.arch, spec.data.num_classes)
    except BadInput as error:
        return str(error)
    return missing_package(opened, spec)


@lru_cache(maxsize=64)
def _check_network(arch: ArchIdentity, classes: int) -> None:
    """Raises BadInput unless ours of that name still is the network of the record."""
    archs.build_again(arch, classes)


def is_foreign(spec: RunSpec) -> bool:
    """Whether code that is not ours has to be executed for it."""
    return bool(spec.method.source or spec.arch.source)


def choose(opened: Opened, request: Request, say: Say) -> Run | None:
    """The run to make again: the one asked for, else one drawn by the hash of the archive among
    those that can be; None: there is none.

    Raises:
        BadInput: the one asked for is not in the archive, or cannot be made again.
    """
    if request.cell:
        found = [run for run in opened.all if run.record.run_id.startswith(request.cell)]
        if len(found) != 1:
            raise BadInput(f"--cell {one_line(request.cell)}: {len(found)} runs of it match")
        if why := obstacle(opened, found[0], request):
            raise BadInput(f"--cell {found[0].record.run_id}: {why}")
        return found[0]
    reasons = {name: obstacle(opened, run, request) for name, run in sorted(opened.runs.items())}
    free = [name for name, why in reasons.items() if not why]
    for why in dict.fromkeys(filter(None, reasons.values())):
        names = [name for name, reason in reasons.items() if reason == why]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        say(f"not to be made again: {', '.join(names[:SHOWN])}{more}: {why}")
    if not free:
        return None
    say(f"one of {counted(len(free), 'run')} is drawn by the hash of the archive")
    return opened.runs[random.Random(opened.archive.sha256).choice(free)]


# ---- again ---------------------------------------------------------------------------------------


def again(opened: Opened, run: Run, request: Request, say: Say) -> list[Check]:
    """Make the run again and compare, unless runs on the same images contradict themselves: then
    that is what was found, of each code.

    Raises:
        BadInput: what it needs is not here, as its images.
    """
    spec, screen = run.record.spec, console()
    method, arch = files_for(opened, spec)
    if is_foreign(spec):
        say(f"warning: this executes code of others, with your rights: the {named(spec)}")
    job = reproduce.job_of(run.folder, {**request.words, "arch": arch}, method, False)
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        found = reproduce.read_data(job, Path(place) / "data", screen)
        wrong = [(r, line) for r in opened.all if r.record.spec.data == spec.data
                 for line in of_itself(r, found, not spec.is_trial)]  # fmt: skip
        for _, line in wrong[:SHOWN]:
            say(line)
        if wrong:
            first: dict[str, Run] = {}
            for r, _ in wrong:
                first.setdefault(code_of(r.record.spec), r)
            return [_check(r, False, "it contradicts itself", job) for r in first.values()]
        if choice := opened.said.get(content_of(spec)):
            imported.keep(Store(Path(place) / "again"), choice)
        code = reproduce.reproduce(job, Path(place) / "again", screen, say)
    here = environment.describe() | {"device": str(job.options.torch_device())}
    compiled = {"compiled": run.record.environment.get("compiled", False)}
    same = differences.same_bits_expected(run.record.environment, here | compiled)
    how = "every bit" if same else "final accuracy on the same images, of another kind of machine"
    return [_check(run, code == DONE, how if code == DONE else "it came out otherwise", job)]


def _check(run: Run, passed: bool, how: str, job: reproduce.Job) -> Check:
    here = environment.describe() | {"device": str(job.options.torch_device())}
    return Check(
        run=run.record.run_id, code=code_of(run.record.spec), passed=passed, how=how,
        date=datetime.date.today().isoformat(),
        hardware=one_line(differences.hardware_of(here) or "unknown hardware")[:100],
    )  # fmt: skip


# ---- into the board ------------------------------------------------------------------------------


def known_mark(opened: Opened, into: Path) -> Mark:
    """What is known of the archive there."""
    place = origin.place_of(into, opened.archive.sha256)
    if place.exists():
        return origin.read_mark(place)
    return Mark(archive=opened.archive.sha256, by=opened.archive.manifest.by, runs={})


def add(opened: Opened, into: Path, checks: list[Check], say: Say) -> int:
    """Copy the runs that are not there, and mark them; the exit code."""
    check_writable(into)
    merging = merge.plan([opened.root], into, trials=False)  # of others: never to choose by here
    for line in merging.remarks:
        say(line)
    new = {folder.name for folder in merging.folders}
    mark = known_mark(opened, into)
    runs = dict(mark.runs) | {n: Marked.of(opened.runs[n].record.spec) for n in sorted(new)}
    if not runs:
        say(f"{into} has these runs already, and not from here: nothing is marked")
        return merging.code
    marked = mark.model_copy(update={"runs": runs, "checks": (*mark.checks, *checks)})
    written = origin.write_mark(into, marked)  # before the runs: none is ever there without it
    _keep_evidence(opened, into, new)
    merge.apply(merging)
    states = sorted({marked.state(own.code) for own in runs.values()})
    say(f"{into}: {counted(len(new), 'run')} added, marked in {written}: {', '.join(states)}")
    place = shlex.quote(str(into))
    say(f"Next: python -m benchmark.report --results {place} shows them with their origin")
    return merging.code


def _keep_evidence(opened: Opened, into: Path, new: set[str]) -> None:
    """What these runs rest on: trials beside the mark, apart from those that were made here, and
    what files of other code said where runs look for it."""
    added = [opened.runs[run_id].record.spec for run_id in new]
    if any(spec.lane == "tuned" for spec in added):
        home = origin.evidence_of(into, opened.archive.sha256)
        for name, raw in opened.archive.files.items():
            if name.startswith(f"{chosen.TRIALS}/"):
                write_new(home / name, raw)
    for content in sorted({content_of(spec) for spec in added} & opened.said.keys()):
        if imported.read(into, content) is None:
            imported.keep(Store(into), opened.said[content])


def refuse(opened: Opened, into: Path | None, checks: list[Check], say: Say) -> int:
    """Of a run that did not come out again: nothing is added, and what was before is marked."""
    if into is not None and (mark := known_mark(opened, into)).runs:
        origin.write_mark(into, mark.model_copy(update={"checks": (*mark.checks, *checks)}))
        say(f"the runs of this archive in {into} are marked: not reproduced")
    say(f"refused: run {checks[0].run} did not come out again; nothing was added")
    return FAILED


# ---- the command ---------------------------------------------------------------------------------


def verify(opened: Opened, request: Request, into: Path | None, rerun: bool, say: Say) -> int:
    """Everything after unpacking; the exit code."""
    runs, whose = counted(len(opened.runs), "run"), opened.archive.manifest.by
    runs += f" and {counted(len(opened.trials), 'trial')}" if opened.trials else ""
    say(
        f"submission {opened.name}{f' by {whose}' if whose else ''}: {runs}, "
        f"{counted(len(opened.archive.files), 'file')} as listed, packed by "
        f"{opened.archive.manifest.suite}"
    )
    for what in foreign(run.record for run in opened.runs.values()):
        say(f"  uses the {what}, which is in the archive under sources/{what.source}/")
    run = choose(opened, request, say) if rerun else None
    if run is None:
        say("no run was made again: all of it is self-reported")
        return add(opened, into, [], say) if into is not None else DONE
    checks = again(opened, run, request, say)
    if not all(check.passed for check in checks):
        return refuse(opened, into, checks, say)
    (check,) = checks
    own = sum(code_of(r.record.spec) == check.code for r in opened.runs.values())
    others = len(opened.runs) - own
    say(f"verified: {counted(own, 'run')} of the same code; self-reported: {others}")
    return add(opened, into, checks, say) if into is not None else DONE


def main(
    archive: Annotated[Path, typer.Argument(help="A file that benchmark.submit wrote.")],
    into: Annotated[
        Path | None, typer.Option(help="Results directory to add the runs to, marked.")
    ] = None,
    cell: Annotated[str, typer.Option(help="Run id, or its start, instead of a drawn one.")] = "",
    rerun: Annotated[
        bool, typer.Option("--rerun/--no-rerun", help="Make a run again, or only look.")
    ] = True,
    run_their_code: Annotated[
        bool,
        typer.Option("--run-their-code", help="Execute methods and networks of the archive."),
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where the images are.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The weights the run starts from.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as then.")] = None,
) -> int:
    """Look at a submission, make one of its runs again, and add it to a results directory. Exit
    code 0: accepted, 1: a run did not come out again, or a conflict, 2: it is not whole.

    Example: python -m benchmark.verify submission.tar.gz --into results
    """
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    words = {"data_dir": data_dir, "checkpoint": checkpoint, "device": device}
    request = Request(cell, run_their_code, words)
    if cell and not rerun:
        raise BadInput("--cell names a run to make again: leave out --no-rerun")
    found = read_archive(archive)
    try:
        with tempfile.TemporaryDirectory(prefix="submission-") as place:
            return verify(unpack(found, Path(place)), request, into, rerun, say)
    except KeyboardInterrupt:
        complain("interrupted: nothing was added")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run_app(main)
