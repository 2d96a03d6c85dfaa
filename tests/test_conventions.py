"""A printed figure is explained by a rule only where the rule gives its digits."""

import pytest
import torch
from torch import Tensor, nn

from benchmark import conventions
from benchmark.conventions import Tally, count, fitting, last_digit, nearest, shown


class Counted(nn.Module):
    """All that the rules tell apart, in numbers that are easy to count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, padding=1, bias=False)  # 16 x 4 x 27 = 1728
        self.biased = nn.Conv2d(4, 5, 1)  # 16 x 5 x 4 = 320, 80 biased values
        self.norm = nn.BatchNorm2d(5)  # 80 values
        self.pool = nn.AdaptiveAvgPool2d(1)  # reads 80 values
        self.fc = nn.Linear(5, 7)  # 35

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.norm(self.biased(self.plain(x)))).flatten(1))


def test_rules_count_what_they_say() -> None:
    model = Counted()
    found = count(model, 4)
    assert found.macs == {
        "conv + 2 linear": 2048 + 70,
        "conv + linear": 2048 + 35,
        "conv + linear + 2 norm": 2048 + 35 + 160,
        "fvcore": 2048 + 35 + 160 + 80,
        "conv + bias + linear": 2048 + 80 + 35,
        "conv + bias + 2 linear + 2 norm": 2048 + 80 + 70 + 160,
        "conv + bias + 2 linear + 2 norm + pool": 2048 + 80 + 70 + 160 + 80,
        "conv + linear + 4 norm": 2048 + 35 + 320,
    }
    assert found.params == {"no norm": 175, "all": 185, "weights": 163}
    assert found.macs["conv + linear"] == found.cost.macs
    assert found.macs["conv + 2 linear"] == found.cost.macs_paper
    assert found.macs["fvcore"] == sum(found.cost.operators.values())
    assert model.training  # left as it was
    assert not any(m._forward_hooks for m in model.modules())


def test_rules_are_told_apart() -> None:
    tally = Tally(conv=1, linear=10, norm=100, pool=1000, biased=10_000, rest=100_000)
    counts = [rule.count(tally) for rule in conventions.RULES.values()]
    assert len(set(counts)) == len(counts)


@pytest.mark.parametrize(
    ("printed", "value", "fits"),
    [
        ("125.49e6", 125_485_696, True),
        ("125.49e6", 125_494_999, True),
        ("125.49e6", 125_495_000, False),  # 125.50
        ("125.49e6", 125_484_999, False),
        ("282.00e6", 282_004_999, True),  # its zeros are digits
        ("282.00e6", 282_005_000, False),
        ("1520e6", 1_521_756_160, True),  # these are not
        ("1520e6", 1_525_000_000, False),
        ("125747840", 125_747_840, True),
        ("125747840", 125_747_841, False),
        ("4.09e9", 4_089_184_256, True),
    ],
)
def test_a_figure_fits_to_its_last_digit(printed: str, value: int, fits: bool) -> None:
    assert bool(fitting(printed, {"rule": value})) == fits


def test_the_nearest_rule_is_told_with_its_distance() -> None:
    assert nearest("110e6", {"far": 50_000_000, "near": 100_000_000}) == ("near", pytest.approx(10))
    assert nearest("90e6", {"far": 50_000_000, "near": 100_000_000}) == ("near", pytest.approx(-10))


@pytest.mark.parametrize(
    ("printed", "text", "digit"),
    [
        ("125.49e6", "125.49 M", 4),
        ("282.00e6", "282.00 M", 4),
        ("313e6", "313 M", 6),
        ("1520e6", "1520 M", 7),
        ("4.09e9", "4.09 B", 7),
        ("4.10e9", "4.10 B", 7),
        ("125747840", "125.747840 M", 0),
    ],
)
def test_figures_keep_their_digits(printed: str, text: str, digit: int) -> None:
    assert (shown(printed), last_digit(printed)) == (text, digit)


def test_running_statistics_stay() -> None:
    model = Counted().train()
    count(model, 4)
    assert torch.equal(model.norm.running_mean, torch.zeros(5))
