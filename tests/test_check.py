"""`python -m benchmark.check` says which promises are kept, which are broken and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark import cardlint, check, conformance, new
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.conformance import Broken
from benchmark.docstrings import remarks
from methods import Entry, find, names


@pytest.fixture
def glow(tmp_path: Path) -> Path:
    new.write("glow", tmp_path)
    return tmp_path / "glow.py"


def changed(path: Path, old: str, new_text: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new_text))
    return path


# ---- the command ---------------------------------------------------------------------------------


def test_a_method_that_keeps_all_is_told_how_to_go_on(
    glow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(check.main, [str(glow), "l1norm:a"]) == DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{glow}: Glow"
    kept = [line for line in said if line.startswith("  kept")]
    assert len(kept) == 2 * len(check.promises())
    assert kept[0].split("  ")[-1] == "Finite scores (C,) for every prunable layer."
    assert f"{glow}: 17 kept, 0 n/a, 0 broken" in "\n".join(said)
    assert "l1norm:a: 17 kept" in "\n".join(said)
    assert "2 methods checked" in said
    assert said[-1] == (
        f"Next: python -m benchmark.run --methods {glow},l1norm:a,l1norm --arch resnet20 "
        "--dataset digits --preset demo"
    )


def test_what_is_broken_is_said_with_what_to_do(
    glow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(glow, "return weight.abs()", "return weight.sum() / 0 + weight.abs()")
    changed(glow.with_suffix(".toml"), '"recovery.lr" = [0.03, 0.02, 0.01]\n', "")
    assert invoke(check.main, [str(glow)]) == FAILED
    said = capsys.readouterr().out
    assert "broken  scores are sound" in said
    assert "is not finite" in said
    assert f"do: {check.HINTS['scores_are_sound']}" in said
    assert "broken  space is small and legal" in said
    assert (
        f"Next: mend what is broken ({check.GUIDE} helps), then python -m benchmark.check" in said
    )
    assert "benchmark.run" not in said


def test_a_method_without_a_card_is_not_broken(
    glow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glow.with_suffix(".toml").unlink()
    assert invoke(check.main, [str(glow)]) == DONE
    said = capsys.readouterr().out
    assert said.count("no card: glow.toml is not beside it") == len(cardlint.RULES)
    assert "python -m benchmark.new method NAME writes one to copy" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hrnak"], "did you mean hrank"),
        (["hrank:plus"], "unknown variant of hrank"),
        (["./nowhere.py"], "does not exist"),
        ([], "Missing argument"),
    ],
)
def test_what_is_not_there_is_one_line(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(check.main, words) == BAD_INPUT
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_every_promise_has_a_sentence_and_a_hint() -> None:
    assert check.promises().keys() == check.HINTS.keys()
    assert all(check.promises().values())
    assert all(name.count("_") == 0 or text for name, text in check.HINTS.items())


def test_epochs_of_a_paper_are_shortened_to_the_bench() -> None:
    """The official White-Box trains masks for 30 epochs; the whole budget here is four."""
    entry = find("whitebox:official")
    assert entry.params()["mask_epochs"] > 4
    conformance.budget_is_respected(entry, check.bench_for(entry))


# ---- cards ---------------------------------------------------------------------------------------

CARD: dict[str, Any] = {
    "card": {"title": "Glow", "kind": "method", "summary": "What goes."},
    "paper": dict.fromkeys(cardlint.KEYS["paper"], ""),
    "space": {"recovery.lr": [0.1], "power": [1.0]},
    "variant": {"official": {"summary": "x", "params": {"power": 1.0}}},
    "recipe": {"resnet56": {"source": "@0123456", "flops_reduction": 0.5, "params": {},
                            "recovery": {"epochs": 40, "lr": 0.01}}},
    "deviation": [{"what": "a", "official": "b", "ours": "c", "source": "d"}],
}  # fmt: skip


def with_card(glow: Path, way: tuple[Any, ...], value: Any) -> Entry:
    """The method with one entry of its card set, or dropped (None)."""

    def copied(part: Any) -> Any:
        if isinstance(part, dict):
            return {k: copied(v) for k, v in part.items()}
        return [copied(v) for v in part] if isinstance(part, list) else part

    card = copied(CARD)
    *path, last = way
    owner = card
    for key in path:
        owner = owner[key]
    if value is None:
        del owner[last]
    else:
        owner[last] = value
    found = find(str(glow))
    return Entry(found.name, "", found.cls, card, found.source_hash, file=glow)


BAD: list[tuple[cardlint.Rule, tuple[Any, ...], Any, str]] = [
    (cardlint.keys_are_known, ("papre",), {}, "the card has the unknown key 'papre'"),
    (cardlint.keys_are_known, ("paper",), None, r"\[paper\] is missing"),
    (cardlint.keys_are_known, ("paper", "year"), None, "paper lacks year"),
    (cardlint.keys_are_known, ("card", "sumary"), "x", "card has the unknown key 'sumary'"),
    (cardlint.keys_are_known, ("card", "summary"), None, "card lacks summary"),
    (cardlint.keys_are_known, ("variant", "official", "summary"), None, "variant.official lacks"),
    (cardlint.keys_are_known, ("recipe", "resnet56", "recovery"), None, "recipe.resnet56 lacks"),
    (cardlint.keys_are_known, ("deviation",), {"what": "x"}, r"is written \[\[deviation\]\]"),
    (cardlint.keys_are_known, ("deviation", 0), "x", "deviation 1 is no table"),
    (cardlint.keys_are_known, ("deviation", 0, "ours"), None, "deviation 1 lacks ours"),
    (cardlint.words_are_there, ("deviation", 0, "ours"), " ", "deviation 1.ours is empty"),
    (cardlint.words_are_there, ("card", "summary"), "", "card.summary is empty"),
    (cardlint.space_is_small_and_legal, ("space",), None, "names 1 to 3 parameters"),
    (cardlint.space_is_small_and_legal, ("space", "recovery.lr"), None, "is missing in"),
    (cardlint.space_is_small_and_legal, ("space", "recovery.rate"), [1], "unknown setting"),
    (cardlint.space_is_small_and_legal, ("space", "recovery.lr"), [-1], "greater than 0"),
    (cardlint.space_is_small_and_legal, ("space", "pwer"), [1.0], "did you mean power"),
    (cardlint.space_is_small_and_legal, ("space", "power"), ["x"], "takes a float"),
    (cardlint.space_is_small_and_legal, ("space", "power"), [], "needs a list of values"),
    (cardlint.parameters_are_fields, ("variant", "official", "params"), {"pwer": 1.0}, "pwer"),
    (cardlint.parameters_are_fields, ("recipe", "resnet56", "params"), {"power": "x"}, "a float"),
    (cardlint.recipes_can_be_followed, ("recipe", "resnet56", "recovery"), {"epochs": 1},
     "recovery.lr: Field required"),
    (cardlint.recipes_can_be_followed, ("recipe", "resnet56", "baseline"),
     {"epochs": 1, "lr": 0.1, "rate": 1}, "baseline.rate"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "way", "value", "words"), BAD, ids=lambda v: str(v)[:30])
def test_a_bad_card_is_caught(
    rule: cardlint.Rule, way: tuple[Any, ...], value: Any, words: str, glow: Path
) -> None:
    rule(with_card(glow, ("card", "title"), "Glow"))
    with pytest.raises(Broken, match=words) as caught:
        rule(with_card(glow, way, value))
    assert "\n" not in str(caught.value)


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, *_ in BAD} == set(cardlint.RULES)


# ---- remarks -------------------------------------------------------------------------------------


def test_docstrings_without_a_source_are_remarked_on(glow: Path) -> None:
    text = glow.read_text().replace("2017", "").replace("section", "part").replace("equation", "x")
    glow.write_text(text + "\n\ndef helper(x):\n    return x\n\n\ndef _own(x):\n    return x\n")
    found = remarks(find(str(glow)))
    assert any("names a source" in line for line in found)
    assert [line for line in found if line.startswith("helper has no docstring")]
    assert not [line for line in found if "_own" in line]


def test_a_file_without_any_docstring_is_remarked_on(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text(
        "from methods.api import Method\n\n\nclass Bare(Method):\n"
        "    def score(self, net, trainer):\n        return {}\n\n"
        "    def power(self):\n        return 2\n"
    )
    said = "\n".join(remarks(find(str(path))))
    assert "bare.py has no docstring at its top" in said
    assert "Bare has no docstring" in said
    assert "Bare.power has no docstring" in said
    assert "Bare.score" not in said  # the interface documents it


def test_methods_of_ours_name_their_sources() -> None:
    bare = {n for n in names() if any("names a source" in r for r in remarks(find(n)))}
    assert {n for n in bare if find(n).card["card"]["kind"] == "method"} == set()
