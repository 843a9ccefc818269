"""The order in which files are streamed that have no random access, as a closed form, so that reading resumes anywhere.

Position p of the epochs' examples belongs to stream p % STREAMS. In each epoch the files are put one after the other in
an order of their own and cut into equal parts, one per stream. A stream reads its part from beginning to end, shuffled
by a buffer. All of this follows from (seed, epoch), so which example a position holds depends neither on the batch
size nor on the number of processes.

A global batch holds its positions stream by stream. Where STREAMS is a multiple of the number of processes, and of
batch size and STREAMS one is a multiple of the other, each process reads the parts of its own streams only, except for
the batch in which an epoch ends: that holds the rest of the epoch first.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from mmjax.data.source import ReadSpec

STREAMS = 8

FileSlice = tuple[int, int, int]  # index of a file, first record, number of records


def stream_positions(spec: ReadSpec, size: int) -> Iterator[Int64[np.ndarray, " rows"]]:
    """The positions that a process reads, with those of each global batch ordered by epoch and stream."""
    for positions, own in spec.shards():
        yield positions[np.lexsort((positions, positions % STREAMS, positions // size))][own]


def first_position(size: int, epoch: int, stream: int) -> int:
    """The stream's first position in an epoch; the next ones follow STREAMS apart."""
    return epoch * size + (stream - epoch * size) % STREAMS


def stream_length(size: int, epoch: int, stream: int) -> int:
    """The number of the stream's positions in an epoch."""
    return max(-(-((epoch + 1) * size - first_position(size, epoch, stream)) // STREAMS), 0)


def stream_slices(lengths: Sequence[int], spec: ReadSpec, epoch: int, stream: int) -> list[FileSlice]:
    """The file slices that a stream reads in an epoch, in order.

    Args:
        lengths: number of records in each file.
    """
    size = sum(lengths)
    files = np.arange(len(lengths))
    if spec.training:
        files = np.random.default_rng((spec.seed, epoch)).permutation(files)
    start = sum(stream_length(size, epoch, before) for before in range(stream))
    return slice_files(lengths, files.tolist(), start, start + stream_length(size, epoch, stream))


def slice_files(lengths: Sequence[int], files: Iterable[int], start: int, stop: int) -> list[FileSlice]:
    """The slices that hold the records [start, stop) of the files, one after the other in the given order."""
    slices, begin = [], 0
    for file in files:
        first, last = max(start - begin, 0), min(stop - begin, lengths[file])
        if first < last:
            slices.append((file, first, last - first))
        begin += lengths[file]
    return slices


def stream_order(length: int, buffer: int, spec: ReadSpec, epoch: int, stream: int) -> Int64[np.ndarray, " length"]:
    """Which record of its part a stream gives at each place.

    In training, each record is delayed by a random number of places below `buffer`, and the records are sorted by that:
    none moves by more than `buffer` places, and fewer than `buffer` are held in memory.
    """
    order = np.arange(length)
    if not spec.training:
        return order
    # The last number keeps these draws apart from those of the files' order.
    delay = np.random.default_rng((spec.seed, epoch, stream, 2)).random(length)
    return np.argsort(order + buffer * delay, kind="stable")
