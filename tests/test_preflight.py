"""What the report says before anything runs."""

from __future__ import annotations

import pytest
import torch
from random_nets import random_network

from benchmark import preflight
from benchmark.cli import invoke
from benchmark.network import Network
from methods.api import Plan


def test_shares_are_those_of_the_cost_model() -> None:
    net = random_network("resnet8")
    found = preflight.report(net, "resnet8", 0.1)
    assert sum(found.layers.values()) == pytest.approx(1)
    row = next(r for r in found.rows if r.candidate.group.layers == ("layer1.0.conv1",))
    # 16 of 16 channels, both convolutions 3x3 on 32 x 32: each has 16 * 16 * 9 * 1024 MACs
    own = 16 * 16 * 9 * 1024 / net.macs()
    assert found.layers["layer1.0.conv1"] == pytest.approx(own)
    assert row.touched == pytest.approx(2 * own)
    floor = 1  # a tenth of 16, rounded down
    assert row.removable == pytest.approx(2 * own * (1 - floor / 16))
    smaller = net.remove(Plan({row.candidate.group.name: (0,)}))
    assert Network(smaller, torch.zeros(1, 3, 32, 32)).macs() == pytest.approx(
        (1 - row.removable) * net.macs()
    )


def test_every_layer_is_accounted_for() -> None:
    """Each weighted layer writes a group, is left out with a reason, or is depthwise."""
    net = random_network("resnet8")
    found = preflight.report(net, "resnet8", 0.1)
    written = {n for r in found.rows for n in r.candidate.group.layers}
    assert written | set(found.left_out) == set(found.layers)


def test_streams_are_left_out_unless_asked_for() -> None:
    inner = preflight.report(random_network("resnet8"), "resnet8", 0.1)
    every = preflight.report(random_network("resnet8", "all"), "resnet8", 0.1)
    assert any("3 groups in residual streams" in line for line in preflight.summary(inner))
    assert not any("left out" in line for line in preflight.summary(every))
    assert every.largest > inner.largest
    assert any(
        "fc" in line and "output of the network" in line for line in preflight.summary(every)
    )


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(preflight.main, ["--arch", "resnet8", "--classes", "4"]) == 0
    said = capsys.readouterr().out
    assert "layer3.0.conv1" in said
    assert "fvcore and torch agree" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--arch", "resnet9"], "unknown architecture 'resnet9'"),
        (["--arch", "resnet8", "--scope", "outer"], "give inner or all"),
        (["--arch", "resnet8", "--min-width", "2"], "give a share between 0 and 1"),
        (["--arch", "torchvision/shufflenet_v2_x1_0", "--image-size", "64"], "transpose in module"),
        (["--arch", "resnet8", "--checkpoint", "none.th"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(preflight.main, words) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
