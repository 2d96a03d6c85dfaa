"""`python -m benchmark.dissect RUN...`: looks into finished runs whose methods score channels.

Writes `measurements/dissection-<hash>.json` beside each record: scores, what every channel reacts
to, the channels that tell most with their images, and how the choice came about in training. The
dense network and the scores come from `stages/`, or are made again.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from benchmark import diagnostics, dissection, environment
from benchmark.cli import DONE, console, run_app
from benchmark.context import Context, budget_of, make_trainer, set_threads_and_determinism, start
from benchmark.data import Data
from benchmark.differences import kept_overlap
from benchmark.dissection import KIND, VERSION, Layer, short
from benchmark.encoding import decode
from benchmark.errors import BadInput
from benchmark.evaluation import EVAL_BATCH, balanced
from benchmark.files import check_writable
from benchmark.flags import DataDir, Device, OwnArch, OwnMethod, Records, RunIds, Weights
from benchmark.load import find_run
from benchmark.network import Network
from benchmark.planning import make_plan
from benchmark.progress import GridProgress
from benchmark.reproduce import Job, job_of, read_data
from benchmark.schedule import phase_seed
from benchmark.sources import Source, Split
from benchmark.spec import digest
from benchmark.store import Store
from benchmark.verdict import Say
from methods import build
from methods.api import Plan

MOST_IMAGES = 5000  # looked at: more change nothing
MOST_PIXELS = 64  # side of a thumbnail; smaller images keep their size


# ---- what channels react to ----------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The images that channels are judged on."""

    split: str
    images: Split
    rows: Tensor  # (N,) of the split
    classes: int


def images_of(data: Data) -> Seen:
    """Validation images, training images where there is no validation split; never test images."""
    split = "val" if len(data.val) else "train"
    own: Split = getattr(data, split)
    classes, seed = data.identity.num_classes, phase_seed(0, data.identity.content_hash)
    order = balanced(own.labels, classes, seed)
    return Seen(split, own, order[:MOST_IMAGES].sort().values, classes)


@torch.no_grad()
def activations(net: Network, source: Source, rows: Tensor) -> dict[str, np.ndarray]:
    """(N, C) per layer: mean of each map over its positions; where no ReLU of its own follows, what
    one would let through."""
    parts: dict[str, list[np.ndarray]] = {n: [] for n in net.layers}
    net.eval()
    chunks = rows.split(EVAL_BATCH)
    source.ahead(chunks)
    with net.tapped({n: net.last_site(n) for n in net.layers}) as maps:
        for chunk in chunks:
            net(source.batch(chunk)[0])
            for name, found in maps.items():
                parts[name].append(found.clamp(min=0).mean((2, 3)).cpu().numpy())
    return {n: np.concatenate(p) for n, p in parts.items()}


def kept_channels(net: Network, plan: Plan) -> dict[str, np.ndarray]:
    """(C,) booleans per layer: whether the channel's unit is kept."""
    found = {}
    for name in net.layers:
        group = net.group_of(name)
        units = (net.map.writes[name] - net.map.first[group.name]).numpy()
        found[name] = np.isin(units, plan.keep.get(group.name, range(group.width)))
    return found


def layers_of(
    net: Network,
    scores: dict[str, Tensor],
    plan: Plan,
    seen: Seen,
    source: Source,
    masks: dict[str, Any],
) -> dict[str, Layer]:
    """`masks`: encoded (K, C) by layer, of methods that note them."""
    fired, kept = activations(net, source, seen.rows), kept_channels(net, plan)
    labels = seen.images.labels[seen.rows].numpy()
    return {
        n: Layer(
            scores[n].detach().cpu().numpy(),
            kept[n],
            fired[n],
            dissection.class_means(fired[n], labels, seen.classes),
            decode(masks[n]) if n in masks else None,
        )
        for n in net.layers
    }


def gallery(layers: dict[str, Layer], seen: Seen) -> dict[str, Any]:
    """The channels that tell most, the images that excite each most, and these as thumbnails."""
    channels, shown = [], set()
    for found in dissection.telling(layers):
        own = layers[found.layer].activations[:, found.channel]
        rows = seen.rows[dissection.strongest(own).tolist()].tolist()
        shown |= set(rows)
        channels.append(
            {
                "end": found.end,
                "kept": found.kept,
                "layer": found.layer,
                "channel": found.channel,
                "selectivity": short(found.index),
                "prefers": int(dissection.preferred(layers[found.layer].means)[found.channel]),
                "images": rows,
                "labels": seen.images.labels[rows].tolist(),
            }
        )
    order = sorted(shown)
    images = seen.images.pictures(torch.tensor(order, dtype=torch.int64))
    pictures = {str(row): thumbnail(image) for row, image in zip(order, images, strict=True)}
    return {"channels": channels, "thumbnails": pictures}


def thumbnail(pixels: Tensor) -> str:
    """(3, S, S) uint8 as PNG in base64."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


# ---- one run -------------------------------------------------------------------------------------


def dissect(job: Job, data: Data, screen: Console, say: Say) -> dict[str, Any]:
    """All facts of the measurement. The results directory gets the stages that are made again."""
    spec, record, store = job.spec, job.recorded.record, Store(job.root)
    method = build(job.entry, spec.method.params)
    with GridProgress(screen, "dissecting", total=1, workers=1) as bars:

        def show(phase: str, done: int, total: int) -> None:
            bars.update(record.run_id, phase, done, total)

        context = Context(
            store=store,
            data=data,
            device=job.options.torch_device(),
            progress=show,
            checkpoint=job.options.checkpoint,
            compiled=bool(record.environment.get("compiled", False)),
        )
        test = data.test.source(spec.data, context.device)
        dense, net = start(spec, method, test, context)
        if dense.weights != record.dense.weights:
            say("  the dense network made here is not that of the record: another kind of machine")
        base, trainer = net.copy(), make_trainer(spec, context)
        trainer.use(net)
        plan, scores = make_plan(spec, method, net, budget_of(spec, net), trainer, context)
        assert scores is not None  # refused before
        looked_at = base if dense.accuracy is not None else net  # random weights react to nothing
        recorded = Plan({group: tuple(kept) for group, kept in job.recorded.keep.items()})
        seen = images_of(data)
        source = seen.images.source(spec.data, context.device)
        masks = record.method_facts.get("class_masks", {})
        layers = layers_of(looked_at, scores, recorded, seen, source, masks)
        training = diagnostics.over_training(spec, method, base, recorded, context, say)
    return {
        "run_id": spec.run_id,
        "kind": KIND,
        "version": VERSION,
        "hardware": environment.hardware_kind(),
        "same_dense": dense.weights == record.dense.weights,
        "kept_again": short(kept_overlap(job.recorded.keep, as_keep(plan))),
        "network": "start" if dense.accuracy is not None else "scored",
        "split": seen.split,
        "images": len(seen.rows),
        "classes": list(data.class_names),
        "layers": {n: dissection.layer_facts(layer) for n, layer in layers.items()},
        "gallery": gallery(layers, seen),
        "training": training,
    }


def as_keep(plan: Plan) -> dict[str, list[int]]:
    return {group: list(kept) for group, kept in plan.keep.items()}


# ---- the command ---------------------------------------------------------------------------------


def check_scores(job: Job) -> None:
    """Raises BadInput unless the run's method scores channels."""
    if not build(job.entry, job.spec.method.params).scores_first:
        raise BadInput(
            f"run {job.spec.run_id}: {job.entry.label} decides widths and channels itself and has "
            "no scores to look into; name a run of a method that scores channels"
        )


def there(job: Job) -> bool:
    """Whether this version of the code has looked into the run already."""
    found = Store(job.root).measurements(job.spec, KIND)
    return any(facts.get("version") == VERSION for facts in found)


def main(
    runs: RunIds,
    results: Records = Path("results"),
    data_dir: DataDir = None,
    checkpoint: Weights = None,
    arch: OwnArch = None,
    method_file: OwnMethod = None,
    device: Device = None,
) -> int:
    """Look into finished runs: what channels react to, what was removed, how the choice came about.

    Example: python -m benchmark.dissect 3f2a --results results-demo
    """
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    words = {"data_dir": data_dir, "checkpoint": checkpoint, "device": device, "arch": arch}
    jobs = [job_of(find_run(run, results), words, method_file, False) for run in runs]
    for job in jobs:
        check_scores(job)
        check_writable(job.root)
    data: dict[str, Data] = {}
    for job in jobs:
        spec = job.spec
        if there(job):
            say(f"run {spec.run_id}: its dissection is there already")
            continue
        say(f"run {spec.run_id}: {spec.method.label} on {spec.data.name}, {spec.arch.name}")
        key = spec.data.model_dump_json()
        data[key] = data.get(key) or read_data(job, job.root, screen)
        set_threads_and_determinism(spec.threads)
        facts = dissect(job, data[key], screen, say)
        path = Store(job.root).write_measurement(spec, KIND, digest(facts, 12), facts)
        say(f"  {dissection.paragraph(facts)}")
        say(f"run {spec.run_id}: written to {path}; python -m benchmark.report draws it")
    return DONE


if __name__ == "__main__":
    run_app(main)
