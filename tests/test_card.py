"""The card of a results directory: what it says is what records, protocol and sources hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from refusing import refused

from benchmark import card
from benchmark.card import CARD, read_shelf
from benchmark.chosen import TRIALS
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.described import read_sources
from benchmark.errors import BadInput
from benchmark.holdings import checksum, declared_in, holdings
from benchmark.openings import of_run
from benchmark.record import RunRecord
from benchmark.spec import RATE, RunSpec, Start
from benchmark.store import Store
from methods.api import Plan

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
COMMITS = ("a" * 40, "b" * 40)
DECLARED = """
[board.small]
version = "1"
data = "images"
arch = "net20"
checkpoint = "abc"
sweep = "slurm/sweeps/demo.toml"
rows = { uniform = ["l1norm"], none = ["dense_continue"] }
targets = [0.5]
budget_epochs = 20
seeds = [0, 1]
against = ["random", "l1norm", "dense_continue"]
margin = 0.3
limits = ["Small images | only."]
"""
SOURCES = """
[data.images]
name = "Invented images"
distributor = "nobody"
url = "https://example.org/images"
terms = "no licence stated"
read = "its page"
done = "nothing"
content_hash = "c"

[checkpoint.abc]
name = "Invented weights"
distributor = "nobody"
url = "https://example.org/weights"
terms = "BSD-2-Clause"
read = "its LICENSE"
done = "nothing"

[compute]
failed = ["Three runs ran out of memory after an hour each."]
"""
NOTED = f"""
[declared.small]
version = "1"
commit = "{COMMITS[0]}"
runs_after = ["{COMMITS[1]}"]
changed = ["limits"]
deviations = ["Seed 0 was stopped and begun again."]
"""


def spec(method: str = "l1norm", seed: int = 0, target: float = 0.5, **changes: Any) -> RunSpec:
    start = Start(kind="checkpoint", checkpoint="abc")
    return synthetic.spec(method, seed, target, **{"start": start, "baseline": None} | changes)


def made(
    run: RunSpec, commit: str = COMMITS[1], dirty: bool = False, weights: str = "w", **changes: Any
) -> RunRecord:
    """`weights`: digest of the dense network."""
    where = {"git": {"commit": commit, "dirty": dirty}, "cpu": "A processor", "device": "cpu"}
    found = synthetic.record(run, **{"environment": where} | changes)
    return found.model_copy(update={"dense": found.dense.model_copy(update={"weights": weights})})


def publish(store: Store, record: RunRecord) -> None:
    """With the arrays of the fixed points, as runs have them."""
    points = ("dense", "before", "recalibrated", "final")
    arrays = {f"test_{point}_class": np.zeros(1, dtype=np.uint8) for point in points}
    plan = Plan({g: tuple(range(w)) for g, w in record.widths.items()})
    store.write(record, plan, [], arrays)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A declared board with three of its four runs and one that was not declared, another board,
    and a pilot."""
    root = tmp_path / "results"
    store = Store(root)
    for run in (spec(), spec(seed=1), spec("dense_continue", 0, 0.0, allocation="none")):
        publish(store, made(run))
    publish(store, made(spec("hrank"), commit=COMMITS[0], dirty=True))
    publish(store, made(synthetic.spec("l1norm", 3, arch="net8")))
    publish(Store(root / "pilot"), made(spec(seed=1000)))
    (root / "protocol.toml").write_text(DECLARED)
    (root / "sources.toml").write_text(SOURCES)
    return root


def text(root: Path) -> str:
    return card.card(read_shelf(root))


def part(root: Path, title: str) -> str:
    """A section of the card."""
    return text(root).split(f"\n## {title}\n")[1].split("\n## ")[0]


def optimistic(root: Path, run: RunSpec, epochs: int) -> None:
    facts = {"run_id": run.run_id, "epochs": epochs, "best_test_top1": 0.9}
    Store(root).write_measurement(run, "optimistic", "0", facts)


# ---- bytes ---------------------------------------------------------------------------------------


def test_the_same_files_give_the_same_bytes_anywhere(root: Path, tmp_path: Path) -> None:
    assert invoke(card.main, ["--results", str(root)]) == DONE
    first = (root / CARD).read_bytes()
    again = shutil.copytree(root, tmp_path / "deep" / "er")
    assert invoke(card.main, ["--results", str(again)]) == DONE
    assert (again / CARD).read_bytes() == first
    assert str(tmp_path) not in first.decode()
    assert f"{time.gmtime().tm_year}-" not in first.decode()


def test_attempts_of_this_machine_change_nothing_and_are_listed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = text(root)
    assert invoke(card.main, ["--results", str(root)]) == DONE
    Store(root).write_attempt(spec("slimming"), "failed", "out of\nmemory")
    assert text(root) == before
    assert invoke(card.main, ["--results", str(root), "--check"]) == DONE
    assert "attempts: 1 failed: out of memory" in capsys.readouterr().out


def test_a_card_that_is_not_what_the_files_give_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--results", str(root)]
    assert invoke(card.main, [*words, "--check"]) == BAD_INPUT  # not written yet
    assert invoke(card.main, words) == DONE
    assert invoke(card.main, [*words, "--check"]) == DONE
    assert "no git history here" in capsys.readouterr().out
    publish(Store(root), made(spec("hrank", 1)))
    assert "python -m benchmark.card --results" in refused(card.main, [*words, "--check"], capsys)


# ---- boards --------------------------------------------------------------------------------------


def test_runs_of_each_board_are_counted(root: Path) -> None:
    found = part(root, "Boards")
    assert "### `small`, version 1\n" in found
    assert "Runs: 4 declared, 3 done, 1 missing, 1 not as declared" in found
    assert "`python -m benchmark.run --config slurm/sweeps/demo.toml --checkpoint FILE`" in found
    assert "### `images/net8`: not declared beforehand" in found
    assert "- Seeds: 3\n" in found


def test_without_a_protocol_no_board_is_declared(root: Path) -> None:
    (root / "protocol.toml").unlink()
    found = text(root)
    assert "### `images/net20`: not declared beforehand" in found
    assert found.count("Not declared beforehand.") == 2
    assert "declared, " not in part(root, "Boards")


def test_a_declared_board_without_runs_has_a_card(root: Path) -> None:
    shutil.rmtree(root / "runs")
    assert "Runs: 4 declared, 0 done, 4 missing" in part(root, "Boards")
    assert "Invented weights" in part(root, "Provenance and terms")


def test_the_checksum_is_that_of_sha256sum_and_sees_every_file(root: Path) -> None:
    found = part(root, "Boards").split("### ")[2]  # alone in its block
    match = re.search(r"SHA-256 `([0-9a-f]{64})` over 4 files; again by `(.*)`", found)
    assert match is not None
    said = subprocess.run(
        ["bash", "-c", match.group(2)], cwd=root, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[0] == match.group(1)
    assert match.group(1)[:12] in found.split("Cite:")[1]
    run = synthetic.spec("l1norm", 3, arch="net8")
    for name in ("record.json", "plan.json", "curve.csv", "predictions.npz"):
        path = Store(root).run_folder(run) / name
        raw = path.read_bytes()
        path.write_bytes(raw + b"\n")
        assert checksum(Store(root), [made(run)])[0] != match.group(1), name
        path.write_bytes(raw)
    assert checksum(Store(root), [made(run)]) == (match.group(1), 4)
    optimistic(root, run, 3)
    assert checksum(Store(root), [made(run)])[1] == 5


# ---- provenance ----------------------------------------------------------------------------------


def test_terms_are_printed_as_they_are_kept(root: Path) -> None:
    found = part(root, "Provenance and terms")
    assert "Used by `images/net8`, `pilot`, `small`." in found
    assert "- Distributor: nobody, <https://example.org/images>" in found
    assert "- Terms as stated: BSD-2-Clause" in found
    assert "Not described" not in found


@pytest.mark.parametrize("change", [('content_hash = "c"', 'content_hash = "d"'), ("abc", "abd")])
def test_what_sources_do_not_know_is_said(root: Path, change: tuple[str, str]) -> None:
    (root / "sources.toml").write_text(SOURCES.replace(*change))
    found = part(root, "Provenance and terms")
    assert found.count("Not described in `sources.toml`.") == 1
    held = holdings(declared_in(root), Store(root).records())
    known = read_sources(root)
    assert card.missing_from(declared_in(root), known, held) == (
        ["images c"] if "content_hash" in change[0] else ["abc"]
    )


def test_shipped_declared_boards_are_described() -> None:
    held = holdings(declared_in(RESULTS), Store(RESULTS).records())
    assert card.missing_from(declared_in(RESULTS), read_sources(RESULTS), held) == []
    assert "Not described" not in text(RESULTS)


# ---- compute -------------------------------------------------------------------------------------


def test_hours_images_and_failures(root: Path) -> None:
    tried = spec(lane="trial", tuned=(RATE,), seed=7)
    publish(Store(root / TRIALS), made(tried, seconds=7200.0))
    on_gpu = {"cpu": "A processor", "gpu": "A GPU", "device": "cuda"}
    publish(Store(root), made(spec("hrank", 1), environment=on_gpu, seconds=3600.0))
    found = part(root, "Compute")
    rows = {tuple(c.strip() for c in line.split("|")[1:4]): line for line in found.splitlines()}
    assert "| 0.01 | 0.00 | 0.00 | 0.00 | 80,000 |" in rows["`small`", "A processor", "4"]
    assert "| 1.00 |" in rows["`small`", "A GPU", "1"]
    assert "| 2.00 |" in rows["tuning trials", "A processor", "1"]
    assert ("`pilot`", "A processor", "1") in rows
    assert "160,000" in rows["sum", "", "8"]
    assert "Dense training of `images/net8`: 1 network, 30,000 images" in found
    assert "  - Three runs ran out of memory" in found
    assert "no trials" not in found


def test_nothing_said_of_failures_is_said(root: Path) -> None:
    (root / "sources.toml").unlink()
    assert "nothing is said in `sources.toml`" in part(root, "Compute")


# ---- openings ------------------------------------------------------------------------------------


def test_openings_are_counted_from_predictions_and_measurements(root: Path) -> None:
    optimistic(root, spec(), 20)
    store = Store(root)
    found = of_run(store, store.read(spec()))
    assert (found.dense, found.before, found.recalibrated, found.final) == (1, 1, 1, 1)
    assert (found.best_val, found.epochs, found.later, found.total) == (1, 20, 0, 25)
    networks = {"networks": {"dense": {}, "pruned": {}}}
    store.write_measurement(spec(), "extra", "0", networks)
    assert of_run(store, store.read(spec())).later == 2
    board = part(root, "Openings of the test split").split("### ")[1]
    assert "| l1norm | uniform | 2 | 2 | 2 | 2 | 2 | 2 | 20 | 2 | 32 |" in board
    assert "| sum |  | 4 | 4 | 4 | 4 | 4 | 4 | 20 | 2 | 42 |" in board


def test_runs_without_dense_predictions_count_without(root: Path) -> None:
    synthetic.write(Store(root), made(spec("hrank", 4)))
    assert of_run(Store(root), Store(root).read(spec("hrank", 4))).dense == 0


# ---- protocol ------------------------------------------------------------------------------------


def test_what_is_noted_of_the_declaration_is_printed(root: Path) -> None:
    assert "its commit is not noted in `sources.toml`" in part(root, "The protocol")
    (root / "sources.toml").write_text(SOURCES + NOTED)
    found = part(root, "The protocol")
    assert f"Declared in commit `{COMMITS[0]}`. Fields that read otherwise since: limits." in found
    assert f"| `{COMMITS[1]}` | 3 | 0 | yes |" in found
    assert f"| `{COMMITS[0]}` | 1 | 1 | no |" in found
    assert "Of 4 runs, 3 were made from commits that git shows to come after" in found
    assert "- hrank (uniform) at 50 % seed 0" in found
    assert "- Seed 0 was stopped and begun again." in found
    (root / "sources.toml").write_text((SOURCES + NOTED).replace('n = "1"', 'n = "2"'))
    assert "not noted" in part(root, "The protocol")  # of another version


# ---- limits --------------------------------------------------------------------------------------


def test_limits_are_those_declared_and_those_of_the_records(root: Path) -> None:
    found = part(root, "What these boards cannot show")
    assert "- As declared: Small images | only." in found
    assert "No run used a GPU" in found
    assert "Tracks without a run: total, paper." in found
    assert "starts from one and the same" in found.split("### `images")[0]
    on_gpu = {"gpu": "A GPU", "device": "cuda"}
    publish(Store(root), made(spec("hrank", 1), weights="v", environment=on_gpu))
    found = part(root, "What these boards cannot show")
    assert "No run used a GPU" not in found
    assert "starts from one and the same" not in found.split("### `images")[0]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('terms = "no', 'trems = "no', "sources.toml: data.images.terms: Field required"),
        ("[compute]", "[computer]", "sources.toml: computer: Extra inputs"),
        ("[compute]", "[compute", "sources.toml: "),
        ("[compute]", '[declared.small]\nversion = "1"\ncommit = "12"\n[compute]', "commit"),
    ],
)
def test_bad_sources(
    before: str, after: str, said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "sources.toml").write_text(SOURCES.replace(before, after, 1))
    assert said in refused(card.main, ["--results", str(root)], capsys)


def test_a_place_without_anything_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither runs nor a protocol"):
        read_shelf(tmp_path)


def test_damaged_records_are_counted_and_named_on_the_screen(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Store(root).run_folder(spec()) / "record.json").write_text("{}")
    assert invoke(card.main, ["--results", str(root)]) == DONE
    assert "1 damaged" in (root / CARD).read_text()
    assert "warning: " in capsys.readouterr().out


# ---- the pilot ---------------------------------------------------------------------------------


def test_a_shelf_without_pilot_has_no_row_for_it(root: Path) -> None:
    assert "pilot" in read_shelf(root).places
    assert "pilot" not in replace(read_shelf(root), pilot=()).places
