"""What a stranger's run says of itself, as far as it can be judged without training: whose names
and titles it goes by, and whether its costs are those of its plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from benchmark import archs, recount
from benchmark.differences import Run
from benchmark.record import RunRecord, one_line
from benchmark.spec import Anew
from methods import Entry, UnknownMethod, all_names, build, find_ours, is_ours

MOST_CLASSES = 100_000  # a network's last layer has to fit in memory
LARGEST_SIDE = 2048  # pixels: so has an image
EXACT = 1e-12


def problem(run: Run) -> str:
    """The first thing that cannot be; empty: there is none."""
    return next(_problems(run), "")


def _problems(run: Run) -> Iterator[str]:
    record, spec = run.record, run.record.spec
    for what, part, ours in (
        ("method", spec.method, is_ours(spec.method.name)),
        ("network", spec.arch, archs.is_taken(spec.arch.name)),
    ):
        if part.source and ours:
            yield f"its {what} {part.name} has the name of one of ours"
        if not part.source and not ours:
            yield f"its {what} {part.name} is none of ours, and names no source"
    if spec.data.num_classes > MOST_CLASSES:
        yield f"no data set here has {spec.data.num_classes} classes"
    if spec.data.image_size > LARGEST_SIDE:
        yield f"no data set here has images of {spec.data.image_size} pixels"
    yield from _of_theirs(record) if spec.method.source else _of_ours(record)
    yield from _costs(run)


# ---- whose it is ---------------------------------------------------------------------------------


def _of_theirs(record: RunRecord) -> Iterator[str]:
    if record.spec.scratch and not record.control:
        yield f"{record.spec.row} is a control"
    if record.title.strip().casefold() in _titles_of_ours():
        yield f"its method has the title of one of ours: {one_line(record.title)}"


def _titles_of_ours() -> set[str]:
    """As rows have them, those with new weights too."""
    plain = [find_ours(label).title for label in all_names()]
    anew = [f"{title}, {kind.title()}" for title in plain for kind in get_args(Anew)]
    return {title.casefold() for title in (*plain, *anew)}


def _of_ours(record: RunRecord) -> Iterator[str]:
    spec = record.spec
    try:
        entry = find_ours(spec.method.label)
    except UnknownMethod as error:
        yield str(error)
        return
    is_control = entry.is_control or spec.scratch is not None
    if record.control != is_control:
        yield f"{spec.row} is {'a' if is_control else 'no'} control"
    result, labels = _told(entry, record)
    if spec.result != result:
        yield f"{spec.method.label} leaves {result}, not {spec.result}"
    if record.title not in {spec.titled(title) for title in (entry.title, *labels)}:
        yield f"{spec.row} goes by another title: {one_line(record.title)}"


def _told(entry: Entry, record: RunRecord) -> tuple[str, tuple[str, ...]]:
    """What the method leaves, and the titles that it may give its rows."""
    try:
        method = build(entry, record.spec.method.params)
    except UnknownMethod:  # of another version
        return entry.result, ()
    return method.result, method.labels


# ---- what it costs -------------------------------------------------------------------------------


def _costs(run: Run) -> Iterator[str]:
    record, dense = run.record, run.record.dense.cost
    if min(dense.macs, dense.params) <= 0:
        yield "its dense network costs nothing"
        return
    for name, said, left in (
        ("flops_reduction", record.flops_reduction, record.pruned.macs / dense.macs),
        ("params_reduction", record.params_reduction, record.pruned.params / dense.params),
    ):
        if abs(said - (1 - left)) > EXACT:
            yield f"its {name} is {said:.6g}, its own costs give {1 - left:.6g}"
    kept = {group: len(units) for group, units in run.keep.items()}
    for group, width in record.widths.items():
        if width != kept.get(group, record.dense_widths.get(group)):
            yield f"its width of {one_line(group)} is not that of its plan"
    names = ("dense", "pruned")
    for name, said, counted in zip(
        names, (dense.macs, record.pruned.macs), _macs(run), strict=True
    ):
        if counted is not None and said != counted:
            yield f"its {name} network has {said:,} MACs, its plan gives {counted:,}"


def _macs(run: Run) -> tuple[int | None, int | None]:
    """Of a network of ours before and after; None: not to be known."""
    if run.record.spec.arch.source:
        return None, None
    try:
        return recount.macs_of(run.record, run.masks) or (None, None)
    except Exception:  # whatever a network raises on images of a size that it is not for
        return None, None
