"""The leaderboard for reading: Markdown, LaTeX and the terminal, from one set of cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from benchmark import findings, lanecolumns
from benchmark.columns import BEST_OF, Column
from benchmark.kinds import TITLES, lane_of
from benchmark.tablenotes import notes
from benchmark.texts import md, number, signed, tex, tex_cell

Cell = Callable[["pd.Series[Any]"], str]
Show = tuple[str, Cell]


def csv_text(frame: pd.DataFrame, columns: list[Column]) -> str:
    """The frame as CSV with fixed decimals and a line feed at each end."""
    text = pd.DataFrame(
        {
            c.name: frame[c.name]
            if c.decimals is None
            else [number(v, c.decimals) for v in frame[c.name]]
            for c in columns
        }
    )
    return str(text.to_csv(index=False, lineterminator="\n"))


# ---- cells ---------------------------------------------------------------------------------------


def _fixed(name: str, decimals: int = 2) -> Cell:
    return lambda row: number(row[name], decimals)


def _final(row: pd.Series[Any]) -> str:
    if not row["n"]:
        return ""
    sd = number(row["final_sd"], 2)
    return number(row["final_mean"], 2) + (f" ± {sd}" if sd else "") + f" ({row['n']:.0f})"


def _interval(row: pd.Series[Any]) -> str:
    low, high = number(row["final_low"], 2), number(row["final_high"], 2)
    return f"{low} to {high}" if low else ""


def _signed(name: str) -> Cell:
    return lambda row: signed(row[name])


def _marks(row: pd.Series[Any]) -> str:
    parts = [str(row["marks"]), str(row["reason"])]
    return "; ".join(p for p in parts if p)


def _text(name: str) -> Cell:
    return lambda row: str(row[name])


METHOD: Show = ("Method", _text("entry"))
FIGURES: list[Show] = [
    ("Target", _fixed("target", 1)),
    ("FLOPs removed", _fixed("flops_reduction", 1)),
    ("Params removed", _fixed("params_reduction", 1)),
    ("Dense", _fixed("dense_mean")),
    ("Before", _fixed("before_mean")),
    ("BN recal.", _fixed("recalibrated_mean")),
    ("Final ± sd (n)", _final),
    ("Δ dense", _signed("delta_mean")),
]
INTERVAL: Show = ("95 % interval", _interval)
BEST_N: Show = (f"Best of {BEST_OF}", _fixed("final_best_of"))
BEST: Show = ("Best?", lambda row: {1.0: "yes", 0.0: "no"}.get(row["near_best"], ""))
ORIGIN: Show = ("Origin", lambda row: str(row.get("origin", "")))  # where others submitted rows
MARKS: Show = ("Marks", _marks)
TWO_LINES = {
    "FLOPs removed": "FLOPs\ncut", "Params removed": "Params\ncut", "BN recal.": "BN\nrecal.",
    "Final ± sd (n)": "Final\n± sd (n)", "Δ dense": "Δ\ndense",
}  # fmt: skip
RARE: list[Show] = [INTERVAL, BEST_N, BEST, ORIGIN, *lanecolumns.SHOWN]
PAGE = [METHOD, *FIGURES, *RARE, MARKS]


def tables(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Caption and rows of each table: settings that never mix stand apart."""
    for _, part in frame.groupby("table", sort=False):
        yield caption(part), part


def caption(part: pd.DataFrame) -> str:
    """What all rows of a table share."""
    first, trained = part.iloc[0], part[part["start"] != "random"]
    main = (trained if len(trained) else part).iloc[0]
    budget = f"budget {main['budget_epochs']:g} epochs"
    if main["start"] == "baseline":
        budget = f"dense training {main['baseline_epochs']:g} epochs, {budget}"
    if main["start"].startswith("adapted"):
        budget = f"checkpoint {main['start']}, {budget}"
    if first["track"] == "paper":
        budget = "each paper's own recipe"
    lane = TITLES.get(lane_of(first["scope"]))
    return (f"{lane}: " if lane else "") + (
        f"{first['data']}, {first['arch']}: {first['track']} track{lanecolumns.named(first)}, "
        f"{budget}, {first['precision']}, scope {first['scope']}, protocol {first['protocol']:.0f} "
        f"(table {first['table']})"
    )


def _shown(part: pd.DataFrame, shows: list[Show]) -> list[list[str]]:
    """Cells as text, by target and then final accuracy; rows without result come last."""
    ordered = part.sort_values(
        ["target", "final_mean", "entry"], ascending=[True, False, True], kind="stable"
    )
    rows = []
    for _, row in ordered.iterrows():
        cells = [show(row) for _, show in shows]
        if row["status"] != "done":
            cells[[name for name, _ in shows].index("Final ± sd (n)")] = str(row["status"])
        rows.append(cells)
    return rows


# ---- formats -------------------------------------------------------------------------------------


def markdown_table(frame: pd.DataFrame, comparisons: pd.DataFrame = findings.NONE) -> str:
    """Pipe tables of the rows, each under a bold caption and over its notes and verdicts."""
    parts = [
        "\n\n".join([f"**{md(head)}**", _pipes(part), *findings.markdown(part, comparisons)])
        for head, part in tables(frame)
    ]
    return "\n\n".join(parts) + "\n"


def markdown_page(
    frame: pd.DataFrame,
    title: str,
    figures: dict[str, list[str]],
    comparisons: pd.DataFrame = findings.NONE,
) -> str:
    """A page of tables with the verdicts and links to the figures of each, by table."""
    lines = [f"# {md(title)}", "Written by `python -m benchmark.report`; edits are lost."]
    for head, part in tables(frame):
        lines += [f"## {md(head)}", _pipes(part), *findings.markdown(part, comparisons)]
        for path in figures.get(str(part["table"].iloc[0]), []):
            lines.append(f"![{md(path.rsplit('/', 1)[-1])}]({path})")
    return "\n\n".join(lines) + "\n"


def _said(shows: list[Show], part: pd.DataFrame) -> list[Show]:
    """What only some tables can say is left out where no row says it."""
    rows = [row for _, row in part.iterrows()]
    return [s for s in shows if s not in RARE or any(map(s[1], rows))]


def _pipes(part: pd.DataFrame) -> str:
    shows = _said(PAGE, part)
    rows = [[md(cell) for cell in row] for row in _shown(part, shows)]
    align = ["left", *["right"] * (len(shows) - 2), "left"]
    heads = [md(name) for name, _ in shows]
    table = tabulate(rows, heads, "pipe", disable_numparse=True, colalign=align)
    return table + "\n\n" + "\n".join(f"- {md(note)}" for note in notes(part))


def latex_page(frame: pd.DataFrame, comparisons: pd.DataFrame = findings.NONE) -> str:
    """A booktabs table per setting, and one of its verdicts; needs booktabs and graphicx."""
    parts = [
        "% Written by python -m benchmark.report; edits are lost. Needs booktabs and graphicx."
    ]
    for head, part in tables(frame):
        shows = _said(PAGE, part)
        rows = [" & ".join(map(tex_cell, row)) + r" \\" for row in _shown(part, shows)]
        columns = "l" + "r" * (len(shows) - 2) + "p{3cm}"
        parts += [
            r"\begin{table}", r"\centering\scriptsize", rf"\caption{{{tex(head)}}}",
            rf"\label{{tab:{part['table'].iloc[0]}}}", r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule", " & ".join(tex(name) for name, _ in shows) + r" \\", r"\midrule",
            *rows, r"\bottomrule", r"\end{tabular}}", "",
            r"\begin{minipage}{\linewidth}", *(tex(note) + r"\par" for note in notes(part)),
            r"\end{minipage}", r"\end{table}", "",
            *findings.latex(part, comparisons),
        ]  # fmt: skip
    return "\n".join(parts)


def terminal_table(
    frame: pd.DataFrame, comparisons: pd.DataFrame = findings.NONE
) -> RenderableType:
    """For the command line, 100 columns and up: results and verdicts by table, then notes."""
    shown: list[RenderableType] = []
    for head, part in tables(frame):
        shown += [Text(head, style="italic"), _results(part), ""]
        verdicts = findings.terminal(part, comparisons)
        if verdicts is not None:
            shown += [Text("What can be claimed", style="italic"), verdicts, ""]
    said = [*_lost(frame), *notes(frame, in_full=False)]
    found = findings.declared(frame, comparisons)
    said += findings.notes(found) if len(found) else []
    return Group(*shown, Text("\n".join(said), style="dim"))


def _results(part: pd.DataFrame) -> Table:
    shows = _said([METHOD, *FIGURES, ORIGIN, ("Marks", _text("marks"))], part)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name, _ in shows:
        words = name in ("Method", "Origin", "Marks")
        table.add_column(
            TWO_LINES.get(name, name),
            justify="left" if words else "right",
            no_wrap=not words,
            min_width={"Method": 20, "Marks": 13}.get(name),
            max_width=36 if name == "Method" else None,
        )
    controls = set(part.loc[part["control"] == 1, "entry"])
    for row in _shown(part, shows):
        table.add_row(*map(Text, row), style="dim" if row[0] in controls else "")
    return table


def _lost(frame: pd.DataFrame) -> list[str]:
    lost = frame[frame["reason"] != ""]
    rows = zip(lost["entry"], lost["target"], lost["reason"], strict=True)
    return [f"{who}, target {target:g} %: {reason}" for who, target, reason in rows]
