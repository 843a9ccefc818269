"""A lock file that keeps other processes out of a folder."""

import contextlib
import json
import logging
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from mmjax.types import UserError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Holds a lock while the block runs; makes the lock file's folder.

    The lock is released when the process that holds it ends, however it ends. On a file system without locks it is
    not taken, with a warning.

    Args:
        path: of the lock file, which is removed on release.
        what: is being done to which folder, for the message.
        wait: seconds to wait for another process.

    Raises:
        UserError: where another process holds the lock, naming that process, or the file cannot be written.
    """
    from filelock import FileLock, Timeout

    # A soft lock, filelock's fallback, would outlive a process that crashed on another host.
    lock = FileLock(path, timeout=wait, fallback_to_soft=False, on_acquired=_write_holder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{what} by {_holder(path)}; wait for it, or stop it and start again") from error
    except OSError as error:
        if error.filename is not None:  # else it is of flock: file systems differ in how they tell that they have none
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
        logger.warning("%s: this file system has no locks; use the folder from one process at a time", path.parent)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _write_holder(file: int) -> None:
    holder = {"pid": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
        os.truncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
