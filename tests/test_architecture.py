"""Rules about the code itself: who may import whom, who knows which name, and how long things are.

Exceptions are listed with their reason and a ceiling near their present size.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.archs import ARCHS
from methods import SUPPORT, names

ROOT = Path(__file__).parents[1]
BENCHMARK = sorted((ROOT / "benchmark").glob("*.py"))
METHODS = sorted((ROOT / "methods").glob("*.py"))
METHOD_FILES = [p for p in METHODS if p.stem not in SUPPORT]

# What methods may import. NumPy: coordinate descent one number at a time, which torch is slow at.
# scikit-learn: its affinity propagation is what the paper ran, and takes 2 ms a layer.
METHOD_IMPORTS = {"torch", *(f"methods.{name}" for name in SUPPORT - {"__init__"})}
EXTRA_IMPORTS = {
    "cpli.py": {"numpy"},
    "exemplars.py": {"numpy", "sklearn"},
    "refit.py": {"numpy"},
}

LONG_METHODS: dict[str, int] = {}
LONG_FILES = {
    "network.py": 400,  # the one object that methods see
    "trainer.py": 370,  # the only training loop
}
LONG_FUNCTIONS = {
    "run.py:main": 110,  # the flags of the command line, one line each
}
ARCH_NAMES_ALLOWED = {
    ("options.py", "resnet20"),  # the default of --arch
    ("zoo.py", "googlenet"),  # torchvision's of that name has auxiliary heads
}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), path.name)


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """String literals but no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def illegal_imports(path: Path) -> list[str]:
    legal = METHOD_IMPORTS | EXTRA_IMPORTS.get(path.name, set())
    found = []
    for module in imported(parsed(path)):
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and not {module, top} & legal:
            found.append(module)
    return found


def compared_names(tree: ast.AST, words: set[str]) -> list[str]:
    """Comparisons with one of these words. `kind` and `start` have a value `random` too."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        text = " ".join(ast.unparse(side) for side in sides)
        literal = {s.value for side in sides for s in strings(side)}
        about_start = {"random"} if "kind" in text or "start" in text else set()
        if (literal & words) - about_start:
            found.append(ast.unparse(node))
    return found


def prints(tree: ast.AST) -> int:
    calls = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
    return sum(isinstance(f, ast.Name) and f.id == "print" for f in calls)


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def name_of(path: Path) -> str:
    return path.name


# ---- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", METHODS, ids=name_of)
def test_methods_import_torch_the_standard_library_and_their_interface(path: Path) -> None:
    assert illegal_imports(path) == []


@pytest.mark.parametrize("path", BENCHMARK, ids=name_of)
def test_only_archs_names_architectures(path: Path) -> None:
    if path.name == "archs.py":
        return
    words = {s.value for s in strings(parsed(path))} & ARCHS.keys()
    assert {(path.name, w) for w in words} <= ARCH_NAMES_ALLOWED


@pytest.mark.parametrize("path", BENCHMARK, ids=name_of)
def test_the_benchmark_treats_no_method_by_its_name(path: Path) -> None:
    assert compared_names(parsed(path), set(names())) == []
    own = {f"methods.{name}" for name in names()}
    assert not own & set(imported(parsed(path)))


@pytest.mark.parametrize("path", [*BENCHMARK, *METHODS], ids=name_of)
def test_library_code_does_not_print(path: Path) -> None:
    assert not prints(parsed(path))


@pytest.mark.parametrize("path", METHOD_FILES, ids=name_of)
def test_a_method_is_short(path: Path) -> None:
    assert 10 <= lines(path) <= LONG_METHODS.get(path.name, 120)


@pytest.mark.parametrize("path", BENCHMARK, ids=name_of)
def test_a_chapter_is_short(path: Path) -> None:
    assert lines(path) <= LONG_FILES.get(path.name, 300)


@pytest.mark.parametrize("path", [*BENCHMARK, *METHODS], ids=name_of)
def test_a_function_is_short(path: Path) -> None:
    for name, length in functions(parsed(path)):
        assert length <= LONG_FUNCTIONS.get(f"{path.name}:{name}", 60), name


def test_exceptions_are_still_needed() -> None:
    sizes = {p.name: lines(p) for p in (*BENCHMARK, *METHODS)}
    assert all(sizes[name] > 300 for name in LONG_FILES)
    assert all(sizes[name] > 120 for name in LONG_METHODS)
    for key in LONG_FUNCTIONS:
        file, _, function = key.partition(":")
        assert dict(functions(parsed(ROOT / "benchmark" / file)))[function] > 60
    for file, word in ARCH_NAMES_ALLOWED:
        assert word in {s.value for s in strings(parsed(ROOT / "benchmark" / file))}


# ---- the rules can fail --------------------------------------------------------------------------


def test_the_rules_see_what_they_should(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        '"""Of resnet56."""\nimport scipy.stats\nfrom benchmark.trainer import evaluate\n'
        "import json\nfrom methods import find\n"
        'if method.name == "hrank" or name in ("cpli", "x"):\n    print("resnet56")\n'
        'if spec.start.kind == "random":\n    pass\nif label == "random":\n    pass\n'
    )
    tree = parsed(path)
    assert illegal_imports(path) == ["scipy.stats", "benchmark.trainer", "methods"]
    assert set(compared_names(tree, set(names()))) == {
        "method.name == 'hrank'", "name in ('cpli', 'x')", "label == 'random'",
    }  # fmt: skip
    assert prints(tree) == 1
    assert "resnet56" in [s.value for s in strings(tree)]
    assert '"""' not in [s.value for s in strings(tree)]
    assert dict(functions(ast.parse("def f():\n" + "    x = 1\n" * 60))) == {"f": 61}
