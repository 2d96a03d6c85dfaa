"""Which runs start from one dense network, and which of them should and do not: what the same
recipe and seed make depends on the hardware and on the version of torch."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

from benchmark import vectors
from benchmark.baseline import stage_key
from benchmark.progress import counted
from benchmark.record import RunRecord
from benchmark.spec import RunSpec, canonical
from benchmark.store import Store
from methods import UnknownMethod, build, find_ours

Group = tuple[int | None, str]  # dense seed, checkpoint


def has_own_dense(record: RunRecord) -> bool:
    """Whether its method trained a dense network of its own, which no other method starts from."""
    method = record.spec.method
    return not method.source and _own_dense(method.label, canonical(method.params))


@cache
def _own_dense(label: str, params: str) -> bool:
    try:
        return build(find_ours(label), json.loads(params)).own_dense
    except UnknownMethod:  # of another version of the suite
        return False


def shares(record: RunRecord) -> bool:
    """Whether others start from the network that it starts from."""
    return record.spec.weights_start != "random" and not has_own_dense(record)


def groups(records: Iterable[RunRecord]) -> dict[Group, list[RunRecord]]:
    """Runs of one table or board that should share a dense network."""
    found: dict[Group, list[RunRecord]] = defaultdict(list)
    for record in filter(shares, records):
        found[record.spec.seeds.dense, record.spec.start.checkpoint].append(record)
    return dict(found)


def strays(records: Iterable[RunRecord]) -> dict[str, str]:
    """Of runs that start from another network than most of their group, by run id: how, in words.
    Both networks are named by their hash."""
    found: dict[str, str] = {}
    for part in groups(records).values():
        usual = Counter(r.dense.weights for r in part).most_common(1)[0][0]
        found |= {
            r.run_id: f"starts from {r.dense.weights}, others from {usual}"
            for r in part
            if r.dense.weights != usual
        }
    return found


def warning(store: Store, spec: RunSpec, own_dense: bool, weights: str) -> str:
    """Where finished runs should start from the network with these weights and start from another;
    empty: none do."""
    key = stage_key(spec, own_dense)
    there = store.records(f"{spec.data.name}/{spec.arch.name}")
    near = [r for r in there if r.spec.start.kind != "random" and r.dense.weights != weights]
    found = [r for r in near if stage_key(r.spec, has_own_dense(r)) == key]
    if not found:
        return ""
    how = vectors.advice(str(found[0].environment.get("cpu")))
    return (
        f"; {counted(len(found), 'finished run')} of this seed started from another network, as "
        "other hardware or another torch makes it: nothing is claimed of both, so take other seeds"
        + (f" ({how})" if how else "")
    )
