"""Latency of a finished run: its dense and its pruned network, each in its better memory layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmark import alignment, baseline, environment, onnxtime, turns
from benchmark.errors import BadInput
from benchmark.forms import TOLERANCE, Form, Impossible, torch_clocks
from benchmark.kept import Finished, dense_of, pruned_of, rebuild
from benchmark.network import Network
from benchmark.spec import RunSpec
from benchmark.turns import Growth
from methods.api import Budget, Plan

KIND = "latency"
MEASURED = {  # with what the share of overhead was found
    "floor": "measured by the same network with all widths at their floor",
    "batch": "measured by what an image costs in the largest batch",
}
SHORT = {"nchw": "NCHW", "channels_last": "NHWC", "": ""}
Clocks = dict[tuple[str, str], Callable[[], float]]  # by network and memory layout


@dataclass(frozen=True)
class Settings:
    """What is timed, and how. `seconds`: about how long, for each batch size and form."""

    batches: tuple[int, ...]
    forms: tuple[Form, ...]
    device: torch.device
    threads: int
    seconds: float = 5.0


@dataclass(frozen=True)
class Networks:
    """`floor`: the dense network with all widths in scope at their floor, random weights; None:
    nothing can be removed."""

    dense: nn.Module
    pruned: nn.Module
    floor: nn.Module | None
    macs: dict[str, int]
    are_trained: bool  # else weights are random, which takes the same time
    alignment: dict[str, Any]


def networks_of(run: Finished, weights_at: Any = None) -> Networks:
    """With the weights of the run where they are kept, else with random ones of the same shapes.

    Raises:
        BadInput: the run's network is in a file that was not named, or is another one now.
    """
    spec, record = run.spec, run.record
    net = Network(baseline.new_model(spec), baseline.example(spec), spec.scope)
    try:
        pruned, dense = pruned_of(run, weights_at), dense_of(run, weights_at)
        are_trained = True
    except BadInput:
        pruned, dense, are_trained = rebuild(spec, run.plan), None, False
    narrow = net.limits(Budget(spec.flops_reduction, spec.min_width, spec.allocation)).floor
    macs = {
        "dense": record.dense.cost.macs,
        "pruned": record.pruned.macs,
        "floor": net.macs(narrow),
    }
    floor = net.remove(Plan({name: tuple(range(width)) for name, width in narrow.items()}))
    return Networks(
        (dense or net.dense()).eval(),
        pruned.eval(),
        floor.eval() if macs["floor"] < macs["dense"] else None,
        macs,
        are_trained,
        alignment.alignment(net, record.widths),
    )


def prepare(threads: int) -> None:
    """Speed comes first here, not equal bits; float32 stays float32."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


# ---- timing --------------------------------------------------------------------------------------


def measure(
    run: Finished, nets: Networks, settings: Settings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Facts for a measurement file. Within a form and batch size all networks and layouts are
    timed in turn; the better layout of each is that with the lower median."""
    prepare(settings.threads)
    load = os.getloadavg()[0]
    found: dict[str, dict[str, Any]] = {}
    for size in settings.batches:
        batch = _batch(run.spec, size, settings.device)
        found[str(size)] = {}
        for form in settings.forms:
            say(f"  batch {size}, {form.label}")
            found[str(size)][form.label] = _timed(nets, form, batch, settings)
    ideal = nets.macs["dense"] / nets.macs["pruned"]
    _judge(found, nets.macs, ideal)
    machine = environment.describe()
    return {
        "run_id": run.record.run_id,
        "kind": KIND,
        "batches": found,
        "macs": nets.macs,
        "ideal_ratio": round(ideal, 4),
        "alignment": nets.alignment,
        "precision": "fp32",
        "weights": "trained" if nets.are_trained else "random",
        "image_size": run.spec.data.image_size,
        "opset": onnxtime.OPSET,
        "tolerance": TOLERANCE,
        "hardware": environment.hardware_kind(),
        "device": str(settings.device),
        "threads": settings.threads,
        "cores": machine["cores"],
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "python": machine["python"],
        "packages": machine["packages"] | onnxtime.versions(),
    }


def _batch(spec: RunSpec, size: int, device: torch.device) -> Tensor:
    """(size, 3, S, S) of noise, always the same."""
    draw = torch.Generator().manual_seed(size)
    side = spec.data.image_size
    return torch.randn(size, 3, side, side, generator=draw).to(device)


def _timed(nets: Networks, form: Form, batch: Tensor, settings: Settings) -> dict[str, Any]:
    """Of one form at one batch size; why not, where it cannot be had."""
    facts: dict[str, Any] = {}
    try:
        clocks = _clocks(nets, form, batch, settings.threads, facts)
        times = turns.in_turn(clocks, settings.seconds)
    except Impossible as reason:
        return {"impossible": str(reason)}
    except torch.OutOfMemoryError:
        return {"impossible": f"no memory for a batch of {len(batch)}"}
    best: dict[str, list[float]] = {}
    for name in dict.fromkeys(network for network, _ in times):
        layouts = {layout: own for (network, layout), own in times.items() if network == name}
        summaries = {layout: turns.quartiles(own) for layout, own in layouts.items()}
        chosen = min(summaries, key=lambda layout: summaries[layout]["ms"])
        best[name] = layouts[chosen]
        by_layout = {"layouts": summaries, "best_layout": chosen} if chosen else {}
        facts[name] = summaries[chosen] | by_layout
    ratios = {"ratio": asdict(turns.ratio(best["dense"], best["pruned"]))}
    if "floor" in best:
        ratios["floor_ratio"] = asdict(turns.ratio(best["dense"], best["floor"]))
    return facts | ratios


def _clocks(
    nets: Networks, form: Form, batch: Tensor, threads: int, facts: dict[str, Any]
) -> Clocks:
    """`facts` takes what else is found: how far ONNX Runtime's outputs are from torch's."""
    wanted = {"dense": nets.dense, "pruned": nets.pruned}
    if nets.floor is not None:
        wanted["floor"] = nets.floor
    found: Clocks = {}
    for name, model in wanted.items():
        own = model.to(batch.device)
        if form.runtime == "onnx":
            made = onnxtime.exported(own, batch, threads)
            found[name, ""] = made.clock
            facts.setdefault("difference", {})[name] = made.difference
        else:
            clocks = torch_clocks(own, batch, form)
            found |= {(name, layout): clock for layout, clock in clocks.items()}
    return found


def _judge(found: dict[str, dict[str, Any]], macs: Mapping[str, int], ideal: float) -> None:
    """Adds to every form at every batch size whether overhead binds it."""
    largest = str(max(map(int, found)))
    for size, forms in found.items():
        for label, facts in forms.items():
            if "impossible" in facts:
                continue
            dense_ms, by_floor = facts["dense"]["ms"], facts.get("floor_ratio")
            growth = Growth(
                int(size), dense_ms, macs["dense"],
                dense_ms / by_floor["median"] if by_floor else None, macs["floor"],
                int(largest), found[largest][label].get("dense", {}).get("ms"),
            )  # fmt: skip
            judged = turns.verdict(growth, ideal)
            facts["overhead"] = None if judged is None else judged.as_facts()


# ---- what is printed -----------------------------------------------------------------------------


def table(facts: Mapping[str, Any]) -> Table:
    """Milliseconds per batch, 80 columns."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, side in (
        ("batch", "right"), ("run as", "left"), ("dense ms", "right"), ("pruned ms", "right"),
        ("speed-up (95 %)", "left"), ("expected", "left"),
    ):  # fmt: skip
        shown.add_column(name, justify=side, no_wrap=name != "run as")  # type: ignore[arg-type]
    for size, label, form in _rows(facts):
        if "impossible" in form:
            continue
        ratio, overhead = form["ratio"], form["overhead"]
        shown.add_row(
            size, label, _ms(form["dense"]), _ms(form["pruned"]),
            f"x{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
            f"x{overhead['expected']:.2f}" if overhead else "",
        )  # fmt: skip
    return shown


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """What must be said of these times."""
    found = [
        f"ideal        x{facts['ideal_ratio']:.2f}, dense MACs over pruned MACs; expected: what "
        "is left of it, as part of the time does not depend on MACs",
        *alignment.lines(facts["alignment"]),
    ]
    found += [
        f"not timed    batch {size}, {label}: {form['impossible']}"
        for size, label, form in _rows(facts)
        if "impossible" in form
    ]
    found += [line for label in _labels(facts) for line in _bound(facts, label)]
    busy = max(facts["load"])
    if busy > facts["cores"]:
        found.append(
            f"warning: the machine was busy (load {busy:.1f} on {facts['cores']} cores): times are "
            "longer than they would be, ratios are safer"
        )
    if facts["weights"] != "trained":
        found.append(
            "note: the run's weights are not kept; random ones of the same shapes were timed"
        )
    return found


def _labels(facts: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(label for _, label, _ in _rows(facts)))


def _bound(facts: Mapping[str, Any], label: str) -> Iterator[str]:
    """Lines for one form: where no speed-up, or only a part of it, can be expected."""
    judged = [(size, form.get("overhead")) for size, own, form in _rows(facts) if own == label]
    bound = [(size, each) for size, each in judged if each and each["is_bound"]]
    for hopeless, said in ((True, "no speed-up can be expected"), (False, "bound by overhead")):
        found = [(size, each) for size, each in bound if each["is_hopeless"] is hopeless]
        if not found:
            continue
        sizes = " and ".join(size for size, _ in found)
        shares = " and ".join(f"{100 * each['share']:.0f} %" for _, each in found)
        left = " and ".join(f"x{each['expected']:.2f}" for _, each in found)
        yield (
            f"warning: {label}: {said} at batch {sizes}: {shares} of the dense network's time does "
            f"not depend on its MACs ({MEASURED[found[0][1]['by']]}); that leaves {left} of "
            f"x{facts['ideal_ratio']:.2f}"
        )


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for size, forms in facts["batches"].items():
        for label, form in forms.items():
            yield size, label, form


def _ms(network: Mapping[str, Any]) -> str:
    layout = SHORT[network.get("best_layout", "")]
    digits = 3 if network["ms"] < 10 else 1
    return f"{network['ms']:.{digits}f} {layout}".rstrip()
