"""Reading by tf.data: which example comes where, a few batches ahead."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from mmjax.data.decoding import decoded
from mmjax.data.source import Reading, Rows
from mmjax.types import UserError

Tensor = Any  # tf.Tensor and Dataset, unknown here: TensorFlow is imported only where it is used
Dataset = Any

ENDLESS = 2**62


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


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions handed to tf.data: spares them AutoGraph, which takes long to rewrite what needs no rewriting."""
    return tensorflow().autograph.experimental.do_not_convert(function)


def is_mine(position: Tensor, reading: Reading) -> Tensor:
    """Whether this process reads the position."""
    row = position % reading.batch
    return tensorflow().logical_and(row >= reading.first, row < reading.first + reading.rows)


def my_positions(reading: Reading) -> Dataset:
    """The positions that this process reads, int64, in order."""
    tf = tensorflow()
    rows, start = reading.rows, reading.start + reading.first
    positions = tf.data.Dataset.range(ENDLESS).map(as_written(lambda n: start + n // rows * reading.batch + n % rows))
    return positions if reading.stop is None else positions.take_while(as_written(lambda p: p < reading.stop))


def read_records(records: Dataset, picture: Callable[[Any], bytes], reading: Reading, name: str) -> Iterator[Rows]:
    """Batches the records that a process reads, and prepares their pictures.

    A picture that cannot be read becomes zeros with mask False in its place, so that a step's batch follows from
    nothing but the step.

    Args:
        records: dicts of epoch int64, key int64, id string, captions string [n] and picture.
        picture: gives the encoded picture from what the record has as `picture`; called from several threads, may fail.
        name: of the source, for messages.

    Raises:
        UserError: where the records themselves cannot be read.
    """
    tf = tensorflow()
    options = tf.data.Options()
    options.deterministic = True
    counted = records.map(as_written(lambda record: record | {"number": tf.size(record["captions"])}))
    batches = counted.padded_batch(reading.rows).prefetch(1).with_options(options).as_numpy_iterator()
    for batch in decoded(records_of(name, batches), picture, reading):
        texts = zip(batch.pop("captions"), batch.pop("number"), strict=True)
        captions = [[text.decode("utf-8", "replace") for text in row[:number]] for row, number in texts]
        ids = [text.decode("utf-8", "replace") for text in batch.pop("id")]
        yield batch | {"id": ids, "captions": captions}


def records_of(name: str, iterator: Iterator[Any]) -> Iterator[Any]:
    """Passes on what a tf.data iterator gives; where its files cannot be read, a UserError naming the source."""
    cannot_read = tensorflow().errors.OpError
    try:
        yield from iterator
    except cannot_read as error:
        reason = " ".join(str(error.message).split())
        raise UserError(f"data.source {name}: cannot be read: {reason}; is the data set complete?") from error


def shuffled_index(place: Tensor, epoch: Tensor, size: int, seed: int) -> Tensor:
    """The example at a place of an epoch: a permutation of the numbers below `size`, without keeping it in memory."""
    tf = tensorflow()
    seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(place, seeds, np.int64(size - 1))
