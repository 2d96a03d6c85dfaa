"""Choices that were made elsewhere as part of a grid (docs/imported-results.md).

A file is read once, at planning. What it says is kept under `stages/imported-KIND-HASH`, and runs
know it by kind and hash: neither the file's place nor its format is part of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import archs, choices, fits
from benchmark.choices import Choice
from benchmark.errors import BadInput
from benchmark.images import DataIdentity
from benchmark.options import Options
from benchmark.preflight import traced
from benchmark.record import one_line
from benchmark.select import TOLERANCE
from benchmark.spec import RunSpec
from benchmark.stages import DAMAGED, Stage, read_stage
from benchmark.store import Store
from methods import Entry
from methods.api import Budget

STAGE = "imported"


class Shelf(dict[str, Mapping[str, Tensor]]):
    """What files said, by kind and hash, read from the stages when it is asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def __missing__(self, content: str) -> Mapping[str, Tensor]:
        self[content] = taken(self.store, content).values
        return self[content]


def taken(store: Store, content: str) -> Choice:
    """A choice that was kept.

    Raises:
        BadInput: it is not there.
    """
    kind, _, _ = content.rpartition("-")
    stage = store.stage(STAGE, content)
    if stage is None or kind not in choices.KINDS:
        raise BadInput(
            f"{one_line(content)} is not among what was read into {store.stages}: name the file "
            "again by --set NAME.path=FILE"
        )
    return Choice(kind, str(stage.facts["name"]), stage.tensors)


def place(root: Path, content: str) -> Path:
    """Folder of a choice that was kept in a results directory."""
    return Store(root).stages / f"{STAGE}-{content}"


def kept(root: Path) -> list[str]:
    """Contents of all that were kept in a results directory, sorted."""
    found = (root / "stages").glob(f"{STAGE}-*")
    names = (path.name.removeprefix(f"{STAGE}-") for path in found)
    return sorted(name for name in names if choices.CONTENT.fullmatch(name))


def read(root: Path, content: str) -> Choice | None:
    """A choice that was kept, which stays where it is; None: it is not there, or damaged."""
    try:
        stage = read_stage(place(root, content))
        kind = content.partition("-")[0]
        found = Choice(kind, str(stage.facts["name"]), stage.tensors)
    except DAMAGED:
        return None
    return found if found.content == content else None


def keep(store: Store, found: Choice) -> None:
    """For the processes and machines that will do the work."""
    store.publish_stage(STAGE, found.content, Stage(dict(found.values), {"name": found.name}))


def of_run(spec: RunSpec, entry: Entry, store: Store, file: Path | None) -> Choice | None:
    """What a run pruned by: from the stages beside its record, or from the file; None: nothing.

    Raises:
        BadInput: neither has it.
    """
    wanted = str(spec.method.params.get("content", "")) if entry.cls.imported else ""
    if not wanted:
        if file is not None:
            raise BadInput(f"{entry.label} prunes by no file: leave out --pruned-by")
        return None
    if file is None and not store.has_stage(STAGE, wanted):
        raise BadInput(
            f"the run prunes by {wanted}, which is not in {store.stages}: pass --pruned-by FILE"
        )
    found = taken(store, wanted) if file is None else choices.read(file)
    if found.content != wanted:
        raise BadInput(f"--pruned-by {file} holds {found.content}, the run pruned by {wanted}")
    return found


def with_imported(
    options: Options, entries: Iterable[Entry], data: DataIdentity
) -> tuple[Options, list[str]]:
    """The same grid with each file that it prunes by replaced by what the file says, kept under
    `stages/`, and remarks on it. Where widths or kept channels say what the target is and no other
    was asked for, it is the target of all rows.

    Raises:
        BadInput: no file, one that cannot be used with this network, or one that misses a target
            that was asked for.
    """
    remarks: list[str] = []
    for entry in (e for e in entries if e.cls.imported):
        own = {
            key: value
            for key, value in options.set.items()
            if key.partition(".")[0].replace("-", "_") == entry.name.replace("-", "_")
        }
        words = {key.partition(".")[2]: value for key, value in own.items()}
        found = _choice(words, entry, Store(options.results))
        words |= {"content": found.content, "name": words.get("name", found.name)}
        try:
            cut = _checked(found, options, data)
        except BadInput as error:
            raise BadInput(f"{entry.label}: {error}") from error
        rest = {key: value for key, value in options.set.items() if key not in own}
        said = {f"{entry.name}.{key}": value for key, value in words.items() if key != "path"}
        targets = options.flops_reduction or ([] if cut is None else [cut])
        options = options.model_copy(update={"set": rest | said, "flops_reduction": targets})
        remarks.append(_remark(found, entry, cut))
        is_one = options.checkpoint is not None and options.adapt_epochs is None
        if len(options.seeds) > 1 and not is_one and found.kind != "widths":
            remarks.append(
                f"note: {entry.name}: one file for {len(options.seeds)} seeds, each with a dense "
                "network of its own: channel numbers mean something in one of them at most; start "
                "all from one network by --checkpoint, not adapted, or give each seed its own file"
            )
    return options, remarks


def _choice(words: Mapping[str, Any], entry: Entry, store: Store) -> Choice:
    if "path" in words and "content" in words:
        raise BadInput(f"--set {entry.name}.path and {entry.name}.content both name a choice")
    if "content" in words:
        return taken(store, str(words["content"]))
    if "path" not in words:
        raise BadInput(f"{entry.label} prunes by a file: give it by --set {entry.name}.path=FILE")
    found = choices.read(Path(str(words["path"])))
    keep(store, found)
    return found


def _checked(found: Choice, options: Options, data: DataIdentity) -> float | None:
    """The share of FLOPs that the choice removes; None: scores, which obey any target."""
    arch = archs.find(options.arch)
    with torch.random.fork_rng(devices=[]):
        model = arch.build(data.num_classes)
    example = torch.zeros(1, 3, data.image_size, data.image_size)
    net = traced(model, example, options.scope, arch.name)
    if found.kind == "scores":
        fits.check_scores(net, found.values, arch.name)
        return None
    limits = net.limits(Budget(0.5, options.min_width))
    widths = fits.widths_of(net, found.kind, found.values, limits.floor, arch.name)
    cut = round(1 - net.macs(widths) / net.macs(), 4)
    if cut <= 0:
        raise BadInput(f"the {found.kind} of the file remove nothing from {arch.name}")
    for asked in options.flops_reduction:
        if abs(asked - cut) > TOLERANCE:
            raise BadInput(
                f"--flops-reduction {asked:g}: the {found.kind} of the file remove "
                f"{100 * cut:.2f} % of the FLOPs of {arch.name}; leave the flag out, and all rows "
                "get that target"
            )
    return cut


def _remark(found: Choice, entry: Entry, cut: float | None) -> str:
    called = f" '{found.name}'" if found.name else ""
    target = "" if cut is None else f", {100 * cut:.2f} % of the FLOPs go"
    counts = f"{len(found.values)} layers" if cut is None else f"{len(found.values)} groups"
    return f"{entry.label}: {found.kind}{called} for {counts}{target} ({found.content})"
