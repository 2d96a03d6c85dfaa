"""`python -m benchmark.archtable`: what each architecture costs, what papers print, and why the
two differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmark import archs, conventions
from benchmark.archs import Paper
from benchmark.cli import DONE, console, run_app
from benchmark.conventions import Dense, Printed
from benchmark.published import read_claims
from benchmark.texts import md

DATA = {10: "CIFAR-10", 100: "CIFAR-100", 1000: "ImageNet"}  # as printed, by number of classes


@dataclass(frozen=True)
class Row:
    """One network, as large as the field uses it."""

    label: str
    paper: Paper
    size: int
    structure: str
    dense: Dense


def described() -> dict[str, Paper]:
    """Every network of the page by label."""
    own = {label: arch.paper for label, arch in archs.ARCHS.items() if arch.paper}
    return own | archs.IMAGENET


@cache
def row(label: str, classes: int) -> Row:
    """Counts of a network for that number of classes."""
    model = archs.build(label, classes)
    size = archs.find(label).image_size
    structure = archs.structure_hash(model)
    paper = replace(described()[label], classes=classes)
    return Row(label, paper, size, structure, conventions.count(model, size))


@cache
def printed() -> dict[tuple[str, str], tuple[Printed, ...]]:
    """Dense figures of `methods/published.csv` by network and data as printed: the most frequent
    first, those without FLOPs last."""
    found: dict[tuple[str, str], dict[tuple[str, str], Printed]] = defaultdict(dict)
    for claim in read_claims():
        macs, params = (str(n or "") for n in (claim.baseline_flops, claim.baseline_params))
        if macs or params:
            group = found[claim.arch_printed, claim.data_printed]
            same = group.get((macs, params), Printed(macs, params, claim.source))
            group[macs, params] = replace(same, rows=(*same.rows, claim.id))
    return {
        key: tuple(sorted(group.values(), key=lambda p: (not p.macs, -len(p.rows))))
        for key, group in found.items()
    }


def figures(paper: Paper) -> tuple[Printed, ...]:
    """What is printed for a network on the data of its row."""
    return printed().get((paper.printed, DATA[paper.classes]), ()) + paper.figures


def fit(figure: Printed, dense: Dense) -> tuple[list[str], list[str]]:
    """The rules that fit; none for a figure that is not printed."""
    macs = conventions.fitting(figure.macs, dense.macs) if figure.macs else []
    params = conventions.fitting(figure.params, dense.params) if figure.params else []
    return macs, params


def explained(figure: Printed, dense: Dense) -> bool:
    """Whether all that is printed fits."""
    macs, params = fit(figure, dense)
    return bool(macs or not figure.macs) and bool(params or not figure.params)


def chosen(found: Row) -> Printed | None:
    """The figure beside a network: the first that fits it, else the first."""
    every = figures(found.paper)
    fitting = (f for f in every if f.macs and explained(f, found.dense))
    return next(fitting, every[0] if every else None)


def why(figure: Printed, dense: Dense) -> str:
    """How the printed figure follows from the network, or by how much it does not."""
    macs, params = fit(figure, dense)
    parts = []
    if figure.macs:
        parts.append(macs[0] if macs else _near(figure.macs, dense.macs))
    if figure.params:
        parts.append(params[0] if params else _near(figure.params, dense.params))
    return "; ".join(parts)


def _near(figure: str, counts: Mapping[str, int]) -> str:
    name, percent = conventions.nearest(figure, counts)
    return f"none: {name} {percent:+.2f} %"


def both(figure: Printed) -> str:
    """`125.49 M, 0.85 M`."""
    return ", ".join(conventions.shown(n) if n else "-" for n in (figure.macs, figure.params))


def mega(count: int) -> str:
    return f"{count / 1e6:.3f}"


# ---- for the screen ------------------------------------------------------------------------------


def console_table() -> Table:
    """Our own architectures; the page has more."""
    table = Table(
        "name", "structure", "classes", "MACs", "MACs (papers)", "params", "params (papers)",
        "printed", "printed as",
        caption="In millions, for images of 32 x 32. MACs: conv + linear, as fvcore counts them: "
        "targets use these. Papers: conv + 2 x linear; parameters without batch norm. Printed as: "
        "the first rules that fit the printed figures, or 'none' and the nearest. Rules, sources "
        "and networks for ImageNet: docs/architectures.md. Others: timm/NAME, torchvision/NAME.",
    )  # fmt: skip
    table.columns[0].no_wrap = True
    for label, arch in archs.ARCHS.items():
        found = row(label, arch.paper.classes if arch.paper else 10)
        figure, cost = chosen(found), found.dense.cost
        table.add_row(
            label, found.structure, str(found.paper.classes), mega(cost.macs),
            mega(cost.macs_paper), mega(cost.params), mega(cost.params_paper),
            both(figure) if figure else "-", why(figure, found.dense) if figure else "-",
        )  # fmt: skip
    return table


# ---- the page ------------------------------------------------------------------------------------


def markdown_table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table; cells are Markdown already."""
    every = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in every)


def counts_row(label: str) -> tuple[str, ...]:
    """A network's line of the first table."""
    found = row(label, described()[label].classes)
    cost, figure = found.dense.cost, chosen(found)
    return (
        label, str(found.size), str(found.paper.classes), mega(cost.macs), mega(cost.macs_paper),
        mega(found.dense.macs["fvcore"]), mega(cost.params), mega(cost.params_paper),
        both(figure) if figure else "-", md(why(figure, found.dense)) if figure else "-",
    )  # fmt: skip


def rivals(name: str, data: str) -> list[Row]:
    """Our networks that a paper may mean by that name on that data."""
    classes = {v: k for k, v in DATA.items()}[data]
    same = [label for label, paper in described().items() if paper.printed == name]
    small = [label for label in same if label in archs.ARCHS]
    return [row(label, classes) for label in same if (label in small) == (data != DATA[1000])]


def printed_rows() -> Iterator[tuple[str, ...]]:
    """A line for every dense figure in print of a network that is here."""
    extra = {
        (paper.printed, DATA[paper.classes]): paper.figures
        for paper in described().values()
        if paper.figures
    }
    known = {paper.printed for paper in described().values()}
    for name, data in sorted({*printed(), *extra}):
        ours = rivals(name, data) if name in known else []
        for figure in (*printed().get((name, data), ()), *extra.get((name, data), ())):
            if ours:
                ids = ", ".join(figure.rows) or "-"
                yield name, data, both(figure), md(figure.source), ids, md(verdict(figure, ours))


def verdict(figure: Printed, ours: list[Row]) -> str:
    """Which networks and rules give a printed figure; else the network that comes closest."""
    told = []
    for found in ours:
        if explained(figure, found.dense):
            macs, params = fit(figure, found.dense)
            parts = [" or ".join(macs), " or ".join(params)]
            told.append(f"{found.label}: {'; '.join(p for p in parts if p)}")
    if told:
        return " // ".join(told)
    column = "macs" if figure.macs else "params"
    best = min(ours, key=lambda r: _distance(getattr(figure, column), getattr(r.dense, column)))
    return f"no network and rules give all of it; {best.label}: {why(figure, best.dense)}"


def _distance(figure: str, counts: Mapping[str, int]) -> float:
    return abs(conventions.nearest(figure, counts)[1])


HEAD = """# Architectures

`python -m benchmark.archtable --file docs/architectures.md` writes this page. Every count is
computed. Every figure in print is from `methods/published.csv` or, where that has none, stands
beside the network in `benchmark/archs.py`.

`python -m benchmark.run --list archs` shows the networks for small images with the hashes of their
structure. They take any number of classes; the tables show the number that the field uses.
`timm/NAME`, `torchvision/NAME` and `FILE.py:FUNCTION` name all other networks.
"""
COUNTS = """## What they cost

In millions, for one image. MACs are conv + linear, one per multiply-accumulate, as fvcore counts
them: targets and reductions use these. MACs (papers) are conv + 2 linear. The column fvcore is its
total as it comes. Params (papers) are without batch norm. Printed is a dense figure in print: the
most frequent one that fits the network, else the most frequent one. Printed as names the first
rules that fit it, or says 'none' with the nearest rule and how far the figure is above it.
"""
CONVENTIONS = """## How papers count

A rule fits when its count rounds to the printed digits. Whole millions that end in 0 may be rounded
to tens. A rule that fits is how a figure may have been counted, not a proof that it was.
"""
IN_PRINT = """## Every dense figure in print

Networks that papers call by one name stand side by side, parted by ' // '; MACs and parameters are
parted by ';'. Rows are those of `methods/published.csv`.
"""


def page() -> str:
    """docs/architectures.md."""
    papers = described()
    lines = {label: paper.defined for label, paper in papers.items()}
    notes = {label: paper.note for label, paper in papers.items() if paper.note}
    rules = {name: rule.meaning for name, rule in conventions.RULES.items()}
    header = (
        "name", "image", "classes", "MACs", "MACs (papers)", "fvcore", "params",
        "params (papers)", "printed", "printed as",
    )  # fmt: skip
    in_print = ("network", "data", "printed", "source", "rows", "what gives it")
    return "\n".join([
        HEAD,
        _bullets(lines),
        COUNTS,
        markdown_table(header, (counts_row(label) for label in papers)) + "\n",
        _bullets(notes),
        CONVENTIONS,
        _bullets(rules),
        _bullets(conventions.PARAM_RULES),
        IN_PRINT,
        markdown_table(in_print, printed_rows()) + "\n",
    ])  # fmt: skip


def _bullets(texts: Mapping[str, str]) -> str:
    return "".join(f"- **{md(name)}**: {md(text)}.\n" for name, text in texts.items())


def main(
    file: Annotated[Path | None, typer.Option(help="Write the page there.")] = None,
) -> int:
    """Write or print the page of architectures: what they cost, what papers print, and why the two
    differ.

    Example: python -m benchmark.archtable --file docs/architectures.md
    """
    text = page()
    if file is None:
        console().print(text, highlight=False, markup=False, soft_wrap=True, end="")
    else:
        file.write_text(text, encoding="utf-8")
    return DONE


if __name__ == "__main__":
    run_app(main)
