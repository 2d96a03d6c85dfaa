"""Finding methods, their cards, and the promises that every method keeps (DECISIONS 35)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import Tensor, nn

from benchmark import cardlint, conformance
from benchmark.data import Data
from benchmark.reach import holds, reachable
from benchmark.trial import Bench, NotApplicable, method_of, permute, prune
from methods import Entry, UnknownMethod, all_names, build, docstring, find, names
from methods.api import Allocation, Budget, Method, Plan, Scores, Unsupported

COMMON = [  # what prunes by a file is in test_imported.py
    label
    for label in all_names()
    if "common" in find(label).tracks and not find(label).cls.imported
]


@pytest.fixture
def bench() -> Bench:
    return tiny.bench()


# ---- registry ------------------------------------------------------------------------------------


def test_every_file_is_a_method() -> None:
    expected = {"whitebox", "hrank", "l1norm", "slimming", "cpli"}
    controls = {"random", "width_scaling", "dense_continue", "random_gates", "random_kernels"}
    assert expected | controls <= set(names())
    assert names() == sorted(names())
    for label in all_names():
        entry = find(label)
        assert entry.label == label
        assert issubclass(entry.cls, Method)
        assert entry.title
        assert docstring(entry)
        assert entry.source_hash == ""
        assert entry.start in ("trained", "random")
        assert build(entry, entry.params())
    assert {n for n in names() if find(n).is_control} == controls


def test_variants_have_their_own_settings() -> None:
    assert find("whitebox").params()["train_weights"] is False
    assert find("whitebox:joint").params()["train_weights"] is True
    official = find("whitebox:official")
    assert official.start == "random"
    assert "common" not in official.tracks
    assert len({find(label).title for label in all_names()}) == len(all_names())


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("whitbox", ["unknown method 'whitbox'", "did you mean whitebox"]),
        ("l2norm", ["l1norm"]),
        ("nothing-like-it", ["known:", "hrank", "whitebox:official"]),
        ("whitebox:offical", ["unknown variant of whitebox", "did you mean official"]),
        ("hrank:plus", ["unknown variant of hrank", "known: none"]),
        ("./nowhere.py", ["./nowhere.py does not exist"]),
        ("nowhere/mine", ["nowhere/mine does not exist"]),
    ],
)
def test_unknown_names_are_answered_with_the_closest(label: str, words: list[str]) -> None:
    with pytest.raises(UnknownMethod) as caught:
        find(label)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "params", "words"),
    [
        ("whitebox", {"mask_epoch": 1}, ["'mask_epoch'", "mask_epochs", "known:", "sparsity"]),
        ("l1norm", {"anything": 1}, ["unknown parameter of l1norm", "known: none"]),
        ("hrank", {"num_images": 1.5}, ["hrank.num_images takes a int", "1.5"]),
        ("hrank", {"num_images": True}, ["takes a int"]),
        ("whitebox", {"train_weights": 1}, ["takes a bool"]),
        ("whitebox", {"mask_lr": "fast"}, ["takes a float", "'fast'"]),
        ("whitebox", {"vote": 3}, ["takes a str"]),
        ("whitebox", {"vote": "gian"}, ["whitebox.vote", "did you mean gain", "spread"]),
        ("whitebox", {"search": "stpe"}, ["bisect, step"]),
        ("slimming", {"start": "none"}, ["slimming.start", "plain, sparse"]),
    ],
)
def test_wrong_parameters_are_answered_with_the_legal_ones(
    label: str, params: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UnknownMethod) as caught:
        build(find(label), params)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_hyphen_stands_for_an_underscore_in_names_of_ours() -> None:
    for written in ("clr-rnf", "clr_rnf"):
        assert find(written).label == "clr_rnf"
    assert find("clr-rnf:official") == find("clr_rnf:official")
    assert find("width-scaling").name == "width_scaling"
    with pytest.raises(UnknownMethod, match=r"unknown method 'clr-rmf'; did you mean clr_rnf"):
        find("clr-rmf")


def test_whole_numbers_serve_as_floats() -> None:
    assert build(find("whitebox"), {"mask_epochs": 3}).mask_epochs == 3  # type: ignore[attr-defined]


MINE = '''"""L2 norm of filters."""

from dataclasses import dataclass

from methods.api import Method


@dataclass(frozen=True)
class Mine(Method):
    """Filters with the smallest L2 norm go."""

    power: float = 2.0

    def score(self, net, trainer):
        return {n: net.weight(n).detach().abs().pow(self.power).sum((1, 2, 3)) for n in net.layers}
'''


def test_a_users_own_file_is_found_and_hashed(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    entry = find(str(path))
    assert (entry.name, entry.title, entry.is_control) == ("mine", "mine", False)
    assert len(entry.source_hash) == 16
    assert entry.params() == {"power": 2.0}
    assert not [r for r in conformance.check(entry, bench) if r.status == "broken"]
    path.write_text(MINE.replace("2.0", "4.0"))
    changed = find(str(path))
    assert changed.source_hash != entry.source_hash
    assert changed.params() == {"power": 4.0}
    assert entry.params() == {"power": 2.0}


def test_a_users_card_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.toml").write_text('[card]\ntitle = "Mine"\nkind = "control"\n')
    entry = find(str(tmp_path / "mine.py"))
    assert (entry.title, entry.is_control) == ("Mine", True)


@pytest.mark.parametrize(
    ("code", "card", "words"),
    [
        ("import no_such_module_at_all\n", "", ["cannot be imported", "ModuleNotFoundError"]),
        ("def broken(:\n", "", ["cannot be imported", "SyntaxError"]),
        ("raise RuntimeError('one\\ntwo')\n", "", ["RuntimeError: one two"]),
        ("x = 1\n", "", ["exactly one subclass", "found 0"]),
        (MINE + "\n\nclass Other(Method):\n    pass\n", "", ["exactly one subclass", "found 2"]),
        (MINE, "[card\n", ["mine.toml cannot be read"]),
        (MINE, 'kind = "method"\n', ["mine.toml has no title"]),
    ],
)
def test_a_broken_file_is_one_clear_line(
    code: str, card: str, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(code)
    if card:
        (tmp_path / "mine.toml").write_text(card)
    with pytest.raises(UnknownMethod) as caught:
        find(str(path))
    text = str(caught.value)
    assert str(tmp_path) in text
    assert all(word in text for word in words), text
    assert "\n" not in text


# ---- cards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", cardlint.RULES, ids=lambda r: r.__name__)
@pytest.mark.parametrize("name", names())
def test_the_card_is_whole(name: str, rule: cardlint.Rule) -> None:
    rule(find(name))


def test_every_method_has_a_card() -> None:
    assert [name for name in names() if not cardlint.has_card(find(name))] == []


def test_parameters_of_variants_are_fields() -> None:
    for label in all_names():
        entry = find(label)
        fields = {f.name for f in dataclasses.fields(entry.cls)}
        assert entry.params().keys() == fields


# ---- conformance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("label", COMMON)
def test_conformance(label: str, check: conformance.Check, bench: Bench) -> None:
    reason = ""
    try:
        check(find(label), bench)
    except NotApplicable as error:
        reason = str(error)
    assert not reason or reason in EXCUSES.get(label.partition(":")[0], ())


NO_SCORES, NO_CLAIM = "it has no scores", "it does not claim to judge channels"
DRAWS = "its draws may belong to channel numbers"
EXCUSES = {  # nothing else may be skipped
    "cpli": {NO_SCORES},
    "dcp": {NO_SCORES},
    "dense_continue": {NO_SCORES, NO_CLAIM, "it removes nothing"},
    "epruner": {NO_SCORES},
    "filtersketch": {NO_SCORES, NO_CLAIM},
    "gwcs": {NO_SCORES, DRAWS},
    "exp": {NO_SCORES, DRAWS},
    "exp_filter": {NO_SCORES, DRAWS},
    "fbs": {NO_SCORES, DRAWS},
    "random": {NO_CLAIM, DRAWS},
    "random_gates": {NO_SCORES, NO_CLAIM, DRAWS},
    "random_kernels": {NO_SCORES, NO_CLAIM, DRAWS},
    "whitebox": {DRAWS},
    "width_scaling": {NO_SCORES, NO_CLAIM},
}


@pytest.mark.parametrize("label", [n for n in COMMON if n not in ("dense_continue",)])
def test_conformance_on_a_plain_stack(label: str) -> None:
    """The few checks that depend on how layers are connected."""
    bench = tiny.bench("vgg")
    for check in (conformance.masked_equals_removed, conformance.target_is_reached):
        check(find(label), bench)
    if find(label).cls.informed and not find(label).cls.stochastic:
        conformance.permuted_channels_permute_the_kept_set(find(label), bench)


def norms(net: Any) -> Scores:
    return {n: net.weight(n).detach().abs().sum((1, 2, 3)) for n in net.layers}


@dataclass(frozen=True)
class Good(Method):
    def score(self, net: Any, trainer: Any) -> Scores:
        return norms(net)


class NotFinite(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        return {n: s.index_fill(0, torch.tensor([1]), torch.nan) for n, s in norms(net).items()}

    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        return Plan({})


class WrongShape(NotFinite):
    def score(self, net: Any, trainer: Any) -> Scores:
        return {n: s[:-1] for n, s in norms(net).items()}


class ForgetsALayer(NotFinite):
    def score(self, net: Any, trainer: Any) -> Scores:
        return dict(list(norms(net).items())[1:])


class BeyondTheWidth(Good):
    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        return Plan({g.name: (0, g.width) for g in net.groups})


class UnknownGroup(Good):
    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        return Plan({"nobody": (0, 1)})


class BelowTheFloor(Good):
    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        return Plan({g.name: (0,) for g in net.groups})


class MissesTheTarget(Good):
    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        return super().select(net, scores, dataclasses.replace(budget, macs_cut=0.3))


class TrainsInSecret(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        x, y = trainer.train.batch(torch.arange(32))
        nn.functional.cross_entropy(net(x), y).backward()
        return norms(net)


class CountsInAClosure(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        steps = [0]

        def penalty() -> Tensor:
            steps[0] += 1
            return 0.01 * steps[0] * sum(w.square().sum() for w in net.parameters())

        trainer.fit(net, 1.0, penalty=penalty)
        return norms(net)


class LooksTooOften(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        trainer.ledger.add("scoring", "forward", 100, 1, 0.0)
        return norms(net)


class Overspends(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        trainer.ledger.add("scoring", "charged", trainer.ledger.left, 1, 0.0)
        trainer.ledger.allowed //= 2
        return norms(net)


class MasksOtherChannels(Good):
    def prune(self, net: Any, budget: Budget, trainer: Any) -> Plan:
        plan = self.select(net, norms(net), budget)
        for group in net.groups:
            net.mask(group.name, tuple(range(len(plan.keep[group.name]))))
        return plan


class CutsTheNetwork(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        scores = norms(net)
        net._skeleton[0].fc = nn.Linear(8, 4)
        return scores


class GlobalGenerator(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        return {n: torch.rand(len(net.weight(n))) for n in net.layers}


class IgnoresScores(Good):
    def select(self, net: Any, scores: Scores, budget: Budget) -> Plan:
        return super().select(net, norms(net), budget)


class ByNumber(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        return {n: torch.arange(len(net.weight(n))).float() for n in net.layers}


class SeesTheTest(Good):
    def score(self, net: Any, trainer: Any) -> Scores:
        trainer.progress = _closure(tiny.data())
        return norms(net)


def _closure(secret: object) -> Callable[..., None]:
    def progress(phase: str, done: int, total: int) -> None:
        str(secret)

    return progress


def entry_of(cls: type[Method]) -> Entry:
    return Entry("bad", "", cls, {"card": {"title": "bad"}}, "0" * 16)


BAD = [
    (conformance.scores_are_sound, NotFinite, "not finite"),
    (conformance.scores_are_sound, WrongShape, "has shape"),
    (conformance.scores_are_sound, ForgetsALayer, "no score for layer1.0.conv1"),
    (conformance.plan_is_valid, BeyondTheWidth, "not sorted numbers below 8"),
    (conformance.plan_is_valid, UnknownGroup, "unknown group nobody"),
    (conformance.plan_is_valid, BelowTheFloor, "keeps 1 channels, its floor is"),
    (conformance.target_is_reached, MissesTheTarget, "asked for 50.0 %"),
    (conformance.budget_is_respected, TrainsInSecret, "32 images passed with gradients"),
    (conformance.budget_is_respected, LooksTooOften, "more than 5%"),
    (conformance.budget_is_respected, Overspends, "allowed"),
    (conformance.masked_equals_removed, MasksOtherChannels, "differ by"),
    (conformance.only_the_plan_changes_shapes, CutsTheNetwork, "taken apart"),
    (conformance.same_seed_same_plan, GlobalGenerator, "different plans"),
    (conformance.negated_scores_change_the_plan, IgnoresScores, "same plan"),
    (conformance.permuted_channels_permute_the_kept_set, ByNumber, "other ones are kept"),
    (conformance.networks_give_different_scores, ByNumber, "same scores"),
    (conformance.the_test_split_is_out_of_reach, SeesTheTest, "through the trainer"),
    (conformance.a_killed_fit_goes_on_the_same, CountsInAClosure, "killed inside fit"),
]


@pytest.mark.parametrize(("check", "cls", "words"), BAD, ids=lambda v: getattr(v, "__name__", ""))
def test_a_bad_method_is_caught(
    check: conformance.Check, cls: type[Method], words: str, bench: Bench
) -> None:
    with pytest.raises(conformance.Broken, match=words):
        check(entry_of(cls), bench)
    check(entry_of(Good), bench)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _, _ in BAD} == set(conformance.CHECKS)


@dataclass(frozen=True)
class Refuses(Method):
    def score(self, net: Any, trainer: Any) -> Scores:
        raise Unsupported("not on this network")


@dataclass(frozen=True)
class Crashes(Method):
    def score(self, net: Any, trainer: Any) -> Scores:
        raise KeyError("layer9")


def test_the_report_names_every_check_and_its_reason(bench: Bench) -> None:
    good = conformance.check(entry_of(Good), bench)
    assert [r.check for r in good] == [c.__name__ for c in conformance.CHECKS]
    assert {r.status for r in good} == {"kept"}
    refused = conformance.check(entry_of(Refuses), bench)
    assert {(r.status, r.reason) for r in refused} == {("n/a", "not on this network")}
    crashed = conformance.check(entry_of(Crashes), bench)
    assert {(r.status, r.reason) for r in crashed} == {("broken", "KeyError: 'layer9'")}


def test_a_method_with_shares_gets_its_part_of_the_budget() -> None:
    assert method_of(find("whitebox"), 8.0).mask_epochs == 2.0  # type: ignore[attr-defined]
    assert method_of(find("slimming"), 8.0).sparse_epochs == 4.0  # type: ignore[attr-defined]


def test_trained_images_are_counted(bench: Bench) -> None:
    done = prune(find("whitebox"), bench)
    assert done.gradient_images == done.trainer.ledger.spent == tiny.TRAIN


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_permuted_channels_leave_the_function_alone(kind: str) -> None:
    for number in range(3):
        net, (x, _) = tiny.network(kind), tiny.batch()
        group = net.groups[number]
        before, weight = net(x).detach(), net.weight(group.layers[0]).detach().clone()
        order = torch.randperm(group.width, generator=torch.Generator().manual_seed(1))
        permute(net, group, order, x)
        torch.testing.assert_close(net(x), before)
        assert torch.equal(net.weight(group.layers[0]), weight[order])


def test_reach_follows_every_way(tiny_data: Data) -> None:
    @dataclass
    class Box:
        inner: object

        def method(self) -> None: ...

        shared: ClassVar[Allocation] = "none"

    test, train = tiny_data.test, tiny_data.train
    ways: list[Any] = [
        test, {"a": [test]}, (Box(test),), Box(test).method, _closure(test), lambda t=test: t,
        test.pixels[0].numpy(), test.pixels[:1].clone(),
        tiny.trainer(train=tiny.BatchSource(test, tiny_data.identity)),
    ]  # fmt: skip
    for way in ways:
        assert holds(way, test), way
    for other in (train, tiny.trainer(), tiny.network(), Box(None), list(reachable(train))):
        assert not holds(other, test)
