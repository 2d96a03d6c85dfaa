"""Weights that torchvision and timm ship, as a checkpoint file that runs start from."""

from __future__ import annotations

from safetensors.torch import save

from benchmark import zoo
from benchmark.errors import BadInput
from benchmark.files import write_bytes
from benchmark.images import DataIdentity
from benchmark.options import Options


def with_pretrained(options: Options) -> Options:
    """The same grid with the library's weights as its checkpoint, fetched once and kept under
    `stages/`. Without `--pretrained`, the options as they are.

    Raises:
        BadInput: the architecture comes from no library, or the weights cannot be had here.
    """
    if not options.pretrained:
        return options
    if options.checkpoint is not None:
        raise BadInput("--pretrained and --checkpoint both name weights: give one of them")
    place = zoo.split(options.arch)
    if place is None:
        raise BadInput(
            f"--pretrained: {options.arch} comes from no library that ships weights (timm/NAME, "
            "torchvision/NAME); give a file by --checkpoint"
        )
    zoo.builder(*place)  # an unknown name is called that
    path = options.results / "stages" / "pretrained" / f"{'-'.join(place)}.safetensors"
    if not path.is_file():
        tensors = {k: v.contiguous() for k, v in zoo.pretrained(*place).items()}
        write_bytes(path, save(tensors))
    return options.model_copy(update={"checkpoint": path, "pretrained": False})


def normalisation_note(arch: str, data: DataIdentity) -> str:
    """A line where a library's weights expect images normalised in another way than the data is;
    empty: they do not."""
    place = zoo.split(arch)
    expected = None if place is None else zoo.normalisation(*place)
    if expected is None or expected == (data.mean, data.std):
        return ""
    words = ";".join(",".join(f"{v:g}" for v in part) for part in expected)
    return f"note: {arch}'s pretrained weights expect --normalize '{words}'"
