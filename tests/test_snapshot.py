"""What a cluster runs is the code of the moment of submission."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmark.environment import FROZEN
from benchmark.snapshot import freeze, own_file

ROOT = Path(__file__).parents[1]
OWN = '"""Mine."""\n'


def imported_from(folder: Path, *words: str) -> list[str]:
    """Lines that a fresh process prints which starts there."""
    code = "import benchmark.environment as e, methods; print(e.__file__); print(methods.__file__);"
    code += "print(e.describe()['git'])"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_copy_is_complete_runs_by_itself_and_knows_its_commit(tmp_path: Path) -> None:
    found = freeze(tmp_path)
    for package in ("benchmark", "methods"):
        for path in (ROOT / package).glob("*.[pt]*"):
            assert (found / package / path.name).read_bytes() == path.read_bytes()
    suite, methods, git = imported_from(found)
    assert Path(suite).is_relative_to(found)
    assert Path(methods).is_relative_to(found)
    facts = json.loads((found / FROZEN).read_text())
    assert facts["git"]["commit"] in git
    assert facts["digest"] in git


def test_the_same_code_is_there_once_and_other_code_beside_it(tmp_path: Path) -> None:
    first = freeze(tmp_path)
    assert freeze(tmp_path) == first
    mine = tmp_path / "mine.py"
    mine.write_text(OWN)
    second = freeze(tmp_path, [mine])
    assert second != first
    assert own_file(second, mine).read_text() == OWN
    mine.write_text(OWN + "# changed\n")
    assert own_file(second, mine).read_text() == OWN  # jobs that wait do not see it
    assert freeze(tmp_path, [mine]) not in (first, second)


def test_nothing_that_no_job_reads_is_copied(tmp_path: Path) -> None:
    found = freeze(tmp_path)
    assert not (found / "tests").exists()
    assert not (found / "results").exists()
    assert not list(found.rglob("__pycache__"))
