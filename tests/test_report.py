"""The report's numbers, checked by hand on invented records, and its bytes."""

from __future__ import annotations

import io
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic as made
from rich.console import Console

from benchmark import columns, comparisons, findings, frames, report, standing, tablenotes, tables
from benchmark import derived as deriving
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.derived import OPTIONAL
from benchmark.errors import BadInput
from benchmark.granted import NOT_CLAIMED, PAYS
from benchmark.load import load_results
from benchmark.paired import CONDITIONAL, CROSSED
from benchmark.record import RunRecord, SelectionCheck
from benchmark.spec import Seeds, Start
from benchmark.store import Store

UGLY = r"A|B & 50 % of_x $y #1 {z} ~^\ <b>"


def line(board: pd.DataFrame, method: str, target: float = 50) -> pd.Series:
    found = board[(board["method"] == method) & (board["target"] == target)]
    assert len(found) == 1
    return found.iloc[0]


def board_of(*records: RunRecord) -> pd.DataFrame:
    return frames.leaderboard(frames.runs_frame(records))


@pytest.fixture(scope="module")
def records() -> list[RunRecord]:
    return made.sample()


@pytest.fixture(scope="module")
def results(records: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    store = Store(root)
    for record in records:
        made.write(store, record)
    store.write_attempt(made.spec("slimming", 1), "failed", "loss | is\nNaN")
    store.write_attempt(made.spec("hrank", 1, 0.7), "failed", "killed")
    store.write_attempt(made.spec("cpli"), "n/a", "needs batch norm")
    report.build(root)
    return root


# ---- numbers -------------------------------------------------------------------------------------


def test_mean_sd_interval_and_delta_by_hand(records: list[RunRecord]) -> None:
    row = line(board_of(*records), "l1norm")
    assert (row["n"], row["seeds"]) == (3, "0 1 2")
    assert row["final_mean"] == pytest.approx(91.0)
    assert row["final_sd"] == pytest.approx(1.0)
    half = 4.302653 / math.sqrt(3)  # t table, 2 degrees of freedom
    assert row["final_low"] == pytest.approx(91 - half, abs=1e-5)
    assert row["final_high"] == pytest.approx(91 + half, abs=1e-5)
    assert row["delta_mean"] == pytest.approx((-2 - 1 + 0) / 3)
    assert row["delta_sd"] == pytest.approx(1.0)
    assert (row["dense_mean"], row["dense_n"]) == (pytest.approx(92.0), 3)
    assert row["dense_sd"] == pytest.approx(1.0)
    assert row["val_final_mean"] == pytest.approx(90.0)
    assert row["best_val_mean"] == pytest.approx(90.9)
    assert row["charged_epochs"] == 20
    assert row["training_gmacs"] == pytest.approx(3 * 20_000 * 500_000 / 1e9)
    assert row["speedup_128"] == 1.5


def test_one_seed_has_no_spread(records: list[RunRecord]) -> None:
    row = line(board_of(*records), "hrank", 70)
    assert row["final_mean"] == pytest.approx(80)
    assert np.isnan([row["final_sd"], row["final_low"], row["final_high"], row["rank"]]).all()


def test_random_start_is_set_against_the_baseline_of_its_seed(records: list[RunRecord]) -> None:
    board = board_of(*records)
    row = line(board, "width_scaling")
    runs = frames.runs_frame(records)
    deltas = runs.loc[runs["method"] == "width_scaling"].sort_values("seed")["delta"]
    assert deltas.tolist() == pytest.approx([88 - 92, 88 - 93, 88 - 91])
    assert row["delta_mean"] == pytest.approx(-4)
    assert row["table"] == line(board, "l1norm")["table"]
    assert np.isnan(line(board_of(*records[-4:-1]), "width_scaling")["delta_mean"])
    other = made.spec("l1norm", budget_epochs=10)  # another total: not its baseline
    apart = board_of(made.record(other), made.record(made.from_scratch(), 0.88, None))
    assert np.isnan(line(apart, "width_scaling")["delta_mean"])


def test_ranks_need_seeds_and_leave_out_controls(records: list[RunRecord]) -> None:
    board = board_of(*records)
    ranks = dict(zip(board["entry"] + board["target"].astype(str), board["rank"], strict=True))
    assert {k: v for k, v in ranks.items() if not math.isnan(v)} == {
        "hrank50.0": 1,
        "l1norm50.0": 2,
    }
    assert "control" in line(board, "random")["marks"]


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ({"floor_share": 0.6}, "floor-bound"),
        ({"at_chance": True}, "at chance (3 of 3 seeds)"),
        (
            {
                "selection": SelectionCheck(
                    score=0.3, inverse=0.4, random=[0.2], percentile=0.5, informative=False
                )
            },
            "selection uninformative",
        ),
    ],
)
def test_marks(records: list[RunRecord], changes: dict[str, object], mark: str) -> None:
    marked = made.three("slimming", (0.99, 0.99, 0.99), **changes)
    board = board_of(*records, *marked)
    assert line(board, "slimming")["marks"] == mark
    assert mark.split(" (")[0].capitalize() in "".join(tablenotes.notes(board))
    floor = mark == "floor-bound"
    assert math.isnan(line(board, "slimming")["rank"]) == floor
    assert line(board, "hrank")["rank"] == (1 if floor else 2)


def test_saturated_board_has_no_ranks() -> None:
    runs = [
        made.record(made.spec(m, i), 0.99, 0.985) for m in ("l1norm", "hrank") for i in range(3)
    ]
    board = board_of(*runs)
    assert board["rank"].isna().all()
    assert "saturated" in tables.markdown_table(board)


def test_axes_tell_rows_of_one_method_apart() -> None:
    specs = [
        made.spec(),
        made.spec(allocation="global"),
        made.spec(reconstruct="ls"),
        made.spec("hrank", params={"k": 1}),
        made.spec("hrank", params={"k": 2}, preparation="free"),
    ]
    board = board_of(*(made.record(s) for s in specs))
    assert sorted(board["entry"]) == [
        "hrank, k=1",
        "hrank, k=2, preparation free",
        "l1norm + LS, uniform",
        "l1norm, global",
        "l1norm, uniform",
    ]


def test_settings_never_share_a_table_or_a_rank() -> None:
    specs = [made.spec(m, i, **c) for m in ("l1norm", "hrank") for i in range(3)
             for c in ({}, {"precision": "bf16"}, {"scope": "all"}, {"track": "total"},
                       {"protocol": 2}, {"budget_epochs": 10})]  # fmt: skip
    board = board_of(*(made.record(s) for s in specs))
    assert board["table"].nunique() == board["board"].nunique() == 6
    assert board.groupby("board")["rank"].max().eq(1).all()  # ties


def test_one_checkpoint_says_so_and_compares_kept_sets(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, kept in enumerate([(0, 1, 2, 3), (2, 3, 4, 5)]):
        run = made.spec(start=Start(kind="checkpoint", checkpoint="abc"), baseline=None,
                        seeds=Seeds(dense=None, run=seed))  # fmt: skip
        made.write(store, made.record(run, groups=1), {"layer1.0.conv1": kept})
    board = frames.leaderboard(frames.load(tmp_path))
    assert (board["n"].item(), board["dense_n"].item()) == (2, 1)
    assert board["kept_overlap"].item() == 50
    text = tables.markdown_table(board)
    assert "Conditional on one dense network" in text
    assert "Controls from scratch: not run" in text


def test_a_checkpoint_that_seeds_adapted_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recipe = made.BASELINE.model_copy(update={"epochs": 2.0})
    for seed, kept in enumerate([(0, 1, 2, 3), (2, 3, 4, 5)]):
        start = Start(kind="adapted", checkpoint="abc")
        run = made.spec(seed=seed, start=start, baseline=recipe)
        made.write(store, made.record(run, groups=1), {"layer1.0.conv1": kept})
    board = frames.leaderboard(frames.load(tmp_path))
    assert board["kept_overlap"].item() == 50
    text = tables.markdown_table(board)
    assert "Conditional on one checkpoint" in text
    assert "Controls from scratch: not run" in text
    assert "checkpoint adapted (2 epochs), budget" in tables.caption(board)


def test_optimistic_figure_is_joined(tmp_path: Path) -> None:
    store, record = Store(tmp_path), made.record(made.spec())
    made.write(store, record)
    store.write_measurement(record.spec, "optimistic", "x", {"best_test_top1": 0.95})
    assert frames.load(tmp_path)["test_best_test"].item() == pytest.approx(95)


ON_CPU = {"cpu": "processor A", "gpu": "card", "device": "cpu"}
ON_GPU = ON_CPU | {"device": "cuda"}


def test_timings_of_several_machines_are_not_averaged() -> None:
    mixed = [made.record(made.spec("l1norm", seed), environment=where)
             for seed, where in enumerate([ON_CPU, ON_CPU, ON_GPU])]  # fmt: skip
    alike = [made.record(made.spec("hrank", seed), environment=ON_GPU) for seed in range(3)]
    board = board_of(*mixed, *alike)
    row = line(board, "l1norm")
    assert (row["marks"], row["hardware"]) == (frames.MIXED, "card / processor A")
    assert row[columns.TIMINGS].isna().all()
    assert (row["n"], row["final_mean"]) == (3, pytest.approx(90))  # accuracy is averaged
    assert line(board, "hrank")[columns.TIMINGS].tolist() == [12.5, 1.1, 1.5]
    assert line(board, "hrank")["hardware"] == "card"
    assert row["rank"] == 1  # no reason to leave it out
    text = tables.markdown_table(board)
    assert "Hardware: card; processor A. Compare seconds and speedups only between rows" in text
    assert "- Timings of several machines: " in text
    runs = frames.runs_frame(mixed)
    assert runs["hardware"].tolist() == ["processor A", "processor A", "card"]
    assert runs["seconds"].tolist() == [12.5] * 3


def test_one_kind_of_hardware_is_named_and_an_unknown_one_is_another() -> None:
    known, unknown = (
        made.record(made.spec("l1norm", seed), environment=where)
        for seed, where in enumerate([ON_CPU, {}])
    )
    assert "Hardware: processor A." in tables.markdown_table(board_of(known))
    assert "Hardware" not in tables.markdown_table(board_of(unknown))
    row = line(board_of(known, unknown), "l1norm")
    assert (row["marks"], row["hardware"]) == (frames.MIXED, "processor A")


# ---- files ---------------------------------------------------------------------------------------


def test_failed_cells_stay_visible(results: Path) -> None:
    board = pd.read_csv(results / "leaderboard.csv", keep_default_na=False, dtype=str)
    slimming = board[board["method"] == "slimming"].iloc[0]
    assert (slimming["status"], slimming["n"], slimming["final_mean"]) == ("failed", "0", "")
    assert slimming["reason"] == "seed 1 failed: loss | is NaN"
    assert slimming["title"] == "Network Slimming"
    assert board[board["method"] == "cpli"].iloc[0]["status"] == "n/a"
    partly = board[(board["method"] == "hrank") & (board["target"] == "70.00")].iloc[0]
    assert (partly["status"], partly["n"], partly["missing"]) == ("done", "1", "1")
    assert "incomplete" in partly["marks"]
    page = (results / "leaderboard" / "images-net20.md").read_text()
    assert r"seed 1 failed: loss \| is NaN" in page
    assert "seed 0 n/a: needs batch norm" in (results / "leaderboard/images-net20.tex").read_text()


def derived(root: Path) -> dict[str, bytes]:
    """Bytes of all derived files."""
    tops = ("leaderboard.csv", "leaderboard/*", "figures/*")
    return {
        str(p.relative_to(root)): p.read_bytes() for t in tops for p in root.glob(t) if p.is_file()
    }


def test_second_run_gives_the_same_bytes(results: Path) -> None:
    before = derived(results)
    assert {p.suffix for p in map(Path, before)} == {".csv", ".md", ".tex", ".svg", ".txt"}
    report.build(results)
    assert derived(results) == before
    assert all(b"\r" not in content for content in before.values())


def test_order_of_records_does_not_matter(records: list[RunRecord]) -> None:
    shuffled = random.Random(1).sample(records, len(records))
    texts = [
        tables.csv_text(frames.runs_frame(r), columns.RUNS)
        + tables.csv_text(board_of(*r), columns.LEADERBOARD)
        + tables.markdown_page(board_of(*r), "x", {})
        for r in (records, shuffled)
    ]
    assert texts[0] == texts[1]


def test_dictionary_holds_every_column(results: Path) -> None:
    text = (results / "leaderboard" / "DICTIONARY.md").read_text()
    parts = {part.split("`")[1]: part for part in text.split("## ")[1:]}
    tables_of = {p.relative_to(results).as_posix() for p in results.glob("leaderboard/*.csv")}
    assert parts.keys() == {"leaderboard.csv"} | tables_of - {"leaderboard/images-net20.csv"}
    for path, part in parts.items():
        heads = (results / path).read_text().splitlines()[0].split(",")
        described = [row.split("`")[1] for row in part.splitlines() if row.startswith("| `")]
        assert described == heads
    assert all(c.meaning for c in columns.RUNS + columns.LEADERBOARD)


def test_fixed_decimals(results: Path) -> None:
    runs = pd.read_csv(results / "leaderboard" / "runs.csv", dtype=str, keep_default_na=False)
    assert runs["test_final"].str.fullmatch(r"(\d+\.\d\d)?").all()
    assert tables.number(-0.001, 2) == "0.00"
    assert tables.number(math.nan, 2) == ""


def test_stale_files_go_and_others_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = made.write(store, made.record(made.spec(arch="old")))
    made.write(store, made.record(made.spec()))
    report.build(tmp_path, "png")
    foreign = tmp_path / "leaderboard" / "notes.csv"
    foreign.write_text("kept")
    for file in folder.iterdir():
        file.unlink()
    assert list(tmp_path.glob("*/images-old*.png"))
    written = report.build(tmp_path)
    assert not list(tmp_path.glob("*/images-old*"))
    assert foreign.exists()
    assert all(path.is_file() for path in written)


def test_only_blocks_that_changed_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in blocks that are read; what is kept gives the same bytes as what is made."""
    store, read = Store(tmp_path), list[str]()
    for arch in ("one", "two"):
        made.write(store, made.record(made.spec(arch=arch)))
    whole = deriving.read_whole
    monkeypatch.setattr(deriving, "read_whole", lambda r, n: read.append(n) or whole(r, n))

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in report.build(tmp_path, "none")}

    first = contents()
    assert read == ["images/one", "images/two"]
    assert contents() == first
    assert len(read) == 2
    added = made.record(made.spec(arch="two", seed=1), final=0.8)
    made.write(store, added)
    second = contents()
    assert read[2:] == ["images/two"]
    shutil.rmtree(store.stages)
    assert contents() == second
    read.clear()
    store.write_measurement(added.spec, "optimistic", "0", {"best_test_top1": 0.9})
    assert contents() != second
    path = store.run_folder(added.spec) / "record.json"
    path.write_text(path.read_text().replace('"title": "l1norm"', '"title": "another"'))
    assert contents() != second
    assert read == ["images/two"] * 2


def test_figures_that_were_left_out_are_drawn_later(tmp_path: Path) -> None:
    made.write(Store(tmp_path), made.record(made.spec()))
    report.build(tmp_path, "none")
    assert not list(tmp_path.glob("figures/*"))
    written = report.build(tmp_path)
    drawn = [path for path in written if path.suffix == ".svg"]
    assert drawn
    assert set(drawn) <= set(report.build(tmp_path, "none"))
    made.write(Store(tmp_path), made.record(made.spec(seed=1)))
    assert set(drawn) <= set(report.build(tmp_path, "none"))  # of an earlier report, until the next
    assert all(path.is_file() for path in drawn)


def test_damaged_records_are_told_by_every_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made.write(Store(tmp_path), made.record(made.spec()))
    made.write(Store(tmp_path), made.record(made.spec("random")))
    (folder / "record.json").write_text("{")
    for _ in range(2):  # the second time from what was kept
        assert invoke(report.main, ["--results", str(tmp_path), "--no-figures"]) == DONE
        assert capsys.readouterr().out.count("is not a run record") == 1
    shutil.rmtree(tmp_path / "runs" / "images" / "net20" / "random")
    assert invoke(report.main, ["--results", str(tmp_path), "--no-figures"]) == BAD_INPUT
    said = capsys.readouterr()
    assert said.out.count("is not a run record") == 1
    assert "no results under" in said.err


def test_a_kept_block_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    made.write(Store(tmp_path), made.record(made.spec()))
    before = {path: path.read_bytes() for path in report.build(tmp_path, "none")}
    (state,) = Store(tmp_path).stages.glob("report-*/state.json")
    runs = state.with_name("runs.arrow")
    for file, damage in (
        (state, ""), (state, "{}"), (state, "[]"), (state, state.read_text()[:-9]), (runs, "cut"),
    ):  # fmt: skip
        file.write_text(damage)
        assert {p: p.read_bytes() for p in report.build(tmp_path, "none")} == before
        assert file.stat().st_size > 9
    runs.unlink()
    assert {p: p.read_bytes() for p in report.build(tmp_path, "none")} == before


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense", "npy"])
def test_damaged_predictions_are_left_out_and_said(content: bytes | str, tmp_path: Path) -> None:
    """From a file that is fine to one that is not: the report sees it, and goes on."""
    folder = made.write(Store(tmp_path), made.record(made.spec()))
    made.write(Store(tmp_path), made.record(made.spec("random")))
    report.build(tmp_path, "none")
    if content == "npy":
        with (folder / "predictions.npz").open("wb") as handle:
            np.save(handle, np.zeros(3))
    else:
        assert isinstance(content, bytes)
        (folder / "predictions.npz").write_bytes(content)
    report.build(tmp_path, "none")
    assert "predictions cannot be read" in (tmp_path / "leaderboard/comparisons.csv").read_text()


def test_the_tables_of_runs_that_are_gone_go(tmp_path: Path) -> None:
    made.write(Store(tmp_path), made.record(made.spec()))
    report.build(tmp_path, "none")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(BadInput, match="no results under"):
        report.build(tmp_path, "none")
    assert not (tmp_path / "leaderboard.csv").exists()


def test_results_have_every_table_of_the_report(results: Path) -> None:
    found = load_results(results)
    for name in found.names:
        place = results / report.place(name)
        if name in OPTIONAL and found[name].empty:  # nobody measured it: no rows, no file
            assert not place.exists()
            continue
        listed = pd.read_csv(place, dtype=str, keep_default_na=False)
        assert list(found[name].columns) == list(listed.columns)
        assert len(getattr(found, name)) == len(listed)
    with pytest.raises(BadInput, match="no table 'nonsense'"):
        found["nonsense"]
    with pytest.raises(AttributeError):
        _ = found.nonsense


def test_nothing_to_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="no results under"):
        report.build(tmp_path / "absent")
    assert invoke(report.main, ["--results", str(tmp_path)]) == BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1


def test_special_characters_are_escaped() -> None:
    board = board_of(made.record(made.spec(), title=UGLY))
    row = next(x for x in tables.markdown_table(board).splitlines() if x.startswith("| A"))
    assert row.startswith(r"| A\|B & 50 % of\_x $y #1 {z} ~^\\ \<b\> ")
    assert (
        r"A\textbar{}B \& 50 \% of\_x \$y \#1 \{z\} \textasciitilde{}\textasciicircum{}"
        r"\textbackslash{} \textless{}b\textgreater{} &"
    ) in tables.latex_page(board)
    assert "$-$2.00" in tables.latex_page(board)


def test_terminal_table_fits(records: list[RunRecord]) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.terminal_table(board_of(*records)))
    text = console.export_text()
    assert all(part in text for part in ("91.00 ± 1.00 (3)", "control", "-1.00"))
    assert text.index("hrank") < text.index("l1norm")  # by final accuracy


def test_a_choice_that_random_draws_match_is_marked_and_explained() -> None:
    check = SelectionCheck(score=0.4, inverse=0.2, random=[0.5], percentile=0.0, informative=True)
    run = made.record(made.spec("hrank", 0), selection=check)
    board = board_of(run)
    assert "no better than random draws" in board["marks"].iloc[0]
    assert any(note.startswith("No better than random draws") for note in tablenotes.notes(board))


# ---- paired statistics ---------------------------------------------------------------------------


def compared(method: str, reference: str, mean: float, word: str, **changes: Any) -> dict[str, Any]:
    """A declared comparison at 50 %, with an interval of one point to either side."""
    return {
        "table": "t", "target": 50, "entry": method, "method": method, "cell": method,
        "reference": reference, "reference_method": reference, "reference_cell": reference,
        "family": "declared", "n": 5, "images": 100, "mean": mean, "low_95": mean - 1,
        "high_95": mean + 1, "verdict": word, "scope": CROSSED, "per_seed": "0:+1.00 1:-2.00",
    } | changes  # fmt: skip


@pytest.fixture
def judged() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A board, and what predictions would have told of it."""
    runs = made.three("random", (0.9,) * 3) + made.three("hrank", (0.95,) * 3, title=UGLY)
    board = board_of(*runs, *made.three("slimming", (0.8,) * 3))
    board["cell"], board["table"] = board["method"], "t"
    standings = frames.typed([{"cell": "hrank", "lead": 15, "near_best": 1},
                              {"cell": "slimming", "lead": -15, "near_best": 0}],
                             standing.COLUMNS)  # fmt: skip
    rows = [
        compared("hrank", "random", 5, "better", entry=UGLY),
        compared("slimming", "random", -0.104, "undecided", scope=CONDITIONAL, n=2),
        compared("slimming", "hrank", 9, "worse", family="exploratory"),
    ]
    return frames.with_standings(board, standings), frames.typed(rows, comparisons.COLUMNS)


def test_best_of_three_by_hand(records: list[RunRecord]) -> None:
    board = board_of(*records)
    assert line(board, "l1norm")["final_best_of"] == pytest.approx(92)  # of 90, 92, 91
    assert math.isnan(line(board, "hrank", 70)["final_best_of"])
    four = [made.record(made.spec("hrank", i), v) for i, v in enumerate([0.9, 0.91, 0.92, 0.95])]
    wanted = (92 + 95 + 95 + 95) / 4
    assert line(board_of(*four), "hrank")["final_best_of"] == pytest.approx(wanted)
    row = next(x for x in tables.markdown_table(board).splitlines() if x.startswith("| l1norm"))
    heads = tables.markdown_table(board).splitlines()[2]
    place = [cell.strip() for cell in heads.split("|")].index("Best of 3")
    assert row.split("|")[place].strip() == "92.00"


def test_groups_near_the_best_stand_in_place_of_ranks(
    judged: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    board, _ = judged
    assert board.set_index("method")["lead"].to_dict() == pytest.approx(
        {"hrank": 15, "random": math.nan, "slimming": -15}, nan_ok=True
    )
    text = tables.markdown_table(board)
    rows = {row.split("|")[1].strip()[:6]: row for row in text.splitlines() if row[:2] == "| "}
    place = [cell.strip() for cell in rows["Method"].split("|")].index("Best?")
    assert [rows[name].split("|")[place].strip() for name in ("slimmi", "random")] == ["no", ""]
    assert next(row for row in text.splitlines() if row.startswith("| A")).count(" yes |") == 1
    assert "not separable from the best" in text
    assert f"Best? with fewer than 5 seeds: {CONDITIONAL}." in text
    assert "Rank" not in text.split("\n\n")[1]
    assert "not separable" not in tables.markdown_table(board.assign(near_best=math.nan))


def test_a_page_says_what_can_be_claimed(judged: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    text = tables.markdown_page(judged[0], "x", {}, judged[1])
    assert r"- Target 50 %: better: A\|B & 50 % of\_x" in text
    assert "than random; undecided: 1 of 2 comparisons." in text
    assert "| **better**, +5.00 (4.00 to 6.00)" in text
    assert r"| undecided, -0.10 \[+1.00 -2.00\] (-1.10 to 0.90)" in text
    assert f"With fewer than 5 seeds, intervals speak of {CONDITIONAL}" in text
    assert "worse" not in text.split("### What")[1].split("Verdicts:")[0]  # exploratory
    assert "### What" not in tables.markdown_page(judged[0], "x", {})
    assert tables.markdown_page(judged[0].assign(table="other"), "x", {}, judged[1]).count("#") == 4


def test_verdicts_in_latex_have_columns_and_are_escaped(
    judged: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    text = tables.latex_page(*judged)
    assert r"\multicolumn{3}{c}{against random}" in text
    assert r"\cmidrule(lr){3-5}" in text
    assert r"$-$0.10 [+1.00 $-$2.00] & $-$1.10 to 0.90 & undecided \\" in text
    part = text.split("What can be claimed")[1]
    assert r"A\textbar{}B \& 50 \% of\_x" in part
    assert r"Target 50 \%: better" in part
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert tables.latex_page(judged[0]).count(r"\begin{table}") == 1


def test_verdicts_on_the_terminal(judged: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables.terminal_table(*judged))
    text = console.export_text()
    assert "better +5.00" in text
    assert "undecided -0.10 [+1.00" in text
    assert "What can be claimed" in text
    assert " ".join(text.split()).endswith("The differences of all seeds stand in brackets.")
    assert max(map(len, text.splitlines())) <= 100


def limited() -> list[dict[str, Any]]:
    """A claim of five seeds, one of these runs alone, and two that are withheld."""
    other = "allocation global against uniform"
    return [
        compared("a", "random", 5, "better", note="conditional on one dense network"),
        compared("b", "random", -5, "worse", scope=CONDITIONAL, n=1),
        compared("c", "random", 5, NOT_CLAIMED, withheld=other, note=other),
        compared("d", "random", 5, NOT_CLAIMED, withheld="saturated", note=f"{other}; saturated"),
    ]  # fmt: skip


def limited_board() -> tuple[pd.DataFrame, pd.DataFrame]:
    board = board_of(*(made.record(made.spec(m), 0.9) for m in ("random", "a", "b", "c", "d")))
    board["cell"], board["table"] = board["method"], "t"
    return board, frames.typed(limited(), comparisons.COLUMNS)


def test_what_is_withheld_is_no_claim_and_few_seeds_are_these_runs_only() -> None:
    assert findings.claims(frames.typed(limited(), comparisons.COLUMNS)) == [
        "Target 50 %: better: a than random; worse (these runs only): b than random; "
        "not claimed: allocation global against uniform (1); not claimed: saturated (1)."
    ]


def test_notes_stand_beside_the_verdicts_and_below_them() -> None:
    board, found = limited_board()
    pages = {
        "md": tables.markdown_page(board, "x", {}, found),
        "tex": tables.latex_page(board, found),
    }
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables.terminal_table(board, found))
    pages["terminal"] = " ".join(console.export_text(styles=False).split())
    assert "| **better (note 1)**, +5.00 (4.00 to 6.00)" in pages["md"]
    assert "| worse (these runs only), -5.00 (-6.00 to -4.00)" in pages["md"]
    assert "| not claimed (notes 2, 3), +5.00" in pages["md"]
    assert r"& not claimed (notes 2, 3) \\" in pages["tex"]
    assert r"& worse (these runs only) \\" in pages["tex"]
    for text in pages.values():
        for line in ("Note 1: conditional on one dense network.", "Note 3: saturated.",
                     "Note 2: allocation global against uniform."):  # fmt: skip
            assert line in text
        assert "Not claimed: the interval would allow a verdict" in text


def test_the_terminal_has_no_bold_words_of_these_runs_only() -> None:
    rows = limited()
    bold = [str(findings._short(row | {"note": ""}, {}).style) for row in rows]
    assert bold == ["bold", "", "", ""]
    assert findings._short(rows[1] | {"note": ""}, {}).plain == "worse (these runs only) -5.00"


def test_comparisons_without_seeds_and_who_pays_are_explained() -> None:
    rows = [compared("hrank", "random", 1, PAYS), compared("x", "random", math.nan, "", n=0,
            note="no seed in common")]  # fmt: skip
    found = frames.typed(rows, comparisons.COLUMNS)
    assert findings.claims(found) == ["Target 50 %: depends on who pays: 1."]
    said = findings.notes(found)
    assert "x against random, target 50 %: no seed in common." in said
    assert any(text.startswith("Depends on who pays: the sign") for text in said)
