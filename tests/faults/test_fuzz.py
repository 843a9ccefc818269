"""A few of the cases of benchmarks/fuzz.py; run the benchmark for more."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KINDS = ("config", "override", "model", "dataset", "shards", "image", "texts", "index")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the cases damage."""
    path = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    import fuzz
    import fuzz_cases

    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(tmp_path_factory.mktemp("fuzz")):
        patch.setattr(fuzz.mmjax, "load", fuzz.mmjax.load)
        made = Path("made").resolve()
        fuzz_cases.make(made, trained=False)
        fuzz.prepare(made)
        yield made
    sys.path[:] = path


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_in_one_line_or_works(
    kind: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fuzz

    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(4):
        found = fuzz.outcome(kind, number, 11, made, tmp_path / "case")
        assert not found.failed, f"{kind}:{number} {found}"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_cases() -> None:
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), "--cases=5000", "--seed=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
