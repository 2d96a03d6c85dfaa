"""Single 2-D kernels as what is removed: which there are, how many go, and which remain alike."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Budget, Network, Unsupported

LEVELS = 13  # classes of likeness of the official code of EXP


def counts(net: Network) -> dict[str, int]:
    """Kernels C_out x C_in / groups of each layer that may lose some: all convolutions but the
    first, which reads the image, and linear layers on maps."""
    inner = [n for n in net.layers if n not in net.convs]
    return {n: net.weight(n).shape[:2].numel() for n in (*net.convs[1:], *inner)}


def quotas(net: Network, budget: Budget) -> dict[str, int]:
    """How many kernels go from each layer: one fraction of all that meets the budget; for listed
    rates `int(rate x kernels)` of every convolution, as the official code of EXP rounds.

    Raises:
        Unsupported: the target is out of reach with the floor of every layer.
    """
    if budget.rates is not None:
        rates = budget.rates
        return {n: int(rates[n] * net.weight(n).shape[:2].numel()) for n in net.convs}
    total, dense = counts(net), net.macs()
    price = {n: net.kernel_macs(n) for n in total}
    most = {n: c - max(1, int(budget.min_keep * c)) for n, c in total.items()}

    def at(share: float) -> dict[str, int]:
        return {n: min(most[n], round(share * c)) for n, c in total.items()}

    def cut(gone: dict[str, int]) -> float:
        return sum(price[n] * number for n, number in gone.items()) / dense

    if cut(most) < budget.macs_cut:
        raise Unsupported(
            f"FLOPs reduction {100 * budget.macs_cut:.1f} % is out of reach: with the minimum "
            f"width, a share of kernels here, at most {100 * cut(most):.1f} % can be removed; ask "
            "for less, or use --min-width"
        )
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if cut(at(middle)) >= budget.macs_cut else (middle, high)
    return at(high)


def sums(weight: Tensor) -> Tensor:
    """(C_out, C_in) Psi: the sum over each 2-D kernel of (C_out, C_in, k, k)."""
    return weight.detach().flatten(2).sum(2)


def classes(psi: Tensor) -> Tensor:
    """Psi of any shape -> whole numbers around -6 to 6, equal for kernels that are alike: METHODS
    13, `round(13 (sigmoid(2 Psi / max Psi) - 1/2))`, halves to even. Where no sum is positive, the
    largest size takes the place of the maximum, which would turn the order round."""
    top = psi.max() if bool(psi.max() > 0) else psi.abs().max()
    if not bool(top > 0):
        return torch.zeros_like(psi, dtype=torch.int64)
    return (LEVELS * (torch.sigmoid(2 * psi / top) - 0.5)).round().long()
