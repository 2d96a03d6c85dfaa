"""Timings in turn, what they say of a speed-up, the forms of a network, and ONNX Runtime."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console
from test_execute import go, make_spec
from torch import nn

from benchmark import alignment, flops, forms, kept, onnxtime, speed, turns
from benchmark.errors import BadInput
from benchmark.forms import Form, Impossible
from benchmark.kept import Finished
from benchmark.load import find_run
from benchmark.speed import Settings
from benchmark.turns import Growth, verdict
from methods.api import Plan

CPU = torch.device("cpu")
DENSE, FLOOR = 1_000_000, 100_000


# ---- in turn -------------------------------------------------------------------------------------


def test_every_round_meets_every_network_in_another_order() -> None:
    seen: list[str] = []

    def clock(name: str) -> float:
        seen.append(name)
        return 1.0

    found = turns.in_turn({n: lambda n=n: clock(n) for n in "abc"}, seconds=0.0)  # type: ignore[misc]
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys("abc", 11)
    rounds = ["".join(seen[i : i + 3]) for i in range(0, len(seen), 3)]
    assert rounds[turns.WARM_UP :][:4] == ["abc", "bca", "cab", "abc"]


def test_the_time_that_is_given_decides_how_many_rounds() -> None:
    assert len(turns.in_turn({"a": lambda: 10.0}, seconds=0.5)["a"]) == 50
    assert len(turns.in_turn({"a": lambda: 10.0}, seconds=60)["a"]) == turns.MOST
    assert len(turns.in_turn({"a": lambda: 1e4}, seconds=1)["a"]) == turns.LEAST


def test_a_ratio_is_taken_within_rounds() -> None:
    slow = [2.0 * (1 + i) for i in range(11)]  # the machine slows down tenfold meanwhile
    fast = [1.0 * (1 + i) for i in range(11)]
    assert dataclasses.astuple(turns.ratio(slow, fast)) == (2.0, 2.0, 2.0, 11)


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    # binomial, n = 11: two values are below the median with 0.6 %, three with 3.3 %: second, tenth
    found = turns.ratio([float(v) for v in range(1, 12)], [1.0] * 11)
    assert (found.median, found.low, found.high) == (6, 2, 10)
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(2000, 31, generator=draw).exp()
    held = [turns.ratio(row.tolist(), [1.0] * 31) for row in values]
    share = sum(r.low <= 1.0 <= r.high for r in held) / len(held)  # the true median is 1
    assert 0.94 <= share <= 0.985


# ---- can a speed-up be expected? -----------------------------------------------------------------


def times(overhead: float, per_mac: float, batch: int = 1, largest: int = 256) -> Growth:
    """Of a machine whose time is overhead + MACs."""

    def taken(macs: int, images: int) -> float:
        return overhead + per_mac * macs * images

    return Growth(
        batch, taken(DENSE, batch), DENSE, taken(FLOOR, batch), FLOOR, largest,
        taken(DENSE, largest),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overhead", "share", "expected", "bound", "hopeless"),
    [(0.0, 0.0, 2.0, False, False), (1.0, 0.5, 4 / 3, False, False),
     (3.0, 0.75, 8 / 7, True, False), (19.0, 0.95, 1 / 0.975, True, True)],
)  # fmt: skip
def test_the_share_of_overhead_is_found_again(
    overhead: float, share: float, expected: float, bound: bool, hopeless: bool
) -> None:
    found = verdict(times(overhead, 1 / DENSE), ideal=2.0)
    assert found is not None
    assert (found.by, found.is_bound, found.is_hopeless) == ("floor", bound, hopeless)
    assert found.share == pytest.approx(share, abs=1e-9)
    assert found.expected == pytest.approx(expected)


def test_overhead_fades_as_the_batch_grows() -> None:
    found = [verdict(times(19.0, 1 / DENSE, batch), 2.0) for batch in (1, 32, 256)]
    assert [v.is_bound for v in found if v] == [True, False, False]


def test_where_nothing_can_be_removed_the_batch_decides() -> None:
    def judged(overhead: float, batch: int = 1) -> turns.Verdict | None:
        growth = times(overhead, 1 / DENSE, batch)
        return verdict(dataclasses.replace(growth, floor_ms=None), 2.0)

    launch, work = judged(9.0), judged(0.01)
    assert launch is not None
    assert work is not None
    assert (launch.by, launch.is_bound, work.is_bound) == ("batch", True, False)
    assert launch.share == pytest.approx(1 - (9 + 256) / 256 / 10)
    assert judged(9.0, batch=256) is None  # it is the largest itself


def test_noise_gives_no_share_below_none_or_above_all() -> None:
    growth = times(0.0, 1 / DENSE)
    faster = dataclasses.replace(growth, floor_ms=1.2 * growth.dense_ms)  # at its floor, slower
    slower = dataclasses.replace(growth, floor_ms=0.01 * growth.dense_ms)  # below its MACs
    assert [v.share for v in (verdict(faster, 2.0), verdict(slower, 2.0)) if v] == [1.0, 0.0]


# ---- alignment -----------------------------------------------------------------------------------


def test_alignment_counts_multiples_and_rounded_macs() -> None:
    net = tiny.network(trained=False)
    full = {g.name: g.width for g in net.groups}
    assert sorted(full.values()) == [8, 16, 32]
    widths = {n: {8: 3, 16: 8, 32: 30}[w] for n, w in full.items()}
    found = alignment.alignment(net, widths)
    counts = {m: each["groups"] for m, each in found["multiples"].items()}
    assert (found["groups"], counts) == (3, {"4": 1, "8": 1, "16": 0, "32": 0})

    def macs(kept: dict[str, int]) -> int:
        plan = Plan({n: tuple(range(w)) for n, w in kept.items()})
        return flops.cost(net.remove(plan), torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)).macs

    for multiple, up in ((4, {8: 4, 16: 8, 32: 32}), (16, {8: 8, 16: 16, 32: 32})):
        added = macs({n: up[w] for n, w in full.items()}) / macs(widths) - 1
        assert found["multiples"][str(multiple)]["added_macs"] == pytest.approx(added, abs=1e-5)
    assert "multiples of 4: 1 of 3 groups" in alignment.lines(found)[0]


# ---- forms ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny.network("resnet").dense().eval()


def noise(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_folding_leaves_no_batch_norm_and_the_same_outputs(model: nn.Module) -> None:
    found = forms.folded(model, noise())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in found.modules())
    assert forms.apart(model(noise()), found(noise())) < 1e-5


def test_a_fold_that_changes_outputs_is_refused(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "TOLERANCE", -1.0)
    with pytest.raises(Impossible, match="folding batch norm changes outputs by"):
        forms.folded(model, noise())


def test_a_network_that_cannot_be_traced_says_so() -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(Impossible, match="folding batch norm"):
        forms.folded(Moody(), noise())


def test_each_layout_runs_the_same_network_in_its_own_memory(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def milliseconds(call: Any, batch: torch.Tensor) -> float:
        weight = next(call.parameters())
        seen.append((batch.stride(1), weight.stride(1), call(batch)))
        return 1.0

    monkeypatch.setattr(forms, "milliseconds", milliseconds)
    clocks = forms.torch_clocks(model, noise(), Form("eager"))
    assert [clocks[name]() for name in ("nchw", "channels_last")] == [1.0, 1.0]
    (plain, plain_weight, y), (last, last_weight, z) = seen
    assert (plain, last, plain_weight, last_weight) == (tiny.SIZE**2, 1, 9, 1)
    assert forms.apart(y, z) < 1e-5


def test_what_cannot_be_compiled_is_a_reason(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_model: nn.Module, **_: Any) -> Any:
        def call(_x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(Impossible, match=r"torch\.compile: no C\+\+ compiler"):
        forms.torch_clocks(model, noise(), Form("compiled"))


# ---- ONNX Runtime --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(model: nn.Module) -> bytes:
    """Exporting takes seconds."""
    return onnxtime._export(model, noise())


@pytest.mark.parametrize("wrong", [False, True])
def test_onnx_runtime_gives_torchs_outputs_or_is_not_timed(
    wrong: bool, exported: bytes, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxtime, "_export", lambda *_: exported)
    if wrong:
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(other.parameters()).mul_(1.1)
        with pytest.raises(Impossible, match="output differs from torch's by"):
            onnxtime.exported(other, noise(), threads=1)
        return
    found = onnxtime.exported(model, noise(), threads=1)
    assert 0 < found.difference < 1e-4  # another program, not torch itself
    assert found.clock() > 0


def test_what_cannot_be_exported_is_a_reason() -> None:
    with pytest.raises(Impossible, match="export to ONNX: "):
        onnxtime.exported(nn.Linear(3, 4), noise(), threads=1)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hidden = {"onnxruntime", "onnxscript"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else found(name)
    )
    with pytest.raises(BadInput, match=r"--onnx needs onnxruntime, onnxscript: pip install"):
        onnxtime.check_installed()


# ---- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("timed") / "results"
    record = go(make_spec(), root)
    return kept.read_finished(find_run(record.run_id, root), root)


def settings(*runtimes: str, batches: tuple[int, ...] = (1, 2)) -> Settings:
    chosen = tuple(Form(r.removesuffix("+"), folded=r.endswith("+")) for r in runtimes)
    return Settings(batches, chosen, CPU, threads=1, seconds=0.0)


def test_the_floor_is_the_dense_network_at_its_smallest_widths(run: Finished) -> None:
    nets = speed.networks_of(run)
    assert nets.are_trained
    assert nets.floor is not None
    example = torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)
    for name in ("dense", "pruned", "floor"):
        assert flops.cost(getattr(nets, name), example).macs == nets.macs[name]
    assert nets.macs["floor"] < nets.macs["pruned"] < nets.macs["dense"]
    assert 1 - nets.macs["floor"] / nets.macs["dense"] == pytest.approx(
        run.record.largest_reduction
    )


def test_facts_of_a_run(run: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times by what is timed, not by a clock: dense 4 ms or 5, pruned 3 or 2, at its floor 1."""
    nets = speed.networks_of(run)
    sizes = {flops_of(nets.dense): (4.0, 5.0), flops_of(nets.pruned): (3.0, 2.0)}

    def milliseconds(call: Any, batch: torch.Tensor) -> float:
        layout = int(batch.stride(1) == 1)
        return sizes.get(flops_of(call), (1.0, 1.0))[layout]

    monkeypatch.setattr(forms, "milliseconds", milliseconds)
    said: list[str] = []
    facts = speed.measure(run, nets, settings("eager"), said.append)
    assert said == ["  batch 1, eager", "  batch 2, eager"]
    form = facts["batches"]["1"]["eager"]
    assert (form["dense"]["best_layout"], form["dense"]["ms"]) == ("nchw", 4.0)
    assert (form["pruned"]["best_layout"], form["pruned"]["ms"]) == ("channels_last", 2.0)
    assert form["dense"]["layouts"]["channels_last"]["ms"] == 5.0
    assert form["ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0, "rounds": turns.LEAST}
    cut = nets.macs["floor"] / nets.macs["dense"]
    assert form["overhead"]["share"] == pytest.approx(1 - 0.75 / (1 - cut), abs=1e-3)
    assert facts["ideal_ratio"] == pytest.approx(nets.macs["dense"] / nets.macs["pruned"], abs=1e-4)
    assert facts["weights"] == "trained"
    assert {"onnxruntime", "torch"} <= facts["packages"].keys()
    assert facts["hardware"]
    assert (facts["device"], facts["threads"]) == ("cpu", 1)


def flops_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_onnx_and_folded_forms_and_what_is_printed(
    run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = onnxtime.Exported(lambda: 123.456, 1e-6)
    monkeypatch.setattr(onnxtime, "exported", lambda *_: made)
    facts = speed.measure(
        run, speed.networks_of(run), settings("eager+", "onnx", batches=(8,)), lambda _: None
    )
    folded, onnx = (facts["batches"]["8"][label] for label in ("eager, BN folded", "onnx"))
    assert onnx["difference"] == dict.fromkeys(("dense", "pruned", "floor"), 1e-6)
    assert "best_layout" not in onnx["dense"]
    assert onnx["overhead"]["is_hopeless"]  # the same time at all widths
    assert folded["dense"]["best_layout"] in forms.LAYOUTS
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(speed.table(facts))
    text = screen.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "eager, BN folded" in text
    assert "x1.00 (1.00-1.00) x1.00" in " ".join(text.split())  # other rows decide on widths
    assert any(line.startswith("ideal        x") for line in speed.remarks(facts))


@pytest.mark.slow
def test_a_run_in_onnx_runtime(run: Finished) -> None:
    nets = speed.networks_of(run)
    facts = speed.measure(run, nets, settings("onnx", batches=(1,)), lambda _: None)
    form = facts["batches"]["1"]["onnx"]
    assert set(form["difference"]) == {"dense", "pruned", "floor"}
    assert max(form["difference"].values()) < forms.TOLERANCE
    assert form["overhead"]["by"] == "floor"


def test_lost_weights_are_replaced_by_random_ones_of_the_same_shapes(
    run: Finished, tmp_path: Path
) -> None:
    nets = speed.networks_of(run, tmp_path / "nothing")
    assert not nets.are_trained
    assert flops_of(nets.pruned) == run.record.pruned.params
    assert flops_of(nets.dense) == run.record.dense.cost.params


def facts_with(share: float, **more: Any) -> dict[str, Any]:
    judged = turns.Verdict(share, 1.02, "floor").as_facts()
    form = {"overhead": judged, "ratio": {}}
    return {
        "batches": {"1": {"eager": form}, "32": {"eager": form}}, "ideal_ratio": 2.0,
        "alignment": {"groups": 0, "multiples": {}}, "load": [0.1, 0.2], "cores": 2,
        "weights": "trained",
    } | more  # fmt: skip


def test_a_line_says_where_no_speed_up_can_be_expected() -> None:
    (_, line) = speed.remarks(facts_with(0.96))
    assert line.startswith(
        "warning: eager: no speed-up can be expected at batch 1 and 32: 96 % and 96 % of the dense"
    )
    (_, line) = speed.remarks(facts_with(0.6))
    assert "bound by overhead at batch 1 and 32: 60 %" in line
    assert len(speed.remarks(facts_with(0.4))) == 1


def test_what_else_must_be_said_is_said() -> None:
    facts = facts_with(0.1, load=[0.5, 7.0], weights="random")
    facts["batches"]["32"]["eager"] = {"impossible": "no memory for a batch of 32"}
    said = speed.remarks(facts)
    assert "not timed    batch 32, eager: no memory for a batch of 32" in said
    assert any("the machine was busy (load 7.0 on 2 cores)" in line for line in said)
    assert any("random ones of the same shapes" in line for line in said)


@pytest.mark.slow
def test_a_compiled_network_is_timed(run: Finished) -> None:
    nets = dataclasses.replace(speed.networks_of(run), floor=None)
    facts = speed.measure(run, nets, settings("compiled", batches=(1,)), lambda _: None)
    form = facts["batches"]["1"]["compiled"]
    assert form["ratio"]["rounds"] >= turns.LEAST
    assert form["overhead"] is None  # one batch, and nothing can be removed
