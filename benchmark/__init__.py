"""Reproducibility benchmark for CNN channel pruning: the instrument. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.load import load_pruned, load_results

__all__ = ["load_pruned", "load_results"]


def __getattr__(name: str) -> object:
    """Import on first use: `import benchmark` alone stays free of torch."""
    if name in __all__:
        from benchmark import load

        return getattr(load, name)
    raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
