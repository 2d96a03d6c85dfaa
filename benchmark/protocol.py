"""`python -m benchmark.protocol FILE`: what boards declared before they began, and what came of it.

A board is declared in `results/protocol.toml` and committed before its first run: methods, targets,
budget, seeds, what is compared with what, and the margin. The command says which of the declared
runs are there, and every run of the board that was not declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import Field, ValidationError

from benchmark.asked import Kind
from benchmark.cli import DONE, console, run_app
from benchmark.errors import BadInput
from benchmark.frozen import Frozen
from benchmark.matchups import REFERENCES
from benchmark.paired import MARGIN
from benchmark.progress import counted
from benchmark.record import RunRecord, one_line
from benchmark.sharing import strays
from benchmark.spec import Allocation, RunSpec, Track
from benchmark.store import Store
from methods import UnknownMethod, find_ours
from methods.cards import parse_toml

PROTOCOL_FILE = "protocol.toml"
Content = TypeVar("Content", bound=Frozen)
HOME = Path("results") / PROTOCOL_FILE


class Pilot(Frozen):
    """How budget and targets were found: by which command, with which seeds, and what it said."""

    command: str
    rule: str
    seeds: tuple[int, ...]
    found: tuple[str, ...]


class Board(Frozen):
    """One network on one data set. `rows`, by allocation: as tables call them, `l1norm + ls` and
    `whitebox (preparation free)` among them; controls stand with them. `checkpoint`: hash of the
    weights that all runs start from, after `adapt_epochs` of training for each seed, unless 0.
    `asked`: kinds of questions that it is run for; none: all. `limits`: what the board cannot show,
    in sentences."""

    version: str
    data: str
    arch: str
    track: Track = "common"
    checkpoint: str = ""
    adapt_epochs: float = Field(0, ge=0)
    adaptation: str = ""
    sweep: str
    rows: dict[Allocation, tuple[str, ...]] = Field(min_length=1)
    targets: tuple[float, ...] = Field(min_length=1)
    budget_epochs: float = Field(gt=0)
    seeds: tuple[int, ...] = Field(min_length=1)
    against: tuple[str, ...]
    margin: float = Field(gt=0)
    asked: tuple[Kind, ...] = ()
    limits: tuple[str, ...] = ()
    pilot: Pilot | None = None


class Protocol(Frozen):
    board: dict[str, Board]


Place = tuple[str, str, float, int]  # row, allocation, target, seed; target 0: removes nothing


@dataclass(frozen=True)
class Standing:
    """Of a board: how many declared runs are there, which lack, and what was not declared."""

    declared: int
    missing: tuple[Place, ...]
    deviations: tuple[str, ...]

    @property
    def done(self) -> int:
        return self.declared - len(self.missing)


def read_toml(path: Path, kind: type[Content]) -> Content:
    """What a file declares.

    Raises:
        BadInput: it cannot be read, or does not say what it must.
    """
    try:
        return kind.model_validate(parse_toml(path.read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path}: {where}: {one_line(first['msg'])}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {one_line(error)}") from error


def read_protocol(path: Path) -> Protocol:
    """The declared boards.

    Raises:
        BadInput: as `read_toml`; a method that does not exist, or comparisons that are not made.
    """
    found = read_toml(path, Protocol)
    for name, board in found.board.items():
        try:
            declared(board)
        except UnknownMethod as error:
            raise BadInput(f"{path}: board {name}: {error}") from error
        if board.against != REFERENCES or board.margin != MARGIN:
            raise BadInput(
                f"{path}: board {name}: comparisons are made against {', '.join(REFERENCES)} with "
                f"a margin of {MARGIN} points; declare these"
            )
    return found


def declared(board: Board) -> list[Place]:
    """Every run of the board. What removes nothing is run once per seed."""
    return [
        (row, allocation, target, seed)
        for allocation, rows in board.rows.items()
        for row in rows
        for target in (board.targets if _prunes(row) else (0.0,))
        for seed in board.seeds
    ]


def _prunes(row: str) -> bool:
    return find_ours(row.partition(" ")[0]).cls.allocations != ("none",)


def standing(board: Board, records: Sequence[RunRecord]) -> Standing:
    """Against the records that count for it."""
    own = [r.spec for r in records]
    wanted = declared(board)
    there, odd = set(), []
    apart = strays(records)
    for spec in own:
        place = (spec.name, spec.allocation, spec.flops_reduction, spec.seeds.run)
        reasons = [*_other_settings(board, spec), *filter(None, [apart.get(spec.run_id)])]
        if place not in wanted:
            reasons.append("not declared")
        if reasons:
            what = _named(spec.name, spec.allocation, spec.flops_reduction)
            odd.append(f"{what} seed {spec.seeds.run} ({spec.run_id}): {', '.join(reasons)}")
        else:
            there.add(place)
    missing = tuple(place for place in wanted if place not in there)
    return Standing(len(wanted), missing, tuple(sorted(odd)))


def _is_of(board: Board, spec: RunSpec) -> bool:
    """Whether a run is of the board's data, network and track."""
    return (spec.data.name, spec.arch.name, spec.track) == (board.data, board.arch, board.track)


def owner(boards: Mapping[str, Board], spec: RunSpec) -> str | None:
    """The board that a run counts for, by name: of those of its data, network and track the one
    whose start and budget it has, else the first. None: there is none."""
    near = [name for name, board in boards.items() if _is_of(board, spec)]
    fitting = [name for name in near if not any(_other_settings(boards[name], spec))]
    return next(iter([*fitting, *near]), None)


def _other_settings(board: Board, spec: RunSpec) -> Iterable[str]:
    if spec.start.kind == "random" and not board.checkpoint:
        return  # a control: its budget is that of baseline and board together
    adapted = spec.baseline.epochs if spec.baseline and spec.start.checkpoint else 0
    if spec.start.checkpoint != board.checkpoint:
        yield f"starts from {spec.start.checkpoint or spec.start.kind}"
    elif adapted != board.adapt_epochs:
        yield f"start adapted for {adapted:g} epochs"
    if spec.budget_epochs != board.budget_epochs:
        yield f"budget {spec.budget_epochs:g} epochs"


def report(name: str, board: Board, found: Standing) -> list[str]:
    """What became of a board, line by line."""
    lines = [
        f"{name} {board.version}: {found.done} of {counted(found.declared, 'declared run')} done"
    ]
    lacking: dict[str, list[int]] = {}
    for row, allocation, target, seed in found.missing:
        lacking.setdefault(_named(row, allocation, target), []).append(seed)
    for what, seeds in lacking.items():
        lines.append(f"  missing: {what}, seeds {_listed(seeds)}")
    lines += [f"  deviation: {text}" for text in found.deviations]
    return lines


def _named(row: str, allocation: str, target: float) -> str:
    return f"{row} ({allocation}) at {100 * target:g} %"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def main(
    file: Annotated[Path, typer.Argument(help="The protocol.")] = HOME,
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
) -> int:
    """Say which declared runs of each board are there, and which runs were not declared.

    Example: python -m benchmark.protocol results/protocol.toml
    """
    protocol, screen = read_protocol(file), console()
    for name, board in protocol.board.items():
        records = [
            record
            for record in Store(results).records(f"{board.data}/{board.arch}")
            if owner(protocol.board, record.spec) == name
        ]
        for line in report(name, board, standing(board, records)):
            screen.print(line, highlight=False, markup=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
