"""The Python face of a results directory: tables as frames, pruned networks ready for use."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from torch import nn

from benchmark import baseline, frames
from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.record import read_record
from benchmark.spec import RunSpec
from benchmark.store import Store
from methods.api import Plan


def load_results(results: str | Path = "results") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row per run, one row per leaderboard entry), as in `leaderboard/DICTIONARY.md`.

    Raises:
        BadInput: there are no results.
    """
    runs = frames.load(Path(results))
    if runs.empty:
        raise BadInput(f"no results under {results}: run a benchmark first")
    return runs, frames.leaderboard(runs)


def load_pruned(run: str | Path, results: str | Path = "results") -> nn.Module:
    """The pruned, recovered network of a run, in eval mode.

    `run` is a run id (or the start of one) or a run's folder. Inputs are (N, 3, S, S) normalised
    as `record.spec.data` says.

    Raises:
        BadInput: no such run, several runs match, or its weights were cleaned away; the text names
            the command that makes them again.
    """
    folder, root = _find(run, Path(results))
    record = read_record(folder / "record.json")
    plan = read_plan(folder / "plan.json")
    weights = Store(root).stage("final", record.run_id)
    if weights is None:
        raise BadInput(
            f"the weights of run {record.run_id} are not kept under {root / 'stages'}; "
            f"make them again with: {record.command}"
        )
    model = rebuild(record.spec, plan)
    model.load_state_dict(weights.tensors)
    return model.eval()


def rebuild(spec: RunSpec, plan: Plan) -> nn.Module:
    """The architecture of the run with the planned channels removed; weights are random."""
    return Network(baseline.new_model(spec), baseline.example(spec), spec.scope).remove(plan)


def read_plan(path: Path) -> Plan:
    """Kept channels from `plan.json`.

    Raises:
        BadInput: not a plan.
    """
    try:
        keep = json.loads(path.read_text())["keep"]
        return Plan({str(g): tuple(int(i) for i in kept) for g, kept in keep.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not a pruning plan: {error}") from error


def _find(run: str | Path, results: Path) -> tuple[Path, Path]:
    """Folder of the run, and the results directory it lies in."""
    path = Path(run)
    if (path / "record.json").is_file():
        return path, path.resolve().parents[4]
    matches = sorted(p.parent for p in (results / "runs").glob(f"*/*/*/{path.name}*/record.json"))
    if len(matches) != 1:
        found = "no run" if not matches else f"{len(matches)} runs"
        raise BadInput(f"{found} under {results / 'runs'} match '{run}': give a full run id")
    return matches[0], results
