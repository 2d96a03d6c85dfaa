"""Cost of a network: MACs by fvcore, cross-checked by torch, and parameters."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from benchmark.frozen import Frozen

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)  # fvcore 2022 on torch.jit
    from fvcore.nn import FlopCountAnalysis

MACS_OPERATORS = ("conv", "linear")


class CostMismatch(Exception):
    """Two independent counters disagree: a bug, never a result."""


class Cost(Frozen):
    """Counts of one network for one image. A multiply-accumulate counts once."""

    macs: int  # convolutions and linear layers, as fvcore counts them: what targets use
    macs_paper: int  # conv + 2 x linear, as the CIFAR papers count
    params: int
    params_paper: int  # without batch-norm weights
    operators: dict[str, int]  # fvcore's own breakdown, batch norm and pooling included


def cost(model: nn.Module, example: Tensor) -> Cost:
    """Counts of the network as it is, for one image `example` (1, 3, H, W).

    Raises:
        CostMismatch: fvcore and torch.utils.flop_counter disagree.
    """
    model = copy.deepcopy(model).eval().cpu()  # tracing in train mode would move BN statistics
    analysis = FlopCountAnalysis(model, example.cpu())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    operators = {k: int(v) for k, v in sorted(analysis.by_operator().items())}
    macs = sum(operators.get(k, 0) for k in MACS_OPERATORS)
    second = torch_macs(model, example.cpu())
    if macs != second:
        raise CostMismatch(f"fvcore counts {macs} MACs, torch.utils.flop_counter {second}")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    params = sum(p.numel() for p in model.parameters())
    return Cost(
        macs=macs,
        macs_paper=operators.get("conv", 0) + 2 * operators.get("linear", 0),
        params=params,
        params_paper=params - sum(p.numel() for m in norms for p in m.parameters()),
        operators=operators,
    )


@torch.no_grad()
def torch_macs(model: nn.Module, example: Tensor) -> int:
    """MACs by torch's own counter, which counts multiply and add apart."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops()) // 2
