"""`python -m benchmark.card`: `CARD.md`, what the boards of a results directory are, where their
data come from, what they cost, how they were declared, and what they cannot show.

Made from records, `protocol.toml` and `sources.toml` alone: the same files give the same bytes,
wherever they lie and with or without git. What only this machine knows (history, attempts) is
looked at by `--check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmark import cardcounts, cardtext, declaration, described
from benchmark.chosen import TRIALS
from benchmark.cli import DONE, console, run_app, warn_of_damage
from benchmark.described import Sources, read_sources
from benchmark.errors import BadInput
from benchmark.files import write_text
from benchmark.holdings import Holding, declared_in, holdings
from benchmark.protocol import Protocol
from benchmark.record import RunRecord
from benchmark.store import Store

CARD, PILOT = "CARD.md", "pilot"


@dataclass(frozen=True)
class Shelf:
    """Everything the card is made from."""

    root: Path
    sources: Sources
    held: tuple[Holding, ...]
    pilot: tuple[RunRecord, ...]
    trials: tuple[RunRecord, ...]
    unreadable: tuple[str, ...]  # a line for each record that is damaged

    @property
    def places(self) -> dict[str, tuple[Store, tuple[RunRecord, ...]]]:
        """Runs that stand in no trial, with the store that holds them: boards, and the pilot."""
        found = {own.name: (Store(self.root), own.records) for own in self.held}
        more = {PILOT: (Store(self.root / PILOT), self.pilot)} if self.pilot else {}
        return found | more


def read_shelf(root: Path) -> Shelf:
    """Of a results directory.

    Raises:
        BadInput: it holds neither runs nor a protocol, or one of the files cannot be read.
    """
    store, pilot, trials = Store(root), Store(root / PILOT), Store(root / TRIALS)
    protocol, records = declared_in(root), store.records()
    if not records and not protocol.board:
        raise BadInput(f"{root} holds neither runs nor a protocol: there is nothing to describe")
    return Shelf(
        root=root,
        sources=read_sources(root),
        held=tuple(holdings(protocol, records)),
        pilot=tuple(pilot.records()),
        trials=tuple(trials.records()),
        unreadable=tuple(line for each in (store, pilot, trials) for line in each.damaged()),
    )


def card(shelf: Shelf) -> str:
    """The whole card, as Markdown."""
    held, places, known = shelf.held, shelf.places, shelf.sources
    everything = [r for _, own in places.values() for r in own]
    lines = [*cardtext.HEAD]
    if shelf.unreadable:
        lines += [
            f"**{len(shelf.unreadable)} damaged: records that cannot be read are left out.**",
            "",
        ]
    lines += ["## Boards", "", *cardtext.boards(Store(shelf.root), held, known)]
    lines += ["## Provenance and terms", "", cardtext.TERMS, ""]
    lines += described.section(*cardtext.used(places, held), known)
    lines += ["## Compute", "", *cardcounts.compute(places, shelf.trials, known)]
    lines += ["## The protocol", "", *cardtext.protocol(held, known)]
    lines += ["## Openings of the test split", "", *cardcounts.openings(places)]
    lines += ["## What these boards cannot show", "", *cardcounts.limits(held, known, everything)]
    return "\n".join(lines).rstrip() + "\n"


# ---- checking ------------------------------------------------------------------------------------


def check(shelf: Shelf) -> list[str]:
    """Whether the card on disk is this one, and what it says of history is what git says. Lines
    about what was looked at, and about failed attempts, which only this machine knows.

    Raises:
        BadInput: it is not.
    """
    place = shelf.root / CARD
    written = place.read_text(encoding="utf-8") if place.exists() else ""
    if written != card(shelf):
        raise BadInput(
            f"{place} is not what records, protocol and sources give: python -m benchmark.card "
            f"--results {shelf.root} writes it"
        )
    lines = [f"{place}: what the files give"]
    if any(own.board for own in shelf.held):
        lines += (
            declaration.check(shelf.root, shelf.held, shelf.sources.declared)
            if declaration.has_history(shelf.root)
            else ["no git history here: declarations are not checked"]
        )
    return [*lines, *_attempts(shelf)]


def _attempts(shelf: Shelf) -> list[str]:
    """Runs that were tried here and have no record, so that they can be disclosed by hand."""
    lines = []
    for name in ("", PILOT, TRIALS):
        last = Store(shelf.root / name).last_attempts()
        found = Counter((attempt.status, " ".join(attempt.reason.split())) for attempt in last)
        where = f"{name}/attempts" if name else "attempts"
        lines += [f"{where}: {n} {status}: {why}" for (status, why), n in sorted(found.items())]
    return lines


def missing_from(protocol: Protocol, known: Sources, held: Sequence[Holding]) -> list[str]:
    """Data sets and checkpoints of declared boards that `sources.toml` does not describe."""
    found = []
    for name, board in protocol.board.items():
        records = next(own.records for own in held if own.name == name)
        hashes = {r.spec.data.content_hash for r in records} or {""}
        found += [f"{board.data} {h}" for h in sorted(hashes) if not known.of_data(board.data, h)]
        starts = {board.checkpoint, *(r.spec.start.checkpoint for r in records)} - {""}
        found += [start for start in sorted(starts) if start not in known.checkpoint]
    return sorted(set(found))


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    is_check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing: hold the card against the files and git."),
    ] = False,
) -> int:
    """Write CARD.md: boards, provenance, compute, protocol, test-split openings, limits.

    Example: python -m benchmark.card --results results
    """
    shelf, screen = read_shelf(results), console()
    warn_of_damage(shelf.unreadable, screen)
    if is_check:
        lines = check(shelf)
    else:
        write_text(results / CARD, card(shelf))
        lines = [f"written to {results / CARD}"]
    for line in lines:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
