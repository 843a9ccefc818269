"""Runs of the commands that users call, each in a process of its own with one device, and what they leave behind."""

import fcntl
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import mmjax
from mmjax import models
from mmjax.cli import main
from mmjax.config import load_config
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.state import make_state

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
Start = Callable[..., forked.Command]
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


def write_untrained(workdir: Path, name: str, steps: tuple[int, ...], **overrides: str) -> None:
    """What a training with a config leaves but for the training, which takes long: each step has other parameters."""
    given = [f"--config.{field}={value}" for field, value in overrides.items()]
    assert main(["prepare", f"--config={name}", *given, f"--workdir={workdir}"]) == 0
    config, checkpoints = load_config(name, overrides), Checkpoints(workdir)
    for step in steps:
        state = jax.jit(make_state(lambda key: models.init(config, key), optax.sgd(0.1), step, False))()
        checkpoints.save(state.replace(step=jnp.int32(step)), {})
    checkpoints.close()


@pytest.fixture(name="describing", scope="session")
def workdir_that_describes(once: Once) -> Path:
    """The workdir of quickstart_describe in its tiny form, with parameters that were never trained."""
    return once("describing", lambda workdir: write_untrained(workdir, "configs/quickstart_describe.py:tiny", (2, 4)))


def environment() -> dict[str, str]:
    return {**os.environ, "XLA_FLAGS": os.environ["MMJAX_TESTS_XLA_FLAGS"]}


@pytest.fixture(name="start", scope="session")
def start_command(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts `mmjax ARGUMENTS`, or a Python program with these arguments; see forked."""

    def started(*arguments: Any, **options: Any) -> forked.Command:
        return forked.Command(
            [str(word) for word in arguments], environment(), tmp_path_factory.mktemp("out"), **options
        )

    return started


@pytest.fixture(name="run", scope="session")
def run_command(start: Start) -> Run:
    """Runs `mmjax ARGUMENTS` to its end, which must come with the given exit status."""

    def ended(*arguments: Any, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        with start(*arguments, **options) as process:
            out, err = process.communicate(timeout=280)
        assert process.returncode == status, out + err
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


def keep_loaded(monkeypatch: pytest.MonkeyPatch, models: dict[Path, Any]) -> None:
    """Commands that run here are given these, by their folders: loading and compiling them again takes seconds."""
    load = mmjax.load

    def given(path: str | Path, *arguments: Any, **options: Any) -> Any:
        return models.get(Path(path).resolve()) or load(path, *arguments, **options)

    monkeypatch.setattr(mmjax, "load", given)


def wait_for(process: subprocess.Popen[str] | forked.Command, condition: Callable[[], bool]) -> None:
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
