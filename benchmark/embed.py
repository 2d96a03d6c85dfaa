"""Frames as bytes that a page can hold: compact columns, compressed, as text.

A packed frame is a JSON header and one array per column, each rounded to the column's decimals and
stored as whole numbers of the smallest type that holds them. `html/decode.js` reads it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.columns import Column

ALIGNED = 8  # bytes: typed arrays start at multiples of their size
TYPES = {"i1": 2**7, "i2": 2**15, "i4": 2**31}  # the lowest value stands for "no figure"


def packed(frame: pd.DataFrame, columns: Sequence[Column], **more: Any) -> bytes:
    """The frame's columns with their meanings; `more` goes into the header."""
    heads, body = [], bytearray()
    for column in columns:
        head: dict[str, Any] = {"name": column.name, "meaning": column.meaning, "unit": column.unit}
        values = frame[column.name]
        if column.decimals is None:
            own, array = _text(values)
        else:
            own, array = _numbers(values.to_numpy(np.float64), column.decimals)
        if array is not None:
            own |= {"type": array.dtype.str[1:], "at": len(body)}
            body += array.tobytes()
            body += bytes(-len(body) % ALIGNED)
        heads.append(head | own)
    header = json_bytes({"rows": len(frame), "columns": heads} | more)
    header += b" " * (-(len(header) + 4) % ALIGNED)
    return len(header).to_bytes(4, "little") + header + bytes(body)


def compressed(content: bytes) -> str:
    """As text for a script element: gzip without a time, in base64."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def json_bytes(value: Any) -> bytes:
    """Compact and sorted; NaN is refused. Half characters of a surrogate pair become '?'."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False,
                      allow_nan=False)  # fmt: skip
    return text.encode("utf-8", "replace")


def _text(values: pd.Series[Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    codes, words = pd.factorize(values, sort=True)
    if len(words) > len(values) // 2 and len(words) > 1:
        return {"list": values.to_numpy(dtype=object).tolist()}, None
    head: dict[str, Any] = {"words": list(words)}
    if len(words) <= 1:
        return head | {"same": 0}, None
    return head, codes.astype(_smallest(codes))


def _numbers(values: np.ndarray, decimals: int) -> tuple[dict[str, Any], np.ndarray | None]:
    head: dict[str, Any] = {"decimals": decimals}
    whole = rounded(values, decimals)
    there = ~np.isnan(whole)
    known = whole[there]
    if not len(known):
        return head | {"same": None}, None
    kind = _smallest(known)
    if there.all() and (known == known[0]).all() and kind != "f8":
        return head | {"same": int(known[0])}, None
    if kind == "f8":
        return head, whole
    return head, np.where(there, whole, -TYPES[kind]).astype(f"<{kind}")


def _smallest(known: np.ndarray) -> str:
    largest = np.abs(known).max()
    return next((kind for kind, limit in TYPES.items() if largest < limit), "f8")


def rounded(values: np.ndarray, decimals: int) -> np.ndarray:
    """Multiples of the last decimal, with the digits that `tables.number` prints.

    The product may be rounded to a tie that the value itself is not: there only formatting knows.
    """
    shifted = values * 10.0**decimals
    whole = np.rint(shifted)
    for i in np.flatnonzero(shifted - np.floor(shifted) == 0.5):
        whole[i] = np.rint(float(f"{values[i]:.{decimals}f}") * 10.0**decimals)
    return whole + 0.0  # no negative zero
