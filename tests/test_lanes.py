"""Which trials a method has, and what a tuned row takes from them; nothing is trained here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from benchmark import chosen, column, lanecolumns, run, tune
from benchmark.cli import BAD_INPUT, console, invoke
from benchmark.errors import BadInput
from benchmark.lanes import DEFAULT_TRIALS, TRIAL_SEED, Subject, grid, subjects
from benchmark.options import Options, options_from
from benchmark.space import space_of
from benchmark.spec import RATE
from benchmark.sweep import Cell, expand
from benchmark.tuning import Choice, Tried

BASE: dict[str, Any] = {"arch": "resnet8", "dataset": "digits", "preset": "demo"}
CONTROLS = {"random", "l1norm", "width_scaling", "dense_continue"}


def options(root: Path = Path("nowhere"), **words: Any) -> Options:
    return options_from(BASE | {"results": root} | words)


def trials_of(root: Path = Path("nowhere"), **words: Any) -> dict[str, Subject]:
    found = subjects(options(root, lane="trial", **words), tiny.data())
    return {subject.label: subject for subject in found}


def choose(root: Path, cell: Cell, trials: int, best: int = 1, **changes: Any) -> Choice:
    """As if all trials of the cell's method had been made, and this setting were the best."""
    space = space_of(cell.entry).resolved(cell.entry, cell.spec.budget_epochs)
    known = cell.spec.method.params | {RATE: cell.spec.recovery.lr}
    settings = space.settings({name: known[name] for name in space.values}, trials)
    tried = tuple(
        Tried(values=setting, runs=("a" * 12,), val_top1=(0.9 if i == best else 0.8,))
        for i, setting in enumerate(settings)
    )
    content: dict[str, Any] = {
        "key": chosen.key_of(cell.spec, space.values), "method": cell.entry.label, "data": "tiny",
        "arch": "resnet8", "trials": trials, "target": 0.5, "allocation": cell.spec.allocation,
        "space": dict(space.values), "tried": tried, "best": best, "images": 1000, "seconds": 9.0,
    }  # fmt: skip
    choice = Choice(**content | changes)
    chosen.write(root, cell.spec, choice)
    return choice


def all_chosen(root: Path, trials: int = 8, **words: Any) -> list[Cell]:
    """The default cells of a grid, for whose methods values were chosen."""
    cells = expand(options(root, **words), tiny.data())
    for cell in {c.entry.label: c for c in cells if not c.blocked}.values():
        choose(root, cell, trials)
    return cells


# ---- trials --------------------------------------------------------------------------------------


def test_every_method_and_control_has_the_same_number_of_trials() -> None:
    found = trials_of(methods=["whitebox", "slimming", "hrank"])
    assert found.keys() == {"whitebox", "slimming", "hrank"} | CONTROLS
    assert {len(s.trials) for s in found.values()} == {8}
    specs = [spec for subject in found.values() for spec in subject.trials]
    assert len({spec.run_id for spec in specs}) == len(specs) == 7 * 8
    assert {spec.lane for spec in specs} == {"trial"}
    assert {len(s.settings) for s in found.values()} == {3, 4, 8}  # small ones are tried again


def test_fewer_trials_begin_more() -> None:
    few, more = (trials_of(methods=["whitebox", "l1norm"], trials=n) for n in (3, 9))
    for label, subject in few.items():
        assert subject.trials == more[label].trials[:3]


def test_seeds_of_trials_are_none_of_the_board() -> None:
    plain = trials_of(methods=["l1norm"])["l1norm"]
    assert trials_of(methods=["l1norm"], seeds=[3, 4])["l1norm"].trials == plain.trials
    assert [s.seeds.run - TRIAL_SEED for s in plain.trials] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert {s.seeds.dense for s in plain.trials} == {TRIAL_SEED}  # one dense network for them all


def test_the_first_trial_has_the_default_values() -> None:
    board = {c.entry.label: c.spec for c in expand(options(methods=["whitebox"]), tiny.data())}
    for label, subject in trials_of(methods=["whitebox"]).items():
        spec = subject.trials[0]
        assert spec.recovery == board[label].recovery
        assert spec.method.params == board[label].method.params
        assert spec.tuned_values == subject.settings[0]


def test_the_rate_is_tuned_wherever_a_network_starts() -> None:
    scratch = trials_of(methods=["width_scaling"])["width_scaling"].trials
    assert scratch[0].start.kind == "random"
    assert {s.recovery.lr for s in scratch} == {0.1, 0.03, 0.01}  # the default is one of them
    assert len({s.recovery.epochs for s in scratch}) == 1
    assert {s.recovery.lr for s in trials_of(methods=["l1norm"])["dense_continue"].trials} == {
        0.02, 0.1, 0.03, 0.01,
    }  # fmt: skip


def test_controls_are_tuned_at_their_own_allocation_whatever_stands_beside_them() -> None:
    one, other = (trials_of(methods=[m])["l1norm"].trials for m in ("whitebox", "hrank"))
    assert one == other
    (given,) = {
        s.allocation for s in trials_of(methods=["hrank"], allocation="global")["l1norm"].trials
    }
    assert given == "global"


def test_trials_are_made_at_the_first_target_without_refits_and_charged() -> None:
    words: dict[str, Any] = {
        "flops_reduction": [0.3, 0.7], "reconstruct": ["none", "ls"],
        "preparation": ["charged", "free"],
    }  # fmt: skip
    found = trials_of(methods=["whitebox"], **words)["whitebox"].trials
    assert {s.flops_reduction for s in found} == {0.3}
    assert {(s.reconstruct, s.preparation) for s in found} == {("none", "charged")}


def test_a_method_that_cannot_run_has_one_cell_that_says_why() -> None:
    (cell,) = trials_of(methods=["whitebox:official"], controls=False)["whitebox:official"].cells
    assert cell.status == "n/a"
    assert "belongs to the tracks" in cell.blocked


# ---- tuned rows ----------------------------------------------------------------------------------


def test_tuned_rows_have_what_was_chosen_and_nothing_else(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "methods": ["whitebox"], "flops_reduction": [0.3, 0.5], "seeds": [0, 1],
    }  # fmt: skip
    plain = all_chosen(tmp_path, **words)
    tuned = grid(options(tmp_path, lane="tuned", **words), tiny.data())
    assert len(tuned) == len(plain) == len({c.spec.run_id for c in tuned})
    assert not {c.spec.run_id for c in tuned} & {c.spec.run_id for c in plain}
    for before, after in zip(plain, tuned, strict=True):
        spec = after.spec
        assert (spec.lane, spec.trials) == ("tuned", 8)
        assert spec.seeds == before.spec.seeds
        assert spec.flops_reduction == before.spec.flops_reduction
        assert spec.recovery == before.spec.recovery.model_copy(update={"lr": spec.recovery.lr})
        own = set(spec.tuned) - {RATE}
        changed = {k for k, v in spec.method.params.items() if v != before.spec.method.params[k]}
        assert changed <= own
        assert after.added == before.added
    whitebox = next(c.spec for c in tuned if c.entry.name == "whitebox")
    assert whitebox.tuned_values == {RATE: 0.1, "mask_lr": 0.1, "sparsity": 0.0}
    assert whitebox.method.params["mask_lr"] == 0.1


def test_the_default_lane_is_what_it_was(tmp_path: Path) -> None:
    all_chosen(tmp_path, methods=["l1norm"])
    plain = expand(options(tmp_path, methods=["l1norm"]), tiny.data())
    assert grid(options(tmp_path, methods=["l1norm"]), tiny.data()) == plain
    assert {c.spec.lane for c in plain} == {"default"}


def test_values_that_nobody_chose_are_asked_for_with_the_command(tmp_path: Path) -> None:
    all_chosen(tmp_path, methods=["l1norm"], controls=False)
    with pytest.raises(BadInput) as caught:
        grid(options(tmp_path, lane="tuned", methods=["l1norm", "hrank"]), tiny.data())
    said = str(caught.value)
    assert "nothing is chosen for hrank, dense_continue, random, width_scaling" in said
    command = said.rpartition("first: python -m benchmark.tune ")[2]
    assert "--methods hrank,dense_continue,random,width_scaling" in command
    assert f"--results {tmp_path}" in command
    assert invoke(tune.main, [*command.split(), "--dry-run", "--flops-reduction", "2"]) == BAD_INPUT


def test_a_choice_holds_for_its_setting_alone(tmp_path: Path) -> None:
    all_chosen(tmp_path, methods=["l1norm"], controls=False)
    words: dict[str, Any] = {"lane": "tuned", "methods": ["l1norm"], "controls": False}
    same: list[dict[str, Any]] = [
        {"seeds": [7]}, {"flops_reduction": [0.3]}, {"allocation": "global"}, {"threads": 2},
        {"reconstruct": ["ls"]}, {"round_to": 2}, {"min_width": 0.2},
    ]  # fmt: skip
    for change in same:
        assert grid(options(tmp_path, **words | change), tiny.data())
    other: list[dict[str, Any]] = [
        {"epochs": 3.0}, {"scope": "all"}, {"preset": "quick"}, {"batch_size": 32},
        {"arch": "resnet20"}, {"precision": "bf16"}, {"set": {"baseline.lr": 0.2}},
        {"set": {"recovery.momentum": 0.8}},
    ]  # fmt: skip
    for change in other:
        with pytest.raises(BadInput, match="nothing is chosen for l1norm"):
            grid(options(tmp_path, **words | change), tiny.data())


def test_a_space_that_changed_has_to_be_tried_again(tmp_path: Path) -> None:
    (cell,) = expand(options(tmp_path, methods=["l1norm"], controls=False), tiny.data())
    choose(tmp_path, cell, 8, space={RATE: (0.5, 0.1)})
    with pytest.raises(BadInput, match="nothing is chosen for l1norm"):
        grid(options(tmp_path, lane="tuned", methods=["l1norm"], controls=False), tiny.data())


def test_rows_of_a_table_are_tuned_by_equally_many_trials(tmp_path: Path) -> None:
    words: dict[str, Any] = {"methods": ["l1norm", "hrank"], "controls": False}
    one, other = expand(options(tmp_path, **words), tiny.data())
    choose(tmp_path, one, 3)
    choose(tmp_path, one, 8, best=2)
    choose(tmp_path, other, 3)
    tuned = grid(options(tmp_path, lane="tuned", **words), tiny.data())
    assert {c.spec.trials for c in tuned} == {3}  # what both have
    choose(tmp_path, other, 8)
    tuned = grid(options(tmp_path, lane="tuned", **words), tiny.data())
    assert [c.spec.trials for c in tuned] == [8, 8]
    assert tuned[0].spec.recovery.lr == 0.01
    fewer = grid(options(tmp_path, lane="tuned", trials=3, **words), tiny.data())
    assert [c.spec.trials for c in fewer] == [3, 3]
    with pytest.raises(BadInput, match="nothing is chosen for l1norm, hrank"):
        grid(options(tmp_path, lane="tuned", trials=5, **words), tiny.data())


def test_methods_without_a_common_number_of_trials_are_refused(tmp_path: Path) -> None:
    words: dict[str, Any] = {"methods": ["l1norm", "hrank"], "controls": False}
    one, other = expand(options(tmp_path, **words), tiny.data())
    choose(tmp_path, one, 3)
    choose(tmp_path, other, 8)
    with pytest.raises(
        BadInput, match=r"equally many trials, but l1norm by 3, hrank by 8; first: "
    ):
        grid(options(tmp_path, lane="tuned", **words), tiny.data())


def test_what_could_not_be_tuned_is_not_applicable_with_the_reason(tmp_path: Path) -> None:
    words: dict[str, Any] = {"methods": ["l1norm", "hrank", "whitebox:official"], "controls": False}
    one, other, official = expand(options(tmp_path, **words), tiny.data())
    choose(tmp_path, one, 8)
    choose(tmp_path, other, 8, best=None, tried=(), reason="all of its 8 trials diverged")
    tuned = grid(options(tmp_path, lane="tuned", **words), tiny.data())
    assert [c.blocked for c in tuned] == [
        "", "not tuned: all of its 8 trials diverged", official.blocked,
    ]  # fmt: skip
    assert {(c.spec.lane, c.spec.trials) for c in tuned} == {("tuned", 8)}  # of one table


def test_a_choice_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (cell,) = expand(options(tmp_path, methods=["l1norm"], controls=False), tiny.data())
    choose(tmp_path, cell, 8)
    (path,) = chosen.folder_of(tmp_path, cell.spec).iterdir()
    for content in ("{", "[]", path.read_text().replace('"best": 1', '"best": 9')):
        path.write_text(content)
        with pytest.raises(BadInput, match=r"benchmark\.tune writes it again") as caught:
            grid(options(tmp_path, lane="tuned", methods=["l1norm"], controls=False), tiny.data())
        assert "\n" not in str(caught.value)


def test_evidence_is_of_the_values_that_run(tmp_path: Path) -> None:
    all_chosen(tmp_path, methods=["l1norm"], controls=False)
    words: dict[str, Any] = {"lane": "tuned", "methods": ["l1norm"], "controls": False}
    (cell,) = grid(options(tmp_path, **words), tiny.data())
    found = chosen.evidence(cell.spec, tmp_path)
    assert found is not None
    assert (found.trials, found.settings, found.values) == (8, 4, {RATE: 0.1})
    assert (found.val_top1, found.default_val_top1) == (0.9, 0.8)
    (plain,) = expand(options(tmp_path, methods=["l1norm"], controls=False), tiny.data())
    assert chosen.evidence(plain.spec, tmp_path) is None
    choose(tmp_path, plain, 8, best=2)  # tuned again, meanwhile
    with pytest.raises(BadInput, match="tuned again since the grid was planned"):
        chosen.evidence(cell.spec, tmp_path)


MINE = '''"""L1 norm, privately."""

from dataclasses import dataclass

from methods.api import Method


@dataclass(frozen=True)
class Mine(Method):
    def score(self, net, trainer):
        return {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}
'''


def test_a_users_own_method_is_tuned_by_the_space_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    words: dict[str, Any] = {"methods": [str(file)], "controls": False}
    with pytest.raises(BadInput, match=r"mine: \[space\] of its card mine.toml is missing"):
        trials_of(**words)
    file.with_suffix(".toml").write_text('[card]\ntitle = "Mine"\n[space]\n"recovery.lr" = [0.1]\n')
    assert len(trials_of(**words)["mine"].trials) == 8
    with pytest.raises(BadInput, match=f"tune --methods {file}"):  # as it has to be typed
        grid(options(tmp_path, lane="tuned", **words), tiny.data())


# ---- what makes no sense -------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["trial", "tuned"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"track": "paper"}, "--track paper has the values of each paper and no validation images"),
        ({"lr": 0.1}, "recovery.lr is what trials choose: leave out --lr"),
        ({"set": {RATE: 0.1}}, "recovery.lr is what trials choose: leave out --set recovery.lr"),
        ({"set": {"whitebox.mask_lr": 0.1}}, "--set whitebox.mask_lr: it is what trials choose"),
    ],
)
def test_what_is_tuned_cannot_be_given(lane: str, words: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        grid(options(lane=lane, methods=["whitebox"], controls=False, **words), tiny.data())


def test_other_settings_of_a_tuned_method_can_be_given(tmp_path: Path) -> None:
    words: dict[str, Any] = {"methods": ["whitebox"], "set": {"whitebox.vote": "gain"}}
    found = trials_of(**words)["whitebox"].trials
    assert {s.method.params["vote"] for s in found} == {"gain"}
    all_chosen(tmp_path, controls=False, **words)
    plain = words | {"set": {}, "lane": "tuned", "controls": False}
    with pytest.raises(BadInput, match="nothing is chosen for whitebox"):  # that is another method
        grid(options(tmp_path, **plain), tiny.data())


def test_seeds_of_trials_are_refused_for_a_board(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"--seeds {TRIAL_SEED}: from {TRIAL_SEED} on they belong"):
        grid(options(tmp_path, lane="tuned", seeds=[0, TRIAL_SEED]), tiny.data())


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (run.main, ["--lane", "trial"], "trials are made by python -m benchmark.tune"),
        (run.main, ["--trials", "8"], "--trials belongs to --lane tuned"),
        (run.main, ["--lane", "best"], "--lane: Input should be 'default', 'tuned' or 'trial'"),
        (tune.main, ["--methods", "hrnk"], "unknown method 'hrnk'; did you mean hrank"),
        (tune.main, ["--trials", "0"], "--trials: Input should be greater than or equal to 1"),
        (tune.main, ["--executor", "slurm"], "--executor slurm: trials run on the machine"),
        (tune.main, ["--seeds", "1"], "No such option: --seeds"),
        (tune.main, ["--lr", "1"], "No such option: --lr"),
    ],
)
def test_bad_input_is_one_line(
    command: Any, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--dataset", "digits", "--arch", "resnet8", "--results", str(tmp_path)]
    assert invoke(command, [*place, *words]) == BAD_INPUT
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_dry_run_shows_every_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.run.data_of", lambda *_: tiny.data())
    monkeypatch.setattr("benchmark.launch.traced", lambda *_: tiny.network())
    monkeypatch.setattr("benchmark.listing.forecast", lambda *_: pytest.fail("it takes a probe"))
    monkeypatch.setattr("benchmark.tune.show_grid", lambda cells, *_: print(len(cells)))  # noqa: T201
    chosen_words = options(tmp_path, methods=["hrank"], flops_reduction=[0.3, 0.6], trials=5)
    assert tune.tune(chosen_words, True, console()) == 0
    out = capsys.readouterr().out
    assert "Tuning 5 methods on tiny, resnet8 at 30 % FLOPs: 5 trials of each" in out
    assert "No trial reads the test split" in out
    assert "serves the other targets too: 60 %" in out
    assert "hrank, dense_continue, l1norm, random: a space of 4 settings" in out
    assert "width_scaling: a space of 3 settings" in out
    assert out.rstrip().endswith("25")
    assert not (tmp_path / "trials" / "chosen").exists()


def test_a_schedule_is_tuned_by_trials_of_its_own(tmp_path: Path) -> None:
    """Rounds share the budget: what a method prepares in each has another length."""
    both = ["one-shot", "iterative:2"]
    words: dict[str, Any] = {"methods": ["whitebox"], "schedule": both}
    found = trials_of(**words | {"schedule": ["iterative:2", "one-shot"]})
    assert {s.schedule for s in found["whitebox"].trials} == {"iterative:2"}
    assert {s.schedule for s in found["dense_continue"].trials} == {"one-shot"}  # it prunes nothing
    assert found["whitebox"].trials[0].method.params["mask_epochs"] == 0.75
    for cell in expand(options(tmp_path, methods=["whitebox"], controls=False), tiny.data()):
        choose(tmp_path, cell, 8)
    with pytest.raises(BadInput, match=r"nothing is chosen for whitebox iterative:2 in") as caught:
        grid(options(tmp_path, lane="tuned", controls=False, **words), tiny.data())
    assert "--methods whitebox " in str(caught.value)
    assert "--schedule iterative:2 " in str(caught.value)
    all_chosen(tmp_path, controls=False, **words)
    for cell in expand(options(tmp_path, controls=False, **words), tiny.data()):
        choose(tmp_path, cell, 8)
    tuned = grid(options(tmp_path, lane="tuned", controls=False, **words), tiny.data())
    assert [c.spec.schedule for c in tuned] == both
    assert [c.spec.method.params["mask_epochs"] for c in tuned] == [1.5, 0.75]


PAGE = (Path(__file__).parents[1] / "docs/tuning.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_those_of_one_board(tmp_path: Path) -> None:
    """What `tune` chooses by the first is what the second asks for."""
    first, second = re.findall(r"^    python -m benchmark\.(?:tune|run) (.+)$", PAGE, re.MULTILINE)
    assert second == f"{first} --lane tuned"
    words = dict(pair.split(" ") for pair in first.removeprefix("--").split(" --"))
    words = words | {"methods": [words["methods"]], "results": tmp_path}
    cells = expand(options_from(words), tiny.data())
    for cell in {c.entry.label: c for c in cells}.values():
        choose(tmp_path, cell, 8)
    assert len(grid(options_from(words | {"lane": "tuned"}), tiny.data())) == len(cells)


def test_the_page_names_what_there_is() -> None:
    assert f"Its seeds begin at {TRIAL_SEED}" in PAGE
    assert f"instead of {DEFAULT_TRIALS}" in PAGE
    ours = [c.name for c, _ in (*lanecolumns.LANE, *lanecolumns.VALUES, *lanecolumns.COST)]
    assert set(ours) <= column.ADDED_LATER.keys()
    assert [name for name in ours if f"`{name}`" not in PAGE] == []
