"""Every column of the derived tables: its meaning, unit and decimals, and where it comes from.

The data dictionary is printed from here, and nothing reaches a CSV file that is not listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmark import lanecolumns
from benchmark.column import PERCENT, POINTS, Column
from benchmark.differences import hardware_of
from benchmark.kinds import scope_text
from benchmark.record import RunRecord
from benchmark.spec import RunSpec, digest, identity


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _total_epochs(spec: RunSpec) -> float:
    return spec.own_epochs + (_dense_epochs(spec) or 0)


def _dense_epochs(spec: RunSpec) -> float | None:
    """None: of new weights, and from a checkpoint, of whose training a part is known at most."""
    known = spec.baseline if not spec.scratch and not spec.start.checkpoint else None
    return known.epochs if known else None


def _start(spec: RunSpec) -> str:
    adapted = spec.baseline if spec.weights_start == "adapted" else None
    return f"adapted ({adapted.epochs:g} epochs)" if adapted else spec.weights_start


def _allocation(spec: RunSpec) -> str:
    """With what widths are multiples of, where it is not 1, and with the schedule, where channels
    go in several rounds: rows that differ in these are not compared."""
    multiples = f", multiples of {spec.round_to}" if spec.round_to > 1 else ""
    return spec.allocation + multiples + (f", {spec.schedule}" if spec.in_rounds else "")


# What identifies a row of the leaderboard, in the order of sorting. Known for failed runs too.
SPEC: list[tuple[Column, Callable[[RunSpec], Any]]] = [
    (Column("protocol", "version of the rules; tables of different versions never mix", "", 0),
     lambda s: s.protocol),
    (Column("track", "common, total or paper: who starts where and with which budget"),
     lambda s: s.track),
    *lanecolumns.LANE,
    (Column("data", "name of the data set"), lambda s: s.data.name),
    (Column("data_id", "hash of pixels, labels, image size, normalisation and split"),
     lambda s: digest(identity(s.data), 8)),
    (Column("arch", "architecture"), lambda s: s.arch.name),
    (Column("structure", "hash of the dense network's structure"), lambda s: s.arch.structure),
    (Column("precision", "number format of training"), lambda s: s.precision),
    (Column("threads", "threads per run", "", 0), lambda s: s.threads),
    (Column("replicas", "parts of each training batch, with batch-norm statistics of their own", "",
            0), lambda s: s.replicas),
    (Column("sync_bn", "1: batch norm over all parts together", "", 0), lambda s: int(s.sync_bn)),
    (Column("scope", "inner: groups with one writer outside the residual stream; all: every group"),
     scope_text),
    (Column("start", "where the run starts: baseline, checkpoint, adapted (a checkpoint that "
            "each seed trained first, for so many epochs) or random initialisation"),
     _start),
    (Column("checkpoint", "hash of the checkpoint, if it starts from one"),
     lambda s: "" if s.scratch else s.start.checkpoint),
    (Column("preparation", "charged: masks and sparsity training count against the budget; free"),
     lambda s: s.preparation),
    (Column("baseline_epochs", "training of the dense network it starts from", "epochs", 2),
     _dense_epochs),
    (Column("budget_epochs", "what the run may spend on gradient steps after its start",
            "epochs", 2), lambda s: s.own_epochs),
    (Column("total_epochs", "baseline_epochs plus budget_epochs", "epochs", 2), _total_epochs),
    (Column("recipe", "hash of the baseline and recovery recipes"), lanecolumns.recipe),
    (Column("min_width", "share of every group that has to stay", "% of channels", 2),
     lambda s: 100 * s.min_width),
    (Column("target", "requested FLOPs reduction", "% of dense MACs", 2),
     lambda s: 100 * s.flops_reduction),
    (Column("allocation", "how channels are shared out over layers: global, uniform, listed, none"),
     _allocation),
    (Column("reconstruct", "least-squares refit of the readers after removal: none or ls"),
     lambda s: s.reconstruct),
    (Column("method", "method and variant as typed on the command line; in brackets: its network "
            "with new weights, trained from scratch"), lambda s: s.row),
    (Column("revision", "revision of the method", "", 0), lambda s: s.method.revision),
    (Column("source", "hash of a user's own method file"), lambda s: s.method.source),
    (Column("params", "hyper-parameters as JSON"), lanecolumns.params),
    *lanecolumns.VALUES,
    (Column("cell", "hash of the row's settings, the seed left out"), lambda s: s.cell().run_id),
    (Column("board", "hash of the same without the method: rows that can be ranked together"),
     lanecolumns.board),
]  # fmt: skip

# Known once other rows are seen.
PLACED = [
    Column("table", "rows with one value stand in one printed table"),
    Column("entry", "row label: title and whatever tells it from its neighbours"),
    Column("title", "name of the method; a run may rename itself (slimming without sparsity)"),
    Column("control", "1: a control, shown beside the methods and never ranked", "", 0),
]

RUN = [
    Column("seed", "seed of order, augmentation and method", "", 0),
    Column("dense_seed", "seed of the dense network; empty for a checkpoint", "", 0),
    Column("run_id", "hash of the run's spec; its folder is runs/DATA/ARCH/METHOD/RUN_ID"),
    Column("status", "done, failed, n/a or not run"),
    Column("reason", "why there is no result"),
]

# Read from a record.
RECORD: list[tuple[Column, Callable[[RunRecord], Any]]] = [
    *[
        (Column(f"{split}_{point}", f"{name} top-1 {when}", PERCENT, 2),
         lambda r, p=place, f=f"{split}_top1": _percent(getattr(getattr(r, p), f)))
        for split, name in (("test", "test"), ("val", "validation"))
        for point, place, when in (
            ("before", "before_recovery", "after removal, before any repair"),
            ("recalibrated", "recalibrated", "after recalibration of batch norm"),
            ("final", "final", "after the last recovery epoch"),
        )
    ],
    (Column("test_final_top5", "test top-5 after the last recovery epoch", PERCENT, 2),
     lambda r: _percent(r.final.test_top5)),
    (Column("test_best_val", "test top-1 of the recovery epoch with the best validation top-1",
            PERCENT, 2),
     lambda r: _percent(r.best_val.accuracy.test_top1) if r.best_val else None),
    (Column("val_best_val", "its validation top-1", PERCENT, 2),
     lambda r: _percent(r.best_val.accuracy.val_top1) if r.best_val else None),
    (Column("best_val_epoch", "that epoch", "epochs", 2),
     lambda r: r.best_val.epoch if r.best_val else None),
    (Column("flops_reduction", "achieved reduction of multiply-accumulates of convolutions and "
            "linear layers", "% of dense MACs", 2), lambda r: 100 * r.flops_reduction),
    (Column("params_reduction", "achieved reduction of parameters", "% of dense parameters", 2),
     lambda r: 100 * r.params_reduction),
    (Column("macs", "multiply-accumulates per image after pruning", "MACs", 0),
     lambda r: r.pruned.macs),
    (Column("dense_macs", "multiply-accumulates per image before", "MACs", 0),
     lambda r: r.dense.cost.macs),
    (Column("params_count", "parameters after pruning", "", 0), lambda r: r.pruned.params),
    (Column("dense_params", "parameters before", "", 0), lambda r: r.dense.cost.params),
    (Column("floor_share", "groups at their minimum width", "% of groups", 2),
     lambda r: 100 * r.floor_share),
    (Column("largest_reduction", "reduction with all groups at their minimum width",
            "% of dense MACs", 2), lambda r: 100 * r.largest_reduction),
    *[
        (Column(f"speedup_{size}", f"latency of the dense over that of the pruned network, batch of"
                f" {size}, on the hardware of the run", "ratio", 2),
         lambda r, k=f"batch_{size}": r.latency.get(k, {}).get("speedup"))
        for size in (1, 128)
    ],
    (Column("images_charged", "images used for gradient steps and charged", "images", 0),
     lambda r: r.spent.charged),
    (Column("images_free", "images used for gradient steps and not charged", "images", 0),
     lambda r: r.spent.free),
    (Column("images_forward", "images used without gradient", "images", 0),
     lambda r: sum(e["images"] for e in r.spent.rows if e["kind"] == "forward")),
    (Column("charged_epochs", "images_charged in passes over the training split", "epochs", 2),
     lambda r: sum(e["epochs"] for e in r.spent.rows if e["kind"] == "charged")),
    (Column("training_gmacs", "multiply-accumulates of all gradient steps after the start",
            "10^9 MACs", 1),
     lambda r: sum(e["macs"] for e in r.spent.rows if e["kind"] != "forward") / 1e9),
    (Column("seconds", "wall time of the run, on its hardware", "s", 1), lambda r: r.seconds),
    (Column("hardware", "processor or GPU that computed; timings are compared within one only"),
     lambda r: hardware_of(r.environment)),
    (Column("selection_score", "validation top-1 of the choice after BN recalibration", PERCENT, 2),
     lambda r: _percent(r.selection.score) if r.selection else None),
    (Column("selection_inverse", "the same with the score negated; of a method without scores: of "
            "the channels that it removes, as far as they go", PERCENT, 2),
     lambda r: _percent(r.selection.inverse) if r.selection else None),
    (Column("selection_random", "the same for random draws at these widths, mean", PERCENT, 2),
     lambda r: 100 * sum(r.selection.random) / len(r.selection.random)
     if r.selection and r.selection.random else None),
    (Column("selection_percentile", "random draws that the choice beats; ties count half",
            "% of draws", 1), lambda r: _percent(r.selection.percentile) if r.selection else None),
    (Column("selection_uniform", "the same for draws at uniform widths, mean", PERCENT, 2),
     lambda r: 100 * sum(r.selection.uniform) / len(r.selection.uniform)
     if r.selection and r.selection.uniform else None),
    (Column("selection_uniform_percentile", "those draws that it beats", "% of draws", 1),
     lambda r: _percent(r.selection.uniform_percentile) if r.selection else None),
    (Column("selection_informative", "1: the choice beats its inverse", "", 0),
     lambda r: r.selection.informative if r.selection else None),
    (Column("agreement_rank", "Spearman correlation of the scores of two method seeds, mean over "
            "layers", "", 3),
     lambda r: r.seed_agreement.rank_correlation if r.seed_agreement else None),
    (Column("agreement_kept", "kept units that a second method seed keeps too", "% of units", 2),
     lambda r: _percent(r.seed_agreement.kept_overlap) if r.seed_agreement else None),
    (Column("tied_share", "channels whose score occurs twice in their layer", "% of channels", 2),
     lambda r: _percent(r.tied_share)),
    *lanecolumns.COST,
    (Column("at_chance", "1: final accuracy is that of guessing", "", 0), lambda r: r.at_chance),
    (Column("test_loss", "test cross-entropy after the last recovery epoch", "nats", 4),
     lambda r: r.final.test_loss),
]  # fmt: skip

# Read elsewhere: from other runs or from later measurements.
JOINED = [
    Column("dense_top1", "test top-1 of the dense network it starts from; for a random start that "
           "of the baseline with the same seed and total_epochs in the same setting", PERCENT, 2),
    Column("dense_weights", "hash of that network"),
    Column("delta", "test_final minus dense_top1", POINTS, 2),
    Column("test_best_test", "optimistic: best test top-1 over recovery epochs; chosen on the test "
           "split, only for comparison with papers that do so", PERCENT, 2),
    Column("kept_overlap", "kept units shared with the other seeds that start from the same "
           "checkpoint, mean", "% of units", 2),
]  # fmt: skip

QUANTITIES = {
    "before": "test_before",
    "recalibrated": "test_recalibrated",
    "final": "test_final",
    "best_val": "test_best_val",
    "val_final": "val_final",
    "delta": "delta",
}
MEANS = [
    "flops_reduction", "params_reduction", "floor_share", "training_gmacs", "charged_epochs",
    "seconds", "selection_score", "selection_inverse", "selection_random", "selection_percentile",
    "selection_uniform", "selection_uniform_percentile",
    "agreement_rank", "agreement_kept", "tied_share", "kept_overlap", "test_best_test",
    "tuning_images", "tuning_seconds",
]  # fmt: skip
MEDIANS = ["speedup_1", "speedup_128"]
TIMINGS = ["seconds", *MEDIANS]  # mean nothing over several kinds of hardware

RUNS: list[Column] = [c for c, _ in SPEC] + PLACED + RUN + [c for c, _ in RECORD] + JOINED
_BY_NAME = {c.name: c for c in RUNS}


def _summary(name: str, source: Column) -> list[Column]:
    unit, what = source.unit, source.meaning
    headline = " (the headline)" if name == "final" else ""
    return [
        Column(f"{name}_mean", f"mean over seeds of: {what}{headline}", unit, 2),
        Column(f"{name}_sd", f"sample standard deviation of {name}; empty below 2 seeds", unit, 2),
        Column(f"{name}_low", f"95 % t-interval of the mean of {name}, lower end; "
               "from 3 seeds, not cut at 100", unit, 2),
        Column(f"{name}_high", "upper end", unit, 2),
    ]  # fmt: skip


# Made from predictions, by benchmark/standing.py.
STANDINGS = [
    Column("lead", "final accuracy less that of the best other method of the board, on the seeds "
           "that all of them have; empty for rows without rank, but given from one seed on",
           POINTS, 2),
    Column("lead_low", "lower end of its 95 % interval, for all methods of the board at once; "
           "below 5 seeds for new images only, conditional on these runs", POINTS, 2),
    Column("lead_high", "upper end", POINTS, 2),
    Column("near_best", "1: not separable from the best method of the board; 0: behind it", "", 0),
]  # fmt: skip
STANDING = [c.name for c in STANDINGS]
BEST_OF = 3

LEADERBOARD: list[Column] = [
    *[c for c, _ in SPEC],
    *PLACED,
    Column("status", "done: at least one seed has a result; else failed, n/a or not run"),
    Column("reason", "why seeds have no result"),
    Column("n", "seeds with a result", "", 0),
    Column("missing", "seeds that were tried and have no result", "", 0),
    Column("seeds", "the seeds with a result"),
    Column("rank", "by final_mean among the methods of one board; empty below 3 seeds, for controls"
           ", floor-bound and incomplete rows, saturated boards, and with nothing to rank against",
           "", 0),
    *STANDINGS,
    Column("marks", "control, floor-bound, at chance, selection uninformative, no better than "
           "random draws, incomplete, timings of several machines, not above its network from "
           "scratch"),
    *[c for name, source in QUANTITIES.items() for c in _summary(name, _BY_NAME[source])],
    Column("final_best_of", f"expected best of {BEST_OF} seeds of: {_BY_NAME['test_final'].meaning}"
           f"; papers often print the best of {BEST_OF} runs or do not say; empty below {BEST_OF} "
           "seeds", PERCENT, 2),
    Column("dense_mean", f"mean of: {_BY_NAME['dense_top1'].meaning}", PERCENT, 2),
    Column("dense_sd", "its sample standard deviation over networks", PERCENT, 2),
    Column("dense_n", "different dense networks", "", 0),
    *[_BY_NAME[name] for name in MEANS],
    *[_BY_NAME[name] for name in MEDIANS],
    _BY_NAME["hardware"],
]  # fmt: skip


def names(columns: list[Column]) -> list[str]:
    """Names in order."""
    return [c.name for c in columns]
