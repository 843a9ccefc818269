"""Reading TFRecord files, on a disk or in a bucket, by tf.data."""

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
    """TensorFlow, without access to the accelerators, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # not used here, and TensorFlow logs where it is on
    import tensorflow

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # in use already, by whatever imported TensorFlow before
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def read_records(name: str, path: str, skip: int, take: int) -> Iterator[bytes]:
    """`take` records of a file after the first `skip`, each compared with its checksum.

    Args:
        name: of the source, for messages.
        path: on a disk or in a bucket.

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
    """Where reading ended; skipped records are not counted on the way."""
    return f"in record {number:,}" if number > skip else f"in record {number:,} or before"


def read_ahead(pool: ThreadPoolExecutor, records: Iterator[Any]) -> Iterator[Any]:
    """Iterates over the records, AHEAD at a time in the pool; the first ones are read at once."""

    def read() -> list[Any]:
        return list(itertools.islice(records, AHEAD))

    def results() -> Iterator[Any]:
        chunk = first
        while found := chunk.result():
            chunk = pool.submit(read)
            yield from found

    first = pool.submit(read)
    return results()
