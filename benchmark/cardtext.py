"""What `CARD.md` says of boards, of where their data come from, and of how they were declared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmark import declaration
from benchmark import protocol as protocols
from benchmark.archtable import markdown_table
from benchmark.described import SOURCES, Sources
from benchmark.holdings import Holding, checksum
from benchmark.progress import counted
from benchmark.protocol import PROTOCOL_FILE, Board
from benchmark.record import RunRecord
from benchmark.spec import PROTOCOL
from benchmark.store import Store
from benchmark.texts import md

Places = Mapping[str, tuple[Store, tuple[RunRecord, ...]]]
HEAD = [
    "# Card of these results", "",
    "Written by `python -m benchmark.card` from the records, "
    f"[{PROTOCOL_FILE}]({PROTOCOL_FILE}) where there is one, and [{SOURCES}]({SOURCES}); not "
    "edited by hand. Places are below this directory.", "",
]  # fmt: skip
TERMS = (
    f"As their distributors state them, from `{SOURCES}`. None of these data sets and none of "
    'these checkpoints is part of this repository. "No licence stated" is what was found, and no '
    "permission."
)
NONE = "none"


# ---- boards --------------------------------------------------------------------------------------


def boards(store: Store, held: Iterable[Holding], known: Sources) -> list[str]:
    lines: list[str] = []
    for own in held:
        lines += [f"### {_heading(own, known)}", "", *_board(store, own, known), ""]
    return lines


def _heading(own: Holding, known: Sources) -> str:
    if own.board is not None:
        return f"`{own.name}`, version {own.board.version}"
    block = known.block.get(own.name)
    title = f", {block.title}" if block and block.title else ""
    return f"`{own.name}`{title}: not declared beforehand"


def _board(store: Store, own: Holding, known: Sources) -> Iterator[str]:
    versions = sorted({r.spec.protocol for r in own.records} or {PROTOCOL})
    protocol = f"protocol {' and '.join(map(str, versions))}"
    yield f"- What: {own.arch} on {own.data}, {own.track} track, {protocol}"
    if own.board is not None:
        found = protocols.standing(own.board, own.records)
        yield (
            f"- Runs: {found.declared} declared, {found.done} done, {len(found.missing)} missing, "
            f"{len(found.deviations)} not as declared"
        )
        yield from _said(own.board)
        seeds: Iterable[int] = own.board.seeds
    else:
        yield f"- Runs: {len(own.records)} done"
        seeds = {r.spec.seeds.run for r in own.records}
    yield f"- Seeds: {', '.join(map(str, sorted(seeds)))}"
    for command in _commands(own, known):
        yield f"- Made by: `{command}`"
    whole, files = checksum(store, own.records)
    yield f"- Checksum: SHA-256 `{whole}` over {counted(files, 'file')}" + (
        f"; again by `{_again(own)}`"
        if _is_alone(store, own)
        else "; again by `python -m benchmark.card --check`" * bool(files)
    )
    yield (
        f"- Cite: the suite as `CITATION.cff` says, with {protocol}, board `{own.name}`"
        + (f" version {own.board.version}" if own.board else "")
        + f" and the first 12 digits of its checksum, {whole[:12]}"
    )


EACH = ", trained for {:g} epochs by each seed"


def _said(board: Board) -> Iterator[str]:
    targets = ", ".join(f"{100 * target:g} %" for target in board.targets)
    rows = sum(map(len, board.rows.values()))
    yield (
        f"- Declared: {counted(rows, 'row')} at {targets} of the FLOPs removed, "
        f"budget {board.budget_epochs:g} epochs; compared with {', '.join(board.against)} by a "
        f"margin of {board.margin:g} points"
    )
    if board.checkpoint:
        more = f": {board.adaptation}" if board.adaptation else ""
        each = EACH.format(board.adapt_epochs) if board.adapt_epochs else ""
        yield f"- Start: checkpoint `{board.checkpoint}`{each}{more}"


def _commands(own: Holding, known: Sources) -> Sequence[str]:
    """Of the sweep; flags for what no file in the repository can name are those of the records."""
    if own.board is None:
        block = known.block.get(own.name)
        return block.commands if block else ()
    sweep = own.board.sweep
    command = sweep if " " in sweep else f"python -m benchmark.run --config {sweep}"
    places = " --data-dir DIR" if any("--data-dir " in r.command for r in own.records) else ""
    start = " --checkpoint FILE" if own.board.checkpoint else ""
    return (command + places * ("--data-dir" not in sweep) + start * ("--checkpoint" not in sweep),)


def _is_alone(store: Store, own: Holding) -> bool:
    """Whether every record of the block is of this board."""
    return bool(own.records) and len(store.record_paths(own.block)) == len(own.records)


def _again(own: Holding) -> str:
    return f"cd runs && find {own.block} -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"


# ---- provenance ----------------------------------------------------------------------------------


def used(
    places: Places, held: Iterable[Holding]
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Data sets (name, content hash) and checkpoints that anything starts from, with users."""
    data: dict[tuple[str, str], set[str]] = defaultdict(set)
    starts: dict[str, set[str]] = defaultdict(set)
    for name, (_, records) in places.items():
        for r in records:
            data[(r.spec.data.name, r.spec.data.content_hash)].add(name)
            if r.spec.start.checkpoint:
                starts[r.spec.start.checkpoint].add(name)
    for own in held:
        if own.board is None:
            continue
        if not own.records and own.data not in {name for name, _ in data}:
            data[(own.data, "")].add(own.name)
        if own.board.checkpoint:
            starts[own.board.checkpoint].add(own.name)
    return (
        {key: _named(users) for key, users in data.items()},
        {key: _named(users) for key, users in starts.items()},
    )


def _named(users: Iterable[str]) -> str:
    return ", ".join(f"`{user}`" for user in sorted(users))


# ---- protocol ------------------------------------------------------------------------------------


def protocol(held: Iterable[Holding], known: Sources) -> list[str]:
    lines: list[str] = []
    for own in held:
        lines += [f"### `{own.name}`", "", *_declared(own, known), ""]
        lines += [*_code(own, known), ""] if own.records else []
        lines += [*_pilot(own), *_deviations(own, known)]
    return lines


def _declared(own: Holding, known: Sources) -> list[str]:
    if own.board is None:
        return ["Not declared beforehand."]
    kept = known.declared.get(own.name)
    if kept is None or kept.version != own.board.version:
        return [f"Declared in `{PROTOCOL_FILE}`; its commit is not noted in `{SOURCES}`."]
    changed = ", ".join(kept.changed) or NONE
    return [
        f"Declared in commit `{kept.commit}`. Fields that read otherwise since: {changed}. "
        "`python -m benchmark.card --check` holds this against git."
    ]


def _code(own: Holding, known: Sources) -> list[str]:
    kept = known.declared.get(own.name) if own.board else None
    found = declaration.codes(own.records)
    head = (
        "commit that runs were made from",
        "runs",
        "of them with changes not committed, or not known",
    )
    if kept is None:
        rows = [(_commit(c.commit), str(c.runs), str(c.dirty)) for c in found]
        return [markdown_table(head, iter(rows))]
    after = {code.commit for code in found} & set(kept.runs_after)
    rows4 = [
        (_commit(c.commit), str(c.runs), str(c.dirty), "yes" if c.commit in after else "no")
        for c in found
    ]
    runs = sum(code.runs for code in found if code.commit in after)
    return [
        markdown_table((*head, "git shows them after the declaration"), iter(rows4)), "",
        f"Of {counted(len(own.records), 'run')}, {runs} were made from commits that git shows "
        "to come after the declaration, or to be it.",
    ]  # fmt: skip


def _commit(commit: str) -> str:
    return f"`{commit}`" if commit else "not recorded"


def _pilot(own: Holding) -> list[str]:
    if own.board is None or own.board.pilot is None:
        return []
    pilot = own.board.pilot
    return [
        f"Budget and targets come from a pilot with seeds {', '.join(map(str, pilot.seeds))}: "
        f"{pilot.rule}", "", f"    {pilot.command}", *[f"    {line}" for line in pilot.found], "",
    ]  # fmt: skip


def _deviations(own: Holding, known: Sources) -> list[str]:
    if own.board is None:
        return []
    kept = known.declared.get(own.name)
    by_hand = kept.deviations if kept else ()
    found = [*map(md, protocols.standing(own.board, own.records).deviations), *by_hand]
    if not found:
        return ["Deviations from what was declared: none.", ""]
    return ["Deviations from what was declared:", "", *[f"- {text}" for text in found], ""]
