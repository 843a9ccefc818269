"""Two processes train as one with two devices does, stop together, and lose nothing when one of them is killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, WHILE_IT_EVALUATES, Run, assert_same_state, committed, metrics, wait_for

STEPS = 30
CONFIG = (
    "--config=configs/scenes_direct.py:tiny",
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=5",
    "--config.train.evaluate_every=15",
    "--config.train.max_to_keep=9",
    "--config.evaluate.evaluators=losses",
    "--config.train.best_metric=",
)
# mmjax ARGUMENTS, with two devices.
WITH_TWO_DEVICES = """
import sys
import jax
from mmjax.cli import main

jax.config.update("jax_num_cpu_devices", 2)
sys.exit(main())
"""
# mmjax ARGUMENTS, where the second process cannot read the last checkpoint.
CANNOT_READ = f"""
import sys
import jax
from mmjax.cli import main
from mmjax.train.checkpoint import Checkpoints

def read(self, step, shapes, read=Checkpoints._read):
    if step == {STEPS} and jax.process_index() == 1:
        raise ValueError("half a file")
    return read(self, step, shapes)

Checkpoints._read = read
sys.exit(main())
"""
# mmjax ARGUMENTS, sent SIGTERM while it prepares.
TOLD = """
import os, signal, sys, time
from mmjax.cli import main
from mmjax.commands import prepare

def run(arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    print("stayed")
    return 0

prepare.run = run
sys.exit(main())
"""
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture(name="launch", scope="module")
def launched() -> Iterator[Launch]:
    """Starts `mmjax ARGUMENTS`, or a Python program, in two processes of one device, or in one of two."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: Any, processes: int = 2, program: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, *(("-c", program) if program else ("-m", "mmjax")), *map(str, arguments)]
        if processes > 1:
            launcher = [sys.executable, "launch/processes.py", "-n", str(processes), "--pause", "0.01", "--"]
            command = launcher + command
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(2 // processes)}
        environment["XLA_FLAGS"] = os.environ["MMJAX_TESTS_XLA_FLAGS"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def ended(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    with process:
        out, err = process.communicate(timeout=250)
    assert process.returncode == status, out + err
    return out, err


def children(launcher: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return sorted(map(int, path.read_text(encoding="ascii").split()))


@pytest.fixture(name="one", scope="module")
def trained_in_one_process(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    workdir = tmp_path_factory.mktemp("one")
    run("train", *CONFIG, "--workdir", workdir, program=WITH_TWO_DEVICES)
    return workdir


@pytest.mark.parametrize("status", [pytest.param(0, marks=pytest.mark.slow), 143])
def test_a_command_with_nothing_to_save_ends_when_told(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where JAX, to which the process is one of a cluster, hears SIGTERM; launchers may ask for another status."""
    monkeypatch.setenv("MMJAX_STOPPED_STATUS", str(status))
    launcher = [sys.executable, "launch/processes.py", "-n", "1", "--restarts", "0", "--", sys.executable, "-c", TOLD]
    command = ["prepare", "--config=configs/scenes_direct.py:tiny", f"--workdir={tmp_path}"]
    done = subprocess.run([*launcher, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status and "stayed" not in done.stdout, done.stderr


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the processes of the launcher")
def test_killed_two_processes_go_on_as_one_and_stop_together(one: Path, tmp_path: Path, launch: Launch) -> None:
    process = launch("train", *CONFIG, "--workdir", tmp_path)
    wait_for(process, (tmp_path / "evaluation" / "15.json").exists)
    os.kill(children(process)[0], signal.SIGKILL)
    step = committed(tmp_path)[-1]
    wait_for(process, lambda: committed(tmp_path)[-1] > step)
    os.kill(children(process)[1], signal.SIGTERM)  # one of them is told, and both stop, at the last evaluation at last
    out, err = ended(process)
    assert f"on 2 cpu devices of 2 processes, 64 examples, {STEPS} steps, resuming from step {step}\n" in out
    assert "process 0 ended by signal 9" in err and "restart 1 of 10" in err
    (last,) = map(int, re.findall(r"stopped after step (\d+);", out))
    assert committed(tmp_path)[-1] == last and not (tmp_path / "training.lock").exists()
    assert_same_state(tmp_path, one, step + 5)
    expected = [row for row in metrics(one) if row["step"] <= last]
    assert metrics(tmp_path) == [row for row in expected if (row["step"], row["split"]) != (STEPS, "evaluation")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the processes of the launcher")
def test_told_to_stop_and_killed_two_processes_end_as_one(one: Path, tmp_path: Path, launch: Launch) -> None:
    process = launch("train", *CONFIG, "--workdir", tmp_path)
    wait_for(process, lambda: bool(committed(tmp_path)))
    os.kill(children(process)[1], signal.SIGTERM)  # one of them is told, and both stop
    out, err = ended(process)
    (step,) = map(int, re.findall(r"stopped after step (\d+);", out))
    assert step < STEPS and committed(tmp_path)[-1] == step and "ended" not in err

    process = launch("train", *CONFIG, "--workdir", tmp_path)
    wait_for(process, lambda: committed(tmp_path)[-1] > step)
    os.kill(children(process)[0], signal.SIGKILL)
    out, err = ended(process)
    assert f"on 2 cpu devices of 2 processes, 64 examples, {STEPS} steps, resuming from step {step}\n" in out
    assert "process 0 ended by signal 9" in err and "restart 1 of 10" in err and "all steps done" in out
    assert_same_state(tmp_path, one, STEPS)
    assert metrics(tmp_path) == metrics(one)
    assert not (tmp_path / "training.lock").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_told_to_stop_while_they_evaluate(one: Path, tmp_path: Path, launch: Launch) -> None:
    train = ("train", *CONFIG, "--config.evaluate.batch=8", f"--workdir={tmp_path}")  # 8 batches: it is not the last
    out, _ = ended(launch(1, 1, *train, program=WHILE_IT_EVALUATES))  # the second process alone is told
    assert "stopped after step 15;" in out
    assert committed(tmp_path)[-1] == 15 and not (tmp_path / "evaluation" / "15.json").exists()
    out, _ = ended(launch(*train))
    assert "resuming from step 15" in out and (tmp_path / "evaluation" / "15.json").exists()
    assert_same_state(tmp_path, one, STEPS)


@pytest.mark.slow
def test_what_one_of_them_cannot_read_is_read_by_none(one: Path, tmp_path: Path, launch: Launch) -> None:
    """The other one, which read it well, does not wait for it for ever."""
    workdir = shutil.copytree(one, tmp_path / "copy")
    out, err = ended(launch("train", *CONFIG, "--workdir", workdir, program=CANNOT_READ))
    assert f"checkpoints/{STEPS}: is damaged (half a file)" in err and f"resuming from step {STEPS - 5}" in out
    assert_same_state(workdir, one, STEPS)


@pytest.mark.slow
def test_mistakes_are_told_once(one: Path, tmp_path: Path, launch: Launch) -> None:
    """Those that all processes find, and those that only the first one can find."""
    _, err = ended(launch("train", *CONFIG, "--workdir", tmp_path / "a", "--config.train.batch=7"), 2)
    assert err.splitlines()[-1:] == [
        "mmjax: train.batch: 7 does not split over 2 devices (mesh data x fsdp); take a multiple of 2"
    ]
    assert err.count("mmjax: train.batch") == 1
    other = shutil.copytree(one, tmp_path / "other")
    _, err = ended(launch("train", *CONFIG, "--workdir", other, "--config.seed=3", "--config.train.steps=99"), 2)
    assert err.count("holds another config: seed was 0 and now is 3; name another --workdir\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_stages_prepared_trained_and_evaluated_by_two_processes(tmp_path: Path, launch: Launch) -> None:
    config = "--config=configs/quickstart.py:tiny"
    ended(launch("train", config, "--workdir", tmp_path / "one", processes=1))
    ended(launch("prepare", config, "--workdir", tmp_path / "two"))
    encoded = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "tokens").rglob("*.safetensors")}
    ended(launch("train", config, "--workdir", tmp_path / "two"))
    assert len(encoded) == 2 and all(path.stat().st_mtime_ns == when for path, when in encoded.items())
    (step,) = committed(tmp_path / "one")[-1:]
    for part in ("", "visual_tokenizer"):
        assert_same_state(tmp_path / "two" / part, tmp_path / "one" / part, step)
        assert metrics(tmp_path / "two" / part) == metrics(tmp_path / "one" / part)
    of_training = (tmp_path / "two" / "evaluation" / f"{step}.json").read_text()
    ended(launch("evaluate", "--workdir", tmp_path / "two"))
    assert (tmp_path / "two" / "evaluation" / f"{step}.json").read_text() == of_training
