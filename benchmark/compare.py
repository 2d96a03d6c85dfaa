"""`python -m benchmark.compare RUN RUN`: two finished runs side by side, for reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark import columns
from benchmark.cli import DONE, console, run_app
from benchmark.files import dump_json
from benchmark.imagewise import Point
from benchmark.load import find_run
from benchmark.paired import MARGIN
from benchmark.progress import counted
from benchmark.settings import Values
from benchmark.sidebyside import Kept, Layer, SideBySide, What, compared, read

LAYERS_SHOWN = 12
SHOWN = 60  # letters of a value
TITLES = {
    "flops_reduction": "FLOPs removed",
    "macs": "MACs per image",
    "params_reduction": "parameters removed",
    "params_count": "parameters",
    "floor_share": "layers at minimum width",
    "images_allowed": "images allowed",
    "images_charged": "images charged",
    "images_free": "images free",
    "images_forward": "images without gradient",
    "images_preparation": "images before recovery",
    "charged_epochs": "charged, in epochs",
    "training_gmacs": "training",
    "dense_training_gmacs": "training of the dense network",
    "training_gmacs_in_all": "training in all",
    "seconds": "seconds",
    "speedup_1": "speedup, batch of 1",
    "speedup_128": "speedup, batch of 128",
    "before": "before recovery",
    "recalibrated": "BN recalibrated",
    "final": "final",
}
SHORT_UNITS = {"10^9 MACs": "GMACs", "ratio": "x", "s": "s", "epochs": "", "images": "", "MACs": ""}
_COLUMNS = {c.name: c for c in columns.RUNS}


def main(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A: run id, its start, or folder.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="B: likewise.")],
    results: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="The same facts as JSON.")] = False,
) -> int:
    """Set two finished runs side by side; differences are B minus A.

    Example: python -m benchmark.compare 3f2a 9c01 --results results-demo
    """
    found = compared(*(read(find_run(run, results)) for run in (first, second)))
    screen = console()
    if as_json:
        text = dump_json(asdict(found)).rstrip("\n")
        screen.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        show(found, screen)
    return DONE


def show(found: SideBySide, screen: Console) -> None:
    """Print all facts."""
    for line in _introduction(found):
        _say(screen, line)
    _section(screen, "Settings", _values(found.settings), "no setting differs")
    _section(screen, "Size", _sized(found.sizes))
    _kept(screen, found.kept)
    _accuracy(screen, found)
    _section(screen, "Cost", _sized(found.costs))
    if found.no_seconds:
        _say(screen, f"  seconds are not compared: {found.no_seconds}")
    _section(screen, "Environment", _values(found.environment), "no difference is recorded")


def _say(screen: Console, line: str) -> None:
    screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _section(screen: Console, title: str, rows: Table, empty: str = "") -> None:
    _say(screen, "")
    if rows.row_count:
        rows.columns[0].header = title
        screen.print(rows)
    else:
        _say(screen, f"{title}: {empty}")


def _table(*heads: str) -> Table:
    """The first column holds words, all others figures."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True, min_width=28)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    first, *others = cells
    table.add_row(Text(f"  {first}"), *map(Text, others))


# ---- sections ------------------------------------------------------------------------------------


def _introduction(found: SideBySide) -> list[str]:
    lines = [f"{name}  {_named(what)}" for name, what in zip("AB", found.runs, strict=True)]
    if found.apart:
        lines.append(f"Not to be compared, they differ in {found.apart}: no verdict is given.")
    else:
        lines.append("May be compared: both belong in one table.")
    return lines + [f"Mind: {caution}." for caution in found.cautions]


def _named(what: What) -> str:
    target = f"{what.target:g} % of the FLOPs to remove" if what.target else "nothing to remove"
    return (
        f"{what.run_id}  {what.title} ({what.method}), {what.data}, {what.arch}, {target}, "
        f"seed {what.seed}, {what.track} track, protocol {what.protocol}"
    )


def _values(values: Iterable[Values]) -> Table:
    table = _table("A", "B")
    for value in values:
        _add(table, (value.name, _plain(value.a), _plain(value.b)))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        value = " ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value is None or value in ("", []) else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _sized(values: Iterable[Values]) -> Table:
    """Figures that are columns of the table of runs too, with their decimals and units."""
    table = _table("A", "B", "B - A", "")
    for value in values:
        column = _COLUMNS.get(value.name, columns.Column(value.name, "", "images", 0))
        if "gmacs" in value.name:
            column = _COLUMNS["training_gmacs"]
        places = column.decimals or 0
        both = [_figure(v, places) for v in (value.a, value.b)]
        gap = "" if None in (value.a, value.b) else f"{value.b - value.a:+,.{places}f}"
        unit = SHORT_UNITS.get(column.unit, column.unit)
        _add(table, (TITLES[value.name], *both, _calm(gap), unit))
    return table


def _figure(value: float | None, places: int) -> str:
    return "none" if value is None else f"{value:,.{places}f}"


def _calm(signed: str) -> str:
    """No sign on nothing."""
    return signed if signed.strip("+-0.,") else signed.lstrip("+-")


def _kept(screen: Console, kept: Kept | None) -> None:
    if kept is None:
        _say(screen, "\nKept units: not compared, the networks have other layers")
        return
    table = _table("channels", "A keeps", "B keeps", "both", "by chance")
    for layer in _shown(kept.layers):
        _add(table, _layer_cells(layer))
    whole = sum(layer.channels for layer in kept.layers)
    _add(
        table, ("all layers", *_counts(whole, kept.a, kept.b, kept.shared), f"{kept.by_chance:.1f}")
    )
    _section(screen, "Kept units", table)
    hidden = len(kept.layers) - LAYERS_SHOWN
    if hidden > 0:
        _say(
            screen, f"  {counted(hidden, 'layer')} more, whose widths differ least (--json has all)"
        )
    _say(
        screen,
        f"  B keeps {kept.share:.1f} % of what A keeps: {kept.shared} units, "
        f"where choices at random share {kept.by_chance:.1f} ± {kept.chance_sd:.1f} (sd)",
    )
    if not kept.same_dense:
        _say(screen, "  the dense networks differ: equal numbers do not mean equal channels")


def _shown(layers: tuple[Layer, ...]) -> list[Layer]:
    """Those whose widths differ most, in the order of the network."""
    order = sorted(range(len(layers)), key=lambda i: (-abs(layers[i].a - layers[i].b), i))
    return [layers[i] for i in sorted(order[:LAYERS_SHOWN])]


def _layer_cells(layer: Layer) -> tuple[str, ...]:
    counts = _counts(layer.channels, layer.a, layer.b, layer.shared)
    return (layer.group, *counts, f"{layer.by_chance:.1f}")


def _counts(*numbers: int) -> list[str]:
    return [f"{n:,}" for n in numbers]


def _accuracy(screen: Console, found: SideBySide) -> None:
    heads = ["A", "B", "B - A"]
    if not found.unpaired:
        heads += ["95 % interval", "only A", "only B", "" if found.apart else "B is"]
    table = _table(*heads)
    dense = [_figure(v, 2) for v in (found.dense.a, found.dense.b)]
    _add(table, (found.dense.name, *dense, *[""] * (len(heads) - 2)))
    for point in found.accuracy:
        _add(table, _point_cells(point, paired=not found.unpaired))
    _section(screen, "Test accuracy, %", table)
    if found.unpaired:
        _say(screen, f"  no paired figures: {found.unpaired}")
        return
    _say(
        screen,
        f"  {found.images:,} test images, paired; only A, only B: images that one alone has right; "
        f"interval: {found.scope}",
    )
    if not found.apart:
        _say(screen, f"  B is better or worse where the interval lies beyond {MARGIN} points")
    _classes(screen, found)


def _point_cells(point: Point, paired: bool) -> list[str]:
    cells = [TITLES[point.name], _figure(point.a, 2), _figure(point.b, 2)]
    gap = point.b - point.a if point.difference is None else point.difference
    cells.append(_calm(f"{gap:+.2f}"))
    if paired:
        cells += [f"{point.low:+.2f} to {point.high:+.2f}", f"{point.only_a}", f"{point.only_b}"]
        cells.append(point.verdict or "")
    return cells


def _classes(screen: Console, found: SideBySide) -> None:
    if not found.classes:
        _say(screen, "  no class has more images right in one run than in the other")
        return
    shown = ", ".join(
        f"class {c.label} {c.a} to {c.b} of {c.images} ({c.b - c.a:+d})" for c in found.classes
    )
    _say(screen, f"  largest changes from A to B, final, by class: {shown}")


if __name__ == "__main__":
    run_app(main)
