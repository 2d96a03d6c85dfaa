"""From the words of a command (or a TOML file) to the cells of a grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmark import archs, controls, scratch, starts
from benchmark.blocked import why_blocked, why_not_anew
from benchmark.controls import Row
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.options import Options
from benchmark.recipes import (
    baseline_recipe,
    card_recipe,
    override,
    recovery_changes,
    recovery_recipe,
    settings,
)
from benchmark.spec import (
    ONE_SHOT,
    Allocation,
    ArchIdentity,
    MethodIdentity,
    RunSpec,
    Scratch,
)
from methods import Entry, UnknownMethod, find, names
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
    scratch.check(options)
    starts.check(options)
    for cut in options.flops_reduction:
        if not 0 < cut < 1:
            raise BadInput(f"--flops-reduction {cut}: give fractions between 0 and 1, as 0.5")
    arch = archs.identity_of(options.arch, data.identity.num_classes)
    cells: dict[str, Cell] = {}
    targets: list[float | None] = [*options.flops_reduction] or [None]
    for target in targets:
        allocation = options.allocation
        rows = [
            Row(entry, target, seed, preparation, reconstruct, allocation, schedule, weights)
            for seed in options.seeds
            for preparation in options.preparation
            for reconstruct in options.reconstruct
            for schedule in options.schedule
            for weights in options.weights
            for entry in entries
        ]
        asked = [(row, plan_cell(options, row, arch, data)) for row in rows]
        able = [(row, cell.spec) for row, cell in asked if not cell.blocked]
        found = [cell for _, cell in asked]
        more = [*controls.beside(able)] if _has_controls(options) else []
        if options.controls:  # of what is not run here too: one sees what is lacking
            known = [(row, cell.spec) for row, cell in asked if cell.status != "n/a"]
            more += controls.anew(known, options.track)
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
        baseline_recipe(preset, data.identity.recipes), settings(options, "baseline"), "baseline"
    )
    recovery = override(
        recovery_recipe(preset, data.identity.recipes), recovery_changes(options), "recovery"
    )
    start = starts.start_of(options, entry.start)
    if start.kind == "adapted":  # as recovery trains, so that it is a part of the same training
        base = starts.adaptation(options, recovery)
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
        baseline=base if start.is_trained_here else None,
        reconstruct=row.reconstruct if prunes and not refits else "none",
        precision=precision_of(options),
        threads=options.threads,
        replicas=options.gpus_per_cell,
        sync_bn=options.sync_bn and options.gpus_per_cell > 1,
        seeds=starts.seeds_of(start, row.seed),
    )
    total = budget + (base.epochs if start.is_trained_here else 0)
    new = scratch.of(row.weights, base, total)
    return _cell(options, entry, spec, new)


def _cell(options: Options, entry: Entry, spec: RunSpec, new: Scratch | None) -> Cell:
    """Whether it can run; `new`: with such weights in place of the dense network's."""
    blocked = why_blocked(options, entry, spec)
    if new is None:
        return Cell(spec, entry, *blocked)
    plain = spec.model_copy(update={"scratch": new, "reconstruct": "none"})
    return Cell(plain, entry, *(blocked if blocked[0] else why_not_anew(entry, spec)))


def _paper_cell(options: Options, row: Row, arch: ArchIdentity, data: Data) -> Cell:
    """The paper's own recipe from the method's card; overrides are the user's explicit word."""
    entry = row.entry
    recipe = entry.recipe(arch.name)
    phases = recipe.get("recovery", {"epochs": 1, "lr": 0.1})
    place = f"{entry.label}: recipe.{arch.name}"
    recovery = card_recipe(phases, f"{place}.recovery")
    recovery = override(recovery, recovery_changes(options), "recovery")
    start = starts.start_of(options, recipe.get("start", "trained"))
    base = recovery
    if start.kind != "random":
        fallback = baseline_recipe("full", data.identity.recipes).model_dump()
        base = card_recipe(recipe.get("baseline") or fallback, f"{place}.baseline")
        base = override(base, settings(options, "baseline"), "baseline")
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
        schedule=_schedule(row),
        budget_epochs=prepared + recovery.epochs,
        recovery=recovery,
        baseline=base if start.kind == "baseline" else None,
        precision=precision_of(options),
        threads=options.threads,
        replicas=options.gpus_per_cell,
        sync_bn=options.sync_bn and options.gpus_per_cell > 1,
        seeds=starts.seeds_of(start, row.seed),
    )
    new = scratch.of(row.weights, base)
    if not recipe:
        return Cell(spec, entry, f"its card has no recipe for {arch.name}", "n/a")
    if "blocked" in recipe:
        return Cell(spec, entry, f"recipe of {arch.name}: {recipe['blocked']}", "n/a")
    return _cell(options, entry, spec, new)


def _schedule(row: Row) -> str:
    """Of what prunes nothing: none."""
    own = row.entry.cls.allocations[0]
    return ONE_SHOT if own == "none" or row.entry.start == "random" else row.schedule


def _allocation(row: Row) -> Allocation:
    own = row.entry.cls.allocations[0]
    return own if row.allocation == "method" or own == "none" else row.allocation


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
    params = entry.params() | recipe | settings(options, entry.name)
    params = entry.resolved(params, budget)
    try:
        build_method(entry, params)
    except UnknownMethod as error:
        raise BadInput(str(error)) from error
    return params


def _check_settings(options: Options, entries: list[Entry]) -> None:
    owners = {"recovery", "baseline", *(e.name for e in entries)}
    for key in options.set:
        owner, dot, field = key.partition(".")
        if not dot or not field or owner not in owners:
            legal = ", ".join(f"{o}.…" for o in sorted(owners))
            raise BadInput(f"--set {key}: use OWNER.FIELD=VALUE with OWNER one of {legal}")
