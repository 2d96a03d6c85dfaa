"""What `--list` and `--dry-run` print."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from benchmark import archs, baseline, measure
from benchmark.data import NAMES
from benchmark.errors import BadInput
from benchmark.estimate import estimate, is_done
from benchmark.progress import duration
from benchmark.sweep import Cell, Options
from methods import all_names, docstring, find

DATASETS = {
    "digits": "1,797 images of scikit-learn, 16 x 16; needs no download, saturates near 99 %",
    "cifar10": "60,000 images, 32 x 32, 10 classes; read or downloaded to --data-dir",
    "cifar100": "60,000 images, 32 x 32, 100 classes; read or downloaded to --data-dir",
    "imagefolder": "DIR/train/<class>/*, DIR/test/<class>/*; give --data-dir and --data-name",
}


def show_list(what: str, console: Console) -> None:
    """Raises BadInput for anything but methods, archs, datasets."""
    tables = {"methods": _methods, "archs": _archs, "datasets": _datasets}
    if what not in tables:
        raise BadInput(f"--list {what}: give one of {', '.join(tables)}")
    console.print(tables[what]())


def _methods() -> Table:
    table = Table("name", "kind", "tracks", "allocation", "what it does")
    for label in all_names():
        entry = find(label)
        kind = str(entry.card["card"].get("kind", "method"))
        allocations = "/".join(entry.cls.allocations)
        summary = entry.card.get("variant", {}).get(entry.variant, {}).get("summary")
        table.add_row(label, kind, ",".join(entry.tracks), allocations, summary or docstring(entry))
    return table


def _archs() -> Table:
    table = Table(
        "name", "structure", "MACs", "MACs (papers)", "published", "params", "params (papers)",
        "published",
        caption="For 32 x 32 images and 10 classes. MACs: conv + linear, as fvcore counts them: "
        "targets use these. Papers: conv + 2 x linear; parameters without batch norm.",
    )  # fmt: skip
    for name, arch in archs.ARCHS.items():
        model = arch.build(10)
        size = arch.image_size
        found = measure.cost(model, torch.zeros(1, 3, size, size))
        table.add_row(
            name,
            archs.structure_hash(model),
            f"{found.macs / 1e6:.3f} M",
            f"{found.macs_paper / 1e6:.3f} M",
            f"{arch.published_macs / 1e6:.2f} M" if arch.published_macs else "-",
            f"{found.params / 1e6:.3f} M",
            f"{found.params_paper / 1e6:.3f} M",
            f"{arch.published_params / 1e6:.2f} M" if arch.published_params else "-",
        )
    return table


def _datasets() -> Table:
    table = Table("name", "what it is")
    for name in NAMES:
        table.add_row(name, DATASETS[name])
    return table


def show_grid(cells: list[Cell], options: Options, jobs: int, console: Console) -> None:
    """Cells, which are done, which dense network they share, what the rest will cost."""
    table = Table("method", "target", "allocation", "seed", "starts from", "run id", "state")
    for cell in cells:
        spec = cell.spec
        done = is_done(cell, options)
        state = f"{cell.status}: {cell.blocked}" if cell.blocked else "done" if done else "to do"
        shared: str = spec.start.kind
        if spec.start.kind != "random":
            shared = f"{spec.start.kind} {baseline.stage_key(spec)[:8]}"
        target = f"{100 * spec.flops_reduction:.1f} %" if spec.flops_reduction else "-"
        ls = " + ls" if spec.reconstruct == "ls" else ""
        free = " (preparation free)" if spec.preparation == "free" else ""
        table.add_row(
            f"{spec.method.label}{ls}{free}", target, spec.allocation, str(spec.seeds.run), shared,
            spec.run_id, state,
        )  # fmt: skip
    console.print(table)
    left = [c for c in cells if not c.blocked and not is_done(c, options)]
    seconds = estimate(cells, options, jobs)
    console.print(
        f"{len(cells)} cells: {sum(is_done(c, options) for c in cells)} done, {len(left)} to run, "
        f"{sum(bool(c.blocked) for c in cells)} not applicable; roughly {duration(seconds)} with "
        f"{jobs} job{'s' if jobs > 1 else ''} (from the pace of one training step)",
        highlight=False,
    )
