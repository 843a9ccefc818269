"""Locks held by another process, left behind by one that was killed, and on a file system without locks."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmjax.lock import locked
from mmjax.types import UserError

HOLD = """
import sys
from pathlib import Path
from mmjax.lock import locked
with locked(Path(sys.argv[1]), "x: is in use"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with holding(path) as process:
        for _ in range(2):  # trying does not lose who holds it
            with pytest.raises(UserError) as error, locked(path, "x: is in use"):
                pass
            assert str(error.value).startswith(f"x: is in use by process {process.pid} on {platform.node()} since ")
            assert "\n" not in str(error.value)
        process.communicate(timeout=10)  # its input ends
    assert not path.exists()
    with locked(path, "x"):
        pass


def test_waits_for_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holding(path) as process:
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()  # its input ends
        with locked(path, "x: is in use", wait=60.0):
            assert process.stdin.closed


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holding(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert path.exists()
        with locked(path, "x"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_one_use_at_a_time_in_a_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "x"):
        for _ in range(2):
            with pytest.raises(UserError, match=f"x by process {os.getpid()} on "), locked(path, "x"):
                pass
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"no JSON", b"7" * 1000, b'{"pid": 4194305, "host": "x", "since": "x"}'])
def test_a_file_that_is_left_is_taken_over(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    with locked(path, "x"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(file: Any, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "lock", "x"):
        (tmp_path / "written").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["written"]
    (record,) = caplog.records
    assert record.levelname == "WARNING" and str(tmp_path) in record.getMessage()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "lock"
    with pytest.raises(UserError, match=f"^{path}: cannot be written: ") as error, locked(path, "x"):
        pass
    assert "\n" not in str(error.value)
