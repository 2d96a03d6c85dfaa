"""What every command shares: one clear line for a mistake, and the exit codes of DECISIONS 8."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import typer
from rich.console import Console

from benchmark import vectors
from benchmark.errors import BadInput, is_full

UsageProblem: type[Exception] = typer.BadParameter.mro()[2]  # ClickException, wherever it lives
INTERRUPTED_LINE = "interrupted: what is finished is kept, the same command goes on from there"
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run_app(command: Callable[..., Any], same_bits: bool = True) -> None:
    """Run a typer command function as the program and exit with its code. `same_bits`: processors
    with and without AVX-512 compute the same; else with all they have."""
    if same_bits:
        vectors.hold()
    sys.exit(invoke(command, sys.argv[1:]))


def invoke(command: Callable[..., Any], words: list[str]) -> int:
    """Exit code of the command with these words of the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    return outcome(lambda: app(words, standalone_mode=False))


def outcome(call: Callable[[], Any]) -> int:
    """Exit code of a call; mistakes become one line on standard error."""
    try:
        code = call()
    except BadInput as error:
        complain(str(error))
        return BAD_INPUT
    except typer.Exit as leave:
        return int(leave.exit_code)
    except UsageProblem as error:
        text = error.format_message()  # type: ignore[attr-defined]
        complain(f"{' '.join(text.split())} (--help shows what is allowed)")
        return BAD_INPUT
    except OSError as error:
        if not is_full(error) and error.filename is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        todo = "make room" if is_full(error) else "see what is there"
        complain(f"{where}{error.strerror or error}: {todo}; what is finished is kept")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        complain(INTERRUPTED_LINE)
        return INTERRUPTED
    if code == INTERRUPTED:  # typer turns an interrupt into this code
        complain(INTERRUPTED_LINE)
    return int(code or DONE)


def complain(line: str) -> None:
    """One line on standard error."""
    Console(stderr=True, soft_wrap=True).print(f"error: {line}", highlight=False, markup=False)


def warn_of_damage(damaged: Iterable[str], screen: Console) -> None:
    """A line for each record that cannot be read (`Store.damaged`): nothing that is printed counts
    it."""
    for reason in damaged:
        screen.print(
            f"warning: {reason}; it is left out, python -m benchmark.retry sets it aside and makes "
            "it again",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


def console() -> Console:
    """Standard output; plain and unwrapped where it is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=140)
