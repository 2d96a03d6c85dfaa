"""`python -m benchmark.questions`: the questions that boards were run for, answered from records.

`results/protocol.toml` declares the boards and `results/questions.toml` the questions, both before
the first run. Writes `results/FINDINGS.md`: same records, same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from pydantic import Field

from benchmark import against, columns, comparisons, optimism
from benchmark.answering import ANSWERS
from benchmark.asked import Answer, Found, Question
from benchmark.choose import KIND as CHOICE
from benchmark.cli import DONE, console, run_app
from benchmark.column import Column
from benchmark.derived import derive
from benchmark.files import write_text
from benchmark.frozen import Frozen
from benchmark.holdings import Holding, holdings
from benchmark.progress import counted
from benchmark.protocol import PROTOCOL_FILE, Board, read_protocol, read_toml, standing
from benchmark.store import Store
from benchmark.texts import md

QUESTIONS, FINDINGS = "questions.toml", "FINDINGS.md"
NOT_ASKED = "Not asked of this board."
COMMAND = "python -m benchmark.questions --results results"
INTRODUCTION = f"""# Findings

Written by `{COMMAND}` from the records alone; the tests compare this file with what records give.
Questions and rules were committed before the boards began
([questions.toml](questions.toml), [protocol.toml](protocol.toml)). Points are percentage points of
top-1 accuracy. An interval is a 95 % one: from the board's comparisons it is over seeds and test
images and holds for the declared family at once; below 5 seeds it is over images alone, and its
verdict is of these runs only. Elsewhere it is a t-interval over seeds, adjusted for nothing; below
3 seeds single values are given in its place, and nothing is decided.
"""


class Questions(Frozen):
    question: tuple[Question, ...] = Field(min_length=1)


def read_questions(path: Path) -> tuple[Question, ...]:
    """The questions in this file.

    Raises:
        BadInput: as `read_toml`.
    """
    return read_toml(path, Questions).question


def found_of(root: Path, held: Holding) -> Found:
    """Everything that was measured on a board: of its tables, those that its own runs stand in."""
    block, store, records = held.block, Store(root), held.records
    made = derive(root, block, "none") if (root / "runs" / block).is_dir() else None

    def frame(name: str, known: list[Column]) -> pd.DataFrame:
        whole = pd.DataFrame(columns=columns.names(known)) if made is None else made.frame(name)
        return whole[whole["track"] == held.track].reset_index(drop=True)

    runs = frame("runs", columns.RUNS)
    own = [r.run_id for r in records if r.spec.start.kind != "random"]  # controls join others
    tables = set(runs.loc[runs["run_id"].isin(own), "table"])

    def of_board(name: str, known: list[Column]) -> pd.DataFrame:
        whole = frame(name, known)
        return whole[whole["table"].isin(tables)].reset_index(drop=True)

    runs, cells = runs[runs["table"].isin(tables)], of_board("leaderboard", columns.LEADERBOARD)
    by_run = {r.run_id: r.spec.name for r in records}
    by_cell = {r.spec.cell().run_id: r.spec.name for r in records}
    return Found(
        runs=runs.assign(name=runs["run_id"].map(by_run)),
        leaderboard=cells.assign(name=cells["cell"].map(by_cell)),
        comparisons=of_board("comparisons", comparisons.COLUMNS),
        selection=of_board("selection", optimism.METHODS),
        published=frame("published", against.COLUMNS),
        records=records,
        choices=[(r, facts) for r in records for facts in store.measurements(r.spec, CHOICE)],
    )


def page(root: Path) -> str:
    """FINDINGS.md.

    Raises:
        BadInput: the protocol or the questions cannot be read.
    """
    protocol = read_protocol(root / PROTOCOL_FILE)
    questions = read_questions(root / QUESTIONS)
    boards: dict[str, list[Answer]] = {}
    parts: list[str] = []
    for held in holdings(protocol, Store(root).records()):
        if held.board is None:
            continue
        found = found_of(root, held)
        answers = [_answer(question, held.board, found) for question in questions]
        boards[f"{held.name} {held.board.version}"] = answers
        parts += _board(held.name, held.board, found, questions, answers)
    return "\n".join([INTRODUCTION, *_glance(boards, questions), *parts])


def _answer(question: Question, board: Board, found: Found) -> Answer:
    if board.asked and question.kind not in board.asked:
        return Answer((NOT_ASKED,))
    return ANSWERS[question.kind](question, found)


def _glance(boards: dict[str, list[Answer]], questions: tuple[Question, ...]) -> Iterator[str]:
    """Every answer in a sentence, boards side by side."""
    if not boards:
        return
    yield "## At a glance\n"
    rows = [
        (question.ask, *(" ".join(answers[place].sentences) for answers in boards.values()))
        for place, question in enumerate(questions)
    ]
    yield from _table(Answer((), ("question", *boards), tuple(rows)))


def _board(
    name: str,
    board: Board,
    found: Found,
    questions: tuple[Question, ...],
    answers: list[Answer],
) -> Iterator[str]:
    state = standing(board, found.records)
    yield f"## {name} {board.version}\n"
    yield (
        f"{board.arch} on {board.data}, {board.track} track: {state.done} of "
        f"{counted(state.declared, 'declared run')} done. {md(' '.join(board.limits))}\n"
    )
    for question, answer in zip(questions, answers, strict=True):
        if answer.sentences == (NOT_ASKED,):
            continue
        yield f"### {question.ask}\n"
        yield " ".join((*answer.sentences, question.note)).strip() + "\n"
        yield from _table(answer)
        if answer.source and answer.rows:
            yield f"In full: [{answer.source}]({answer.source}).\n"


def _table(answer: Answer) -> Iterator[str]:
    if not answer.rows:
        return
    yield f"| {' | '.join(answer.head)} |"
    yield f"|{'---|' * len(answer.head)}"
    for row in answer.rows:
        yield f"| {' | '.join(md(cell) for cell in row)} |"
    yield ""


def main(
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
) -> int:
    """Answer the questions that were declared with the boards, from the records.

    Example: python -m benchmark.questions --results results
    """
    write_text(results / FINDINGS, page(results))
    console().print(f"written to {results / FINDINGS}", highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    run_app(main)
