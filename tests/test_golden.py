"""Nothing changes unnoticed (DECISIONS 7): what each method, the trainer, the data and surgery give
on a tiny cell is stored, and a difference asks for a raised `revision` or `PROTOCOL`.

`python tests/test_golden.py` writes the file anew, after the number was raised.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from benchmark import environment, vectors
from benchmark.schedule import order_of
from benchmark.spec import PROTOCOL
from benchmark.store import Store
from methods import find
from methods.api import Plan

FILE = Path(__file__).with_name("golden.json")
METHODS = (
    "whitebox", "whitebox:joint", "whitebox:gain", "whitebox:count", "whitebox:spread", "hrank",
    "l1norm", "slimming", "slimming:sparse", "cpli", "random", "width_scaling", "dense_continue",
    "bnscale", "clr_rnf", "clr_rnf:official", "dcp", "dcp:official", "depgraph", "depgraph:sparse",
    "epruner", "epruner:official", "exp", "fbs", "filtersketch",
    "filtersketch:official", "fpgm", "fpici", "gwcs", "hrankplus", "hrel", "hrel:official", "lamp",
    "random_gates", "random_kernels", "taylor", "taylor:weight", "wsp",
)  # fmt: skip
ELSEWHERE = 0.05  # relative difference allowed on another processor, where sums round otherwise


def of_method(label: str) -> dict[str, Any]:
    """Plan and final weights of a run; `revision` says which behaviour this is."""
    from test_execute import go, make_spec

    from benchmark.spec import Start

    changes: dict[str, Any] = {}
    if not find(label).cls.trained_start:
        changes = {"start": Start(kind="random"), "baseline": None, "budget_epochs": tiny.EPOCHS}
    if find(label).cls.allocations == ("none",):
        changes = {"flops_reduction": 0.0}
    spec = make_spec(label, **changes)
    with tempfile.TemporaryDirectory() as root:
        record = go(spec, Path(root))
        weights = Store(Path(root)).stage("final", record.run_id)
        plan = json.loads((Store(Path(root)).run_folder(spec) / "plan.json").read_text())
    assert weights is not None
    return {
        "revision": find(label).cls.revision,
        "keep": plan["keep"],
        "weights": {
            k: float(v.double().abs().mean()) for k, v in weights.tensors.items() if v.numel()
        },
        "digest": record.weights,
    }


def of_trainer() -> dict[str, Any]:
    net = tiny.model()
    run = tiny.trainer()
    run.run_phase(net, tiny.RECIPE, "recovery", validate=True)
    state = net.state_dict()
    return {
        "order": order_of(8, 1, 2).tolist(),
        "loss": [row.loss for row in run.curve],
        "weights": {k: float(v.double().abs().mean()) for k, v in state.items()},
    }


def of_data() -> dict[str, Any]:
    source = tiny.trainer().train
    x, y = source.batch(torch.arange(20), augment=(1, 2))
    pixels = ((x * 0.5 + 0.5) * 255).round().to(torch.uint8)
    return {"pixels": hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16], "y": y.tolist()}


def of_surgery() -> dict[str, Any]:
    net = tiny.network(trained=False, scope="all")
    plan = Plan({g.name: tuple(range(0, g.width, 2)) for g in net.groups})
    model = net.remove(plan)
    return {
        "shapes": {k: list(v.shape) for k, v in model.state_dict().items()},
        "macs": net.macs(plan.widths()),
    }


PARTS = {"trainer": of_trainer, "data": of_data, "surgery": of_surgery}


def compare(found: Any, stored: Any, same_machine: bool, where: str) -> None:
    """Equal here; on another kind of processor, numbers may differ by rounding."""
    if isinstance(stored, dict) and "keep" in stored and not same_machine:
        pairs = [(set(found["keep"][g]), set(k)) for g, k in stored["keep"].items()]
        kept = sum(len(b) for _, b in pairs)
        share = sum(len(a & b) for a, b in pairs) / kept if kept else 1.0
        assert share >= 0.9, f"{where}: only {share:.0%} of the kept channels are the same"
        return
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), where
        for key in stored:
            compare(found[key], stored[key], same_machine, f"{where}.{key}")
    elif isinstance(stored, float) and not same_machine:
        assert found == pytest.approx(stored, rel=ELSEWHERE, abs=1e-3), where
    elif isinstance(stored, list) and stored and isinstance(stored[0], float):
        for i, (a, b) in enumerate(zip(found, stored, strict=True)):
            compare(a, b, same_machine, f"{where}[{i}]")
    else:
        assert found == stored, f"{where} changed: raise the method's revision, or PROTOCOL"


def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def same_machine() -> bool:
    return bool(stored()["machine"] == environment.hardware_kind())


@pytest.mark.parametrize("label", METHODS)
def test_methods_give_what_they_gave(label: str) -> None:
    golden = stored()["methods"][label]
    found = json.loads(json.dumps(of_method(label)))
    if found["revision"] != golden["revision"]:
        pytest.fail(f"{label}: revision raised; write {FILE.name} anew")
    compare(found, golden, same_machine(), label)


@pytest.mark.parametrize("part", PARTS)
def test_the_instrument_gives_what_it_gave(part: str) -> None:
    assert stored()["protocol"] == PROTOCOL, f"PROTOCOL raised; write {FILE.name} anew"
    found = json.loads(json.dumps(PARTS[part]()))
    compare(found, stored()[part], same_machine(), part)


if __name__ == "__main__":
    vectors.hold()
    torch.set_num_threads(1)
    content = {"protocol": PROTOCOL, "machine": environment.hardware_kind()}
    content |= {part: make() for part, make in PARTS.items()}
    content["methods"] = {label: of_method(label) for label in METHODS}
    FILE.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    sys.stdout.write(f"wrote {FILE}\n")
