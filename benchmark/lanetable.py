"""What the cost of networks consists of that are not smaller (docs/lanes.md): a table of its own,
beside the leaderboard's rows of these lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark import frames
from benchmark.block import Block
from benchmark.columns import LEADERBOARD, Column
from benchmark.kinds import LANES, TITLES, lane_of
from benchmark.optimism import KNOWN, ROW
from benchmark.record import RunRecord
from benchmark.texts import md, number

KERNELS, DYNAMIC = LANES["kernels"], LANES["dynamic"]
_BOARD = {c.name: c for c in LEADERBOARD}
_PER_IMAGE = "multiply-accumulates per test image, its gates' included"
Read = Callable[[RunRecord], float | None]


def _fact(name: str) -> Read:
    return lambda record: record.counted.get(name)


def _share(part: str, whole: str) -> Read:
    """In percent, of facts that are numbers or numbers by layer."""

    def read(record: RunRecord) -> float | None:
        one, all_ = (record.counted.get(name) for name in (part, whole))
        if one is None or all_ is None:
            return None
        both = [sum(v.values()) if isinstance(v, dict) else v for v in (one, all_)]
        return float(100 * both[0] / both[1])

    return read


FIGURES: list[tuple[Column, Read]] = [
    (Column("macs", f"dynamic: mean over images of the {_PER_IMAGE}; kernel sparsity: those of "
            "kernels that are not zero", "MACs", 0), lambda r: r.pruned.macs),
    (Column("macs_sd", f"standard deviation over images of the {_PER_IMAGE}", "MACs", 0),
     _fact("macs_sd")),
    (Column("macs_p95", "what 95 % of the images do not exceed", "MACs", 0), _fact("macs_p95")),
    (Column("gate_macs", "those of the gates alone, mean over images", "MACs", 0),
     _fact("gate_macs_mean")),
    (Column("dense_macs", "of the dense network", "MACs", 0), lambda r: r.dense.cost.macs),
    (Column("params_stored", "parameters that have to be stored", "", 0),
     lambda r: r.pruned.params),
    (Column("params_not_zero", "of these, not zero by a mask", "", 0), _fact("params_not_zero")),
    (Column("dense_params", "of the dense network", "", 0), lambda r: r.dense.cost.params),
    (Column("kernels_kept", "kernels that are not zero, of those that might be", "% of kernels", 2),
     _share("kernels_kept", "kernels")),
    (Column("outputs_only", "FLOPs reduction as the official code of EXP counts it: the fraction "
            "of zero kernels taken for whole filters", "% of dense MACs", 2),
     lambda r: _percent(r.counted.get("outputs_only_reduction"))),
    (Column("channels_used", "channels of gated layers that an image uses, mean", "% of channels",
            2), _share("channels_mean", "channels")),
    (Column("channels_ever", "those that some test image uses", "% of channels", 2),
     _share("channels_ever", "channels")),
]  # fmt: skip
COLUMNS: list[Column] = [
    *[KNOWN[name] for name in ROW],
    Column("lane", "what became of the network: kernel sparsity or dynamic"),
    *[_BOARD[name] for name in ("n", "final_mean", "final_sd", "dense_mean")],
    *[column for column, _ in FIGURES],
]
SHOWN = {
    KERNELS: ("macs", "dense_macs", "kernels_kept", "outputs_only", "params_stored",
              "params_not_zero"),
    DYNAMIC: ("macs", "macs_sd", "macs_p95", "gate_macs", "dense_macs", "params_stored",
              "dense_params", "channels_used", "channels_ever"),
}  # fmt: skip
HEADS = {
    "macs": "MACs", "macs_sd": "± over images", "macs_p95": "95 % below", "gate_macs": "Gates",
    "dense_macs": "Dense MACs", "params_stored": "Params stored", "params_not_zero": "Not zero",
    "dense_params": "Dense params", "kernels_kept": "Kernels kept", "outputs_only": "As the paper",
    "channels_used": "Channels used", "channels_ever": "Ever used",
}  # fmt: skip


def lanes(block: Block) -> pd.DataFrame:
    """One row per cell with a result in such a lane, in the order of the leaderboard: means over
    seeds."""
    board = block.board[(block.board["n"] > 0) & (block.board["scope"].map(lane_of) != "")]
    runs = block.runs[block.runs["status"] == "done"]
    rows = []
    for row in board.to_dict("records"):
        ids = runs.loc[runs["cell"] == row["cell"], "run_id"]
        records = [block.records[str(run_id)] for run_id in ids]
        found = {column.name: row[column.name] for column in COLUMNS if column.name in row}
        found |= {column.name: _mean(map(read, records)) for column, read in FIGURES}
        rows.append(found | {"lane": lane_of(str(row["scope"]))})
    return frames.typed(rows, COLUMNS)


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def markdown(frame: pd.DataFrame) -> str:
    """A section of a board's page, a table for each of the board's; empty without such rows."""
    parts = []
    for (lane, name), part in frame.groupby(["lane", "table"], sort=False):
        shown = SHOWN[str(lane)]
        rows = [[md(cell) for cell in _cells(row, shown)] for row in part.to_dict("records")]
        heads = ["Method", "Target", "Final", *(HEADS[name] for name in shown)]
        align = ["left", *["right"] * (len(heads) - 1)]
        table = tabulate(rows, heads, "pipe", disable_numparse=True, colalign=align)
        parts += [f"## What is counted: {md(TITLES[str(lane)])}", f"Table {md(str(name))}", table]
    return "\n" + "\n\n".join(parts) + "\n" if parts else ""


def _cells(row: Mapping[Any, Any], shown: tuple[str, ...]) -> list[str]:
    decimals = {column.name: column.decimals or 0 for column in COLUMNS}
    figures = [number(row[name], decimals[name]) for name in shown]
    return [str(row["entry"]), number(row["target"], 1), number(row["final_mean"], 2), *figures]
