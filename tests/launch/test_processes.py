"""launch/processes.py: starts, starts again, gives up, passes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "launch" / "processes.py"
RANK = "int(os.environ['OMPI_COMM_WORLD_RANK'])"


def start(program: str, *options: str) -> subprocess.Popen[str]:
    """The launcher with two processes that run a Python program, whose number is `rank`."""
    program = f"import os, signal, sys, time\nrank = {RANK}\n{program}"
    command = [str(LAUNCHER), "-n", "2", "--pause", "0.01", *options, "--", sys.executable, "-c", program]
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(path)


def test_all_run_and_know_who_they_are() -> None:
    program = """
count, where = os.environ["OMPI_COMM_WORLD_SIZE"], os.environ["JAX_COORDINATOR_ADDRESS"]
print(rank, count, where.split(":")[0])
print("the same", file=sys.stderr)
print("from", rank, file=sys.stderr)
"""
    status, out, err = ended(start(program))
    assert status == 0 and out == "0 2 127.0.0.1\n"
    assert sorted(err.splitlines()) == ["[1] 1 2 127.0.0.1", "[1] from 1", "from 0", "the same"]


def test_when_one_dies_all_start_again(tmp_path: Path) -> None:
    program = f"""
tries = open({str(tmp_path)!r} + f"/{{rank}}", "a+")
tries.write("x")
tries.flush()
tries.seek(0)
if len(tries.read()) < 3:
    time.sleep(0.2)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""
    status, _, err = ended(start(program))
    assert status == 0
    assert [(tmp_path / name).read_text() for name in ("0", "1")] == ["xxx", "xxx"]
    assert err.count("launch/processes.py: process 1 ended by signal 9") == 2
    assert "restart 1 of 10 in 0.01 s" in err and "restart 2 of 10 in 0.02 s" in err


def test_gives_up(tmp_path: Path) -> None:
    status, _, err = ended(start("time.sleep(60 * rank); sys.exit(7)", "--restarts", "2"))
    assert status == 7 and err.count("process 0 ended with status 7") == 3
    assert err.endswith("launch/processes.py: gave up after 2 consecutive restarts\n")


def test_one_that_does_not_end_with_the_others_is_no_end(tmp_path: Path) -> None:
    program = f"""
if rank == 1 and not os.path.exists({str(tmp_path / "again")!r}):
    open({str(tmp_path / "again")!r}, "w")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    status, _, err = ended(start(program, "--grace", "1"))
    assert status == 0 and "process 1 has not ended 1 s after the others" in err and "restart 1 of 10" in err


def test_a_mistake_is_not_tried_again_and_told_once() -> None:
    program = """
print("mmjax: no such thing", file=sys.stderr, flush=True)
time.sleep(0.3 * rank)
sys.exit(2)
"""
    assert ended(start(program)) == (2, "", "mmjax: no such thing\n")


@pytest.mark.parametrize(("number", "end", "expected"), [
    (signal.SIGTERM, "sys.exit(0)", 0), (signal.SIGINT, "sys.exit(130)", 130), (signal.SIGTERM, "os.abort()", 134)
])  # fmt: skip
def test_signals_are_passed_on(number: int, end: str, expected: int, tmp_path: Path) -> None:
    program = f"""
def note(number, frame):
    open({str(tmp_path)!r} + f"/told{{rank}}-{{number}}", "w")
    {end}
signal.signal({int(number)}, note)
open({str(tmp_path)!r} + f"/ready{{rank}}", "w")
time.sleep(60)
"""
    process = start(program)
    for rank in (0, 1):
        wait_for(tmp_path / f"ready{rank}")
    process.send_signal(number)
    status, _, err = ended(process)
    assert status == expected and "restart" not in err
    assert (tmp_path / f"told0-{int(number)}").exists() or end == "os.abort()"


def test_ends_with_its_launcher(tmp_path: Path) -> None:
    program = f"""
with open({str(tmp_path)!r} + f"/{{rank}}.tmp", "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, file.name.removesuffix(".tmp"))
time.sleep(60)
"""
    process = start(program)
    for rank in ("0", "1"):
        wait_for(tmp_path / rank)
    process.kill()
    process.communicate(timeout=60)
    for rank in ("0", "1"):
        pid = int((tmp_path / rank).read_text())
        for _ in range(500):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f"{pid} is still there")


@pytest.mark.parametrize(("arguments", "told"), [
    (["-n", "2"], "no command; give one after --"),
    (["-n", "0", "--", "true"], "-n must be 1 or more"),
    (["-n", "2", "--", "/no/such/program"], "/no/such/program: cannot be started: No such file or directory"),
])  # fmt: skip
def test_mistakes(arguments: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    """As of `bash -c` around the command: killed, it leaves the command behind."""
    program = f"""
import subprocess
if rank == 1:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open({str(tmp_path / "left")!r}, "w").write(str(left.pid))
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    status, _, err = ended(start(program, "--restarts", "0"))
    assert status == 128 + signal.SIGKILL and "process 1 ended by signal 9" in err
    left = Path(f"/proc/{(tmp_path / 'left').read_text()}/stat")
    assert not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z"
