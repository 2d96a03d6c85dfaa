"""Is the card of a method whole? The rules that ours keep, for anybody's.

Each rule raises `Broken` with one line, or `NotApplicable` where there is no card.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from benchmark.conformance import Broken, Result, judged
from benchmark.errors import BadInput
from benchmark.recipes import card_recipe, override
from benchmark.record import one_line
from benchmark.spec import Recipe
from benchmark.trial import NotApplicable
from methods import Entry, UnknownMethod, build

KEYS = {
    "": {"card", "paper", "variant", "recipe", "space", "deviation"},
    "card": {"title", "kind", "reconstruction", "reference", "tracks", "summary"},
    "paper": {"title", "authors", "venue", "year", "url", "code", "code_commit"},
    "variant": {"title", "summary", "tracks", "start", "params", "recipe"},
    "recipe": {"dataset", "source", "start", "flops_reduction", "minimum_width", "allocation",
               "rates", "counted_rates", "scales_removed", "blocked", "note", "params", "baseline",
               "recovery"},
    "deviation": {"what", "official", "ours", "source"},
}  # fmt: skip
NEEDED = {
    "": {"card"},
    "card": {"title", "kind", "summary"},
    "paper": KEYS["paper"],
    "variant": {"summary"},
    "recipe": {"source", "recovery", "flops_reduction"},
    "deviation": KEYS["deviation"],
}
MOST_TUNED = 3  # parameters (DECISIONS 20)
ANY = Recipe(epochs=1, lr=0.1)

Rule = Callable[[Entry], None]


def keys_are_known(entry: Entry) -> None:
    """Every key of the card is one that is read, and none that is needed is missing."""
    card = entry.card
    for place, kind, part in _parts(card):
        _check_keys(place, kind, part)
    if card["card"].get("kind", "method") != "method":
        return
    if "paper" not in card:
        raise Broken(f"[paper] is missing: {', '.join(sorted(KEYS['paper']))}; empty where unknown")


def words_are_there(entry: Entry) -> None:
    """What is to be said in words is said; of a paper anything may be unknown."""
    for place, kind, part in _parts(entry.card):
        if kind == "paper":
            continue
        for key in NEEDED[kind] & {"title", "summary", "source", "what", "official", "ours"}:
            if key in part and not str(part[key]).strip():
                raise Broken(f"{place}.{key} is empty")


def space_is_small_and_legal(entry: Entry) -> None:
    """What may be tuned: at most three parameters, the recovery rate among them, legal values."""
    space = entry.card.get("space", {})
    if not isinstance(space, dict) or not 1 <= len(space) <= MOST_TUNED:
        raise Broken(f"[space] names 1 to {MOST_TUNED} parameters to tune, each with its values")
    if "recovery.lr" not in space:
        raise Broken('"recovery.lr" is missing in [space]: it is tuned for all')
    for key, values in space.items():
        if not isinstance(values, list) or not values:
            raise Broken(f"[space] {one_line(key)} needs a list of values")
        place = f"[space] {one_line(key)}"
        for value in values:
            owner, _, field = key.partition(".")
            if owner == "recovery":
                _legal(place, partial(override, ANY, {field: value}, owner))
            else:
                _legal(place, partial(build, entry, {key: value}))


def parameters_are_fields(entry: Entry) -> None:
    """Parameters of variants and recipes are fields of the method, with values of their type."""
    for name in ["", *entry.card.get("variant", {})]:
        variant = dataclasses.replace(entry, variant=name)
        place = f"variant.{one_line(name)}" if name else "the method's own defaults"
        _legal(place, partial(build, variant, variant.params()))
        for arch in variant.recipes:
            params = variant.recipe(arch).get("params", {})
            _legal(f"recipe.{one_line(arch)}", partial(build, variant, variant.params() | params))


def recipes_can_be_followed(entry: Entry) -> None:
    """Training of each recipe is one that the trainer knows."""
    for name in ["", *entry.card.get("variant", {})]:
        variant = dataclasses.replace(entry, variant=name)
        for arch in variant.recipes:
            recipe = variant.recipe(arch)
            for phase in ("baseline", "recovery"):
                if phase in recipe:
                    place = f"recipe.{one_line(arch)}.{phase}"
                    _legal(place, partial(card_recipe, recipe[phase], place))


RULES: tuple[Rule, ...] = (
    keys_are_known,
    words_are_there,
    space_is_small_and_legal,
    parameters_are_fields,
    recipes_can_be_followed,
)


def check(entry: Entry) -> list[Result]:
    """All rules, in order; none stops the others."""
    return [judged(rule.__name__, partial(_with_card, rule, entry)) for rule in RULES]


def has_card(entry: Entry) -> bool:
    """Whether a card lies beside the method's file."""
    return entry.file.with_suffix(".toml").is_file()


def _with_card(rule: Rule, entry: Entry) -> None:
    if not has_card(entry):
        raise NotApplicable(f"no card: {entry.file.with_suffix('.toml').name} is not beside it")
    rule(entry)


def _parts(card: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Place, kind and content of every table whose keys are known; variants hold recipes too."""
    yield "the card", "", card
    for kind in ("card", "paper"):
        if kind in card:
            yield kind, kind, _table(kind, card[kind])
    for name, variant in card.get("variant", {}).items():
        yield f"variant.{one_line(name)}", "variant", variant
    for name, recipe in card.get("recipe", {}).items():
        yield f"recipe.{one_line(name)}", "recipe", recipe
    found = card.get("deviation", [])
    if not isinstance(found, list):
        raise Broken("deviation is written [[deviation]], once for each")
    for number, deviation in enumerate(found, 1):
        yield f"deviation {number}", "deviation", _table(f"deviation {number}", deviation)


def _table(place: str, part: Any) -> Mapping[str, Any]:
    if not isinstance(part, dict):
        raise Broken(f"{place} is no table")
    return part


def _check_keys(place: str, kind: str, part: Mapping[str, Any]) -> None:
    unknown, missing = sorted(part.keys() - KEYS[kind]), sorted(NEEDED[kind] - part.keys())
    if unknown:
        raise Broken(
            f"{place} has the unknown key '{one_line(unknown[0])}' (known: {_listed(KEYS[kind])})"
        )
    if missing:
        raise Broken(f"{place} lacks {_listed(missing)}")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _legal(place: str, made: Callable[[], object]) -> None:
    try:
        made()
    except (BadInput, UnknownMethod, ValueError, TypeError) as error:
        raise Broken(f"{place}: {one_line(error)}") from error
