"""`python -m benchmark.published`: figures that others published, and where they contradict
themselves.

`methods/published.csv` is the one home of published figures. It holds what the sources print and
who reports what; verdicts come from code. Its columns:

- `id`: name of the row, never used again. `method`, `arch_printed`, `data_printed`: as printed.
- `label`, `arch`, `data`: our names for these; empty where we have none.
- `paper`, `year`, `venue`, `paper_id`: the method's own paper.
- `variant`, `recipe`: what tells rows of one method apart. `start`: `trained` network, `scratch`,
  or empty where the source does not say.
- `baseline_top1`, `pruned_top1`, `baseline_top5`, `pruned_top5`: percent. `delta_top1`: as the
  source states it; where it states none, pruned minus baseline.
- `sd_top1`, `baseline_sd_top1`: as printed. `figure`: what kind of accuracy it is: `best test
  epoch`, `best validation epoch`, `last epoch`, `mean` or `best of several` (of runs, as many as
  `runs` says), `none` or `unknown`.
- `flops_reduction`, `params_reduction`: percent removed. `derived`: which of the two the source
  does not print, so that they were computed from other columns or from a printed speed-up.
- `pruned_flops`, `pruned_params`, `baseline_flops`, `baseline_params`: as printed (1.5e6 = 1.5 M).
- `flops_rule`: how the FLOPs were counted: `physical` (the smaller network), `outputs only` (see
  `benchmark.counting`), `kernels` (single kernels, which no smaller network can leave out), `none`
  or `unknown`.
- `reported`: `own` (by the authors of the method), `quoted` (by others), `reimplemented` (by
  others, with runs of their own); `reported_by` and `source` say where exactly.
- `confidence` in our reading: `exact`, `secondary`, `uncertain`, or `withdrawn` by the authors.
- `note`: facts about the source, and who reports which other figure.

Numbers keep their printed digits, so that rounding can be told from a contradiction.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

import methods
from benchmark.archs import ARCHS
from benchmark.cli import DONE, console, run_app
from benchmark.data import NAMES
from benchmark.errors import BadInput

HOME = Path(methods.__file__).parent / "published.csv"
LARGEST = Decimal("1e12")

WORDS = {
    "figure": {
        "best test epoch", "best validation epoch", "last epoch", "mean", "best of several",
        "none", "unknown",
    },
    "flops_rule": {"physical", "outputs only", "kernels", "none", "unknown"},
    "start": {"trained", "scratch", ""},
    "reported": {"own", "quoted", "reimplemented"},
    "confidence": {"exact", "secondary", "uncertain", "withdrawn"},
    "derived": {"", "flops_reduction", "params_reduction", "flops_reduction params_reduction"},
}  # fmt: skip
NEEDED = ("id", "method", "arch_printed", "data_printed")


@dataclass(frozen=True)
class Claim:
    """One row; the columns are described above. Numbers that are not printed are None."""

    id: str
    method: str
    label: str
    paper: str
    year: int | None
    venue: str
    paper_id: str
    arch_printed: str
    arch: str
    data_printed: str
    data: str
    variant: str
    recipe: str
    start: str
    baseline_top1: Decimal | None
    pruned_top1: Decimal | None
    delta_top1: Decimal | None
    baseline_top5: Decimal | None
    pruned_top5: Decimal | None
    sd_top1: Decimal | None
    baseline_sd_top1: Decimal | None
    figure: str
    runs: int | None
    flops_reduction: Decimal | None
    params_reduction: Decimal | None
    pruned_flops: Decimal | None
    pruned_params: Decimal | None
    baseline_flops: Decimal | None
    baseline_params: Decimal | None
    flops_rule: str
    derived: str
    reported: str
    reported_by: str
    source: str
    confidence: str
    note: str

    def number(self, column: str) -> Decimal | None:
        """A number by the name of its column."""
        value = getattr(self, column)
        assert value is None or isinstance(value, Decimal), column
        return value


COLUMNS = {f.name: str(f.type) for f in fields(Claim)}


def read_claims(path: Path = HOME) -> list[Claim]:
    """All rows.

    Raises:
        BadInput: missing, other columns, or a row that does not fit; the line says which and why.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {type(error).__name__}") from error
    if header != list(COLUMNS):
        odd = sorted(set(header) ^ set(COLUMNS)) or ["their order"]
        raise BadInput(f"{path}: its columns are not those of benchmark.published: {odd[0]}")
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, 2):
        place = f"{path}, row {row['id'] or number}"
        claim = parse_claim(row, place)
        if claim.id in claims:
            raise BadInput(f"{place}: this id is used twice")
        claims[claim.id] = claim
    return list(claims.values())


def parse_claim(row: Mapping[str, Any], place: str) -> Claim:
    """One row; `place` names it in errors.

    Raises:
        BadInput: a field that does not fit.
    """
    if None in row or None in row.values():
        raise BadInput(f"{place}: it has not {len(COLUMNS)} fields")
    values: dict[str, Any] = {
        name: _parse(row[name], name, kind, place) for name, kind in COLUMNS.items()
    }
    for name in NEEDED:
        if not values[name]:
            raise BadInput(f"{place}: {name} is empty")
    for name, words in known_words().items():
        if values[name] not in words:
            legal = ", ".join(sorted(words - {""}))
            raise BadInput(f"{place}: {name} is '{values[name]}', needs one of {legal}")
    return Claim(**values)


@cache
def known_words() -> dict[str, set[str]]:
    """Legal content of the columns that hold one word of a list, and of our names."""
    labels = methods.all_names()
    labels += [f"{label} ({kind})" for label in labels for kind in ("scratch-e", "scratch-b")]
    ours = {"label": labels, "arch": ARCHS, "data": NAMES}
    return WORDS | {column: {"", *names} for column, names in ours.items()}


def _parse(text: str, name: str, kind: str, place: str) -> str | int | Decimal | None:
    if kind == "str":
        if text != text.strip() or not text.isprintable():
            raise BadInput(f"{place}: {name} has spaces at its ends or unprintable characters")
        return text
    if not text:
        return None
    if kind.startswith("int"):
        if not (text.isascii() and text.isdigit() and 0 < int(text) < LARGEST):
            raise BadInput(f"{place}: {name} is '{text}', needs a positive whole number")
        return int(text)
    try:
        value = Decimal(text)
    except ArithmeticError as error:
        raise BadInput(f"{place}: {name} is '{text}', needs a number") from error
    if not value.is_finite() or abs(value) > LARGEST:
        raise BadInput(f"{place}: {name} is '{text}', needs a number of usual size")
    return value


def main(
    file: Annotated[Path, typer.Option(help="File of published figures.")] = HOME,
) -> int:
    """Read the published figures and list those that contradict themselves or each other.

    Every difference and percentage is computed again from the other printed figures. What is left
    is in the sources: nothing here judges a reproduction.

    Example: python -m benchmark.published
    """
    from benchmark.claimlint import lint

    claims = read_claims(file)
    by_id, screen, found = {c.id: c for c in claims}, console(), lint(claims)
    for finding in found:
        claim = by_id[finding.row]
        screen.print(
            f"{finding.row} {claim.method}, {claim.arch_printed}, {claim.data_printed}: "
            f"{finding.kind}: {finding.printed}; {finding.follows}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    screen.print(f"{len(claims)} published figures, {len(found)} findings", highlight=False)
    return DONE


if __name__ == "__main__":
    run_app(main)
