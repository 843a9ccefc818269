"""One process at a time: a lock file that names its holder, and is free again when the holder is gone."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from mmjax.types import UserError


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock while the block runs; makes its folder.

    The lock ends with the process that holds it, however that ends. A lock file of another host is taken over only
    where the file system carries locks between hosts and the holder's is gone.

    Args:
        what: is being done to which folder, for the message.

    Raises:
        UserError: where another process holds it, naming that process, or where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _acquired(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    if file is None:
        raise UserError(f"{what} by {_holder(path)}; wait for it, or stop it and start again")
    with os.fdopen(file, "wb", 0) as holding:  # what is not written yet would be tried again at the end
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            told = {"pid": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
            holding.truncate()
            holding.write(json.dumps(told).encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _acquired(path: Path) -> int | None:
    """The open file that holds the lock; None where another process does."""
    import fcntl

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_ino == path.stat().st_ino:  # else its holder has just removed it
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(file)
            return None
        os.close(file)


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_bytes())
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
