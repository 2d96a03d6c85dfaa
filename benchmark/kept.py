"""The networks of a finished run, from the weights that are kept under `stages/`."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from benchmark import baseline
from benchmark.became import became, plain_weights
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.network import Network
from benchmark.record import RECORD, RunRecord, one_line, read_plan, read_record
from benchmark.spec import RunSpec
from benchmark.store import Stage, Store
from methods import build, find
from methods.api import GatePlan, Plan


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
    """The architecture of the run with the planned channels removed, or with the gates of its
    method; weights are random.

    Raises:
        BadInput: the gates are those of a user's own method.
    """
    net = Network(baseline.new_model(spec), baseline.example(spec), spec.scope)
    if spec.result != "dynamic":
        return net.remove(plan)
    if spec.method.source:
        raise BadInput(
            f"the gates of {spec.method.label} are in a file of your own: its networks cannot be "
            "put together from here"
        )
    method = build(find(spec.method.label), spec.method.params)
    return became(net, GatePlan({}, method.gates(net))).model


def filled(spec: RunSpec, plan: Plan, weights: dict[str, Tensor]) -> nn.Module:
    """The finished network of a run, in eval mode.

    Raises:
        LookupError, ValueError, RuntimeError: plan and weights do not fit.
        BadInput: as `rebuild`.
    """
    model = rebuild(spec, plan)
    model.load_state_dict(plain_weights(weights) if spec.result == "kernels" else weights)
    return model.eval()


def pruned_of(run: Finished, weights: Path | None = None) -> nn.Module:
    """The recovered network in eval mode. `weights`: another results directory that holds them.

    Raises:
        BadInput: they are not there; the text says how to make them again.
    """
    record, place = run.record, Store(weights or run.store.root)
    stage = _stage(place, "final", record.run_id, record.weights)
    if stage is None:
        raise BadInput(_lost("the pruned network", run, place))
    return _checked(lambda: filled(record.spec, run.plan, stage.tensors), run)


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

    def dense() -> nn.Module:
        model = baseline.new_model(spec)
        model.load_state_dict(stage.tensors)
        return model.eval()

    return _checked(dense, run)


def _stage(store: Store, kind: str, key: str, digest: str) -> Stage | None:
    """If its weights are those of the record."""
    try:
        found = store.stage(kind, key)
    except OSError:  # damaged, in a place where it cannot be thrown away
        return None
    return found if found is not None and weights_digest(found.tensors) == digest else None


def _checked(make: Callable[[], nn.Module], run: Finished) -> nn.Module:
    try:
        return make()
    except (LookupError, ValueError, RuntimeError) as error:
        said = one_line(error)
        raise BadInput(f"plan and weights of run {run.record.run_id} do not fit: {said}") from error


def remaking(record: RunRecord, root: Path) -> str:
    """The command that makes the weights of a run again, in a directory of its own, with every
    flag that it needs. The command in the record would find the record there and do nothing.
    `root`: the results directory of the record."""
    spec, named = record.spec, _flags(record.command)
    needed = {
        "--data-dir": "IMAGES" if "--data-dir" in named else "",
        "--checkpoint": named.get("--checkpoint", "FILE") if spec.start.checkpoint else "",
        "--method-file": f"{spec.method.name}.py" if spec.method.source else "",
        "--arch": named.get("--arch", "FILE.py:FUNCTION") if spec.arch.source else "",
    }
    words = ["python -m benchmark.reproduce", record.run_id, f"--results {root}"]
    words += [f"{flag} {shlex.quote(one_line(value))}" for flag, value in needed.items() if value]
    return " ".join([*words, "--into DIR"])


def _flags(command: str) -> dict[str, str]:
    """What follows each word of a recorded command, where files stand without their folders."""
    try:
        words = shlex.split(command)
    except ValueError:  # records of strangers hold any text
        return {}
    return dict(itertools.pairwise(words))


def _lost(what: str, run: Finished, place: Store) -> str:
    run_id = run.record.run_id
    return (
        f"the weights of {what} of run {run_id} are not in {place.stages}: "
        f"{remaking(run.record, run.store.root)} makes them again, and "
        f"python -m benchmark.measure {run_id} --results {run.store.root} --weights DIR takes them "
        "from there"
    )
