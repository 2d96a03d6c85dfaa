"""Throughput of streamed batches: ours against torchvision's ImageFolder and DataLoader, which do
the same to the same files, with 0, 1 and 2 worker processes.

Speed is reported, never asserted; what is asserted is that both do the same amount of work. The
real images are used where they are; else a generated folder of JPEG files of ImageNet's usual size.
"""

import gc
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_data import median_interval, seconds
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, SubsetRandomSampler
from torchvision import datasets, transforms  # type: ignore[import-untyped, unused-ignore]

from benchmark.data import PUBLISHED, load_data

BATCH = 64
DRAWN = 6 * BATCH
PAIRS = 7
SIDE = {"cifar": 64, "large": 224}
REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.gz"
Pass = Callable[[], int]  # reads DRAWN images in batches and returns how many it saw
Make = Callable[[Path, int, int], Pass]  # from folder, side and workers


@pytest.fixture(scope="module", params=["cifar", "large"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / str(request.param)
    if request.param == "large":
        return generated(root)
    if not REAL.is_file():
        pytest.skip(f"no shared data at {REAL}")
    with tarfile.open(REAL) as tar:
        tar.extractall(root, filter="data")
    return root


def generated(root: Path) -> Path:
    """Smooth pictures of 500 x 375 pixels, about 100 kB each, as ImageNet's are."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(128):
            small = draw.integers(0, 256, (47, 63, 3), dtype=np.uint8)
            large = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
            noisy = np.asarray(large, dtype=np.int16) + draw.integers(-12, 13, (375, 500, 3))
            place = root / split / str(number % 2)
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(place / f"{number}.jpg", quality=90)
    return root


def ours(folder: Path, side: int, workers: int) -> Pass:
    cache = folder.parent / "stages"
    data = load_data(
        "imagenet", data_dir=folder, image_size=side, cache_dir=cache, workers=workers,
        validation=False,
    )  # fmt: skip
    source = data.train.source(data.identity)
    epoch = iter(range(1 << 30))

    def read() -> int:
        rows = torch.randint(len(source), (DRAWN // BATCH, BATCH))
        key = (0, next(epoch))
        source.ahead(rows, key)
        return sum(len(source.batch(own, augment=key, channels_last=True)[0]) for own in rows)

    return read


def image_folder(folder: Path, side: int, workers: int) -> Pass:
    mean, std = PUBLISHED["imagenet"]
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    dataset = datasets.ImageFolder(folder / "train", transform)
    sampler = SubsetRandomSampler(torch.randint(len(dataset), (DRAWN,)).tolist())
    loader = DataLoader(
        dataset, BATCH, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )

    def read() -> int:
        return sum(len(x.to(memory_format=torch.channels_last)) for x, _ in loader)

    return read


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("pipeline", [ours, image_folder])
def test_pipeline(benchmark: BenchmarkFixture, folder: Path, pipeline: Make, workers: int) -> None:
    benchmark.group = f"{folder.name}, {workers} workers"
    read = pipeline(folder, SIDE[folder.name], workers)
    seen = benchmark.pedantic(read, rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call, unused-ignore]
    assert seen == DRAWN
    if benchmark.stats is not None:
        benchmark.extra_info["ms_per_image"] = 1000 * benchmark.stats["median"] / DRAWN
    gc.collect()  # ends the worker processes


@pytest.mark.parametrize("workers", [0, 2])
def test_ratio_of_interleaved_pairs(
    benchmark: BenchmarkFixture, folder: Path, workers: int
) -> None:
    """How many times faster, pair by pair, so that a busy machine slows both sides alike."""
    benchmark.group = "interleaved pairs"
    fast, slow = (make(folder, SIDE[folder.name], workers) for make in (ours, image_folder))
    fast(), slow()
    ratios: list[float] = []

    def pair() -> None:
        ours_takes = seconds(fast)
        ratios.append(seconds(slow) / ours_takes)

    benchmark.pedantic(pair, rounds=PAIRS)  # type: ignore[no-untyped-call, unused-ignore]
    median, low, high = median_interval(ratios)
    benchmark.extra_info["times_faster_median"] = median
    benchmark.extra_info["times_faster_95_interval"] = [low, high]
