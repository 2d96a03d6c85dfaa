"""The Python face of a results directory: tables as frames, pruned networks ready for use."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from torch import nn

from benchmark import archs
from benchmark import block as blocks
from benchmark.column import said
from benchmark.derived import TABLES, read_whole
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.kept import filled, remaking
from benchmark.overall import COLUMNS, Frames
from benchmark.record import RECORD, one_line, read_plan, read_record
from benchmark.store import Stage, Store

_RUN_ID = re.compile("[0-9a-f]{4,12}")


class Results:
    """Every derived table of a results directory as a frame, made when it is first asked for:
    `results.leaderboard`, or `results["leaderboard"]`. Columns, units and meanings are those of
    `leaderboard/DICTIONARY.md`; `results.names` lists the tables."""

    def __init__(self, root: Path) -> None:
        found = (read_whole(root, name) for name in blocks.names(root))
        self._blocks = [whole for whole in found if whole is not None]
        if not self._blocks:
            raise BadInput(f"no results under {root}: run a benchmark first")
        self._frames = Frames(self._of_blocks)

    @property
    def names(self) -> list[str]:
        return list(COLUMNS)

    def __getitem__(self, name: str) -> pd.DataFrame:
        found = self._frames[name]
        return found[[column.name for column in said(found, COLUMNS[name])]]

    def _of_blocks(self, name: str) -> pd.DataFrame:
        (table,) = (t for t in TABLES if t.name == name)
        return pd.concat([table.make(whole) for whole in self._blocks], ignore_index=True)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in self.names:
            raise AttributeError(f"no table '{name}': there are {', '.join(self.names)}")
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names]


def load_results(results: str | Path = "results") -> Results:
    """The tables of a results directory.

    Raises:
        BadInput: there are no results.
    """
    return Results(Path(results))


def load_pruned(
    run: str | Path, results: str | Path = "results", arch: str | None = None
) -> nn.Module:
    """The pruned, recovered network of a run, in eval mode: of the original class, but for dynamic
    runs, which are a traced network with its gates.

    `run` is a run id (or the start of one) or a run's folder. Inputs are (N, 3, S, S) normalised
    as `record.spec.data` says. A network from a file of your own is named again, as
    `arch="mynet.py:build"`.

    Raises:
        BadInput: no such run, several runs match, its files were damaged, or its weights were
            cleaned away; the text names the command that makes them again.
    """
    folder = find_run(run, Path(results))
    root = _root_of(folder, Path(results))
    record = read_record(folder / RECORD)
    plan = read_plan(folder / "plan.json")
    weights = _final_weights(root, record.run_id)
    if weights is None or weights_digest(weights.tensors) != record.weights:
        raise BadInput(
            f"the weights of run {record.run_id} are not kept under {root / 'stages'}; "
            f"make them again with: {remaking(record, root)}, and load them from DIR"
        )
    if arch is not None:
        archs.find(arch)
    try:
        return filled(record.spec, plan, weights.tensors)
    except (LookupError, ValueError, RuntimeError) as error:
        raise BadInput(f"plan and weights of {folder} do not fit: {one_line(error)}") from error


def find_run(run: str | Path, results: Path) -> Path:
    """Folder of a run: `run` is that folder, a run id, or the beginning of one.

    Raises:
        BadInput: no run or several runs match; the text names them.
    """
    if isinstance(run, str | Path) and str(run) and _holds_record(Path(run)):
        return Path(run)
    wanted = run_id_of(run)
    runs = results / "runs"
    matches = sorted(path.parent for path in runs.glob(f"*/*/*/{wanted}*/{RECORD}"))
    if not matches:
        raise BadInput(f"no run under {runs} matches '{wanted}'")
    if len(matches) > 1:
        names = ", ".join(str(path.relative_to(runs)) for path in matches[:5])
        more = f" and {len(matches) - 5} more" if len(matches) > 5 else ""
        raise BadInput(f"{len(matches)} runs match '{wanted}': {names}{more}; give more digits")
    return matches[0]


def run_id_of(text: object) -> str:
    """The text as a run id or the beginning of one, safe as a part of a path or a pattern.

    Raises:
        BadInput: it is none.
    """
    if not isinstance(text, str) or not _RUN_ID.fullmatch(text):
        raise BadInput(
            f"'{one_line(text)}' is neither the folder of a run nor a run id, which is 4 to 12 of "
            "the digits 0-9 and a-f"
        )
    return text


def _holds_record(folder: Path) -> bool:
    try:
        return (folder / RECORD).is_file()
    except (OSError, ValueError):  # too long for the file system, or holds a zero byte
        return False


def _root_of(folder: Path, results: Path) -> Path:
    """The results directory a run's folder lies in; `results` for a folder that was moved away."""
    parents = folder.resolve().parents
    return parents[4] if len(parents) > 4 and parents[3].name == "runs" else results


def _final_weights(root: Path, run_id: str) -> Stage | None:
    try:
        return Store(root).stage("final", run_id)
    except OSError:  # damaged, in a place where it cannot be thrown away
        return None
