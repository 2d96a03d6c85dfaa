"""A submission that was unpacked: every run read, every source compared with what runs name.

Nothing of it is executed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark import archs, merge
from benchmark import block as blocks
from benchmark.archive import Archive
from benchmark.derived import derive
from benchmark.differences import Run
from benchmark.errors import BadInput
from benchmark.record import RunRecord, one_line, parse_json
from benchmark.spec import RunSpec
from benchmark.submit import Foreign, foreign
from methods import UnknownMethod, all_names, find_ours, is_installed, is_ours, plugins

MOST_CLASSES = 100_000  # a network's last layer has to fit in memory


@dataclass(frozen=True)
class Opened:
    """A submission that is whole, unpacked into a folder of ours."""

    archive: Archive
    root: Path  # a results directory of its runs, sources/ beside them
    runs: Mapping[str, Run]  # by run id

    @property
    def name(self) -> str:
        return self.archive.sha256[:12]


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
    runs = {}
    for place in archive.runs:
        try:
            run = merge.whole_run(root / place)
        except BadInput as error:
            raise BadInput(str(error).replace(f"{root}/", "")) from error
        if f"runs/{run.record.spec.folder}" != place:
            raise BadInput(f"{place}: its record belongs to runs/{run.record.spec.folder}")
        _check_names(run.record)
        runs[run.record.run_id] = run
    opened = Opened(archive, root, runs)
    _check_sources(opened)
    _check_tables(opened)
    return opened


def _check_names(record: RunRecord) -> None:
    """Nobody else's code goes by a name of ours, and what names no source is ours: such runs are
    judged together."""
    spec, who = record.spec, f"run {record.run_id}"
    for what, part, ours in (
        ("method", spec.method, is_ours(spec.method.name)),
        ("network", spec.arch, archs.is_taken(spec.arch.name)),
    ):
        if part.source and ours:
            raise BadInput(f"{who}: its {what} {part.name} has the name of one of ours")
        if not part.source and not ours:
            raise BadInput(f"{who}: its {what} {part.name} is none of ours, and names no source")
    if spec.data.num_classes > MOST_CLASSES:
        raise BadInput(f"{who}: no data set here has {spec.data.num_classes} classes")
    if not spec.method.source:
        try:
            entry = find_ours(spec.method.label)
        except UnknownMethod as error:
            raise BadInput(f"{who}: {error}") from error
        if record.control != entry.is_control:
            raise BadInput(
                f"{who}: {spec.method.label} is {'a' if entry.is_control else 'no'} control"
            )
    elif record.title in {find_ours(label).title for label in all_names()}:
        raise BadInput(f"{who}: its method has the title of one of ours: {one_line(record.title)}")


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
    wanted = {f.source: f for f in foreign(run.record for run in opened.runs.values())}
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
