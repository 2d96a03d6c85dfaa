"""How long an epoch takes here: bytes counted by hand, sections of the page, and the command."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

from benchmark import archs, environment, hardware, pace, traffic
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.errors import BadInput
from benchmark.hardwarepage import (
    COLUMNS,
    INTRO,
    Machine,
    Row,
    cells,
    page,
    read_sections,
    section,
)
from benchmark.pace import Setting
from benchmark.traffic import Traffic
from methods.api import Unsupported

CPU = torch.device("cpu")
BATCH, SIDE = 2, 8


# ---- bytes ---------------------------------------------------------------------------------------


class TwoLayers(nn.Module):
    """A convolution 3 -> 4, then a linear layer of 5 outputs on the flattened 4 x 8 x 8 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Identity()
        self.fc = nn.Linear(4 * SIDE * SIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.relu(self.conv(x))).flatten(1))


INPUT, MAPS, OUTPUT = BATCH * 3 * SIDE**2, BATCH * 4 * SIDE**2, BATCH * 5  # numbers
KERNELS, MATRIX = 4 * 3 * 3 * 3, 5 * 4 * SIDE**2 + 5


def test_the_floor_is_four_passes_over_the_outputs_of_layers() -> None:
    found = traffic.traffic(TwoLayers(), BATCH, SIDE, "fp32")
    assert found.floor == 4 * 4 * (MAPS + OUTPUT) == 8352


def test_eager_reads_and_writes_in_every_operation_and_thrice_with_backward() -> None:
    conv, relu, fc = INPUT + KERNELS + MAPS, 2 * MAPS, MAPS + MATRIX + OUTPUT
    found = traffic.traffic(TwoLayers(), BATCH, SIDE, "fp32")
    assert found.eager == 3 * 4 * (conv + relu + fc) == 46020  # the flattened view moves nothing


def test_half_as_long_numbers_are_half_the_bytes() -> None:
    full, half = (traffic.traffic(TwoLayers(), BATCH, SIDE, p) for p in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert (half.floor, half.eager) == (full.floor // 2, full.eager // 2)


def test_an_addition_reads_both_sides_and_a_shortcut_is_no_layer() -> None:
    """A stage-one block of width 16 on 8 x 8 maps: conv, norm, relu, conv, norm, add, relu."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1, bias=False)
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.norm(x) + x

    maps, image = BATCH * 16 * SIDE**2, BATCH * 3 * SIDE**2
    found = traffic.traffic(Block(), BATCH, SIDE, "fp32")
    moved = (image + 48 + maps) + (2 * maps + 32) + 3 * maps  # stem, norm, addition
    assert found == Traffic(4 * 4 * maps, 3 * 4 * moved)


def test_counting_leaves_the_network_alone() -> None:
    model = tiny.model()
    before = copy.deepcopy(model.state_dict())
    traffic.traffic(model, BATCH, tiny.SIZE, "fp32")
    assert tiny.same(before, model.state_dict())


def test_the_networks_of_papers_move_what_their_maps_hold() -> None:
    """The outputs of ResNet-110's convolutions are 2^20 numbers an image, and 10 classes."""
    found = traffic.traffic(archs.find("resnet110").build(10), 4, 32, "bf16")
    assert found.floor == 4 * 2 * 4 * (2**20 + 10)


def test_a_network_for_other_images_is_refused() -> None:
    with pytest.raises(Unsupported, match="fails at module fc"):
        traffic.traffic(TwoLayers(), BATCH, 2 * SIDE, "fp32")


# ---- pace ----------------------------------------------------------------------------------------


def test_the_suites_own_loop_makes_the_steps() -> None:
    setting = Setting("fp32", False, 4, 3, tiny.SIZE, tiny.CLASSES, CPU)
    seen: list[tuple[str, int, int]] = []
    trainer, recipe = pace.random_trainer(setting, lambda *told: seen.append(told))
    model = tiny.model()
    before = tiny.state_of(model)
    trainer.run_phase(model, recipe, "timing", charged=False)
    whole = (pace.WARM_UP + 3) * 4
    assert seen == [("timing", done, whole) for done in range(4, whole + 1, 4)]
    assert not tiny.same(before, model.state_dict())
    assert [entry.kind for entry in trainer.ledger.entries] == ["free"]


@pytest.mark.parametrize("steps", [1, 3])
def test_only_steps_after_the_warm_up_are_timed(steps: int) -> None:
    setting = Setting("fp32", False, 4, steps, tiny.SIZE, tiny.CLASSES, CPU)
    times = pace.step_times(tiny.model(), setting)
    assert len(times) == steps
    assert all(seconds > 0 for seconds in times)


# ---- the page ------------------------------------------------------------------------------------

MACHINE = Machine("Chip", "cpu", "2.0", 2, copy=1e9, matmul={"fp32": 1e12}, load=(0.5, 1.0))
ROW = Row("net", "fp32", False, 100, 1050, step=0.5, traffic=Traffic(10**8, 10**9), macs=25 * 10**8)


def table_of(body: str) -> list[dict[str, str]]:
    """Rows of the table of a section."""
    lines = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_the_figures_of_a_row() -> None:
    """A step of 100 images takes half a second; its bytes alone 0.1 and 1 s, its arithmetic 3 x 2 x
    2.5e9 x 100 = 1.5e12 operations, 1.5 s; an epoch of 1,050 images is 10.5 steps."""
    found = dict(zip(COLUMNS, cells(ROW, MACHINE), strict=True))
    assert found == {
        "network": "net", "precision": "fp32", "mode": "eager", "batch": "100",
        "step (ms)": "500.00", "images/s": "200", "epoch (s)": "5.25",
        "floor (GB)": "1.1", "of floor": "20.0 %", "eager (GB)": "10.5", "of eager": "200.0 %",
        "MACs (T)": "7.88", "of matmul": "300.0 %",
    }  # fmt: skip


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "hardware.md"
    assert read_sections(path) == {}
    old, other, new = (section(MACHINE, [ROW], word) for word in ("old", "other", "new"))
    path.write_text(page({"Chip": old, "GPU #2": other}))
    whole = read_sections(path)
    assert whole == {"Chip": old, "GPU #2": other}
    path.write_text(page(whole | {"Chip": new}))
    assert read_sections(path) == {"Chip": new, "GPU #2": other}
    assert path.read_text() == page(read_sections(path))
    assert path.read_text().startswith(INTRO)


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "hardware.md"
    path.write_bytes(b"# Our computers\n\n## Chip\n\xff")
    with pytest.raises(BadInput, match="not a page of this command"):
        read_sections(path)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small copies and products, and the setting of determinism as it was."""
    monkeypatch.setattr(pace, "COPIED", {"cpu": 1 << 16})
    monkeypatch.setattr(pace, "SIDE", {"cpu": 32})
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def go(tmp_path: Path, words: str) -> int:
    brief = ["--steps", "2", "--batch-size", "4", "--images", "100", "--device", "cpu"]
    return invoke(hardware.main, [*brief, *words.split(), "--results", str(tmp_path / "r")])


@pytest.mark.usefixtures("small")
def test_the_command_writes_a_row_per_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r" / "hardware.md"
    assert go(tmp_path, "--arch resnet8,resnet20") == DONE
    (name,), (body,) = zip(*read_sections(path).items(), strict=True)
    assert name == environment.describe()["cpu"]
    rows = table_of(body)
    assert [row["network"] for row in rows] == ["resnet8", "resnet20"]
    assert {row["batch"] for row in rows} == {"4"}
    # 25 steps of 4 images; the outputs of the convolutions of ResNet-20 are 188,416 numbers
    assert rows[1]["floor (GB)"] == f"{100 * 4 * 4 * (188_416 + 10) / 1e9:.1f}" == "0.3"
    assert rows[1]["MACs (T)"] == f"{3 * 100 * 40_551_040 / 1e12:.2f}" == "0.01"
    assert "python -m benchmark.hardware --arch resnet8,resnet20 --precision fp32" in body

    monkeypatch.setattr(hardware, "machine_name", lambda device: "another machine")
    assert go(tmp_path, "--arch resnet8") == DONE
    both = read_sections(path)
    assert both[name] == body
    assert [row["network"] for row in table_of(both["another machine"])] == ["resnet8"]
    assert "--steps 2 --device cpu --threads 1" in both["another machine"]


@pytest.mark.usefixtures("small")
def test_each_precision_is_a_row_with_its_own_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "precision_of", lambda options: "bf16")
    assert go(tmp_path, "--arch resnet8 --precision fp32,bf16 --images 1000000") == DONE
    (body,) = read_sections(tmp_path / "r" / "hardware.md").values()
    full, half = table_of(body)
    assert (full["precision"], half["precision"]) == ("fp32", "bf16")
    # the outputs of the convolutions of ResNet-8 are 3 x 16384 + 2 x 8192 + 2 x 4096 numbers
    floor = 1e6 * 4 * (73_728 + 10) / 1e9
    assert full["floor (GB)"] == f"{4 * floor:,.1f}" == "1,179.8"
    assert half["floor (GB)"] == f"{2 * floor:,.1f}" == "589.9"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--arch resnet8x", "unknown architecture 'resnet8x'; did you mean resnet8"),
        ("--arch ,", "--arch: nothing is named"),
        ("--arch resnet8 --precision fp16", "--precision fp16: give fp32 or bf16"),
        ("--arch resnet8 --steps 0", "Invalid value for '--steps'"),
        ("--arch resnet8 --batch-size 1", "Invalid value for '--batch-size'"),
        ("--arch resnet8 --device tpu", "--device: "),
    ],
)
def test_bad_input_ends_in_one_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go(tmp_path, words) == BAD_INPUT
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r" / "hardware.md").exists()


def test_a_precision_that_the_device_does_not_compute_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "precision_of", lambda options: "fp32")
    assert go(tmp_path, "--arch resnet8 --precision fp32,bf16") == BAD_INPUT
    assert "does not compute in bfloat16" in capsys.readouterr().err


def test_a_network_that_cannot_be_compiled_or_does_not_fit_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        def broken(*_: object) -> None:
            raise error

        monkeypatch.setattr(pace, "step_times", broken)

    eager, compiled = (Setting("fp32", mode, 4, 1, 8, 4, CPU) for mode in (False, True))
    fail(torch.OutOfMemoryError("much\ntext"))
    with pytest.raises(BadInput, match="no memory for a batch of 4 of net"):
        hardware._timed("net", nn.Identity(), eager)
    fail(RuntimeError("no compiler\nhere"))
    with pytest.raises(BadInput, match="--compile: net: no compiler here"):
        hardware._timed("net", nn.Identity(), compiled)
    with pytest.raises(RuntimeError, match="no compiler"):
        hardware._timed("net", nn.Identity(), eager)


def test_modes_precisions_and_files_of_ones_own_are_in_the_command(tmp_path: Path) -> None:
    own = tmp_path / "mynet.py"
    own.write_text("from torch import nn\n\n\ndef build(classes):\n    return nn.Flatten()\n")
    request = hardware.request_of(f"resnet8,{own}:build", "fp32", True, 128, 50_000, 30, "cpu", 2)
    assert request.modes == (False, True)
    assert hardware.command_of(request) == (
        "python -m benchmark.hardware --arch resnet8,mynet.py:build --precision fp32 --compile "
        "--batch-size 128 --images 50000 --steps 30 --device cpu --threads 2"
    )
