"""Folders that cannot be written are told before the first step, and a save that fails ends the command at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from messages import error_message
from runs import Mistake, environment
from special_files import make_device, make_fifo

from mmjax.files import check_writable, write_file

CONFIG = "--config=configs/quickstart.py:tiny"


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_checkpoints_that_cannot_be_written_are_told_before_the_first_stage(
    where: str, tmp_path: Path, mistake: Mistake
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / where
    line = mistake("train", CONFIG, f"--config.train.checkpoints={place}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{place}: ")
    assert not (tmp_path / "run").exists()


def test_checkpoints_without_permission(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    place.mkdir(mode=0o555)
    command = [sys.executable, "-m", "mmjax", "train", CONFIG, f"--config.train.checkpoints={place}"]
    if not os.geteuid():  # who may write everywhere
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    command.append(f"--workdir={tmp_path / 'run'}")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith(f"mmjax: {place}: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("make", [make_fifo, make_device])
def test_a_device_or_a_pipe_is_never_replaced_by_a_file(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[Any] = []
    monkeypatch.setattr(Path, "replace", lambda self, target: replaced.append(target))
    make(tmp_path / "out.png")
    for write in (lambda path: write_file(path, b"1"), check_writable):
        told = error_message(write, tmp_path / "out.png")
        assert told.startswith(f"{tmp_path / 'out.png'}: ") and "regular file" in told
    assert not replaced and not list(tmp_path.glob(".*"))


WAITING = """
import sys, threading, time
from mmjax import cli
from mmjax.types import UserError

def fail(argv):
    threading.Thread(target=time.sleep, args=(300,)).start()
    raise UserError("the checkpoint could not be written")

cli._run, sys.argv[1:] = fail, ["train"]
sys.exit(cli.main())
"""


def test_a_command_that_fails_waits_for_no_thread() -> None:
    """As Orbax leaves one behind after a save that failed."""
    command = [sys.executable, "-c", WAITING]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (2, "mmjax: the checkpoint could not be written\n")
