"""FPGM: filters near the geometric median of their layer go."""

from dataclasses import dataclass

from torch import Tensor

from methods.api import Method, Network, Scores, Trainer


@dataclass(frozen=True)
class FPGM(Method):
    """Filters with the smallest sum of distances to the others of their layer go (He et al., CVPR
    2019, section 3.3), in one shot."""

    def score(self, net: Network, trainer: Trainer) -> Scores:
        return {n: sum_of_distances(net.weight(n).detach()) for n in net.layers}


def sum_of_distances(weight: Tensor) -> Tensor:
    """(C, ...) -> (C,) sum over j of ||F_i - F_j||_2, float64.

    Distances come from products of filters, several times faster than differences. That loses the
    digits of a distance that is small against its filters; measured from the mean filter, such a
    distance is small against the sum, too. In float64 the sum is off by a few 1e-8 at worst, which
    is less than the rounding of float32 weights.
    """
    filters = weight.double().flatten(1)
    filters = filters - filters.mean(0)
    squares = filters.square().sum(1)
    apart = squares[:, None] + squares - 2 * filters @ filters.T  # squared distances
    return apart.clamp_(min=0).fill_diagonal_(0).sqrt().sum(1)
