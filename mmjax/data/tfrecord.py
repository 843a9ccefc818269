"""TFRecord files, on a disk or in a bucket, from any record on; and TensorFlow, which reads buckets."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import google_crc32c

from mmjax.types import UserError

AHEAD = 8  # records read ahead of each file
LENGTH, CHECKSUM = 8, 4  # bytes; a record is its length, the checksum of the length, the content, its checksum


@functools.cache
def tensorflow() -> ModuleType:
    """TensorFlow, kept away from the accelerators, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # TensorFlow tells on stderr where it is on; nothing here uses it
    import tensorflow

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # in use already, by whoever imported TensorFlow before
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def read_records(name: str, path: str, skip: int, take: int) -> Iterator[bytes]:
    """So many records of a file from the one of number `skip` on, each compared with its checksum.

    Of those before, only the lengths are read.

    Args:
        name: of the source, for messages.

    Raises:
        UserError: where there are fewer, or they cannot be read.
    """
    number = 0
    of_buckets = [tensorflow().errors.OpError] if "://" in path else []

    def read(count: int) -> bytes:
        content = file.read(count)
        if len(content) < count:
            raise EOFError(f"ends in record {number:,} of {skip + take:,}")
        return content

    try:
        with _open(path) as file:
            while number < skip + take:
                length = int.from_bytes(_checked(read(LENGTH + CHECKSUM), number), "little")
                if number < skip:
                    file.seek(length + CHECKSUM, os.SEEK_CUR)
                else:
                    yield _checked(read(length + CHECKSUM), number)
                number += 1
    except (OSError, EOFError, ValueError, *of_buckets) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(f"data.source {name}: cannot be read: {path}: {reason}; is the data set complete?") from error


def read_ahead(pool: ThreadPoolExecutor, records: Iterator[Any]) -> Iterator[Any]:
    """The same, some of them read by the pool while others are used; the first from now on."""

    def more() -> list[Any]:
        return list(itertools.islice(records, AHEAD))

    def waited_for() -> Iterator[Any]:
        chunk = first
        while some := chunk.result():
            chunk = pool.submit(more)
            yield from some

    first = pool.submit(more)
    return waited_for()


def _open(path: str) -> Any:
    return tensorflow().io.gfile.GFile(path, "rb") if "://" in path else Path(path).open("rb", 0)


def _checked(content: bytes, number: int) -> bytes:
    """What comes before the checksum, if that is right: CRC-32C, turned right by 15 bits, and a constant added."""
    content, checksum = content[:-CHECKSUM], content[-CHECKSUM:]
    crc = google_crc32c.value(content)
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32 != int.from_bytes(checksum, "little"):
        raise ValueError(f"record {number:,} is damaged")
    return content
