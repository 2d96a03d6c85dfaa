"""The networks of a finished run, from the weights that are kept under `stages/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmark import baseline
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.record import RECORD, RunRecord, one_line, read_plan, read_record
from benchmark.spec import RunSpec
from benchmark.store import Stage, Store
from methods.api import Plan


@dataclass(frozen=True)
class Finished:
    """A run's record and plan. `store`: where its measurements go."""

    store: Store
    record: RunRecord
    plan: Plan

    @property
    def spec(self) -> RunSpec:
        return self.record.spec


def read_finished(folder: Path, root: Path) -> Finished:
    """Record and plan in a run's folder below the results directory `root`.

    Raises:
        BadInput: one of them cannot be read, or it is a trial, which no test image is shown to.
    """
    record = read_record(folder / RECORD)
    if record.spec.is_trial:
        raise BadInput(f"run {record.run_id} is a trial: it is judged on validation images alone")
    return Finished(Store(root), record, read_plan(folder / "plan.json"))


def rebuild(spec: RunSpec, plan: Plan) -> nn.Module:
    """The architecture of the run with the planned channels removed; weights are random."""
    return Network(baseline.new_model(spec), baseline.example(spec), spec.scope).remove(plan)


def pruned_of(run: Finished, weights: Path | None = None) -> nn.Module:
    """The recovered network in eval mode. `weights`: another results directory that holds them.

    Raises:
        BadInput: they are not there; the text says how to make them again.
    """
    record, place = run.record, Store(weights or run.store.root)
    stage = _stage(place, "final", record.run_id, record.weights)
    if stage is None:
        raise BadInput(_lost("the pruned network", run, place))
    return _filled(rebuild(record.spec, run.plan), stage, run)


def dense_of(run: Finished, weights: Path | None = None) -> nn.Module | None:
    """The trained network that the run started from, in eval mode; None: it started from random
    weights.

    Raises:
        BadInput: as `pruned_of`.
    """
    spec, place = run.spec, Store(weights or run.store.root)
    if spec.start.kind == "random":
        return None
    # whether the method trains a dense network of its own is asked of the weights, not the method
    keys = [baseline.stage_key(spec, own) for own in (False, True)]
    found = (_stage(place, "dense", key, run.record.dense.weights) for key in keys)
    stage = next((stage for stage in found if stage is not None), None)
    if stage is None:
        raise BadInput(_lost("the dense network", run, place))
    return _filled(baseline.new_model(spec), stage, run)


def _stage(store: Store, kind: str, key: str, digest: str) -> Stage | None:
    """If its weights are those of the record."""
    try:
        found = store.stage(kind, key)
    except OSError:  # damaged, in a place where it cannot be thrown away
        return None
    return found if found is not None and weights_digest(found.tensors) == digest else None


def _filled(model: nn.Module, stage: Stage, run: Finished) -> nn.Module:
    try:
        model.load_state_dict(stage.tensors)
    except (LookupError, ValueError, RuntimeError) as error:
        said = one_line(error)
        raise BadInput(f"plan and weights of run {run.record.run_id} do not fit: {said}") from error
    return model.eval()


def _lost(what: str, run: Finished, place: Store) -> str:
    run_id = run.record.run_id
    return (
        f"the weights of {what} of run {run_id} are not in {place.stages}: python -m "
        f"benchmark.reproduce {run_id} --results {run.store.root} --into DIR makes them again, and "
        f"python -m benchmark.measure {run_id} --results {run.store.root} --weights DIR takes them "
        "from there"
    )
