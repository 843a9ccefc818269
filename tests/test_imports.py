"""The import rule: everything flows to the right, and TensorFlow stays inside mmjax/data."""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmjax"
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"
ANYTHING = None


def may_import(design: str) -> dict[str, tuple[str, ...] | None]:
    """What a part may import of mmjax, beside itself, by the table of the design. A dot names one module of a part."""
    _, _, rows = design.partition("| part | may import, beside itself |\n| --- | --- |\n")
    allowed: dict[str, tuple[str, ...] | None] = {}
    for row in itertools.takewhile(lambda line: line.startswith("|"), rows.splitlines()):
        parts, targets = (re.findall(r"`([\w.]+?)(?:/|\.py)?`", cell) for cell in row.split("|")[1:3])
        if "anything" not in row:
            parts = parts[:1]
        for part in parts:
            allowed[part] = ANYTHING if "anything" in row else tuple(targets)
    return allowed


MAY_IMPORT = may_import(DESIGN.read_text(encoding="utf-8"))
TENSORFLOW = ("tensorflow", "tensorflow_datasets")


def imported_names(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Yields every imported dotted name; `from mmjax.train import checkpoint` gives mmjax.train.checkpoint."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def violations(part: str, source: str) -> list[str]:
    """What is wrong with the imports of one file of the given part, one line each."""
    tree = ast.parse(source)
    in_functions = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(outer)
    }
    found = []
    if part not in MAY_IMPORT:
        return [f"{part} is no part of the design: add a row to the table in docs/design.md"]
    allowed = MAY_IMPORT[part]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(f"line {node.lineno}: relative import; write the full name")
    for name, node in imported_names(tree):
        root, _, rest = name.partition(".")
        if root in TENSORFLOW:
            if part != "data":
                found.append(f"line {node.lineno}: {root} may be imported only in mmjax/data")
            elif node not in in_functions:
                found.append(f"line {node.lineno}: {root} may be imported only inside a function")
        if root == "mmjax" and allowed is not ANYTHING:
            reached = f"{rest}."
            if not any(reached.startswith(f"{target}.") for target in (part, *allowed)):
                found.append(f"line {node.lineno}: {part} may not import {name}")
    return found


def test_every_row_of_the_design_is_a_part() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))}
    named = {target.partition(".")[0] for targets in MAY_IMPORT.values() for target in targets or ()}
    assert set(MAY_IMPORT) == parts
    assert named <= parts


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_to_the_right(path: Path) -> None:
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert violations(part, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("part", "source", "expected"),
    [
        ("nn", "from mmjax.models.direct import DirectGenerator", "nn may not import"),
        ("nn", "def f():\n    import mmjax.config", "nn may not import"),
        ("nn", "from mmjax import config", "nn may not import"),
        ("export", "from mmjax.train import loop", "export may not import"),
        ("export", "from mmjax.train.checkpoint_tools import x", "export may not import"),
        ("nn", "from . import attention", "relative import"),
        ("train", "def f():\n    import tensorflow as tf", "only in mmjax/data"),
        ("commands", "from tensorflow_datasets import load", "only in mmjax/data"),
        ("data", "import tensorflow.io", "only inside a function"),
        ("data", "if True:\n    import tensorflow", "only inside a function"),
        ("tools", "", "no part of the design"),
    ],
)
def test_the_rule_can_be_broken(part: str, source: str, expected: str) -> None:
    assert any(expected in line for line in violations(part, source))


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("export", "from mmjax.train import checkpoint\nfrom mmjax.train.checkpoint import restore"),
        ("data", "def f():\n    import tensorflow as tf"),
        ("nn", "from mmjax.nn.attention import attend\nimport jax"),
        ("commands", "from mmjax.train import loop"),
        ("config", "from mmjax.types import UserError"),
    ],
)
def test_the_rule_lets_pass(part: str, source: str) -> None:
    assert violations(part, source) == []


def test_import_mmjax_is_quick_and_without_tensorflow() -> None:
    # The best of three: other processes may be using the cores.
    program = (
        "import sys, time; start = time.perf_counter(); import mmjax; print(time.perf_counter() - start, "
        "'tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    )
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
        )
        took, tensorflow, datasets = done.stdout.split()
        assert (tensorflow, datasets) == ("False", "False")
        times.append(float(took))
    assert min(times) < 2
