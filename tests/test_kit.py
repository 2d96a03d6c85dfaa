"""matrix_ranks against torch.linalg.matrix_rank and the float64 singular values."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from methods import kit
from methods.kit import matrix_ranks

RESNET20 = Path(__file__).parents[2] / "shared" / "data" / "cifar10-resnet20.th"
SHAPES = [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1), (5, 32), (32, 7)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def truth(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Rank from float64 singular values, and where one is within 0.1 % of the tolerance."""
    values = torch.linalg.svdvals(maps.double())
    tau = max(maps.shape[-2:]) * torch.finfo(torch.float32).eps * values[..., :1]
    return (values > tau).sum(-1), ((values / tau - 1).abs() < 1e-3).any(-1)


def assert_true_ranks(maps: Tensor) -> None:
    expected, borderline = truth(maps)
    wrong = (matrix_ranks(maps) != expected) & ~borderline
    assert not wrong.any(), f"{int(wrong.sum())} of {len(maps)} maps"
    assert borderline.float().mean() < 0.02  # the excuse must stay rare


def graded(shape: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Maps whose singular values are log-uniform over nine decades, across the tolerance."""
    left, _, right = torch.linalg.svd(
        torch.randn(count, *shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    values = 10 ** -(9 * torch.rand(count, 1, min(shape), generator=generator, dtype=torch.float64))
    maps: Tensor = left * values @ right
    return maps.float()


def smooth_images(count: int) -> Tensor:
    """Random images with detail at several scales, as a convnet expects them."""
    generator = seeded(0)
    images = torch.zeros(count, 3, 32, 32)
    for side in (2, 4, 8, 16, 32):
        noise = torch.randn(count, 3, side, side, generator=generator)
        images += functional.interpolate(noise, size=32, mode="bilinear") / side**0.5
    return images


def resnet_maps(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Maps behind every ReLU of a CIFAR ResNet with option-A shortcuts, in eval mode."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = functional.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, var = state[f"{bn}.running_mean"], state[f"{bn}.running_var"]
        weight, bias = state[f"{bn}.weight"], state[f"{bn}.bias"]
        return functional.batch_norm(x, mean, var, weight, bias)

    maps = [functional.relu(conv_bn(images, "conv1", "bn1"))]
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = maps[-1]
            if stride == 2:
                pad = shortcut.shape[1] // 2
                shortcut = functional.pad(shortcut[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
            maps.append(functional.relu(conv_bn(maps[-1], f"{name}.conv1", f"{name}.bn1", stride)))
            maps.append(
                functional.relu(conv_bn(maps[-1], f"{name}.conv2", f"{name}.bn2") + shortcut)
            )
    return maps


def assert_same_as_torch(layers: list[Tensor], at_least: int) -> None:
    counts = [
        (int((matrix_ranks(maps) != torch.linalg.matrix_rank(maps)).sum()), maps[..., 0, 0].numel())
        for maps in layers
    ]
    assert sum(total for _, total in counts) >= at_least
    assert sum(wrong for wrong, _ in counts) == 0


def test_worked_example() -> None:
    """METHODS.md 3.6."""
    a = torch.tensor([[1.0, 2, 3], [2, 4, 6], [1, 2, 3]])
    e = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    identity, zero = torch.eye(3), torch.zeros(3, 3)
    maps = torch.stack([torch.stack([a, identity, zero]), torch.stack([e, identity, a])])
    ranks = matrix_ranks(maps)
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == [[1, 3, 0], [2, 3, 1]]
    score = ranks.double().mean(0)
    assert score.tolist() == [1.5, 3.0, 0.5]
    assert score.argsort()[: int(0.34 * 3)].tolist() == [2]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    rank=st.integers(0, 40),
    relu=st.booleans(),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_low_rank_maps(
    height: int, width: int, rank: int, relu: bool, exponent: int, seed: int
) -> None:
    generator = seeded(seed)
    left = torch.randint(-4, 5, (6, height, rank), generator=generator).float()
    right = torch.randint(-4, 5, (6, rank, width), generator=generator).float()
    maps = (left @ right) * 2.0**exponent
    maps = maps.relu() if relu else maps
    assert torch.equal(matrix_ranks(maps), torch.linalg.matrix_rank(maps))


def test_random_convnet_maps() -> None:
    generator, layers, x = seeded(1), list[Tensor](), smooth_images(32)
    for width, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        weight = torch.randn(width, x.shape[1], 3, 3, generator=generator)
        shift = torch.randn(width, generator=generator)
        x = functional.conv2d(x, weight, stride=stride, padding=1)
        x = functional.relu(functional.batch_norm(x, None, None, bias=shift, training=True))
        layers.append(x)
    assert_same_as_torch(layers, at_least=7_000)


@pytest.mark.skipif(not RESNET20.exists(), reason=f"no trained weights at {RESNET20}")
def test_trained_resnet20_maps() -> None:
    saved = torch.load(RESNET20, map_location="cpu", weights_only=True)["state_dict"]
    state = {name.removeprefix("module."): value for name, value in saved.items()}
    with torch.no_grad():
        layers = resnet_maps(state, smooth_images(32))
    assert_same_as_torch(layers, at_least=20_000)


@pytest.mark.parametrize("shape", SHAPES)
def test_spectra_across_the_tolerance(shape: tuple[int, int]) -> None:
    assert_true_ranks(graded(shape, 1000, seeded(2)))


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-7])
def test_small_leading_rows(scale: float) -> None:
    """Elimination without pivoting starts on the worst rows here."""
    maps = torch.randn(500, 16, 16, generator=seeded(3))
    maps[:, :5] *= scale
    assert_true_ranks(maps)


@pytest.mark.parametrize(
    "factor", [pytest.param(2.0**0.25, id="rank 2"), pytest.param(2.0**-0.25, id="rank 1")]
)
def test_tolerance_is_that_of_torch(factor: float) -> None:
    n = 32
    maps = torch.zeros(n, n)
    maps[0, 0], maps[n - 1, n - 1] = 1.0, factor * n * torch.finfo(torch.float32).eps
    assert int(matrix_ranks(maps)) == int(torch.linalg.matrix_rank(maps)) == 1 + (factor > 1)


def test_a_value_nearer_to_the_tolerance_than_the_bounds_is_redone() -> None:
    """0.83 twice leaves the largest eigenvalue 0.03 % uncertain: too coarse for 0.01 %."""
    tau = 8 * torch.finfo(torch.float32).eps
    below = torch.tensor([1.0, 0.83, 0.83, tau * (1 - 1e-4), 0, 0, 0, 0]).diag()
    above = torch.tensor([1.0, 0.83, 0.83, tau * (1 + 1e-4), 0, 0, 0, 0]).diag()
    assert matrix_ranks(torch.stack([below, above])).tolist() == [3, 4]


def test_flat_spectrum_and_hidden_leading_vector() -> None:
    """Nothing stands out in an orthogonal matrix; zero-mean rows are orthogonal to all-ones."""
    random = torch.randn(100, 16, 16, generator=seeded(4))
    orthogonal = torch.linalg.qr(random).Q
    assert matrix_ranks(orthogonal).tolist() == [16] * 100
    assert matrix_ranks(orthogonal[:, :, :9] @ orthogonal[:, :9]).tolist() == [9] * 100
    assert matrix_ranks(random - random.mean(1, keepdim=True)).tolist() == [15] * 100


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_does_not_matter(scale: float) -> None:
    maps = torch.zeros(3, 8, 8)
    maps[1, 2:5, 1:4] = torch.eye(3) * scale  # rows and columns of zeros
    maps[2] = scale  # one row, repeated
    assert matrix_ranks(maps).tolist() == [0, 3, 1]


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = seeded(5)
    relu = torch.randn(400, 16, 16, generator=generator).relu()
    maps = torch.cat([graded((16, 16), 300, generator), relu])
    whole = matrix_ranks(maps)
    for size in (1, 7, 256):
        assert torch.equal(
            whole, torch.cat([matrix_ranks(part) for part in torch.split(maps, size)])
        )
    monkeypatch.setattr(kit, "_CPU_CHUNK", 1)
    assert torch.equal(whole, matrix_ranks(maps))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    ranks = matrix_ranks(torch.empty(shape))
    assert ranks.dtype == torch.int64
    assert ranks.shape == shape[:-2]
    assert not ranks.any()


def test_leading_shapes_views_and_dtypes() -> None:
    maps = torch.randint(-2, 3, (2, 3, 4, 5, 7), generator=seeded(6)).float()
    expected = torch.linalg.matrix_rank(maps)
    assert torch.equal(matrix_ranks(maps), expected)
    assert torch.equal(matrix_ranks(maps.mT), expected)
    assert torch.equal(matrix_ranks(maps.transpose(0, 3).contiguous().transpose(0, 3)), expected)
    assert matrix_ranks(maps[0, 0, 0]).shape == ()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64):
        assert torch.equal(matrix_ranks(maps.to(dtype)), expected)
    assert not matrix_ranks(maps.requires_grad_()).requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_refuses_what_is_not_finite(bad: float) -> None:
    maps = torch.ones(3, 4, 4)
    maps[1, 2, 3] = bad
    with pytest.raises(ValueError, match="NaN or an infinity"):
        matrix_ranks(maps)


def test_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W\)"):
        matrix_ranks(torch.ones(4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_gives_the_same(shape: tuple[int, int]) -> None:
    maps = graded(shape, 1000, seeded(7))
    _, borderline = truth(maps)
    ranks = matrix_ranks(maps.cuda())
    assert ranks.is_cuda
    assert torch.equal(ranks.cpu()[~borderline], matrix_ranks(maps)[~borderline])


# ---- batches of another size, ranks --------------------------------------------------------------


def batches_of(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Images and labels that carry their number."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    return [(n.float()[:, None, None, None].expand(-1, 3, 1, 1), n) for n in numbers]


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ((128, 128, 44), 64, [64, 64, 64, 64]),
        ((128, 128, 44), 100, [100, 100, 100]),
        ((128, 72), 256, [200]),  # all there is
        ((3, 3, 3), 3, [3, 3, 3]),
        ((1, 1, 1), 2, [2]),
        ((4,), 1, [1, 1, 1, 1]),
        ((), 5, []),
        ((0, 2), 5, [2]),
    ],
)
def test_regrouped_batches_hold_the_same_images_in_order(
    sizes: tuple[int, ...], size: int, expected: list[int]
) -> None:
    found = list(kit.regrouped(batches_of(*sizes), size))
    assert [len(y) for _, y in found] == expected
    labels = torch.cat([y for _, y in found]) if found else torch.empty(0)
    assert labels.tolist() == list(range(sum(expected)))
    assert all(torch.equal(x[:, 0, 0, 0], y.float()) for x, y in found)


def test_regrouping_asks_for_no_more_than_it_gives() -> None:
    drawn = []

    def draw() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches_of(4, 4, 4):
            drawn.append(len(batch[1]))
            yield batch

    first = next(kit.regrouped(draw(), 4))
    assert (len(first[1]), drawn) == (4, [4])
    with pytest.raises(ValueError, match="at least 1"):
        next(kit.regrouped(draw(), 0))


def test_rank_correlation() -> None:
    a = torch.tensor([1.0, 5, 2, 9])
    assert kit.rank_correlation(a, a.exp()) == pytest.approx(1)
    assert kit.rank_correlation(a, -a) == pytest.approx(-1)
    # ranks 0 2 1 3 and 0 1 2 3: 1 - 6 * 2 / (4 * 15)
    assert kit.rank_correlation(a, torch.tensor([1.0, 2, 3, 4])) == pytest.approx(0.8)
    # ranks 0 2 1 3 and (0.5 0.5 2.5 2.5): means 1.5, sums of products 2, of squares 5 and 4
    ties = torch.tensor([1.0, 1, 7, 7])
    assert kit.rank_correlation(a, ties) == pytest.approx(2 / 20**0.5)
    assert kit.rank_correlation(a, torch.ones(4)) == 0
