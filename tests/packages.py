"""Installed packages made of a folder on the path: what `importlib.metadata` needs, no more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from methods import plugins

Install = Callable[..., Path]

METHOD = '''"""Filters of small L2 norm go."""

from dataclasses import dataclass

from methods.api import Method


@dataclass(frozen=True)
class Shine(Method):
    """L2 norm of each filter (section 3 of nobody's paper)."""

    def score(self, net, trainer):
        return {n: net.weight(n).detach().square().sum((1, 2, 3)).sqrt() for n in net.layers}
'''
NETWORK = """from torch import nn


def small(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
DATA = """import numpy as np


def read(data_dir):
    draw = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % 3
        images = draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        images[np.arange(count), :, :, labels.clip(0, 2)] //= 4
        return images, labels

    return *split(90), *split(30)
"""


def distribution(
    root: Path, name: str, files: Mapping[str, str], points: Mapping[str, str], version: str = "0.1"
) -> Path:
    """Write a package: `files` by place, `points` as `methods/shine`: `shine:Shine`."""
    for place, text in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for key, value in points.items():
        kind, _, point = key.partition("/")
        lines += [f"[prunebench.{kind}]", f"{point} = {value}"]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return root


@contextmanager
def forgetting() -> Iterator[None]:
    """What is imported within the block is not known after it."""
    before = set(sys.modules)
    plugins._sources.cache_clear()
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    plugins._sources.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package for one test: `install("shine", files, points)`."""

    def done(name: str, files: Mapping[str, str], points: Mapping[str, str], **more: str) -> Path:
        root = distribution(tmp_path / f"site-{name}", name, files, points, **more)
        monkeypatch.syspath_prepend(root)
        return root

    with forgetting():
        yield done
