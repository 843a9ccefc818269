"""TFRecord files, on a disk or in a bucket, from any record on, by tf.data; and TensorFlow itself."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

from mmjax.types import UserError

AHEAD = 8  # records read ahead of each file


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
    """So many records of a file from the one of number `skip` on, by tf.data, each compared with its checksum.

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
    """What is passed over is not counted on the way."""
    return f"in record {number:,}" if number > skip else f"in record {number:,} or before"


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
