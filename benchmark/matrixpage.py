"""The support matrix as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmark.archs import ARCHS
from benchmark.errors import BadInput
from benchmark.matrixcells import Cell

# networks of other libraries that every method is run on
ELSEWHERE = (
    "torchvision/resnet18", "torchvision/resnet34", "torchvision/resnet50",
    "torchvision/mobilenet_v2", "torchvision/vgg16_bn", "torchvision/densenet121",
    "torchvision/googlenet", "timm/resnet50", "timm/resnetv2_50", "timm/mobilenetv2_100",
    "timm/efficientnet_b0", "timm/regnety_004", "timm/regnetx_004", "timm/convnext_tiny",
)  # fmt: skip
BEGIN, END = "<!-- support matrix: written by python -m benchmark.matrix -->", "<!-- end -->"
MARKS = {"yes": "yes", "broken": "**broken**"}


def render(cells: Sequence[Cell]) -> str:
    """The page: what a `yes` means, the table, and the reasons."""
    head = (
        "# Which method runs on which architecture\n\nWritten by `python -m benchmark.matrix`, "
        "which runs every pair on small synthetic images: the method prunes 30 % of the FLOPs "
        "within its budget, the masked network equals the smaller one to 1e-5 with random weights, "
        "its analytic cost equals fvcore's exactly, and the smaller network's loss is finite and "
        "falls over five steps on one batch. `yes` says that all of it holds, a number points to "
        "the reason why the method does not apply, `-` that the pair was not run yet. Methods that "
        "make no network smaller ([lanes.md](lanes.md)) are held to what they claim instead: "
        "masked kernels stay zero in training, channels that a gate shuts are zero wherever they "
        "are read, and what is counted is what another count, kernel by kernel or image by image, "
        "gives. Figures of every pair: `support.csv`.\n\n"
    )
    return head + body(cells)


def body(cells: Sequence[Cell]) -> str:
    """Table and reasons."""
    methods = sorted({c.method for c in cells})
    found = {(c.arch, c.method): c for c in cells}
    notes: dict[str, int] = {}
    lines = ["| architecture | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for arch in _ordered({c.arch for c in cells}):
        row = [_mark(found.get((arch, m)), notes) for m in methods]
        lines.append(f"| {arch} | " + " | ".join(row) + " |")
    reasons = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([*lines, "", *reasons, ""])


def readme_with(text: str, cells: Sequence[Cell]) -> str:
    """A page whose marked part is the table of today.

    Raises:
        BadInput: it has no marks.
    """
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise BadInput(f"the page has no place for the table: add the lines {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{summary(cells)}\n{END}", text)


def summary(cells: Sequence[Cell]) -> str:
    """How many architectures each method runs on; short enough for a front page."""
    archs, methods = {c.arch for c in cells}, sorted({c.method for c in cells})
    lacks = len(cells) < len(archs) * len(methods)
    lines = ["| method | runs on | does not apply to |" + " not run yet |" * lacks]
    lines.append("|---|---|---|" + "---|" * lacks)
    for method in methods:
        own = [c for c in cells if c.method == method]
        others = ", ".join(_ordered({c.arch for c in own if c.supported == "no"}))
        broken = sum(c.supported == "broken" for c in own)
        yes = f"{len(own) - broken - sum(c.supported == 'no' for c in own)} of {len(archs)}"
        yes += f", **{broken} broken**" if broken else ""
        missing = f" {len(archs) - len(own) or ''} |" * lacks
        lines.append(f"| {method} | {yes} | {others} |{missing}")
    return "\n".join([*lines, ""])


def _ordered(names: Iterable[str]) -> list[str]:
    """Ours in the order of their list, then others by name."""
    own = {name: place for place, name in enumerate(ARCHS)}
    return sorted(names, key=lambda n: (own.get(n, len(own)), n))


def _mark(cell: Cell | None, notes: dict[str, int]) -> str:
    if cell is None:
        return "-"
    if cell.supported in MARKS:
        return MARKS[cell.supported]
    number = notes.setdefault(general(cell.reason), len(notes) + 1)
    return f"[{number}]"


def general(reason: str) -> str:
    """A reason without the layers it names, so that like ones share a number."""
    return re.sub(r"\b(?![\d.]+\b)[\w-]+(\.[\w-]+)+\b", "(layer)", reason)
