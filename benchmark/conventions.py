"""How papers count a dense network, and which of their rules a printed figure fits.

Targets and reductions know one rule, `conv + linear` (`benchmark.flops`). The others are here to
explain why a paper prints another figure for the same network. A rule that fits a figure to its
last digit is how it may have been counted, not a proof that it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import torch
from torch import Tensor, nn

from benchmark import flops

MEGA, GIGA = 6, 9  # powers of ten of the units M and B


@dataclass(frozen=True)
class Printed:
    """Cost of a dense network as a source prints it; digits are kept, so 282.00e6 is 282.00 M."""

    macs: str  # empty: not printed
    params: str
    source: str
    rows: tuple[str, ...] = ()  # of methods/published.csv


@dataclass(frozen=True)
class Tally:
    """What the rules add up, for one image."""

    conv: int  # multiply-accumulates
    linear: int
    norm: int  # values that pass a batch norm
    pool: int  # values read by the adaptive pooling in front of the head
    biased: int  # output values of convolutions with a bias
    rest: int  # what else fvcore counts


@dataclass(frozen=True)
class Rule:
    """A way to count multiply-accumulates, and what is known about who uses it."""

    count: Callable[[Tally], int]
    meaning: str


RULES: dict[str, Rule] = {
    "conv + 2 linear": Rule(
        lambda t: t.conv + 2 * t.linear,
        "linear layers count multiplication and addition apart, convolutions do not: what HRank "
        "and the papers after it print, as far as the figures tell",
    ),
    "conv + linear": Rule(
        lambda t: t.conv + t.linear,
        "one per multiply-accumulate, no biases: what this benchmark uses",
    ),
    "conv + linear + 2 norm": Rule(
        lambda t: t.conv + t.linear + 2 * t.norm,
        "the same, and two for every value that passes a batch norm",
    ),
    "fvcore": Rule(
        lambda t: t.conv + t.linear + 2 * t.norm + t.pool + t.rest,
        "the total of fvcore as it comes: the same, and one for every value that adaptive pooling "
        "reads",
    ),
    "conv + bias + linear": Rule(
        lambda t: t.conv + t.biased + t.linear,
        "conv + linear, and one for every output value of a convolution with a bias",
    ),
    "conv + bias + 2 linear + 2 norm": Rule(
        lambda t: t.conv + t.biased + 2 * t.linear + 2 * t.norm,
        "all of these; the early thop counted like this, as far as the figures tell",
    ),
    "conv + bias + 2 linear + 2 norm + pool": Rule(
        lambda t: t.conv + t.biased + 2 * t.linear + 2 * t.norm + t.pool,
        "the same where the last pooling is a module, which thop then counts",
    ),
    "conv + linear + 4 norm": Rule(
        lambda t: t.conv + t.linear + 4 * t.norm,
        "four for every value that passes a batch norm; thop 0.1 counted like this, as far as the "
        "figures tell",
    ),
}
PARAM_RULES = {
    "no norm": "all parameters but those of batch norm",
    "all": "all parameters",
    "weights": "weights of convolutions and linear layers, no biases, no batch norm",
}


@dataclass(frozen=True)
class Dense:
    """Counts of one network by every rule."""

    cost: flops.Cost
    macs: Mapping[str, int]
    params: Mapping[str, int]


def count(model: nn.Module, size: int) -> Dense:
    """Counts for one image of `size` pixels square."""
    example = torch.zeros(1, 3, size, size)
    cost = flops.cost(model, example)
    found = dict(cost.operators)
    tally = Tally(
        conv=found.pop("conv", 0),
        linear=found.pop("linear", 0),
        norm=found.pop("batch_norm", 0) // 2,  # fvcore counts two per value
        pool=found.pop("adaptive_avg_pool2d", 0),
        biased=_biased_outputs(model, example),
        rest=sum(found.values()),
    )
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    params = {
        "no norm": cost.params_paper,
        "all": cost.params,
        "weights": sum(m.weight.numel() for m in weighted),
    }
    return Dense(cost, {name: rule.count(tally) for name, rule in RULES.items()}, params)


@torch.no_grad()
def _biased_outputs(model: nn.Module, example: Tensor) -> int:
    model, sizes = copy.deepcopy(model).eval(), []
    biased = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    for module in biased:
        module.register_forward_hook(lambda _, __, out: sizes.append(out.numel()))
    if biased:
        model(example)
    return sum(sizes)


def last_digit(printed: str) -> int:
    """Power of ten of the last significant digit; whole millions may be rounded to tens."""
    _, digits, exponent = Decimal(printed).as_tuple()
    assert isinstance(exponent, int)
    if exponent in (MEGA, GIGA):
        text = "".join(map(str, digits))
        exponent += len(text) - len(text.rstrip("0"))
    return exponent


def fitting(printed: str, counts: Mapping[str, int]) -> list[str]:
    """The rules whose count rounds to the printed figure."""
    step = Decimal(1).scaleb(last_digit(printed))
    return [
        name
        for name, value in counts.items()
        if (Decimal(value) / step).quantize(Decimal(1), ROUND_HALF_UP) * step == Decimal(printed)
    ]


def nearest(printed: str, counts: Mapping[str, int]) -> tuple[str, float]:
    """The rule that comes closest, and by how many percent the printed figure is above it."""
    value = float(Decimal(printed))
    name = min(counts, key=lambda rule: abs(counts[rule] - value))
    return name, 100 * (value / counts[name] - 1)


def shown(printed: str) -> str:
    """Millions or billions with the digits of the source."""
    _, _, exponent = Decimal(printed).as_tuple()
    assert isinstance(exponent, int)
    unit, power = ("B", GIGA) if exponent > MEGA else ("M", MEGA)
    return f"{Decimal(printed).scaleb(-power):.{power - min(exponent, power)}f} {unit}"
