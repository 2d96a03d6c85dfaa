"""Files of clusters and of sweeps: what they may say, and that those we ship are right."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.archs import ARCHS, build
from benchmark.data import Data
from benchmark.errors import BadInput
from benchmark.options import options_from
from benchmark.site import Site, minutes_of, parse_site, read_site
from benchmark.sweep import expand
from methods import all_names, find

SLURM = Path(__file__).parents[1] / "slurm"
TEMPLATE = SLURM / "sites" / "template.toml"
SITES = sorted(p for p in (SLURM / "sites").glob("*.toml") if p != TEMPLATE)
SWEEPS = sorted((SLURM / "sweeps").glob("*.toml"))
CONTROLS = {"random", "width_scaling", "dense_continue"}


def site(**keys: Any) -> Site:
    """As a file would say it; `device` and `time` have values."""
    content = {"device": "cpu", "time": 10} | keys
    table = content.pop("extra", {})
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
    lines += ["[extra]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return parse_site("\n".join(lines).encode(), "x.toml")


# ---- what a file may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"partitoin": "main"}, r"unknown key 'partitoin'; did you mean partition\? \(known: "),
        ({"gpus-per-node": 2}, ".* did you mean gpus_per_node"),
        ({"zzz": 2}, r"unknown key 'zzz' \(known: "),
        ({"device": "gpu"}, r"device: .*'cuda' or 'cpu' \(given: 'gpu'\)"),
        ({"device": "cuda", "gpus": 0}, 'device = "cuda" needs gpus = 1 or more'),
        ({"gpus": -1}, r"gpus: .*greater than or equal to 0 \(given: -1\)"),
        ({"cpus": 0}, r"cpus: .*greater than or equal to 1"),
        ({"cpus": True}, "cpus: needs a number or a word, not true"),
        ({"cpus": 1.5}, r"cpus: .*integer"),
        ({"memory_gb": -1}, "memory_gb: .*greater than or equal to 0"),
        ({"array_parallelism": 0}, "array_parallelism: .*greater than or equal to 1"),
        ({"cells_per_gpu": 0}, "cells_per_gpu: .*greater than or equal to 1"),
        ({"signal_seconds": 70_000}, "signal_seconds: .*less than or equal to 65535"),
        ({"time": 3}, "time limit shorter than the signal delay: time = 3 must exceed .* 180 s"),
        ({"time": "0:10:00", "signal_seconds": 540}, "time limit shorter than the signal delay"),
        ({"time": "1:30"}, r"time: needs \"H:MM:SS\", .* \(given: '1:30'\)"),
        ({"time": "UNLIMITED"}, 'time: needs "H:MM:SS"'),
        ({"time": "0:00:00"}, "time: needs .* more than none"),
        ({"time": 0}, "time: needs"),
        ({"time": -5}, "time: needs"),
        ({"time": 1.5}, "time: .*string"),
        ({"partition": "a,b"}, "partition: needs one partition, not a list"),
        ({"partition": "a b"}, "partition: needs one word"),
        ({"account": "--uid=0"}, "account: needs one word"),
        ({"gpus": 4, "gpus_per_node": 2}, "gpus = 4 does not fit on one node: gpus_per_node = 2"),
        ({"setup": ["a\nb"]}, "setup: needs a list of single lines"),
        ({"setup": "module load"}, "setup: .*tuple"),
        ({"extra": {"mem": "4G"}}, "extra: 'mem' has a key of its own: memory_gb"),
        ({"extra": {"array": "0-3"}}, "extra: 'array' is set by the launcher"),
        ({"extra": {"--nice": "5"}}, "extra: '--nice' is no long option of sbatch without its"),
        ({"extra": {"exclusive": True}}, "extra: needs a number or a word, not true"),
    ],
)
def test_a_wrong_site_is_answered_in_one_line(keys: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=f"^x.toml: {match}") as caught:
        site(**keys)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("time = 10", "device is missing"),
        ("device = 'cpu'", "time is missing"),
        ("device = ", "x.toml: Invalid value"),
        ("memory_gb = nan", "not a finite number"),
        ('partition = "a\\u0000b"', "zero byte"),
        ("\udc80", "x.toml: .*decode"),
    ],
)
def test_what_is_no_site_is_answered_in_one_line(text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        parse_site(text.encode("utf-8", "surrogateescape"), "x.toml")
    assert str(caught.value).isprintable()


def test_a_missing_file_is_named_with_those_that_are_there() -> None:
    with pytest.raises(BadInput, match=r"^--site .*nowhere\.toml: No such file .*local\.toml"):
        read_site(SLURM / "sites" / "nowhere.toml")
    with pytest.raises(BadInput, match=r"^--site "):
        read_site(Path("a\0b"))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90), ("0:30:00", 30), ("1:30:01", 91), ("36:00:00", 2160), ("1-00:00:00", 1440),
        ("1-12", 2160), ("7-00:30", 10110), ("1:30", None), ("UNLIMITED", None), ("", None),
        ("-5", None), ("1:2:3", None),
    ],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


def test_gpus_are_one_where_there_are_any() -> None:
    assert (site().gpus, site(device="cuda").gpus, site(gpus=2).gpus) == (0, 1, 2)
    assert site(extra={"nice": 5}).extra == {"nice": "5"}


# ---- what a job takes ----------------------------------------------------------------------------


def test_cells_at_once_go_by_gpus_or_by_cpus() -> None:
    assert site(cpus=8).slots(threads=1) == 8
    assert site(cpus=8, gpus=2).slots(threads=3) == 2
    assert site(device="cuda", gpus=2, cells_per_gpu=3, cpus=8).slots(threads=2) == 6
    with pytest.raises(BadInput, match="cpus = 2: a cell with --threads 4 needs as many"):
        site(cpus=2).slots(threads=4)


def test_a_cell_on_several_gpus_takes_part_of_a_node_or_whole_nodes() -> None:
    gpus = site(device="cuda", gpus_per_node=4, gpu_type="a100", cpus=8)
    assert [gpus.layout(n) for n in (1, 2, 4, 8)] == [(1, 1), (1, 2), (1, 4), (2, 4)]
    assert [gpus.gpu_request(n) for n in (1, 2, 8)] == ["a100:1", "a100:2", "a100:4"]
    assert [gpus.cpus_per_process(n) for n in (1, 2, 8)] == [8, 4, 2]
    with pytest.raises(BadInput, match=r"--gpus-per-cell 6: a node holds 4 .* give 4 or a multip"):
        gpus.layout(6)
    assert site(device="cuda", gpus=2).gpu_request(1) == "2"
    assert site(cpus=4).gpu_request(2) == ""


def test_memory_is_asked_for_in_whole_megabytes() -> None:
    assert (site().memory, site(memory_gb=1.5).memory) == ("", "1536M")


# ---- the files of the repository -----------------------------------------------------------------


def test_the_template_explains_every_key_and_is_a_site_once_uncommented() -> None:
    lines = TEMPLATE.read_text().splitlines()
    named = re.compile(r"# (\[\w+\]|\w+ = .+)")
    keys = [m[1].strip("[]").split(" ")[0] for m in map(named.fullmatch, lines) if m]
    assert [k for k in keys if k != "reservation"] == list(dict.fromkeys(keys[:-1]))
    assert set(keys) - {"reservation"} == set(Site.model_fields)
    content = "\n".join(m[1] for m in map(named.fullmatch, lines) if m).replace('"..."', '"name"')
    found = parse_site(content.encode(), "template.toml")
    assert found.extra == {"reservation": "name"}
    for name, field in Site.model_fields.items():  # the defaults it shows are the defaults
        if name not in ("extra", "gpus") and not field.is_required() and field.default != "":
            assert getattr(found, name) == field.default, name
    assert all(line.startswith("#") or not line for line in lines)


@pytest.mark.parametrize("path", SITES, ids=lambda p: p.stem)
def test_sites_of_the_repository_can_be_read(path: Path) -> None:
    found = read_site(path)
    assert found.slots(threads=1) >= 1
    assert found.layout(2 * found.gpus_per_node) == (2, found.gpus_per_node)


def cifar10(data: Data) -> Data:
    """Tiny images under the name and with the classes of CIFAR-10: enough to plan with."""
    change = {"name": "cifar10", "num_classes": 10, "image_size": 32}
    return dataclasses.replace(data, identity=data.identity.model_copy(update=change))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_sweeps_of_the_repository_expand(path: Path, tiny_data: Data, tmp_path: Path) -> None:
    options = options_from({}, path)
    assert options.arch in ARCHS
    if options.adapt_epochs is not None:  # of weights that the command names
        weights = tmp_path / "net.pt"
        torch.save(build(options.arch, 10).state_dict(), weights)
        options = options.model_copy(update={"checkpoint": weights})
    grid = expand(options, cifar10(tiny_data))
    cells = [c for c in grid if not c.added]
    controls = {c.entry.label for c in grid if c.added and c.entry.is_control}
    assert controls == (set() if options.track == "paper" else CONTROLS)
    targets = len(options.flops_reduction) or 1
    rows = len(options.methods) * len(options.preparation)
    assert 0 < len(cells) <= rows * targets * len(options.seeds)
    planned = {c.entry.label for c in cells if c.status == "planned"}
    blocked = {c.entry.label for c in cells if c.blocked}
    assert planned == set(options.methods) - blocked
    assert planned
    if options.track == "paper":  # a paper's row: its own recipe, its own target
        assert planned == set(options.methods)
        assert all(c.spec.budget_epochs >= 40 for c in cells)
        assert path.read_text().startswith("# ")


def test_every_recipe_of_a_paper_has_a_sweep() -> None:
    there = {(m, o.arch) for o in map(paper, SWEEPS) if o for m in o.methods}
    recipes = {
        (label, arch)
        for label, entry in ((label, find(label)) for label in all_names())
        if "paper" in entry.tracks
        for arch in entry.recipes
        # ImageNet does not fit into memory, where a data set is held
        if entry.recipe(arch)["dataset"] != "imagenet" and "blocked" not in entry.recipe(arch)
    }
    assert there == recipes


def paper(path: Path) -> Any:
    options = options_from({}, path)
    return options if options.track == "paper" else None
