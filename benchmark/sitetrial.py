"""One tiny job before all others: does a compute node see the results directory, the code and the
interpreter? It never waits long, and leaves nothing in the queue."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmark.errors import BadInput
from benchmark.record import one_line
from benchmark.site import Site
from benchmark.sitecheck import from_outside, last_words
from benchmark.slurm import PATIENCE

IMMEDIATE = 10  # seconds in which a node must be free for it
TOKEN = ".trial-"  # begins the names of its files in the results directory
LOCAL_SYSTEMS = frozenset({"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs",
                           "zfs", "f2fs"})  # fmt: skip

# Arguments: the results directory, the token's name and content, the code, the interpreter.
_FIRST = 'echo "node ${SLURMD_NODENAME:-$(hostname)}"'
_WATCH = """trap 'echo "failed: $BASH_COMMAND"' ERR"""
_TRIAL = """
echo; echo "set up"
for try in 1 2 3; do [ "$(cat "$1/$2" 2>/dev/null)" = "$3" ] && break; sleep 1; done
[ "$(cat "$1/$2" 2>/dev/null)" = "$3" ] || exit 41
echo "$3" 2>/dev/null > "$1/$2.answer" || exit 42
[ -d "$4" ] || exit 43
command -v "$5" > /dev/null || exit 44
"$5" -c pass > /dev/null 2>&1 || exit 45
cd "$4" && "$5" -c "import submitit, torch" > /dev/null 2>&1 || exit 46
exit 40
"""
FINE = 40  # a code that no failing shell or SLURM itself ends with
_PROBLEMS = {
    41: "the results directory {results} is not shared: {node} does not see it; choose one on a "
        "file system that all nodes mount",
    42: "the results directory {results} cannot be written on {node}: choose one that jobs may "
        "write",
    43: "the code in {code} is not there on {node}: install the suite on a file system that all "
        "nodes mount",
    44: "the interpreter {python} is not there on {node}: make the environment on a file system "
        "that all nodes mount, or say python and setup in the site file",
    45: "the interpreter {python} does not start on {node}: see setup and python in the site file",
    46: "the interpreter {python} has neither submitit nor torch on {node}, or they do not load: "
        "name the one of the suite's environment (python in the site file)",
}  # fmt: skip

EXITED = re.compile(r": task \d+: Exited with exit code")


def probe(site: Site, results: Path, code: Path) -> list[str]:
    """Look from a compute node: is the results directory shared, are interpreter and code there?
    Notes about what could not be seen now; jobs look again when they start.

    Raises:
        BadInput: something is not there.
    """
    if not site.probe:
        return []
    results, code = results.resolve(), code.resolve()
    name, content = f"{TOKEN}{secrets.token_hex(8)}", secrets.token_hex(8)
    token, answer = results / name, results / f"{name}.answer"
    python = site.python or sys.executable
    try:
        results.mkdir(parents=True, exist_ok=True)
        token.write_text(content + "\n")
        script = "\n".join([_FIRST, _WATCH, *site.setup, "trap - ERR", _TRIAL])
        end, said, failed = _srun(site, script, str(results), name, content, str(code), python)
        lines = said.splitlines()
        node = next((line[5:] for line in lines if line.startswith("node ")), "")
        if end in _PROBLEMS:
            about = {"results": results, "code": code, "python": python, "node": node}
            raise BadInput(_PROBLEMS[end].format(**about))
        if node and "set up" not in lines and end > 0:
            raise BadInput(f"setup of the site file ends the shell on {node}: {failed}")
        if end != FINE:
            return [
                f"what nodes see was not tried ({failed}); jobs look when they start",
                *_on(results),
            ]
        notes = [f"setup on {node}: {line}" for line in lines if line.startswith("failed: ")]
        late = f"what {node} writes to {results} is seen here late"
        return notes if _appears(answer) else [*notes, late]
    except OSError as error:
        raise BadInput(f"results directory {results}: {one_line(error.strerror)}") from error
    finally:
        token.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


def _srun(site: Site, script: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and, if it did not come to the script's end, why."""
    own = f"prunebench-trial-{secrets.token_hex(4)}"
    asked = {"partition": site.partition, "account": site.account, "qos": site.qos,
             "constraint": site.constraint, "exclude": site.exclude}  # fmt: skip
    given = [f"--{key}={value}" for key, value in (asked | site.extra).items() if value]
    command = ["srun", f"--job-name={own}", f"--immediate={IMMEDIATE}", "--time=2", "--nodes=1",
               "--ntasks=1", "--cpus-per-task=1", "--mem=200M", "--chdir=/", "--quiet", *given,
               "bash", "-c", script, "trial", *arguments]  # fmt: skip
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=from_outside(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return -1, "", f"srun: {error.strerror}"
    try:
        said, wrong = process.communicate(timeout=IMMEDIATE + PATIENCE)
        return process.returncode, said, last_words(_without_exit(wrong))
    except subprocess.TimeoutExpired:
        return -1, "", f"srun did not end within {IMMEDIATE + PATIENCE:.0f} s"
    finally:
        _surely_over(process, own)


def _without_exit(wrong: str) -> str:
    """What the shell said: srun's line about its exit code comes before or after it."""
    lines = [line for line in wrong.splitlines() if not EXITED.search(line)]
    return "\n".join(lines) or wrong


def _surely_over(process: subprocess.Popen[str], name: str) -> None:
    """Leave no job in the queue, however srun ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)  # srun takes its request back
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["scancel", f"--user={os.getuid()}", f"--name={name}"],
                           capture_output=True, timeout=PATIENCE)  # fmt: skip
    process.communicate()


def _appears(path: Path) -> bool:
    """Whether the file is there, with some time for a network file system."""
    for _ in range(20):
        os.listdir(path.parent)  # noqa: PTH208  (makes the client look again)
        if path.exists():
            return True
        time.sleep(0.25)
    return False


def _on(results: Path) -> list[str]:
    """A note about a file system that is rarely shared between machines."""
    kind = file_system(results, Path("/proc/mounts"))
    said = f"{results} is on {kind}, a file system that machines rarely share"
    return [said] if kind in LOCAL_SYSTEMS else []


def file_system(path: Path, mounts: Path) -> str:
    """Type of the file system that holds the path; empty: not known."""
    with contextlib.suppress(OSError, RuntimeError):
        place, best, kind = path.resolve(), Path(), ""
        for line in mounts.read_text().splitlines():
            parts = line.split()
            top = Path(parts[1].replace("\\040", " ")) if len(parts) > 2 else Path()
            if top.is_absolute() and place.is_relative_to(top) and len(str(top)) >= len(str(best)):
                best, kind = top, parts[2]
        return kind
    return ""
