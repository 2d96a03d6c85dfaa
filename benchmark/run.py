"""`python -m benchmark.run`: from method names to a leaderboard."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import extratest, report
from benchmark.cli import DONE, FAILED, console, run_app, warn_of_damage
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.estimate import is_done
from benchmark.files import check_writable
from benchmark.flags import options_of
from benchmark.imported import with_imported
from benchmark.lanes import grid
from benchmark.launch import preflight, run_grid
from benchmark.listing import added_line, show_grid, show_list
from benchmark.options import Options
from benchmark.paired import CROSSED_SEEDS
from benchmark.preflight import report as report_on
from benchmark.preflight import summary
from benchmark.pretrained import normalisation_note, with_pretrained
from benchmark.progress import counting
from benchmark.sender import at_once, on_site, on_the_way, rehearse_grid, submit_grid, wait_for
from benchmark.state import OPEN
from benchmark.store import Store
from benchmark.sweep import Cell, find_methods
from benchmark.tasks import data_of


def main(
    methods: Annotated[
        str | None, typer.Option(help="Comma list of names, 'all', or a path to your own .py.")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="A name of --list archs, timm/NAME, torchvision/NAME, FILE.py:FUNCTION."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="See --list datasets.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the images are.")] = None,
    data_name: Annotated[str | None, typer.Option(help="Name of an image folder's data.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    normalize: Annotated[
        str | None, typer.Option(help="dataset, imagenet, or 'm,m,m;s,s,s'.")
    ] = None,
    flops_reduction: Annotated[
        str | None, typer.Option(help="Fractions of MACs to remove, as 0.3,0.5. Default 0.5.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma list. Default 0.")] = None,
    allocation: Annotated[
        str | None, typer.Option(help="method (its own), global or uniform.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="inner, or all (residual streams too).")] = None,
    track: Annotated[str | None, typer.Option(help="common, total or paper.")] = None,
    lane: Annotated[
        str | None, typer.Option(help="default, or tuned: values that benchmark.tune chose.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="That tune each method. Default 8.")] = None,
    preset: Annotated[str | None, typer.Option(help="demo, quick (CPU) or full (GPU).")] = None,
    reconstruct: Annotated[
        str | None, typer.Option(help="none, ls, or both as none,ls: refit weights.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="one-shot, iterative:K (K rounds), layerwise, or several.")
    ] = None,
    preparation: Annotated[
        str | None, typer.Option(help="charged, free, or both: who pays for masks and sparsity.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="inherited, or new ones: scratch (total), scratch-e, scratch-b (paper)."),
    ] = None,
    controls: Annotated[
        bool | None, typer.Option("--controls/--no-controls", help="Controls beside methods.")
    ] = None,
    min_width: Annotated[float | None, typer.Option(help="Share of a group that stays.")] = None,
    round_to: Annotated[
        int | None, typer.Option(help="Kept widths are multiples of it, at equal FLOPs. Default 1.")
    ] = None,
    optimistic: Annotated[
        bool | None, typer.Option(help="Also note the best test epoch, as papers quote it.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget B; fractions are fine.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of recovery.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size of recovery.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.FIELD=V, recovery.FIELD=V or baseline.FIELD=V."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Start from trained weights.")] = None,
    adapt_epochs: Annotated[float | None, typer.Option(help="Each seed trains it first.")] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained", help="Start from weights of timm or torchvision."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or auto.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a cell. Default 1.")] = None,
    gpus_per_cell: Annotated[
        int | None, typer.Option(help="Parts of each batch, on as many GPUs where there are.")
    ] = None,
    sync_bn: Annotated[
        bool | None, typer.Option("--sync-bn", help="Batch norm over all parts; needs GPUs.")
    ] = None,
    executor: Annotated[str | None, typer.Option(help="local, or slurm with --site.")] = None,
    site: Annotated[Path | None, typer.Option(help="A file as slurm/sites/*.toml.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Cells at once; 0: in this process. Default cores // threads."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of a cell that decode images of imagenet.")
    ] = None,
    checkpoint_minutes: Annotated[
        float | None, typer.Option(help="Between checkpoints inside an epoch. Default 10.")
    ] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile the training.")
    ] = None,
    extra_test: Annotated[list[str] | None, typer.Option(help="NAME=DIR, after each cell.")] = None,
    results: Annotated[Path | None, typer.Option(help="Results directory.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same fields.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the cluster's jobs have ended.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the grid and its cost, run nothing.")] = False,
    list_: Annotated[str | None, typer.Option("--list", help="methods, archs or datasets.")] = None,
) -> int:
    """Prune, recover and compare networks under one protocol.

    Example: python -m benchmark.run --methods whitebox,hrank --arch resnet20 --dataset digits
    --preset demo
    """
    words = locals()
    screen = console()
    if list_ is not None:
        show_list(list_, screen)
        return DONE
    return run(options_of(words), dry_run, screen, wait)


def run(options: Options, dry_run: bool, screen: Console, wait: bool = False) -> int:
    """The whole job; returns the exit code."""
    if options.lane == "trial":
        raise BadInput("--lane trial: trials are made by python -m benchmark.tune")
    options = on_site(options)
    check_writable(options.results)
    extratest.check_names(options.extra_test)
    from_library, options = options.pretrained, with_pretrained(options)
    data = load(options, screen)
    if from_library and (note := normalisation_note(options.arch, data.identity)):
        screen.print(note, highlight=False, soft_wrap=True)
    for name, folder in options.extra_test.items():  # a strange one is answered now
        extratest.read(name, folder, data.class_names, options.results / "stages")
    options, remarks = with_imported(options, find_methods(options.methods), data.identity)
    for line in remarks:
        screen.print(line, highlight=False, soft_wrap=True)
    cells = grid(options, data)
    runnable = [c for c in cells if not c.blocked]
    jobs = at_once(options)
    if runnable:
        net = preflight(runnable, options)
        found = report_on(net, runnable[0].spec.arch.name, options.min_width)
        for line in summary(found):
            screen.print(line, highlight=False, soft_wrap=True)
    if dry_run:
        show_grid(cells, options, jobs, screen)
        if options.executor == "slurm":
            rehearse_grid(cells, options, screen)
        return DONE
    if added := added_line(cells):
        screen.print(added, highlight=False, soft_wrap=True)
    if options.executor == "slurm":
        sent = submit_grid(cells, options, screen)
        if not wait and (sent or on_the_way(cells, options)):
            return _gone_home(options, screen)
        rows = wait_for(cells, options, screen)
        failed = sum(row.state not in ("done", "n/a", "not run") for row in rows)
        if all(row.state in OPEN for row in rows):  # neither results nor reasons to show
            screen.print("Next: python -m benchmark.retry sends them again", highlight=False)
            return FAILED
    else:
        failed = run_grid(cells, options, screen)
    written = report.build(options.results)
    show_outcome(cells, options, screen, failed, written)
    return FAILED if failed else DONE


def _gone_home(options: Options, screen: Console) -> int:
    """Nothing runs here: how to look after what was sent."""
    place = shlex.quote(str(options.results))
    for verb, what in (
        ("status", "shows how far it is, from disk"),
        ("retry", "sends again what was lost"),
        ("report", "makes tables and figures of what is done"),
    ):
        line = f"Next: python -m benchmark.{verb} --results {place} {what}"
        screen.print(line, highlight=False, soft_wrap=True)
    return DONE


def show_outcome(
    cells: list[Cell], options: Options, screen: Console, failed: int, written: list[Path]
) -> None:
    """The leaderboard of this grid, where its files are, and what to try next."""
    warn_of_damage(Store(options.results).damaged(), screen)
    board, compared = report.rows_of(options.results, {c.spec.cell().run_id for c in cells})
    screen.print(report.terminal_table(board, compared))
    done = sum(is_done(c, options) for c in cells)
    screen.print(
        f"{done} of {len(cells)} cells done, {failed} failed, {len(cells) - done - failed} not "
        "applicable.",
        highlight=False,
    )
    figures = options.results / "figures"
    screen.print(
        f"Tables: {options.results / 'leaderboard.csv'}, {options.results / 'leaderboard'}/   "
        f"Figures: {figures}/   Records: {options.results / 'runs'}/",
        highlight=False,
        soft_wrap=True,
    )
    for hint in hints(options, failed):
        screen.print(f"Next: {hint}", highlight=False, soft_wrap=True)


def hints(options: Options, failed: int) -> list[str]:
    """What to try next."""
    found = []
    place = shlex.quote(str(options.results))
    if failed:
        found.append(
            f"python -m benchmark.status --results {place} says why cells failed, "
            f"python -m benchmark.retry --failed --results {place} tries them again"
        )
    if len(options.seeds) < CROSSED_SEEDS:
        found.append(
            "--seeds 0,1,2,3,4 for intervals that speak of new seeds; what is finished is reused"
        )
    if options.dataset == "digits":
        found.append(
            "--dataset cifar10, or your own images: --dataset imagefolder --data-dir DIR "
            "--data-name NAME"
        )
    if options.extra_test:
        table = options.results / "leaderboard" / "robustness.csv"
        found.append(f"{table} has the extra test sets, python -m benchmark.measure takes more")
    found.append(f"python -m benchmark.report --results {place} draws it all again")
    return found


def load(options: Options, screen: Console) -> Data:
    """The images, with a bar while files are read."""
    with counting(screen, "reading images") as on_progress:
        return data_of(options, on_progress)


if __name__ == "__main__":
    run_app(main)
