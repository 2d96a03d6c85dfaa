"""`--dataset imagenet` from the command line to the record, killed and resumed, and what else reads
such data."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import tarfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import streaming
import tiny
import torch
from ddp_work import together
from test_resume import outcome
from test_stream import trainer

from benchmark import dissect, evaluate, files, report, reproduce, run
from benchmark.checkpoint import Checkpoints
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.lifeline import STOP
from benchmark.options import Options
from benchmark.recipes import baseline_recipe, recovery_recipe
from benchmark.schedule import Schedule, rate_at
from benchmark.store import Store
from benchmark.tasks import DATA_FIELDS
from benchmark.team import ALONE, Team

WORDS = [
    "--methods", "l1norm", "--arch", "resnet8", "--dataset", "imagenet", "--image-size", "32",
    "--epochs", "1", "--set", "baseline.epochs=1", "--set", "baseline.batch_size=16",
    "--set", "recovery.batch_size=16", "--no-controls", "--preset", "demo",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streaming.folder(tmp_path_factory.mktemp("images") / "im")


@pytest.fixture(scope="module")
def results(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run on a folder, in this process."""
    place = tmp_path_factory.mktemp("recorded") / "results"
    run_here(root, place)
    return place


def run_here(root: Path, results: Path) -> None:
    """Without the files that the report draws, which take longer than the run."""
    with mock.patch.object(report, "build", return_value=[]):
        assert invoke(run.main, [*words(root, results), "--jobs", "0"]) == DONE


def words(root: Path, results: Path) -> list[str]:
    return [*WORDS, "--data-dir", str(root), "--results", str(results)]


# ---- whole runs ----------------------------------------------------------------------------------


def test_shards_give_the_record_of_a_folder(root: Path, results: Path, tmp_path: Path) -> None:
    packed = streaming.shards(root, tmp_path / "tars")
    place = tmp_path / "results"
    run_here(packed, place)
    assert outcome(place) == outcome(results)
    record = json.loads(Store(results).record_paths()[0].read_text())
    assert record["spec"]["data"]["pipeline"] == "resized-crop"
    assert record["command"].count("--data-dir DIR") == 1
    assert "--workers" not in record["command"]


@pytest.mark.slow
def test_cells_in_processes_with_workers_give_the_same_record(
    root: Path, results: Path, tmp_path: Path
) -> None:
    place = tmp_path / "results"
    assert invoke(run.main, [*words(root, place), "--jobs", "1", "--workers", "2"]) == DONE
    assert outcome(place) == outcome(results)


def test_a_record_is_made_again_and_looked_into(
    root: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = Store(results).record_paths()
    name, place = path.parent.name, ["--results", str(results), "--data-dir", str(root)]
    assert invoke(reproduce.main, [name, *place]) == DONE
    assert "reproduced: equal to the bit" in capsys.readouterr().out
    assert invoke(dissect.main, [name, *place]) == DONE
    (facts,) = Store(results).measurements(Store(results).records()[0].spec, "dissection")
    assert facts["split"] == "val"
    assert facts["gallery"]["thumbnails"]


def test_a_checkpoint_is_evaluated(
    root: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dense,) = (results / "stages").glob("dense-*/tensors.safetensors")
    record = json.loads(Store(results).record_paths()[0].read_text())
    said = ["--arch", "resnet8", "--dataset", "imagenet", "--data-dir", str(root)]
    said += ["--image-size", "32", "--results", str(results)]
    assert invoke(evaluate.main, [str(dense), *said]) == DONE
    top1 = record["dense"]["accuracy"]["test_top1"]
    assert f"top-1        {100 * top1:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], "imagenet needs --data-dir DIR with DIR/train/<class>/ and DIR/val/"),
        (["--data-dir", "nowhere"], "no such data directory: nowhere"),
        (["--data-dir", ".", "--data-name", "digits"], "is a built-in data set"),
        (["--workers", "-1"], "--workers"),
    ],
)
def test_bad_words_are_one_line(
    tmp_path: Path, change: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(run.main, [*WORDS, "--results", str(tmp_path), *change]) == BAD_INPUT
    found = capsys.readouterr().err
    assert said in found
    assert len(found.splitlines()) == 1


@pytest.mark.slow
def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    """60 training and 20 test images of each class, 64 pixels, a network of torchvision's."""
    keep = {"train": 60, "test": 20}
    with tarfile.open(shared_data / "cifar10-jpeg.tar.gz") as tar:
        for member in tar:
            split, _, name = member.name.partition("/")
            if member.isfile() and int(Path(name).stem) < keep[split]:
                tar.extract(member, tmp_path, filter="data")
    said = [
        "--methods", "l1norm", "--arch", "torchvision/resnet18", "--dataset", "imagenet",
        "--data-name", "cifar10-jpeg-540", "--image-size", "64", "--epochs", "0.2", "--preset",
        "demo", "--set", "baseline.epochs=0.5", "--set", "baseline.batch_size=32", "--set",
        "recovery.batch_size=32", "--no-controls", "--jobs", "0", "--workers", "1",
    ]  # fmt: skip
    place = tmp_path / "results"
    done = invoke(run.main, [*said, "--data-dir", str(tmp_path), "--results", str(place)])
    assert done == DONE
    (record,) = Store(place).records()
    assert record.spec.data.name == "cifar10-jpeg-540"
    assert record.spec.data.eval_resize == 73
    assert record.flops_reduction > 0.49
    assert record.spent.charged <= record.spent.allowed == round(0.2 * 540)


# ---- processes -----------------------------------------------------------------------------------


def phase(root: str, cache: str, folder: str, workers: int, writes: int = 0) -> None:
    """Train with a checkpoint after each step, and write down the weights; or kill this process
    just before its n-th durable write becomes visible."""
    torch.set_num_threads(1)
    data, left, original = streaming.data(Path(root), Path(cache), workers=workers), [writes], []
    original.append(files.flush_folder)

    def counted(place: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            children = multiprocessing.active_children()
            Path(folder, "children").write_text(" ".join(str(c.pid) for c in children))
            states = [Path(f"/proc/{c.pid}/status").read_text() for c in children]
            masks = [line.split()[1] for s in states for line in s.splitlines() if "SigBlk" in line]
            Path(folder, "masks").write_text(" ".join(masks))
            os.kill(os.getpid(), signal.SIGKILL)
        original[0](place)

    files.flush_folder = counted
    net, place = tiny.model(), Path(folder)
    recipe = tiny.RECIPE.model_copy(update={"epochs": 1.5, "batch_size": 9})
    kept = Checkpoints(place / "checkpoints", every=0.0)
    trainer(data, checkpoints=kept).run_phase(net, recipe, "recovery", validate=True)
    torch.save(tiny.state_of(net), place / "weights.pt")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
def test_killed_and_resumed_ends_the_same_and_no_worker_outlives_it(
    root: Path, tmp_path: Path
) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmark.tasks"])

    def start(name: str, workers: int, writes: int = 0) -> int | None:
        (tmp_path / name).mkdir(exist_ok=True)
        given = (str(root), str(tmp_path / "stages"), str(tmp_path / name), workers, writes)
        process = server.Process(target=phase, args=given)
        process.start()
        process.join(120)
        return process.exitcode

    assert start("whole", 0) == 0
    wanted = torch.load(tmp_path / "whole/weights.pt")
    for writes in (4, 3):  # within the first epoch of 6 steps, then later
        assert start("killed", 2, writes) == -signal.SIGKILL
        children = [int(pid) for pid in (tmp_path / "killed/children").read_text().split()]
        assert len(children) >= 2
        until = time.monotonic() + 20
        while any(map(alive, children)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(alive, children))
        for mask in (tmp_path / "killed/masks").read_text().split():
            for number in (signal.SIGINT, STOP):
                assert int(mask, 16) >> (number - 1) & 1  # not for them
    assert start("killed", 2) == 0
    assert tiny.same(wanted, torch.load(tmp_path / "killed/weights.pt"))


def parts_of(team: Team, root: Path, cache: Path, workers: int) -> Any:
    """Weights after training, and which images this process decoded for it."""
    data = streaming.data(root, cache, workers=workers)
    asked, feed = list[int](), data.train.feed
    take = feed.take

    def counted(request: Any) -> Any:
        asked.extend(request[0] if request[1] else ())
        return take(request)

    feed.take = counted
    net = tiny.model()
    recipe = tiny.RECIPE.model_copy(update={"epochs": 1, "batch_size": 9})
    trainer(data, replicas=2, team=team).run_phase(net, recipe, "recovery", validate=True)
    return tiny.state_of(net), sorted(asked)


def check_team(root: Path, tmp_path: Path, workers: int) -> None:
    whole, rows = parts_of(ALONE, root, tmp_path / "s", 0)
    (one, first), (two, second) = together(
        tmp_path / "team", parts_of, root, tmp_path / "s", workers
    )
    assert tiny.same(whole, one)
    assert tiny.same(one, two)
    assert len(rows) == 54
    assert sorted(first + second) == rows
    assert abs(len(first) - len(second)) <= 6


@pytest.mark.slow
def test_each_process_of_a_team_decodes_its_own_parts(root: Path, tmp_path: Path) -> None:
    check_team(root, tmp_path, 0)


@pytest.mark.slow
def test_a_team_may_have_workers(root: Path, tmp_path: Path) -> None:
    check_team(root, tmp_path, 1)


# ---- settings ------------------------------------------------------------------------------------


def test_the_full_baseline_is_the_recipe_of_90_epochs() -> None:
    recipe = baseline_recipe("full", "imagenet")
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (
        90,
        256,
        0.1,
        1e-4,
    )
    assert (recipe.momentum, recipe.nesterov, recipe.warmup) == (0.9, False, 0)
    steps = Schedule.of(90, 1_231_167, 256).steps
    rates = [rate_at(recipe, i * (steps // 90) / steps) for i in range(90)]
    wanted = [0.1] * 30 + [0.01] * 30 + [0.001] * 30
    assert rates == pytest.approx(wanted)
    for preset in ("demo", "quick", "full"):
        base, after = (f(preset, "imagenet") for f in (baseline_recipe, recovery_recipe))
        assert after.epochs < base.epochs
        assert after.batch_size == 256
        assert baseline_recipe(preset, "cifar10") == baseline_recipe(preset, "birds")


def test_a_cluster_with_gpus_is_planned_for_where_there_is_none() -> None:
    """The login node asks for the nodes' device, and never for one of its own."""
    options = Options(executor="slurm", device="cuda")
    assert options.kind_of_device() == "cuda"
    assert options.decoders() >= 0
    of_data = Options.model_validate_json(options.model_dump_json(include=set(DATA_FIELDS)))
    assert of_data.decoders() == options.decoders()  # what estimates and cells read the data by


def test_workers_on_a_cpu_are_asked_for() -> None:
    assert Options(device="cpu").decoders() == 0
    assert Options(device="cpu", workers=3).decoders() == 3


# ---- the page ------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs/imagenet.md").read_text("utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_run(root: Path, tmp_path: Path) -> None:
    """On images of ours, by the smallest network."""
    commands = re.findall(r"\$ (python -m benchmark\.[^\n]+)", PAGE)
    assert len(commands) == 5
    ours = {"/data/imagenet": str(root), "torchvision/resnet18": "resnet8"}
    ours |= dict.fromkeys(("results-imagenet", "results-try"), str(tmp_path / "results"))
    for command in commands:
        _, _, module, *said = shlex.split(command)
        said = [ours.get(word, word) for word in said]
        if module == "benchmark.run":
            said += ["--device", "cpu", "--jobs", "0", "--image-size", "32"]
        with mock.patch.object(report, "build", return_value=[]):
            assert invoke(importlib.import_module(module).main, said) == DONE, command
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert all((Path(__file__).parents[1] / "docs" / link).exists() for link in links)
