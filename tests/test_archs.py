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
from torch import Tensor
from torch.nn import functional as F

from benchmark import flops
from benchmark.archs import ARCHS, build, structure_hash
from benchmark.cifar_resnet import CifarResNet, Shortcut
from benchmark.cifar_vgg import CifarVgg
from benchmark.errors import BadInput
from benchmark.weights import load_weights, read_checkpoint

State = dict[str, Tensor]

# macs (conv + linear), macs_paper (conv + 2 x linear), fvcore's total, params, params_paper (no BN)
DENSE = {
    "resnet20": (40_551_040, 40_551_680, 40_931_968, 269_722, 268_346),
    "resnet32": (68_862_592, 68_863_232, 69_472_896, 464_154, 461_882),
    "resnet44": (97_174_144, 97_174_784, 98_013_824, 658_586, 655_418),
    "resnet56": (125_485_696, 125_486_336, 126_554_752, 853_018, 848_954),
    "resnet110": (252_887_680, 252_888_320, 254_988_928, 1_727_962, 1_719_866),
    "resnet20b": (40_813_184, 40_813_824, 41_218_688, 272_474, 270_906),
    "resnet32b": (69_124_736, 69_125_376, 69_759_616, 466_906, 464_442),
    "resnet44b": (97_436_288, 97_436_928, 98_300_544, 661_338, 657_978),
    "resnet56b": (125_747_840, 125_748_480, 126_841_472, 855_770, 851_514),
    "resnet110b": (253_149_824, 253_150_464, 255_275_648, 1_730_714, 1_722_426),
    "vgg16": (313_463_808, 313_731_072, 314_019_840, 14_991_946, 14_982_474),
    "vgg16-linear": (313_201_664, 313_206_784, 313_756_672, 14_728_266, 14_719_818),
    "vgg19": (398_136_320, 398_141_440, 398_744_576, 20_035_018, 20_024_010),
    "googlenet": (1_521_756_160, 1_521_766_400, 1_526_865_920, 6_166_250, 6_150_442),
    "densenet40": (282_917_328, 282_921_888, 287_709_648, 1_059_298, 1_040_578),
    "mobilenetv2": (91_154_944, 91_167_744, 94_625_280, 2_296_922, 2_261_834),
    "mobilenetv2-identity": (89_025_024, 89_037_824, 92_390_912, 2_237_770, 2_203_594),
    "mobilenetv2-torchvision": (87_976_448, 87_989_248, 91_276_800, 2_236_682, 2_202_570),
    "resnet18-cifar": (555_422_720, 555_427_840, 556_659_712, 11_173_962, 11_164_362),
    "resnet50-cifar": (1_297_829_888, 1_297_850_368, 1_304_727_552, 23_520_842, 23_467_722),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_cost_in_all_conventions(name: str) -> None:
    found = flops.cost(build(name, 10), EXAMPLE)  # raises if torch's counter disagrees
    total = sum(found.operators.values())
    assert (found.macs, found.macs_paper, total, found.params, found.params_paper) == DENSE[name]


def test_every_architecture_has_its_cost_here() -> None:
    assert DENSE.keys() == ARCHS.keys() - {"resnet8"}


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnet_cost_in_closed_form(depth: int) -> None:
    n = (depth - 2) // 6
    kernels = [(1024, 3 * 16 + 2 * n * 16 * 16)]
    kernels += [(256, 16 * 32 + (2 * n - 1) * 32 * 32), (64, 32 * 64 + (2 * n - 1) * 64 * 64)]
    padded = sum(9 * positions * size for positions, size in kernels) + 640
    assert padded == DENSE[f"resnet{depth}"][0]
    projections = 256 * 16 * 32 + 64 * 32 * 64
    assert padded + projections == DENSE[f"resnet{depth}b"][0]


# Runs are told apart by these hashes: they never change.
STRUCTURES = {
    "resnet8": "5d0ed0a12e17", "resnet20": "504a44cdb6ac", "resnet32": "ff991a32c331",
    "resnet56": "2ac110f3c058", "resnet110": "983a0d4759cf", "vgg16": "f6e8a86faf60",
    "resnet20b": "be1b885e51b0", "vgg16-linear": "e8f4e668c147", "vgg19": "6be38d6ac52b",
    "googlenet": "4f1a0af74ddb", "densenet40": "ac1e2aaf4d58", "mobilenetv2": "a320aea0a9ec",
    "mobilenetv2-identity": "52b09bde25d2", "mobilenetv2-torchvision": "a4f85c01c405",
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_of_an_architecture_stays(name: str) -> None:
    assert structure_hash(build(name, 10)) == STRUCTURES[name]


def test_structure_hash_ignores_weights_and_mode() -> None:
    for name in ("resnet8", "resnet20", "vgg16"):
        assert structure_hash(build(name, 10)) == structure_hash(build(name, 10).eval())


def test_structure_hash_tells_structures_apart() -> None:
    projection = CifarResNet(8, 10, option="B")
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
    with pytest.raises(BadInput, match=r"did you mean vgg19, vgg16, vgg16-linear\?"):
        build("vgg17", 10)
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
