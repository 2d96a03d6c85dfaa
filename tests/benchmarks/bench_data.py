"""Throughput of augmented CIFAR batches: ours against torchvision's PIL pipeline, one thread.

Speed is reported, never asserted; what is asserted is that both do the same amount of work.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms  # type: ignore[import-untyped, unused-ignore]

from benchmark.data import PUBLISHED
from benchmark.images import BatchSource, DataIdentity, Images

NUM_IMAGES = 50_000  # as many as CIFAR's, so that rows come from memory and not from a cache
DRAWN = 2048
BATCH = 256
PAIRS = 11
MEAN, STD = PUBLISHED["cifar10"]
Pass = Callable[[], int]  # reads DRAWN images in batches and returns how many it saw


@pytest.fixture(scope="module")
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(
        torch.randint(0, 256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (NUM_IMAGES,), generator=generator),
        torch.arange(NUM_IMAGES),
    )


class PilImages(Dataset[tuple[Tensor, int]]):
    """What torchvision.datasets.CIFAR10 does per image, with the field's usual transforms."""

    def __init__(self, images: Images) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()  # (N,32,32,3)
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[row])), self.labels[row]


def ours(images: Images) -> Pass:
    identity = DataIdentity(
        name="random",
        content_hash="0" * 16,
        image_size=32,
        num_classes=10,
        mean=MEAN,
        std=STD,
        pad=4,
        flip=True,
        split_hash="none",
    )
    source = BatchSource(images, identity)

    def read() -> int:
        batches = torch.randint(len(source), (DRAWN // BATCH, BATCH))
        return sum(len(source.batch(rows, augment=(0, 0))[0]) for rows in batches)

    return read


def torchvision_pil(images: Images) -> Pass:
    dataset = PilImages(images)
    sampler = RandomSampler(dataset, replacement=True, num_samples=DRAWN)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=0)

    def read() -> int:
        return sum(len(x) for x, _ in loader)

    return read


def seconds(read: Pass) -> float:
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


def median_interval(values: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval."""
    sample = np.random.default_rng(0).choice(values, (draws, len(values)))
    low, high = np.percentile(np.median(sample, axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


@pytest.mark.benchmark(group="augmented CIFAR batches, one thread")
@pytest.mark.parametrize("pipeline", [ours, torchvision_pil])
def test_pipeline(
    benchmark: BenchmarkFixture, images: Images, pipeline: Callable[[Images], Pass]
) -> None:
    read = pipeline(images)
    seen = benchmark.pedantic(read, rounds=7, warmup_rounds=1)  # type: ignore[no-untyped-call, unused-ignore]
    assert seen == DRAWN
    if benchmark.stats is not None:
        benchmark.extra_info["images_per_second"] = DRAWN / benchmark.stats["median"]


@pytest.mark.benchmark(group="interleaved pairs")
def test_ratio_of_interleaved_pairs(benchmark: BenchmarkFixture, images: Images) -> None:
    """How many times faster, pair by pair, so that a busy machine slows both sides alike."""
    fast, slow = ours(images), torchvision_pil(images)
    fast(), slow()
    ratios: list[float] = []

    def pair() -> None:
        ours_takes = seconds(fast)
        ratios.append(seconds(slow) / ours_takes)

    benchmark.pedantic(pair, rounds=PAIRS)  # type: ignore[no-untyped-call, unused-ignore]
    median, low, high = median_interval(ratios)
    benchmark.extra_info["times_faster_median"] = median
    benchmark.extra_info["times_faster_95_interval"] = [low, high]
    benchmark.extra_info["pairs"] = len(ratios)
