"""`python -m benchmark.save RUN FILE`: the network of a run as a checkpoint for other code.

Keys and shapes are those of the smaller network: where channels are gone, loading it needs the
run's plan too. A network that lost none is a checkpoint of its architecture, and other runs can
start from it by `--checkpoint FILE`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import save

from benchmark.cli import DONE, console, run_app
from benchmark.encoding import weights_digest
from benchmark.errors import BadInput
from benchmark.files import write_bytes
from benchmark.kept import pruned_of, read_finished
from benchmark.load import find_run
from benchmark.record import one_line

SUFFIX = ".safetensors"


def main(
    run: Annotated[str, typer.Argument(help="Run id, the start of one, or a run's folder.")],
    file: Annotated[Path, typer.Argument(help=f"What to write, FILE{SUFFIX}.")],
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    weights: Annotated[
        Path | None, typer.Option(help="Another results directory, which holds the weights.")
    ] = None,
) -> int:
    """Write the recovered network of a run as a safetensors file.

    Example: python -m benchmark.save 3f2a results-demo/net.safetensors --results results-demo
    """
    if file.suffix != SUFFIX:
        raise BadInput(f"{file}: give a {SUFFIX} file")
    finished = read_finished(find_run(run, results), results)
    tensors = pruned_of(finished, weights).state_dict()
    own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    try:
        write_bytes(file, save(own, {"run_id": finished.record.run_id}))
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {one_line(error)}") from error
    said = f"{file}: {finished.spec.name}, run {finished.record.run_id}, {len(own)} tensors"
    line = f"{said}, {weights_digest(own)}"
    console().print(line, highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
