"""Weights from files that circulate in the field, read without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from benchmark.errors import BadInput


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint that circulates in the field, under our names.

    Accepts a bare state dict, or one under `state_dict`, `model` or `net`; drops `module.`
    prefixes. Safetensors files are read as such. Nothing in the file is executed.

    Raises:
        BadInput: missing, unreadable, or not a set of named tensors.
    """
    try:
        with path.open("rb") as file:
            return parse_checkpoint(file, path.suffix == ".safetensors", f"checkpoint {path}")
    except FileNotFoundError as error:
        raise BadInput(f"checkpoint {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"checkpoint {path} cannot be read: {type(error).__name__}") from error


def parse_checkpoint(file: BinaryIO, safetensors: bool, place: str) -> dict[str, Tensor]:
    """The tensors in an open file; `place` names it in errors.

    Raises:
        BadInput: as `read_checkpoint`.
    """
    try:
        content: object = _unpack(file, safetensors)
    except Exception as error:  # torch, pickle, zip and tar have errors of many types
        raise BadInput(
            f"{place} cannot be read as plain tensors: give a .safetensors file, or what "
            "torch.save(model.state_dict(), ...) wrote; a whole pickled network could run any code "
            f"and is never opened ({type(error).__name__})"
        ) from error
    for key in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise BadInput(f"{place} holds a {type(content).__name__}, not named tensors")
    tensors = {str(k).removeprefix("module."): v for k, v in content.items() if torch.is_tensor(v)}
    if not tensors:
        raise BadInput(f"{place} holds no tensors")
    for name, tensor in tensors.items():
        if not name.isprintable() or len(name) > 200:
            raise BadInput(f"{place} holds a tensor whose name is not that of a weight")
        if tensor.layout != torch.strided or not tensor.is_cpu or tensor.dtype not in _PLAIN:
            raise BadInput(f"{place} holds tensors that are not plain numbers ({tensor.dtype})")
    return tensors


_PLAIN = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8,
    torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip


def _unpack(file: BinaryIO, safetensors: bool) -> object:
    if not safetensors:
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors.torch import load

    return load(file.read())


HEADS = ("fc", "linear", "classifier", "head")


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into the model by name; the head may be called fc, linear, classifier or head.

    Raises:
        BadInput: a name is missing or left over, or a shape or type differs; the first few are
            named. A head for another number of classes is called that.
    """
    own = model.state_dict()
    head = next((h for h in HEADS if f"{h}.weight" in own), "")
    renamed = dict(tensors)
    for other in HEADS:
        taken = f"{other}.weight" in own or f"{head}.weight" in renamed
        if head and f"{other}.weight" in renamed and not taken:
            renamed = {_rename(k, other, head): v for k, v in renamed.items()}
    missing = sorted(own.keys() - renamed.keys())
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    extra = sorted(renamed.keys() - own.keys())
    both = sorted(own.keys() & renamed.keys())
    wrong = [k for k in both if renamed[k].shape != own[k].shape]
    kinds = [k for k in both if own[k].is_floating_point() and not renamed[k].is_floating_point()]
    given, needed = ({k: tuple(s[k].shape) for k in wrong} for s in (renamed, own))
    if wrong and not (missing or extra or kinds) and _only_classes_differ(given, needed, head):
        raise BadInput(
            f"checkpoint {source} has {given[wrong[0]][0]} classes, the data has "
            f"{needed[wrong[0]][0]}"
        )
    problems = [
        f"{title}: {', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}"
        for title, found in (
            ("missing", missing),
            ("not used", extra),
            ("wrong shape", [f"{k} is {given[k]}, needs {needed[k]}" for k in wrong]),
            ("wrong type", [f"{k} is {renamed[k].dtype}" for k in kinds]),
        )
        if found
    ]
    if problems:
        raise BadInput(f"checkpoint {source} does not fit this architecture: {'; '.join(problems)}")
    model.load_state_dict(renamed, strict=False)


Shapes = dict[str, tuple[int, ...]]


def _only_classes_differ(given: Shapes, needed: Shapes, head: str) -> bool:
    """Whether it is all of the head that differs, by its number of outputs alone."""
    ours = {f"{head}.weight", f"{head}.bias"}
    return (
        given.keys() <= ours
        and f"{head}.weight" in given
        and all(s and s[0] > 0 and s[1:] == needed[k][1:] for k, s in given.items())
        and len({s[0] for s in given.values()}) == 1
    )


def _rename(key: str, old: str, new: str) -> str:
    return f"{new}{key.removeprefix(old)}" if key.startswith(f"{old}.") else key
