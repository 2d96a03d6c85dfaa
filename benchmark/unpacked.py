"""A submission that was unpacked: every run read, every source compared with what runs name.

Nothing of it is executed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark import archs, choices, chosen, plausible, trialcheck
from benchmark import block as blocks
from benchmark.archive import Archive
from benchmark.choices import Choice
from benchmark.derived import derive
from benchmark.differences import Run, whole_run
from benchmark.errors import BadInput
from benchmark.record import one_line, parse_json
from benchmark.spec import RunSpec
from benchmark.submit import Foreign, foreign
from methods import is_installed, plugins


@dataclass(frozen=True)
class Opened:
    """A submission that is whole, unpacked into a folder of ours."""

    archive: Archive
    root: Path  # a results directory of its runs, sources/ beside them
    runs: Mapping[str, Run]  # by run id
    trials: Mapping[str, Run]  # by which values of its runs were chosen
    said: Mapping[str, Choice]  # by files of other code, by the content that runs prune by

    @property
    def name(self) -> str:
        return self.archive.sha256[:12]

    @property
    def all(self) -> list[Run]:
        """Runs and trials."""
        return [*self.runs.values(), *self.trials.values()]


def unpack(archive: Archive, root: Path) -> Opened:
    """Write the files below `root` and read every run.

    Raises:
        BadInput: a run that cannot be read or is not what its place says, a source that is not the
            one that runs name, or results that no table can be made from.
    """
    for name, raw in archive.files.items():
        path = root / name  # names were checked: none leads out of the folder
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    runs, trials = (_read(root, folders) for folders in (archive.runs, archive.trials))
    opened = Opened(archive, root, runs, trials, _read_said(archive))
    for run in opened.all:
        if why := plausible.problem(run):
            raise BadInput(f"run {run.record.run_id}: {why}")
    _check_trials(opened)
    _check_said(opened)
    _check_sources(opened)
    _check_tables(opened)
    return opened


def _read(root: Path, folders: list[str]) -> dict[str, Run]:
    found = {}
    for place in folders:
        try:
            run = whole_run(root / place)
        except BadInput as error:
            raise BadInput(str(error).replace(f"{root}/", "")) from error
        spec = run.record.spec
        home = f"{chosen.TRIALS}/runs" if spec.is_trial else "runs"
        if f"{home}/{spec.folder}" != place:
            raise BadInput(f"{place}: its record belongs to {home}/{spec.folder}")
        found[run.record.run_id] = run
    return found


def _read_said(archive: Archive) -> dict[str, Choice]:
    found = {}
    for content, raw in archive.pruned_by.items():
        place = f"pruned-by/{content}.json"
        found[content] = choices.parse(raw, place)
        if found[content].content != content:
            raise BadInput(f"{place} says {found[content].content}")
    return found


def _check_trials(opened: Opened) -> None:
    """What tuned runs say of their trials is what these say, and there are no others."""
    records = {run_id: run.record for run_id, run in opened.trials.items()}
    made, used = {}, set()
    for place in opened.archive.chosen:
        try:
            made[place] = chosen.parse(opened.archive.files[place])
        except ValueError as error:
            raise BadInput(f"{place} is not what trials chose: {one_line(error)}") from error
        if why := trialcheck.problem(made[place], records):
            raise BadInput(f"{place}: {why}")
        used |= {*trialcheck.trials_of(made[place])}
    tuned = [run.record for run in opened.runs.values()]
    for record in tuned:
        choice = made.get(trialcheck.place_of(record.spec))
        if why := trialcheck.problem_of_row(record, choice):
            raise BadInput(f"run {record.run_id}: {why}")
    for place in sorted(made.keys() - trialcheck.needed(tuned).keys()):
        raise BadInput(f"{place} belongs to no run")
    for run_id in sorted(records.keys() - used):
        raise BadInput(f"trial {run_id} belongs to no run")


def _check_said(opened: Opened) -> None:
    wanted = {choices.content_of(run.record.spec) for run in opened.all}
    for content in sorted(opened.said.keys() - wanted):
        raise BadInput(f"pruned-by/{content}.json belongs to no run")


def _check_tables(opened: Opened) -> None:
    """Measurements are not compared with anything: that tables can be made of all is enough."""
    for name, raw in opened.archive.files.items():
        if "/measurements/" in name:
            try:
                told = parse_json(raw)
            except ValueError as error:
                raise BadInput(f"{name} is not a measurement: {one_line(error)}") from error
            if not isinstance(told, dict):
                raise BadInput(f"{name} is not a measurement")
    try:
        for block in blocks.names(opened.root):
            derive(opened.root, block, "none")
    except Exception as error:  # a record is read strictly, but some of its fields are free
        said = f"{type(error).__name__}: {one_line(error)}"
        raise BadInput(f"no table can be made of its records: {said}") from error


def _check_sources(opened: Opened) -> None:
    """Every source is that of a run, and what runs name is there."""
    wanted = {f.source: f for f in foreign(run.record for run in opened.all)}
    for source in sorted(opened.archive.sources.keys() - wanted.keys()):
        raise BadInput(f"sources/{source}/ belongs to no run")
    for source, what in wanted.items():
        files = opened.archive.sources.get(source, {})
        code = {place: raw for place, raw in files.items() if place.endswith(".py")}
        if not code or plugins.digest_of(code) != source:
            raise BadInput(f"sources/{source}/ is not the {what}")


# ---- code that came along ------------------------------------------------------------------------


def files_for(opened: Opened, spec: RunSpec) -> tuple[Path | None, str | None]:
    """The method's file and the word for --arch of a run, where the archive has them as files of
    one's own; what is of a package has to be installed."""
    method, arch = None, None
    if spec.method.source:
        path = opened.root / "sources" / spec.method.source / f"{spec.method.name}.py"
        method = path if path.is_file() else None
    if spec.arch.source:
        stem, _, function = spec.arch.name.partition(".")
        path = opened.root / "sources" / spec.arch.source / f"{stem}.py"
        arch = f"{path}:{function}".rstrip(":") if path.is_file() else None
    return method, arch


def named(spec: RunSpec) -> str:
    own = [Foreign("method", spec.method.name, spec.method.source)]
    own += [Foreign("network", spec.arch.name, spec.arch.source)]
    return ", ".join(str(f) for f in own if f.source)


def missing_package(opened: Opened, spec: RunSpec) -> str:
    """What has to be installed before the code of a run can be executed; empty: nothing."""
    method, arch = files_for(opened, spec)
    if spec.method.source and method is None and not is_installed(spec.method.name):
        return f"its method {spec.method.name} is of a package that is not installed here"
    offered = plugins.offers(plugins.ARCHITECTURES, archs.is_taken)[0]
    if spec.arch.source and arch is None and spec.arch.name not in offered:
        return f"its network {spec.arch.name} is of a package that is not installed here"
    return ""
