"""Published against reproduced as a page for reading: verdicts counted, a table per method, and the
sources. Whatever is left out here is in the frame."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark import export
from benchmark.against import COLUMNS, WORDS, summary
from benchmark.claimed import NOT_YET_RUN
from benchmark.published import read_claims
from benchmark.spec import parts_of
from benchmark.texts import md, number, signed
from methods import find

PRINTED = ["Figure", "Network", "Data", "Said by", "Dense", "Pruned", "Δ", "Epoch",
           "FLOPs removed", "Counted", "Of its rates"]  # fmt: skip
LATEX = {
    "claim": "Figure",
    "label": "Method",
    "arch": "Network",
    "published_data": "Data",
    "published_top1": "Pruned",
    "published_delta": "Δ",
    "published_reduction": "FLOPs removed",
    "flops_rule": "Counted",
    "rates_physical": "Physical",
    "mean": "Ours",
    "low": "from",
    "high": "to",
    "physical": "FLOPs removed",
    "gap": "Gap",
    "verdict": "Verdict",
}
OURS = ["Ours (95 % interval, n)", "Our Δ", "Our FLOPs removed", "Gap"]
RIGHT = {"Dense", "Pruned", "Δ", "FLOPs removed", "Of its rates", *OURS}
GUIDE = [
    "Accuracy: top-1 in %. Δ: pruned minus dense, in percentage points. Epoch: which one the "
    "published accuracy is of. FLOPs removed: in %, counted as stated: physical is what the "
    "smaller network does; outputs only does not see that input channels are gone too. Of its "
    "rates: physical / outputs only, where the published rates per layer are known.",
    "Verdicts are made by rule. Reproduced: the published accuracy lies in the 95 % t-interval of "
    "the mean over our seeds. Above, below: it does not, and ours is higher, lower. Not "
    "comparable: something other than the accuracy differs; `published.csv` says it in full.",
]


def markdown(frame: pd.DataFrame) -> str:
    """The page of `against.everything`."""
    sources = {str(text): i for i, text in enumerate(dict.fromkeys(frame["source"]), 1)}
    lines = [
        "# Published against reproduced",
        "Written by `python -m benchmark.report`; edits are lost.",
        *map(md, GUIDE[:1]),
        *GUIDE[1:],
        _counts(frame),
    ]
    for label, part in frame.groupby("label", sort=False):
        plain, kind = parts_of(str(label))
        title = find(plain).title + (f", {kind.title()}" if kind else "")
        lines += [f"## {md(title)} (`{label}`)", _table(part, sources)]
    others = len(read_claims()) - len(frame)
    lines += [
        f"{others} more published figures, of other methods or architectures, are in "
        "`methods/published.csv`.",
        "## Sources",
        "\n".join(f"{i}. {md(text)}" for text, i in sources.items()),
    ]
    return "\n\n".join(lines) + "\n"


def latex(frame: pd.DataFrame) -> str:
    """The figures and verdicts of `against.everything` as a booktabs table, without sources."""
    by_name = {c.name: c for c in COLUMNS}
    ordered = frame.sort_values(["label", "arch", "published_reduction", "claim"], kind="stable")
    caption = (
        "Published against reproduced. Top-1 in %, differences in points; physical: FLOPs that the "
        "published rates per layer remove; ours: mean and 95 % t-interval over seeds."
    )
    return export.latex(ordered, [by_name[n] for n in LATEX], caption, "tab:published", LATEX)


def _counts(frame: pd.DataFrame) -> str:
    rows = [
        [md(str(label)), *(number(count, 0) for count in counts)]
        for label, *counts in summary(frame).itertuples(index=False)
    ]
    return _pipes(["Method", "Figures", *(word.capitalize() for word in WORDS)], rows)


def _table(part: pd.DataFrame, sources: dict[str, int]) -> str:
    """By network and FLOPs reduction. Columns of ours only where there is something in them."""
    ran = bool((part["verdict"] != NOT_YET_RUN).any())
    rows = []
    ordered = part.sort_values(["arch", "published_reduction", "claim"], kind="stable")
    for _, row in ordered.iterrows():
        ours = _ours(row) if ran else []
        cells = [*_printed(row), *ours, _verdict(row), f"[{sources[row['source']]}]"]
        rows.append([md(cell) for cell in cells])
    return _pipes([*PRINTED, *(OURS if ran else []), "Verdict", "Source"], rows)


def _printed(row: pd.Series[Any]) -> list[str]:
    rates = [number(row[name], 1) for name in ("rates_physical", "rates_outputs_only")]
    reduction = row["published_reduction"]
    return [
        row["claim"],
        row["arch"],
        row["published_data"],
        row["reported"],
        number(row["published_baseline"], 2),
        number(row["published_top1"], 2),
        signed(row["published_delta"]),
        row["published_figure"],
        "" if math.isnan(reduction) else f"{reduction:g}",
        row["flops_rule"],
        " / ".join(text for text in rates if text),
    ]


def _ours(row: pd.Series[Any]) -> list[str]:
    if not row["cell"]:
        return [""] * len(OURS)
    low, high = number(row["low"], 2), number(row["high"], 2)
    interval = f"{low} to {high}, " if low else ""
    by_rule = [number(row[name], 1) for name in ("physical", "outputs_only")]
    return [
        f"{number(row['mean'], 2)} ({interval}{row['n']:.0f})",
        signed(row["delta"]),
        " / ".join(text for text in by_rule if text),
        signed(row["gap"]),
    ]


def _verdict(row: pd.Series[Any]) -> str:
    """The word, with the heads of the reasons."""
    heads = [reason.partition(":")[0] for reason in str(row["reasons"]).split("; ") if reason]
    return str(row["verdict"]) + (f" ({', '.join(heads)})" if heads else "")


def _pipes(heads: list[str], rows: list[list[str]]) -> str:
    counts = {"Figures", *(word.capitalize() for word in WORDS)}
    align = ["right" if head in RIGHT | counts else "left" for head in heads]
    return tabulate(rows, heads, "pipe", disable_numparse=True, colalign=align)
