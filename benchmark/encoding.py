"""Results as text and numbers as digests: JSON for facts, CSV for curves, hashes for weights."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.spec import digest


def encode(value: Any) -> Any:
    """JSON for facts: tensors become float16 in base64 (masks: 40 kB for ResNet-110)."""
    if isinstance(value, Tensor):
        half = value.detach().cpu().half()
        data = base64.b64encode(half.numpy().tobytes()).decode()
        return {"float16": data, "shape": list(half.shape)}
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def decode(value: Any) -> np.ndarray:
    """Array of an encoded tensor."""
    raw = np.frombuffer(base64.b64decode(value["float16"]), dtype=np.float16)
    return raw.reshape(value["shape"]).astype(np.float32)


def packed(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """JSON `masks` of those that hold truth: shape, and bits as `np.packbits` orders them, in
    base64. Empty without any."""
    masks = {
        name: {
            "shape": list(found.shape),
            "bits": base64.b64encode(np.packbits(found.cpu().numpy()).tobytes()).decode(),
        }
        for name, found in sorted(tensors.items())
        if found.dtype == torch.bool
    }
    return {"masks": masks} if masks else {}


def unpacked(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that `packed` wrote; empty without any.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: they are not as it writes them.
    """
    return {str(name): _truth(found) for name, found in content.get("masks", {}).items()}


def _truth(found: Any) -> Tensor:
    shape, raw = found["shape"], base64.b64decode(found["bits"], validate=True)
    if not all(type(n) is int and n > 0 for n in shape):
        raise ValueError("the shape of a mask is no shape")
    count = math.prod(shape)
    if len(raw) != -(-count // 8):  # before anything of that size is made
        raise ValueError(f"a mask of {count} has {len(raw)} bytes")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(shape)


def plan_digest(keep: Mapping[str, Sequence[int]], tensors: dict[str, Tensor]) -> str:
    """Of everything that a plan says: kept units by group, and what its tensors hold."""
    kept: dict[str, Any] = {group: list(units) for group, units in keep.items()}
    return digest(kept | {"": weights_digest(tensors)} if tensors else kept)


def curve_csv(rows: list[dict[str, Any]]) -> str:
    """One line per epoch; numbers as Python prints them."""
    columns = ["phase", "epoch", "images", "lr", "loss", "val_top1"]
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    for row in rows:
        text.write(",".join("" if row[c] is None else str(row[c]) for c in columns) + "\n")
    return text.getvalue()


def weights_digest(state: dict[str, Tensor]) -> str:
    """16 hex digits over names, types, shapes and bits."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        found = state[name].detach().cpu()
        # `contiguous` keeps strange strides of dimensions with a single element
        tensor = torch.empty(found.shape, dtype=found.dtype).copy_(found)
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
        hasher.update(repr(tensor.item()).encode() if not tensor.dim() else b"")
    return hasher.hexdigest()[:16]
