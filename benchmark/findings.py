"""What can be claimed of a table: verdicts of the declared family, as Markdown, LaTeX and on the
terminal. `comparisons` are rows of benchmark/comparisons.py, from which all of it is made."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from benchmark import frames
from benchmark.comparisons import COLUMNS
from benchmark.granted import CLAIMS, NOT_CLAIMED, PAYS, UNDECIDED
from benchmark.matchups import DECLARED, REFERENCES
from benchmark.paired import CONDITIONAL, CROSSED_SEEDS, MARGIN
from benchmark.texts import md, number, signed, tex, tex_cell

NONE: pd.DataFrame = frames.typed([], COLUMNS)  # for tables without
THESE_RUNS = "these runs only"
LATEX_HEADS = ("difference", "95 % interval", "verdict")
Row = dict[str, Any]


def declared(part: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """The declared comparisons of this table's rows."""
    here = comparisons["table"].isin(part["table"]) & comparisons["cell"].isin(part["cell"])
    return comparisons[here & (comparisons["family"] == DECLARED)]


def claims(found: pd.DataFrame) -> list[str]:
    """One sentence per target: what was found, and how much stays open."""
    sentences = []
    for target, rows in found.groupby("target", sort=True):
        words = rows.apply(verdict_of, axis=1)
        kinds = [name for word in CLAIMS for name in (word, f"{word} ({THESE_RUNS})")]
        made = [
            f"{word}: " + ", ".join(
                f"{r.entry} {'to' if r.verdict == 'equivalent' else 'than'} {r.reference}"
                for r in rows[words == word].itertuples()
            )
            for word in kinds
            if (words == word).any()
        ]  # fmt: skip
        open_ones = int((rows["verdict"] == UNDECIDED).sum())
        pays = int((rows["verdict"] == PAYS).sum())
        made += [f"{UNDECIDED}: {open_ones} of {len(rows)} comparisons"] * bool(open_ones)
        made += [f"{PAYS}: {pays}"] * bool(pays)
        withheld = rows.loc[rows["verdict"] == NOT_CLAIMED, "withheld"]
        made += [f"{NOT_CLAIMED}: {why} ({count})"
                 for why, count in sorted(Counter(withheld).items())]  # fmt: skip
        sentences.append(f"Target {target:g} %: {'; '.join(made) or 'no paired results'}.")
    return sentences


def notes(found: pd.DataFrame) -> list[str]:
    """How verdicts are to be read."""
    said = [
        "Verdicts: row minus reference on the same seeds and test images, in percentage points, "
        "with 95 % intervals that hold together for all comparisons of a target. Better or worse: "
        f"the interval lies beyond the margin of {MARGIN} points, fixed beforehand; equivalent: "
        "the 90 % interval lies within it; undecided: neither."
    ]
    few = found[found["scope"] == CONDITIONAL]
    if len(few):
        said.append(
            f"With fewer than {CROSSED_SEEDS} seeds, intervals speak of {CONDITIONAL}: new seeds "
            "may differ. The differences of all seeds stand in brackets."
        )
    if (found["verdict"] == NOT_CLAIMED).any():
        said.append(
            f"{NOT_CLAIMED.capitalize()}: the interval would allow a verdict, but the rows differ "
            "in more than the method, one of them shows nothing about it, or preparation charged "
            "and free are not both there on the same seeds. The notes say which."
        )
    if (found["verdict"] == PAYS).any():
        said.append(f"{PAYS.capitalize()}: the sign changes when preparation is granted for free.")
    lost = found[found["n"] == 0]
    said += [f"{r.entry} against {r.reference}, target {r.target:g} %: {r.note}."
             for r in lost.itertuples()]  # fmt: skip
    return said


def best_notes(frame: pd.DataFrame) -> list[str]:
    """How the column on the best method is to be read."""
    if frame["near_best"].isna().all():
        return []
    found = [
        "Best?: yes: not separable from the best method at equal settings; no: behind it, with "
        "95 % confidence for all methods of a board at once (paired over seeds and test images)."
    ]
    few = frame[frame["near_best"].notna() & (frame["n"] < CROSSED_SEEDS)]
    if len(few):
        found.append(f"Best? with fewer than {CROSSED_SEEDS} seeds: {CONDITIONAL}.")
    return found


def markdown(part: pd.DataFrame, comparisons: pd.DataFrame) -> list[str]:
    """Paragraphs; none without comparisons."""
    found = declared(part, comparisons)
    if found.empty:
        return []
    titles = _titles(part)
    marks = footnotes(found, titles)
    heads = ["Target", "Method", *(f"Against {title}" for title in titles.values())]
    rows = [
        [md(number(target, 1)), md(entry), *(_pipe_cell(cells.get(name), marks) for name in titles)]
        for target, entry, cells in _grid(found)
    ]
    align = ["right", *["left"] * (len(heads) - 1)]
    table = tabulate(rows, [*map(md, heads)], "pipe", disable_numparse=True, colalign=align)
    return [
        "### What can be claimed",
        "\n".join(f"- {md(line)}" for line in claims(found)),
        table,
        "\n".join(f"- {md(line)}" for line in [*_listed(marks), *notes(found)]),
    ]


def latex(part: pd.DataFrame, comparisons: pd.DataFrame) -> list[str]:
    """Lines of a booktabs table; none without comparisons."""
    found, titles = declared(part, comparisons), _titles(part)
    if found.empty:
        return []
    marks = footnotes(found, titles)
    first = range(3, 3 + 3 * len(titles), 3)
    groups = [rf"\multicolumn{{3}}{{c}}{{against {tex(title)}}}" for title in titles.values()]
    heads = ["Target", "Method", *LATEX_HEADS * len(titles)]
    rows = [
        [number(target, 1), entry, *(t for name in titles for t in _fields(cells.get(name), marks))]
        for target, entry, cells in _grid(found)
    ]
    return [
        r"\begin{table}", r"\centering\scriptsize",
        r"\caption{What can be claimed of table~\ref{tab:" + part["table"].iloc[0] + "}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{rl{'rrl' * len(titles)}}}", r"\toprule",
        " & ".join(["", "", *groups]) + r" \\",
        " ".join(rf"\cmidrule(lr){{{i}-{i + 2}}}" for i in first),
        " & ".join(map(tex, heads)) + r" \\", r"\midrule",
        *(" & ".join(map(tex_cell, row)) + r" \\" for row in rows),
        r"\bottomrule", r"\end{tabular}}", "", r"\begin{minipage}{\linewidth}",
        *(tex(note) + r"\par" for note in [*claims(found), *_listed(marks), *notes(found)]),
        r"\end{minipage}", r"\end{table}", "",
    ]  # fmt: skip


def terminal(part: pd.DataFrame, comparisons: pd.DataFrame) -> Group | None:
    """A small table for 100 columns over its notes; None without comparisons."""
    found, titles = declared(part, comparisons), _titles(part)
    if found.empty:
        return None
    marks = footnotes(found, titles)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("Method", min_width=20, max_width=30)
    table.add_column("Target", justify="right")
    for title in titles.values():
        table.add_column(f"against\n{title}", max_width=26)
    for target, entry, cells in _grid(found):
        words = [_short(cells.get(name), marks) for name in titles]
        table.add_row(Text(entry), number(target, 1), *words)
    return Group(table, *(Text(line, style="dim") for line in _listed(marks)))


# ---- cells ---------------------------------------------------------------------------------------


def _titles(part: pd.DataFrame) -> dict[str, str]:
    """References of the table, in the declared order: method and title."""
    there = part.drop_duplicates("method").set_index("method")["title"]
    return {name: str(there[name]) for name in REFERENCES if name in there.index}


def _grid(found: pd.DataFrame) -> Iterator[tuple[float, str, dict[str, Row]]]:
    """Target, row label and comparisons by reference method."""
    cells: dict[tuple[float, str], dict[str, Row]] = defaultdict(dict)
    for row in frames.rows_of(found):
        cells[float(row["target"]), str(row["entry"])][row["reference_method"]] = row
    for (target, entry), own in sorted(cells.items(), key=lambda item: item[0]):
        yield target, entry, own


def footnotes(found: pd.DataFrame, titles: Iterable[str]) -> dict[str, int]:
    """What limits the comparisons of a table, numbered in the order of its cells. Rows without a
    difference are told apart in full."""
    names, marks = list(titles), dict[str, int]()
    for _, _, cells in _grid(found):
        for row in (cells[name] for name in names if name in cells):
            if not math.isnan(row["mean"]):
                for remark in _remarks(row):
                    marks.setdefault(remark, len(marks) + 1)
    return marks


def _listed(marks: dict[str, int]) -> list[str]:
    return [f"Note {i}: {remark}." for remark, i in marks.items()]


def _remarks(row: Row) -> list[str]:
    return [remark for remark in row["note"].split("; ") if remark]


def verdict_of(row: Mapping[Any, Any] | pd.Series[Any]) -> str:
    """The word, and whether it speaks of more than the runs that are there."""
    few = row["verdict"] in CLAIMS and row["scope"] == CONDITIONAL
    return f"{row['verdict']} ({THESE_RUNS})" if few else str(row["verdict"])


def is_firm(row: Row | pd.Series[Any]) -> bool:
    """A claim that speaks of new runs: what may stand in bold."""
    return row["verdict"] in CLAIMS and row["scope"] != CONDITIONAL


def _fields(row: Row | None, marks: dict[str, int]) -> list[str]:
    """Difference, interval, and verdict with its notes."""
    if row is None or math.isnan(row["mean"]):
        return ["", "", ""]
    interval = f"{number(row['low_95'], 2)} to {number(row['high_95'], 2)}"
    numbers = ", ".join(str(i) for i in sorted(marks[remark] for remark in _remarks(row)))
    noted = f" (note{'s' * (', ' in numbers)} {numbers})" if numbers else ""
    return [signed(row["mean"]) + _seeds(row), interval, verdict_of(row) + noted]


def _seeds(row: Row) -> str:
    """All single differences where an interval does not speak of new seeds; of one seed it is the
    difference itself."""
    if row["scope"] != CONDITIONAL or row["n"] == 1:
        return ""
    return " [" + " ".join(pair.partition(":")[2] for pair in row["per_seed"].split()) + "]"


def _pipe_cell(row: Row | None, marks: dict[str, int]) -> str:
    difference, interval, verdict = _fields(row, marks)
    if row is None or not verdict:
        return ""
    word = f"**{md(verdict)}**" if is_firm(row) else md(verdict)
    return f"{word}, {md(difference)} ({md(interval)})"


def _short(row: Row | None, marks: dict[str, int]) -> Text:
    difference, _, verdict = _fields(row, marks)
    is_bold = row is not None and is_firm(row)
    return Text(f"{verdict} {difference}".strip(), style="bold" if is_bold else "")
