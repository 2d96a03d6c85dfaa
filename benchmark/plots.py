"""Figures of the leaderboard. One colour and marker per method in all of them.

Drawn without pyplot's global state and saved as SVG with fixed ids and glyphs as paths, so that two
runs in one environment give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns  # type: ignore[import-untyped, unused-ignore]
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark import maskplot, tables
from benchmark.block import Block
from benchmark.kinds import lane_of
from benchmark.looks import MARKERS, Look, appearances, ordered_entries, wrapped
from benchmark.record import RunRecord
from benchmark.summaries import LEAST_SEEDS

STAGES = (("before", "before recovery", 0.0), ("recalibrated", "after BN recalibration", 0.35),
          ("final", "after recovery", 1.0))  # fmt: skip

LEGEND_ENTRY, LEGEND_LINE = 0.22, 0.16  # inches of a legend's entry, and of each further line of it


def figures(block: Block) -> Iterator[tuple[str, str, str, Figure]]:
    """Table, file stem, caption and figure of everything there is to draw."""
    done = block.board[block.board["status"] == "done"]
    appearance = appearances(block.board)
    for table, part in done.groupby("table", sort=False):
        first, looks = part.iloc[0], appearance[str(table)]
        stem = f"{block.name}-{first['track']}-{table}"
        own = block.runs[(block.runs["table"] == table) & (block.runs["status"] == "done")]
        yield str(table), f"{stem}-accuracy", "Accuracy against cost", accuracy(part, own, looks)
        yield (
            str(table),
            f"{stem}-stages",
            "Accuracy before and after recovery",
            stages(part, looks),
        )
        if not lane_of(first["scope"]):  # elsewhere all channels stay
            drawn = widths(own, block.records)
            yield str(table), f"{stem}-widths", "Kept channels per layer", drawn
        for cell, seeds in own.groupby("cell", sort=False):
            record = block.records[str(seeds.iloc[0]["run_id"])]
            if "class_masks" in record.method_facts:
                title = f"{seeds.iloc[0]['entry']}, target {seeds.iloc[0]['target']:g} %"
                drawn = maskplot.masks(block.store, record, title)
                yield str(table), f"{stem}-masks-{cell}", f"Class-wise masks: {title}", drawn


def legend(entries: list[str], looks: dict[str, Look]) -> list[Line2D]:
    """Of a legend."""
    return [
        Line2D([], [], label=wrapped(e), linestyle=looks[e].line, **marker_of(looks[e]))
        for e in entries
    ]


def height_of(labels: Iterable[str]) -> float:
    """Inches that a legend with these labels takes: with less, no room is left for the axes."""
    entries = [label.count("\n") for label in labels]
    return LEGEND_ENTRY * len(entries) + LEGEND_LINE * sum(entries)


def marker_of(look: Look) -> dict[str, Any]:
    """Settings of a line's points."""
    face = look.colour if look.filled else "white"
    return {"color": look.colour, "marker": look.marker, "markerfacecolor": face,
            "markeredgecolor": look.colour, "markeredgewidth": 1.3, "markersize": 6}  # fmt: skip


def heading(figure: Figure, part: pd.DataFrame, what: str) -> None:
    """What is drawn, over the caption of its table."""
    letters = int(15 * figure.get_figwidth())
    text = f"{what}\n{wrapped(tables.caption(part), letters)}"
    figure.suptitle(text, x=0.01, ha="left", fontsize="small")


# ---- accuracy against cost -----------------------------------------------------------------------


def accuracy(part: pd.DataFrame, runs: pd.DataFrame, looks: dict[str, Look]) -> Figure:
    """Final accuracy against achieved FLOPs reduction; bars are sample standard deviations. Rows
    that remove nothing are levels to compare with, as the dense network is."""
    entries = ordered_entries(part)
    height = max(4.8, 1.4 + height_of([*map(wrapped, entries), "dense"]))
    figure = Figure(figsize=(8.6, height), layout="constrained")
    axes = figure.subplots()
    pruned = part[part["target"] > 0] if (part["target"] > 0).any() else part
    left, right = _window(pruned)
    spread = 0.06 * (right - left)
    moved = ordered_entries(pruned)
    shifts = np.linspace(-spread / 2, spread / 2, len(moved)) if len(moved) > 1 else [0.0]
    for entry, shift in zip(moved, shifts, strict=True):
        _curve(axes, pruned[pruned["entry"] == entry], runs, looks[entry], float(shift))
    levels = part.drop(pruned.index)
    for entry, level in zip(levels["entry"], levels["final_mean"].astype(float), strict=True):
        look = looks[str(entry)]
        axes.axhline(level, color=look.colour, linestyle=look.line, linewidth=1.2)
        axes.plot([0.015], [level], transform=axes.get_yaxis_transform(), **marker_of(look))
    handles = legend(entries, looks) + _dense_line(axes, part)
    axes.set_xlim(left, right)
    _leave_out_chance(axes, part)
    axes.set_xlabel(
        "achieved FLOPs reduction (% of dense multiply-accumulates)\n"
        + _small(part, spread / 2 if len(moved) > 1 else 0.0)
    )
    axes.set_ylabel("test top-1 after recovery (%)")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    heading(figure, part, "Accuracy against cost")
    return figure


def _small(part: pd.DataFrame, shift: float) -> str:
    """The small print under the axis."""
    text = []
    if (part["n"] > 1).any():
        text.append("mean over seeds, bar: ± sample standard deviation")
    if part["n"].between(2, LEAST_SEEDS - 1).any():
        text.append(f"small marks: seeds, where there are fewer than {LEAST_SEEDS}")
    if (part["n"] == 1).any():
        text.append("no bar: one seed")
    if shift:
        text.append(f"points are moved sideways by up to {shift:.2f} so that all can be seen")
    return wrapped("; ".join(text), 80)


def _curve(axes: Axes, part: pd.DataFrame, runs: pd.DataFrame, look: Look, shift: float) -> None:
    ordered = part.sort_values("flops_reduction")
    repeated = ordered[ordered["n"] > 1]
    axes.errorbar(
        repeated["flops_reduction"] + shift, repeated["final_mean"], yerr=repeated["final_sd"],
        color=look.colour, linestyle="none", capsize=2, elinewidth=1, zorder=2,
    )  # fmt: skip
    sns.lineplot(
        x=ordered["flops_reduction"].to_numpy() + shift, y=ordered["final_mean"].to_numpy(),
        ax=axes, linestyle=look.line, linewidth=1.2, errorbar=None, legend=False, zorder=3,
        label="_" + str(ordered["entry"].iloc[0]), **marker_of(look),
    )  # fmt: skip
    few = ordered.loc[ordered["n"].between(2, LEAST_SEEDS - 1), "cell"]
    seeds = runs[runs["cell"].isin(few)]
    axes.plot(
        seeds["flops_reduction"] + shift, seeds["test_final"], linestyle="none", zorder=2,
        **marker_of(look) | {"markersize": 4, "markeredgewidth": 0.6, "markerfacecolor": "none"},
    )  # fmt: skip


def _dense_line(axes: Axes, part: pd.DataFrame) -> list[Line2D]:
    """The dense network most rows start from, with a band of one standard deviation."""
    known = part[part["dense_mean"].notna()]
    if known.empty:
        return []
    most = known["dense_n"].max()
    values = known.loc[known["dense_n"] == most].groupby(["dense_mean", "dense_sd"], dropna=False)
    mean, sd = max(values.size().items(), key=lambda item: item[1])[0]
    axes.axhline(mean, color="black", linewidth=1, linestyle=":", label="_dense")
    text = f"dense network: {mean:.2f} %"
    if not np.isnan(sd):
        axes.axhspan(mean - sd, mean + sd, color="black", alpha=0.08, linewidth=0)
        text += f" ± {sd:.2f} (n = {most:.0f})"
    return [Line2D([], [], color="black", linestyle=":", linewidth=1, label=wrapped(text))]


def _window(pruned: pd.DataFrame) -> tuple[float, float]:
    """Limits of the reduction axis: some room, more around a single target."""
    low, high = float(pruned["flops_reduction"].min()), float(pruned["flops_reduction"].max())
    room = max(1.5, 0.06 * (high - low))
    return low - room, high + room


def _leave_out_chance(axes: Axes, part: pd.DataFrame) -> None:
    """Rows at chance would flatten all others: they are named instead."""
    lost = part["marks"].str.contains("at chance")
    if lost.any() and not lost.all():
        kept = part[~lost]
        values = pd.concat([kept["final_mean"], kept["dense_mean"]])
        sd = kept["final_sd"].fillna(0).max()
        room = max(1.0, 0.1 * (values.max() - values.min())) + sd
        axes.set_ylim(values.min() - room, values.max() + room)
        names = [f"{r.entry}, target {r.target:g} %: {r.final_mean:.2f} %"
                 for r in part[lost].itertuples()]  # fmt: skip
        axes.text(
            0.02, 0.02, "\n".join(["at chance, below the axis:", *names]), va="bottom",
            transform=axes.transAxes, fontsize="small", style="italic",
        )  # fmt: skip


# ---- stages --------------------------------------------------------------------------------------


def stages(part: pd.DataFrame, looks: dict[str, Look]) -> Figure:
    """Accuracy before recovery, after BN recalibration and after recovery, a panel per target."""
    entries = ordered_entries(part)[::-1]
    targets = sorted(set(part["target"]))
    rows = {t: [e for e in entries if e in set(part.loc[part["target"] == t, "entry"])]
            for t in targets}  # fmt: skip
    height = 1.4 + 0.45 * len(targets) + 0.28 * sum(map(len, rows.values()))
    figure = Figure(figsize=(8.2, height), layout="constrained")
    grid = figure.subplots(
        len(targets), 1, sharex=True, squeeze=False, height_ratios=[len(rows[t]) for t in targets]
    )
    for axes, target in zip(grid[:, 0], targets, strict=True):
        here = part[part["target"] == target].set_index("entry")
        for y, entry in enumerate(rows[target]):
            _stage_points(axes, here.loc[entry], y, looks[entry])
        for dense in here["dense_mean"].dropna().drop_duplicates():
            axes.axvline(dense, color="black", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(rows[target])), [wrapped(e, 40) for e in rows[target]])
        axes.set_ylim(-0.6, len(rows[target]) - 0.4)
        axes.set_title(f"target {target:g} % of FLOPs removed", loc="left")
    grid[-1, 0].set_xlabel("test top-1 (%), mean over seeds")
    grey = Look("#4d4d4d", "o", "-", True)
    handles = [
        Line2D([], [], linestyle="none", label=name,
               **marker_of(grey) | {"markerfacecolor": _tint(grey.colour, light)})
        for _, name, light in STAGES
    ]  # fmt: skip
    handles.append(Line2D([], [], color="black", linestyle=":", label="dense network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    heading(figure, part, "Accuracy before and after recovery")
    return figure


def _stage_points(axes: Axes, row: pd.Series[Any], y: int, look: Look) -> None:
    """Hollow, light and solid markers; those of controls have no area to fill: a circle."""
    values = [row[f"{name}_mean"] for name, _, _ in STAGES]
    axes.plot(values, [y] * len(values), color=look.colour, alpha=0.3, linewidth=1.2, zorder=1)
    marker = look.marker if look.marker in MARKERS else "o"
    for (name, _, light), value in zip(STAGES, values, strict=True):
        axes.plot(
            [value], [y], linestyle="none", label=f"_{name}", zorder=3,
            **marker_of(look) | {"marker": marker, "markerfacecolor": _tint(look.colour, light)},
        )  # fmt: skip


def _tint(colour: Any, share: float) -> tuple[float, ...]:
    """The colour mixed with white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


# ---- widths --------------------------------------------------------------------------------------


def kept_shares(runs: pd.DataFrame, records: Mapping[str, RunRecord]) -> pd.DataFrame:
    """One row per (target, entry): % of channels kept in each group, mean over seeds."""
    rows = []
    for run in runs.itertuples():
        record = records[str(run.run_id)]
        share = {g: 100 * w / record.dense_widths[g] for g, w in record.widths.items()}
        rows.append({"target": run.target, "control": run.control, "entry": run.entry} | share)
    frame = pd.DataFrame(rows).groupby(["target", "control", "entry"]).mean()
    ordered = dict.fromkeys(g for i in runs["run_id"] for g in records[str(i)].groups)
    return frame[list(ordered)]


def widths(runs: pd.DataFrame, records: Mapping[str, RunRecord]) -> Figure:
    """Heat maps of the share of channels kept, layers from left to right, a panel per target."""
    pruned = runs[runs["target"] > 0] if (runs["target"] > 0).any() else runs
    shares = kept_shares(pruned, records)
    counts = shares.groupby("target").size()
    layers, few = list(shares.columns), len(shares.columns) <= 20
    size = (3.8 + (0.55 if few else 0.22) * len(layers),
            2.0 + 0.32 * len(shares) + 0.3 * len(counts))  # fmt: skip
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(counts), 1, squeeze=False, sharex=True, height_ratios=counts.tolist()
    )
    for axes, (target, part) in zip(grid[:, 0], shares.groupby("target"), strict=True):
        sns.heatmap(
            part, ax=axes, vmin=0, vmax=100, cmap="viridis", cbar=False, annot=few, fmt=".0f",
            linewidths=0.5, xticklabels=layers, annot_kws={"fontsize": 7},
            yticklabels=[wrapped(entry, 40) for _, _, entry in part.index],
        )  # fmt: skip
        axes.set(xlabel="", ylabel="")
        axes.tick_params(axis="x", rotation=90, labelsize=7 if few else 6)
        axes.tick_params(axis="y", rotation=0)
        axes.set_title(f"target {target:g} % of FLOPs removed", loc="left")
    grid[-1, 0].set_xlabel("groups of channels by the layer that writes them, input to output")
    bar = figure.colorbar(grid[0, 0].collections[0], ax=list(grid[:, 0]), fraction=0.03, pad=0.01)
    bar.set_label("channels kept (%)")
    heading(figure, runs, "Kept widths, mean over seeds")
    return figure
