"""When boards were declared, as git tells it, which runs came after, and how they are cited."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from refusing import refused
from test_card import DECLARED, RESULTS, ROOT, made, publish, spec

from benchmark import card, declaration
from benchmark.card import read_shelf
from benchmark.cli import DONE, invoke
from benchmark.holdings import declared_in, holdings
from benchmark.store import Store


class Repository:
    """A results directory under git, without runs at first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "-q")
        self.commit("empty", DECLARED.replace("small", "other"))

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(self.root), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, message: str, protocol: str) -> str:
        (self.root / "protocol.toml").write_text(protocol)
        self.git("add", "-A")
        self.git("commit", "-qm", message, "--allow-empty")
        return self.git("rev-parse", "HEAD")

    def found(self) -> declaration.Declaration:
        (own,) = (
            h for h in holdings(declared_in(self.root), Store(self.root).records()) if h.board
        )
        return declaration.of_history(self.root, own, None)


def test_git_says_which_commit_declared_and_which_runs_came_after(tmp_path: Path) -> None:
    repo = Repository(tmp_path / "results")
    early = repo.git("rev-parse", "HEAD")
    first = repo.commit("declare", DECLARED)
    then = repo.commit("note", DECLARED.replace("Small", "Tiny"))
    for commit, seed in ((early, 0), (first, 1), (then, 2), ("c" * 40, 3)):
        publish(Store(repo.root), made(spec(seed=seed), commit=commit))
    found = repo.found()
    assert found.commit == first
    assert set(found.runs_after) == {first, then}
    assert found.changed == ("limits",)
    second = repo.commit("raise", DECLARED.replace('n = "1"', 'n = "2"'))
    assert repo.found().commit == second
    assert repo.found().changed == ()


def test_the_check_holds_sources_against_git(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = Repository(tmp_path / "results")
    words = ["--results", str(repo.root)]
    (repo.root / "protocol.toml").write_text(DECLARED)
    assert invoke(card.main, words) == DONE
    assert invoke(card.main, [*words, "--check"]) == DONE
    assert "small 1: no runs yet" in capsys.readouterr().out
    publish(Store(repo.root), made(spec(seed=1), commit=repo.git("rev-parse", "HEAD")))
    assert invoke(card.main, words) == DONE
    said = refused(card.main, [*words, "--check"], capsys)
    assert "no commit declares board small at version 1" in said
    commit = repo.commit("declare", DECLARED)
    publish(Store(repo.root), made(spec(), commit=commit))
    assert invoke(card.main, words) == DONE
    said = refused(card.main, [*words, "--check"], capsys)
    line = said.split("write ")[1].strip()
    assert line == f'"small" = {{version = "1", commit = "{commit}", runs_after = ["{commit}"]}}'
    (repo.root / "sources.toml").write_text(f"[declared]\n{line}\n")
    assert invoke(card.main, words) == DONE
    assert invoke(card.main, [*words, "--check"]) == DONE
    assert f"small 1: declared in commit {commit[:12]}" in capsys.readouterr().out


def test_a_shallow_copy_is_no_history(tmp_path: Path) -> None:
    repo = Repository(tmp_path / "results")
    repo.commit("declare", DECLARED)
    assert declaration.has_history(repo.root)
    shallow = tmp_path / "shallow"
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.root}", str(shallow))
    assert not declaration.has_history(shallow)
    assert not declaration.has_history(tmp_path / "nowhere")


def test_shipped_declarations_are_those_of_git_where_it_is_there() -> None:
    shelf = read_shelf(RESULTS)
    said = card.check(shelf)
    if declaration.has_history(RESULTS):
        noted = shelf.sources.declared
        states = [
            (name, board.version, "declared in commit" if name in noted else "no runs yet")
            for name, board in declared_in(RESULTS).board.items()
        ]
        expected = [f"{name} {version}: {state}" for name, version, state in states]
    else:
        expected = ["no git history here"]
    assert [any(line.startswith(e) for line in said) for e in expected] == [True] * len(expected)


# ---- citation ------------------------------------------------------------------------------------


def uncited(citation: str, protocol: dict[str, str]) -> dict[str, str]:
    """Boards, with their versions, that CITATION.cff does not have at this version."""
    references = (yaml.safe_load(citation).get("references")) or []
    assert all(r["type"] == "data" and r["authors"] for r in references)  # the schema of CFF 1.2
    found = {r["title"]: r["version"] for r in references}
    return {n: v for n, v in protocol.items() if found.get(f"prunebench board {n}") != v}


def test_every_declared_board_is_cited_at_its_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    boards = {name: board.version for name, board in declared_in(RESULTS).board.items()}
    assert uncited(citation, boards) == {}, (
        "add to `references` of CITATION.cff, for each: type: data, title: prunebench board NAME, "
        "version: its version in quotes, authors: those of the suite"
    )


def test_a_board_that_is_not_cited_is_seen() -> None:
    citation = (
        "references:\n  - type: data\n    title: prunebench board small\n    version: '1'\n"
        "    authors:\n      - name: A\n"
    )
    assert uncited(citation, {"small": "1"}) == {}
    assert uncited(citation, {"small": "2", "big": "1"}) == {"small": "2", "big": "1"}
    assert uncited("title: x", {"small": "1"}) == {"small": "1"}
