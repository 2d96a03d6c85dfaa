"""`python -m benchmark.why RUN`: what became of one run, in a sentence."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.grid import Planned, read_grids
from benchmark.load import run_id_of
from benchmark.record import RunRecord
from benchmark.spec import RunSpec
from benchmark.state import Now, done_line, state_of
from benchmark.store import Store
from benchmark.submissions import coverage


def main(
    run: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
) -> int:
    """Say in one sentence why a run is done, reused, failed, waiting or not begun.

    Example: python -m benchmark.why 3f2a --results results-demo
    """
    store = Store(results)
    work = find_work(run, store)
    said = sentence(state_of(work, store, coverage(store)), store)
    console().print(said, highlight=False, markup=False, soft_wrap=True)
    return DONE


def find_work(run: str, store: Store) -> Planned:
    """The piece of work whose run id (or dense key) begins so, in grids, records and attempts.

    Raises:
        BadInput: none or several match.
    """
    wanted = run_id_of(run.removeprefix("dense-"))
    known = {w.key: w for grid in read_grids(store) for w in grid.work}
    specs = [*(r.spec for r in store.records()), *store.attempted()]
    for spec in specs:
        known.setdefault(spec.run_id, _lone(spec))
    found = [w for key, w in known.items() if key.removeprefix("dense-").startswith(wanted)]
    if not found:
        raise BadInput(f"nothing under {store.root} has a run id that begins with '{wanted}'")
    if len(found) > 1:
        names = ", ".join(f"{w.key} ({w.name})" for w in found[:5])
        raise BadInput(f"{len(found)} runs begin with '{wanted}': {names}; give more digits")
    return found[0]


def _lone(spec: RunSpec) -> Planned:
    """A run that no grid on this machine names."""
    name = f"{spec.method.label} seed {spec.seeds.run}"
    return Planned("cell", spec.run_id, name, spec, "", "", None)


def sentence(now: Now, store: Store) -> str:
    """`hrank at 50 % seed 0 is …`"""
    name, root = now.work.name, shlex.quote(str(store.root))
    if now.state == "done" and now.work.kind == "cell":
        return f"{name} is done: {done_line(store.read(now.work.spec))}; {_reused(now, store)}."
    if now.state == "done":
        return f"{name} is done and {now.reason}."
    if now.state == "failed":
        tries = len(store.attempts(now.work.spec))
        times = f" ({tries} tries)" if tries > 1 else ""
        again = f"python -m benchmark.retry --failed --results {root}"
        return f"{name} failed because {_bare(now.reason)}{times}; `{again}` tries it again."
    if now.state == "interrupted":
        again = f"python -m benchmark.retry --results {root}"
        return f"{name} was interrupted: {_bare(now.reason)}; `{again}` goes on from there."
    if now.state in ("n/a", "not run"):
        return f"{name} is {now.state} because {_bare(now.reason)}."
    if now.state == "queued":
        return f"{name} is queued: {_bare(now.reason)}."
    if now.state == "waiting":
        return f"{name} stands: {_bare(now.reason)}."
    if now.state == "running":
        share = f", {now.share}" if now.share else ""
        age = f", {now.age}" if now.since else ""
        return f"{name} is running: {_bare(now.reason)}{share}{age}."
    if now.state == "damaged":
        again = f"python -m benchmark.retry --results {root}"
        return (
            f"{name} is damaged: {_bare(now.reason)}; `{again}` sets it aside and makes it again."
        )
    return f"{name} is to do: {_bare(now.reason)}."


def _reused(now: Now, store: Store) -> str:
    record: RunRecord = store.read(now.work.spec)
    commit = str((record.environment.get("git") or {}).get("commit") or "")[:7]
    code = f" with code {commit}" if commit else ""
    return (
        f"its record{code} is reused, for nothing that its id {record.run_id} stands for has "
        "changed since"
    )


def _bare(reason: str) -> str:
    return " ".join(reason.split()).rstrip(".")


if __name__ == "__main__":
    run_app(main)
