"""Networks in ONNX Runtime: exported, checked against torch by one forward pass, and timed.

Needs the packages of the extra `onnx`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import BadInput
from benchmark.forms import TOLERANCE, Impossible, apart
from benchmark.record import one_line

OPSET = 18
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Exported:
    """A network that ONNX Runtime holds for one batch. `difference`: its output against torch's,
    relative to the largest absolute output."""

    clock: Callable[[], float]  # milliseconds of one run
    difference: float


def versions() -> dict[str, str | None]:
    """Of the packages; None: not there."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_installed() -> None:
    """Raises BadInput unless the packages are there."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise BadInput(
            f"--onnx needs {', '.join(lacking)}: pip install 'prunebench[onnx]', or do without "
            "--onnx"
        )


def exported(model: nn.Module, batch: Tensor, threads: int) -> Exported:
    """The network (eval mode, on the batch's device) for this batch, in ONNX Runtime with so many
    threads. The batch size is fixed, as it is for the compiled network.

    Raises:
        Impossible: it cannot be exported or loaded, ONNX Runtime has no such device, or outputs
            differ by more than `TOLERANCE`.
    """
    provider = _PROVIDERS[batch.device.type]
    session = _session(_export(model, batch), provider, threads)
    name, values = session.get_inputs()[0].name, batch.cpu().numpy()
    with torch.no_grad():
        wanted = model(batch).cpu()
    difference = apart(wanted, torch.from_numpy(session.run(None, {name: values})[0]))
    if difference > TOLERANCE:
        raise Impossible(
            f"ONNX Runtime's output differs from torch's by {difference:.1e} of the largest"
        )

    def clock() -> float:
        started = time.perf_counter()
        session.run(None, {name: values})
        return 1e3 * (time.perf_counter() - started)

    return Exported(clock, difference)


def _export(model: nn.Module, batch: Tensor) -> bytes:
    own = model.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            with _quiet():
                torch.onnx.export(
                    own, (batch,), path, opset_version=OPSET, dynamo=True, external_data=False,
                    verbose=False,
                )  # fmt: skip
        except Exception as error:  # the exporter has errors of many types
            raise Impossible(f"export to ONNX: {one_line(error)[:200]}") from error
        return path.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on every channel that there is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _session(content: bytes, provider: str, threads: int) -> Any:
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise Impossible(
            f"this ONNX Runtime has no {provider}: its package for the device is another one"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # of ONNX Runtime, which has many types of its own
        raise Impossible(f"ONNX Runtime: {one_line(error)[:200]}") from error
