"""FPICI: the numbers of METHODS 15, and both views against loops over single weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from methods.api import Unsupported
from methods.fpici import FPICI, gaussian_entropy, histogram_entropy, independence, min_max

THREE = torch.tensor([[1.0, 0], [0, 1], [1, 1]]).double()


def test_worked_example() -> None:
    """Pairs have |cos| 0, .7071, .7071."""
    expected = torch.tensor([0.6464, 0.6464, 0.2929]).double()
    torch.testing.assert_close(independence(THREE), expected, atol=5e-5, rtol=0)
    assert FPICI(lam=1.0).fused(THREE).tolist() == pytest.approx([1, 1, 0])
    # weights 0 and 1 fall into the first and last of ten bins: 1 bit, 1 bit, 0 bits
    assert histogram_entropy(THREE, 10).tolist() == pytest.approx([1, 1, 0])
    assert FPICI(lam=0.0).fused(THREE).tolist() == pytest.approx([1, 1, 0])


def test_bins_are_those_of_the_layer() -> None:
    """Over 0..4 in four bins: a filter that stays in one of them carries nothing, though its
    weights differ; the largest weight belongs to the last bin."""
    filters = torch.tensor([[0.0, 0.1, 0.2, 0.9], [0, 1, 2, 4], [3.5, 4, 0, 0]]).double()
    assert histogram_entropy(filters, 4).tolist() == pytest.approx([0, 2, 1])
    assert histogram_entropy(torch.full((2, 5), 0.3).double(), 4).tolist() == [0, 0]
    spread = torch.tensor([[-1.0, 1], [-2, 2], [-0.5, 0.5]]).double()
    bits = [0.5 * math.log2(2 * math.pi * math.e * v) for v in (1, 4, 0.25)]
    assert gaussian_entropy(spread).tolist() == pytest.approx(bits)


def test_lam_is_the_share_of_independence() -> None:
    filters = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).double()
    views = min_max(histogram_entropy(filters, 10)), min_max(independence(filters))
    for lam in (0.0, 0.3, 1.0):
        expected = (1 - lam) * views[0] + lam * views[1]
        torch.testing.assert_close(FPICI(lam=lam).fused(filters), expected)
    assert FPICI().lam == 0.5


def by_loops(filters: Tensor, capacity: str, bins: int, centred: bool, lam: float) -> list[float]:
    """One filter, one bin, one pair at a time."""
    rows = filters.tolist()
    low, high = min(map(min, rows)), max(map(max, rows))
    information, own = [], []
    for i, row in enumerate(rows):
        if capacity == "gaussian":
            mean = sum(row) / len(row)
            variance = sum((w - mean) ** 2 for w in row) / len(row)
            information.append(0.5 * math.log2(2 * math.pi * math.e * variance))
        else:
            counts = np.histogram(row, bins, (low, high))[0]
            shares = [c / len(row) for c in counts if c]
            information.append(-sum(p * math.log2(p) for p in shares))
        similar = []
        for j, other in enumerate(rows):
            a, b = ([w - sum(r) / len(r) if centred else w for w in r] for r in (row, other))
            if i != j:
                dot = sum(v * w for v, w in zip(a, b, strict=True))
                similar.append(abs(dot) / math.sqrt(sum(v * v for v in a) * sum(w * w for w in b)))
        own.append(1 - sum(similar) / len(similar))
    views = [
        [(v - min(view)) / (max(view) - min(view)) for v in view] for view in (information, own)
    ]
    return [(1 - lam) * a + lam * b for a, b in zip(*views, strict=True)]


@pytest.mark.parametrize("capacity", ["histogram", "gaussian"])
@pytest.mark.parametrize(("bins", "centred", "lam"), [(10, False, 0.5), (7, True, 0.3)])
def test_equals_loops(capacity: str, bins: int, centred: bool, lam: float) -> None:
    filters = torch.randn(9, 18, generator=torch.Generator().manual_seed(1)).double()
    found = FPICI(capacity=capacity, bins=bins, centred=centred, lam=lam).fused(filters)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx(by_loops(filters, capacity, bins, centred, lam))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_layers_are_judged_by_weights_alone(
    tiny_network: tiny.MakeNetwork, tiny_trainer: tiny.MakeTrainer, kind: str
) -> None:
    net, run = tiny_network(kind, scope="all"), tiny_trainer()
    scores = FPICI().score(net, run)  # type: ignore[arg-type]
    assert tuple(scores) == net.layers
    for layer, score in scores.items():
        filters = net.weight(layer).detach().flatten(1).double()
        expected = by_loops(filters, "histogram", 10, False, 0.5)
        assert score.tolist() == pytest.approx(expected)
    assert run.ledger.entries == []
    assert not FPICI().prepares


def test_centred_cosines_are_correlations() -> None:
    filters = torch.randn(5, 12, generator=torch.Generator().manual_seed(2)).double() + 3
    similar = np.abs(np.corrcoef(filters.numpy()))
    expected = min_max(torch.from_numpy(1 - (similar.sum(1) - 1) / 4))
    torch.testing.assert_close(FPICI(centred=True, lam=1.0).fused(filters), expected)


@pytest.mark.parametrize("capacity", ["histogram", "gaussian"])
def test_a_filter_of_zeros_is_the_least(capacity: str) -> None:
    filters = torch.randn(6, 9, generator=torch.Generator().manual_seed(3)).double()
    filters[2] = 0
    score = FPICI(capacity=capacity).fused(filters)  # type: ignore[arg-type]
    assert score.isfinite().all()
    assert int(score.argmin()) == 2
    assert float(score[2]) == 0


@pytest.mark.parametrize("filters", [torch.ones(1, 9), torch.ones(4, 1), torch.zeros(3, 9)])
@pytest.mark.parametrize("capacity", ["histogram", "gaussian"])
@pytest.mark.parametrize("centred", [False, True])
def test_where_nothing_can_be_told_apart_all_are_equal(
    filters: Tensor, capacity: str, centred: bool
) -> None:
    score = FPICI(capacity=capacity, centred=centred).fused(filters.double())  # type: ignore[arg-type]
    assert score.tolist() == [0] * len(filters)


@pytest.mark.parametrize("fields", [{"bins": 0}, {"lam": -0.1}, {"lam": 1.5}])
def test_settings_out_of_range_are_refused(
    tiny_network: tiny.MakeNetwork, fields: dict[str, float]
) -> None:
    with pytest.raises(Unsupported, match="bins must be at least 1 and lam"):
        FPICI(**fields).score(tiny_network(), None)  # type: ignore[arg-type]
