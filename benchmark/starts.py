"""Where the runs of a grid start: a dense network that the suite trains, or weights from a file, as
they are or trained on these images first."""

from __future__ import annotations

from benchmark.baseline import checkpoint_hash
from benchmark.errors import BadInput
from benchmark.options import Options
from benchmark.recipes import override, settings
from benchmark.spec import Recipe, Seeds, Start


def check(options: Options) -> None:
    """Raises BadInput for an adaptation of nothing, one whose length is said twice, or where a
    track has starts of its own."""
    if options.adapt_epochs is None:
        return
    if options.checkpoint is None:
        raise BadInput("--adapt-epochs: of which weights? give --checkpoint FILE, or leave it out")
    if "baseline.epochs" in options.set:
        raise BadInput("--set baseline.epochs: with --adapt-epochs, which says it; leave one out")
    if options.track != "common":
        raise BadInput(f"--adapt-epochs: the {options.track} track has starts of its own")


def start_of(options: Options, kind: str) -> Start:
    """Of a method whose card says that it starts so, `random` or from a trained network.

    Raises:
        BadInput: the checkpoint cannot be read.
    """
    if kind == "random":
        return Start(kind="random")
    if options.checkpoint is None:
        return Start(kind="baseline")
    adapts = options.adapt_epochs is not None
    found = checkpoint_hash(options.checkpoint)
    return Start(kind="adapted" if adapts else "checkpoint", checkpoint=found)


def seeds_of(start: Start, seed: int) -> Seeds:
    """Weights that are taken as they are have no seed here."""
    return Seeds(dense=None if start.kind == "checkpoint" else seed, run=seed)


def adaptation(options: Options, recovery: Recipe) -> Recipe:
    """By which a checkpoint is trained before runs start from it: as recovery trains, for epochs of
    its own; `--set baseline.FIELD=V` has the last word.

    Raises:
        BadInput: a setting of the baseline is unknown or does not fit.
    """
    longer = recovery.model_copy(update={"epochs": options.adapt_epochs})
    return override(longer, settings(options, "baseline"), "baseline")
