"""`python -m benchmark.measure RUN…`: later measurements of finished runs.

Extra test sets and latency on this machine become new files beside the record,
`measurements/extra-<hash>.json` and `measurements/latency-<hash>.json`. The record and its run id
stay as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmark import archs, extratest, onnxtime, shifted, speed
from benchmark.cli import DONE, console, run_app
from benchmark.context import set_threads_and_determinism
from benchmark.errors import BadInput
from benchmark.files import check_writable
from benchmark.forms import Form
from benchmark.kept import Finished, read_finished
from benchmark.kinds import LANES
from benchmark.load import find_run
from benchmark.options import Options, options_from
from benchmark.progress import counting
from benchmark.reproduce import check_data, data_words, results_of
from benchmark.spec import digest
from benchmark.store import Store
from benchmark.tasks import data_of

EVERY = "all"  # in place of run ids
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be measured, and with what."""

    runs: list[Finished]
    extra: dict[str, Path]
    speed: speed.Settings | None
    words: dict[str, Any]  # data_dir and device as given
    weights: Path | None


def folders_of(texts: list[str], results: Path) -> list[Path]:
    """Of the runs that are meant, each once; `all` stands for every one.

    Raises:
        BadInput: no such run, or several match.
    """
    if EVERY not in texts:
        return list(dict.fromkeys(find_run(text, results) for text in texts))
    folders = [path.parent for path in Store(results).record_paths()]
    if not folders:
        raise BadInput(f"no finished runs under {results}: run a benchmark first")
    return folders


def finished(texts: list[str], results: Path, arch: str | None) -> list[Finished]:
    """The runs that are meant.

    Raises:
        BadInput: as `folders_of`, or `--arch` is not its network.
    """
    found = [_in_place(folder) for folder in folders_of(texts, results)]
    named = None if arch is None else archs.find(arch)
    for run in found:
        own = run.spec.arch
        if named is not None and (named.name, named.source) != (own.name, own.source):
            source = f" with source hash {own.source}" if own.source else ""
            raise BadInput(
                f"--arch {arch} is not the network of run {run.record.run_id}: that is "
                f"{own.name}{source}"
            )
    return found


def _in_place(folder: Path) -> Finished:
    """The run of a folder that lies where its measurements will be looked for."""
    run = read_finished(folder, results_of(folder))
    if run.store.run_folder(run.spec).resolve() != folder.resolve():
        raise BadInput(
            f"{folder} lies in no results directory, DIR/runs/{run.spec.folder}: measurements "
            "would not be found beside it"
        )
    return run


# ---- extra test sets -----------------------------------------------------------------------------


def measure_extra(request: Request, screen: Console, say: Say) -> None:
    """Runs that share their data are measured together: its images are read once."""
    groups: dict[str, list[Finished]] = {}
    for run in request.runs:
        key = f"{run.spec.data.model_dump_json()} {run.spec.track == 'paper'} {run.store.root}"
        groups.setdefault(key, []).append(run)
    for runs in groups.values():
        first = runs[0]
        lacking = [r for r in runs if shifted.missing(r.store, r.spec, request.extra)]
        for run in (r for r in runs if r not in lacking):
            say(f"run {run.record.run_id}: its extra test sets are measured already")
        if not lacking:
            continue
        options = _options(first, request.words)
        with counting(screen, "reading images") as on_progress:
            data = data_of(options, on_progress)
        check_data(first.spec.data, data.identity)
        set_threads_and_determinism(first.spec.threads)
        with counting(screen, "extra test sets") as on_progress:
            made = shifted.measure_missing(
                lacking, request.extra, data, options.torch_device(), request.weights, on_progress
            )
        for run, facts, path in made:
            for line in shifted.lines(run.record, facts):
                say(line)
            say(f"  written to {path}")


def _options(run: Finished, words: Mapping[str, Any]) -> Options:
    given = {name: value for name, value in words.items() if value is not None}
    return options_from(data_words(run.spec) | {"results": run.store.root} | given)


# ---- latency -------------------------------------------------------------------------------------


def settings_of(
    batch: str, device: str, compiled: bool, onnx: bool, threads: int | None, seconds: float,
    runs: list[Finished],
) -> speed.Settings:  # fmt: skip
    """Raises BadInput for sizes that are none, a device that is not here, or missing packages."""
    try:
        sizes = tuple(sorted({int(word) for word in batch.split(",")}))
    except ValueError as error:
        raise BadInput(f"--batch {batch}: give whole numbers, as 1,32,256") from error
    if sizes[0] < 1:
        raise BadInput(f"--batch {batch}: a batch has at least one image")
    if onnx:
        onnxtime.check_installed()
    forms = [Form("eager"), Form("eager", folded=True)]
    forms += [Form("compiled")] * compiled + [Form("onnx")] * onnx
    where = options_from({"device": device}).torch_device()
    own = threads if threads is not None else max(run.spec.threads for run in runs)
    return speed.Settings(sizes, tuple(forms), where, own, seconds)


def measure_speed(run: Finished, request: Request, screen: Console, say: Say) -> None:
    assert request.speed is not None
    nets = speed.networks_of(run, request.weights)
    facts = speed.measure(run, nets, request.speed, say)
    path = run.store.write_measurement(run.spec, speed.KIND, digest(facts, 12), facts)
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    say(f"  {facts['hardware']} ({facts['device']}, {threads}), float32, medians")
    screen.print(speed.table(facts))
    for line in speed.remarks(facts):
        say(line)
    say(f"  written to {path}")


# ---- the command ---------------------------------------------------------------------------------


def main(
    runs: Annotated[list[str], typer.Argument(help="Run ids, their starts, folders, or all.")],
    results: Annotated[Path, typer.Option(help="Where the records are.")] = Path("results"),
    extra_test: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR, an extra test set; may be repeated.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the run's images are.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Time the networks here.")] = False,
    batch: Annotated[str, typer.Option(help="Batch sizes of --latency.")] = "1,32,256",
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also with torch.compile: minutes.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also in ONNX Runtime.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of --latency. Default: as the run.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Of --latency, per batch size and form, about.")
    ] = 5.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    arch: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION, for runs of a user's own network.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Another results directory that holds the weights.")
    ] = None,
) -> int:
    """Measure finished runs again: on extra test sets, or their latency on this machine.

    Example: python -m benchmark.measure all --latency --results results-demo
    """
    screen = console()

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    extra = extratest.named(extra_test or [])
    if not extra and not latency:
        raise BadInput("nothing to measure: give --extra-test NAME=DIR, or --latency")
    found = finished(runs, results, arch)
    timed = settings_of(batch, device, compiled, onnx, threads, seconds, found) if latency else None
    words = {"data_dir": data_dir, "device": device}
    request = Request(found, extra, timed, words, weights)
    for root in {run.store.root for run in found}:
        check_writable(root)
    if extra:
        measure_extra(request, screen, say)
        place = shlex.quote(str(results))
        say(f"Next: python -m benchmark.report --results {place} makes leaderboard/robustness.csv")
    for run in found if latency else []:
        if lane := LANES[run.spec.result]:
            say(f"run {run.record.run_id}: {lane}, so there is no smaller network to time")
            continue
        say(f"run {run.record.run_id}: {run.spec.name} on {run.spec.arch.name}")
        measure_speed(run, request, screen, say)
    return DONE


if __name__ == "__main__":
    run_app(main, same_bits=False)  # latencies are those of the whole processor
