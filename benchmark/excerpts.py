"""What a page tells of one run and of one method: short, and plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.record import RunRecord
from benchmark.spec import identity
from methods import UnknownMethod, find_ours

DIGITS = 6  # significant ones of floats


@dataclass(frozen=True)
class Card:
    """What a method's paper says, and where ours differs."""

    title: str
    label: str
    control: bool
    summary: str
    paper: Mapping[str, Any]
    variants: Sequence[tuple[str, str, str]]  # label, title, summary
    deviations: Sequence[Mapping[str, str]]


def detail(record: RunRecord) -> dict[str, Any]:
    """Excerpt of a record for the drawer: how it was made, and what its figures rest on."""
    widths = {g: [w, record.dense_widths.get(g)] for g, w in record.widths.items()}
    facts = {k: v for k, v in record.method_facts.items() if not _has_arrays(v)}
    found: dict[str, Any] = {
        "command": record.command,
        "reproduce": f"python -m benchmark.reproduce {record.run_id} --results DIR",
        "folder": f"runs/{record.spec.folder}",
        "spec": identity(record.spec),
        "environment": record.environment,
        "widths": widths,
        "spent": record.spent.model_dump(mode="json"),
        "selection": record.selection.model_dump(mode="json") if record.selection else None,
        "seed_agreement": (
            record.seed_agreement.model_dump(mode="json") if record.seed_agreement else None
        ),
        "latency": record.latency,
        "method_facts": facts,
        "plan": record.plan,
        "weights": record.weights,
        "dense_weights": record.dense.weights,
    }
    short: dict[str, Any] = _short(found)
    return short


def cards(labels: Iterable[str]) -> list[Card]:
    """One card per method that has results, with its variants; methods first. A method that is
    not ours has no card here."""
    found = []
    for name in sorted({label.partition(":")[0] for label in labels}):
        try:
            entry = find_ours(name)
        except UnknownMethod:
            continue
        variants = {f"{name}:{v}": body for v, body in entry.card.get("variant", {}).items()}
        found.append(
            Card(
                title=entry.title,
                label=name,
                control=entry.is_control,
                summary=str(entry.card["card"].get("summary", "")),
                paper=entry.card.get("paper", {}),
                variants=[
                    (label, find_ours(label).title, str(body.get("summary", "")))
                    for label, body in variants.items()
                ],
                deviations=entry.card.get("deviation", []),
            )
        )
    return sorted(found, key=lambda card: (card.control, card.title))


def _short(value: Any) -> Any:
    """Floats cut to what a reader can use; whatever JSON has not, as text."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_short(v) for v in value]
    return value if isinstance(value, str | int | None) else str(value)


def _has_arrays(value: Any) -> bool:
    """Encoded tensors are for figures, not for reading."""
    if not isinstance(value, Mapping):
        return False
    return "float16" in value or any(_has_arrays(v) for v in value.values())
