"""What is used of TensorFlow by several sources."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int64

from mmjax.types import UserError

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


def records_of(name: str, iterator: Iterator[Any]) -> Iterator[Any]:
    """Passes on what a tf.data iterator gives; where its files cannot be read, a UserError naming the source."""
    cannot_read = tensorflow().errors.OpError
    try:
        yield from iterator
    except cannot_read as error:
        reason = " ".join(str(error.message).split())
        raise UserError(f"data.source {name}: cannot be read: {reason}; is the data set complete?") from error


def shuffled_index(places: Int64[np.ndarray, " b"], epoch: int, size: int, seed: int) -> Int64[np.ndarray, " b"]:
    """The examples at places of an epoch, of a permutation of the numbers below `size` that is nowhere in memory."""
    tf = tensorflow()
    return tf.random.experimental.index_shuffle(places, np.array([seed, epoch]), np.int64(size - 1)).numpy()
