"""What code can get at from an object, and whether given images are among it."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from benchmark.images import Images

NEEDLES = 3  # lines of pixels that are looked for


def holds(root: object, images: Images) -> bool:
    """Whether pixels of the first of these images can be got at, as bytes, from the object.

    Raises:
        ValueError: that image is too uniform to be recognised.
    """
    lines = images.pixels[0].flatten(0, 1)
    needles = [line.numpy().tobytes() for line in lines if len(line.unique()) > 3][:NEEDLES]
    if len(needles) < NEEDLES:
        raise ValueError("the first test image is nearly uniform: it cannot be recognised")
    for tensor in reachable(root):
        if tensor.dtype == torch.uint8:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            content = whole.set_(tensor.untyped_storage()).cpu().numpy().tobytes()
            if all(needle in content for needle in needles):
                return True
    return False


def reachable(root: object) -> Iterator[Tensor]:
    """Tensors that code can get at through attributes, items and what functions close over."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | types.ModuleType):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, np.ndarray):
            if item.dtype == np.uint8:
                yield torch.from_numpy(item.copy())
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        elif isinstance(item, types.MethodType):
            waiting += [item.__self__, item.__func__]
        elif isinstance(item, types.FunctionType):
            waiting += [c.cell_contents for c in item.__closure__ or () if c != types.CellType()]
            waiting += [item.__defaults__, item.__kwdefaults__]
        elif hasattr(item, "__dict__"):
            waiting.append(vars(item))
