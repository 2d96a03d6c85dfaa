"""Counter-based noise: the right integers, uniform, independent, and blind to batching."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.noise import keyed_integers, keyed_uniform

WORD = (1 << 64) - 1
INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.integers(-(2**70), 2**70)


def splitmix_finaliser(word: int) -> int:
    word &= WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


def by_hand(seed: int, epoch: int, image: int, column: int, salt: int) -> int:
    """The 64 bits of one draw in Python's unbounded integers, top 31 bits comparable."""
    key = 0
    for word in (seed, epoch, salt):
        key = splitmix_finaliser((key ^ (word & WORD)) + 0x9E3779B97F4A7C15)
    return splitmix_finaliser(key + image * 0x9E3779B97F4A7C15 + column * 0xD1B54A32D192ED03)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@settings(max_examples=60, deadline=None)
@given(KEYS, KEYS, st.lists(INT64, max_size=5), st.integers(0, 4), KEYS)
def test_equals_unbounded_integer_arithmetic(
    seed: int, epoch: int, images: list[int], columns: int, salt: int
) -> None:
    drawn = keyed_uniform(seed, epoch, torch.tensor(images, dtype=torch.int64), columns, salt)
    assert drawn.shape == (len(images), columns)
    assert drawn.dtype == torch.float32
    expected = [
        [(by_hand(seed, epoch, image, c, salt) >> 40) / 2**24 for c in range(columns)]
        for image in images
    ]
    assert drawn.tolist() == expected


def test_bits_never_change() -> None:
    # Shipped records depend on these: a change needs a raised PROTOCOL.
    index = torch.tensor([0, 1, 49_999])
    assert keyed_uniform(0, 0, index, 2).mul(2**24).long().tolist() == [
        [8595764, 15068032],
        [2175092, 11470027],
        [4269455, 9287600],
    ]
    assert keyed_integers(7, 3, index, 2, 1000, salt=5).tolist() == [
        [829, 873],
        [472, 480],
        [519, 284],
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 1000), st.permutations(list(range(40))), st.data())
def test_batching_and_order_do_not_matter(
    seed: int, epoch: int, order: list[int], data: st.DataObject
) -> None:
    whole = keyed_uniform(seed, epoch, torch.arange(40), 3)
    cut = data.draw(st.integers(0, 40))
    rows = torch.tensor(order)
    parts = [keyed_uniform(seed, epoch, part, 3) for part in (rows[:cut], rows[cut:])]
    assert torch.equal(torch.cat(parts), whole[rows])


def test_more_columns_extend_fewer() -> None:
    index = torch.arange(100)
    assert torch.equal(keyed_uniform(1, 2, index, 9)[:, :4], keyed_uniform(1, 2, index, 4))


@pytest.mark.parametrize(("seed", "epoch", "salt"), [(0, 0, 0), (1, 0, 0), (0, 1, 3), (-5, 99, 1)])
def test_uniform_by_chi_square(seed: int, epoch: int, salt: int) -> None:
    drawn = keyed_uniform(seed, epoch, torch.arange(50_000), 4, salt)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        counts = torch.bincount((column * 256).long(), minlength=256).double()
        statistic = ((counts - 50_000 / 256) ** 2 / (50_000 / 256)).sum().item()
        assert 160 < statistic < 370  # 255 degrees of freedom: about +-5 standard deviations


@pytest.mark.parametrize("high", [1, 2, 7, 81, 162, 1000])
def test_integers_by_chi_square(high: int) -> None:
    drawn = keyed_integers(3, 1, torch.arange(100_000), 1, high)[:, 0]
    assert drawn.dtype == torch.int64
    counts = torch.bincount(drawn, minlength=high).double()
    assert len(counts) == high
    statistic = ((counts - 100_000 / high) ** 2 / (100_000 / high)).sum().item()
    free = high - 1
    assert abs(statistic - free) <= 5 * (2 * free) ** 0.5 + 8


def test_integers_reach_both_ends_of_the_widest_range() -> None:
    drawn = keyed_integers(0, 0, torch.arange(100_000), 1, 2**31).double()
    assert drawn.min() >= 0
    assert 0.9999 * 2**31 < drawn.max() < 2**31


@pytest.mark.parametrize("high", [0, -1, 2**31 + 1])
def test_integers_reject_a_range_they_cannot_draw(high: int) -> None:
    with pytest.raises(ValueError, match="high"):
        keyed_integers(0, 0, torch.arange(3), 1, high)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"epoch": 1}, {"salt": 1}, {"seed": 2**32}, {"seed": -1}]
)
def test_another_key_is_independent(other: dict[str, int]) -> None:
    key = {"seed": 0, "epoch": 0, "salt": 0}
    index = torch.arange(50_000)
    first = keyed_uniform(index=index, columns=2, **key)
    second = keyed_uniform(index=index, columns=2, **(key | other))
    assert abs(correlation(first, second)) < 5 / len(index) ** 0.5
    assert (first == second).float().mean() < 1e-4


def test_swapped_words_of_the_key_differ() -> None:
    index = torch.arange(1000)
    draws = [keyed_uniform(s, e, index, 1, t) for s, e, t in [(1, 2, 3), (2, 1, 3), (3, 2, 1)]]
    assert all(abs(correlation(draws[0], other)) < 0.16 for other in draws[1:])


def test_columns_and_neighbours_are_independent() -> None:
    drawn = keyed_uniform(11, 4, torch.arange(50_000), 4)
    bound = 5 / len(drawn) ** 0.5
    between = torch.corrcoef(drawn.T) - torch.eye(4)
    assert between.abs().max() < bound
    for lag in (1, 2, 10, 256, 5000):
        assert abs(correlation(drawn[lag:], drawn[:-lag])) < bound
        assert abs(correlation(drawn[lag:, :-1], drawn[:-lag, 1:])) < bound


def test_pairs_of_columns_fill_the_square() -> None:
    drawn = keyed_uniform(5, 0, torch.arange(100_000), 2)
    cell = (drawn[:, 0] * 16).long() * 16 + (drawn[:, 1] * 16).long()
    counts = torch.bincount(cell, minlength=256).double()
    statistic = ((counts - 100_000 / 256) ** 2 / (100_000 / 256)).sum().item()
    assert 160 < statistic < 370


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_same_bits_on_a_gpu() -> None:
    index = torch.arange(10_000)
    here = keyed_uniform(1, 2, index, 5)
    there = keyed_uniform(1, 2, index.cuda(), 5)
    assert there.is_cuda
    assert torch.equal(here, there.cpu())
    assert torch.equal(
        keyed_integers(1, 2, index, 5, 162), keyed_integers(1, 2, index.cuda(), 5, 162).cpu()
    )
