"""Checkpoints inside training: one file per moment, named by its content, so that a torn one shows.

A run is replayed from the top after a kill; its training phases are not: each continues from its
last good checkpoint, to the bit. State that must survive lives in tensors of the network (gates
included), in the optimiser, in the random states, or in the phase's `Memory`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from benchmark.files import write_bytes
from benchmark.record import parse_json

KEPT = 2  # checkpoints of a phase: the one before serves where the last is torn
EVERY = 600.0  # seconds between checkpoints within an epoch
_NAME = re.compile(r"(?P<phase>[a-z0-9-]+)-(?P<step>\d{9})-(?P<digest>[0-9a-f]{16})\.safetensors")


def quiet(line: str) -> None:
    """No log."""


@dataclass(frozen=True)
class Moment:
    """Everything that continues a phase: tensors, and facts as JSON."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Memory(Protocol):
    """What a phase remembers beside the network, fed after every epoch."""

    def state(self) -> Moment: ...
    def restore(self, moment: Moment) -> None: ...


@dataclass
class Checkpoints:
    """Those of one piece of work (a dense network, a scoring, a run)."""

    folder: Path
    every: float = EVERY
    log: Callable[[str], None] = quiet
    _last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether the epoch is so long that it wants a checkpoint inside."""
        return time.monotonic() - self._last >= self.every

    def save(self, phase: str, step: int, moment: Moment) -> None:
        """Write one, durable and whole; older ones of the phase go."""
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in moment.tensors.items()}
        content = save(whole, metadata={"facts": json.dumps(moment.facts)})
        name = f"{phase}-{step:09d}-{_digest(content)}.safetensors"
        write_bytes(self.folder / name, content)
        for old in self._of(phase)[:-KEPT]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def last(self, phase: str) -> Moment | None:
        """The newest whole one; torn ones are named in the log and thrown away."""
        for path in reversed(self._of(phase)):
            try:
                return read_moment(path)
            except Torn as error:
                self.log(f"warning: {error}; going back to the checkpoint before it")
                path.unlink(missing_ok=True)
        return None

    def drop(self) -> None:
        """The work is done and published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _of(self, phase: str) -> list[Path]:
        """Checkpoints of a phase, oldest first."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            match = _NAME.fullmatch(path.name)
            if match is not None and match["phase"] == phase:
                found.append((int(match["step"]), path.stat().st_mtime_ns, path))
        return [path for _, _, path in sorted(found)]


class Torn(Exception):
    """A checkpoint that is not what was written."""


def read_moment(path: Path) -> Moment:
    """A checkpoint from disk; nothing in it is executed.

    Raises:
        Torn: truncated, changed, or not a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise Torn(f"{path.name} has not the name of a checkpoint")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Torn(f"checkpoint {path.name} cannot be read ({type(error).__name__})") from error
    if _digest(content) != match["digest"]:
        raise Torn(f"checkpoint {path.name} is torn: its content is not what its name says")
    return parse_moment(content, path.name)


def parse_moment(content: bytes, name: str) -> Moment:
    """The checkpoint in these bytes; `name` names them in errors.

    Raises:
        Torn: not a checkpoint.
    """
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        facts = parse_json(parse_json(content[8 : 8 + length])["__metadata__"]["facts"].encode())
        if not isinstance(facts, dict):
            raise ValueError("no facts")
        return Moment(tensors, facts)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Torn(f"checkpoint {name} cannot be read ({type(error).__name__})") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# ---- what a moment is made of --------------------------------------------------------------------


def network_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, those that a state dict leaves out included."""
    named = [*net.named_parameters(), *net.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


def check_network(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises Torn unless these are the tensors of such a network."""
    own = network_tensors(net)
    if own.keys() != tensors.keys() or any(own[k].shape != v.shape for k, v in tensors.items()):
        raise Torn("a checkpoint is of another network")


@torch.no_grad()
def restore_network(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """In place, so that optimiser and gates keep their parameters; see `check_network`."""
    for name, tensor in network_tensors(net).items():
        tensor.copy_(tensors[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors of the optimiser by place of the parameter and name."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{place}/{name}": value
        for place, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Buffers get the memory layout of their parameters, as a fresh optimiser gives them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        place, _, name = key.partition("/")
        parameter = parameters[int(place)]
        own = torch.empty_like(parameter) if value.shape == parameter.shape else value.clone()
        optimizer.state[parameter][name] = own.copy_(value)


def random_states() -> Moment:
    """Of torch (each GPU included), NumPy and Python."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        tensors |= {f"cuda/{device}": state for device, state in enumerate(states)}
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    version, words, left = random.getstate()
    tensors["python"] = torch.tensor(words, dtype=torch.int64)
    facts = {"numpy": [str(kind), int(place), int(has_gauss), float(gauss)]}
    return Moment(tensors, facts | {"python": [version, left]})


def restore_random_states(moment: Moment) -> None:
    """Continue all generators where they were."""
    tensors = moment.tensors
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for name in (n for n in tensors if n.startswith("cuda/")):
            torch.cuda.set_rng_state(tensors[name], int(name.removeprefix("cuda/")))
    kind, place, has_gauss, gauss = moment.facts["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, place, has_gauss, gauss))
    version, left = moment.facts["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), left))


def seed_everything(seed: int) -> None:
    """For methods and layers that draw from global generators (dropout)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def joined(**parts: Moment) -> Moment:
    """One moment with every tensor and fact under its part's name."""
    tensors = {f"{part}|{k}": v for part, m in parts.items() for k, v in m.tensors.items()}
    return Moment(tensors, {part: m.facts for part, m in parts.items()})


def part(moment: Moment, name: str) -> Moment:
    """A part of a joined moment."""
    own = {
        k.removeprefix(f"{name}|"): v for k, v in moment.tensors.items() if k.startswith(f"{name}|")
    }
    return Moment(own, moment.facts[name])
