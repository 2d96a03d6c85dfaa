"""Records without training, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.encoding import encode
from benchmark.flops import Cost
from benchmark.images import DataIdentity
from benchmark.record import (
    Accuracy,
    BestVal,
    Dense,
    RunRecord,
    SeedAgreement,
    SelectionCheck,
    Spent,
)
from benchmark.spec import ArchIdentity, MethodIdentity, Recipe, RunSpec, Seeds, Start, digest
from benchmark.store import Store
from methods.api import Plan

BASELINE = Recipe(epochs=30, lr=0.1)
RECOVERY = Recipe(epochs=20, lr=0.02)
DENSE_MACS, DENSE_PARAMS = 1_000_000, 10_000
WIDTH = 16


def spec(method: str = "l1norm", seed: int = 0, target: float = 0.5, **changes: Any) -> RunSpec:
    """A cell on an invented data set; `classes`, `data` and `arch` are short for their fields."""
    name, _, variant = method.partition(":")
    size = {"classes": 10, "data": "images", "arch": "net20"} | changes
    data = DataIdentity(
        name=size["data"], content_hash="c", image_size=8, num_classes=size["classes"],
        mean=(0, 0, 0), std=(1, 1, 1), pad=0, flip=False, split_hash="s",
    )  # fmt: skip
    params = changes.get("params", {})
    content: dict[str, Any] = {
        "track": "common",
        "method": MethodIdentity(name=name, variant=variant, revision=1, params=params),
        "arch": ArchIdentity(name=size["arch"], structure="s"),
        "data": data,
        "start": Start(kind="baseline"),
        "allocation": "uniform",
        "scope": "inner",
        "flops_reduction": target,
        "min_width": 0.1,
        "budget_epochs": 20,
        "recovery": RECOVERY,
        "baseline": BASELINE,
        "seeds": Seeds(dense=seed, run=seed),
    }
    ours = {"classes", "data", "arch", "params"}
    return RunSpec(**content | {k: v for k, v in changes.items() if k not in ours})


def from_scratch(seed: int = 0, target: float = 0.5, **changes: Any) -> RunSpec:
    """Random start for the images of baseline plus recovery."""
    recipe = BASELINE.model_copy(update={"epochs": 50})
    return spec(
        "width_scaling", seed, target, start=Start(kind="random"), baseline=None,
        recovery=recipe, budget_epochs=50, **changes,
    )  # fmt: skip


def point(test: float, val: float | None = None) -> Accuracy:
    return Accuracy(test_top1=test, test_loss=1 - test, val_top1=test if val is None else val)


def cost(share: float) -> Cost:
    macs, params = round(share * DENSE_MACS), round(share * DENSE_PARAMS)
    return Cost(macs=macs, macs_paper=macs, params=params, params_paper=params, operators={})


def ledger(spent: int) -> list[dict[str, Any]]:
    row = {"phase": "recovery", "kind": "charged", "images": spent, "epochs": 20.0,
           "macs": 3 * spent * 500_000, "seconds": 1.0, "requested": spent}  # fmt: skip
    return [row, row | {"phase": "bn", "kind": "forward", "images": 50, "epochs": 0.05}]


def record(
    run: RunSpec,
    final: float = 0.9,
    dense: float | None = 0.92,
    *,
    groups: int = 9,
    title: str = "",
    **changes: Any,
) -> RunRecord:
    """A finished run with these fractions; fields of the record can be set by name."""
    names = [f"layer{1 + i // max(1, groups // 3)}.{i % max(1, groups // 3)}.conv1"
             for i in range(groups)]  # fmt: skip
    left = 1 - run.flops_reduction
    content: dict[str, Any] = {
        "run_id": run.run_id,
        "spec": run,
        "title": title or run.method.label,
        "control": run.method.label in ("random", "width_scaling", "dense_continue"),
        "dense": Dense(
            weights=f"dense-{run.seeds.dense}-{dense}",
            accuracy=None if dense is None else point(dense),
            cost=cost(1),
        ),
        "pruned": cost(left),
        "flops_reduction": run.flops_reduction,
        "params_reduction": run.flops_reduction,
        "floor_share": 0.0,
        "largest_reduction": 0.9,
        "groups": names,
        "widths": {n: max(1, round(left * WIDTH)) for n in names},
        "dense_widths": dict.fromkeys(names, WIDTH),
        "plan": digest({n: list(range(max(1, round(left * WIDTH)))) for n in names}),
        "weights": "w",
        "before_recovery": point(0.2),
        "recalibrated": point(0.5),
        "final": point(final, final - 0.01),
        "best_val": BestVal(epoch=18, accuracy=point(final - 0.001)),
        "at_chance": False,
        "selection": SelectionCheck(
            score=0.5, inverse=0.3, random=[0.4, 0.42], percentile=1.0, informative=True
        ),
        "seed_agreement": SeedAgreement(rank_correlation=0.8, kept_overlap=0.7),
        "tied_share": 0.0,
        "method_facts": {},
        "spent": Spent(allowed=20_000, charged=20_000, free=0, rows=ledger(20_000)),
        "latency": {"batch_1": {"speedup": 1.1}, "batch_128": {"speedup": 1.5}},
        "predictions_order": "o",
        "environment": {},
        "seconds": 12.5,
        "command": "",
    }  # fmt: skip
    return RunRecord(**content | changes)


def class_masks(layers: int, channels: int, classes: int = 10) -> dict[str, Any]:
    """Facts of a method with a mask per class and channel."""
    draw = torch.Generator().manual_seed(0)
    return {
        "class_masks": encode(
            {
                f"layer1.{i}.conv1": 1 + 0.3 * torch.randn(classes, channels, generator=draw)
                for i in range(layers)
            }
        )
    }


def write(store: Store, made: RunRecord, keep: dict[str, tuple[int, ...]] | None = None) -> Path:
    """Publish it as a run does; by default the first channels of every group are kept."""
    plan = keep or {g: tuple(range(w)) for g, w in made.widths.items()}
    return store.write(made, Plan(plan), [], {"test_final_class": np.zeros(1, dtype=np.uint8)})


def three(method: str, finals: tuple[float, ...], **changes: Any) -> list[RunRecord]:
    """Seeds 0, 1, 2, with dense networks of 92, 93 and 91 %."""
    dense = (0.92, 0.93, 0.91)
    return [record(spec(method, i), f, dense[i], **changes) for i, f in enumerate(finals)]


def sample() -> list[RunRecord]:
    """Several methods, controls, targets and seeds; the White-Box row has masks."""
    found = three("l1norm", (0.90, 0.92, 0.91)) + three("hrank", (0.91, 0.93, 0.92))
    found += three("random", (0.95, 0.95, 0.95))
    found += [record(spec("hrank", 0, 0.7), 0.8)]
    found += [record(from_scratch(i), 0.88, None) for i in range(3)]
    return [*found, record(spec("whitebox", 0), 0.9, method_facts=class_masks(3, 16))]
