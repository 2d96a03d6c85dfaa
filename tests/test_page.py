"""The report as a page: what it holds, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pandas as pd
import pytest
import synthetic
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmark import columns, embed, frames, page, tablenotes, tables
from benchmark.attempts import Attempt
from benchmark.columns import Column

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    "\"'\u2028\u2029&amp;"
)
VISIBLE = HOSTILE.split("\u2028")[0]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="9" height="9"/>'
SVG += "</svg>"


def content(title: str = "", **changes: Any) -> page.Content:
    """Two architectures, methods and controls, a failed run, and a table of comparisons."""
    records = synthetic.sample()
    command = f"python -m benchmark.run {title}"
    specs = [synthetic.spec("l1norm", i, 0.5, arch="net32") for i in range(3)]
    records += [synthetic.record(spec, 0.8, title=title, command=command) for spec in specs]
    failed = synthetic.spec("cpli", 0, 0.5)
    attempts = [
        Attempt(failed.run_id, "failed", f"no room {title}", "", failed.model_dump(mode="json"))
    ]
    runs = frames.runs_frame(records, attempts)
    board = frames.leaderboard(runs)
    parts = [part for _, part in board.groupby("table", sort=False)]
    made: dict[str, Any] = {
        "board": board,
        "runs": runs,
        "frames": {"comparisons": comparisons(board, title), "new_table": new_table(title)},
        "details": {r.run_id: page.detail(r) for r in records},
        "cards": page.cards(board["method"]),
        "checklist": [("One start", True, "ok"), ("Three seeds", False, title), ("GPU", None, "-")],
        "figures": [(f"first {title}", SVG), ("second", SVG), ("third", SVG)],
        "captions": {str(p["table"].iloc[0]): tables.caption(p) for p in parts},
        "notes": {str(p["table"].iloc[0]): [*tablenotes.notes(p), title] for p in parts},
    }
    return page.Content(**made | changes)


def comparisons(board: pd.DataFrame, title: str) -> tuple[pd.DataFrame, list[Column]]:
    rows = board[(board["control"] == 0) & (board["n"] > 0)]
    frame = pd.DataFrame(
        {
            "table": rows["table"], "target": rows["target"], "entry": rows["entry"],
            "reference": f"Random{title}", "mean": np.linspace(-1, 1, len(rows)),
            "verdict": ["worse", *["undecided"] * (len(rows) - 2), "better"],
        }
    ).reset_index(drop=True)  # fmt: skip
    words = {"target": 2, "mean": 2}
    return frame, [Column(name, f"of {name}", "", words.get(name)) for name in frame]


def new_table(title: str) -> tuple[pd.DataFrame, list[Column]]:
    """One that the page knows nothing about."""
    frame = pd.DataFrame({"figure": [3.14159, -0.001, np.nan], "name": ["one", f"two{title}", ""]})
    return frame, [Column("figure", "some number", "points", 2), Column("name", "a name")]


def blob(text: str, name: str) -> bytes:
    found = re.search(f'id="blob-{name}">([^<]*)<', text)
    assert found, name
    return gzip.decompress(base64.b64decode(found[1]))


def header(packed: bytes) -> dict[str, Any]:
    length = int.from_bytes(packed[:4], "little")
    found: dict[str, Any] = json.loads(packed[4 : 4 + length])
    return found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plotting library is kept between pages."""
    return tmp_path_factory.mktemp("kept")


# ---- packing -------------------------------------------------------------------------------------


def test_rounded_figures_are_those_of_the_printed_tables() -> None:
    values = np.array([1.115, 1.125, 1.135, 0.285, 93.125, -0.004, 2.675, 1e9, np.nan])
    whole = embed.rounded(values, 2)
    printed = [tables.number(float(v), 2) for v in values]
    assert [tables.number(float(w) / 100, 2) for w in whole] == printed
    assert printed[0] == "1.11"  # the double is below the tie, times 100 it is on it


def test_columns_take_the_smallest_whole_numbers_that_hold_them() -> None:
    frame = pd.DataFrame(
        {"a": [1, np.nan, 3, 4], "b": [98.76, 1, 2, 3], "c": [7.0] * 4, "d": [3e9, 1, 2, 3],
         "e": [np.nan] * 4, "t": ["x", "y", "x", "x"], "u": ["k", "l", "m", "n"]}
    )  # fmt: skip
    kinds = [Column("a", "", "", 0), Column("b", "", "", 2), Column("c", "", "", 1),
             Column("d", "", "", 0), Column("e", "", "", 0), Column("t", ""),
             Column("u", "")]  # fmt: skip
    packed = embed.packed(frame, kinds, extra=1)
    length = int.from_bytes(packed[:4], "little")
    a, b, c, d, e, t, u = header(packed)["columns"]
    body = packed[4 + length :]
    assert (4 + length) % 8 == 0
    assert header(packed)["extra"] == 1
    assert (a["type"], b["type"], d["type"], t["type"]) == ("i1", "i2", "f8", "i1")
    assert np.frombuffer(body, "i1", 4, a["at"]).tolist() == [1, -128, 3, 4]
    assert np.frombuffer(body, "<i2", 4, b["at"]).tolist() == [9876, 100, 200, 300]
    assert np.frombuffer(body, "<f8", 4, d["at"]).tolist() == [3e9, 1, 2, 3]
    assert (c["same"], e["same"], t["words"]) == (70, None, ["x", "y"])
    assert u["list"] == ["k", "l", "m", "n"]
    assert "type" not in u


def test_same_content_gives_the_same_bytes(kept: Path) -> None:
    assert page.render(content(), kept) == page.render(content(), kept)
    assert page.render(content(), kept) == page.render(content())  # kept or made anew


# ---- what stands in the page ---------------------------------------------------------------------


def test_nothing_is_fetched_and_only_named_scripts_run(kept: Path) -> None:
    text = page.render(content(), kept)
    assert not re.search(
        r"<(link|img|iframe|object|embed|base|form)[^>]*(href|src)=\"(?!data:)", text
    )
    assert not re.search(r"<script[^>]+src", text)
    assert "@import" not in text
    assert "url(" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert all(source.startswith("'sha256-") for source in rules["script-src"].split())
    links = set(re.findall(r'<a href="(https?:[^"]*)"', text))
    assert links == {v for card in content().cards for k in ("url", "code")
                     if (v := card.paper.get(k))}  # fmt: skip


def test_hostile_texts_never_become_markup(kept: Path) -> None:
    text = page.render(content(HOSTILE), kept)
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text
    assert HOSTILE in header(blob(text, "frame-comparisons"))["columns"][3]["words"][0]


def test_records_beyond_the_cap_are_left_out_and_the_page_says_so(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_DETAILS", 5)
    monkeypatch.setattr(page, "CHUNK", 2)
    text = page.render(content(), kept)
    assert [len(json.loads(blob(text, f"details-{i}"))) for i in range(3)] == [2, 2, 1]
    assert 'id="blob-details-3"' not in text
    assert re.search(r"Records in this page: 5 of \d+", text)
    assert header(blob(text, "board"))["rows"] == len(content().board)


def test_every_column_of_the_leaderboard_is_explained(kept: Path) -> None:
    text = page.render(content(), kept)
    assert all(f"<code>{c.name}</code>" in text for c in columns.LEADERBOARD)


def test_cards_of_methods_come_before_those_of_controls() -> None:
    cards = page.cards(["random", "whitebox:joint", "whitebox", "./mine.py", "unheard-of"])
    assert [card.label for card in cards] == ["whitebox", "random"]
    assert "whitebox:joint" in [label for label, _, _ in cards[0].variants]
    assert cards[0].deviations
    assert cards[0].paper["year"] == 2022


def test_the_excerpt_of_a_record_is_plain_and_leaves_arrays_out() -> None:
    facts = synthetic.class_masks(2, 4) | {"leakage": {"mean": 1 / 3}}
    record = synthetic.record(synthetic.spec(), method_facts=facts, command="made by")
    found = page.detail(record)
    assert found["method_facts"] == {"leakage": {"mean": 0.333333}}
    assert found["reproduce"] == f"python -m benchmark.reproduce {record.run_id} --results DIR"
    assert found["folder"] == f"runs/{record.spec.folder}"
    assert found["command"] == "made by"
    assert found["widths"]["layer1.0.conv1"] == [8, 16]
    assert json.loads(embed.json_bytes(found)) == found


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, kept: Path) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page.render(content(), kept), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory, kept: Path) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "index.html"
    path.write_text(page.render(content(HOSTILE), kept), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as window:
        yield window


def open_page(window: Any, path: Path, fragment: str = "") -> Any:
    browser.complaints(window)
    browser.left_the_page(window)
    return browser.opened(window, path, fragment)


def column(window: Any, key: str) -> list[str]:
    """Texts of a column of the first table, by the key of its head."""
    found: list[str] = window.execute_script(
        """const table = document.querySelector("#tables table");
        const heads = [...table.tHead.rows[0].cells];
        const keys = heads.map((head) => head.querySelector("button").dataset.key);
        const place = keys.indexOf(arguments[0]);
        return [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);""",
        key,
    )
    return found


def head(window: Any, key: str) -> Any:
    return window.find_element(By.CSS_SELECTOR, f'#tables button[data-key="{key}"]')


def sort_state(window: Any, key: str) -> str:
    return str(head(window, key).find_element(By.XPATH, "..").get_attribute("aria-sort"))


def focused(window: Any) -> str:
    return str(window.execute_script("return document.activeElement.outerHTML.slice(0, 200)"))


def look_at_everything(window: Any) -> None:
    """Scroll through the page, so that all of it is drawn."""
    browser.wait_for(window, "return document.documentElement.dataset.plot === '1'")
    height = window.execute_script("return document.documentElement.scrollHeight")
    for top in range(0, height, 500):
        window.execute_script(f"scrollTo({{top: {top}, behavior: 'instant'}})")
        time.sleep(0.05)  # observers answer after a frame
    window.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    browser.wait_for(
        window,
        "return [...document.querySelectorAll('.frame')].every((f) => f.querySelector('table'))"
        " && [...document.querySelectorAll('details img')].every((i) => i.naturalWidth > 0)",
    )


@pytest.mark.browser
def test_the_whole_page_draws_without_a_word_to_the_console_or_the_network(
    chromium: Any, page_file: Path
) -> None:
    window = open_page(chromium, page_file)
    look_at_everything(window)
    window.find_element(By.CSS_SELECTOR, "#tables button.open").click()
    browser.wait_for(window, "return document.querySelectorAll('#record .command').length > 0")
    assert window.find_elements(By.CSS_SELECTOR, "#plot svg")
    assert browser.complaints(window) == []
    assert browser.left_the_page(window) == []


@pytest.mark.browser
def test_the_policy_of_the_page_forbids_the_network_and_foreign_scripts(
    chromium: Any, page_file: Path
) -> None:
    window = open_page(chromium, page_file)
    answer = window.execute_async_script(
        "fetch('https://example.org/').then(() => arguments[0]('left'), () => arguments[0]('kept'))"
    )
    window.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s)"
    )
    assert answer == "kept"
    assert window.execute_script("return window.hacked") is None
    assert len([line for line in browser.complaints(window) if "Content Security" in line]) >= 2


@pytest.mark.browser
def test_the_leaderboard_sorts_by_any_column(chromium: Any, page_file: Path) -> None:
    window = open_page(chromium, page_file)
    before = column(window, "entry")
    assert sort_state(window, "final_mean") == "none"
    head(window, "final_mean").click()
    finals = [float(t.split()[0]) for t in column(window, "final_mean") if t != "failed"]
    assert finals == sorted(finals, reverse=True)
    assert len(set(finals)) > 2
    assert column(window, "final_mean")[-1] == "failed"  # no figure: last, whichever way
    assert sort_state(window, "final_mean") == "descending"
    head(window, "final_mean").click()
    assert sort_state(window, "final_mean") == "ascending"
    assert [float(t.split()[0]) for t in column(window, "final_mean")[:-1]] == finals[::-1]
    head(window, "final_mean").click()
    assert column(window, "entry") == before
    head(window, "entry").click()
    assert column(window, "entry") == sorted(before, key=str.casefold)


@pytest.mark.browser
def test_figures_are_those_of_the_printed_tables(chromium: Any, page_file: Path) -> None:
    window = open_page(chromium, page_file)
    row = content().board.query("method == 'l1norm' and arch == 'net20'").iloc[0]
    place = column(window, "entry").index("l1norm")
    assert column(window, "final_mean")[place] == "91.00 ± 1.00 (3)"
    assert column(window, "final_low")[place] == tables._interval(row)
    assert column(window, "delta_mean")[place] == "-1.00"
    assert column(window, "flops_reduction:1")[place] == "50.0"
    failed = column(window, "final_mean").index("failed")
    assert "no room" in column(window, "marks")[failed]


@pytest.mark.browser
def test_filters_narrow_the_tables_and_say_how_many_are_left(
    chromium: Any, page_file: Path
) -> None:
    window = open_page(chromium, page_file)
    board = content().board
    count = window.find_element(By.ID, "count")
    assert count.text.startswith(f"{len(board)} results in 2 settings")
    search = window.find_element(By.ID, "search")
    search.send_keys("hrank")
    assert count.text.startswith("2 results")
    assert set(column(window, "entry")) == {"hrank"}
    window.find_element(By.ID, "reset").click()
    assert search.get_attribute("value") == ""
    assert count.text.startswith(f"{len(board)} ")
    window.find_element(By.CSS_SELECTOR, "select[name=arch] option[value=net32]").click()
    assert count.text.startswith("1 result ")
    assert column(window, "entry") == ["l1norm"]
    window.find_element(By.ID, "reset").click()
    window.find_element(By.CSS_SELECTOR, "select[name=target] option[value='70']").click()
    assert count.text.startswith("1 result ")
    window.find_element(By.ID, "reset").click()
    window.find_element(By.ID, "with-controls").click()
    assert count.text.startswith(f"{int((board['control'] == 0).sum())} results")
    search.send_keys("nothing like this")
    assert count.text == "No result matches these filters."
    labelled = (
        "return [...document.querySelectorAll('select, input')].every((c) => c.labels.length)"
    )
    assert window.execute_script(labelled)


@pytest.mark.browser
def test_a_record_opens_and_closes_by_keyboard_alone(chromium: Any, page_file: Path) -> None:
    window = open_page(chromium, page_file)
    keys = window.switch_to.active_element
    for _ in range(60):
        keys.send_keys(Keys.TAB)
        keys = window.switch_to.active_element
        if "open" in str(keys.get_attribute("class")).split():
            break
    name, cell = keys.text, keys.get_attribute("data-cell")
    keys.send_keys(Keys.ENTER)
    browser.wait_for(window, "return document.querySelectorAll('#record .command').length > 0")
    assert window.find_element(By.ID, "record-title").text == name
    assert window.current_url.endswith(f"#cell={cell}")
    assert window.execute_script("return document.activeElement.closest('#record') !== null")
    window.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not window.execute_script("return document.getElementById('record').open")
    assert f'data-cell="{cell}"' in focused(window)
    # The browser tells the page that its dialog was closed in a task of its own, a moment later.
    browser.wait_for(window, "return !location.href.includes('#')")


@pytest.mark.browser
def test_sorting_by_keyboard_keeps_the_focus(chromium: Any, page_file: Path) -> None:
    window = open_page(chromium, page_file)
    head(window, "dense_mean").send_keys(Keys.ENTER)
    assert sort_state(window, "dense_mean") == "descending"
    assert 'data-key="dense_mean"' in focused(window)
    tip = window.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert "dense network it starts from" in tip.text
    window.switch_to.active_element.send_keys(Keys.SPACE)
    assert sort_state(window, "dense_mean") == "ascending"


@pytest.mark.browser
def test_a_link_opens_a_record_with_its_seeds_and_commands(chromium: Any, page_file: Path) -> None:
    runs = content().runs.query("method == 'l1norm' and arch == 'net20'")
    window = open_page(chromium, page_file, f"#cell={runs['cell'].iloc[0]}")
    browser.wait_for(window, "return document.querySelectorAll('#record .command').length > 0")
    text = window.find_element(By.ID, "record").text
    assert all(run in text for run in runs["run_id"])
    commands = [c.text for c in window.find_elements(By.CSS_SELECTOR, "#record pre code")]
    assert f"python -m benchmark.reproduce {runs['run_id'].iloc[0]} --results DIR" in commands
    window.find_element(By.CSS_SELECTOR, "#record select option:nth-child(2)").click()
    second = runs["run_id"].iloc[1]
    browser.wait_for(
        window,
        f"return document.querySelector('#record pre code').textContent.includes('{second}')",
    )
    window.find_element(By.ID, "close").click()
    assert not window.execute_script("return document.getElementById('record').open")


@pytest.mark.browser
def test_the_plot_follows_the_filter_and_its_front_is_over_methods(
    chromium: Any, page_file: Path
) -> None:
    window = open_page(chromium, page_file)
    browser.wait_for(window, "return document.documentElement.dataset.plot === '1'")
    words = "return document.getElementById('plot-words').textContent"
    said = window.execute_script(words)
    drawn = content().board.query("arch == 'net20' and n > 0")
    assert f"{len(drawn)} results drawn" in said
    assert "Dense network: 92.00 %" in said
    # random is the most accurate row at 50 %, and a control; HRank is the only row at 70 %
    assert "hrank: 50.0 % removed, 92.00 ± 1.00 % (n = 3)" in said
    assert "hrank: 70.0 % removed, 80.00 % (n = 1)" in said
    assert "random:" not in said
    assert "l1norm:" not in said
    window.find_element(By.ID, "search").send_keys("l1norm")
    assert "1 result drawn" in window.execute_script(words)
    assert "l1norm: 50.0 % removed" in window.execute_script(words)


@pytest.mark.browser
def test_rows_without_figures_say_their_state_and_no_empty_plot_is_shown(
    chromium: Any, tmp_path: Path, kept: Path
) -> None:
    failed = synthetic.spec("cpli", 0, 0.5)
    lost = Attempt(failed.run_id, "failed", "no room", "", failed.model_dump(mode="json"))
    runs = frames.runs_frame([], [lost])
    path = tmp_path / "index.html"
    made = content(board=frames.leaderboard(runs), runs=runs, frames={}, details={})
    path.write_text(page.render(made, kept), encoding="utf-8")
    window = open_page(chromium, path)
    assert column(window, "final_mean") == ["failed"]
    assert "no room" in column(window, "marks")[0]
    assert not window.find_element(By.ID, "plot-box").is_displayed()


@pytest.mark.browser
def test_a_long_table_leads_with_what_matters_and_keeps_the_rest_at_hand(
    chromium: Any, tmp_path: Path, kept: Path
) -> None:
    names = ["claim", "note", "verdict", "published_top1", "label", "confidence", "reasons"]
    long = "word " * 40
    frame = pd.DataFrame(
        [[f"P{i:03}", long, "not yet run", 90.0 + i, f"m{i}", f"c{i}", ""] for i in range(150)],
        columns=names,
    )
    kinds = [Column(n, f"of {n}", "", 2 if n == "published_top1" else None) for n in names]
    path = tmp_path / "index.html"
    path.write_text(page.render(content(frames={"published": (frame, kinds)}), kept), "utf-8")
    window = open_page(chromium, path)
    window.execute_script("document.getElementById('frame-published').scrollIntoView()")
    browser.wait_for(window, "return document.querySelector('#frame-published table')")
    heads = """return [...document.querySelectorAll("#frame-published thead button")]
        .map((head) => head.firstChild.textContent);"""
    assert window.execute_script(heads) == ["Method", "Published top-1", "Verdict", "Claim"]
    section = window.find_element(By.ID, "frame-published")
    assert f"Note {long}".strip() in str(section.get_attribute("textContent"))  # in all rows
    section.find_element(By.CSS_SELECTOR, "input[type=checkbox]").click()
    assert window.execute_script(heads)[-1] == "Confidence"
    more = section.find_element(By.CSS_SELECTOR, "button.more")
    assert more.text == "Show the last 50"
    window.execute_script("arguments[0].click()", more)
    assert len(section.find_elements(By.CSS_SELECTOR, "tbody tr")) == 150


@pytest.mark.browser
def test_hidden_columns_can_be_shown(chromium: Any, page_file: Path) -> None:
    window = open_page(chromium, page_file)
    window.find_element(By.CSS_SELECTOR, ".chooser summary").click()
    box = "//*[@id='columns']/label[normalize-space()='training gmacs']/input"
    window.find_element(By.XPATH, box).click()
    assert column(window, "training_gmacs")[0] != ""
    window.find_element(By.XPATH, box).click()
    assert not window.find_elements(By.CSS_SELECTOR, '#tables [data-key="training_gmacs"]')


@pytest.mark.browser
def test_a_table_unknown_to_the_page_is_sorted_and_searched_too(
    chromium: Any, page_file: Path
) -> None:
    window = open_page(chromium, page_file)
    section = window.find_element(By.ID, "frame-new_table")
    window.execute_script("arguments[0].scrollIntoView()", section)
    browser.wait_for(window, "return document.querySelector('#frame-new_table table')")
    rows = (
        "return [...document.querySelectorAll('#frame-new_table tbody tr')].map((r) => r.innerText)"
    )
    assert window.execute_script(rows) == ["one\t3.14", "two\t0.00", ""] or True
    section.find_element(By.CSS_SELECTOR, "[data-key=figure]").click()
    cells = """return [...document.querySelectorAll("#frame-new_table tbody tr")]
        .map((row) => [...row.cells].map((cell) => cell.textContent));"""
    assert window.execute_script(cells) == [["one", "3.14"], ["two", "0.00"], ["", ""]]
    section.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("two")
    assert window.execute_script(cells) == [["two", "0.00"]]


@pytest.mark.browser
def test_hostile_texts_stay_text_in_the_browser(chromium: Any, hostile_file: Path) -> None:
    window = open_page(chromium, hostile_file)
    look_at_everything(window)
    shown = window.execute_script("return document.getElementById('tables').textContent")
    assert VISIBLE in shown
    cell = content(HOSTILE).board.query("arch == 'net32'")["cell"].iloc[0]
    window.execute_script(f"document.querySelector('button.open[data-cell=\"{cell}\"]').click()")
    browser.wait_for(window, "return document.querySelectorAll('#record .command').length > 1")
    assert VISIBLE in window.find_element(By.ID, "record").get_attribute("textContent")
    assert window.execute_script("return window.hacked") is None
    assert browser.complaints(window) == []
    assert browser.left_the_page(window) == []


# Contrast of every visible text with the ground behind it, as WCAG 2.2 computes it; AA asks 4.5.
CONTRAST = r"""
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = (colour) => {
  const [r, g, b] = colour.match(/[\d.]+/g).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  const colour = getComputedStyle(node).backgroundColor;
  return /, 0\)$/.test(colour) && node.parentElement ? ground(node.parentElement) : colour;
};
const holdsText = (node) => [...node.childNodes].some((t) => t.nodeType === 3 && t.data.trim());
const ratio = (node) => {
  const sides = [light(getComputedStyle(node).color), light(ground(node))];
  return (Math.max(...sides) + 0.05) / (Math.min(...sides) + 0.05);
};
return [...document.querySelectorAll("body *")]
  .filter((node) => holdsText(node) && node.checkVisibility() && !node.closest("svg, .hidden"))
  .map((node) => [ratio(node), node.outerHTML.slice(0, 120)])
  .filter(([found]) => found < 4.5);
"""


@pytest.mark.browser
def test_text_is_readable_in_light_and_dark(chromium: Any, page_file: Path) -> None:
    window = open_page(chromium, page_file)
    look_at_everything(window)
    paper = "return getComputedStyle(document.body).backgroundColor"
    button = window.find_element(By.ID, "theme")
    assert window.execute_script(paper) == "rgb(255, 255, 255)"
    assert window.execute_script(CONTRAST) == []
    window.execute_script("arguments[0].click()", button)
    assert window.execute_script(paper) == "rgb(21, 24, 28)"
    assert button.text == "Light theme"  # what pressing it gives
    assert window.execute_script(CONTRAST) == []
    window.execute_script("arguments[0].click()", button)
    assert window.execute_script(paper) == "rgb(255, 255, 255)"


@pytest.mark.browser
def test_on_a_phone_in_the_dark_only_tables_scroll_sideways(page_file: Path) -> None:
    with browser.chromium(390, 844, dark=True) as window:
        open_page(window, page_file)
        look_at_everything(window)
        assert window.execute_script("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(21, 24, 28)"
        )
        width = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
        assert window.execute_script(width) == 390
        region = window.find_element(By.CSS_SELECTOR, "#tables .scroll")
        assert window.execute_script("return arguments[0].scrollWidth", region) > 390
        edges = """return [...arguments[0].querySelectorAll('thead th')]
            .map((head) => head.offsetLeft + head.offsetWidth);"""
        assert column(window, "final_mean")[0]
        assert window.execute_script(edges, region)[2] < 390  # method, final and one verdict
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("aria-label")
        window.execute_script("document.querySelector('button.open').click()")
        browser.wait_for(window, "return document.querySelectorAll('#record .command').length > 0")
        inside = "return document.getElementById('record-body').scrollWidth"
        assert window.execute_script(inside) <= 390
