"""Frames for other programs: parquet and LaTeX, and the dictionary that explains their columns.

Same frame, same bytes: nothing of the clock, the host or pandas is written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

from benchmark.columns import Column
from benchmark.texts import number, tex, tex_cell

COMPRESSION = "zstd"
FORMAT = "2.6"  # of parquet; any reader since 2021


def arrow(frame: pd.DataFrame, columns: Sequence[Column]) -> pa.Table:
    """These columns of a frame, as `described` has them."""
    return described(pa.Table.from_pandas(frame, preserve_index=False), columns)


def described(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """These columns of a table: text as strings, all others as float64 with null where there is no
    figure. Meaning, unit and printed decimals are metadata of each field."""
    fields = [
        pa.field(c.name, pa.string() if c.decimals is None else pa.float64(), metadata=_metadata(c))
        for c in columns
    ]
    return table.select([c.name for c in columns]).cast(pa.schema(fields))


def parquet(table: pa.Table) -> bytes:
    """A parquet file of such a table."""
    file = io.BytesIO()
    pq.write_table(table, file, compression=COMPRESSION, version=FORMAT)
    return file.getvalue()


def _metadata(column: Column) -> dict[str, str]:
    decimals = {} if column.decimals is None else {"decimals": str(column.decimals)}
    return {"meaning": column.meaning, "unit": column.unit} | decimals


def dictionary(tables: Sequence[tuple[str, Sequence[Column]]]) -> str:
    """The data dictionary as Markdown: headings, and the columns of each."""
    parts = [
        "# Data dictionary\n",
        "Written by `python -m benchmark.report`. Decimals are fixed, an empty field means that "
        "there is no such figure. In the leaderboards, columns that also occur in `runs.csv` are "
        "means over seeds, `speedup_*` medians; `seconds` and `speedup_*` are empty there if the "
        "runs of a row come from several kinds of hardware.\n",
    ]
    for title, columns in tables:
        lines = [f"| `{c.name}` | {c.unit} | {c.meaning} |" for c in columns]
        head = [f"## {title}\n", "| column | unit | meaning |", "|---|---|---|"]
        parts.append("\n".join([*head, *lines, ""]))
    return "\n".join(parts)


def latex(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    caption: str,
    label: str,
    heads: Mapping[str, str] | None = None,
) -> str:
    """A booktabs table, as wide as the text; needs the packages booktabs and graphicx. `heads`:
    what stands over a column instead of its name."""
    titles = [(heads or {}).get(c.name, c.name.replace("_", " ")) for c in columns]
    shown = [[_cell(value, c) for value in frame[c.name]] for c in columns]
    rows = [" & ".join(row) + r" \\" for row in zip(*shown, strict=True)]
    align = "".join("l" if c.decimals is None else "r" for c in columns)
    lines = [
        "% Written by python -m benchmark.report; edits are lost. Needs booktabs and graphicx.",
        r"\begin{table}", r"\centering\scriptsize", rf"\caption{{{tex(caption)}}}",
        rf"\label{{{label}}}", r"\resizebox{\linewidth}{!}{%", rf"\begin{{tabular}}{{{align}}}",
        r"\toprule", " & ".join(map(tex, titles)) + r" \\", r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _cell(value: object, column: Column) -> str:
    return tex_cell(str(value) if column.decimals is None else number(value, column.decimals))
