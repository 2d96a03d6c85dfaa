"""Architectures have the published cost, and checkpoints are read without trusting them."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_nets import EXAMPLE, images
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import flops
from benchmark.archs import ARCHS, build, structure_hash
from benchmark.cifar_resnet import BasicBlock, CifarResNet, Shortcut
from benchmark.cifar_vgg import CifarVgg
from benchmark.errors import BadInput
from benchmark.weights import load_weights, read_checkpoint

State = dict[str, Tensor]

# macs (conv + linear), macs_paper (conv + 2 x linear), params, params_paper (no BN affine)
DENSE = {
    "resnet20": (40_551_040, 40_551_680, 269_722, 268_346),
    "resnet32": (68_862_592, 68_863_232, 464_154, 461_882),
    "resnet56": (125_485_696, 125_486_336, 853_018, 848_954),
    "resnet110": (252_887_680, 252_888_320, 1_727_962, 1_719_866),
    "vgg16": (313_463_808, 313_731_072, 14_991_946, 14_982_474),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_cost_in_both_conventions(name: str) -> None:
    found = flops.cost(build(name, 10), EXAMPLE)
    assert (found.macs, found.macs_paper, found.params, found.params_paper) == DENSE[name]


@pytest.mark.parametrize("name", [n for n, a in ARCHS.items() if a.published_macs])
def test_dense_cost_is_the_published_one(name: str) -> None:
    arch = ARCHS[name]
    assert arch.published_macs is not None
    assert arch.published_params is not None
    _, macs, _, params = DENSE[name]
    assert round(macs / 1e6, 2) == pytest.approx(arch.published_macs / 1e6)
    assert params / 1e6 == pytest.approx(arch.published_params / 1e6, abs=0.01)


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_resnet_cost_in_closed_form(depth: int) -> None:
    n = (depth - 2) // 6
    kernels = [(1024, 3 * 16 + 2 * n * 16 * 16)]
    kernels += [(256, 16 * 32 + (2 * n - 1) * 32 * 32), (64, 32 * 64 + (2 * n - 1) * 64 * 64)]
    assert (
        sum(9 * positions * size for positions, size in kernels) + 640 == DENSE[f"resnet{depth}"][0]
    )


def test_structure_hash_ignores_weights_and_mode() -> None:
    for name in ("resnet8", "resnet20", "vgg16"):
        assert structure_hash(build(name, 10)) == structure_hash(build(name, 10).eval())


def test_structure_hash_tells_structures_apart() -> None:
    projection = CifarResNet(8, 10)
    for stage, width in ((projection.layer2, 16), (projection.layer3, 32)):
        block = stage[0]
        assert isinstance(block, BasicBlock)
        block.shortcut = nn.Sequential(  # option B
            nn.Conv2d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm2d(2 * width)
        )
    wider_stride = CifarResNet(8, 10)
    wider_stride.conv1.stride = (2, 2)
    other_epsilon = CifarResNet(8, 10)
    other_epsilon.bn1.eps = 1e-3
    moved = CifarResNet(8, 10)
    shortcut = moved.layer2[0].shortcut
    assert isinstance(shortcut, Shortcut)
    shortcut.source = shortcut.source.roll(1)
    different = [
        CifarResNet(8, 10), CifarResNet(14, 10), CifarResNet(8, 100), CifarResNet(8, 10, width=8),
        projection, wider_stride, other_epsilon, moved, CifarVgg(10), CifarVgg(10, (8, 0, 16)),
    ]  # fmt: skip
    assert len({structure_hash(m) for m in different}) == len(different)


@pytest.mark.parametrize(("width_in", "width_out"), [(16, 32), (32, 64), (8, 8), (3, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_shortcut_is_zero_padding(width_in: int, width_out: int, stride: int) -> None:
    x = torch.randn(2, width_in, 8, 8)
    low = (width_out - width_in) // 2
    padding = (0, 0, 0, 0, low, width_out - width_in - low)
    expected = F.pad(x[:, :, ::stride, ::stride], padding)
    shortcut = Shortcut(width_in, width_out, stride)
    assert torch.equal(shortcut(x), expected)
    assert not shortcut.state_dict()  # checkpoints of padding networks have no such entry


def test_sliced_shortcut_reads_zero_where_the_input_is_gone() -> None:
    x = torch.randn(2, 4, 6, 6)
    shortcut = Shortcut(4, 8, 2)  # outputs 2..5 are inputs 0..3
    whole = shortcut(x)
    shortcut.slice(torch.tensor([1, 3]), torch.tensor([0, 2, 3, 5]))
    expected = whole[:, [0, 2, 3, 5]].clone()
    expected[:, 1] = 0  # output 2 was input 0
    assert torch.equal(shortcut(x[:, [1, 3]]), expected)


def test_depth_must_fit() -> None:
    with pytest.raises(ValueError, match="not 21"):
        CifarResNet(21, 10)


def test_unknown_name_gets_the_closest() -> None:
    with pytest.raises(BadInput, match=r"'resnet-56'; did you mean resnet56\b"):
        build("resnet-56", 10)
    with pytest.raises(BadInput, match=r"did you mean vgg16\?"):
        build("vgg19", 10)
    with pytest.raises(BadInput, match=r"unknown architecture 'qqq' \(known: resnet8, .*timm"):
        build("qqq", 10)


# ---- checkpoints ---------------------------------------------------------------------------------


def plain(state: State) -> Any:
    return state


def parallel(state: State) -> Any:
    return {"state_dict": {f"module.{k}": v for k, v in state.items()}, "best_prec1": 91.7}


def renamed_head(state: State) -> Any:
    return {k.replace("fc.", "linear."): v for k, v in state.items()}


def nested(state: State) -> Any:
    return {"model": {k.replace("fc.", "classifier."): v for k, v in state.items()}, "epoch": 3}


def without_counters(state: State) -> Any:
    return {"net": {k: v for k, v in state.items() if "num_batches" not in k}}


@pytest.mark.parametrize("form", [plain, parallel, renamed_head, nested, without_counters])
@pytest.mark.parametrize("arch", ["resnet8", "resnet20"])
def test_forms_of_checkpoint_are_read(
    form: Callable[[State], Any], arch: str, tmp_path: Path
) -> None:
    saved, loaded = build(arch, 10).eval(), build(arch, 10).eval()
    torch.save(form(saved.state_dict()), tmp_path / "weights.th")
    load_weights(loaded, read_checkpoint(tmp_path / "weights.th"), "weights.th")
    assert torch.equal(loaded(images(2)), saved(images(2)))


def test_head_of_vgg_is_not_mixed_up_with_its_hidden_layer(tmp_path: Path) -> None:
    saved, loaded = (CifarVgg(10, (8, 0, 8)).eval() for _ in range(2))
    torch.save(renamed_head(saved.state_dict()), tmp_path / "weights.th")
    load_weights(loaded, read_checkpoint(tmp_path / "weights.th"), "weights.th")
    assert torch.equal(loaded(images(2)), saved(images(2)))


def test_safetensors_are_read(tmp_path: Path) -> None:
    saved, loaded = build("resnet8", 10).eval(), build("resnet8", 10).eval()
    state = {f"module.{k}": v for k, v in saved.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(loaded, read_checkpoint(tmp_path / "w.safetensors"), "w.safetensors")
    assert torch.equal(loaded(images(2)), saved(images(2)))


def test_misfits_are_explained_by_name() -> None:
    model = build("resnet8", 10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = dict(model.state_dict())
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["fc.weight"] = torch.zeros(100, 64)
    with pytest.raises(BadInput) as refused:
        load_weights(model, state, "some.th")
    assert str(refused.value) == (
        "checkpoint some.th does not fit this architecture: missing: layer1.0.conv1.weight; "
        "not used: layer9.weight; wrong shape: fc.weight is (100, 64), needs (10, 64)"
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_long_lists_of_misfits_are_cut() -> None:
    with pytest.raises(BadInput, match=r"missing: [\w.]+, [\w.]+, [\w.]+ and \d+ more"):
        load_weights(build("resnet20", 10), dict(build("resnet8", 10).state_dict()), "r8.th")


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_checkpoint_is_executed(legacy: bool, tmp_path: Path) -> None:
    proof, file = tmp_path / "executed", tmp_path / "evil.th"
    content = {"state_dict": build("resnet8", 10).state_dict(), "extra": Touch(proof)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match=re.escape(str(file))):
        read_checkpoint(file)
    assert not proof.exists()
    torch.load(file, weights_only=False)
    assert proof.exists()  # the file was dangerous indeed


def test_bare_pickle_is_refused(tmp_path: Path) -> None:
    proof, file = tmp_path / "executed", tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(Touch(proof), protocol=2))
    with pytest.raises(BadInput, match="cannot be read as plain tensors"):
        read_checkpoint(file)
    assert not proof.exists()


def test_whole_models_are_refused(tmp_path: Path) -> None:
    torch.save(build("resnet8", 10), tmp_path / "model.th")
    with pytest.raises(BadInput, match="cannot be read as plain tensors"):
        read_checkpoint(tmp_path / "model.th")


@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_truncated_files_are_refused(suffix: str, share: float, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    state = dict(build("resnet8", 10).state_dict())
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadInput, match="cannot be read as plain tensors"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(1)], "holds a list, not named tensors"),
        ({"epoch": 3}, "holds no tensors"),
        (torch.zeros(3), "holds a Tensor, not named tensors"),
    ],
)
def test_other_contents_are_refused(content: Any, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.th")
    with pytest.raises(BadInput, match=reason):
        read_checkpoint(tmp_path / "weights.th")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.th does not exist"):
        read_checkpoint(tmp_path / "nowhere.th")


def test_published_resnet20_loads(shared_data: Path) -> None:
    file = shared_data / "cifar10-resnet20.th"
    tensors, model = read_checkpoint(file), build("resnet20", 10)
    load_weights(model, tensors, file.name)
    head = next(v for k, v in tensors.items() if k.endswith("weight") and v.shape == (10, 64))
    assert torch.equal(model.get_parameter("fc.weight"), head)
    assert torch.equal(model.get_parameter("conv1.weight"), tensors["conv1.weight"])
    with pytest.raises(BadInput, match="missing"):
        load_weights(build("resnet56", 10), tensors, file.name)
