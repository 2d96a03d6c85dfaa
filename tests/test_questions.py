"""Questions declared with a board: each rule against figures computed by hand, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusing import refused

from benchmark import questions
from benchmark.answering import ANSWERS
from benchmark.asked import Answer, Kind, Question, decided, interval, named
from benchmark.cli import DONE, invoke
from benchmark.holdings import Holding, holdings
from benchmark.protocol import read_protocol
from benchmark.questions import found_of, page, read_questions
from benchmark.record import RunRecord, SelectionCheck
from benchmark.store import Store
from methods.api import Plan
from tests.synthetic import point, record, spec

PROTOCOL = """
[board.small]
version = "1"
data = "images"
arch = "net20"
sweep = "slurm/sweeps/demo.toml"
rows.uniform = ["l1norm", "whitebox"]
targets = [0.5]
budget_epochs = 20
seeds = [0, 1, 2]
against = ["random", "l1norm", "dense_continue"]
margin = 0.3
limits = ["It is small."]
"""
QUESTIONS = """
[[question]]
ask = "Does White-Box beat L1-norm?"
kind = "compared"
entries = ["whitebox"]
against = ["l1norm"]
note = "So far."
"""
IMAGES = 1000


def put(root: Path, made: RunRecord) -> None:
    """With predictions that have the recorded accuracy: the last images are wrong."""
    right = np.arange(IMAGES) < round(made.final.test_top1 * IMAGES)
    labels = np.arange(IMAGES) % 10
    arrays = {
        "test_final_class": np.where(right, labels, (labels + 1) % 10).astype(np.uint8),
        "test_final_margin": np.where(right, 1, -1).astype(np.float16),
    }
    keep = {g: tuple(range(w)) for g, w in made.widths.items()}
    Store(root).write(made, Plan(keep), [], arrays)


def rows(name: str, finals: Sequence[float], **changes: Any) -> list[RunRecord]:
    fields = {k: changes.pop(k) for k in ("recalibrated", "selection", "method_facts")
              if k in changes}  # fmt: skip
    target = changes.pop("target", 0.5)
    return [
        record(spec(name, seed, target, **changes), final, **fields)
        for seed, final in enumerate(finals)
    ]


def board(root: Path, made: Sequence[RunRecord]) -> Holding:
    root.mkdir(exist_ok=True)
    (root / "protocol.toml").write_text(PROTOCOL)
    (root / "questions.toml").write_text(QUESTIONS)
    for one in made:
        put(root, one)
    return holdings(read_protocol(root / "protocol.toml"), Store(root).records())[0]


def answered(
    root: Path, made: Sequence[RunRecord], kind: Kind, entries: Sequence[str] = (),
    against: Sequence[str] = (),
) -> Answer:  # fmt: skip
    question = Question(ask="?", kind=kind, entries=tuple(entries), against=tuple(against))
    return ANSWERS[kind](question, found_of(root, board(root, made)))


def test_intervals_speak_of_seeds() -> None:
    assert interval([1.0, 2.0, 3.0]) == "+2.00 [-0.48, +4.48]"  # 2 ± 4.3027 / sqrt(3)
    assert interval([1.0, -2.0]) == "+1.00, -2.00"
    assert [decided(v) for v in ([1.0, 1.1, 1.2], [-1.0, -1.1, -1.2], [1.0, -1.0, 0.0], [5.0])] == [
        1, -1, 0, 0,
    ]  # fmt: skip


def test_a_comparison_is_that_of_the_board(tmp_path: Path) -> None:
    made = rows("whitebox", (0.9, 0.9, 0.9)) + rows("l1norm", (0.8, 0.8, 0.8))
    made += rows("random", (0.7, 0.7, 0.7))
    found = answered(tmp_path, made, "compared", ["whitebox"], ["l1norm"])
    ((target, _, _, seeds, points, verdict, _),) = found.rows
    assert (target, seeds, points.partition(" ")[0]) == ("50", "3", "+10.00")
    assert verdict == "better (these runs only)"  # of three seeds
    assert verdict in found.sentences[0]
    assert answered(tmp_path / "none", [], "compared", ["hrank"], ["l1norm"]).sentences == (
        "Not run yet.",
    )


@pytest.mark.parametrize(
    ("score", "inverse", "random", "said"),
    [(0.5, 0.3, 0.4, "informative"), (0.4, 0.5, 0.3, "uninformative"),
     (0.4, 0.3, 0.4, "undecided")],
)  # fmt: skip
def test_a_choice_is_informative_if_it_beats_inverse_and_draws(
    score: float, inverse: float, random: float, said: str, tmp_path: Path
) -> None:
    made = [
        record(
            spec("hrank", seed),
            selection=SelectionCheck(
                score=score + wobble, inverse=inverse, random=[random], percentile=1.0,
                informative=True,
            ),
        )
        for seed, wobble in enumerate((-0.01, 0.0, 0.01))
    ]  # fmt: skip
    found = answered(tmp_path, made, "informative", ["hrank"])
    assert [row[-1] for row in found.rows] == [said]
    assert found.rows[0][4].startswith(f"{100 * (score - inverse):+.2f} [")


def test_a_board_is_asked_what_it_is_run_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board(tmp_path, rows("whitebox", (0.9, 0.9, 0.9)))
    asks = "Does the vote carry information?"
    more = f'\n[[question]]\nask = "{asks}"\nkind = "informative"\nentries = ["whitebox"]\n'
    (tmp_path / "questions.toml").write_text(QUESTIONS + more)
    assert f"### {asks}" in page(tmp_path)
    assert "### Does White-Box beat L1-norm?" in page(tmp_path)
    (tmp_path / "protocol.toml").write_text(PROTOCOL + 'asked = ["informative"]\n')
    found = page(tmp_path)
    assert f"### {asks}" in found
    assert "### Does White-Box beat L1-norm?" not in found
    assert "| Does White-Box beat L1-norm? | Not asked of this board. |" in found
    (tmp_path / "protocol.toml").write_text(PROTOCOL + 'asked = ["informativ"]\n')
    assert "asked" in refused(questions.main, ["--results", str(tmp_path)], capsys)


def test_orders_are_compared_between_allocations(tmp_path: Path) -> None:
    uniform = {"hrank": 0.9, "l1norm": 0.8, "random": 0.7, "slimming": 0.6}
    turned = dict(zip(uniform, reversed(list(uniform.values())), strict=True))
    made = [r for n, f in uniform.items() for r in rows(n, (f, f, f, 0.1))]  # the last: here alone
    made += [r for n, f in turned.items() for r in rows(n, (f, f, f), allocation="global")]
    found = answered(tmp_path / "a", made, "order")
    assert found.rows == (("50", "global", "uniform", "4", "3", "-1.00", "slimming", "hrank"),)
    assert found.sentences == ("The first row changes in 1 of 1 target.",)
    fewer_seeds = [r for r in made if r.spec.seeds.run < 2]
    fewer_rows = [r for r in made if r.spec.method.name != "hrank"]
    for number, few in enumerate((fewer_seeds, fewer_rows)):
        said = answered(tmp_path / str(number), few, "order").sentences[0]
        assert "the data do not decide" in said


def test_rows_are_paired_by_seed_target_and_allocation(tmp_path: Path) -> None:
    made = rows("cpli", (0.90, 0.91, 0.92), recalibrated=point(0.6))
    made += rows("l1norm", (0.89, 0.90, 0.91), reconstruct="ls")
    made += rows("l1norm", (0.1, 0.1, 0.1), reconstruct="ls", allocation="global")
    found = answered(tmp_path, made, "paired", ["cpli"], ["l1norm + ls", "random"])
    (row,) = found.rows
    assert row[:5] == ("50", "uniform", "cpli", "l1norm + ls", "3")
    assert row[6] == "+10.00 [+10.00, +10.00]"
    assert row[7].startswith("+1.00 [")
    assert found.sentences == (
        "After recovery, of 1 pair: ahead in 1 (cpli against l1norm + ls, uniform 50 %).",
    )


def test_a_gain_over_the_dense_network_must_beat_training_it_further(tmp_path: Path) -> None:
    made = rows("hrank", (0.93, 0.93, 0.93)) + rows("l1norm", (0.90, 0.90, 0.90))
    made += rows("dense_continue", (0.95, 0.95, 0.95), target=0.0, allocation="none")
    found = answered(tmp_path, made, "continued", against=["dense_continue"])
    assert found.sentences[0].startswith("1 row of 2 lie above the dense network")
    assert found.sentences[0].endswith("same budget, 0 are better.")
    over = {row[1]: row[3:5] for row in found.rows}
    assert over["hrank"] == ("+1.00", "-2.00")


def test_leakage_is_apart_from_zero_only_for_every_seed(tmp_path: Path) -> None:
    sure, unsure = ({"mean": 0.1, "low": low, "high": 0.2} for low in (0.05, -0.05))
    made = [
        record(spec("whitebox", seed), method_facts={"leakage": {"noise": sure, "true": own}})
        for seed, own in enumerate((sure, unsure))
    ]
    lost = {"leakage": {"noise": unsure}}
    made.append(record(spec("whitebox", 2, track="paper"), method_facts=lost))  # another track
    found = answered(tmp_path, made, "label")
    assert [(row[1], row[-1]) for row in found.rows] == [
        ("noise", "apart from zero"), ("true", "zero is possible"),
    ]  # fmt: skip
    assert found.rows[1][3] == "+10.00 [-5.00, +20.00]"


def test_choices_stand_beside_the_runs_they_were_made_for(tmp_path: Path) -> None:
    (made,) = rows("whitebox", (0.9,))
    shown = board(tmp_path, [made])
    leakage = {"noise_minus_chance": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    facts = {"by": "other", "reached": 0.512, "overlap": 0.25, "overlap_by_chance": 0.5}
    Store(tmp_path).write_measurement(made.spec, "choice", "abcd", facts | {"leakage": leakage})
    found = ANSWERS["chosen"](Question(ask="?", kind="chosen"), found_of(tmp_path, shown))
    assert found.rows == (
        ("50", "other", "51.2", "0", "whitebox (uniform)", "25.0", "50.0",
         "+50.00 [+40.00, +60.00]"),
    )  # fmt: skip


def test_what_is_decided_is_named_before_what_is_not() -> None:
    fell = [("undecided", "a"), ("behind", "b"), ("undecided", "c"), ("ahead", "d"), ("ahead", "e")]
    assert named(fell) == "ahead in 2 (d; e), behind in 1 (b), undecided in 2"
    assert named([]) == ""


def test_a_board_is_answered_from_its_own_tables(tmp_path: Path) -> None:
    made = rows("whitebox", (0.9, 0.9, 0.9)) + rows("l1norm", (0.8, 0.8, 0.8))
    made += rows("whitebox", (0.5, 0.5, 0.5), budget_epochs=1.0)
    made += rows("l1norm", (0.7, 0.7, 0.7), budget_epochs=1.0)
    board(tmp_path, made)
    short = PROTOCOL.replace("[board.small]", "[board.short]").replace("epochs = 20", "epochs = 1")
    (tmp_path / "protocol.toml").write_text(PROTOCOL + short)
    text = page(tmp_path)
    long, brief = text.split("## small 1")[1].split("## short 1")
    for part, gap in ((long, "+10.00"), (brief, "-20.00")):
        assert "6 of 6 declared runs done" in part
        assert [line.split("|")[5].split()[0] for line in part.splitlines()
                if line.startswith("| 50 |")] == [gap]  # fmt: skip
    glance = next(line for line in text.splitlines() if line.startswith("| Does White-Box"))
    assert glance.split("|")[2:4] == [
        f" Of 1 comparison: {word} (these runs only) in 1 (whitebox against l1norm, 50 %). "
        for word in ("better", "worse")
    ]


def test_the_page_is_that_of_the_records(tmp_path: Path) -> None:
    made = rows("whitebox", (0.9, 0.9, 0.9)) + rows("l1norm", (0.8, 0.8))
    board(tmp_path, made)
    text = page(tmp_path)
    assert "## small 1" in text
    assert "5 of 6 declared runs done. It is small." in text
    assert "### Does White-Box beat L1-norm?" in text
    assert "So far." in text
    assert invoke(questions.main, ["--results", str(tmp_path)]) == DONE
    assert (tmp_path / "FINDINGS.md").read_text() == text == page(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('kind = "compared"', 'kind = "comparison"', "question.0.kind"),
        ("ask = ", "aks = ", "question.0.ask: Field required"),
        ("[[question]]", "[[question]", "questions.toml: "),
    ],
)
def test_bad_input(
    before: str, after: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "protocol.toml").write_text(PROTOCOL)
    (tmp_path / "questions.toml").write_text(QUESTIONS.replace(before, after, 1))
    assert said in refused(questions.main, ["--results", str(tmp_path)], capsys)


def test_the_shipped_questions_are_read() -> None:
    found = read_questions(Path(__file__).parents[1] / "results" / "questions.toml")
    assert {question.kind for question in found} == set(ANSWERS)
