"""Networks that were made elsewhere and measured here: entries beside the runs, never among them.

`imported/DATA/ARCH/HASH.json` below the results directory, immutable. Their training data, recipes
and dense networks are their authors' own, so they have a table to themselves and no rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError
from tabulate import tabulate

from benchmark import frames
from benchmark.columns import PERCENT, Column
from benchmark.differences import hardware_of
from benchmark.errors import BadInput
from benchmark.files import dump_json, write_new
from benchmark.flops import Cost
from benchmark.frozen import Frozen
from benchmark.images import DataIdentity
from benchmark.record import Accuracy, check_plain, one_line, parse_json
from benchmark.spec import ArchIdentity, canonical, digest, identity
from benchmark.texts import md, number

FOLDER = "imported"
TABLE = "imported"
LONGEST = 200  # letters of a title or source


class Zero(Frozen):
    """Filters that are exactly zero, and channels that put out exactly nothing."""

    filters: int
    of: int
    silent: int
    macs_without: int | None = None  # of the network without the silent ones
    logits_apart: float | None = None  # largest difference of its logits, relative to the largest


class Artefact(Frozen):
    """One network. `weights`: digest of the tensors as they were given."""

    schema_version: int = 1
    title: str
    source: str = ""
    arch: ArchIdentity
    data: DataIdentity
    weights: str
    dense: Cost
    pruned: Cost
    widths: dict[str, int]  # units left in groups that lost some
    dense_widths: dict[str, int]
    zero: Zero
    measured: Accuracy
    recalibrated: Accuracy | None = None
    recalibration_images: int = 0
    environment: dict[str, Any]

    @property
    def entry_id(self) -> str:
        """12 hex digits over what was measured; not over where."""
        content = identity(self)
        return digest({k: v for k, v in content.items() if k != "environment"}, 12)


COLUMNS: list[Column] = [
    Column("title", "what it was called when it was measured"),
    Column("source", "where it comes from"),
    Column("data", "name of the data set"),
    Column("data_id", "hash of pixels, labels, image size, normalisation and split"),
    Column("normalisation", "mean and sd per channel that images were normalised by, as JSON"),
    Column("arch", "architecture it was pruned from"),
    Column("dense_macs", "multiply-accumulates per image before", "MACs", 0),
    Column("macs", "multiply-accumulates per image, convolutions and linear layers", "MACs", 0),
    Column("flops_reduction", "what is physically gone", "% of dense MACs", 2),
    Column("params_count", "parameters", "", 0),
    Column("params_reduction", "parameters that are physically gone", "% of dense parameters", 2),
    Column("groups", "groups of channels that are narrower than in the dense network", "", 0),
    Column("zero_filters", "filters that are there and exactly zero", "% of filters", 2),
    Column("silent", "channels that are there and put out exactly nothing", "", 0),
    Column("without_silent", "FLOPs reduction if they were taken out", "% of dense MACs", 2),
    Column("test_top1", "test top-1 of the network as it is", PERCENT, 2),
    Column("test_top5", "test top-5, from 20 classes on", PERCENT, 2),
    Column("test_loss", "test cross-entropy", "nats", 4),
    Column("val_top1", "top-1 on the part of train that is held out here; the network may have "
           "been trained on it", PERCENT, 2),
    Column("test_recalibrated", "test top-1 after batch-norm statistics were taken anew from "
           "training images; empty: not measured", PERCENT, 2),
    Column("weights", "digest of its tensors"),
    Column("entry_id", "its file is imported/DATA/ARCH/ENTRY_ID.json"),
    Column("hardware", "processor or GPU that computed"),
]  # fmt: skip
HEADS = ("Network", "Pruned from", "Data", "FLOPs removed", "Params removed", "Zero filters",
         "Top-1", "Top-1, BN recal.", "Source")  # fmt: skip
NOTE = (
    "Networks that other code made, measured here (`python -m benchmark.evaluate FILE --entry "
    "TITLE`). Training data, recipes, budgets and dense networks are their authors' own: no row "
    "stands against another or against a run made here, and none is ranked. FLOPs and parameters: "
    "% physically removed, counted as for runs; zero filters are there and count. Accuracy: % of "
    "test images, normalised as the CSV file says, which need not be as their authors did."
)


def check_words(title: str, source: str) -> None:
    """Raises BadInput for a title or source that cannot stand in a table."""
    for flag, text in (("--entry", title), ("--source", source)):
        try:
            check_plain(text)
        except ValueError as error:
            raise BadInput(f"{flag}: {error}") from error
        if len(text) > LONGEST or not text.isprintable():
            raise BadInput(f"{flag}: give one line of {LONGEST} letters at most")
    if not title.strip():
        raise BadInput("--entry: give the network a title, as 'Method X, authors' checkpoint'")


def write(root: Path, found: Artefact) -> tuple[Path, bool]:
    """Its file, and whether it is new: the same network measured again is there already."""
    folder = root / FOLDER / found.data.name / found.arch.name
    path = folder / f"{found.entry_id}.json"
    return path, write_new(path, dump_json(found.model_dump(mode="json")).encode())


def paths(root: Path) -> list[Path]:
    """Of all entries under a results directory."""
    found = (root / FOLDER).glob("*/*/*.json")
    return sorted(path for path in found if not path.name.startswith("."))


def read(path: Path) -> Artefact:
    """The entry in a file.

    Raises:
        BadInput: it is none, or not the one that its name says.
    """
    try:
        found = Artefact.model_validate(parse_json(path.read_bytes()))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise BadInput(f"{path} is not an entry: {place}: {error.errors()[0]['msg']}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not an entry: {one_line(error)}") from error
    if found.entry_id != path.stem:
        raise BadInput(f"{path} is not an entry: its content is that of {found.entry_id}")
    return found


# ---- tables --------------------------------------------------------------------------------------


def frame(root: Path) -> pd.DataFrame:
    """One row per entry, by data, architecture and title.

    Raises:
        BadInput: one of them cannot be read.
    """
    rows = [_row(read(path)) for path in paths(root)]
    order = ["data", "arch", "title", "entry_id"]
    return frames.typed(rows, COLUMNS).sort_values(order, kind="stable", ignore_index=True)


def _row(found: Artefact) -> dict[str, Any]:
    zero, dense = found.zero, found.dense
    without = None if zero.macs_without is None else 1 - zero.macs_without / dense.macs
    again = found.recalibrated.test_top1 if found.recalibrated else None
    return {
        "title": found.title,
        "source": found.source,
        "data": found.data.name,
        "data_id": digest(identity(found.data), 8),
        "normalisation": canonical([found.data.mean, found.data.std]),
        "arch": found.arch.name,
        "dense_macs": dense.macs,
        "macs": found.pruned.macs,
        "flops_reduction": _percent(1 - found.pruned.macs / dense.macs),
        "params_count": found.pruned.params,
        "params_reduction": _percent(1 - found.pruned.params / dense.params),
        "groups": len(found.widths),
        "zero_filters": _percent(zero.filters / zero.of if zero.of else 0.0),
        "silent": zero.silent,
        "without_silent": _percent(without),
        "test_top1": _percent(found.measured.test_top1),
        "test_top5": _percent(found.measured.test_top5),
        "test_loss": found.measured.test_loss,
        "val_top1": _percent(found.measured.val_top1),
        "test_recalibrated": _percent(again),
        "weights": found.weights,
        "entry_id": found.entry_id,
        "hardware": hardware_of(found.environment),
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def markdown(found: pd.DataFrame) -> str:
    """The entries as a page for reading."""
    rows = [[md(cell) for cell in _cells(row)] for row in frames.rows_of(found)]
    align = ["left", "left", "left", *["right"] * 5, "left"]
    table = tabulate(rows, HEADS, "pipe", disable_numparse=True, colalign=align)
    head = "# Networks made elsewhere, measured here\n\nWritten by `python -m benchmark.report`; "
    return f"{head}edits are lost.\n\n{NOTE}\n\n{table}\n"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield from (row["title"], row["arch"], row["data"])
    names = ("flops_reduction", "params_reduction", "zero_filters")
    yield from (number(row[name], 1) for name in names)
    yield from (number(row[name], 2) for name in ("test_top1", "test_recalibrated"))
    yield row["source"]
