"""The verdict on a published figure: every word of it, and every reason not to compare."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_published import claim

from benchmark.claimed import (
    ABOVE,
    BELOW,
    BEST_TEST,
    LAST,
    NOT_COMPARABLE,
    NOT_YET_RUN,
    REPRODUCED,
    Reproduced,
    judge,
    judge_all,
)
from benchmark.counting import OUTPUTS_ONLY, PHYSICAL
from benchmark.published import Claim, read_claims

OURS = Reproduced(
    "hrank", "resnet56", "cifar10", "paper", 5, 93.0, 92.8, 93.2, LAST,
    {PHYSICAL: 61.4, OUTPUTS_ONLY: 50.0},
)  # fmt: skip


def said(**changes: str) -> Claim:
    usual = {
        "label": "hrank", "arch": "resnet56", "data": "cifar10", "figure": "last epoch",
        "flops_rule": "outputs only", "flops_reduction": "50.0", "pruned_top1": "93.17",
    }  # fmt: skip
    return claim(**usual | changes)


@pytest.mark.parametrize(
    ("accuracy", "word"),
    [
        ("93.17", REPRODUCED),
        ("92.80", REPRODUCED),
        ("93.2", REPRODUCED),
        ("92.79", ABOVE),  # ours is above the claim
        ("93.21", BELOW),
        ("93.25", BELOW),
    ],
)
def test_inside_above_and_below(accuracy: str, word: str) -> None:
    ours = replace(OURS, low=92.796, high=93.204)
    verdict = judge(said(pruned_top1=accuracy), ours)
    assert str(verdict) == word
    assert verdict.gap == pytest.approx(93.0 - float(accuracy))


def test_the_rounding_of_the_claim_counts() -> None:
    ours = replace(OURS, high=93.166)
    assert judge(said(pruned_top1="93.17"), ours).word == REPRODUCED  # 93.165 rounds to it
    assert judge(said(pruned_top1="93.18"), ours).word == BELOW
    ours = replace(OURS, low=92.804)
    assert judge(said(pruned_top1="92.80"), ours).word == REPRODUCED
    assert judge(said(pruned_top1="92.79"), ours).word == ABOVE


def test_noise_reproduces_nothing() -> None:
    """An interval of 91.0 +- 2.5 would hold nearly any figure."""
    noisy = replace(OURS, mean=91.0, low=88.5, high=93.5)
    verdict = judge(said(), noisy)
    assert verdict.word == NOT_COMPARABLE
    assert verdict.reasons == ("interval too wide: 2.5 points either way hold nearly any figure",)
    assert judge(said(), replace(OURS, low=92.0, high=94.0)).word == REPRODUCED


def test_not_yet_run() -> None:
    assert judge(said(), None).word == judge(said(), replace(OURS, n=0)).word == NOT_YET_RUN


def test_other_data_is_never_judged() -> None:
    """A copy in another encoding is other data, whatever the accuracy."""
    for mean in (50.0, 93.17, 100.0):
        ours = replace(OURS, data="cifar10-jpeg", mean=mean, low=mean - 1, high=mean + 1)
        verdict = judge(said(), ours)
        assert str(verdict) == "not comparable (other data: cifar10-jpeg, not cifar10)"
        assert verdict.gap is None
    for published in (c for c in read_claims() if c.label and c.arch):
        ours = replace(OURS, method=published.label, arch=published.arch, data="cifar10-jpeg")
        assert judge(published, ours).word == NOT_COMPARABLE


@pytest.mark.parametrize(
    ("changes", "ours", "reason"),
    [
        ({}, {"track": "common"}, "other budget: common track, not the paper's recipe"),
        ({}, {"method": "l1norm"}, "other method: l1norm, not hrank"),
        ({}, {"arch": "vgg16"}, "other architecture: vgg16, not resnet56"),
        ({"flops_reduction": "37.9"}, {},
         "other FLOPs reduction: 50.0 % by 'outputs only', not 37.9 %"),
        ({"flops_rule": "physical"}, {},
         "other counting rule: 50.0 % by 'physical', ours is 61.4 % by 'physical' and equal by "
         "'outputs only' only"),
        ({"flops_rule": "kernels"}, {},
         "other counting rule: its FLOPs are counted by 'kernels', ours are not"),
        ({}, {"reductions": {PHYSICAL: 50.0}},
         "other counting rule: its FLOPs are counted by 'outputs only', ours are not"),
        ({"figure": "best of several"}, {},
         "best of n: it is the highest of several runs, ours is a mean"),
        ({"figure": "best test epoch"}, {},
         "test-selected: it is the best test epoch, ours is the last epoch"),
        ({}, {"figure": BEST_TEST},
         "test-selected: ours is the best test epoch, it is 'last epoch'"),
        ({"figure": "best validation epoch"}, {},
         "other selection: it is the best validation epoch, ours is the last epoch"),
        ({"confidence": "withdrawn"}, {}, "withdrawn by its authors"),
        ({"pruned_top1": ""}, {}, "it names no accuracy"),
        ({"flops_reduction": ""}, {}, "it names no FLOPs reduction"),
        ({}, {"low": None, "high": None, "n": 1}, "no interval: 1 run"),
    ],
)  # fmt: skip
def test_reasons_not_to_compare(
    changes: dict[str, str], ours: dict[str, object], reason: str
) -> None:
    verdict = judge(said(**changes), replace(OURS, **ours))  # type: ignore[arg-type]
    assert verdict.word == NOT_COMPARABLE
    assert verdict.reasons == (reason,)
    assert verdict.gap is None


def test_all_reasons_are_named() -> None:
    ours = replace(OURS, data="cifar10-jpeg", track="common", low=None, high=None, n=2)
    found = judge(said(figure="best of several"), ours).reasons
    assert [reason.split(":")[0] for reason in found] == [
        "other data", "other budget", "best of n", "no interval",
    ]  # fmt: skip


def test_the_best_test_epoch_is_compared_with_the_same_of_ours() -> None:
    ours = replace(OURS, figure=BEST_TEST)
    assert judge(said(figure="best test epoch"), ours).word == REPRODUCED


def test_an_unknown_counting_rule_is_taken_for_physical() -> None:
    unknown = {"flops_rule": "unknown", "figure": "unknown"}
    assert judge(said(**unknown, flops_reduction="61.0"), OURS).word == REPRODUCED
    reason = judge(said(**unknown), OURS).reasons[0]
    assert reason.startswith("other counting rule: 50.0 % by 'unknown', ours is 61.4 %")


def test_each_claim_meets_the_cell_that_fits_it_best() -> None:
    jpeg = replace(OURS, data="cifar10-jpeg")
    far = replace(OURS, reductions={PHYSICAL: 70.0, OUTPUTS_ONLY: 60.0})
    claims = [said(), said(id="A2", arch="vgg16"), said(id="A3", arch=""), said(id="A4", label="")]
    found = judge_all(claims, [jpeg, far, OURS])
    assert [(c.id, o, str(v)) for c, o, v in found] == [
        ("A1", OURS, REPRODUCED), ("A2", None, NOT_YET_RUN),
    ]  # fmt: skip
    assert judge_all(claims[:1], [jpeg, far])[0][2].word == NOT_COMPARABLE
    assert judge_all(claims[:1], [replace(OURS, n=0)])[0][2].word == NOT_YET_RUN


def test_the_shipped_claims_without_any_result() -> None:
    found = judge_all(read_claims(), [])
    assert len(found) > 50
    assert {v.word for _, _, v in found} == {NOT_YET_RUN}
