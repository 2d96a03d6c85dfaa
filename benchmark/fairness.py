"""Rules of a fair comparison, as far as records can show them: start, budget, size, controls.

Each looks at one table and can fail. The rules themselves: docs/DECISIONS.md, B.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

from benchmark import sharing
from benchmark.boards import SETTING
from benchmark.controls import is_reference, suite
from benchmark.frames import MOST_FLOOR, SATURATED
from benchmark.ledger import FORWARD_SHARE, is_recovery
from benchmark.paired import MARGIN
from benchmark.record import RunRecord
from benchmark.select import TOLERANCE
from benchmark.spec import canonical, identity
from benchmark.tableview import Found, View, judged, place, runs_of
from methods import Entry, UnknownMethod, find_ours

MOST_EXCESS = 1.0  # points of FLOPs reduction beyond the target
LEAST_SPENT = 0.99  # of the budget
EXACT = 1e-9
OWN_RECIPES = Found(None, "each paper's own recipe")


def one_setting(view: View) -> Found:
    """Read from the settings of the runs, not from the hash that put them into one table."""
    mixed = []
    for name in SETTING:
        counts = view.runs[name].value_counts()
        if len(counts) > 1:
            rare = view.runs[view.runs[name] == counts.index[-1]].iloc[0]
            where = place(str(rare["entry"]), float(rare["target"]))
            mixed.append(f"{len(counts)} values of {name}, one of them in {where}")
    return judged(mixed, f"{runs_of(view.records)} share all of them")


def same_start(view: View) -> Found:
    if view.track == "paper":
        return OWN_RECIPES
    apart: dict[str, str] = {}
    for record in view.records:
        if record.spec.weights_start == "random":
            apart[record.title] = "random weights"
        elif sharing.has_own_dense(record):
            apart[record.title] = "a dense network of its own"
    odd, seeds = sharing.strays(view.records), len(sharing.groups(view.records))
    offenders = [f"{view.name(r)} {odd[r.run_id]}" for r in view.records if r.run_id in odd]
    named = "".join(f"; {title} starts from {what}" for title, what in sorted(apart.items()))
    if not seeds:
        return Found(None, "no run starts from a shared dense network" + named)
    return judged(offenders, f"one dense network for each of {seeds} seeds" + named)


def same_budget(view: View) -> Found:
    offenders = [
        f"{view.name(r)} spent {r.spent.charged:,} of {r.spent.allowed:,} images"
        for r in view.records
        if r.spent.charged > r.spent.allowed
    ]
    allowed: dict[str, list[RunRecord]] = defaultdict(list)
    for record in view.records:
        allowed[record.spec.weights_start].append(record)
    said = []
    for kind, part in sorted(allowed.items()):
        usual = Counter(r.spent.allowed for r in part).most_common(1)[0][0]
        said.append(f"{usual:,} images (start: {kind})")
        if view.track != "paper":
            offenders += [
                f"{view.name(r)} may spend {r.spent.allowed:,} images, others {usual:,}"
                for r in part
                if r.spent.allowed != usual
            ]
    return judged(offenders, "; ".join(said))


def budget_used(view: View) -> Found:
    offenders = [
        f"{view.name(r)} used {r.spent.charged:,} of {r.spent.allowed:,} images"
        for r in view.records
        if r.spent.charged < LEAST_SPENT * r.spent.allowed
    ]
    return judged(offenders, f"{runs_of(view.records)} used at least {100 * LEAST_SPENT:.0f} %")


def forward_capped(view: View) -> Found:
    """The cap holds for each phase by itself."""
    offenders = []
    for record in view.records:
        used: Counter[str] = Counter()
        for row in record.spent.rows:
            if row["kind"] == "forward":
                used[row["phase"]] += row["images"]
        offenders += [
            f"{view.name(record)} used {images:,} for {phase}"
            for phase, images in sorted(used.items())
            if images > FORWARD_SHARE * record.spent.allowed
        ]
    return judged(offenders, f"no phase of {runs_of(view.records)} goes beyond it")


def target_met(view: View) -> Found:
    gaps = {
        r.run_id: 100 * (r.flops_reduction - r.spec.flops_reduction)
        for r in view.records
        if r.spec.flops_reduction
    }
    if not gaps:
        return Found(None, "nothing is pruned")
    offenders = [
        f"{view.name(r)} removes {100 * r.flops_reduction:.2f} %"
        for r in view.records
        if not -100 * TOLERANCE - EXACT <= gaps.get(r.run_id, 0.0) <= MOST_EXCESS + EXACT
    ]
    low, high = min(gaps.values()), max(gaps.values())
    return judged(offenders, f"from {low:+.2f} to {high:+.2f} points of the target")


def cost_adds_up(view: View) -> Found:
    """Reductions follow from the counts, and these from the counts by operator."""
    offenders, counted = [], 0
    for record in view.records:
        pruned, dense = record.pruned, record.dense.cost
        cuts = (1 - pruned.macs / dense.macs, 1 - pruned.params / dense.params)
        wrong = abs(cuts[0] - record.flops_reduction) > EXACT
        wrong |= abs(cuts[1] - record.params_reduction) > EXACT
        for cost in (pruned, dense):
            if cost.operators:
                counted += 1
                operators = cost.operators.get("conv", 0) + cost.operators.get("linear", 0)
                wrong |= operators != cost.macs
        if wrong:
            offenders.append(view.name(record))
    if not counted and not offenders:
        return Found(None, "no counts by operator are recorded")
    return judged(offenders, f"{counted} counts by operator give the MACs that are shown")


def controls_present(view: View) -> Found:
    """For every target and allocation of the methods, by the nearest allocation a control has."""
    if view.track == "paper":
        return OWN_RECIPES
    lane = view.records[0].spec.result  # of the table
    beside = [entry for entry in suite(lane) if entry.result == lane]
    missing = [
        f"no {entry.title} for {target:g} %, {allocation}"
        for target, allocation in _places(view, {entry.label for entry in beside})
        for entry in beside
        if not _stands(view, entry, target, allocation)
    ]
    names = ", ".join(entry.title for entry in beside)
    return judged(missing, f"at every target and allocation: {names}")


def _places(view: View, own: set[str]) -> list[tuple[float, str]]:
    """Where methods stand; where these controls stand if nothing else does."""
    rows = view.board[view.board["allocation"] != "none"]
    asked = rows[~rows["method"].isin(own)]
    chosen = asked if len(asked) else rows
    return sorted(set(zip(chosen["target"], chosen["allocation"], strict=True)))


def _stands(
    view: View, entry: Entry, target: float, allocation: str, reconstruct: str = "none"
) -> bool:
    board = view.board
    rows = board[
        (board["method"] == entry.label)
        & (board["status"] == "done")
        & (board["reconstruct"] == reconstruct)
    ]
    if set(entry.cls.allocations) != {"none"}:
        rows = rows[rows["target"] == target]
    if allocation.partition(",")[0] in entry.cls.allocations:  # the rest is what it rounds to
        rows = rows[rows["allocation"] == allocation]
    return len(rows) > 0


def reconstruction_controlled(view: View) -> Found:
    rows = [
        r
        for r in view.records
        if r.spec.reconstruct == "ls" or (not r.spec.method.source and _refits(r.spec.method.label))
    ]
    if not rows:
        return Found(None, "no row reconstructs")
    targets = sorted({100 * r.spec.flops_reduction for r in rows})
    references = [entry for entry in suite() if is_reference(entry)]
    missing = [
        f"no {entry.title} with reconstruction at {target:g} %"
        for target in targets
        for entry in references
        if not _stands(view, entry, target, "", "ls")
    ]
    return judged(missing, "it was added to the references at every such target")


@cache
def _refits(label: str) -> bool:
    try:
        return find_ours(label).cls.refits
    except UnknownMethod:
        return False


def both_preparations(view: View) -> Found:
    prepared: dict[str, set[str]] = defaultdict(set)
    names: dict[str, str] = {}
    for record in view.records:
        if prepares(record.spent.rows):
            spec = record.spec.cell()
            key = canonical({k: v for k, v in identity(spec).items() if k != "preparation"})
            prepared[key].add(spec.preparation)
            names[key] = place(record.title, 100 * spec.flops_reduction)
    if not prepared:
        return Found(None, "no method trains before it removes")
    offenders = sorted(
        f"{names[key]}: only {next(iter(found))}"
        for key, found in prepared.items()
        if len(found) < 2
    )
    return judged(offenders, f"{len(prepared)} rows stand there both ways")


def prepares(rows: Iterable[dict[str, object]]) -> bool:
    """Whether a ledger holds training before removal, charged or free."""
    return any(
        r["kind"] != "forward" and not is_recovery(str(r["phase"])) and r["images"] for r in rows
    )


def trained_out(view: View) -> Found:
    """A dense network that training on improves was not trained enough to be pruned."""
    gains: dict[str, list[float]] = defaultdict(list)
    for record in view.records:
        if record.spec.allocation == "none" and record.dense.accuracy is not None:
            gain = 100 * (record.final.test_top1 - record.dense.accuracy.test_top1)
            gains[record.title].append(gain)
    if not gains:
        return Found(None, "no dense network was trained on")
    means = {title: sum(values) / len(values) for title, values in sorted(gains.items())}
    said = [f"{title}: {mean:+.2f} points" for title, mean in means.items()]
    return Found(max(means.values()) <= MARGIN, "; ".join(said))


def not_saturated(view: View) -> Found:
    dense = {r.dense.weights: r for r in view.records if r.dense.accuracy is not None}
    if not dense:
        return Found(None, "no dense network")
    tops = {w: 100 * r.dense.accuracy.test_top1 for w, r in dense.items() if r.dense.accuracy}
    high = [w for w, top in tops.items() if top > SATURATED]
    said = f"{len(tops)} dense networks of {min(tops.values()):.2f} to {max(tops.values()):.2f} %"
    return Found(not high, said)


def above_chance(view: View) -> Found:
    offenders = [view.name(r) for r in view.records if r.at_chance]
    return judged(offenders, f"{runs_of(view.records)} end above it")


def not_floor_bound(view: View) -> Found:
    offenders = [
        f"{view.name(r)}: {100 * r.floor_share:.0f} % of the layers"
        for r in view.records
        if 100 * r.floor_share > MOST_FLOOR
    ]
    most = max((100 * r.floor_share for r in view.records), default=0.0)
    return judged(offenders, f"at most {most:.0f} % of the layers of a run are at it")
