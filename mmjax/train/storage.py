"""What goes wrong with disks and buckets, told in one line, and whether it may be over when it is tried again."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from mmjax.types import TransientError, UserError

SLOW_SECONDS = 30.0  # seconds after which a disk or a bucket that does not answer is told of

# Codes of TensorStore and gRPC, what HTTP and sockets say; nothing that is likely in the path of a checkpoint.
_TRANSIENT = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|timed out|[Cc]onnection (?:reset|refused|closed|aborted|error)"
    r"|Service Unavailable|Too Many Requests|Internal Server Error|Bad Gateway|Gateway Time-?out"
    r"|endpoint is not connected|Stale file handle|No route to host|Network is unreachable"  # of a mounted folder
)

logger = logging.getLogger(__name__)


@contextmanager
def warn_if_slow(path: epath.Path) -> Iterator[None]:
    """Tells once where what is done here takes long."""
    late = threading.Timer(
        SLOW_SECONDS, logger.warning, ("%s: not read after %.0f s; still trying", path, SLOW_SECONDS)
    )
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


@contextmanager
def open_errors(path: epath.Path) -> Iterator[None]:
    """Turns whatever keeps a folder of checkpoints from being opened into one line."""
    try:
        with warn_if_slow(path):
            yield
    except Exception as error:  # of the disk, the network, the bucket's permissions: each has a type of its own
        missing = isinstance(error, ImportError)  # Orbax asks Google's own library what kind of bucket it is
        advice = "; pip install '.[gcs]' brings what a bucket needs" if missing else ""
        kind = TransientError if is_transient(error) else UserError
        raise kind(f"{path}: the checkpoints cannot be opened: {first_line(error)}{advice}") from error


@contextmanager
def write_errors(path: epath.Path) -> Iterator[None]:
    """Turns a failed write, a full disk above all, into one line. What was committed before stays whole."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        advice = "free some space" if "space" in reason.lower() else "mend that"
        raise (TransientError if is_transient(error) else UserError)(
            f"{path}: the checkpoint could not be written ({reason}); {advice} and start again, "
            "training goes on from the last whole checkpoint"
        ) from error


def is_transient(error: BaseException) -> bool:
    """Whether a network, a bucket or another process did not answer, which may be over when it is tried again."""
    return isinstance(error, ConnectionError | TimeoutError) or bool(_TRANSIENT.search(str(error)))


def first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" See full TensorStore details")[0][:1000]
