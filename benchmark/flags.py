"""From the flags of a command line to options: comma lists, `--set`, and what they may not be; and
the flags of commands that look at finished runs again."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark import extratest
from benchmark.errors import BadInput
from benchmark.options import Options, options_from

RunIds = Annotated[list[str], typer.Argument(help="Run ids, their starts, or folders of runs.")]
Records = Annotated[Path, typer.Option(help="Where the records are.")]
DataDir = Annotated[Path | None, typer.Option(help="Where the images are.")]
Weights = Annotated[Path | None, typer.Option(help="The weights they started from.")]
OwnArch = Annotated[str | None, typer.Option(help="A user's own network: FILE.py:FUNCTION.")]
OwnMethod = Annotated[Path | None, typer.Option(help="A user's own method.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as then.")]


def options_of(flags: dict[str, Any]) -> Options:
    """From the flags as they were parsed; None: not given.

    Raises:
        BadInput: as `options_from`.
    """
    words = {k: v for k, v in flags.items() if v is not None}
    for name in ("dry_run", "list_", "wait"):
        words.pop(name, None)
    config, settings = words.pop("config", None), words.pop("set_", None)
    if "compile_" in words:
        words["compile"] = words.pop("compile_")
    words |= _lists(words) | ({"set": dict(map(_setting, settings))} if settings else {})
    return options_from(words, config)


def _lists(words: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "extra_test" in words:
        found["extra_test"] = extratest.named(words["extra_test"])
    for name in ("methods", "reconstruct", "preparation", "schedule", "weights"):
        if name in words:
            found[name] = [w.strip() for w in words[name].split(",") if w.strip()]
    for name, kind in (("flops_reduction", float), ("seeds", int)):
        if name in words:
            try:
                found[name] = [kind(w) for w in words[name].split(",")]
            except ValueError as error:
                flag = "--" + name.replace("_", "-")
                raise BadInput(f"{flag} {words[name]}: give numbers, as 0,1,2") from error
    return found


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"--set {text}: write OWNER.FIELD=VALUE, as whitebox.mask_epochs=5")
    if value in ("true", "false"):
        return key, value == "true"
    try:
        return key, ast.literal_eval(value)  # numbers and tuples; nothing is executed
    except (ValueError, SyntaxError):
        return key, value
