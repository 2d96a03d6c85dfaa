"""Frames for other programs: what a parquet file says of its columns, and that bytes repeat."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from benchmark import export
from benchmark.columns import Column

COLUMNS = [
    Column("entry", "row label"),
    Column("mean", "mean top-1", "% of images", 2),
    Column("n", "seeds", "", 0),
]
FRAME = pd.DataFrame({"n": [5.0, 1.0], "entry": ["A & B_2", "ä"], "mean": [91.256, math.nan],
                      "more": [0, 0]})  # fmt: skip
AGAIN = """
import sys
sys.path.insert(0, "tests")
from test_export import COLUMNS, FRAME
from benchmark import export
sys.stdout.buffer.write(export.parquet(export.arrow(FRAME, COLUMNS)))
"""


def read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def test_parquet_holds_the_columns_with_their_meaning() -> None:
    table = read(export.parquet(export.arrow(FRAME, COLUMNS)))
    assert table.to_pydict() == {"entry": ["A & B_2", "ä"], "mean": [91.256, None], "n": [5.0, 1.0]}
    assert table.schema.types == [pa.string(), pa.float64(), pa.float64()]
    assert table.schema.metadata is None  # nothing of pandas
    about = [table.schema.field(i).metadata for i in range(3)]
    assert about[0] == {b"meaning": b"row label", b"unit": b""}
    assert about[1] == {b"meaning": b"mean top-1", b"unit": b"% of images", b"decimals": b"2"}
    assert about[2][b"decimals"] == b"0"


def test_bytes_do_not_depend_on_process_index_or_how_the_table_was_cut() -> None:
    here = export.parquet(export.arrow(FRAME, COLUMNS))
    root = Path(__file__).parents[1]
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        found = subprocess.run(
            [sys.executable, "-c", AGAIN], cwd=root, env=env, capture_output=True, check=True
        )
        assert found.stdout == here
    assert export.parquet(export.arrow(FRAME.set_index(pd.Index([7, 3])), COLUMNS)) == here
    whole = pa.Table.from_pandas(FRAME, preserve_index=False)
    cut = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 1)])
    assert cut["mean"].num_chunks == 2
    assert export.parquet(export.described(cut, COLUMNS)) == here
    assert export.parquet(export.arrow(FRAME.assign(n=[5.0, 2.0]), COLUMNS)) != here


def test_an_empty_frame_is_a_file_too() -> None:
    table = read(export.parquet(export.arrow(FRAME.iloc[:0], COLUMNS)))
    assert table.num_rows == 0
    assert table.schema.types == [pa.string(), pa.float64(), pa.float64()]


def test_the_dictionary_explains_every_column() -> None:
    text = export.dictionary([("`a.csv`: rows", COLUMNS[:2]), ("`b.csv`", COLUMNS[2:])])
    assert text.startswith("# Data dictionary\n")
    assert text.endswith(
        "## `a.csv`: rows\n\n| column | unit | meaning |\n|---|---|---|\n"
        "| `entry` |  | row label |\n| `mean` | % of images | mean top-1 |\n\n"
        "## `b.csv`\n\n| column | unit | meaning |\n|---|---|---|\n| `n` |  | seeds |\n"
    )


def test_latex_is_escaped_and_rounded() -> None:
    text = export.latex(FRAME, COLUMNS, "50 % & more", "tab:x", {"mean": "Top-1 (%)"})
    lines = text.splitlines()
    assert r"\caption{50 \% \& more}" in lines
    assert r"\label{tab:x}" in lines
    assert r"\begin{tabular}{lrr}" in lines
    start = lines.index(r"\midrule")
    assert lines[start - 1 : start + 4] == [
        r"entry & Top-1 (\%) & n \\", r"\midrule", r"A \& B\_2 & 91.26 & 5 \\", r"ä &  & 1 \\",
        r"\bottomrule",
    ]  # fmt: skip
    negative = FRAME.assign(mean=[-0.5, -0.001])
    assert r"$-$0.50" in export.latex(negative, COLUMNS, "", "tab:x")
    assert r"& 0.00 &" in export.latex(negative, COLUMNS, "", "tab:x")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    odd = FRAME.assign(entry=["\\{}~^<>|±Δ#$%_&", "x"])
    page = "\n".join([
        r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs,graphicx}",
        r"\begin{document}", export.latex(odd, COLUMNS, "Δ", "tab:x"), r"\end{document}",
    ])  # fmt: skip
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]
