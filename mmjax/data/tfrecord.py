"""Reads TFRecord files on a disk or in a bucket with tf.data."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

from mmjax.types import UserError

AHEAD = 8  # records of a stream read at a time


@functools.cache
def tensorflow() -> ModuleType:
    """Imports TensorFlow without accelerators, which JAX uses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # avoids a log line
    import tensorflow

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # already initialized
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def read_records(name: str, path: str, skip: int, take: int) -> Iterator[bytes]:
    """Reads `take` records of a file after the first `skip`, and verifies their checksums.

    Args:
        name: of the source, for messages.

    Raises:
        UserError: where there are fewer, or they cannot be read.
    """
    tf, number, reason = tensorflow(), skip, ""
    try:
        for record in tf.data.TFRecordDataset(path).skip(skip).take(take).as_numpy_iterator():
            yield record
            number += 1
    except tf.errors.OpError as error:
        reason = " ".join(str(error).split())
    if number < skip + take:
        raise UserError(
            f"data.source {name}: cannot be read: {path}: ends or is damaged {_where(number, skip)}"
            f"{reason and f' ({reason})'}; is the data set complete?"
        )


def _where(number: int, skip: int) -> str:
    """Describes where reading ended; skipped records are not counted."""
    return f"in record {number:,}" if number > skip else f"in record {number:,} or before"


def read_ahead(pool: ThreadPoolExecutor, records: Iterator[Any]) -> Iterator[Any]:
    """Iterates over records that the pool reads AHEAD at a time, starting immediately."""

    def read() -> list[Any]:
        return list(itertools.islice(records, AHEAD))

    def results() -> Iterator[Any]:
        chunk = first
        while part := chunk.result():
            chunk = pool.submit(read)
            yield from part

    first = pool.submit(read)
    return results()
