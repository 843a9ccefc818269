"""The import rule: everything flows to the right, and TensorFlow stays inside mmjax/data."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmjax"
ANYTHING = None

# What a part may import of mmjax, beside itself. A dot names one module of a part.
MAY_IMPORT: dict[str, tuple[str, ...] | None] = {
    "__init__": ("export",),
    "types": (),
    "registry": ("types",),
    "config": ("types", "registry"),
    "files": ("types",),
    "lock": ("types",),
    "progress": (),
    "scenes": ("types",),
    "data": ("types", "registry", "config", "files", "lock", "progress", "scenes"),
    "nn": ("types",),
    "models": ("types", "registry", "config", "nn"),
    "losses": ("types", "registry", "config", "models"),
    "parallel": ("types", "config"),
    "train": ("types", "registry", "config", "files", "lock", "parallel", "progress"),
    "sample": ("types", "config"),
    "evaluate": ("types", "registry", "config", "files", "models.lpips", "sample", "scenes"),
    "export": (
        "types",
        "registry",
        "config",
        "files",
        "models",
        "nn.compute",
        "sample",
        "data.text",
        "train.checkpoint",
        "train.workdir",
    ),
    "plan": ("types", "config"),
    "engine": ANYTHING,
    "cli": ANYTHING,
    "commands": ANYTHING,
    "__main__": ANYTHING,
}
NOT_BELOW = ("commands", "cli", "__main__")  # what nothing else may import
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
        return [f"{part} is no part of the design: add a row to MAY_IMPORT"]
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
        if root == "mmjax" and rest.split(".")[0] in NOT_BELOW and part not in NOT_BELOW:
            found.append(f"line {node.lineno}: {part} may not import {name}")
        elif root == "mmjax" and allowed is not ANYTHING:
            reached = f"{rest}."
            if not any(reached.startswith(f"{target}.") for target in (part, *allowed)):
                found.append(f"line {node.lineno}: {part} may not import {name}")
    return found


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
        ("engine", "from mmjax.commands import train", "engine may not import"),
        ("losses", "from mmjax.train.step import make_step", "losses may not import"),
        ("sample", "from mmjax.models import masked_generator", "sample may not import"),
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
        ("engine", "from mmjax.train import loop"),
        ("losses", "from mmjax.models import lpips\nfrom mmjax.config import LossConfig"),
        ("sample", "from mmjax.config import SamplingConfig"),
        ("config", "from mmjax.types import UserError"),
    ],
)
def test_the_rule_lets_pass(part: str, source: str) -> None:
    assert violations(part, source) == []


def test_every_row_is_a_part_that_is_there_and_imports_what_it_may() -> None:
    assert MAY_IMPORT.keys() == {path.stem for path in PACKAGE.iterdir() if not path.name.startswith(("__py", "."))}
    for part, allowed in MAY_IMPORT.items():
        files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else (PACKAGE / part).rglob("*.py")
        imported = [f"{name}." for path in files for name, _ in imported_names(ast.parse(path.read_text("utf-8")))]
        for target in allowed or ():
            assert any(name.startswith(f"mmjax.{target}.") for name in imported), f"{part} does not import {target}"


def test_the_design_has_the_same_table() -> None:
    """A row is | parts: what they are | what they may import |; parts and imports stand in `code`."""
    found: dict[str, tuple[str, ...] | None] = {}
    for line in (PACKAGE.parent / "docs" / "design.md").read_text("utf-8").splitlines():
        if line.startswith("| `") and line.count("|") == 3:
            _, parts, imports, _ = line.split("|")
            allowed = None if imports.strip() == "anything" else tuple(re.findall(r"`([\w.]+)`", imports))
            found |= {
                name.removesuffix(".py").rstrip("/"): allowed
                for name in re.findall(r"`([\w./]+)`", parts.split(":")[0])
            }
    expected = {part: allowed for part, allowed in MAY_IMPORT.items() if not part.startswith("__")}
    assert found.keys() == expected.keys()
    for part, allowed in expected.items():
        assert (allowed and set(allowed)) == (found[part] and set(found[part] or ())), part


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
