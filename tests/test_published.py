"""Published figures: the file reads, bad rows are refused, and the linter finds what is wrong."""

from __future__ import annotations

import csv
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmark.claimlint import Finding, agree, half, lint
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.errors import BadInput
from benchmark.published import COLUMNS, HOME, WORDS, Claim, main, parse_claim, read_claims

ROW = dict.fromkeys(COLUMNS, "") | {
    "id": "A1", "method": "M", "arch_printed": "Net", "data_printed": "D", "figure": "unknown",
    "flops_rule": "unknown", "reported": "own", "reported_by": "own README", "source": "README",
    "confidence": "exact",
}  # fmt: skip
# Verdicts and judgements come from code, never from the file.
JUDGING = re.compile(
    r"contradict|arithmetic|suspect|retract|not reproduc|irreproduc|consistent|\bwrong\b|incorrect|"
    r"should be|copied|misattribut|implausible",
    re.IGNORECASE,
)


def claim(**changes: str) -> Claim:
    return parse_claim(ROW | changes, "here")


def kinds(*claims: Claim) -> list[tuple[str, str]]:
    return [(f.row, f.kind) for f in lint(list(claims))]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


# ---- the shipped file ----------------------------------------------------------------------------


def test_the_shipped_file_is_whole() -> None:
    claims = read_claims()
    assert len(claims) == 566
    assert all(c.source and c.reported_by for c in claims)
    assert [c.id for c in claims] == sorted(c.id for c in claims)
    named = {c.label for c in claims}
    assert {"whitebox:official", "hrank", "l1norm"} <= named
    assert {c.data for c in claims} == {"cifar10", "cifar100", ""}
    assert {"physical", "outputs only", "kernels"} <= {c.flops_rule for c in claims}


def test_no_row_holds_a_verdict() -> None:
    judged = [(c.id, m.group()) for c in read_claims() if (m := JUDGING.search(c.note))]
    assert judged == []
    assert JUDGING.search("CONTRADICTION: the abstract says 65.23 %")


def test_every_column_is_described() -> None:
    text = Path(main.__globals__["__file__"]).read_text()
    about = text[: text.index('"""\n\nfrom')]
    assert [name for name in COLUMNS if f"`{name}`" not in about] == []
    words = {word for values in WORDS.values() for word in values if word and " " not in word}
    assert [word for word in words if word not in about] == []


# Change it only with the file: a finding that comes or goes has to be meant.
FOUND = {
    "difference": [
        "P053", "P224", "P233", "P237", "P238", "P269", "P342", "P345", "P348", "P464",
    ],
    "FLOPs removed": ["P045", "P055", "P057", "P058", "P421", "P429", "P430"],
    "FLOPs cut off": ["P040", "P042", "P047", "P049", "P050", "P052", "P425", "P427"],
    "parameters removed": ["P045", "P050", "P054", "P421", "P428", "P429"],
    "dense FLOPs": ["P368", "P369", "P403"],
    "dense parameters": ["P019", "P520"],
    "FLOPs elsewhere": ["P007", "P347", "P390"],
    "accuracy elsewhere": ["P220", "P348", "P404"],
}  # fmt: skip


def test_the_shipped_file_has_exactly_these_contradictions() -> None:
    found: dict[str, list[str]] = {}
    for finding in lint(read_claims()):
        found.setdefault(finding.kind, []).append(finding.row)
    assert found == FOUND


def test_findings_print_both_figures() -> None:
    found = {(f.row, f.kind): f for f in lint(read_claims())}
    assert found["P348", "difference"] == Finding(
        "P348", "difference", "-0.09", "92.17 - 93.26 = -1.09"
    )
    assert found["P045", "FLOPs removed"].follows == "34.78 M of 125.49 M is 72.28 %"
    assert found["P019", "dense parameters"].printed == "22.25 M in the dense network"
    assert found["P007", "FLOPs elsewhere"].follows == "P003 prints 66.0 %, by the same authors"


# ---- the rules -----------------------------------------------------------------------------------


def test_rounding_is_no_contradiction() -> None:
    assert half(Decimal("93.5")) == Decimal("0.05")
    assert half(Decimal("0.45e9")) == Decimal("5e6")
    assert agree(Decimal("50.0"), Decimal("50.04"))
    assert not agree(Decimal("50.00"), Decimal("50.04"))
    before = {"baseline_top1": "93.26", "pruned_top1": "93.17"}
    assert kinds(claim(**before, delta_top1="-0.09")) == []
    assert kinds(claim(**before, delta_top1="-0.10")) == []  # 93.264 and 93.166 would give it
    assert kinds(claim(**before, delta_top1="-0.11")) == [("A1", "difference")]
    assert kinds(claim(**before, delta_top1="0.09")) == [("A1", "difference")]


def test_percentages_follow_from_absolute_figures() -> None:
    cost = {"baseline_flops": "125.49e6", "pruned_flops": "62.72e6"}  # 50.02 %
    assert kinds(claim(**cost, flops_reduction="50.0")) == []
    assert kinds(claim(**cost, flops_reduction="49.0")) == [("A1", "FLOPs removed")]
    coarse = {"baseline_params": "0.85e6", "pruned_params": "0.49e6"}  # 41.4 to 43.3 %
    assert kinds(claim(**coarse, params_reduction="42.9")) == []
    assert kinds(claim(**coarse, params_reduction="43.5")) == [("A1", "parameters removed")]
    cut = {"baseline_flops": "313.73e6", "pruned_flops": "66.95e6"}  # 78.66 %
    assert kinds(claim(**cut, flops_reduction="78.7")) == []
    assert kinds(claim(**cut, flops_reduction="78.6")) == [("A1", "FLOPs cut off")]


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned_top1": "101"},
        {"flops_reduction": "-1"},
        {"pruned_top1": "93", "pruned_top5": "92"},
        {"pruned_params": "2e6", "baseline_params": "1e6"},
        {"pruned_flops": "0"},
    ],
)
def test_figures_out_of_range(changes: dict[str, str]) -> None:
    assert [kind for _, kind in kinds(claim(**changes))] == ["range"]


def test_a_missing_source() -> None:
    assert kinds(claim(source="")) == [("A1", "source")]


def test_the_dense_network_costs_the_same_everywhere() -> None:
    usual = [claim(id=f"U{i}", baseline_params="14.98e6") for i in range(3)]
    said = claim(id="X", pruned_params="1.78e6", params_reduction="92.0")  # 22.25 M
    fine = claim(id="Y", pruned_params="1.78e6", params_reduction="88.1")  # 14.96 M
    assert kinds(*usual, said, fine) == [("X", "dense parameters")]
    assert kinds(usual[0], said) == []  # two rows: nobody knows which is usual
    elsewhere = claim(id="X", arch_printed="Other", pruned_params="1e6", params_reduction="90")
    assert kinds(*usual, elsewhere) == []


def test_one_result_in_two_sources() -> None:
    one = claim(pruned_top1="93.17", flops_reduction="50.0")
    other = {"id": "A2", "source": "a survey", "reported": "quoted"}
    wrong = claim(**other, pruned_top1="92.17", flops_reduction="50.0")
    assert kinds(one, wrong) == [("A2", "accuracy elsewhere")]
    less = claim(**other, pruned_top1="93.17", flops_reduction="41.2")
    assert kinds(one, less) == [("A2", "FLOPs elsewhere")]
    rounded = claim(**other, pruned_top1="93.2", flops_reduction="50.01")
    assert kinds(one, rounded) == []
    own_runs = claim(
        **other | {"reported": "reimplemented"}, pruned_top1="92", flops_reduction="50.0"
    )
    assert kinds(one, own_runs) == []
    scratch = claim(**other, start="scratch", pruned_top1="92.17", flops_reduction="50.0")
    assert kinds(one, scratch) == []
    speedup = claim(**other, pruned_top1="93.17", flops_reduction="51.2", derived="flops_reduction")
    assert kinds(one, speedup) == []
    variant = claim(id="A2", variant="B", pruned_top1="92.17", flops_reduction="50.0")
    assert kinds(one, variant) == []  # two rows of one table


def test_an_abstract_that_misses_its_own_table() -> None:
    table = claim(pruned_top1="94.12", flops_reduction="66.0")
    abstract = {"id": "A2", "source": "abstract"}
    assert kinds(table, claim(**abstract, flops_reduction="65.23")) == [("A2", "FLOPs elsewhere")]
    assert kinds(table, claim(**abstract, flops_reduction="65.97")) == []
    assert kinds(table, claim(**abstract, flops_reduction="58.2")) == []  # another network


# ---- the reader ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruned_top1": "93,5"}, "pruned_top1 is '93,5', needs a number"),
        ({"pruned_top1": "nan"}, "needs a number of usual size"),
        ({"pruned_flops": "1e400"}, "needs a number of usual size"),
        ({"runs": "0"}, "runs is '0', needs a positive whole number"),
        ({"runs": "2.5"}, "runs is '2.5', needs a positive whole number"),
        ({"figure": "best"}, "figure is 'best', needs one of best of several, best test epoch"),
        ({"label": "whitebx"}, "label is 'whitebx', needs one of"),
        ({"arch": "resnet57"}, "arch is 'resnet57', needs one of"),
        ({"data": "CIFAR-10"}, "data is 'CIFAR-10', needs one of"),
        ({"method": ""}, "method is empty"),
        ({"note": "a\x1b[31m"}, "note has spaces at its ends or unprintable"),
    ],
)
def test_a_bad_row_is_one_clear_line(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = write(tmp_path / "published.csv", [ROW | changes])
    with pytest.raises(BadInput, match=re.escape(said)) as caught:
        read_claims(path)
    assert str(caught.value).startswith(f"{path}, row A1: ")
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    with pytest.raises(BadInput, match="cannot be read: FileNotFoundError"):
        read_claims(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="cannot be read: UnicodeDecodeError"):
        read_claims(path)
    path.write_text("id,method\nA1,M\n")
    with pytest.raises(BadInput, match="its columns are not those"):
        read_claims(path)
    with pytest.raises(BadInput, match="used twice"):
        read_claims(write(path, [ROW, ROW]))
    path.write_text(",".join(COLUMNS) + "\nA1,M\n")
    with pytest.raises(BadInput, match="row A1: it has not"):
        read_claims(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(main, []) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + sum(map(len, FOUND.values()))
    assert lines[-1] == f"566 published figures, {len(lines) - 1} findings"
    assert Counter(line.split()[0] for line in lines)["P348"] == 2
    assert invoke(main, ["--file", str(tmp_path / "none.csv")]) == BAD_INPUT
    assert HOME.name == "published.csv"
