"""The command line, end to end: digits, a small network, seconds."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from benchmark import archs, evaluate, report, run
from benchmark.baseline import checkpoint_hash
from benchmark.cli import BAD_INPUT, DONE, FAILED, invoke
from benchmark.options import options_from
from benchmark.store import Store
from benchmark.sweep import expand
from benchmark.tasks import command_of

QUICK = shlex.split(
    "--arch resnet8 --dataset digits --preset demo --epochs 0.5 --set baseline.epochs=1 "
    "--set baseline.batch_size=32 --no-controls"
)


def cli(*words: str, results: Path | None = None, quick: bool = True) -> int:
    """Exit code of `python -m benchmark.run`, in this process."""
    place = ["--results", str(results)] if results else []
    return invoke(run.main, [*words, *(QUICK if quick else []), *place])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid: two methods at two targets, and a control."""
    root = tmp_path_factory.mktemp("grid")
    words = ["--methods", "l1norm,hrank,dense_continue", "--flops-reduction", "0.3,0.5"]
    assert cli(*words, "--jobs", "1", results=root) == DONE
    return root


def test_the_grid_leaves_records_tables_and_figures(results: Path) -> None:
    assert len(Store(results).records()) == 5
    with (results / "leaderboard.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 5
    assert {r["status"] for r in rows} == {"done"}
    assert (results / "leaderboard" / "digits-resnet8.md").is_file()
    assert list((results / "figures").glob("*.svg"))


def test_a_second_invocation_runs_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmark.pool.do", lambda *_: pytest.fail("work was done twice"))
    words = ["--methods", "hrank,l1norm,dense_continue", "--flops-reduction", "0.5,0.3"]
    assert cli(*words, results=results) == DONE
    assert "5 of 5 cells done" in capsys.readouterr().out


def test_dry_run_shows_the_grid_and_runs_nothing(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(results.rglob("*"))
    words = ["--methods", "l1norm,whitebox,cpli", "--allocation", "global", "--dry-run"]
    assert cli(*words, results=results) == DONE
    out = capsys.readouterr().out
    assert "3 cells" in out
    assert "1 not applicable" in out
    assert "to do" in out
    assert sorted(results.rglob("*")) == before


def test_two_jobs_give_what_one_job_gives(results: Path, tmp_path: Path) -> None:
    """In a process of its own: worker processes import the program anew."""
    words = ["--methods", "l1norm,hrank,dense_continue", "--flops-reduction", "0.3,0.5"]
    command = [sys.executable, "-m", "benchmark.run", *words, *QUICK, "--jobs", "2"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == DONE, done.stderr
    one = {r.run_id: (r.plan, r.weights, r.final) for r in Store(results).records()}
    two = {r.run_id: (r.plan, r.weights, r.final) for r in Store(tmp_path).records()}
    assert one == two
    assert "[6/6]" in done.stdout  # a dense network and five cells


def test_the_recorded_command_makes_the_record_again(results: Path, tmp_path: Path) -> None:
    record = next(r for r in Store(results).records() if r.spec.method.name == "hrank")
    words = shlex.split(record.command)
    assert words[:3] == ["python", "-m", "benchmark.run"]
    assert invoke(run.main, [*words[3:], "--results", str(tmp_path)]) == DONE
    (again,) = Store(tmp_path).records()
    assert (again.run_id, again.weights) == (record.run_id, record.weights)


def test_reports_are_regenerated_byte_for_byte(results: Path) -> None:
    derived = ["leaderboard.csv", "leaderboard", "figures"]

    def content() -> dict[str, bytes]:
        files = [f for d in derived for f in [results / d, *(results / d).rglob("*")]]
        return {str(f): f.read_bytes() for f in files if f.is_file()}

    before = content()
    assert invoke(report.main, ["--results", str(results)]) == DONE
    assert content() == before


MINE = '''"""A user's own criterion."""

from dataclasses import dataclass

from methods.api import Method, Network, Scores, Trainer


@dataclass(frozen=True)
class Mine(Method):
    """Filters with the smallest largest weight go."""

    power: float = 1.0

    def score(self, net: Network, trainer: Trainer) -> Scores:
        return {n: net.weight(n).detach().abs().amax((1, 2, 3)) ** self.power for n in net.layers}
'''


def test_a_users_own_file_runs_beside_ours(results: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    assert len(MINE.splitlines()) <= 25
    assert cli("--methods", f"{mine},l1norm", results=results) == DONE
    found = [r for r in Store(results).records() if r.spec.method.name == "mine"]
    assert len(found) == 1
    assert found[0].spec.method.source
    mine.write_text(MINE.replace("abs()", "square()"))  # other source, other run
    assert cli("--methods", str(mine), results=results) == DONE
    assert len([r for r in Store(results).records() if r.spec.method.name == "mine"]) == 2


def test_a_failing_cell_is_recorded_and_the_grid_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(MINE.replace("return {", "raise RuntimeError('no luck')\n        return {"))
    root = tmp_path / "results"
    assert cli("--methods", f"{bad},l1norm", "--jobs", "1", results=root) == FAILED
    out = capsys.readouterr().out
    assert "no luck" in out
    assert "1 failed" in out
    (attempt,) = Store(root).last_attempts()
    assert (attempt.status, "no luck" in attempt.reason) == ("failed", True)
    assert "Traceback" in (root / attempt.log).read_text()
    with (root / "leaderboard.csv").open() as handle:
        states = {r["method"]: r["status"] for r in csv.DictReader(handle)}
    assert states == {"bad": "failed", "l1norm": "done"}


def test_an_unreachable_target_among_others_is_not_applicable_with_the_reason(
    tmp_path: Path,
) -> None:
    words = ["--methods", "l1norm", "--flops-reduction", "0.3,0.98"]
    assert cli(*words, results=tmp_path) == DONE
    assert len(Store(tmp_path).records()) == 1
    (attempt,) = Store(tmp_path).last_attempts()
    assert (attempt.status, "at most" in attempt.reason) == ("n/a", True)


def test_targets_that_are_all_out_of_reach_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods", "l1norm,random", "--flops-reduction", "0.97,0.98"]
    assert cli(*words, results=tmp_path) == BAD_INPUT
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(r"--flops-reduction 0.97: resnet8 .* can lose at most \d\d\.\d %", said)
    assert not Store(tmp_path).records()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--methods", "whitebx"], "did you mean whitebox"),
        (["--arch", "resnet57"], "did you mean"),
        (["--dataset", "cifr10"], "--dataset"),
        (["--epochs", "many"], "--epochs"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--seeds", "a,b"], "--seeds"),
        (["--set", "whitebox"], "OWNER.FIELD=VALUE"),
        (["--list", "methodz"], "methods, archs, datasets"),
        (["--dataset", "imagefolder"], "--data-dir"),
        (["--config", "nowhere.toml"], "--config"),
        (["--results", "/proc/nowhere"], "not writable"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], match: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = [] if "--results" in words else ["--results", str(tmp_path)]
    assert invoke(run.main, ["--dataset", "digits", *words, *place]) == BAD_INPUT
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line]
    assert len(lines) == 1
    assert match in lines[0]
    assert "Traceback" not in said.err


def test_a_checkpoint_is_a_start(results: Path, tmp_path: Path) -> None:
    model = archs.build("resnet8", 10)
    path = tmp_path / "net.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    words = ["--methods", "l1norm,width_scaling", "--checkpoint", str(path), "--jobs", "1"]
    root = tmp_path / "results"
    assert cli(*words, results=root) == DONE
    (record,) = Store(root).records()
    assert record.spec.start.kind == "checkpoint"
    assert record.spec.seeds.dense is None
    (attempt,) = Store(root).last_attempts()
    assert "how long the checkpoint was trained" in attempt.reason
    moved = tmp_path / "moved.pt"
    path.rename(moved)
    assert cli("--methods", "l1norm", "--checkpoint", str(moved), results=root) == DONE
    assert len(Store(root).records()) == 1  # the same weights elsewhere are the same run


def test_evaluate_measures_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pt"
    torch.save(archs.build("resnet8", 10).state_dict(), path)
    words = [str(path), "--arch", "resnet8", "--dataset", "digits", "--results", str(tmp_path)]
    assert invoke(evaluate.main, words) == DONE
    out = capsys.readouterr().out
    assert "360 test images" in out
    assert "MACs" in out
    wrong = [*words[:2], "resnet20", *words[3:]]
    assert invoke(evaluate.main, wrong) == BAD_INPUT
    assert "does not fit this architecture" in capsys.readouterr().err


@pytest.mark.slow
def test_the_checkpoint_of_the_field_gives_its_known_accuracy(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tarfile

    with tarfile.open(shared_data / "cifar10-jpeg.tar.gz") as tar:
        tar.extractall(tmp_path / "images", filter="data")
    words = (
        f"{shared_data / 'cifar10-resnet20.th'} --arch resnet20 --dataset imagefolder "
        f"--data-dir {tmp_path / 'images'} --data-name cifar10-jpeg --normalize imagenet "
        f"--results {tmp_path / 'results'}"
    ).split()
    assert invoke(evaluate.main, words) == DONE
    found = re.search(r"top-1 +([\d.]+) %", capsys.readouterr().out)
    assert found is not None
    assert abs(float(found.group(1)) - 81.03) <= 0.05


def test_records_name_code_and_machine(results: Path) -> None:
    record = Store(results).records()[0]
    assert set(record.environment["git"]) == {"commit", "dirty"}
    assert record.environment["packages"]["torch"]
    assert record.environment["deterministic"] is True
    assert record.environment["cpu"].endswith(f" ({torch.backends.cpu.get_cpu_capability()})")
    assert json.dumps(record.environment)


def test_recorded_commands_name_no_place_of_this_machine(tmp_path: Path) -> None:
    checkpoint = tmp_path / "net.pt"
    words = {
        "methods": ["l1norm"], "arch": "resnet8", "dataset": "imagefolder", "preset": "demo",
        "data_dir": tmp_path, "data_name": "mine", "checkpoint": checkpoint, "results": tmp_path,
        "controls": False,
    }  # fmt: skip
    torch.save(archs.build("resnet8", 4).state_dict(), checkpoint)
    options = options_from(words)
    (cell,) = expand(options, tiny.data())
    command = command_of(cell, options, "l1norm")
    assert str(tmp_path) not in command
    for said in ("--data-dir DIR", "--checkpoint net.pt", "--arch resnet8", "--seeds 0"):
        assert said in command


SLOW_GRID = [
    "--methods", "l1norm,random", *QUICK, "--set", "baseline.epochs=200", "--seeds", "0,1",
]  # fmt: skip


def _launch(results: Path) -> subprocess.Popen[str]:
    words = [*SLOW_GRID, "--jobs", "2", "--results", str(results)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmark.run", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _workers(results: Path) -> list[int]:
    """Processes at work, once there are two of them."""
    claims = Store(results).claims
    dense = [c.pid for c in claims.all() if c.kind == "dense" and claims.is_held("dense", c.key)]
    return dense if len(dense) == 2 else []


def test_workers_end_with_their_launcher(tmp_path: Path) -> None:
    launcher = _launch(tmp_path)
    workers = _wait_for(lambda: _workers(tmp_path))
    launcher.kill()
    launcher.wait(60)
    assert _wait_for(lambda: not any(_is_alive(pid) for pid in workers))


def test_a_killed_worker_takes_nothing_along_and_its_work_goes_on(tmp_path: Path) -> None:
    launcher = _launch(tmp_path)
    first, second = _wait_for(lambda: _workers(tmp_path))
    os.kill(first, signal.SIGKILL)
    again = _wait_for(lambda: set(_workers(tmp_path)) - {first, second})
    assert second in _workers(tmp_path)  # undisturbed
    assert launcher.poll() is None
    os.killpg(launcher.pid, signal.SIGINT)
    launcher.communicate(timeout=400)
    assert _wait_for(lambda: not any(_is_alive(pid) for pid in (second, *again)))
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("dense-*.log"))
    assert f"from process {first} on" in logs


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _wait_for(condition: Callable[[], Any]) -> Any:
    """The first true answer, asked again for up to two minutes."""
    for _ in range(240):
        answer = condition()
        if answer:
            return answer
        threading.Event().wait(0.5)
    raise AssertionError("waited for two minutes")


METHOD = '''"""A method that breaks a rule."""

from dataclasses import dataclass

import torch

from methods.api import Method, Plan


@dataclass(frozen=True)
class Breaks(Method):
    """Breaks a rule."""

    {body}
'''
TRAINS = """def score(self, net, trainer):
        with torch.no_grad():
            batches = list(trainer.batches(images=30))
        for x, _ in batches:
            net(x).sum().backward()
        return {n: net.weight(n).abs().sum((1, 2, 3)) for n in net.layers}"""


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("def prune(self, net, budget, trainer):\n        return Plan({})", "removes 0.0 %"),
        ("def prune(self, net, budget, trainer):\n        return Plan({'x': (0,)})", "group x"),
        ("def prune(self, net, budget, trainer):\n        return None", "not NoneType"),
        ("def score(self, net, trainer):\n        return None", "not NoneType"),
        ("def score(self, net, trainer):\n        return {}", "missing: layer1.0.conv1"),
        ("def score(self, net, trainer):\n        raise SystemExit(0)", "SystemExit"),
        (TRAINS, "30 images passed with gradients enabled, 0 are in the ledger"),
    ],
)
def test_methods_that_break_a_rule_fail_with_its_name(
    body: str, match: str, tmp_path: Path
) -> None:
    (tmp_path / "breaks.py").write_text(METHOD.replace("{body}", body))
    root = tmp_path / "results"
    assert cli("--methods", str(tmp_path / "breaks.py"), results=root) == FAILED
    (attempt,) = Store(root).last_attempts()
    assert match in attempt.reason


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--lr inf", "--lr"),
        ("--lr nan", "--lr"),
        ("--set recovery.momentum=1e999", "recovery.momentum"),
        ("--set recovery.gamma=-1", "recovery.gamma"),
        ("--threads 100000", "--threads"),
        ("--preparation ,", "--preparation"),
        ("--methods ,", "--methods"),
    ],
)
def test_settings_out_of_range(
    words: str, match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*words.split(), "--dry-run", results=tmp_path) == BAD_INPUT
    assert match in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(archs.build("resnet20", 10).state_dict(), tmp_path / "net.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, match in (("net.pt", "does not fit this architecture"), ("text.pt", "plain tensors")):
        words = ["--methods", "l1norm", "--checkpoint", str(tmp_path / name), "--dry-run"]
        assert cli(*words, results=tmp_path / "results") == BAD_INPUT
        assert match in capsys.readouterr().err


def test_a_checkpoint_is_listed_by_the_hash_that_records_and_protocols_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(archs.build("resnet8", 10).state_dict(), tmp_path / "net.pt")
    named = checkpoint_hash(tmp_path / "net.pt")
    words = ["--methods", "l1norm", "--checkpoint", str(tmp_path / "net.pt"), "--dry-run"]
    assert cli(*words, results=tmp_path / "results") == DONE
    assert f"checkpoint {named[:8]}" in " ".join(capsys.readouterr().out.split())


def test_a_file_with_one_of_our_names_or_that_exits_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l1norm.py").write_text(MINE)
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    for name, match in (("l1norm.py", "rename it"), ("leaves.py", "cannot be imported")):
        assert cli("--methods", str(tmp_path / name), results=tmp_path / "r") == BAD_INPUT
        assert match in capsys.readouterr().err


def test_ctrl_c_ends_the_grid_cleanly_and_it_goes_on(tmp_path: Path) -> None:
    launcher = _launch(tmp_path)
    workers = _wait_for(lambda: _workers(tmp_path))
    os.killpg(launcher.pid, signal.SIGINT)
    _, said = launcher.communicate(timeout=400)
    assert launcher.returncode == 130
    assert said.splitlines() == [
        "error: interrupted: what is finished is kept, the same command goes on from there"
    ]
    assert _wait_for(lambda: not any(_is_alive(pid) for pid in workers))
    assert not list((tmp_path / "attempts").glob("**/*.json"))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_dense_network_that_fails_is_not_tried_once_per_cell(
    jobs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods", "l1norm,random", "--set", "baseline.lr=1e30", "--jobs", jobs]
    assert cli(*words, results=tmp_path) == FAILED
    reasons = {a.reason for a in Store(tmp_path).last_attempts()}
    assert reasons == {
        "its dense network failed: diverged: the loss is not finite in epoch 1 of dense"
    }
    assert "0 of 2 cells done, 2 failed" in capsys.readouterr().out
    assert len(list((tmp_path / "logs").iterdir())) == 1  # no cell began


ENDS = MINE.replace("class Mine", "class Ends").replace("return {", "{how}\n        return {")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("import os; os._exit(7)", r"its worker process ended \(exit code 7\), 3 times"),
        ("raise BaseException('odd')", r"BaseException: odd \(see logs/"),
        ("raise GeneratorExit", r"GeneratorExit: .*\(see logs/"),
    ],
)
def test_however_a_method_ends_its_process_the_grid_goes_on_with_one_job_too(
    how: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "ends.py").write_text(ENDS.replace("{how}", how))
    root = tmp_path / "results"
    words = ["--methods", f"{tmp_path / 'ends.py'},l1norm", "--jobs", "1"]
    assert cli(*words, results=root) == FAILED
    assert [r.spec.method.name for r in Store(root).records()] == ["l1norm"]
    (attempt,) = Store(root).last_attempts()
    assert attempt.status == "failed"
    assert re.match(reason, attempt.reason), attempt.reason


def test_a_plan_does_not_depend_on_who_made_the_scores(tmp_path: Path) -> None:
    """`select` may draw from the global generator: it finds it as a fresh run does."""
    draws = MINE.replace("class Mine", "class Draws") + (
        "\n    def select(self, net, scores, budget):\n        import torch\n"
        "        noisy = {n: torch.rand(len(s)) for n, s in scores.items()}\n"
        "        return net.rank(noisy, budget)\n"
    )
    (tmp_path / "draws.py").write_text(draws)
    root, words = tmp_path / "results", ["--methods", str(tmp_path / "draws.py"), "--jobs", "0"]
    assert cli(*words, results=root) == DONE
    (first,) = Store(root).records()
    shutil.rmtree(root / "runs")
    assert cli(*words, results=root) == DONE
    (second,) = Store(root).records()
    assert (first.plan, first.weights) == (second.plan, second.weights)
