"""Records of any age stay readable, and their run ids stay what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import synthetic
from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.frozen import Frozen
from benchmark.images import DataIdentity
from benchmark.migrate import MIGRATIONS
from benchmark.record import RunRecord, parse_plan, parse_record, read_record
from benchmark.spec import (
    SCHEMA,
    ArchIdentity,
    MethodIdentity,
    Recipe,
    RunSpec,
    Scratch,
    Seeds,
    Start,
    identity,
)

RECORDS = Path(__file__).parent / "records"
# Run ids of the records that shipped with each schema version. Add to it, never change it.
SHIPPED = {1: "2806191ba040"}


def raw_record(**changes: Any) -> bytes:
    made = synthetic.record(synthetic.spec("l1norm", 0)).model_dump(mode="json")
    return json.dumps(made | changes).encode()


# ---- what every later version must read ----------------------------------------------------------


@pytest.mark.parametrize("version", range(1, SCHEMA + 1))
def test_a_record_of_every_version_is_read_for_ever(version: int) -> None:
    folder = RECORDS / f"v{version}"
    record = read_record(folder / "record.json")
    assert json.loads((folder / "record.json").read_text())["schema_version"] == version
    assert record.schema_version == SCHEMA
    assert record.run_id == record.spec.run_id == SHIPPED[version]
    plan = parse_plan((folder / "plan.json").read_bytes(), "plan.json")
    assert plan.widths() == record.widths


def test_there_is_a_step_from_every_older_version() -> None:
    assert MIGRATIONS.keys() == set(range(1, SCHEMA))


# ---- migration -----------------------------------------------------------------------------------


def test_an_old_record_is_migrated_on_reading_and_left_as_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 is read by a version 3 that calls the title otherwise and measures power."""
    old = json.loads(raw_record())
    path = tmp_path / "record.json"
    old["heading"] = old.pop("title")
    path.write_text(json.dumps(old))
    before = path.read_bytes()

    def rename(content: dict[str, Any]) -> dict[str, Any]:
        content["title"] = content.pop("heading")
        return content

    def annotate(content: dict[str, Any]) -> dict[str, Any]:
        assert content["schema_version"] == 2
        return content | {"environment": {"watts": None}}

    monkeypatch.setattr("benchmark.record.SCHEMA", 3)
    monkeypatch.setitem(MIGRATIONS, 1, rename)
    monkeypatch.setitem(MIGRATIONS, 2, annotate)
    record = read_record(path)
    assert (record.title, record.environment) == ("l1norm", {"watts": None})
    assert record.schema_version == 3
    assert record.run_id == old["run_id"] == record.spec.run_id
    assert path.read_bytes() == before
    today = json.dumps(record.model_dump(mode="json")).encode()
    assert parse_record(today, "today") == record  # what is current takes no step


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99, 0, -1, True, 1.0, "1", None, [1]])
def test_a_record_of_a_newer_or_no_version_is_refused(schema: Any) -> None:
    with pytest.raises(BadInput, match=r"x has schema version .* reads 1 to 1.*newer suite"):
        parse_record(raw_record(schema_version=schema), "x")


def test_a_broken_old_record_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.record.SCHEMA", 2)
    with pytest.raises(BadInput, match="x cannot be migrated from schema version 1"):
        parse_record(raw_record(), "x")  # there is no step
    monkeypatch.setitem(MIGRATIONS, 1, lambda content: content["gone"])
    with pytest.raises(BadInput, match="x cannot be migrated from schema version 1: 'gone'"):
        parse_record(raw_record(), "x")


# ---- run ids -------------------------------------------------------------------------------------


class LaterRecipe(Recipe):
    """A recipe of a later version, which knows the averaging of weights."""

    ADDED_LATER: ClassVar[frozenset[str]] = Recipe.ADDED_LATER | {"ema"}
    ema: float = 0.0


class LaterSpec(RunSpec):
    """A spec of a later version, with a switch that was always off before."""

    ADDED_LATER: ClassVar[frozenset[str]] = RunSpec.ADDED_LATER | {"hard_labels"}
    recovery: LaterRecipe
    hard_labels: bool = False


def later(**changes: Any) -> LaterSpec:
    content = synthetic.spec("l1norm", 0).model_dump(mode="json")
    recovery = content["recovery"] | changes.pop("recovery", {})
    return LaterSpec.model_validate(content | {"recovery": recovery} | changes)


def test_fields_that_were_added_later_keep_old_run_ids_while_they_hold_their_default() -> None:
    old = synthetic.spec("l1norm", 0)
    assert later().run_id == old.run_id
    assert later(hard_labels=False, recovery={"ema": 0}).run_id == old.run_id
    assert later(hard_labels=True).run_id != old.run_id
    assert later(recovery={"ema": 0.9}).run_id != old.run_id
    assert later(hard_labels=True).run_id != later(recovery={"ema": 0.9}).run_id
    assert "hard_labels" in later().model_dump()  # the record says it all the same


LOSING: dict[str, Any] = {"loss": "cc", "loss_weight": 0.5, "loss_margin": 0.5}


def test_todays_run_ids_leave_out_what_was_added_later_and_nothing_else() -> None:
    spec = synthetic.spec("l1norm", 0)
    later_fields = {
        "replicas": 1, "sync_bn": False, "round_to": 1, "schedule": "one-shot", "lane": "default",
        "trials": 0, "tuned": [], "result": "channels", "scratch": None,
    }  # fmt: skip
    of_recipe = {"loss": "ce", "loss_weight": None, "loss_margin": None}
    of_arch, of_data = {"source": ""}, {"pipeline": "pad-crop", "eval_resize": 0}
    assert later_fields.keys() == RunSpec.ADDED_LATER
    assert of_recipe.keys() == Recipe.ADDED_LATER
    assert of_arch.keys() == ArchIdentity.ADDED_LATER
    assert of_data.keys() == DataIdentity.ADDED_LATER
    found = identity(spec) | later_fields
    found |= {"arch": found["arch"] | of_arch, "data": found["data"] | of_data}
    found |= {name: found[name] | of_recipe for name in ("recovery", "baseline")}
    assert found == spec.model_dump(mode="json")
    arch = spec.arch.model_copy(update={"source": "1234"})
    data = spec.data.model_copy(update={"pipeline": "resized-crop", "eval_resize": 9})
    changes = {
        "replicas": 2,
        "sync_bn": True,
        "round_to": 8,
        "schedule": "layerwise",
        "arch": arch,
        "data": data,
        "lane": "tuned",
        "trials": 8,
        "tuned": ("recovery.lr",),
        "result": "dynamic",
        "scratch": Scratch(kind="scratch-e", recipe=Recipe(epochs=1, lr=0.1, **LOSING)),
    }
    changes["recovery"] = spec.recovery.model_copy(update=LOSING)
    changes["baseline"] = Recipe(epochs=1, lr=0.1).model_copy(update=LOSING)
    changed = spec.model_copy(update=changes)
    assert identity(changed) == changed.model_dump(mode="json")


@pytest.mark.parametrize(
    "model", [RunSpec, Recipe, ArchIdentity, Start, MethodIdentity, Seeds, DataIdentity]
)
def test_what_was_added_later_has_a_default(model: type[Frozen]) -> None:
    later = getattr(model, "ADDED_LATER", frozenset())
    assert later <= {n for n, field in model.model_fields.items() if not field.is_required()}


# ---- edited and foreign records ------------------------------------------------------------------


def test_a_record_whose_settings_were_edited_is_refused() -> None:
    content = json.loads(raw_record())
    content["spec"]["seeds"]["run"] = 7
    with pytest.raises(BadInput, match=r"^x was edited: its run id is \w{12}, its settings"):
        parse_record(json.dumps(content).encode(), "x")
    with pytest.raises(BadInput, match="was edited"):
        parse_record(raw_record(run_id="0" * 12), "x")
    with pytest.raises(BadInput, match="run_id"):
        parse_record(raw_record(run_id="../../../etc"), "x")


BAD_NAMES = [
    "../up", "..", ".", ".hidden", "a/b", "/root", "a\\b", "a..b", "end.", "", " ", "a b", "a\n",
    "nul\0", "x" * 65, "-rf", "ünïcode", "*", "a:b", "~",
]  # fmt: skip
GOOD_NAMES = ["digits", "cifar10-jpeg", "ResNet_50", "v1.2", "a+b", "_x", "x" * 64]


PLACES = ("data", "arch", "method", "variant")
BAD_PLACES = [(p, n) for p in PLACES for n in BAD_NAMES if (p, n) != ("variant", "")]


@pytest.mark.parametrize(("place", "name"), BAD_PLACES)
def test_names_in_a_record_cannot_leave_the_results_directory(place: str, name: str) -> None:
    content = json.loads(raw_record())
    owner, field = ("method", "variant") if place == "variant" else (place, "name")
    content["spec"][owner][field] = name
    with pytest.raises(BadInput, match=r"x is not a run record") as caught:
        parse_record(json.dumps(content).encode(), "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_of_the_field_are_names_here(name: str) -> None:
    spec = synthetic.spec(f"{name}:{name}", data=name, arch=name)
    assert Path(spec.folder).parts == (name, name, f"{name}-{name}", spec.run_id)


@pytest.mark.parametrize("field", ["epochs", "lr", "batch_size", "milestones"])
def test_truth_values_are_no_numbers(field: str) -> None:
    value = [True] if field == "milestones" else True
    with pytest.raises(ValidationError, match=r"needs a number .* not true"):
        Recipe.model_validate({"epochs": 1, "lr": 0.1} | {field: value})
    with pytest.raises(BadInput, match=r"needs a number .* not false"):
        parse_record(raw_record(widths={"a": False}), "x")


def test_every_field_of_a_record_survives_its_file() -> None:
    made = synthetic.record(synthetic.spec("l1norm", 0))
    assert parse_record(raw_record(), "x") == made
    assert made == RunRecord.model_validate_json(made.model_dump_json())
