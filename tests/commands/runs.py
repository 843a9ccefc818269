"""Runs of the commands that users call, each in a process of its own with one device, and what they leave behind."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mmjax.cli import main

ROOT = Path(__file__).parents[2]
VARYING = ("examples_per_second", "data_wait_fraction", "batches_ready")  # metrics of the machine, not of the training
# mmjax ARGUMENTS, sent SIGTERM in its evaluation number COUNT, if it is process number INDEX: COUNT INDEX ARGUMENTS.
WHILE_IT_EVALUATES = """
import os, signal, sys
import jax
from mmjax.cli import main
from mmjax.evaluate import runner

def told(evaluators, predict, batches, run=runner.run):
    def telling(batch):
        if jax.process_index() == index:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(batch)

    left.pop()
    return run(evaluators, predict if left else telling, batches)

left, index, runner.run = [None] * int(sys.argv.pop(1)), int(sys.argv.pop(1)), told
sys.exit(main())
"""
Start = Callable[..., subprocess.Popen[str]]
Run = Callable[..., subprocess.CompletedProcess[str]]
Mistake = Callable[..., str]
Once = Callable[[str, Callable[[Path], Any]], Path]


def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of all test processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(name="once", scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A folder of that name, made by the first of the test processes that asks for it; nobody may change it."""

    def once(name: str, make: Callable[[Path], Any]) -> Path:
        base = common(tmp_path_factory) / "made"
        base.mkdir(exist_ok=True)
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.made").exists():
                make(base / name)
                (base / f"{name}.made").touch()
        return base / name

    return once


@pytest.fixture(name="two_stages", scope="session")
def trained_in_two_stages(once: Once, run: Run) -> Path:
    """The workdir of the quickstart in its tiny form, trained by one command."""

    def train(workdir: Path) -> None:
        done = run("train", "--config=configs/quickstart.py:tiny", "--workdir", workdir)
        assert noise(done.stderr) == []
        for name, folder in (("quickstart-visual_tokenizer", workdir / "visual_tokenizer"), ("quickstart", workdir)):
            assert f"{name}: all steps done; report: {folder / 'report.html'}" in done.stdout

    return once("quickstart", train)


@pytest.fixture(name="describing", scope="session")
def trained_to_describe(once: Once, run: Run) -> Path:
    """The workdir of quickstart_describe in its tiny form, evaluated by its losses alone, which is quicker."""
    config = ("--config=configs/quickstart_describe.py:tiny", "--config.evaluate.evaluators=losses")
    return once(
        "describing", lambda workdir: run("train", *config, "--config.train.best_metric=", "--workdir", workdir)
    )


def environment() -> dict[str, str]:
    return {**os.environ, "XLA_FLAGS": os.environ["MMJAX_TESTS_XLA_FLAGS"]}


@pytest.fixture(name="start", scope="session")
def start_command() -> Start:
    """Starts `mmjax ARGUMENTS`."""

    def started(*arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mmjax", *map(str, arguments)]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes)

    return started


@pytest.fixture(name="run", scope="session")
def run_command(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `mmjax ARGUMENTS` to its end, which must come with the given exit status; see forked."""

    def ended(*arguments: Any, status: int = 0, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp("output")
        found = forked.run([str(argument) for argument in arguments], environment(), folder, 280, largest_file)
        out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert found == status, f"took too long\n{out}{err}" if found is None else out + err
        return subprocess.CompletedProcess(arguments, status, out, err)

    return ended


@pytest.fixture(name="mistake")
def user_mistake(capsys: pytest.CaptureFixture[str]) -> Mistake:
    """Runs a command here that must end with status 2 and one line on stderr, which is returned."""

    def line(*arguments: Any) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("mmjax: ") and err.count("\n") == 1 and err.endswith("\n")
        return err.removeprefix("mmjax: ").rstrip("\n")

    return line


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def noise(stderr: str) -> list[str]:
    """What is on stderr beside the lines of progress."""
    assert "\r" not in stderr
    return [line for line in stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]


def saved_state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Everything in a checkpoint, by name, as Orbax reads it without knowing of mmjax."""
    path = (workdir / "checkpoints" / str(step) / "state").resolve()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}


def assert_same_state(workdir: Path, other: Path, step: int) -> None:
    """Bit for bit."""
    one, two = saved_state(workdir, step), saved_state(other, step)
    assert one.keys() == two.keys() and len(one) > 50
    for name, value in one.items():
        assert value.dtype == two[name].dtype and value.tobytes() == two[name].tobytes(), name


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what varies from run to run, by step and split.

    The line of a step is written one step late, but at once where the training is stopped: it may come before or after
    that of an evaluation.
    """
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    kept = [row for row in rows if row["split"] != "time"]
    kept.sort(key=lambda row: (row["step"], row["split"]))
    return [{name: value for name, value in row.items() if name not in VARYING} for row in kept]


def committed(workdir: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in workdir.glob("checkpoints/*/commit_success.txt"))
