"""From the words of a command (or a TOML file) to the cells of a grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmark import archs, baseline, controls
from benchmark.blocked import why_blocked
from benchmark.controls import Row
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.options import Options
from benchmark.recipes import baseline_recipe, card_recipe, override, recovery_recipe
from benchmark.spec import (
    ONE_SHOT,
    Allocation,
    ArchIdentity,
    MethodIdentity,
    RunSpec,
    Seeds,
    Start,
)
from methods import Entry, UnknownMethod, all_names, find, names
from methods import build as build_method


@dataclass(frozen=True)
class Cell:
    """One run of the grid. `blocked` says why it is n/a or not run; empty: it can run. `added`: a
    control that nobody had to ask for."""

    spec: RunSpec
    entry: Entry
    blocked: str = ""
    status: str = "planned"  # or "n/a", "not run"
    added: bool = False


def find_methods(labels: Iterable[str]) -> list[Entry]:
    """Entries of a comma list; `all` stands for every method and control of the suite that needs
    no file.

    Raises:
        BadInput: unknown names; the closest are in the text.
    """
    try:
        every = [name for name in names() if not find(name).cls.imported]  # those need a file
        wanted = [w for label in labels for w in (every if label == "all" else [label])]
        return [find(label) for label in dict.fromkeys(wanted)]
    except UnknownMethod as error:
        raise BadInput(str(error)) from error


def preset_of(options: Options) -> Literal["demo", "quick", "full"]:
    """`quick` on a CPU and `full` on a GPU unless said (DECISIONS 13)."""
    return options.preset or ("full" if options.kind_of_device() == "cuda" else "quick")


def precision_of(options: Options) -> Literal["fp32", "bf16"]:
    """`auto` is resolved here, before any run id exists: bf16 where the device computes in it."""
    if options.precision != "auto":
        return options.precision
    if options.executor == "slurm":
        raise BadInput(
            "--precision auto: what the nodes can do is not known here: say fp32 or bf16"
        )
    if options.torch_device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    flags = Path("/proc/cpuinfo")
    return "bf16" if flags.is_file() and "avx512_bf16" in flags.read_text() else "fp32"


def expand(options: Options, data: Data) -> list[Cell]:
    """The grid, without duplicates, in the order of execution: targets outermost, so that the
    scoring stages of later targets are there already; in each what was asked for, then controls.

    Raises:
        BadInput: unknown names or settings, targets outside (0, 1).
    """
    entries = find_methods(options.methods)
    _check_settings(options, [*entries, *(controls.suite() if _has_controls(options) else [])])
    for cut in options.flops_reduction:
        if not 0 < cut < 1:
            raise BadInput(f"--flops-reduction {cut}: give fractions between 0 and 1, as 0.5")
    arch = archs.identity_of(options.arch, data.identity.num_classes)
    cells: dict[str, Cell] = {}
    targets: list[float | None] = [*options.flops_reduction] or [None]
    for target in targets:
        rows = [
            Row(entry, target, seed, preparation, reconstruct, options.allocation, schedule)
            for seed in options.seeds
            for preparation in options.preparation
            for reconstruct in options.reconstruct
            for schedule in options.schedule
            for entry in entries
        ]
        asked = [(row, plan_cell(options, row, arch, data)) for row in rows]
        more = controls.beside([(row, cell.spec) for row, cell in asked if not cell.blocked])
        found = [cell for _, cell in asked]
        if _has_controls(options):
            found += [replace(plan_cell(options, row, arch, data), added=True) for row in more]
        for cell in found:
            cells.setdefault(cell.spec.run_id, cell)
    return list(cells.values())


def _has_controls(options: Options) -> bool:
    """Tables of the paper track hold what papers published, and what of it comes out again."""
    return options.controls and options.track != "paper"


def plan_cell(options: Options, row: Row, arch: ArchIdentity, data: Data) -> Cell:
    """One cell by the rules of its track."""
    if options.track == "paper":
        return _paper_cell(options, row, arch, data)
    entry = row.entry
    preset = preset_of(options)
    base = override(
        baseline_recipe(preset, data.identity.recipes), _settings(options, "baseline"), "baseline"
    )
    recovery = override(
        recovery_recipe(preset, data.identity.recipes), _recovery_changes(options), "recovery"
    )
    start = _start(options, entry.start)
    budget = recovery.epochs
    if start.kind == "random":  # the images of baseline plus budget, by the baseline's recipe
        budget = base.epochs + recovery.epochs
        recovery = base.model_copy(update={"epochs": budget})
    schedule = _schedule(row)
    rounds = int(schedule.partition(":")[2] or 1)  # that share the budget
    params = _params(options, entry, budget / rounds, {})
    if options.track == "total" and entry.start == "random":
        params |= entry.recipe(arch.name).get("params", {})
    method = build_method(entry, params)
    allocation = _allocation(row)
    prunes = allocation != "none"
    refits = start.kind == "random" or method.refits or schedule != ONE_SHOT
    refits |= method.result != "channels"
    spec = RunSpec(
        track=options.track,
        method=_identity(entry, params),
        arch=arch,
        data=data.identity,
        start=start,
        allocation=allocation,
        scope=options.scope,
        result=method.result,
        flops_reduction=(0.5 if row.target is None else row.target) if prunes else 0.0,
        min_width=options.min_width,
        round_to=options.round_to if prunes else 1,
        schedule=schedule,
        budget_epochs=budget,
        preparation=row.preparation if method.prepares else "charged",
        recovery=recovery,
        baseline=base if start.kind == "baseline" else None,
        reconstruct=row.reconstruct if prunes and not refits else "none",
        precision=precision_of(options),
        threads=options.threads,
        replicas=options.gpus_per_cell,
        sync_bn=options.sync_bn and options.gpus_per_cell > 1,
        seeds=_seeds(start, row.seed),
    )
    return Cell(spec, entry, *why_blocked(options, entry, spec))


def _paper_cell(options: Options, row: Row, arch: ArchIdentity, data: Data) -> Cell:
    """The paper's own recipe from the method's card; overrides are the user's explicit word."""
    entry = row.entry
    recipe = entry.recipe(arch.name)
    phases = recipe.get("recovery", {"epochs": 1, "lr": 0.1})
    place = f"{entry.label}: recipe.{arch.name}"
    recovery = card_recipe(phases, f"{place}.recovery")
    recovery = override(recovery, _recovery_changes(options), "recovery")
    start = _start(options, recipe.get("start", "trained"))
    base = None
    if start.kind == "baseline":
        fallback = baseline_recipe("full", data.identity.recipes).model_dump()
        base = card_recipe(recipe.get("baseline") or fallback, f"{place}.baseline")
        base = override(base, _settings(options, "baseline"), "baseline")
    params = _params(options, entry, recovery.epochs, recipe.get("params", {}))
    method = build_method(entry, params)
    spent = entry.cls.shares if method.prepares else ()
    prepared = sum(float(params[name]) for name in spent)
    rates = tuple(recipe.get("rates", ()))
    target = recipe.get("flops_reduction", 0.5) if row.target is None else row.target
    spec = RunSpec(
        track="paper",
        method=_identity(entry, params),
        arch=arch,
        data=data.identity,
        start=start,
        allocation=recipe.get("allocation", entry.cls.allocations[0]),
        rates=rates,
        scope=options.scope,
        result=method.result,
        flops_reduction=target,
        min_width=recipe.get("minimum_width", options.min_width),
        round_to=options.round_to,
        budget_epochs=prepared + recovery.epochs,
        recovery=recovery,
        baseline=base,
        precision=precision_of(options),
        threads=options.threads,
        replicas=options.gpus_per_cell,
        sync_bn=options.sync_bn and options.gpus_per_cell > 1,
        seeds=_seeds(start, row.seed),
    )
    if not recipe:
        return Cell(spec, entry, f"its card has no recipe for {arch.name}", "n/a")
    if "blocked" in recipe:
        return Cell(spec, entry, f"recipe of {arch.name}: {recipe['blocked']}", "n/a")
    return Cell(spec, entry, *why_blocked(options, entry, spec))


def _schedule(row: Row) -> str:
    """Of what prunes nothing: none."""
    own = row.entry.cls.allocations[0]
    return ONE_SHOT if own == "none" or row.entry.start == "random" else row.schedule


def _allocation(row: Row) -> Allocation:
    own = row.entry.cls.allocations[0]
    return own if row.allocation == "method" or own == "none" else row.allocation


def _start(options: Options, kind: str) -> Start:
    if kind == "random":
        return Start(kind="random")
    if options.checkpoint is not None:
        return Start(kind="checkpoint", checkpoint=baseline.checkpoint_hash(options.checkpoint))
    return Start(kind="baseline")


def _seeds(start: Start, seed: int) -> Seeds:
    return Seeds(dense=None if start.kind == "checkpoint" else seed, run=seed)


def _identity(entry: Entry, params: dict[str, Any]) -> MethodIdentity:
    return MethodIdentity(
        name=entry.name,
        variant=entry.variant,
        revision=entry.cls.revision,
        source=entry.source_hash,
        params=params,
    )


def _params(
    options: Options, entry: Entry, budget: float, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Defaults, variant, the paper's recipe, the user's word; shares of the budget resolved."""
    params = entry.params() | recipe | _settings(options, entry.name)
    params = entry.resolved(params, budget)
    try:
        build_method(entry, params)
    except UnknownMethod as error:
        raise BadInput(str(error)) from error
    return params


def _recovery_changes(options: Options) -> dict[str, Any]:
    flags = {"epochs": options.epochs, "lr": options.lr, "batch_size": options.batch_size}
    return {k: v for k, v in flags.items() if v is not None} | _settings(options, "recovery")


def _settings(options: Options, prefix: str) -> dict[str, Any]:
    found = {}
    for key, value in options.set.items():
        owner, _, field = key.partition(".")
        if owner == prefix:
            found[field] = value
    return found


def _check_settings(options: Options, entries: list[Entry]) -> None:
    owners = {"recovery", "baseline", *(e.name for e in entries)}
    for key in options.set:
        owner, dot, field = key.partition(".")
        if not dot or not field or owner not in owners:
            legal = ", ".join(f"{o}.…" for o in sorted(owners))
            raise BadInput(f"--set {key}: use OWNER.FIELD=VALUE with OWNER one of {legal}")


def known_methods() -> list[str]:
    """What `--methods` accepts besides files."""
    return ["all", *all_names()]
