"""Fixtures shared by all tests. What they return is made in `tiny.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch

from benchmark import vectors
from benchmark.data import Data

vectors.hold()  # here and in the processes that tests start, as commands do


@pytest.fixture(autouse=True)
def one_cpu_thread() -> Iterator[None]:
    """One and two threads give different bits (DECISIONS 2)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_data() -> Data:
    """200 / 40 / 60 images of 16 x 16 in 4 classes, learnable in a second."""
    return tiny.data()


@pytest.fixture
def tiny_trainer() -> tiny.MakeTrainer:
    """Makes a `Trainer` on the tiny data: `tiny_trainer(seed=0, epochs=4.0, recipe=..., ...)`."""
    return tiny.trainer


@pytest.fixture
def tiny_network() -> tiny.MakeNetwork:
    """Makes a `Network`: `tiny_network("resnet" | "vgg", seed=0, trained=True, scope="inner")`."""
    return tiny.network


@pytest.fixture
def shared_data() -> Path:
    """Weights and images that are not part of the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
