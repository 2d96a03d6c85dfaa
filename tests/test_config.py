"""Configurations and method cards that are wrong end in one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from benchmark.errors import BadInput
from benchmark.images import LONGEST_NAME
from benchmark.options import options_from
from benchmark.sweep import find_methods
from methods import UnknownMethod, find

# ---- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("flops_reducton = [0.5]", "unknown key 'flops_reducton'; did you mean flops_reduction"),
        ("flops-reduction = [0.5]", "did you mean flops_reduction"),
        ("Arch = 'resnet20'", "did you mean arch"),
        ("[sets]\na = 1", "did you mean set"),
        ("zzz = 1", r"unknown key 'zzz' \(known: "),
        ('"a\\nb\\u001b" = 1', r"unknown key 'a b\?'"),
        ("epochs = true", "--epochs: needs a number .* not true"),
        ("lr = false", "--lr: needs a number .* not false"),
        ("batch_size = true", "--batch-size: needs a number .* not true"),
        ("threads = true", "--threads: needs a number .* not true"),
        ("image_size = true", "--image-size: needs a number .* not true"),
        ("seeds = [0, true]", "--seeds: needs a number .* not true"),
        ("flops_reduction = [true]", "--flops-reduction: needs a number .* not true"),
        ("min_width = false", "--min-width: needs a number .* not false"),
        ("methods = [true]", "--methods: needs a number .* not true"),
        ("epochs = nan", "nan is not a finite number"),
        ("epochs = inf", "inf is not a finite number"),
        ("epochs = 1e999", "1e999 is not a finite number"),
        ("seeds = [99999999999999999999]", "an integer is too large"),
        ("seeds = 1", "--seeds: .*list"),
        ("epochs = 1979-05-27", "--epochs: .*date"),
        ('results = "a\\u0000b"', "--results: .* zero byte"),
        ("set = 1", "--set: .*dictionary"),
        ("a = " + "[" * 10_000, "nested too deeply"),
        ("methods = [", "--config"),
    ],
)
def test_a_wrong_config_is_answered_in_one_line(text: str, match: str, tmp_path: Path) -> None:
    config = tmp_path / "grid.toml"
    config.write_text(text)
    with pytest.raises(BadInput, match=match) as caught:
        options_from({"set": {"recovery.lr": 1.0}} if text == "set = 1" else {}, config)
    assert str(caught.value).isprintable()


def test_truth_values_are_taken_where_they_are_meant(tmp_path: Path) -> None:
    config = tmp_path / "grid.toml"
    config.write_text('optimistic = true\ncompile = true\n[set]\n"whitebox.train_weights" = true\n')
    options = options_from({}, config)
    assert (options.optimistic, options.compile) == (True, True)
    assert options.set == {"whitebox.train_weights": True}


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 10**400, 1 << 20_000, {1, 2}, b"x"],
    ids=["nan", "inf", "large", "huge", "set", "bytes"],
)
def test_settings_that_no_record_can_hold_are_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^--set: .* \(given: ") as caught:
        options_from({"set": {"whitebox.sparsity": value}})
    assert str(caught.value).isprintable()


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--config .*nowhere\.toml: .*No such file"):
        options_from({}, tmp_path / "nowhere.toml")


# ---- methods of users ----------------------------------------------------------------------------

MINE = '''
from dataclasses import dataclass
from methods.api import Method
@dataclass(frozen=True)
class Mine(Method):
    """Mine."""
'''


@pytest.mark.parametrize("stem", ["my method", ".mine", "a.b", "ü", "-x", "x" * (LONGEST_NAME + 1)])
def test_a_method_file_whose_name_is_no_name_is_refused(stem: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.py"
    path.write_text(MINE)
    with pytest.raises(BadInput, match="rename it"):
        find_methods([str(path)])
    fine = tmp_path / "my_method-2.py"
    fine.write_text(MINE)
    (entry,) = find_methods([str(fine)])
    assert synthetic.spec(entry.name).method.name == "my_method-2"


@pytest.mark.parametrize(
    ("card", "match"),
    [
        ("card = 5", "has no title"),
        ("[card]\nsummary = 'x'", "has no title"),
        ("[card]\ntitle = 5", r"card\.title must be a str"),
        (
            "[card]\ntitle = 'x'\nkind = 'king'",
            r"card\.kind must be among control, imported, method",
        ),
        ("[card]\ntitle = 'x'\ntracks = ['uncommon']", r"card\.tracks must be among common, "),
        ("variant = 3\n[card]\ntitle = 'x'", "variant must be a table of tables"),
        ("[card]\ntitle = 'x'\n[variant]\nv = 3", r"variant\.v must be a table"),
        ("[card]\ntitle = 'x'\n[variant.v]\nparams = 3", r"variant\.v\.params must be a dict"),
        ("[card]\ntitle = 'x'\n[recipe.net]\nrecovery = 3", r"recipe\.net\.recovery must be a"),
        ("[card]\ntitle = 'x'\n[recipe.net]\nparams = { a = nan }", "cannot be read: nan"),
        ("[card", "cannot be read"),
    ],
)
def test_a_wrong_card_is_answered_in_one_line(card: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.toml").write_text(card)
    with pytest.raises(UnknownMethod, match=match) as caught:
        find(str(tmp_path / "mine.py"))
    assert str(caught.value).isprintable()
