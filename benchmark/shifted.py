"""A run's two networks on extra test sets, as measurement files beside its record."""

from __future__ import annotations

import base64
import statistics
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark import environment, extratest
from benchmark.context import Context, set_threads_and_determinism
from benchmark.data import Data
from benchmark.evaluation import Evaluation, evaluate
from benchmark.extratest import ExtraTest
from benchmark.images import DataIdentity, Images
from benchmark.kept import Finished, dense_of, pruned_of, read_finished
from benchmark.record import RunRecord
from benchmark.sources import Source
from benchmark.spec import RunSpec, digest
from benchmark.store import Store
from benchmark.texts import number

KIND = "extra"
AT_ONCE = 16  # runs
Done = Callable[[int, int], None]  # parts done, parts in all


@dataclass(frozen=True)
class Pair:
    """The networks of a run on a device; `dense` is None for a random start."""

    run: Finished
    pruned: nn.Module
    dense: nn.Module | None


def pair_of(run: Finished, weights: Path | None, device: torch.device) -> Pair:
    """Raises BadInput where weights are missing."""
    pruned, dense = pruned_of(run, weights), dense_of(run, weights)
    return Pair(run, pruned.to(device), None if dense is None else dense.to(device))


def missing(store: Store, spec: RunSpec, wanted: Mapping[str, Path]) -> dict[str, Path]:
    """The sets that the run was not measured on. A set is its name and its content.

    Raises:
        BadInput: a measurement of the run cannot be read.
    """
    if not wanted:
        return {}
    there = {(f["set"], f["content_hash"]) for f in store.measurements(spec, KIND)}
    return {
        name: folder
        for name, folder in wanted.items()
        if (name, extratest.hash_of(folder, store.stages)) not in there
    }


def measure(
    pairs: Sequence[Pair], extra: ExtraTest, data: Data, device: torch.device, done: Done
) -> list[dict[str, Any]]:
    """Facts for a measurement file of each run. The pairs share their data; each part is decoded
    once, and a dense network that several runs started from is looked at once.

    Raises:
        BadInput: an image cannot be read.
    """
    nets = _networks(pairs)
    found: dict[str, list[Evaluation]] = {key: [] for key in nets}
    own = data.test.source(data.identity, device)
    on_own = {key: evaluate(net, own) for key, net in nets.items()}
    for i, part in enumerate(extra.parts):
        source = _source(part, data.identity, device)
        for key, net in nets.items():
            found[key].append(evaluate(net, source))
        done(i + 1, len(extra.parts))
    return [_facts(pair, extra, found, on_own, data, device) for pair in pairs]


def write(pair: Pair, facts: dict[str, Any]) -> Path:
    return pair.run.store.write_measurement(pair.run.spec, KIND, digest(facts, 12), facts)


def decoded(text: Mapping[str, str]) -> np.ndarray:
    """(N,) classes from a measurement file."""
    raw = zlib.decompress(base64.b64decode(text["zlib"]))
    return np.frombuffer(raw, np.dtype(text["type"])).astype(np.int64)


def _encoded(classes: np.ndarray) -> dict[str, str]:
    """A class per image takes half a byte or less."""
    kind = "|u1" if classes.max(initial=0) < 256 else "<i4"
    raw = zlib.compress(classes.astype(np.dtype(kind)).tobytes(), 9)
    return {"type": kind, "zlib": base64.b64encode(raw).decode()}


def _networks(pairs: Iterable[Pair]) -> dict[str, nn.Module]:
    """By the digest of their weights."""
    found = {pair.run.record.weights: pair.pruned for pair in pairs}
    dense = {p.run.record.dense.weights: p.dense for p in pairs if p.dense is not None}
    return found | dense


def _source(part: extratest.Part, identity: DataIdentity, device: torch.device) -> Source:
    pixels = torch.from_numpy(part.pixels(identity.image_size, identity.eval_resize))
    labels = torch.from_numpy(part.labels)
    return Images(pixels, labels, torch.arange(len(labels))).source(identity, device)


# ---- what is written -----------------------------------------------------------------------------


def _facts(
    pair: Pair,
    extra: ExtraTest,
    found: Mapping[str, list[Evaluation]],
    on_own: Mapping[str, Evaluation],
    data: Data,
    device: torch.device,
) -> dict[str, Any]:
    record = pair.run.record
    keys = {"pruned": record.weights}
    if pair.dense is not None:
        keys["dense"] = record.dense.weights
    machine = environment.describe()
    return {
        "run_id": record.run_id,
        "kind": KIND,
        "set": extra.name,
        "content_hash": extra.content_hash,
        "images": extra.images,
        "image_size": data.identity.image_size,
        "networks": {name: {"weights": key} | _figures(extra, found[key])
                     for name, key in keys.items()},
        "agreement": _agreement([found[key] for key in keys.values()]),
        "own_test": {"images": len(data.test)}
        | {f"{name}_top1": on_own[key].top1 for name, key in keys.items()}
        | {"agreement": _agreement([[on_own[key]] for key in keys.values()])},
        "predictions": _predictions(extra, {name: found[key] for name, key in keys.items()}),
        "hardware": environment.hardware_kind(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "packages": machine["packages"],
    }  # fmt: skip


def _figures(extra: ExtraTest, found: Sequence[Evaluation]) -> dict[str, Any]:
    """Of one network. Severities of a corruption count alike, and so do corruptions."""
    names = list(dict.fromkeys(part.corruption for part in extra.parts))
    by_name = {
        name: [e for part, e in zip(extra.parts, found, strict=True) if part.corruption == name]
        for name in names
    }
    means = {name: _mean(part) for name, part in by_name.items()}
    whole = _mean_of(list(means.values()))
    if names == [""]:
        return whole
    severities: dict[str, dict[str, float]] = {name: {} for name in names}
    for part, each in zip(extra.parts, found, strict=True):
        if part.severity:
            severities[part.corruption][part.severity] = each.top1
    corruptions = {
        name: means[name] | ({"severities": severities[name]} if severities[name] else {})
        for name in names
    }
    return whole | {"corruptions": corruptions}


def _mean(found: Sequence[Evaluation]) -> dict[str, float | None]:
    return _mean_of([{"top1": e.top1, "top5": e.top5, "loss": e.loss} for e in found])


def _mean_of(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    known = {name: [f[name] for f in figures] for name in ("top1", "top5", "loss")}
    return {
        name: None if None in values else statistics.fmean(v for v in values if v is not None)
        for name, values in known.items()
    }


def _agreement(networks: Sequence[Sequence[Evaluation]]) -> float | None:
    """Share of images on which both networks say the same class; None: there is only one."""
    if len(networks) != 2:
        return None
    one, other = (torch.cat([e.predicted for e in found]) for found in networks)
    return float((one == other).double().mean())


def _predictions(
    extra: ExtraTest, found: Mapping[str, Sequence[Evaluation]]
) -> dict[str, dict[str, str]] | None:
    """Labels and predicted classes, for paired intervals over images. Not of corruptions: there
    the figure is a mean over parts that show the same pictures again."""
    if any(part.corruption for part in extra.parts):
        return None
    labels = np.concatenate([part.labels for part in extra.parts])
    classes = {n: torch.cat([e.predicted for e in each]).numpy() for n, each in found.items()}
    return {name: _encoded(values) for name, values in ({"labels": labels} | classes).items()}


# ---- what is missing, and what is said -----------------------------------------------------------


def measure_missing(
    runs: Sequence[Finished],
    wanted: Mapping[str, Path],
    data: Data,
    device: torch.device,
    weights: Path | None = None,
    done: Done = lambda _done, _all: None,
) -> list[tuple[Finished, dict[str, Any], Path]]:
    """Measure what the runs, which share their data, were not measured on, and write it down: run,
    facts and file of each measurement. A few runs at once are held in memory.

    Raises:
        BadInput: weights are missing, or a set cannot be read.
    """
    made = []
    for name, folder in wanted.items():
        lacking = [run for run in runs if missing(run.store, run.spec, {name: folder})]
        for first in range(0, len(lacking), AT_ONCE):
            pairs = [pair_of(run, weights, device) for run in lacking[first : first + AT_ONCE]]
            extra = extratest.read(name, folder, data.class_names, pairs[0].run.store.stages)
            for pair, facts in zip(pairs, measure(pairs, extra, data, device, done), strict=True):
                made.append((pair.run, facts, write(pair, facts)))
    return made


def after_run(spec: RunSpec, wanted: Mapping[str, Path], context: Context) -> None:
    """A finished run of `context` on the sets that it was not measured on.

    Raises:
        BadInput: as `measure_missing`.
    """
    store = context.store
    if not missing(store, spec, wanted):
        return
    set_threads_and_determinism(spec.threads)
    run = read_finished(store.run_folder(spec), store.root)

    def tell(done: int, parts: int) -> None:
        context.progress("extra test sets", done, parts)

    for _, facts, _ in measure_missing([run], wanted, context.data, context.device, done=tell):
        for line in lines(run.record, facts):
            context.log(line)


def lines(record: RunRecord, facts: Mapping[str, Any]) -> list[str]:
    """For the terminal: accuracies in %, drops in percentage points."""
    nets, own = facts["networks"], facts["own_test"]
    label = record.spec.method.label
    seed = record.spec.seeds.run
    head = f"run {record.run_id}: {label} seed {seed}, {facts['set']}, {facts['images']} images"
    found = [head, f"  {'':<20}{'dense':>8}{'pruned':>8}{'drop':>8}   same class"]
    dense, pruned = own.get("dense_top1"), own["pruned_top1"]
    found.append(_line("own test set", dense, pruned, own["agreement"]))
    whole = nets.get("dense", {}).get("top1")
    found.append(_line(facts["set"], whole, nets["pruned"]["top1"], facts["agreement"]))
    for name, figures in nets["pruned"].get("corruptions", {}).items():
        of_dense = nets.get("dense", {}).get("corruptions", {}).get(name, {}).get("top1")
        found.append(_line(f"  {name}", of_dense, figures["top1"], None))
    return found


def _line(name: str, dense: float | None, pruned: float, same: float | None) -> str:
    parts = ["" if dense is None else f"{100 * dense:.2f}", f"{100 * pruned:.2f}"]
    parts.append("" if dense is None else number(100 * (dense - pruned), 2))
    agreement = "" if same is None else f"   {100 * same:.2f} %"
    return f"  {name:<20}{''.join(f'{part:>8}' for part in parts)}{agreement}"
