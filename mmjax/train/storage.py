"""Errors of disks and buckets: one-line messages, and which of them are transient."""

import errno
import functools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from mmjax import files
from mmjax.types import TransientError, UserError

SLOW_SECONDS = 30.0  # seconds until a slow read is logged

# Codes of TensorStore and gRPC, messages of HTTP and sockets; none is likely in the path of a checkpoint.
_TRANSIENT = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|timed out|[Cc]onnection (?:reset|refused|closed|aborted|error)"
    r"|Service Unavailable|Too Many Requests|Internal Server Error|Bad Gateway|Gateway Time-?out"
    r"|endpoint is not connected|Stale file handle|No route to host|Network is unreachable"  # of a mounted bucket
)

_DENIED = re.compile("PERMISSION_DENIED|Permission denied")  # of TensorStore, of the operating system

logger = logging.getLogger(__name__)


def read_optional(path: epath.Path, read: Callable[[], Any]) -> Any:
    """What a small file beside a state holds; None, with one warning, where it is damaged."""
    try:
        return read()
    except files.UNREADABLE as error:
        if failure(error) is not None:
            raise
        _warn_once("%s: is damaged and left out: %s", path, first_line(error))
        return None


@functools.cache
def _warn_once(*message: Any) -> None:
    logger.warning(*message)


@contextmanager
def warn_if_slow(path: epath.Path) -> Iterator[None]:
    """Logs a warning if the block takes longer than SLOW_SECONDS."""
    late = threading.Timer(
        SLOW_SECONDS, logger.warning, ("%s: not read after %.0f s; still trying", path, SLOW_SECONDS)
    )
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


def check_regular(folder: epath.Path) -> None:
    """Raises ValueError for a file below a folder of a disk of which a read may never end, or fill the memory.

    These are a FIFO, a device or a socket, and huge files of Orbax other than arrays, which it reads as a whole.
    """
    if "://" in str(folder):
        return
    for path in Path(folder).rglob("*"):
        if not files.is_regular(path):
            raise ValueError(f"{path.name} is no regular file")
        if path.name.startswith("_") and path.stat().st_size > files.MAX_INFORMING:
            raise ValueError(f"{path.name} is larger than {files.MAX_INFORMING >> 20} MiB")


def check_writable(path: epath.Path) -> None:
    """Raises UserError where no checkpoint could be saved, by writing there; leaves nothing behind."""
    if "://" not in str(path):
        return files.check_writable(Path(path), folder=True)
    with open_errors(path):
        probe = path / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()


def check_readable(path: epath.Path) -> None:
    """Raises PermissionError for a checkpoint folder on a disk in which Orbax would pass over what it may not read."""
    if "://" in str(path) or not path.exists():
        return
    steps = [path / name for name in os.listdir(path) if name.isdecimal()]
    for folder in (path, *steps, *(step / item for step in steps for item in ("state", "metrics"))):
        if not os.access(folder, os.R_OK | os.X_OK) and os.path.lexists(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@contextmanager
def open_errors(path: epath.Path) -> Iterator[None]:
    """Turns any error of opening a checkpoint folder into a one-line UserError."""
    try:
        with warn_if_slow(path):
            yield
    except Exception as error:  # disk, network, permissions: each has its own type
        missing = isinstance(error, ImportError)  # Orbax asks google-cloud-storage for the kind of bucket
        advice = "; buckets need pip install '.[gcs]'" if missing else ""
        kind = TransientError if is_transient(error) else UserError
        raise kind(f"{path}: the checkpoints cannot be opened: {first_line(error)}{advice}") from error


@contextmanager
def write_errors(path: epath.Path) -> Iterator[None]:
    """Turns a failed write, such as to a full disk, into a one-line UserError. Committed checkpoints are unaffected."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        advice = "free some space" if "space" in reason.lower() else "fix the cause"
        raise (TransientError if is_transient(error) else UserError)(
            f"{path}: the checkpoint could not be written ({reason}); {advice} and start again: "
            "training resumes from the last committed checkpoint"
        ) from error


def is_transient(error: BaseException) -> bool:
    """Whether a network, bucket or process did not respond, so that a retry may succeed."""
    return isinstance(error, ConnectionError | TimeoutError) or bool(_TRANSIENT.search(str(error)))


def failure(error: BaseException) -> int | None:
    """The exit status for an error that is none of the checkpoint itself, so that another one is not the remedy."""
    if is_transient(error):
        return TransientError.status
    denied = isinstance(error, PermissionError) or _DENIED.search(str(error))
    return UserError.status if denied else None


def first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" See full TensorStore details")[0][:1000]
