"""Networks from outside the suite: of a user's own file, `FILE.py:FUNCTION`, or by the name of an
entry point of an installed package; each a function num_classes -> network.

The hash of the file is part of a run's identity. Python's table of imported modules remembers the
file under that hash, so whoever holds a run can build its network once the file has been named.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from benchmark.errors import BadInput
from methods import import_file, plugins

FUNCTION = "build"  # unless another is named
_STEM = re.compile("[A-Za-z0-9_][A-Za-z0-9_-]{0,47}")  # becomes the name of a folder
_WORD = re.compile("[A-Za-z_][A-Za-z0-9_]{0,31}")


def is_file(label: str) -> bool:
    """Whether a label names a file, not an architecture."""
    return label.partition(":")[0].endswith(".py")


def read(label: str) -> tuple[str, str, Callable[[int], nn.Module]]:
    """Name in records, hash of the file, and builder.

    Raises:
        BadInput: no such file or function, or a file that cannot be imported.
    """
    place, _, function = label.partition(":")
    function, path = function or FUNCTION, Path(place)
    if not path.is_file():
        raise BadInput(f"--arch {label}: the file {place} does not exist")
    if not _STEM.fullmatch(path.stem) or not _WORD.fullmatch(function):
        raise BadInput(
            f"--arch {label}: files and functions of networks are named by letters, digits and '_'"
        )
    source = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    name = path.stem if function == FUNCTION else f"{path.stem}.{function}"
    return name, source, _builder(_imported(path, source), function, label)


def installed(name: str, taken: plugins.Taken) -> tuple[str, Callable[[int], nn.Module]] | None:
    """Hash of the source and builder of a network that an installed package provides; None: no
    package does.

    Raises:
        BadInput: it cannot be used.
    """
    try:
        provided = plugins.find(plugins.ARCHITECTURES, name, taken)
    except plugins.Unusable as error:
        raise BadInput(str(error)) from error
    if provided is None:
        return None
    if not callable(provided.thing):
        raise BadInput(f"{provided.offer} is no function of the number of classes")
    return provided.sources.digest, _checked(provided.thing, name, name)


def known(name: str, source: str, taken: plugins.Taken) -> Callable[[int], nn.Module]:
    """The builder of a network in a record, if this process has read its file or its package is
    installed.

    Raises:
        BadInput: neither, or the package has another network of that name.
    """
    module = sys.modules.get(_module_name(source))
    if module is not None:
        return _builder(module, name.partition(".")[2] or FUNCTION, name)
    found = installed(name, taken)
    if found is None:
        raise BadInput(
            f"the network {name} is in a file of its author's: give it as --arch FILE.py:FUNCTION, "
            "or install its package"
        )
    if found[0] != source:
        raise BadInput(
            f"the network {name} of the package that is installed has source hash {found[0]}, not "
            f"{source}: install the version of the record"
        )
    return found[1]


def _module_name(source: str) -> str:
    return f"user_network_{source}"


def _imported(path: Path, source: str) -> ModuleType:
    try:
        return import_file(path, _module_name(source))
    except (Exception, SystemExit) as error:
        raise BadInput(f"--arch {path} cannot be imported: {_said(error)}") from error


def _builder(module: ModuleType, function: str, label: str) -> Callable[[int], nn.Module]:
    found = getattr(module, function, None)
    if not callable(found):
        raise BadInput(
            f"--arch {label}: no function '{function}'; it takes the number of classes and returns "
            "the network"
        )
    return _checked(found, function, label)


def _checked(
    found: Callable[[int], object], function: str, label: str
) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        try:
            model = found(num_classes)
        except Exception as error:  # the user's own code
            raise BadInput(f"--arch {label}: {function}({num_classes}): {_said(error)}") from error
        if not isinstance(model, nn.Module):
            raise BadInput(
                f"--arch {label}: {function}({num_classes}) returned a {type(model).__name__}, not "
                "a torch.nn.Module"
            )
        return model

    return build


def _said(error: BaseException) -> str:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return "".join(c if c.isprintable() else "?" for c in line)[:200]
