"""What code can get at from an object, and whether given images are among it."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor


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
