"""Figures and words as text: fixed decimals, and what Markdown and LaTeX need escaped."""

from __future__ import annotations

import math
import re


def number(value: object, decimals: int) -> str:
    """Fixed decimals, no negative zero, empty where there is no figure."""
    assert isinstance(value, int | float)
    if math.isnan(value):
        return ""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def signed(value: object, decimals: int = 2) -> str:
    """The same with a plus sign; zero has none."""
    text = number(value, decimals)
    return text if text.startswith("-") or not text.strip("0.") else f"+{text}"


def md(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "Δ": r"$\Delta$",
}  # fmt: skip


def tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def tex_cell(text: str) -> str:
    """The same for a table cell: numbers have a minus sign."""
    return re.sub(r"(^|[ \[])-(?=\d)", r"\1$-$", tex(text))
