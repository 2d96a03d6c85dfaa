"""Networks of torchvision and timm: what may go, surgery and cost to the bit, folding, refusals."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from random_nets import images, random_plan, relative, units_of
from test_execute import make_spec
from torch import Tensor, nn

from benchmark import archs, flops, zoo
from benchmark.context import Context
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.evaluation import evaluate
from benchmark.execute import run_one
from benchmark.images import BatchSource
from benchmark.load import load_pruned
from benchmark.matrix import synthetic
from benchmark.network import Network, Scope
from benchmark.randomise import randomise
from benchmark.sites import direct_readers
from benchmark.spec import Recipe
from benchmark.store import Store
from methods import find
from methods.api import Plan, Site, Unsupported

SIZE = 64
EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)

# groups that one layer writes, groups of several layers, groups that stay
GROUPS = {
    "torchvision/resnet18": (8, 4, 0),
    "torchvision/resnet34": (16, 4, 0),
    "torchvision/resnet50": (33, 4, 0),
    "torchvision/mobilenet_v2": (20, 5, 0),
    "torchvision/vgg16_bn": (13, 0, 2),  # hidden layers of the classifier
    "torchvision/densenet121": (120, 0, 0),
    "torchvision/googlenet": (57, 0, 0),
    "timm/resnet50": (33, 4, 0),
    "timm/resnetv2_50": (33, 4, 0),
    "timm/mobilenetv2_100": (20, 5, 0),
    "timm/efficientnet_b0": (19, 5, 16),  # squeeze-and-excitation
    "timm/regnety_004": (33, 4, 16),
    "timm/regnetx_004": (45, 4, 0),
    "timm/convnext_tiny": (18, 0, 0),  # the MLPs alone
}
QUICK = ("timm/mobilenetv2_100",)
EVERY = [
    pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in (*GROUPS,)
]  # fmt: skip


def zoo_network(label: str, scope: Scope = "all", seed: int = 0) -> Network:
    model = randomise(archs.build(label, 10), seed)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # train mode is compared too
    return Network(model.eval(), EXAMPLE, scope).eval()


class PerChannel(nn.Module):
    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor[:, None, None])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("label", EVERY)
def test_network(label: str) -> None:
    """One build serves all checks: the larger of these take seconds to build."""
    net = zoo_network(label)
    kinds = [c.kind for c in net.candidates]
    assert tuple(kinds.count(k) for k in ("inner", "coupled", "fixed")) == GROUPS[label]
    check_cost(net)
    check_twin(net)
    with torch.no_grad():
        check_folding(net)


def check_cost(net: Network) -> None:
    assert net.macs() == flops.cost(net.dense(), EXAMPLE).macs
    plan = random_plan(net, 1)
    assert net.macs(plan.widths()) == flops.cost(net.remove(plan), EXAMPLE).macs < net.macs()


def check_twin(net: Network) -> None:
    x, plan = images(4, size=SIZE), random_plan(net, 3)
    removed, dense = net.remove(plan), net(x)
    with torch.no_grad(), net.gated(net.masks(plan), "in"):
        assert relative(removed(x), dense) > 0.1
        assert relative(net(x), removed(x)) <= 1e-5
        twin, small = copy.deepcopy(net).train(), copy.deepcopy(removed).train()
        assert relative(twin(x), small(x)) <= 1e-4


def check_folding(net: Network) -> None:
    """Gates of a constant at the last site of a layer's own equal scaled weights. In float64: the
    random weights of some of these networks blow rounding up."""
    net.double()
    layers = [c.group.layers[0] for c in net.candidates if c.kind == "inner"]
    draw, x = random.Random(0), images(2, size=SIZE).double()
    for layer in draw.sample(layers, 4):
        own = net.map.writes[layer] - net.map.first[net.group_of(layer).name]
        factor = (0.5 + torch.rand(net.group_of(layer).width).double())[own]
        site, before = last_site(net, layer), net(x)
        with net.gated({layer: PerChannel(factor)}, site):
            expected = net(x)
        fold = net.scale_writer if site == "conv" else net.scale_readers
        fold(layer, factor)
        assert relative(net(x), expected) <= 1e-10
        assert relative(expected, before) > 1e-4
        fold(layer, 1 / factor)


def last_site(net: Network, layer: str) -> Site:
    sites: tuple[Site, ...] = ("act", "norm", "conv")
    return next(s for s in sites if net.has_site(layer, s))


def test_depthwise_filters_are_the_direct_readers() -> None:
    net = zoo_network("timm/mobilenetv2_100")
    assert net.group_of("blocks.1.0.conv_pw").readers == ("blocks.1.0.conv_pwl",)
    assert direct_readers(net.traced, "blocks.1.0.conv_pw") == ["blocks.1.0.conv_dw"]


def test_grouped_convolutions_lose_the_same_offsets_of_every_group() -> None:
    net = zoo_network("timm/regnetx_004")
    group = next(g for g in net.groups if net.module(g.readers[0]).groups > 1)
    reader = net.module(group.readers[0])
    keep = units_of(group.width, group.width // 2, random.Random(0))
    smaller = net.remove(Plan({group.name: keep})).get_submodule(group.readers[0])
    assert reader.in_channels // reader.groups == group.width
    assert smaller.groups == reader.groups
    assert torch.equal(smaller.weight, reader.weight[:, list(keep)])


def test_layers_on_maps_look_like_1x1_convolutions() -> None:
    net = zoo_network("timm/convnext_tiny")
    layer = net.layers[0]
    module = net.module(layer)
    assert isinstance(module, nn.Linear)
    assert net.weight(layer).shape == (*module.weight.shape, 1, 1)
    with torch.no_grad(), net.tapped("act") as maps:
        net(images(2, size=SIZE))
    assert maps[layer].shape == (2, module.out_features, SIZE // 4, SIZE // 4)
    with torch.no_grad():
        net.weight(layer)[0] = 7.0
    assert bool((module.weight[0] == 7).all())


def test_frozen_parameters_stay_frozen_and_hide_nothing() -> None:
    model = archs.build("torchvision/resnet18", 10)
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    net = Network(model, EXAMPLE, "all")
    assert len(net.groups) == 12
    removed = net.remove(random_plan(net))
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in removed.named_parameters()} == flags


REFUSED = {
    "torchvision/vit_b_16": "encoder_layer_0.self_attention",
    "torchvision/shufflenet_v2_x1_0": "transpose in module stage2.0",
    "timm/res2net50_26w_4s": "getitem in module layer1.0",
}


@pytest.mark.parametrize("label", REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_module(label: str) -> None:
    with pytest.raises(Unsupported, match=REFUSED[label]):
        Network(archs.build(label, 10), EXAMPLE)


def test_functional_dropout_is_refused() -> None:
    import timm

    model = timm.create_model("efficientnet_b0", drop_rate=0.2, num_classes=10)
    with pytest.raises(Unsupported, match=r"self\.training"):
        Network(model, EXAMPLE)


def test_an_image_that_does_not_fit_is_refused_with_the_module() -> None:
    with pytest.raises(Unsupported, match=r"Mixed_7a\.branch3x3_2\.conv: .*[Kk]ernel size"):
        Network(archs.build("torchvision/inception_v3", 10), EXAMPLE)


def test_names() -> None:
    with pytest.raises(BadInput, match=r"no classification network 'resnet51'; .*timm/resnet5\d"):
        archs.find("timm/resnet51")
    found = archs.find("timm/resnet18")
    assert (found.name, found.image_size) == ("timm-resnet18", 224)
    again = archs.build_again(archs.identity_of("timm/resnet18", 7), 7)
    assert again.get_submodule("fc").out_features == 7
    assert zoo.split("resnet20") is None


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **__: object) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BadInput, match=r"timm/resnet18 .*\(OSError: no network\): .*--checkpoint"):
        zoo.pretrained("timm", "resnet18")


@pytest.mark.slow
@pytest.mark.parametrize("label", GROUPS)
def test_a_whole_run(label: str, tmp_path: Path) -> None:
    """Dense training, pruning, recovery and record, at 32 x 32, where the largest take seconds."""
    identity, train, val = synthetic(32)
    data = Data(identity, tuple("abcdefghij"), train, val, val)
    short = Recipe(epochs=1, lr=0.01, batch_size=16)
    spec = make_spec(
        arch=archs.identity_of(label, identity.num_classes), data=identity, flops_reduction=0.3,
        budget_epochs=1, recovery=short, baseline=short,
    )  # fmt: skip
    run_one(spec, find("l1norm"), Context(Store(tmp_path), data))
    record = Store(tmp_path).read(spec)
    assert abs(record.flops_reduction - 0.3) <= 0.005
    assert record.pruned.macs < record.dense.cost.macs
    network = load_pruned(record.run_id, tmp_path)
    assert flops.cost(network, torch.zeros(1, 3, 32, 32)) == record.pruned
    found = evaluate(network, BatchSource(val, identity))
    assert found.top1 == record.final.test_top1
