"""Published against reproduced, end to end: from records to verdicts, with figures by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import torch
from test_published import claim

from benchmark import against, againstpage, archs, frames, recount
from benchmark.block import Block
from benchmark.claimed import ABOVE, BELOW, BEST_TEST, NOT_COMPARABLE, NOT_YET_RUN, REPRODUCED
from benchmark.columns import names
from benchmark.counting import OUTPUTS_ONLY, PHYSICAL
from benchmark.flops import Cost
from benchmark.published import Claim, read_claims
from benchmark.record import RunRecord
from benchmark.spec import ArchIdentity
from benchmark.store import Store
from methods import find

# ResNet-8 on 8 x 8 images and ten classes, by hand: pixels x 9 x inputs x outputs of each layer.
STEM, HEAD = 64 * 9 * 3 * 16, 64 * 10
FIRST = [64 * 9 * 16 * 16, 16 * 9 * 16 * 32, 4 * 9 * 32 * 64]  # first convolution of each block
SECOND = [64 * 9 * 16 * 16, 16 * 9 * 32 * 32, 4 * 9 * 64 * 64]
DENSE = STEM + sum(FIRST) + sum(SECOND) + HEAD
HALF = STEM + (sum(FIRST) + sum(SECOND)) // 2 + HEAD  # inner groups at half their width
SEEN = STEM + sum(FIRST) // 2 + sum(SECOND) + HEAD  # the same, removed inputs not seen
BEST = (0.94, 0.937, 0.943)


def block_of(records: Iterable[RunRecord], best: Mapping[str, float] | None = None) -> Block:
    """A block without files; `best`: best test top-1 as a fraction, by run id."""
    found = {r.run_id: r for r in records}
    first = next(iter(found.values())).spec
    runs = frames.runs_frame(found.values(), (), best)
    board = frames.leaderboard(runs)
    return Block(first.data.name, first.arch.name, Store(Path("nowhere")), found, runs, board)


def paper(
    finals: tuple[float, ...] = (0.93, 0.927, 0.933), method: str = "hrank", **changes: str
) -> list[RunRecord]:
    """Seeds of a paper-track cell that keeps half of every inner group of ResNet-8. The dense
    networks have 92, 93 and 91 %."""
    torch.manual_seed(0)
    structure = archs.structure_hash(archs.build("resnet8", 10))
    wide = {"layer1.0.conv1": 16, "layer2.0.conv1": 32, "layer3.0.conv1": 64}
    shared = {"track": "paper", "data": "cifar10", "arch": "resnet8"} | changes
    made = []
    for seed, final in enumerate(finals):
        spec = synthetic.spec(method, seed, 0.48, **shared)
        spec = spec.model_copy(
            update={"arch": ArchIdentity(name=shared["arch"], structure=structure)}
        )
        cost = Cost(macs=HALF, macs_paper=HALF, params=1, params_paper=1, operators={})
        made.append(
            synthetic.record(
                spec, final, (0.92, 0.93, 0.91)[seed], groups=3, pruned=cost,
                flops_reduction=1 - HALF / DENSE,
                widths={g: w // 2 for g, w in wide.items()}, dense_widths=wide,
            )
        )  # fmt: skip
    return made


def said(**changes: str) -> Claim:
    usual = {
        "label": "hrank", "arch": "resnet8", "data": "cifar10", "data_printed": "CIFAR-10",
        "figure": "last epoch", "flops_rule": "physical", "flops_reduction": "48.2",
        "pruned_top1": "93.5", "baseline_top1": "93.0", "delta_top1": "0.5",
    }  # fmt: skip
    return claim(**usual | changes)


def only(frame: pd.DataFrame) -> dict[str, object]:
    assert list(frame.columns) == names(against.COLUMNS)
    (row,) = frame.to_dict("records")
    return {str(k): v for k, v in row.items()}


@pytest.mark.parametrize(
    ("top1", "word", "gap"), [("93.5", REPRODUCED, -0.5), ("90.0", ABOVE, 3.0), ("97", BELOW, -4.0)]
)
def test_a_paper_cell_that_reproduces_and_ones_above_and_below(
    top1: str, word: str, gap: float
) -> None:
    row = only(against.published(block_of(paper()), [said(pruned_top1=top1)]))
    assert (row["verdict"], row["reasons"], row["against"]) == (word, "", 0)
    assert row["gap"] == pytest.approx(gap)
    # 93 +- t(0.975, 2) / sqrt(3), sd 0.3; deltas are 1, -0.3 and 2.3
    assert (row["n"], row["mean"], row["delta"]) == (3, pytest.approx(93), pytest.approx(1))
    assert (row["low"], row["high"]) == (
        pytest.approx(93 - 0.3 * 4.302653 / 3**0.5), pytest.approx(93 + 0.3 * 4.302653 / 3**0.5),
    )  # fmt: skip
    assert row["gap_delta"] == pytest.approx(0.5)
    assert (row["track"], row["data"], row["figure"]) == ("paper", "cifar10", "last epoch")


def test_both_reductions_of_our_cell_by_hand() -> None:
    row = only(against.published(block_of(paper()), [said()]))
    assert row["physical"] == pytest.approx(100 * (1 - HALF / DENSE))
    assert row["outputs_only"] == pytest.approx(100 * (1 - SEEN / DENSE))
    assert (round(100 * (1 - HALF / DENSE), 1), round(100 * (1 - SEEN / DENSE), 1)) == (48.2, 19.3)
    counted = said(flops_rule="outputs only", flops_reduction="19.3")
    assert only(against.published(block_of(paper()), [counted]))["verdict"] == REPRODUCED
    row = only(against.published(block_of(paper()), [said(flops_rule="outputs only")]))
    assert row["verdict"] == NOT_COMPARABLE
    assert str(row["reasons"]).startswith("other counting rule: 48.2 % by 'outputs only', ours is")


def test_a_network_that_cannot_be_built_or_costs_something_else_is_not_counted_again() -> None:
    other = [r.model_copy(update={"spec": synthetic.spec("hrank")}) for r in paper()[:1]]
    assert recount.of_run(other[0]) is None
    wrong = [r.model_copy(update={"widths": dict.fromkeys(r.widths, 9)}) for r in paper()]
    row = only(against.published(block_of(wrong), [said()]))
    assert row["physical"] == pytest.approx(100 * (1 - HALF / DENSE))
    assert math.isnan(float(str(row["outputs_only"])))


def test_a_best_test_claim_meets_our_best_test_epoch() -> None:
    records = paper()
    best = {r.run_id: b for r, b in zip(records, BEST, strict=True)}
    claims = [said(), said(id="A2", figure=BEST_TEST)]
    found = against.published(block_of(records, best), claims)
    assert list(found["figure"]) == ["last epoch", "best test epoch"]
    assert list(found["mean"]) == [pytest.approx(93), pytest.approx(94)]
    assert list(found["delta"]) == [pytest.approx(1), pytest.approx(2)]
    assert list(found["verdict"]) == [REPRODUCED, REPRODUCED]
    without = against.published(block_of(records), claims)
    assert list(without["verdict"]) == [REPRODUCED, NOT_COMPARABLE]
    assert without["reasons"][1].startswith("test-selected")


def test_a_copy_in_another_encoding_is_never_judged() -> None:
    """From records on: whatever the accuracy, no verdict and no gap against CIFAR-10."""
    for finals in ((0.935, 0.935, 0.935), (0.93, 0.927, 0.933), (0.1, 0.1, 0.1), (1.0, 1.0, 1.0)):
        row = only(against.published(block_of(paper(finals, data="cifar10-jpeg")), [said()]))
        assert row["verdict"] == NOT_COMPARABLE
        assert row["reasons"] == "other data: cifar10-jpeg, not cifar10"
        assert math.isnan(float(str(row["gap"])))
        assert math.isnan(float(str(row["gap_delta"])))


def test_another_budget_or_start_is_not_comparable() -> None:
    row = only(against.published(block_of(paper(track="common")), [said()]))
    assert row["reasons"] == "other budget: common track, not the paper's recipe"
    row = only(against.published(block_of(paper()), [said(start="scratch")]))
    assert row["reasons"] == "other start: trained, not scratch"
    row = only(against.published(block_of(paper()), [said(start="trained")]))
    assert row["verdict"] == REPRODUCED


def test_every_claim_once_over_all_blocks() -> None:
    claims = [said(id="A3"), said(id="A1", arch="resnet20"), said(id="A2", label=""),
              said(id="A4", label="l1norm")]  # fmt: skip
    jpeg = block_of(paper(data="cifar10-jpeg"))
    parts = [against.published(b, claims) for b in (jpeg, block_of(paper()))]
    assert [list(p["claim"]) for p in parts] == [["A3", "A4"], ["A3", "A4"]]
    for order in (parts, parts[::-1]):
        found = against.everything(order, claims)
        assert list(found["claim"]) == ["A3", "A1", "A4"]
        assert list(found["verdict"]) == [REPRODUCED, NOT_YET_RUN, NOT_YET_RUN]
        assert list(found["data"]) == ["cifar10", "", ""]
    assert against.everything(parts[:1], claims)["verdict"][0] == NOT_COMPARABLE
    counts = against.summary(against.everything(parts, claims))
    assert counts.to_dict("records") == [
        {"label": "hrank", "claims": 2, "reproduced": 1, "above": 0, "below": 0,
         "not_comparable": 0, "not_yet_run": 1},
        {"label": "l1norm", "claims": 1, "reproduced": 0, "above": 0, "below": 0,
         "not_comparable": 0, "not_yet_run": 1},
    ]  # fmt: skip


def test_no_network_is_built_for_a_block_without_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(record: RunRecord) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(recount, "of_run", refuse)
    assert against.published(block_of(paper()), []).empty
    assert len(against.published(block_of(paper(method="l1norm")), [said()])) == 1
    with pytest.raises(AssertionError, match="counted again"):
        against.published(block_of(paper()), [said()])


@pytest.mark.parametrize(
    ("arch", "printed", "outputs_only", "physical"),
    [("resnet56", "50.0", 50.0, 61.4), ("resnet110", "37.9", 38.0, 49.8)],
)
def test_published_reductions_are_translated_by_their_rates(
    arch: str, printed: str, outputs_only: float, physical: float
) -> None:
    """Where nothing was run, too."""
    claims = [said(arch=arch, flops_reduction=printed, flops_rule="outputs only"),
              said(id="A2", arch=arch, flops_reduction="29.1", flops_rule="outputs only"),
              said(id="A3", arch=arch, flops_reduction=printed, data="cifar100")]  # fmt: skip
    found = against.everything([], claims)
    assert list(found["verdict"]) == [NOT_YET_RUN] * 3
    assert round(found["rates_physical"][0], 1) == physical
    assert round(found["rates_outputs_only"][0], 1) == outputs_only
    assert found["rates_physical"][1:].isna().all()  # rates of another figure, other data


def test_vgg16_as_pruned_and_as_counted() -> None:
    """65.3 % published. The code prunes with a 13th rate of 0; its source counts 0.8."""
    pruned = dict(find("hrank").card["recipe"]["vgg16"])
    pruned.pop("counted_rates", None)
    counted = pruned | {"counted_rates": [*pruned["rates"][:12], 0.8]}
    for recipe, outputs_only, physical in ((pruned, 62.8, 86.2), (counted, 65.2, 86.8)):
        found = recount.of_recipe("vgg16", recipe)
        assert found is not None
        assert round(found.reduction(OUTPUTS_ONLY), 1) == outputs_only
        assert round(found.reduction(PHYSICAL), 1) == physical


def test_counting_claims_leaves_random_numbers_alone() -> None:
    recount._of_claims.cache_clear()
    recount._listed.cache_clear()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert recount.of_claim(said(arch="resnet56", flops_reduction="50.0")) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_the_page_reads() -> None:
    claims = [said(source="one, page 1"), said(id="A2", pruned_top1="97", source="two"),
              said(id="A3", arch="resnet20", label="l1norm", source="one, page 1"),
              said(id="A4", figure="best of several", source="two")]  # fmt: skip
    page = againstpage.markdown(
        against.everything([against.published(block_of(paper()), claims)], claims)
    )
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "| hrank | 3 | 1 | 0 | 1 | 1 | 0 |" in lines
    assert (
        "| A1 | resnet8 | CIFAR-10 | own | 93.00 | 93.50 | +0.50 | last epoch | 48.2 | physical | "
        "| 93.00 (92.25 to 93.75, 3) | +1.00 | 48.2 / 19.3 | -0.50 | reproduced | \\[1\\] |"
    ) in lines
    assert any(line.endswith("| not comparable (best of n) | \\[2\\] |") for line in lines)
    assert (
        "| A3 | resnet20 | CIFAR-10 | own | 93.00 | 93.50 | +0.50 | last epoch | 48.2 | physical | "
        "| not yet run | \\[1\\] |"
    ) in lines
    assert lines[-2:] == ["1. one, page 1", "2. two"]
    assert f"{len(read_claims()) - 4} more published figures" in page


def test_the_page_as_latex() -> None:
    claims = [said(flops_rule="outputs only", flops_reduction="19.3")]
    found = against.everything([against.published(block_of(paper()), claims)], claims)
    assert (
        r"A1 & hrank & resnet8 & CIFAR-10 & 93.50 & 0.50 & 19.30 & outputs only &  & 93.00 & 92.25 "
        r"& 93.75 & 48.15 & $-$0.50 & reproduced \\"
    ) in againstpage.latex(found).splitlines()


def test_the_shipped_claims() -> None:
    found = against.everything([])
    ours = [c.id for c in read_claims() if c.label and c.arch]
    assert list(found["claim"]) == ours
    assert set(found["verdict"]) == {NOT_YET_RUN}
