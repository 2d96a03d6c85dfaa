"""From words to cells: rules of the tracks, budgets, identity of the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import BadInput
from benchmark.options import Options, options_from
from benchmark.sweep import Cell, expand

BASE: dict[str, Any] = {
    "arch": "resnet8", "dataset": "digits", "preset": "demo", "controls": False,
}  # fmt: skip


def cells_of(**words: Any) -> list[Cell]:
    return expand(options_from(BASE | words), tiny.data())


def by_label(cells: list[Cell]) -> dict[str, Cell]:
    return {c.spec.method.label: c for c in cells}


# ---- identity ------------------------------------------------------------------------------------


@given(
    results=st.sampled_from(["results", "/elsewhere"]),
    jobs=st.integers(1, 8),
    data_dir=st.none() | st.just("/moved"),
    optimistic=st.booleans(),
    order=st.permutations(["l1norm", "hrank", "random"]),
    seeds=st.permutations([0, 1]),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ids_do_not_depend_on_paths_jobs_or_order(
    results: str, jobs: int, data_dir: str | None, optimistic: bool, order: list[str],
    seeds: list[int],
) -> None:  # fmt: skip
    plain = {c.spec.run_id for c in cells_of(methods=["l1norm", "hrank", "random"], seeds=[0, 1])}
    other = cells_of(
        methods=order, seeds=seeds, results=results, jobs=jobs, data_dir=data_dir,
        optimistic=optimistic,
    )  # fmt: skip
    assert {c.spec.run_id for c in other} == plain


def test_default_values_said_aloud_change_nothing() -> None:
    said = cells_of(
        methods=["whitebox"], flops_reduction=[0.5], allocation="global", scope="inner", epochs=6.0,
        set={"whitebox.mask_epochs": 1.5, "baseline.lr": 0.1}, precision="fp32", threads=1,
    )  # fmt: skip
    assert said[0].spec.run_id == cells_of(methods=["whitebox"])[0].spec.run_id


def test_a_config_file_is_the_flags(tmp_path: Path) -> None:
    config = tmp_path / "grid.toml"
    config.write_text(
        'methods = ["hrank"]\narch = "resnet8"\ndataset = "digits"\npreset = "demo"\n'
        "controls = false\n"
        '[set]\n"hrank.num_images" = 100\n'
    )
    from_file = expand(options_from({}, config), tiny.data())
    from_flags = cells_of(methods=["hrank"], set={"hrank.num_images": 100})
    assert [c.spec for c in from_file] == [c.spec for c in from_flags]
    both = options_from({"arch": "resnet20", "set": {"recovery.lr": 0.1}}, config)
    assert both.arch == "resnet20"
    assert both.set == {"hrank.num_images": 100, "recovery.lr": 0.1}


# ---- budgets -------------------------------------------------------------------------------------


def test_every_method_has_the_same_budget_and_start() -> None:
    cells = cells_of(methods=["whitebox", "hrank", "slimming", "cpli", "l1norm", "random"])
    assert {c.spec.budget_epochs for c in cells} == {6}
    assert len({c.spec.recovery for c in cells}) == 1
    assert len({c.spec.baseline for c in cells}) == 1
    assert {c.spec.seeds.dense for c in cells} == {0}


def test_controls_follow_their_definitions() -> None:
    found = by_label(cells_of(methods=["width_scaling", "dense_continue"]))
    scratch = found["width_scaling"].spec
    assert scratch.start.kind == "random"
    assert scratch.baseline is None
    assert scratch.budget_epochs == scratch.recovery.epochs == 16
    assert scratch.recovery.lr == 0.1
    dense = found["dense_continue"].spec
    assert (dense.flops_reduction, dense.allocation) == (0.0, "none")


def test_controls_without_a_target_are_one_cell() -> None:
    cells = cells_of(methods=["dense_continue", "l1norm"], flops_reduction=[0.3, 0.5])
    labels = [c.spec.method.label for c in cells]
    assert labels.count("dense_continue") == 1
    assert labels.count("l1norm") == 2


def test_shares_of_the_budget_are_resolved_before_the_id() -> None:
    assert by_label(cells_of(methods=["whitebox"]))["whitebox"].spec.method.params[
        "mask_epochs"
    ] == pytest.approx(1.5)
    longer = by_label(cells_of(methods=["whitebox"], epochs=20.0))["whitebox"].spec
    assert longer.method.params["mask_epochs"] == pytest.approx(5.0)


def test_free_preparation_makes_a_second_row_only_where_something_is_prepared() -> None:
    cells = cells_of(methods=["l1norm", "whitebox", "cpli"], preparation=["charged", "free"])
    labels = [(c.spec.method.label, c.spec.preparation) for c in cells]
    assert sorted(labels) == [
        ("cpli", "charged"), ("cpli", "free"), ("l1norm", "charged"), ("whitebox", "charged"),
        ("whitebox", "free"),
    ]  # fmt: skip


def test_reconstruction_is_an_axis_for_every_kept_set() -> None:
    cells = cells_of(methods=["l1norm", "random", "cpli"], reconstruct=["none", "ls"])
    labels = sorted((c.spec.method.label, c.spec.reconstruct) for c in cells)
    assert labels == [
        ("cpli", "none"), ("l1norm", "ls"), ("l1norm", "none"), ("random", "ls"),
        ("random", "none"),
    ]  # fmt: skip


# ---- allocations and tracks ----------------------------------------------------------------------


def test_allocation_method_is_resolved_to_its_own() -> None:
    found = by_label(cells_of(methods=["whitebox", "slimming", "l1norm", "hrank", "cpli"]))
    assert {k: c.spec.allocation for k, c in found.items()} == {
        "whitebox": "global", "slimming": "global", "l1norm": "uniform", "hrank": "uniform",
        "cpli": "uniform",
    }  # fmt: skip


def test_an_allocation_a_method_cannot_have_is_not_applicable_with_the_reason() -> None:
    found = by_label(cells_of(methods=["cpli", "l1norm"], allocation="global"))
    assert found["cpli"].status == "n/a"
    assert "uniform" in found["cpli"].blocked
    assert found["l1norm"].blocked == ""


def test_the_official_variant_is_not_for_the_common_track() -> None:
    (cell,) = cells_of(methods=["whitebox:official"])
    assert (cell.status, "paper" in cell.blocked) == ("n/a", True)


def test_the_total_track_is_not_run_on_a_cpu() -> None:
    (cell,) = cells_of(methods=["l1norm"], track="total", device="cpu")
    assert (cell.status, "GPU" in cell.blocked) == ("not run", True)


def test_the_paper_track_takes_the_card_at_its_word() -> None:
    (cell,) = cells_of(methods=["whitebox:official"], arch="resnet56", track="paper")
    spec = cell.spec
    assert cell.blocked == ""
    assert spec.start.kind == "random"
    assert (spec.flops_reduction, spec.min_width, spec.allocation) == (0.55, 0.3, "global")
    assert (spec.recovery.epochs, spec.recovery.lr, spec.recovery.batch_size) == (300, 0.1, 256)
    assert spec.recovery.milestones == (0.5, 0.75)
    assert spec.method.params["mask_epochs"] == 30
    assert spec.method.params["at"] == "conv"
    assert spec.budget_epochs == 330
    (listed,) = cells_of(methods=["hrank"], arch="resnet56", track="paper")
    assert (listed.spec.allocation, len(listed.spec.rates)) == ("listed", 55)


def test_a_paper_without_a_recipe_for_the_architecture_is_not_applicable() -> None:
    (cell,) = cells_of(methods=["whitebox:official"], track="paper")
    assert (cell.status, "no recipe for resnet8" in cell.blocked) == ("n/a", True)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"methods": ["whitebx"]}, "did you mean whitebox"),
        ({"methods": ["whitebox:offical"]}, "did you mean official"),
        ({"methods": ["./nowhere.py"]}, "does not exist"),
        ({"arch": "resnt20"}, "did you mean resnet20"),
        ({"dataset": "cifar11"}, "--dataset"),
        ({"flops_reduction": [50.0]}, "fractions between 0 and 1"),
        ({"flops_reduction": [0.0]}, "fractions between 0 and 1"),
        ({"set": {"whitebox.sparsty": 1.0}}, "did you mean sparsity"),
        ({"set": {"whitebox.mask_epochs": "many"}}, "takes a float"),
        ({"set": {"hrank.num_images": 5}}, "OWNER one of"),  # hrank is not in the grid
        ({"set": {"recovery.lrr": 0.1}}, "unknown setting recovery.lrr"),
        ({"set": {"recovery.lr": -1}}, "recovery.lr"),
        ({"lr": -0.1}, "--lr"),
        ({"threads": 0}, "--threads"),
        ({"checkpoint": Path("nowhere.pt")}, "does not exist"),
        ({"nonsense": 1}, "unknown key 'nonsense'"),
    ],
)
def test_mistakes_are_answered_in_one_clear_line(words: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        cells_of(**({"methods": ["whitebox"]} | words))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["methods = [", "methodz = ['a']", "\xff"])
def test_broken_config_files(tmp_path: Path, text: str) -> None:
    config = tmp_path / "x.toml"
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match="--config"):
        options_from({}, config)


def test_options_round_trip() -> None:
    options = Options(methods=["l1norm"], results=Path("/x"), set={"recovery.lr": 0.1})
    assert Options.model_validate_json(options.model_dump_json()) == options
