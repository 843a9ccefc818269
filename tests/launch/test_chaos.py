"""The chaos that benchmarks/chaos.py makes, a few times of each kind; run the benchmark for more."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the processes of the launcher")
def test_what_is_disturbed_ends_like_what_is_not() -> None:
    command = [sys.executable, str(BENCHMARK), "--runs=10", "--seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 0 and "10 of 10 ended as the undisturbed training" in told, told
