"""`python -m benchmark.new method NAME`: the three files of a new method, which run as written."""

from __future__ import annotations

import datetime
import importlib.util
import keyword
import re
import shlex
import string
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.files import write_new
from methods import FOLDER, SUPPORT, names

TEMPLATES = Path(__file__).parent / "templates"
FILES = {  # template: name of the file
    "method.py.txt": "{name}.py",
    "method.toml.txt": "{name}.toml",
    "test_method.py.txt": "test_{name}.py",
}
WORDS = {"all", "recovery", "baseline"}  # mean something to --methods and --set
_NAME = re.compile("[a-z][a-z0-9_]{0,39}")


def check_name(name: str) -> None:
    """Raises BadInput unless a file of the user's own can be called so."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise BadInput(
            f"'{name}' cannot be the name of a method: give 1 to 40 of a-z, 0-9 and '_', a letter "
            "first, no word of Python"
        )
    if name in names() or name in SUPPORT:
        raise BadInput(f"'{name}' is one of ours: give another name")
    if name in WORDS or name.startswith("test_"):
        raise BadInput(f"'{name}' means something else here: give another name")


def files_of(name: str) -> dict[str, str]:
    """Names and texts of the files."""
    words = {
        "name": name,
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "title": name.replace("_", " ").capitalize(),
        "year": str(datetime.date.today().year),
    }
    return {
        file.format(name=name): string.Template(
            (TEMPLATES / template).read_text(encoding="utf-8")
        ).substitute(words)
        for template, file in FILES.items()
    }


def write(name: str, folder: Path) -> list[Path]:
    """Write the files of a new method; their places.

    Raises:
        BadInput: a bad name, a file that is there already, or a folder that cannot be used.
    """
    check_name(name)
    if folder.resolve() == FOLDER.resolve():
        raise BadInput(
            f"--folder {folder} holds the suite's own methods: write it elsewhere; a method that "
            "is ready moves here with its card, and its test to tests/"
        )
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--folder {folder} is a file: give a folder")
    made = {folder / file: text for file, text in files_of(name).items()}
    for path in made:
        if path.exists():
            raise BadInput(f"{path} is there already: give another name, or another --folder")
    if _is_module(name, folder):
        raise BadInput(
            f"'{name}' is the name of a module that Python imports, and {name}.py would stand in "
            "its way: give another name"
        )
    for path, text in made.items():
        if not write_new(path, text.encode("utf-8")):
            raise BadInput(f"{path} was written meanwhile: look at it")
    return list(made)


def _is_module(name: str, folder: Path) -> bool:
    found = importlib.util.find_spec(name)
    origin = None if found is None else found.origin
    # a folder of that name beside us counts as a module too, and does no harm
    return origin is not None and Path(origin).parent.resolve() != folder.resolve()


def main(
    kind: Annotated[str, typer.Argument(help="What to make: method.")],
    name: Annotated[str, typer.Argument(help="a-z, 0-9 and '_', a letter first.")],
    folder: Annotated[Path, typer.Option(help="Where it is written.")] = Path(),
) -> int:
    """Write a method file, its card and its test, to be changed: all of them run as written.

    Example: python -m benchmark.new method mine
    """
    if kind != "method":
        raise BadInput(f"'{kind}' cannot be made here: give method")
    paths = write(name, folder)
    screen = console()
    place = paths[0] if paths[0].parent != Path() else Path(f"./{paths[0]}")
    for line in (
        *(f"written: {path}" for path in paths),
        f"Next: python -m benchmark.check {shlex.quote(str(place))} tells which promises it keeps",
        f"Next: python -m pytest {shlex.quote(str(paths[-1]))} tells the same, and its own example",
        "Next: change what says REPLACE or CHANGE",
    ):
        screen.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
