"""The order in which files are read that can only be read from their beginning: computed, so that it resumes anywhere.

The positions of the stream of epochs are dealt to STREAMS streams in turn: position p is the stream p % STREAMS's. For
each epoch the files are put in an order, one behind the other, and cut into as many equal parts, one a stream. A stream
reads its part from beginning to end, and gives the records a little sooner or later than they lie there. All of it
follows from (seed, epoch); which number of processes reads how large batches does not change which position holds what.

A global batch holds its positions stream by stream. Where STREAMS is a multiple of the processes, and the batch and
STREAMS are one a multiple of the other, each process so reads the parts of its own streams alone, but for the batch in
which an epoch ends: that holds what is left of it first.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from mmjax.data.source import ReadSpec

STREAMS = 8

Part = tuple[int, int, int]  # number of a file, its first record, how many records


def stream_positions(spec: ReadSpec, size: int) -> Iterator[Int64[np.ndarray, " rows"]]:
    """The positions of a ReadSpec, where global batches hold those of an epoch stream by stream."""
    for positions, own in spec.shards():
        yield positions[np.lexsort((positions, positions % STREAMS, positions // size))][own]


def first_position(size: int, epoch: int, stream: int) -> int:
    """The first position of an epoch that is the stream's; the next ones follow STREAMS apart."""
    return epoch * size + (stream - epoch * size) % STREAMS


def stream_length(size: int, epoch: int, stream: int) -> int:
    """How many positions of an epoch are the stream's."""
    return max(-(-((epoch + 1) * size - first_position(size, epoch, stream)) // STREAMS), 0)


def stream_parts(lengths: Sequence[int], spec: ReadSpec, epoch: int, stream: int) -> list[Part]:
    """What a stream reads in an epoch, one behind the other.

    Args:
        lengths: records in each file.
    """
    size = sum(lengths)
    files = np.arange(len(lengths))
    if spec.training:
        files = np.random.default_rng((spec.seed, epoch)).permutation(files)
    start = sum(stream_length(size, epoch, before) for before in range(stream))
    return cut(lengths, files.tolist(), start, start + stream_length(size, epoch, stream))


def cut(lengths: Sequence[int], files: Iterable[int], start: int, stop: int) -> list[Part]:
    """The records from one on to before another, where the files lie one behind the other in the order given."""
    parts, begin = [], 0
    for file in files:
        first, last = max(start - begin, 0), min(stop - begin, lengths[file])
        if first < last:
            parts.append((file, first, last - first))
        begin += lengths[file]
    return parts


def stream_order(length: int, buffer: int, spec: ReadSpec, epoch: int, stream: int) -> Int64[np.ndarray, " length"]:
    """Which record of its part a stream gives at each place.

    In training each record is drawn a place up to `buffer` behind its own, and they are given in the order of these
    places: none comes more than `buffer` places sooner or later than it lies, and fewer than `buffer` are ever held.
    """
    lying = np.arange(length)
    if not spec.training:
        return lying
    # The last number keeps these draws apart from those of the files' order.
    later = np.random.default_rng((spec.seed, epoch, stream, 2)).random(length)
    return np.argsort(lying + buffer * later, kind="stable")
