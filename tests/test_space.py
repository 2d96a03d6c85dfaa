"""What is tuned of each method: the space of its card, and the order of its settings."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import BadInput
from benchmark.space import MOST, Space, of_round, space_of
from benchmark.spec import RATE, canonical
from methods import Entry, all_names, find

LR = [0.1, 0.03, 0.01]


def with_space(space: Any, label: str = "whitebox") -> Entry:
    entry = find(label)
    card = {k: v for k, v in entry.card.items() if k != "space"}
    return replace(entry, card=card if space is None else card | {"space": space})


# ---- cards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", all_names())
def test_every_card_has_a_legal_space(label: str) -> None:
    space = space_of(find(label))
    assert RATE in space.values  # for all, controls too (DECISIONS 20)
    assert len(space.values) <= MOST
    assert all(len(values) for values in space.values.values())


def test_every_method_may_try_the_same_rates() -> None:
    """A method whose rates are finer or wider than those of its controls is tuned better."""
    rates = {label: space_of(find(label)).values[RATE] for label in all_names()}
    assert {label: r for label, r in rates.items() if r != tuple(LR)} == {}


def test_what_a_variant_sets_is_what_it_is() -> None:
    assert "mask_lr" in space_of(find("whitebox")).values
    official = space_of(find("whitebox:official"))
    assert "mask_lr" not in official.values
    assert RATE in official.values


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (None, ["whitebox: [space] of its card whitebox.toml is missing", '"recovery.lr" = [0.1']),
        ({}, ["is missing"]),
        (7, ["must be a table"]),
        ({RATE: LR, "mask_lr": LR, "sparsity": [0.0], "vote": ["sum"]}, ["4 parameters", "most 3"]),
        ({"mask_lr": LR}, ['lacks "recovery.lr"', "add it"]),
        ({RATE: 0.1}, ["recovery.lr must be a list of values"]),
        ({RATE: []}, ["recovery.lr must be a list of values"]),
        ({RATE: [0.1, 0.1]}, ["recovery.lr lists a value twice"]),
        ({RATE: [1, 1.0]}, ["lists a value twice"]),
        ({RATE: [0.1, 0.0]}, ["recovery.lr = 0.0", "greater than 0"]),
        ({RATE: ["fast"]}, ["recovery.lr = 'fast'", "number"]),
        ({RATE: [True]}, ["recovery.lr = True"]),
        ({RATE: LR, "recovery.epochs": [1, 2]}, ["recovery.epochs is not tuned", "the same for"]),
        ({RATE: LR, "mask_lrs": LR}, ["unknown parameter of whitebox 'mask_lrs'", "mask_lr"]),
        ({RATE: LR, "mask_lr": ["fast"]}, ["whitebox.mask_lr takes a float, not 'fast'"]),
        ({RATE: LR, "vote": ["sum", "gian"]}, ["unknown whitebox.vote 'gian'", "gain"]),
        ({RATE: LR, "dead_masks": [0, 1]}, ["whitebox.dead_masks takes a bool"]),
    ],
)
def test_a_bad_space_is_one_clear_line(space: Any, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        space_of(with_space(space))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


# ---- settings ------------------------------------------------------------------------------------


def test_the_order_of_three_values_by_hand() -> None:
    """Steps of the golden ratio from 1/2: 0.118, 0.736, 0.354 of three values."""
    settings = Space({RATE: tuple(LR)}).settings({RATE: 0.02}, 8)
    assert [s[RATE] for s in settings] == [0.02, 0.1, 0.01, 0.03]


def test_the_default_is_first_and_never_twice() -> None:
    space = Space({RATE: tuple(LR), "x": (0.0, 1.0)})
    settings = space.settings({RATE: 0.03, "x": 0}, 99)
    assert settings[0] == {RATE: 0.03, "x": 0}
    assert len(settings) == 6
    assert len({canonical(s) for s in settings}) == 6


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 30))
def test_settings_are_of_the_grid_and_fewer_begin_more(sizes: list[int], most: int) -> None:
    values = {f"p{i}": tuple(range(size)) for i, size in enumerate(sizes)}
    default = dict.fromkeys(values, -1)
    found = Space(values).settings(default, most)
    grid = {
        canonical(dict(zip(values, v, strict=True))) for v in itertools.product(*values.values())
    }
    assert found[0] == default
    assert len(found) == min(most, 1 + len(grid))
    assert {canonical(s) for s in found[1:]} <= grid
    assert len({canonical(s) for s in found}) == len(found)
    assert Space(values).settings(default, most + 5)[: len(found)] == found


def test_seven_settings_cover_every_value_of_three_parameters_alike() -> None:
    """30 % of random draws of seven settings never try some value."""
    values = dict.fromkeys("abc", (0, 1, 2))
    found = Space(values).settings(dict.fromkeys(values, -1), 8)[1:]
    for name in values:
        assert sorted(Counter(s[name] for s in found).values()) == [2, 2, 3]


def test_every_method_has_as_many_trials_whatever_its_space() -> None:
    few, many = [{RATE: r} for r in LR], [{RATE: r / 100} for r in range(1, 20)]
    for settings in (few, many):
        tried = [of_round(settings, k) for k in range(8)]
        assert len(tried) == 8
        assert len({(canonical(s), r) for s, r in tried}) == 8  # no trial is made twice
    assert [r for _, r in (of_round(few, k) for k in range(8))] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_epochs_left_at_zero_are_their_share_of_the_budget() -> None:
    space = Space({RATE: (0.1,), "mask_epochs": (0.0, 1.5, 3.0)})
    assert space.resolved(find("whitebox"), 6.0).values["mask_epochs"] == (1.5, 3.0)
    assert Space({"mask_lr": (0.0, 0.1)}).resolved(find("whitebox"), 6.0).values == {
        "mask_lr": (0.0, 0.1)
    }
